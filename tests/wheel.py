"""A small world for tests of the whole wheel: real digits with everything that goes wrong with images among them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import sqlalchemy as sa

from everlearn.catalog import samples, snapshots
from everlearn.catalog.tables import answer, sample
from everlearn.cli.main import run as command
from everlearn.config import Config
from everlearn.image import encode_jpeg, encode_png
from everlearn.workspace import Workspace

DATA_GATES = {"quality": None, "label_accuracy": None, "diversity": None, "class_balance": None}
DATA = ("new_data/collected", "new_data/validated", "new_data/quarantined", "new_data/augmented")


@dataclass(frozen=True)
class File:
    """An image file of a source: folder (its label) and name, and bytes."""

    label: str
    name: str
    data: bytes

    @property
    def id(self) -> str:
        return hashlib.sha256(self.data).hexdigest()[:32]


@lru_cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """(1797, 8, 8) scans of real handwriting, 0-16, and what they show."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images, found.target


@lru_cache
def good(classes: tuple[str, ...] = ("0", "1", "2"), each: int = 14, side: int = 32) -> tuple[File, ...]:
    """Fit images of these digits, as PNG files with the label for their folder."""
    images, targets = digits()
    files = []
    for name in classes:
        for number, row in enumerate(np.flatnonzero(targets == int(name))[:each]):
            grey = cv2.resize(images[row].astype(np.float32) * (255 / 16), (side, side), interpolation=cv2.INTER_CUBIC)
            pixels = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
            files.append(File(name, f"digit_{number:04}.png", encode_png(pixels)))
    return tuple(files)


@lru_cache
def world(classes: tuple[str, ...] = ("0", "1", "2"), each: int = 14) -> tuple[File, ...]:
    """Fit images, and with them exact and near duplicates, bad images, wrong and contradicting labels."""
    fit = good(classes, each)
    rest: list[File] = []
    for at, one in enumerate(fit):
        pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(one.data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        other = classes[(classes.index(one.label) + 1) % len(classes)]
        if at % 5 == 0:
            rest.append(replace(one, name=f"copy_of_{at}.png"))
        if at % 4 == 1:
            rest.append(File(one.label, f"near_{at}.jpg", encode_jpeg(pixels, 92)))
        if at % 8 == 1:
            rest.append(File(one.label, f"nearer_{at}.jpg", encode_jpeg(pixels, 80)))
        if at % 12 == 9:  # a near duplicate that says something else
            rest.append(File(other, f"near_but_{at}.jpg", encode_jpeg(pixels, 88)))
        if at % 11 == 2:
            rest.append(replace(one, label=other, name=f"says_otherwise_{at}.png"))
        if at % 9 == 3:
            rest.append(File(one.label, f"blurred_{at}.png", encode_png(cv2.GaussianBlur(pixels, (0, 0), 9))))
    images, targets = digits()
    for number, name in enumerate(classes):  # wrong labels, sure to be found
        for row in np.flatnonzero(targets == int(name))[each : each + 2]:
            grey = cv2.resize(images[row].astype(np.float32) * (255 / 16), (32, 32), interpolation=cv2.INTER_CUBIC)
            pixels = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
            rest.append(File(classes[number - 1], f"wrong_{name}_{row}.png", encode_png(pixels)))
    rest.append(File(classes[0], "black.png", encode_png(np.zeros((32, 32, 3), np.uint8))))
    rest.append(File(classes[0], "broken.png", fit[0].data[:90]))
    rest.append(File(classes[1], "tiny.png", encode_png(np.full((4, 4, 3), 90, np.uint8))))
    return (*fit, *rest)


def write(folder: Path, files: Iterable[File]) -> Path:
    """folder/LABEL/NAME."""
    for one in files:
        path = folder / one.label / one.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.data)
    return folder


def make(root: Path, **settings: Any) -> Workspace:
    """A workspace with narrow features, so that it learns in no time; data gates are off."""
    given = {"learn": {"dimensions": 64}, "gates": {**DATA_GATES, "accuracy": 0.3, "precision": None, "recall": None,
                                                    "f1": None}}  # fmt: skip
    return Workspace.create(root, Config.model_validate({**given, **settings}))


@dataclass
class Done:
    """What a command did. values: of --json; said: on stderr."""

    code: int
    values: dict[str, Any]
    said: str


def run(root: Path, *words: object) -> Done:
    """A command through the command line, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = command(["-w", str(root), "--json", *map(str, words)])
    lines = out.getvalue().strip().splitlines()
    return Done(code, json.loads(lines[-1]) if lines else {}, err.getvalue())


def turn(root: Path, source: Path, *words: object) -> Done:
    return run(root, "run", source, "--labels-from", "folder", *words)


def learned(workspace: Workspace) -> tuple[Any, Any]:
    """(memory digest, model digest) of the newest version."""
    found = run(workspace.root, "models").values["models"]
    last = [one for one in found if not one.get("retired")][-1]
    return last["memory_digest"], last["model_digest"]


def standing(workspace: Workspace) -> dict[str, tuple[Any, ...]]:
    """How every sample stands, by id: all that must not depend on the order."""
    with workspace.catalog.read() as tx:
        return {
            one.id: (one.status if one.status != "learned" else "labelled", one.label, one.label_by, one.refusal,
                     one.twin_of, one.suspect, one.queued, one.group_key, one.camera)
            for batch in samples.batches(tx) for one in batch
        }  # fmt: skip


def members(workspace: Workspace) -> list[Any]:
    with workspace.catalog.read() as tx:
        newest = snapshots.latest(tx)
        return list(snapshots.members(tx, newest.number)) if newest else []


def assert_in_step(workspace: Workspace, ids: Sequence[str] = ()) -> None:
    """Folders and catalog agree: each row has its file with its content, no file is without a row, nothing unfinished
    lies about. ids: samples that must be there."""
    with workspace.catalog.read() as tx:
        rows = {one.key: one.id for batch in samples.batches(tx) for one in batch}
        answered = set(tx.execute(sa.select(answer.c.key).where(answer.c.key.is_not(None))).scalars())
        statuses = dict(tx.execute(sa.select(sample.c.id, sample.c.status)).all())
        keys = {row.key: row.id for row in tx.execute(sa.select(sample.c.key, sample.c.id))}
    assert rows == keys
    files = {key for folder in DATA for key in workspace.store.keys(folder) if not key.endswith("preview.png")}
    assert files == set(rows) | answered
    for key, id in rows.items():
        assert hashlib.sha256((workspace.root / key).read_bytes()).hexdigest()[:32] == id
        where = key.split("/")[1]
        assert (where == "quarantined") == (statuses[id] == "quarantined")
        assert (where == "collected") == (statuses[id] == "new")
    hidden = {path.name for path in workspace.root.rglob(".*")} - {".everlearn", ".gitkeep"}
    assert not hidden and not list((workspace.root / ".everlearn").glob("scratch-*"))
    assert set(ids) <= set(rows.values())

"""Killed anywhere while collecting or validating: nothing is lost, and running again gives the same snapshot."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from everlearn.catalog import samples
from everlearn.workspace import Workspace
from tests.child import KILLED, everlearn, read_only, start
from tests.cli.command import Everlearn, folders, picture, pixels

SETTINGS = "learn: {dimensions: 32}\nvalidate: {hold_suspects: false}\n"
DATA = ("collected", "validated", "quarantined", "augmented")

COLLECT = [
    "collect.stored:1", "collect.stored:7", "store.temp_written:3", "store.renamed:6", "collect.before_commit:1",
    "collect.before_commit:3", "files.before_commit:2", "files.committed:1", "collect.committed:1",
    "collect.committed:3",
]  # fmt: skip
VALIDATE = [
    "files.copied:1", "files.copied:9", "files.before_commit:1", "files.before_commit:3", "files.committed:2",
    "files.removed:1", "files.removed:6", "validate.committed:1", "validate.committed:3",
]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes; the same image twice, a near duplicate, a contradiction, one blurred, one broken."""
    root = folders(tmp_path_factory.mktemp("photos"), "ab", 5)
    shutil.copy(root / "a" / "0.png", root / "a" / "again.png")
    shutil.copy(root / "a" / "1.png", root / "b" / "contradiction.png")
    brighter = np.clip(pixels(2).astype(int) + 6, 0, 255).astype(np.uint8)
    cv2.imwrite(str(root / "a" / "near.png"), brighter)
    cv2.imwrite(str(root / "a" / "blurred.png"), cv2.GaussianBlur(pixels(1, 96, 3), (0, 0), 20))
    (root / "b" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return root


@pytest.fixture(scope="module")
def undisturbed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return finish(made(tmp_path_factory.mktemp("undisturbed")), photos)


def made(folder: Path) -> Everlearn:
    return Everlearn(folder / "workspace").init(settings=SETTINGS)


def finish(ever: Everlearn, photos: Path, *, doctor_first: bool = False) -> dict[str, Any]:
    """Run everything (again); what there is in the end."""
    if doctor_first:
        assert ever("doctor", "--deep")["lost"] == []
    ever("collect", photos, "--labels-from", "folder")
    ever("validate")
    digest = ever.snapshot()
    assert ever("doctor", "--deep")["lost"] == []
    assert ever("doctor", "--deep")["mended"] == []
    opened = Workspace.open(ever.workspace)
    with opened.catalog.read() as tx:
        rows = {one.key: one for batch in samples.batches(tx) for one in batch}
    opened.catalog.close()
    folders = [ever.workspace / "new_data" / name for name in DATA]
    files = {f"new_data/{folder.name}/{path.name}" for folder in folders for path in folder.iterdir()}
    assert files == set(rows), "folders and catalog agree"
    return {"snapshot": digest, "stand": {one.id: (one.status, one.label, one.refusal) for one in rows.values()}}


@pytest.mark.parametrize("fault", COLLECT)
def test_killed_while_collecting(tmp_path: Path, photos: Path, undisturbed: dict[str, Any], fault: str) -> None:
    ever = made(tmp_path)
    words = ("-w", ever.workspace, "collect", photos, "--labels-from", "folder")
    assert everlearn(tmp_path, *words, fault=fault)[0] == KILLED
    assert finish(ever, photos, doctor_first=COLLECT.index(fault) % 2 == 0) == undisturbed


@pytest.mark.parametrize("fault", VALIDATE)
def test_killed_while_validating(tmp_path: Path, photos: Path, undisturbed: dict[str, Any], fault: str) -> None:
    ever = made(tmp_path)
    ever("collect", photos, "--labels-from", "folder")
    assert everlearn(tmp_path, "-w", ever.workspace, "validate", fault=fault)[0] == KILLED
    assert finish(ever, photos, doctor_first=VALIDATE.index(fault) % 2 == 0) == undisturbed


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment(tmp_path: Path, photos: Path, undisturbed: dict[str, Any], seed: int) -> None:
    ever = made(tmp_path)
    dice = random.Random(seed)
    for words in (("collect", photos, "--labels-from", "folder"), ("validate",)) * 2:
        process = start(tmp_path / "said.json", "-w", ever.workspace, *words)
        time.sleep(dice.uniform(0.02, 0.5))
        process.kill()
        process.join()
    assert finish(ever, photos, doctor_first=bool(seed % 2)) == undisturbed


@pytest.mark.parametrize("place", ["collect.stored", "collect.before_commit", "collect.committed"])
def test_interrupted(tmp_path: Path, photos: Path, undisturbed: dict[str, Any], place: str) -> None:
    ever = made(tmp_path)
    words = ("-w", ever.workspace, "collect", photos, "--labels-from", "folder")
    code, said = everlearn(tmp_path, *words, interrupt=place)
    assert code == 130
    assert said["error"]["code"] == "interrupted"
    assert finish(ever, photos) == undisturbed


def test_two_at_once(tmp_path: Path, photos: Path, undisturbed: dict[str, Any]) -> None:
    """They wait for each other; what comes of it is whole."""
    ever = made(tmp_path)
    both = [
        start(tmp_path / f"{n}.json", "-w", ever.workspace, "collect", *places, "--labels-from", "folder")
        for n, places in enumerate([[photos], [photos / "a", photos / "b", photos]])
    ]
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    assert finish(ever, photos) == undisturbed


def test_a_full_disk_is_said_in_one_line(tmp_path: Path, undisturbed: dict[str, Any], photos: Path) -> None:
    """As a limit on the size of a file: an image that does not fit, and a catalog that cannot grow."""
    ever = made(tmp_path)
    large = picture(tmp_path / "large" / "a" / "large.bmp", 9, 400)
    for what, limit in ((large.parent.parent, 200_000), (photos, 4096)):
        words = ("-w", ever.workspace, "collect", what, "--labels-from", "folder")
        code, said = everlearn(tmp_path, *words, file_limit=limit)
        assert code == 2, said
        assert said["error"]["code"] == "store"
        assert said["error"]["remedy"]
        assert "Traceback" not in (tmp_path / "said.err").read_text()
    assert finish(ever, photos) == undisturbed


@pytest.mark.parametrize("words", [("collect", "PHOTOS"), ("validate",), ("label", "ID", "x")])
def test_a_read_only_workspace_is_said_in_one_line(
    tmp_path: Path, photos: Path, undisturbed: dict[str, Any], words: tuple[str, ...]
) -> None:
    ever = made(tmp_path)
    ever("collect", photos / "a" / "0.png")
    (id,) = [one["sample"] for one in ever("data", "--status", "new")["samples"]]
    given = [{"PHOTOS": str(photos), "ID": id}.get(word, word) for word in words]
    with read_only(ever.workspace):
        code, said = everlearn(tmp_path, "-w", ever.workspace, *given, powerless=True)
    assert code == 2, said
    assert said["error"]["code"] == "store"
    assert str(ever.workspace) in said["error"]["message"]
    assert "Traceback" not in (tmp_path / "said.err").read_text()
    assert finish(ever, photos) == undisturbed


def test_the_workspace_is_never_collected_into_itself(tmp_path: Path, photos: Path) -> None:
    ever = made(tmp_path)
    shutil.copytree(photos, tmp_path / "mine")
    first = ever("collect", tmp_path, "--labels-from", "none")
    again = ever("collect", tmp_path, "--labels-from", "none")
    assert (again["collected"], again["duplicates"]) == (0, first["collected"] + first["duplicates"])

"""The snapshot is a function of the set of files and of what was said of them: never of what came first."""

from __future__ import annotations

import os
import random
import shutil
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from tests.cli.command import Everlearn, ever, folders, picture, pixels

__all__ = ["ever"]

NOON = datetime(2025, 7, 4, 12).timestamp()


def _file(path: Path, seed: int, brighter: int = 0, quality: int = 0, exif: str = "", age: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = np.clip(pixels(seed).astype(int) + brighter, 0, 255).astype(np.uint8)
    if quality or exif:
        about = Pillow.Exif()
        if exif:
            about[0x0132] = exif
        Pillow.fromarray(shown).save(path, "JPEG", quality=quality or 95, exif=about.tobytes())
    else:
        assert cv2.imwrite(str(path), shown)
    os.utime(path, (NOON + age, NOON + age))
    return path


def _offers(root: Path) -> list[list[str]]:
    """What is collected: the words of one command each. Everything that could tell who came first is in it."""
    offers = []
    for n in range(12):  # plain images of three classes
        path = _file(root / f"plain{n}" / "abc"[n % 3] / f"{n}.png", n)
        offers.append([str(path.parent.parent), "--labels-from", "folder"])
    for n in range(4):  # the same bytes under other names, with other times, cameras and groups
        for k, name in enumerate(["x.png", "IMG_20250704_133022.png", "IMG_20250101_000000.png"]):
            path = _file(root / f"again{n}{k}" / "abc"[n % 3] / name, 100 + n, age=k * 1e4)
            offers.append([str(path.parent.parent), "--labels-from", "folder"])
            offers.append([str(path), "--labels-from", "none", "--camera", f"door{(n + k) % 2}"])
        offers.append([str(root / f"again{n}1" / "abc"[n % 3]), "--label", "abc"[n % 3], "--group", f"visit {n % 2}"])
    for n in range(3):  # contradictions
        for label in "ab":
            path = _file(root / f"conflict{n}{label}" / label / f"{n}.png", 200 + n)
            offers.append([str(path.parent.parent), "--labels-from", "folder"])
    for n in range(4):  # near duplicates, some of them of another class, some unlabelled
        for k in range(3):
            path = _file(root / f"near{n}{k}" / "abc"[(n + (k == 2)) % 3] / f"{k}.jpg", 300 + n, 6 * k, 95 - 5 * k)
            by = "none" if k == 1 else "folder"
            offers.append([str(path.parent.parent), "--labels-from", by])
    for n in range(4):  # one burst of one camera
        path = _file(root / f"burst{n}" / "a" / f"{n}.jpg", 400 + n, exif=f"2025:07:04 13:3{n}:22")
        offers.append([str(path.parent.parent), "--labels-from", "folder", "--camera", "door"])
    return offers


@pytest.fixture(scope="module")
def offers(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    return _offers(tmp_path_factory.mktemp("offers"))


def _rows(ever: Everlearn) -> dict[str, tuple[object, ...]]:
    from everlearn.catalog import samples
    from everlearn.workspace import Workspace

    with Workspace.open(ever.workspace).catalog.read() as tx:
        rows = [one for batch in samples.batches(tx) for one in batch]
    return {
        o.id: (o.camera, o.group_key, o.captured_at, o.time_from, o.label, o.label_by, o.status, o.refusal, o.twin_of,
               o.queue_reason, o.suspect, o.urgency)
        for o in rows
    }  # fmt: skip


@pytest.fixture(scope="module")
def at_once(
    offers: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, tuple[object, ...]], str]:
    """What comes of all offers, collected in their own order and judged once."""
    once = Everlearn(tmp_path_factory.mktemp("once") / "workspace").init(settings=SETTINGS)
    for words in offers:
        once("collect", *words)
    once("validate")
    return _rows(once), once.snapshot()


@pytest.mark.parametrize("seed", range(2))
def test_any_order_in_any_portions(
    ever: Everlearn, offers: list[list[str]], at_once: tuple[dict[str, tuple[object, ...]], str], seed: int
) -> None:
    dice = random.Random(seed)
    mixed = dice.sample(offers, len(offers))
    ever.init(settings=SETTINGS)
    for n, words in enumerate(mixed):
        ever("collect", *words)
        if dice.random() < 0.15:
            ever("validate")
            if n % 3 == 0:
                ever("dataset", "build", code=None)
    ever("validate")
    assert (_rows(ever), ever.snapshot()) == at_once
    assert sum(ever("data")["counts"].values()) == 12 + 4 + 3 + 12 + 4


SETTINGS = "learn: {dimensions: 32}\nvalidate: {suspect_confidence: 0.3}\n"


def test_copies_of_a_sample_do_not_change_what_is_suspect(ever: Everlearn, tmp_path: Path) -> None:
    """Augmented copies stand or fall with their parents, and which there are depends on what was held when."""
    folders(tmp_path / "one", "ab", 8)
    folders(tmp_path / "two", "ab", 8, first=50)
    wrong = tmp_path / "two" / "a" / "wrong.png"
    shutil.copy(tmp_path / "one" / "b" / "0.png", wrong)
    once = Everlearn(tmp_path / "once").init(settings=SETTINGS)
    for each in (ever.init(settings=SETTINGS), once):
        for part in ("one", "two"):
            each("collect", tmp_path / part, "--labels-from", "folder")
            if each is ever:
                each("validate")
                each("augment", "--copies", 1)
        each("validate")
        each("augment", "--copies", 1)
    assert ever.snapshot() == once.snapshot()


def test_a_copy_collected_as_an_image_stays_a_copy(ever: Everlearn, tmp_path: Path) -> None:
    ever.init()
    ever("collect", folders(tmp_path / "images", "ab", 6), "--labels-from", "folder")
    ever("validate")
    assert ever("augment", "--copies", 1)["augmented"] > 0
    before, rows = ever.snapshot(), _rows(ever)
    out = tmp_path / "copies" / "b"
    out.mkdir(parents=True)
    for path in (ever.workspace / "new_data" / "augmented").glob("*_*.*"):
        shutil.copy(path, out)
    said = ever("collect", out.parent, "--labels-from", "folder", "--camera", "elsewhere", "--group", "one")
    assert said["collected"] == 0
    ever("validate")
    assert _rows(ever) == rows
    assert ever.snapshot() == before


def test_a_file_that_was_seen_is_told_more_of(ever: Everlearn, tmp_path: Path) -> None:
    """Unchanged files are not read again, unless something new is said of them."""
    picture(tmp_path / "photos" / "1.png", 1)
    ever.init()
    ever("collect", tmp_path / "photos")
    (first,) = _rows(ever).values()
    assert first[0] == "unknown"
    for camera in ("door", "yard", "door"):
        ever("collect", tmp_path / "photos", "--camera", camera)
    ever("collect", tmp_path / "photos")
    (last,) = _rows(ever).values()
    assert last[0] == "door"


def test_what_a_person_took_back_stays_back(ever: Everlearn, tmp_path: Path) -> None:
    """Collecting the same folder again does not say the label again."""
    folders(tmp_path / "images", "a", 1)
    ever.init()
    ever("collect", tmp_path / "images", "--labels-from", "folder")
    ever("validate")
    (one,) = ever("data", "--status", "labelled")["samples"]
    assert ever("label", "--undo", one["sample"])["label"] is None
    ever("collect", tmp_path / "images", "--labels-from", "folder")
    assert ever("data")["counts"]["validated"] == 1

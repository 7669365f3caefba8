"""A folder that Ultralytics YOLO trains on, from what the catalog holds: pictures by link, boxes as texts.

    images/{train,val,test}/ID.jpg      labels/{train,val,test}/ID.txt      data.yaml

A line of a text is `class x y width height`, centre and size as shares of the image's sides; an empty text says that
there is nothing. https://docs.ultralytics.com/datasets/detect/

`write` is called again and again with other boxes, other images, or after it was killed: what is there already stays,
what does not belong there goes.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from everlearn.catalog import samples
from everlearn.catalog.scenes import STEPS
from everlearn.errors import BadInput, Missing, StoreFault
from everlearn.naming import coarse
from everlearn.store import LocalStore
from everlearn.types import SPLITS, Box, SampleId, Split

if TYPE_CHECKING:
    from everlearn.workspace import Workspace

SIDE_NAMES: dict[Split, str] = {"train": "train", "validation": "val", "test": "test"}
YAML = "data.yaml"
_READERS = 8
_NO_LINKS = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP)


def write(
    workspace: Workspace,
    folder: Path,
    sides: Mapping[Split, Sequence[tuple[SampleId, Sequence[Box]]]],
    classes: Sequence[str],
) -> Path:
    """Bring `folder` to hold exactly these images with these boxes; returns its data.yaml. classes: as they are
    numbered; a box of a finer label (`person/courier`) counts as its class (`person`).

    On one disk with the store the images are hard links. What lies in `folder` and is not asked for is removed.
    Raises BadInput for a box of another class or an id that stands on a side twice; Missing, StoreFault.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    with _disk_faults(folder), ThreadPoolExecutor(_READERS) as pool:
        for side in SPLITS:
            given = sides.get(side, ())
            texts = {id: text_of(boxes, numbers) for id, boxes in given}
            if len(texts) != len(given):
                raise BadInput(f"An image stands on the {side} side twice.", "Give each id once.")
            wanted = _keys(workspace, texts)
            images, labels = (folder / kind / SIDE_NAMES[side] for kind in ("images", "labels"))
            for place in (images, labels):
                place.mkdir(parents=True, exist_ok=True)
            names = {f"{id}.{_ending(key)}": key for id, key in wanted.items()}
            there = _clear(images, names)
            missing = [(workspace, key, images / name) for name, key in names.items() if name not in there]
            list(pool.map(lambda one: _place(*one), missing))
            _clear(labels, [f"{id}.txt" for id in texts])
            for id, text in texts.items():
                _say(labels / f"{id}.txt", text)
        _clear(folder / "labels", SIDE_NAMES.values())  # Ultralytics' own cache of what the texts said
        _say(folder / YAML, yaml_text(classes, [side for side in SPLITS if sides.get(side)]))
    return folder / YAML


def text_of(boxes: Sequence[Box], numbers: Mapping[str, int]) -> str:
    """A line for each box; empty where there is none. Coordinates are whole multiples of 1e-7 of a side
    (`scenes.GRID`), so that 7 decimals, and 8 of a centre, say them exactly. Raises BadInput for a class without a
    number."""
    return "".join(f"{line}\n" for line in sorted({_line(box, numbers) for box in boxes}))


def _line(box: Box, numbers: Mapping[str, int]) -> str:
    name = box.label if box.label in numbers else coarse(box.label)
    if name not in numbers:
        raise BadInput(f"A box is of the class {box.label}, which is not among {', '.join(numbers)}.", "Leave it out.")
    left, top = round(box.x * STEPS), round(box.y * STEPS)
    right, bottom = round((box.x + box.width) * STEPS), round((box.y + box.height) * STEPS)
    centre = f"{(left + right) / (2 * STEPS):.8f} {(top + bottom) / (2 * STEPS):.8f}"
    return f"{numbers[name]} {centre} {(right - left) / STEPS:.7f} {(bottom - top) / STEPS:.7f}"


def yaml_text(classes: Sequence[str], sides: Collection[Split], more: Mapping[str, Any] | None = None) -> str:
    """data.yaml. It names no `path`, so that the folder can be moved. Ultralytics demands images to train and to
    validate on: where there are none of the one, it is given the other."""
    train: Split = "train" if "train" in sides else next(iter(sides), "train")
    validation: Split = "validation" if "validation" in sides else train
    values: dict[str, Any] = {"train": f"images/{SIDE_NAMES[train]}", "val": f"images/{SIDE_NAMES[validation]}"}
    if "test" in sides:
        values["test"] = f"images/{SIDE_NAMES['test']}"
    values["nc"] = len(classes)
    values["names"] = dict(enumerate(classes))
    return yaml.safe_dump(values | dict(more or {}), allow_unicode=True, sort_keys=False)


def _keys(workspace: Workspace, ids: Collection[SampleId]) -> dict[SampleId, str]:
    with workspace.catalog.read() as tx:
        found = {one.id: one.key for one in samples.some(tx, list(ids)).values()}
    for id in ids:
        if id not in found:
            raise Missing(f"There is no sample {id}.", "See: everlearn data")
    return found


def _ending(key: str) -> str:
    return key.rpartition("/")[2].rpartition(".")[2].lower()


def _clear(folder: Path, wanted: Collection[str]) -> set[str]:
    """Remove what is not wanted; returns the names that are there."""
    there = {path.name for path in folder.iterdir()}
    for name in there.difference(wanted):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return there.intersection(wanted)


def _place(workspace: Workspace, key: str, target: Path) -> None:
    """A link where the disk has them, else a copy; whole or not at all.

    A JPEG without its end is copied: Ultralytics mends such a file, and older versions write into it, which would
    change the store's own.
    """
    store = workspace.store
    if isinstance(store, LocalStore) and _is_whole(store.path(key)):
        try:
            os.link(store.path(key), target)
            return
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
    part = target.with_name(f".{target.name}.part")
    with store.open(key) as source, part.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    part.replace(target)


def _is_whole(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            if file.read(2) != b"\xff\xd8":
                return True
            file.seek(-2, os.SEEK_END)
            return file.read() == b"\xff\xd9"
    except FileNotFoundError:
        return False  # opening it says what is to be done about it


def _say(path: Path, text: str) -> None:
    """Write a text where it is not there yet; a half-written one differs and is written again."""
    data = text.encode()
    try:
        if path.read_bytes() == data:
            return
    except FileNotFoundError:
        pass
    path.write_bytes(data)


@contextmanager
def _disk_faults(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreFault(
            f"{folder} cannot be written: {error.strerror or error}.", "Is the disk full or read-only?"
        ) from error

"""How each export format lays a data set out: where a file goes, and what is written beside the files.

Every layout is given all classes and sides first, then each item once in order of id, then `finish`. Folder names are
`naming.escape` of the label; the exact label always stands in `index.csv`, and in the format's own file where it has
one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, ClassVar, Protocol

import yaml

from everlearn.catalog.scenes import STEPS
from everlearn.naming import escape, render_name
from everlearn.types import Box, SampleId, Scene, Split

LONGEST_FOLDER = 200
"""Bytes of a class folder's name; a longer one is only a digest of the label."""

TIMED = ("exif", "name", "video")
"""Where a capture time comes from that may stand in a file name, so that others read it back and group by it."""


@dataclass(frozen=True, slots=True)
class Item:
    """A member of a snapshot as it is exported. path: below the export's folder, with `/`. scene: what its label stands
    for where the task is `detect`."""

    id: SampleId
    label: str
    split: Split
    fold: int
    camera: str | None
    group: str
    time: datetime | None
    time_from: str | None
    parent: SampleId | None
    path: str = ""
    scene: Scene | None = None

    def said(self) -> dict[str, Any]:
        """What must read back, as JSON knows it."""
        told: dict[str, Any] = {"label": self.label}
        if self.scene is not None:
            about = None if self.scene.about is None else list(self.scene.about)
            boxes = [[one.label, one.x, one.y, one.width, one.height] for one in self.scene.boxes]
            told = {"label": None, "boxes": boxes, "about": about}
        return {
            "id": self.id,
            **told,
            "split": self.split,
            "fold": self.fold,
            "camera": self.camera,
            "group": self.group,
            "time": self.time.isoformat() if self.time else None,
            "time_from": self.time_from,
            "parent": self.parent,
        }


class Layout(Protocol):
    """folder: the (temporary) folder of the export, which is there and empty."""

    def __init__(self, folder: Path, classes: Sequence[str], sides: Sequence[Split]) -> None: ...
    def path(self, item: Item, ext: str) -> str: ...
    def add(self, item: Item, width: int, height: int) -> None: ...
    def finish(self) -> None: ...


def file_name(item: Item, ext: str) -> str:
    """Unlike any other, because the id stands in it; with the time of day only where a camera said so."""
    if item.time is None or item.time_from not in TIMED:
        return f"{item.id}.{ext}"
    return render_name(item.label, item.time, item.camera or "unknown", ext, item.id)


class Folders:
    """ImageFolder: `split/label/name.ext`. Every side has every class, so that all count the classes alike."""

    side_names: ClassVar[dict[Split, str]] = {"train": "train", "validation": "validation", "test": "test"}

    def __init__(self, folder: Path, classes: Sequence[str], sides: Sequence[Split]) -> None:
        self.folder = folder
        self.sides = sides
        self.names: dict[str, str] = {}
        for label in classes:
            self.names[label] = self._make(label)

    def path(self, item: Item, ext: str) -> str:
        return f"{self.side_names[item.split]}/{self.names[item.label]}/{file_name(item, ext)}"

    def add(self, item: Item, width: int, height: int) -> None: ...

    def finish(self) -> None: ...

    def _make(self, label: str) -> str:
        """The disk itself says whether two labels differ only where it cannot tell them apart (`A`, `a`)."""
        digest = "==" + hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        plain = escape(label)
        name = plain if len(plain.encode()) <= LONGEST_FOLDER else digest
        for side in self.sides:
            (self.folder / self.side_names[side]).mkdir(exist_ok=True)
            try:
                (self.folder / self.side_names[side] / name).mkdir()
            except FileExistsError:
                name = digest
                (self.folder / self.side_names[side] / name).mkdir()
        return name


class Yolo(Folders):
    """Ultralytics' classification convention: `train`, `val` and `test` with a folder for each class. `data.yaml`
    says which class each folder is, numbered in the order of the folders' names as Ultralytics numbers them."""

    side_names: ClassVar[dict[Split, str]] = {"train": "train", "validation": "val", "test": "test"}

    def finish(self) -> None:
        ordered = sorted(self.names.items(), key=lambda pair: pair[1])
        values: dict[str, Any] = {"path": "."}
        values.update({self.side_names[side]: self.side_names[side] for side in self.sides})
        values["nc"] = len(ordered)
        values["names"] = {number: label for number, (label, _) in enumerate(ordered)}
        values["folders"] = {number: name for number, (_, name) in enumerate(ordered)}
        text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False)
        (self.folder / "data.yaml").write_text(text, encoding="utf-8")


class Flat:
    """CSV: all files in `files/`; `index.csv` says the rest."""

    def __init__(self, folder: Path, classes: Sequence[str], sides: Sequence[Split]) -> None:
        (folder / "files").mkdir()

    def path(self, item: Item, ext: str) -> str:
        return f"files/{file_name(item, ext)}"

    def add(self, item: Item, width: int, height: int) -> None: ...

    def finish(self) -> None: ...


def pixels(share: float, side: int) -> float:
    """A corner in pixels: a whole number where that reads back as the same share on the catalog's grid, else with so
    many decimals that it does."""
    value = share * side
    nearest = round(value)
    return nearest if round(nearest / side * STEPS) == round(share * STEPS) else round(value, 8)


def corners(box: Box, width: int, height: int) -> tuple[float, float, float, float]:
    """left, top, right, bottom in pixels."""
    right, bottom = box.x + box.width, box.y + box.height
    return pixels(box.x, width), pixels(box.y, height), pixels(right, width), pixels(bottom, height)


class Coco:
    """COCO detection: `SIDE/name.ext` and `annotations/instances_SIDE.json`.

    A classified image carries one box, the whole image, marked `"whole_image": true`; what COCO has no field for stands
    under `everlearn` in the image's entry. Written as a stream: the images into the file itself, the annotations into
    a second one that is added to it at the end.
    """

    def __init__(self, folder: Path, classes: Sequence[str], sides: Sequence[Split]) -> None:
        self.folder = folder
        self.numbers = {label: number for number, label in enumerate(classes, 1)}
        self.count: dict[Split, list[int]] = {side: [0, 0] for side in sides}
        self.images: dict[Split, IO[str]] = {}
        self.boxes: dict[Split, IO[str]] = {}
        self.open = ExitStack()
        (folder / "annotations").mkdir()
        for side in sides:
            (folder / side).mkdir()
            self.images[side] = self.open.enter_context(self._file(side).open("w", encoding="utf-8"))
            boxes = self._file(side).with_suffix(".boxes")
            self.boxes[side] = self.open.enter_context(boxes.open("w+", encoding="utf-8"))
            self.images[side].write('{\n"info": {"description": "Exported by Everlearn"},\n"images": [')

    def path(self, item: Item, ext: str) -> str:
        return f"{item.split}/{file_name(item, ext)}"

    def add(self, item: Item, width: int, height: int) -> None:
        count = self.count[item.split]
        count[0] += 1
        number = count[0]
        said = {name: value for name, value in item.said().items() if name != "boxes"}
        picture: dict[str, Any] = {"id": number, "file_name": item.path.partition("/")[2]}
        picture.update({"width": width, "height": height, "everlearn": said})
        if item.time is not None:
            picture["date_captured"] = item.time.isoformat(" ")
        comma = "," if number > 1 else ""
        self.images[item.split].write(f"{comma}\n{json.dumps(picture, ensure_ascii=False)}")
        for one in self._annotations(item, width, height):
            count[1] += 1
            comma = "," if count[1] > 1 else ""
            box = {"id": count[1], "image_id": number, "iscrowd": 0, **one}
            self.boxes[item.split].write(f"{comma}\n{json.dumps(box)}")

    def _annotations(self, item: Item, width: int, height: int) -> Iterator[dict[str, Any]]:
        if item.scene is None:
            whole = {"bbox": [0, 0, width, height], "area": width * height, "whole_image": True}
            yield {"category_id": self.numbers[item.label], **whole}
            return
        for box in item.scene.boxes:
            left, top, right, bottom = corners(box, width, height)
            across, down = round(right - left, 8), round(bottom - top, 8)
            yield {"category_id": self.numbers[box.label], "bbox": [left, top, across, down],
                   "area": round(across * down, 8)}  # fmt: skip

    def finish(self) -> None:
        categories = [{"id": n, "name": label, "supercategory": ""} for label, n in self.numbers.items()]
        for side, images in self.images.items():
            images.write(f'\n],\n"categories": {json.dumps(categories, ensure_ascii=False)},\n"annotations": [')
            self.boxes[side].seek(0)
            while text := self.boxes[side].read(1 << 20):
                images.write(text)
            images.write("\n]}\n")
        self.open.close()
        for side in self.images:
            self._file(side).with_suffix(".boxes").unlink()

    def _file(self, side: Split) -> Path:
        return self.folder / "annotations" / f"instances_{side}.json"


LAYOUTS: dict[str, type[Layout]] = {
    "imagefolder": Folders,
    "yolo": Yolo,
    "coco": Coco,
    "csv": Flat,
    "dvc": Folders,
}

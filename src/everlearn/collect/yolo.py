"""YOLO data sets: `images/…/a.jpg` beside `labels/…/a.txt`, or the text beside the image; class names in `data.yaml`.
Roboflow's exports are such: `train/images` and `train/labels`, `valid`, `test`.

A line is `class x y width height` (centre and size, as shares of the image), with a confidence if it was predicted,
with key points if the YAML has `kpt_shape`; or `class x1 y1 x2 y2 …`, a polygon, of which the surrounding box is kept.
https://docs.ultralytics.com/datasets/detect/
"""
# ruff: noqa: PTH112, PTH113, PTH118, PTH120

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from everlearn.catalog.origins import Origin
from everlearn.collect.annotations import (
    Boxes,
    class_name,
    declared,
    found_at,
    number,
    said_of_origin,
    text_of,
    with_endings,
)
from everlearn.collect.files import (
    IMAGE_ENDINGS,
    LONGEST_PATH,
    Entry,
    ending,
    entry_at,
    is_there,
    is_within,
    printable,
    refused,
    walk,
    why,
)
from everlearn.collect.options import SourceOptions
from everlearn.errors import BadInput
from everlearn.text import read_yaml
from everlearn.types import Found, Refused

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_NOT_LABELS = frozenset({"classes.txt", "obj.names", "readme.txt", "requirements.txt", "license.txt"})


_SIDES = ("train", "val", "valid", "validation", "test")
_LISTS = frozenset({"txt"})
MAX_LIST_BYTES = 256 << 20
"""Of a text that lists images."""


class YoloSource:
    """Images with boxes. path: the folder, of which all is taken, or its YAML, and then what that lists as train, val
    and test. Without class names a class is called by its number; the names are the classes that were looked for.

    An image without a text has unknown boxes (None): Ultralytics takes it for one on which there is nothing, but it may
    as well be one that nobody has labelled yet. An empty text says that there is nothing to see (no boxes).
    A line that cannot be refuses its image: with a box missing it would teach that there is nothing.
    Raises BadInput for a YAML that cannot be read.
    """

    def __init__(self, path: str, options: SourceOptions) -> None:
        here = Path(path).absolute()
        self.options = options
        self.root = str(here.parent if here.is_file() else here)
        named = [here] if here.is_file() else [here / name for name in YAML_NAMES if is_there(here / name)]
        said = safe_yaml(named[0]) if named else {}
        self.names = _names(said.get("names"), named[0].name if named else "")
        if not self.names and is_there(Path(self.root) / "classes.txt"):
            lines = text_of(str(Path(self.root) / "classes.txt")).splitlines()
            self.names = {index: class_name(line) for index, line in enumerate(lines) if line.strip()}
        self.about = declared(self.names.values())
        self.key_points = "kpt_shape" in said
        self.origin = _origin(said)
        self.listed = listed(said, self.root) if here.is_file() else []

    def items(self) -> Iterator[Found | Refused]:
        for entry in self._entries():
            if isinstance(entry, Refused):
                yield entry
            elif ending(entry.name) in IMAGE_ENDINGS:
                yield self._image(entry)
            elif self._is_label(entry) and not _has_image(entry, self.root):
                yield refused(entry.path, "there is no image to this annotation")

    def estimate(self) -> int | None:
        entries = self._entries(with_stat=False)
        return sum(1 for one in entries if isinstance(one, Entry) and ending(one.name) in IMAGE_ENDINGS)

    def _entries(self, *, with_stat: bool = True) -> Iterator[Entry | Refused]:
        if not self.listed:
            yield from walk(self.root, self.options.exclude, with_stat=with_stat)
        for place in self.listed:
            if isinstance(place, Refused):
                yield place
            elif ending(place) in _LISTS:
                yield from _list(place, self.root)
            else:
                below = os.path.relpath(place, self.root).replace(os.sep, "/")
                for one in walk(place, self.options.exclude, with_stat=with_stat):
                    inside = replace(one, below=f"{below}/{one.below}") if isinstance(one, Entry) else one
                    yield one if below == "." else inside

    def _image(self, entry: Entry) -> Found | Refused:
        found = found_at(entry, self.options)
        if isinstance(found, Refused):
            return found
        text = _sibling(entry.below, "images", "labels", "txt")
        boxes = Boxes()
        try:
            there = entry_at(text, self.root)
            lines = text_of(there.target).splitlines() if there.size else []
            for count, line in enumerate(lines, 1):
                if line.strip():
                    self._line(line, count, boxes)
        except BadInput as error:
            return refused(entry.path, f"its annotation {text}: {error.message}")
        except FileNotFoundError:
            return found
        except OSError as error:
            return refused(entry.path, f"its annotation {text}: {why(error)}")
        return boxes.on(found, "yolo", self.about)

    def _line(self, line: str, count: int, boxes: Boxes) -> None:
        try:
            cells = [number(cell) for cell in line.split()]
            if len(cells) < 5:
                raise BadInput(f"{len(cells)} numbers where 5 are needed", "")
            label = self._class(cells[0])
            if self.key_points or len(cells) in (5, 6):
                x, y, width, height = cells[1:5]
                boxes.put(label, x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                return
            if len(cells) % 2 == 0:
                raise BadInput("a polygon with half a point", "")
            xs, ys = cells[1::2], cells[2::2]
            boxes.put(label, min(xs), min(ys), max(xs), max(ys))
        except BadInput as error:
            raise BadInput(f"line {count}: {error.message}", "") from None

    def _class(self, value: float) -> str:
        if value != int(value) or value < 0:
            raise BadInput(f"the class {value:g} is no whole number", "")
        if not self.names:
            return str(int(value))
        if int(value) not in self.names:
            raise BadInput(f"the class {int(value)} has no name in the data set", "")
        return self.names[int(value)]

    def _is_label(self, entry: Entry) -> bool:
        if ending(entry.name) != "txt" or entry.name.lower() in _NOT_LABELS:
            return False
        return "labels" in entry.below.split("/")[:-1]


def listed(said: dict[Any, Any], root: str) -> list[str | Refused]:
    """The folders and lists of images that a data.yaml names, each once, as far as they lie in its folder; none where
    it names none. Exports are moved about and name their folder as it once was (`path`, `../train/images`): so a place
    is looked for below `path`, below the YAML's own folder, and there without the steps up, as Ultralytics does.
    """
    found: list[str | Refused] = []
    base = said.get("path") if isinstance(said.get("path"), str) else "."
    for side in _SIDES:
        given = said.get(side)
        for one in given if isinstance(given, list) else [given]:
            if one is None:
                continue
            place = _inside(one, [str(base), "."], root) if isinstance(one, str) else None
            found.append(place or refused(f"{side}: {one}", "it is not there, or leads out of the data set's folder"))
    places = sorted({place for place in found if isinstance(place, str)})
    outer = [one for one in places if not any(is_within(one, other) and one != other for other in places)]
    return [*outer, *(one for one in found if isinstance(one, Refused))]


def _inside(place: str, bases: Sequence[str], root: str) -> str | None:
    """A folder, or a list of images, in the root."""
    if len(place) > LONGEST_PATH:
        return None
    steps = re.sub(r"^(\.\./)+", "", place.replace("\\", "/"))
    for base, one in [*((base, place) for base in bases), (".", steps)]:
        full = os.path.normpath(os.path.join(root, base, one))
        try:
            inside = is_within(full, root) and is_within(os.path.realpath(full), os.path.realpath(root))
            if inside and (os.path.isdir(full) or (ending(full) in _LISTS and os.path.isfile(full))):
                return full
        except (OSError, ValueError):
            continue
    return None


def _list(path: str, root: str) -> Iterator[Entry | Refused]:
    """The images that a text names, a line each, from its own folder or the data set's."""
    try:
        lines = text_of(os.path.realpath(path), MAX_LIST_BYTES).splitlines()
    except BadInput as error:
        yield refused(path, error.message)
        return
    for line in filter(None, map(str.strip, lines)):
        try:
            try:
                yield entry_at(line, root, os.path.dirname(path))
            except OSError:
                yield entry_at(line, root)
        except BadInput as error:
            yield refused(f"{path}: {line}", error.message)
        except OSError as error:
            yield refused(f"{path}: {line}", why(error))


def _origin(said: dict[Any, Any]) -> Origin:
    """Roboflow's block, or the keys that others use."""
    block = said.get("roboflow")
    told: dict[Any, Any] = block if isinstance(block, dict) else said
    parts = [said_of_origin(told.get(key)) for key in ("workspace", "project")]
    name = "/".join(part for part in parts if part) or said_of_origin(said.get("name"))
    licence = said_of_origin(told.get("license")) or said_of_origin(told.get("licence"))
    return Origin(name, said_of_origin(told.get("version")), licence, said_of_origin(told.get("url")))


def _sibling(below: str, folder: str, other: str, kind: str) -> str:
    """The file of another kind to a file: its last folder `folder` exchanged for `other`, where it has one."""
    parts = below.split("/")
    parts[-1] = f"{parts[-1].rpartition('.')[0]}.{kind}"
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == folder:
            parts[index] = other
            break
    return "/".join(parts)


def _has_image(entry: Entry, root: str) -> bool:
    for below in (_sibling(entry.below, "labels", "images", "x"), entry.below):
        folder, _, name = f"{root}/{below}".rpartition("/")
        if any(is_there(f"{folder}/{one}") for one in with_endings(name.rpartition(".")[0])):
            return True
    return False


def safe_yaml(path: Path) -> dict[Any, Any]:
    """A mapping from a small YAML file. Raises BadInput."""
    try:
        said = read_yaml(text_of(str(path), 1_000_000))
    except BadInput as error:
        raise BadInput(f"{path.name}: {error.message}.", "Repair or remove it.") from None
    except ValueError as error:
        reason = printable(str(error), 200)
        raise BadInput(f"{path.name} is no YAML that can be read: {reason}.", "Repair or remove it.") from None
    if not isinstance(said, dict):
        raise BadInput(f"{path.name} is no mapping.", "It needs a line such as names: [cat, dog].")
    return said


def _names(said: Any, where: str) -> dict[int, str]:
    pairs = enumerate(said) if isinstance(said, list) else said.items() if isinstance(said, dict) else []
    try:
        return {int(number(index)): class_name(name) for index, name in pairs}
    except BadInput as error:
        raise BadInput(f"The names in {where}: {error.message}.", "Write them as names: [cat, dog].") from None

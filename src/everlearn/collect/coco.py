"""COCO data sets: one or more JSON files of instances, and the images they name.

https://cocodataset.org/#format-data : a box is [left, top, width, height] in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from everlearn.catalog.origins import Origin, together
from everlearn.collect.annotations import (
    Boxes,
    class_name,
    declared,
    found_at,
    number,
    said_of_origin,
    size_of,
    text_of,
)
from everlearn.collect.files import Entry, entry_at, is_there, refused, why
from everlearn.collect.options import SourceOptions
from everlearn.errors import BadInput
from everlearn.types import Found, Refused

MAX_JSON_BYTES = 512 << 20
"""Of one annotation file; it is held in memory while its images are read (COCO 2017's largest has 450 MB)."""


class CocoSource:
    """Images with boxes. path: the data set's folder, or one JSON file in it or in its `annotations`.

    An image that is listed without boxes was looked at: nothing of the categories is in it. Crowds (`iscrowd`) have no
    box of their own and are passed over. Raises BadInput where there is no annotation file.
    """

    def __init__(self, path: str, options: SourceOptions) -> None:
        here = Path(path).absolute()
        self.options = options
        self.root = here.parent if here.is_file() else here
        if here.is_file() and self.root.name.lower() == "annotations":
            self.root = self.root.parent
        self.files = [here] if here.is_file() else coco_files(here)
        if not self.files:
            raise BadInput(f"There is no COCO annotation in {here.name}.", "Put it into annotations/, or name it.")
        self.origins: list[Origin] = []

    def items(self) -> Iterator[Found | Refused]:
        for file in self.files:
            try:
                said = _load(file)
            except BadInput as error:
                yield refused(str(file), error.message)
                continue
            self.origins.append(_origin(said))
            yield from self._file(file, said)

    def estimate(self) -> int | None:
        return None

    @property
    def origin(self) -> Origin:
        """Of what was read so far."""
        return together(self.origins)

    def _file(self, file: Path, said: dict[str, Any]) -> Iterator[Found | Refused]:
        names: dict[Any, str] = {}
        for one in _records(said.get("categories")):
            try:
                names[_key(one.get("id"))] = class_name(one.get("name"))
            except BadInput as error:
                yield refused(str(file), f"category {_key(one.get('id'))}: {error.message}")
        objects: dict[Any, list[dict[str, Any]]] = {}
        for one in _records(said.get("annotations")):
            objects.setdefault(_key(one.get("image_id")), []).append(one)
        bases = self._bases(file)
        about = declared(_looked_for(said, names))
        listed = set()
        for image in _records(said.get("images")):
            listed.add(_key(image.get("id")))
            found = self._image(image, file, bases, names, objects.get(_key(image.get("id")), []))
            yield replace(found, about=about) if isinstance(found, Found) else found
        for key in objects.keys() - listed:
            yield refused(str(file), f"{len(objects[key])} annotations of the image {key}, which is not listed")

    def _image(
        self,
        image: dict[str, Any],
        file: Path,
        bases: list[Path],
        names: dict[Any, str],
        objects: list[dict[str, Any]],
    ) -> Found | Refused:
        name = image.get("file_name")
        try:
            if not isinstance(name, str):
                raise BadInput(f"the image {_key(image.get('id'))} has no file_name", "")
            entry = self._find(name, bases)
            boxes = _boxes(image, entry, names, objects)
        except BadInput as error:
            return refused(f"{file}: {name}" if isinstance(name, str) else str(file), error.message)
        except OSError as error:
            return refused(f"{file}: {name}", why(error))
        found = found_at(entry, self.options)
        if isinstance(found, Refused):
            return found
        return boxes.on(found, "coco")

    def _bases(self, file: Path) -> list[Path]:
        """Where an annotation file's images may lie; `instances_train2017.json` speaks of those in `train2017`."""
        split = file.stem.rpartition("_")[2] if "_" in file.stem else file.stem
        below = (Path(split), Path("images") / split, Path(split) / "images", Path("images"), Path())
        return list(dict.fromkeys([file.parent, *(self.root / one for one in below)]))

    def _find(self, name: str, bases: list[Path]) -> Entry:
        """The base that worked comes first the next time. Raises BadInput, OSError."""
        for index, base in enumerate(bases):
            try:
                entry = entry_at(name, str(self.root), str(base))
            except OSError as error:
                missing = error
                continue
            bases.insert(0, bases.pop(index))
            return entry
        raise missing


def coco_files(root: Path) -> list[Path]:
    """The annotation files of a data set, by where they lie and what they begin with."""
    places = (*root.glob("*.json"), *root.glob("annotations/*.json"), *root.glob("*/_annotations.coco.json"))
    files = sorted(file for file in places if is_there(file) and not file.is_symlink() and _looks_like_coco(file))
    # COCO's own key points and captions speak of the same images as its instances do.
    return [file for file in files if file.name.startswith("instances")] or files


def _looks_like_coco(file: Path) -> bool:
    """Its keys stand anywhere in a large file: the first and the last of it are looked at."""
    try:
        with file.open("rb") as opened:
            part = opened.read(1 << 16)
            opened.seek(max(0, file.stat().st_size - (1 << 16)))
            part += opened.read(1 << 16)
    except OSError:
        return False
    return part.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{" and (b'"file_name"' in part or b'"image_id"' in part)


def _load(file: Path) -> dict[str, Any]:
    try:
        said = json.loads(text_of(str(file), MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"no JSON that can be read: {error}", "") from None
    if not isinstance(said, dict) or not isinstance(said.get("images"), list):
        raise BadInput("no COCO annotations: it has no list of images", "")
    return said


def _looked_for(said: dict[str, Any], names: dict[Any, str]) -> Iterator[str]:
    """The names of the categories, but for Roboflow's root, which has no objects and the others below it."""
    used = {_key(one.get("category_id")) for one in _records(said.get("annotations"))}
    categories = list(_records(said.get("categories")))
    above = {one.get("supercategory") for one in categories if isinstance(one.get("supercategory"), str)}
    for one in categories:
        key = _key(one.get("id"))
        name = one.get("name")
        is_root = one.get("supercategory") == "none" and isinstance(name, str) and name in above and key not in used
        if key in names and not is_root:
            yield names[key]


def _origin(said: dict[str, Any]) -> Origin:
    info = said.get("info")
    info = info if isinstance(info, dict) else {}
    licences = {
        said_of_origin(one.get("name")) or said_of_origin(one.get("url")) for one in _records(said.get("licenses"))
    }
    fields = {
        name: said_of_origin(info.get(key))
        for name, key in (("name", "description"), ("version", "version"), ("url", "url"))
    }
    return Origin(**fields, licence=", ".join(sorted(one for one in licences if one)) or None)


def _records(said: Any) -> Iterator[dict[str, Any]]:
    return (one for one in said if isinstance(one, dict)) if isinstance(said, list) else iter(())


def _key(value: Any) -> str:
    """Ids are numbers or text; `1` and `"1"` are one."""
    return str(value)[:200] if isinstance(value, str | int | float) else "unknown"


def _boxes(image: dict[str, Any], entry: Entry, names: dict[Any, str], objects: list[dict[str, Any]]) -> Boxes:
    boxes = Boxes()
    size: tuple[float, float] | None = None
    for one in objects:
        if one.get("iscrowd") in (1, True):
            continue
        label = names.get(_key(one.get("category_id")))
        if label is None:
            raise BadInput(f"the category {_key(one.get('category_id'))} is not listed", "")
        left, top, width, height = _corners(one)
        size = size or _size(image, entry)
        right, bottom = left + width, top + height
        boxes.put(label, left / size[0], top / size[1], right / size[0], bottom / size[1])
    return boxes


def _corners(one: dict[str, Any]) -> list[float]:
    """left, top, width, height in pixels, from the box or around the polygons."""
    said = one.get("bbox")
    if isinstance(said, list) and len(said) == 4:
        return [number(value) for value in said]
    polygons = one.get("segmentation")
    if isinstance(polygons, list) and polygons and all(isinstance(polygon, list) for polygon in polygons):
        xs = [number(value) for polygon in polygons for value in polygon[0::2]]
        ys = [number(value) for polygon in polygons for value in polygon[1::2]]
        if xs and ys:
            return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    raise BadInput(f"the annotation {_key(one.get('id'))} has no box", "")


def _size(image: dict[str, Any], entry: Entry) -> tuple[float, float]:
    if image.get("width") and image.get("height"):
        width, height = number(image["width"]), number(image["height"])
        if width > 0 and height > 0:
            return width, height
    return size_of(entry)

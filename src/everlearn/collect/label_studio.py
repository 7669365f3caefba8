"""Label Studio's JSON exports (JSON and JSON-MIN): tasks with rectangles, in percent of the image's sides.

https://labelstud.io/guide/export : an export names its images by where the server kept them; they are looked for by
that path or by their name in the folder of the JSON and below it. Nothing is fetched from an address.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from everlearn.collect.annotations import Boxes, class_name, found_at, number, text_of
from everlearn.collect.coco import MAX_JSON_BYTES
from everlearn.collect.files import DEEPEST, IMAGE_ENDINGS, Entry, ending, entry_at, is_there, refused, walk, why
from everlearn.collect.options import SourceOptions
from everlearn.errors import BadInput
from everlearn.types import Found, Refused

_UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")
"""Label Studio puts eight digits before the name of an uploaded file."""
_SHAPES = ("polygonlabels", "rectanglelabels")
_HEAD = 1 << 16


class LabelStudioSource:
    """Images with boxes. path: the JSON, or a folder with such files in it.

    Of several annotations of an image the newest holds that was not cancelled; one without any is not labelled yet.
    A rotated rectangle, and a polygon, becomes the box around it; other shapes refuse their image. Which classes were
    looked for, the format does not say. Raises BadInput where there is no such file.
    """

    def __init__(self, path: str, options: SourceOptions) -> None:
        here = Path(path).absolute()
        self.options = options
        self.root = here.parent if here.is_file() else here
        self.files = [here] if here.is_file() else label_studio_files(here)
        if not self.files:
            raise BadInput(f"There is no Label Studio export in {here.name}.", "Export as JSON, and put it there.")
        self.below: dict[str, list[Entry]] | None = None

    def items(self) -> Iterator[Found | Refused]:
        for file in self.files:
            try:
                tasks = _load(file)
            except BadInput as error:
                yield refused(str(file), error.message)
                continue
            for count, task in enumerate(tasks, 1):
                yield self._task(task, file, f"{file}: task {_id(task) or count}")

    def estimate(self) -> int | None:
        return None

    def _task(self, task: Any, file: Path, where: str) -> Found | Refused:
        try:
            if not isinstance(task, dict):
                raise BadInput("no task", "")
            entry = self._find(_image_of(task), file.parent)
            result = _result(task)
            boxes = Boxes()
            for region in result or []:
                _draw(region, boxes)
        except BadInput as error:
            return refused(where, error.message)
        except OSError as error:
            return refused(where, why(error))
        found = found_at(entry, self.options)
        return found if isinstance(found, Refused) or result is None else boxes.on(found, "labelstudio")

    def _find(self, said: str, beside: Path) -> Entry:
        """By the longest end of its path that is there, else by its name anywhere below. Raises BadInput, OSError."""
        parts = _parts(said)
        for start in range(len(parts)):
            for base in (beside, beside / "images"):
                below = "/".join(parts[start:])
                if is_there(base / below):
                    return entry_at(below, str(self.root), str(base))
        plain = _UPLOADED.fullmatch(parts[-1])
        for name in (parts[-1], plain[1] if plain else parts[-1]):
            there = self._below().get(name, [])
            if len(there) > 1:
                raise BadInput(f"{len(there)} images are called {name}", "")
            if there:
                return there[0]
        raise BadInput(f"its image {parts[-1]} is not there", "")

    def _below(self) -> dict[str, list[Entry]]:
        """The images of the folder by their names."""
        if self.below is None:
            self.below = {}
            for entry in walk(str(self.root), self.options.exclude):
                if isinstance(entry, Entry) and ending(entry.name) in IMAGE_ENDINGS:
                    self.below.setdefault(entry.name, []).append(entry)
        return self.below


def label_studio_files(root: Path) -> list[Path]:
    """The exports in a folder: lists of tasks."""
    return sorted(file for file in root.glob("*.json") if not file.is_symlink() and looks_like_label_studio(file))


def looks_like_label_studio(file: Path) -> bool:
    """A look at the first of it: a list, where COCO is a mapping, that names images."""
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError:
        return False
    return head[:1] == b"[" and any(word in head for word in (b'"data"', b'"annotations"', b'"image"'))


def _load(file: Path) -> list[Any]:
    try:
        said = json.loads(text_of(str(file), MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"no JSON that can be read: {error}", "") from None
    if not isinstance(said, list):
        raise BadInput("no list of Label Studio's tasks", "")
    return said


def _id(task: Any) -> str | None:
    said = task.get("id") if isinstance(task, dict) else None
    return str(said)[:40] if isinstance(said, str | int) else None


def _image_of(task: dict[str, Any]) -> str:
    """Where the server kept the image: under `data`, or in the task itself (JSON-MIN). Raises BadInput."""
    data = task.get("data")
    told = data if isinstance(data, dict) else task
    texts = [value for key, value in told.items() if isinstance(value, str) and key in ("image", "img", "picture")]
    texts += [value for value in told.values() if isinstance(value, str) and ending(_parts(value)[-1]) in IMAGE_ENDINGS]
    if not texts:
        raise BadInput("it names no image", "")
    if texts[0].lower().startswith(("http://", "https://", "data:")):
        raise BadInput("its image lies at an address, from which nothing is fetched", "")
    return texts[0]


def _parts(said: str) -> list[str]:
    """The last steps of an image's path, without those that lead up: `/data/local-files/?d=a/b.jpg` is a/b.jpg."""
    try:
        query = parse_qs(urlsplit(said).query).get("d") if "/local-files/" in said else None
    except ValueError:
        query = None
    path = query[0] if query else unquote(said)
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")][-DEEPEST:] or [""]


def _result(task: dict[str, Any]) -> list[Any] | None:
    """What the newest annotation says, region by region; None where nobody has annotated yet. Raises BadInput."""
    given = task.get("annotations", task.get("completions"))
    if isinstance(given, list):
        done = [one for one in given if isinstance(one, dict) and not one.get("was_cancelled")]
        if not done:
            return None
        result = max(done, key=_age).get("result")
        if not isinstance(result, list):
            raise BadInput("an annotation without a result", "")
        return result
    lists = [value for value in task.values() if isinstance(value, list)]
    regions = [one for value in lists for one in value if isinstance(one, dict) and not {"x", "points"}.isdisjoint(one)]
    return [
        {"value": one, **{key: one.get(key) for key in ("original_width", "original_height")}} for one in regions
    ] or None


def _age(annotation: dict[str, Any]) -> tuple[str, str, float]:
    """ISO times sort as text."""
    times = (annotation.get("updated_at"), annotation.get("created_at"))
    own = annotation.get("id")
    return (*(time if isinstance(time, str) else "" for time in times), own if isinstance(own, int) else -1)  # type: ignore[return-value]


def _draw(region: Any, boxes: Boxes) -> None:
    """A box for each label of a region; none where it is no shape. Raises BadInput."""
    value = region.get("value") if isinstance(region, dict) else None
    if not isinstance(value, dict):
        raise BadInput("a region without a value", "")
    kind = next((key for key in value if key.endswith("labels") and key != "timelinelabels"), None)
    if kind is None:
        if "width" in value:
            raise BadInput("a rectangle without a label", "")
        return  # a choice, a text, a rating: of the image as a whole
    if kind not in _SHAPES:
        raise BadInput(f"{kind[:40]} are no boxes", "")
    if region.get("image_rotation"):
        raise BadInput("the image was turned while it was annotated", "")
    labels = value[kind]
    if not isinstance(labels, list) or not labels:
        raise BadInput("a region without a label", "")
    corners = [share / 100 for share in _around(region, value)]
    for label in labels:
        boxes.put(class_name(label), *corners)


def _around(region: dict[str, Any], value: dict[str, Any]) -> Sequence[float]:
    """left, top, right, bottom in percent."""
    if "points" in value:
        points = value["points"]
        if not isinstance(points, list) or not all(isinstance(one, list) and len(one) == 2 for one in points):
            raise BadInput("a polygon that is none", "")
        xs, ys = [number(x) for x, _ in points], [number(y) for _, y in points]
        return (min(xs), min(ys), max(xs), max(ys)) if points else (0.0, 0.0, 0.0, 0.0)
    x, y, width, height = (number(value.get(name)) for name in ("x", "y", "width", "height"))
    turn = number(value.get("rotation") or 0)
    if not turn % 360:
        return x, y, x + width, y + height
    return _turned(x, y, width, height, turn, _sides(region))


def _sides(region: dict[str, Any]) -> tuple[float, float]:
    across, down = number(region.get("original_width")), number(region.get("original_height"))
    if across <= 0 or down <= 0:
        raise BadInput("a rotated rectangle without the size of its image", "")
    return across, down


def _turned(
    x: float, y: float, width: float, height: float, degrees: float, sides: tuple[float, float]
) -> tuple[float, float, float, float]:
    """The box around a rectangle that is turned clockwise about its left upper corner. In pixels a turn keeps angles,
    in percent it does not: so down is measured in percent of the width."""
    ratio = sides[1] / sides[0]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(a * cos - b * sin, a * sin + b * cos) for a in (0.0, width) for b in (0.0, height * ratio)]
    xs, ys = [x + a for a, _ in corners], [y + b / ratio for _, b in corners]
    return min(xs), min(ys), max(xs), max(ys)

"""What the readers of labelled data sets share: boxes, and reading small untrusted text files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from everlearn.collect.files import IMAGE_ENDINGS, Entry, offer, printable, read_regular, why
from everlearn.collect.folder import Names
from everlearn.collect.options import SourceOptions
from everlearn.errors import BadInput
from everlearn.naming import clean_label, coarse, parse_name
from everlearn.types import Box, Found, LabelBy, Refused

SLACK = 0.02
"""How far a box may reach over the image's edge, as a share of its side: such boxes come from rounding and are cut."""
_ROUNDING = 1e-6
MAX_ANNOTATION_BYTES = 2_000_000
"""Of an annotation file that describes one image or a data set's classes."""


def box(label: str, left: float, top: float, right: float, bottom: float) -> Box:
    """From two corners as shares of the image's sides. Raises BadInput for an empty box or one that lies outside."""
    corners = (left, top, right, bottom)
    if not all(math.isfinite(corner) for corner in corners):
        raise BadInput("A box has a corner that is no number.", "")
    if not all(-SLACK <= corner <= 1 + SLACK for corner in corners):
        raise BadInput(f"A box lies outside of the image: {_short(corners)} of its sides.", "")
    left, top, right, bottom = (min(max(corner, 0.0), 1.0) for corner in corners)
    if right <= left or bottom <= top:
        raise BadInput(f"A box has no area: {_short(corners)} of its sides.", "")
    return Box(label, left, top, right - left, bottom - top)


class Boxes(list[Box]):
    """The boxes of one image as they are read. cut: how many of them reached over the edge."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = 0

    def put(self, label: str, left: float, top: float, right: float, bottom: float) -> None:
        """Raises BadInput, see `box`."""
        self.append(box(label, left, top, right, bottom))
        self.cut += min(left, top) < -_ROUNDING or max(right, bottom) > 1 + _ROUNDING

    def on(self, found: Found, by: LabelBy, about: tuple[str, ...] | None = None) -> Found:
        """The image with these boxes; where all are of one class, that is its label."""
        return replace(found, boxes=tuple(self), cut=self.cut, about=about, label=only_class(self), label_by=by)


def _short(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def only_class(boxes: Sequence[Box]) -> str | None:
    """The label of an image whose objects are all of one class, for tasks without boxes."""
    labels = {one.label for one in boxes}
    return labels.pop() if len(labels) == 1 else None


def declared(names: Iterable[str]) -> tuple[str, ...] | None:
    """The classes that a data set was labelled for, by the names it declares; None where it declares none."""
    return tuple(sorted({coarse(name) for name in names})) or None


def text_of(path: str, limit: int = MAX_ANNOTATION_BYTES) -> str:
    """A small text file, in UTF-8 with or without a mark. Raises BadInput, with a reason, for anything else."""
    try:
        return read_regular(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput("not text in UTF-8", "") from None
    except OSError as error:
        raise BadInput(why(error), "") from None


def size_of(entry: Entry) -> tuple[int, int]:
    """Width and height in pixels from an image's header, where an annotation leaves them out. Raises BadInput."""
    from PIL import Image

    try:
        with Image.open(entry.target) as image:
            return image.size
    except Exception as error:  # Pillow raises what its many readers raise
        raise BadInput(f"the image's size cannot be read: {type(error).__name__}", "") from None


def number(value: Any) -> float:
    """A finite number. Raises BadInput."""
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        raise BadInput(f"{str(value)[:40]!r} is no number", "") from None
    if not math.isfinite(result):
        raise BadInput(f"{result} is no number to measure with", "")
    return result


def class_name(value: Any) -> str:
    """A class's name as text. Raises BadInput for what cannot be one."""
    if not isinstance(value, str | int | float):
        raise BadInput("a class's name is no text", "")
    return clean_label(str(value)[:1000])


def with_endings(stem: str) -> list[str]:
    """The names that an image of this stem can have, the most usual first."""
    usual = sorted(IMAGE_ENDINGS, key=lambda kind: (kind not in ("jpg", "png", "jpeg"), kind))
    return [f"{stem}.{cased}" for kind in usual for cased in (kind, kind.upper())]


_OURS = re.compile(r"[0-9a-f]{32}")
_ROBOFLOW = re.compile(r"(.+)\.rf\.[0-9A-Za-z]{16,}\.[A-Za-z0-9]+")


def found_at(entry: Entry, options: SourceOptions) -> Found | Refused:
    """An annotated image, with what its name tells of time, camera and group: by the pattern, or by our own form.

    Roboflow numbers the copies that it augments (`a_jpg.rf.HASH.jpg`): without a time they are held together by the
    name that they share, so that no copy of a training image is tested on.
    """
    found = offer(entry, options.max_bytes)
    said = Names(options).said(entry, None) if isinstance(found, Found) else found
    if isinstance(found, Refused) or isinstance(said, Refused):
        return said  # type: ignore[return-value]
    camera, group = said.camera, said.group
    if camera is None and (ours := parse_name(entry.name)) and _OURS.fullmatch(ours.suffix or ""):
        camera = ours.source
    if group is None and said.when is None and (copy := _ROBOFLOW.fullmatch(entry.name)):
        group = f"roboflow:{copy[1]}"
    found = replace(found, camera=camera, group=group)
    return replace(found, captured_at=said.when, time_from="name") if said.when else found


def said_of_origin(value: Any) -> str | None:
    """A name, version, licence or address that a data set gives of itself, as one short line."""
    text = printable(str(value).strip(), 300) if isinstance(value, str | int | float) else ""
    return text or None

"""What the readers of labelled data sets share: boxes, and reading small untrusted text files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from everlearn.collect.files import IMAGE_ENDINGS, Entry, offer, read_regular, why
from everlearn.errors import BadInput
from everlearn.naming import clean_label, time_in_name
from everlearn.types import Box, Found, Refused

SLACK = 0.02
"""How far a box may reach over the image's edge, as a share of its side: such boxes come from rounding and are cut."""
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


def _short(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def only_class(boxes: Sequence[Box]) -> str | None:
    """The label of an image whose objects are all of one class, for tasks without boxes."""
    labels = {one.label for one in boxes}
    return labels.pop() if len(labels) == 1 else None


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


def found_at(entry: Entry, max_bytes: int | None) -> Found | Refused:
    """An annotated image, with the time its name tells."""
    found = offer(entry, max_bytes)
    when = time_in_name(entry.name)
    return replace(found, captured_at=when, time_from="name") if isinstance(found, Found) and when else found

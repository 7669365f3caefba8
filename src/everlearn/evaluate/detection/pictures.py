"""Boxes drawn on images, coloured by how they err.

Colours are Okabe & Ito's, told apart by every kind of colour vision; each line lies on a dark one, so that it shows on
any image, and true boxes are dashed. Lines and letters grow with the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from everlearn.evaluate import plots
from everlearn.evaluate.detection.errors import KINDS, NONE, Case, Kind, judge, missing
from everlearn.evaluate.detection.matching import Seen, matched
from everlearn.evaluate.detection.metrics import operating

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

    from everlearn.types import Box, Image

    Colour = tuple[int, int, int]
    Corners = tuple[float, float, float, float]

RIGHT: Colour = (0, 158, 115)
TRUE: Colour = (255, 255, 255)
COLOURS: Mapping[Kind, Colour] = {
    "missed": (86, 180, 233),
    "ghost": (213, 94, 0),
    "duplicate": (240, 228, 66),
    "localisation": (230, 159, 0),
    "confusion": (204, 121, 167),
    "both": (0, 114, 178),
}
DARK: Colour = (20, 20, 20)
SIDE = 240
"""Longest side of a case's picture, in pixels."""
AROUND = 1.6
"""How much of its surroundings a case is shown with: side of the picture over side of its boxes."""
LETTERS = 8
"""Letters that a line must have room for, or else names are left out."""


def draw(
    image: Image,
    truth: Sequence[Box],
    found: Sequence[Box],
    kinds: Sequence[Kind | None] = (),
    missed: Sequence[bool] = (),
) -> Image:
    """A copy of the image (H, W, 3) with the boxes on it. kinds: of each found box, None where it is right; missed: of
    each true one. Without them all found boxes are drawn as right, and all true ones in white."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    picture = Pillow.fromarray(np.ascontiguousarray(image, dtype=np.uint8)).convert("RGB")
    canvas = ImageDraw.Draw(picture)
    names = sorted({box.label for box in (*truth, *found)})
    line = max(2, round(min(picture.size) / 200))
    size = int(np.clip(min(picture.size) / 26, 11, 72))
    lost = [*missed, *[False] * (len(truth) - len(missed))]
    how = [*kinds, *[None] * (len(found) - len(kinds))]
    for box, gone in zip(truth, lost, strict=True):
        _frame(canvas, _corners(box, picture.size), COLOURS["missed"] if gone else TRUE, line, dashed=True)
    for box, kind in zip(found, how, strict=True):
        _frame(canvas, _corners(box, picture.size), COLOURS[kind] if kind else RIGHT, line)
    named = [
        (box, COLOURS["missed"] if gone else TRUE) for box, gone in zip(truth, lost, strict=True) if gone or not found
    ]
    named += [(box, COLOURS[kind] if kind else RIGHT) for box, kind in zip(found, how, strict=True)]
    busy = [_corners(box, picture.size) for box, _ in named]
    for box, colour in named if picture.width >= LETTERS * size else ():
        busy.append(_name(canvas, box, names, colour, size, busy))
    return np.asarray(picture)


def drawn(image: Image, seen: Seen, classes: Sequence[str], confidence: float | Mapping[str, float] = 0.5) -> Image:
    """The image with all that was found from that confidence on, and all that was missed, each as it errs."""
    one = matched([seen], classes)
    judged = judge(one)
    used = one.found.confidence >= operating(one, confidence)[one.found.label]
    missed = missing(one, judged, used)
    return draw(
        image,
        [seen.truth[row] for row in one.truth.row],
        [seen.found[row] for row in one.found.row[used]],
        [None if kind == NONE else KINDS[kind] for kind in judged.kind[used]],
        missed.tolist(),
    )


def case_picture(image: Image, case: Case, side: int = SIDE) -> Image:
    """One error with its surroundings, at most `side` pixels each way. image: as large as there is."""
    boxes = [box for box in (case.found, case.truth) if box is not None]
    height, width = image.shape[:2]
    left, top = min(box.x for box in boxes) * width, min(box.y for box in boxes) * height
    right = max(box.x + box.width for box in boxes) * width
    bottom = max(box.y + box.height for box in boxes) * height
    half = max(AROUND * max(right - left, bottom - top), 32.0) / 2
    x0, x1 = _window((left + right) / 2, half, width)
    y0, y1 = _window((top + bottom) / 2, half, height)
    part = _resized(image[y0:y1, x0:x1], side)

    def placed(box: Box) -> Box:
        share = (x1 - x0, y1 - y0)
        corner = (box.x * width - x0) / share[0], (box.y * height - y0) / share[1]
        return replace(box, x=corner[0], y=corner[1], width=box.width * width / share[0],
                       height=box.height * height / share[1])  # fmt: skip

    truth = [] if case.truth is None else [placed(case.truth)]
    found = [] if case.found is None else [placed(case.found)]
    return draw(part, truth, found, [case.kind] * len(found), [case.kind == "missed"] * len(truth))


def case_pictures(cases: Iterable[Case], read: Callable[[str], Image | None], side: int = SIDE) -> dict[str, Image]:
    """The pictures of the cases by their keys, as `Report.pixels` takes them. read: gives an image by its id, or None
    where there is none any more; each image is read once."""
    by_image: dict[str, list[Case]] = {}
    for case in cases:
        by_image.setdefault(case.id, []).append(case)
    made: dict[str, Image] = {}
    for id, own in by_image.items():
        image = read(id)
        if image is not None:
            made |= {case.key: case_picture(image, case, side) for case in own}
    return made


def _resized(image: Image, side: int) -> Image:
    """(H, W, 3) -> the same picture with a longer side of `side` pixels."""
    from PIL import Image as Pillow

    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Pillow.fromarray(np.ascontiguousarray(image)).resize(size, Pillow.Resampling.BICUBIC))


def _window(middle: float, half: float, length: int) -> tuple[int, int]:
    """A stretch of 2 half around the middle, moved into 0 … length."""
    size = min(length, max(1, round(2 * half)))
    start = int(np.clip(round(middle - size / 2), 0, length - size))
    return start, start + size


def _corners(box: Box, size: tuple[int, int]) -> Corners:
    """x0, y0, x1, y1 px, within the picture, or just outside where the box is."""
    width, height = size
    x = np.clip([box.x, box.x + box.width], -0.1, 1.1) * (width - 1)
    y = np.clip([box.y, box.y + box.height], -0.1, 1.1) * (height - 1)
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def _frame(canvas: ImageDraw, corners: Corners, colour: Colour, line: int, *, dashed: bool = False) -> None:
    canvas.rectangle(corners, outline=DARK, width=line + 2 * max(1, line // 4))
    x0, y0, x1, y1 = corners
    if not dashed:
        edge = max(1, line // 4) if min(x1 - x0, y1 - y0) > 4 * line else 0
        canvas.rectangle((x0 + edge, y0 + edge, x1 - edge, y1 - edge), outline=colour, width=line)
        return
    step = 4 * line + 2
    for x in range(round(x0), round(x1), 2 * step):
        for level in (y0, y1):
            canvas.line((x, level, min(x + step, x1), level), fill=colour, width=line)
    for y in range(round(y0), round(y1), 2 * step):
        for column in (x0, x1):
            canvas.line((column, y, column, min(y + step, y1)), fill=colour, width=line)


def _name(canvas: ImageDraw, box: Box, names: Sequence[str], colour: Colour, size: int, busy: list[Corners]) -> Corners:
    """Its class and confidence on a tag beside the box, or in it: where the least of what is `busy` lies below."""
    text, font = _text(box.label, names, size)
    if box.confidence is not None:
        text += f" {box.confidence:.2f}"
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    width, height = right - left + size // 3, bottom - top + size // 3
    picture = canvas.im.size
    x0, y0, x1, y1 = _corners(box, picture)
    tags: list[Corners] = []
    for x, y in ((x0, y0 - height), (x0, y1), (x1 - width, y0 - height), (x1 - width, y1), (x0, y0)):
        x, y = np.clip(x, 0, max(0, picture[0] - width)), np.clip(y, 0, max(0, picture[1] - height))
        tags.append((float(x), float(y), float(x + width), float(y + height)))
    tag = min(tags, key=lambda one: sum(_shared(one, other) for other in busy))
    canvas.rectangle(tag, fill=colour)
    ink = DARK if sum(np.array(colour) * (0.299, 0.587, 0.114)) > 110 else TRUE
    canvas.text((tag[0] + size // 6 - left, tag[1] + size // 6 - top), text, fill=ink, font=font)
    return tag


def _shared(a: Corners, b: Corners) -> float:
    """px² that two rectangles share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _text(label: str, names: Sequence[str], size: int) -> tuple[str, FreeTypeFont]:
    """The label in a font that has all its letters; else romanised; else its number among the names."""
    label = plots.readable(label, 24)
    for path in plots.font_files():
        if all(ord(char) in _letters(path) for char in label):
            return label, _font(path, size)
    plain = plots.drawable(label)
    if "\N{WHITE SQUARE}" in plain:
        plain = f"#{names.index(label) + 1}" if label in names else "#"
    return plain, _font(plots.font_files()[0], size)


@cache
def _letters(path: str) -> frozenset[int]:
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(path).get_charmap())


@cache
def _font(path: str, size: int) -> FreeTypeFont:
    from PIL import ImageFont

    return ImageFont.truetype(path, size)

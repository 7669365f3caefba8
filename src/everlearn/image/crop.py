"""The one way to cut a box out of an image, for what is learned of crops and for what is answered of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everlearn.types import Box, Image

MARGIN = 0.05
RULE = "crop 1: the box and a twentieth of its sides around it, whole pixels, cut at the image's edge"
"""What decides the pixels of a crop; a part of what decides its features."""


def crop(pixels: Image, box: Box) -> Image:
    """(H, W, 3) -> (h, w, 3), a view: the box with a little of what is around it, so that a box that is drawn a little
    tighter shows the same thing. Always a pixel at least."""
    height, width = pixels.shape[:2]
    left, right = _span(box.x, box.width, width)
    top, bottom = _span(box.y, box.height, height)
    return pixels[top:bottom, left:right]


def _span(start: float, length: float, side: int) -> tuple[int, int]:
    """First pixel and the one after the last."""
    first = min(max(math.floor((start - MARGIN * length) * side), 0), side - 1)
    last = min(max(math.ceil((start + (1 + MARGIN) * length) * side), first + 1), side)
    return first, last

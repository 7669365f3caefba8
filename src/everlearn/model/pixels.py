"""From an image of any size to the fixed input of a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as Pillow

from everlearn.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.types import Image

RULE = "Pillow bicubic with antialiasing to a square, the aspect is not kept"
"""Pillow resizes 8-bit images in fixed-point arithmetic, so the result is the same on every machine."""
FILTERS = {one.name.lower(): one for one in Pillow.Resampling}


@dataclass(frozen=True, slots=True)
class Fit:
    """How an image becomes a square. filter: Pillow's name of it.

    crop: pixels that the shorter side is brought to before the square is cut from the middle; None: the whole image,
    whose aspect is not kept.
    """

    filter: str = "bicubic"
    crop: int | None = None

    def __post_init__(self) -> None:
        if self.filter not in FILTERS or not 1 <= (self.crop or 1) <= 8192:
            raise ValueError(f"{self} is no way to fit an image")

    def __str__(self) -> str:
        return f"{self.filter} {self.crop or 'whole'}"

    @classmethod
    def parse(cls, text: str) -> Fit:
        """The reverse of str(). Raises ValueError."""
        name, _, crop = text.partition(" ")
        return cls(name, None if crop in ("", "whole") else int(crop))

    @property
    def rule(self) -> str:
        """In words; a part of what decides the features."""
        if self.crop is None:
            return RULE.replace("bicubic", self.filter)
        cut = f"Pillow {self.filter} with antialiasing, shorter side to {self.crop} px, the square in the middle"
        return f"{cut}; what has the square's size already is left as it is"


WHOLE = Fit()


def prepare(images: Sequence[Image], size: int, fit: Fit = WHOLE) -> NDArray[np.uint8]:
    """Images of any size, (H, W, 3) or grey (H, W) -> (N, size, size, 3) uint8. Raises BadInput for anything else."""
    found = np.empty((len(images), size, size, 3), np.uint8)
    for slot, image in zip(found, images, strict=True):
        slot[:] = _resized(np.asarray(image), size, fit)
    return found


def _resized(image: NDArray[np.uint8], size: int, fit: Fit) -> NDArray[np.uint8]:
    grey = image.ndim == 2
    if image.dtype != np.uint8 or not image.size or not (grey or (image.ndim == 3 and image.shape[2] == 3)):
        raise BadInput(
            f"An image must be (height, width, 3) uint8; this is {image.shape} {image.dtype}.",
            "Decode it with everlearn.",
        )
    if image.shape[:2] != (size, size):  # what was prepared before stays as it is
        box = None if fit.crop is None else _middle(image.shape[0], image.shape[1], size, max(fit.crop, size))
        image = np.asarray(Pillow.fromarray(image).resize((size, size), FILTERS[fit.filter], box))
    return image[:, :, None] if grey else image


def _middle(height: int, width: int, size: int, shorter: int) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in the image's own pixels of the square that lies in the middle once the shorter side
    is `shorter` px. Only the square is computed: a strip of 1 x 10,000 pixels would be large as a whole."""
    least = min(height, width)
    sides = (int(shorter * width / least), int(shorter * height / least))
    corner = tuple(round((side - size) / 2.0) for side in sides)
    scale = (width / sides[0], height / sides[1])
    left, top = corner[0] * scale[0], corner[1] * scale[1]
    return left, top, min(left + size * scale[0], width), min(top + size * scale[1], height)

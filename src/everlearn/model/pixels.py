"""From an image of any size to the fixed input of a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as Pillow

from everlearn.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.types import Image

RULE = "Pillow bicubic with antialiasing to a square, the aspect is not kept"
"""Pillow resizes 8-bit images in fixed-point arithmetic, so the result is the same on every machine."""


def prepare(images: Sequence[Image], size: int) -> NDArray[np.uint8]:
    """Images of any size, (H, W, 3) or grey (H, W) -> (N, size, size, 3) uint8. Raises BadInput for anything else."""
    found = np.empty((len(images), size, size, 3), np.uint8)
    for slot, image in zip(found, images, strict=True):
        slot[:] = _resized(np.asarray(image), size)
    return found


def _resized(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    grey = image.ndim == 2
    if image.dtype != np.uint8 or not image.size or not (grey or (image.ndim == 3 and image.shape[2] == 3)):
        raise BadInput(
            f"An image must be (height, width, 3) uint8; this is {image.shape} {image.dtype}.",
            "Decode it with everlearn.",
        )
    if image.shape[:2] != (size, size):
        image = np.asarray(Pillow.fromarray(image).resize((size, size), Pillow.Resampling.BICUBIC))
    return image[:, :, None] if grey else image

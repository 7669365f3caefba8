"""Two published policies: which of fourteen operations happen to an image, and how strongly.

RandAugment (Cubuk et al., 2020, arXiv:1909.13719): two operations, each at 9/30 of its most. TrivialAugment (Müller &
Hutter, 2021, arXiv:2103.10158): one operation, at a strength drawn anew each time. Operations and strengths are those
of torchvision's `v2.RandAugment` and `v2.TrivialAugmentWide`, colours are changed by its own functions; what turns and
shifts is one matrix, so that boxes and points move too, and what comes in at the border is mirrored instead of black.
None of the operations mirrors an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torchvision.transforms.v2 import functional as F

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

GEOMETRY = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
SIGNED = (*GEOMETRY, "Brightness", "Color", "Contrast", "Sharpness")
OPERATIONS = (
    "Identity", *SIGNED, "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip
BINS = 31
"""Strengths between none and the most, both included."""

Step = tuple[str, float]
"""An operation's name and its magnitude, in the operation's own unit."""


@dataclass(frozen=True, slots=True)
class Policy:
    """operations: in one image. bin: their strength, of 0-30; None: drawn. The rest is the most of each: shear as a
    share, translate in pixels or (negative) as a share of the side, rotate in degrees, colour as a share, posterize
    in bits that are lost."""

    operations: int
    bin: int | None
    shear: float
    translate: float
    rotate: float
    colour: float
    posterize: int

    def steps(self, drawn: NDArray[np.float64], height: int, width: int) -> list[Step]:
        """(3 x operations,) numbers in [0, 1) -> what happens to one image."""
        found = []
        for which, strength, way in drawn[: 3 * self.operations].reshape(-1, 3).tolist():
            name = OPERATIONS[int(which * len(OPERATIONS))]
            bin = int(strength * BINS) if self.bin is None else self.bin
            magnitude = self.magnitude(name, bin, height, width)
            found.append((name, -magnitude if name in SIGNED and way < 0.5 else magnitude))
        return found

    def magnitude(self, name: str, bin: int, height: int, width: int) -> float:
        share = bin / (BINS - 1)
        match name:
            case "ShearX" | "ShearY":
                return self.shear * share
            case "TranslateX" | "TranslateY":
                side = width if name == "TranslateX" else height
                return share * (self.translate if self.translate >= 0 else -self.translate * side)
            case "Rotate":
                return self.rotate * share
            case "Brightness" | "Color" | "Contrast" | "Sharpness":
                return self.colour * share
            case "Posterize":
                return float(8 - round(self.posterize * share))
            case "Solarize":
                return 1 - share
        return 0.0


POLICIES = {
    "randaugment": Policy(2, 9, shear=0.3, translate=-150 / 331, rotate=30, colour=0.9, posterize=4),
    "trivialaugment": Policy(1, None, shear=0.99, translate=32, rotate=135, colour=0.99, posterize=6),
}


def matrix(step: Step, height: int, width: int) -> NDArray[np.float64]:
    """(3, 3): where a point (x, y, 1) of the image goes; the identity for what changes colours only."""
    name, value = step
    found = np.eye(3)
    match name:
        case "ShearX":  # about the upper left corner, as published
            found[0, 1] = -value
        case "ShearY":
            found[1, 0] = -value
        case "TranslateX":
            found[0, 2] = int(value)
        case "TranslateY":
            found[1, 2] = int(value)
        case "Rotate":
            found = about(rotation(math.radians(value)), height, width)
    return found


def rotation(angle: float) -> NDArray[np.float64]:
    """(2, 2); angle in radians, counter-clockwise on the screen, where y points down."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])


def about(linear: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """(..., 2, 2) about the origin -> (..., 3, 3) about the image's centre."""
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    found = np.zeros((*linear.shape[:-2], 3, 3))
    found[..., :2, :2], found[..., 2, 2] = linear, 1
    found[..., :2, 2] = centre - linear @ centre
    return found


def recoloured(image: Tensor, step: Step) -> Tensor:
    """(3, H, W) uint8 -> the same after an operation on colours; geometry is left to `matrix`."""
    name, value = step
    match name:
        case "Brightness":
            return F.adjust_brightness(image, 1 + value)
        case "Color":
            return F.adjust_saturation(image, 1 + value)
        case "Contrast":
            return F.adjust_contrast(image, 1 + value)
        case "Sharpness":
            return F.adjust_sharpness(image, 1 + value)
        case "Posterize":
            return F.posterize(image, int(value))
        case "Solarize":
            return F.solarize(image, 255 * value)
        case "AutoContrast":
            return F.autocontrast(image)
        case "Equalize":
            return F.equalize(image)
    return image

"""Transforms of an image and of the points on it, in numpy and OpenCV.

A transform is a small frozen value, called with `(image, points, rng)`. The image is (H, W, 3) uint8 RGB and is not
changed; points are (K, 2) float64, x to the right and y down in pixels, (0, 0) the centre of the upper left pixel, or
None. Randomness is an argument, so the same generator gives the same result. Every strength is the most that may
happen: what does happen is drawn evenly between none and that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from everlearn.types import Box, SampleId

if TYPE_CHECKING:
    from everlearn.config import Augment
    from everlearn.types import Image

Points = NDArray[np.float64]

BORDER = cv2.BORDER_REFLECT_101
"""What comes in from outside is mirrored at the border: no new edge, no new colour."""


LEVELS = np.arange(256, dtype=np.float64)
_STRIP = 1 << 20  # values


class Transform(Protocol):
    def __call__(
        self, image: Image, points: Points | None, rng: np.random.Generator
    ) -> tuple[Image, Points | None]: ...


@dataclass(frozen=True, slots=True)
class Rotate:
    """About the centre, to either side. degrees: counter-clockwise on the screen where positive."""

    degrees: float

    def __call__(self, image: Image, points: Points | None, rng: np.random.Generator) -> tuple[Image, Points | None]:
        height, width = image.shape[:2]
        centre = ((width - 1) / 2, (height - 1) / 2)
        matrix = cv2.getRotationMatrix2D(centre, rng.uniform(-self.degrees, self.degrees), 1.0)  # (2, 3)
        turned = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=BORDER)
        return _plain(turned), None if points is None else points @ matrix[:, :2].T + matrix[:, 2]


@dataclass(frozen=True, slots=True)
class Flip:
    """Left for right. It changes what digits, text and many signs mean."""

    chance: float = 0.5

    def __call__(self, image: Image, points: Points | None, rng: np.random.Generator) -> tuple[Image, Points | None]:
        if rng.random() >= self.chance:
            return image, points
        moved = None if points is None else points * (-1.0, 1.0) + (image.shape[1] - 1, 0.0)
        return np.ascontiguousarray(image[:, ::-1]), moved


@dataclass(frozen=True, slots=True)
class Shift:
    """By whole pixels, along both axes. share: of the side."""

    share: float

    def __call__(self, image: Image, points: Points | None, rng: np.random.Generator) -> tuple[Image, Points | None]:
        height, width = image.shape[:2]
        x, y = np.rint(rng.uniform(-self.share, self.share, 2) * (width, height)).astype(int).tolist()
        framed = cv2.copyMakeBorder(image, max(y, 0), max(-y, 0), max(x, 0), max(-x, 0), BORDER)
        top, left = max(-y, 0), max(-x, 0)
        moved = None if points is None else points + np.array((x, y))
        return np.ascontiguousarray(framed[top : top + height, left : left + width]), moved


@dataclass(frozen=True, slots=True)
class Brightness:
    """share: of full white, added or taken away."""

    share: float

    def __call__(self, image: Image, points: Points | None, rng: np.random.Generator) -> tuple[Image, Points | None]:
        return _mapped(image, LEVELS + 255 * rng.uniform(-self.share, self.share)), points


@dataclass(frozen=True, slots=True)
class Contrast:
    """share: by which the distance from the mean grey grows or shrinks."""

    share: float

    def __call__(self, image: Image, points: Points | None, rng: np.random.Generator) -> tuple[Image, Points | None]:
        mean = image.mean()
        return _mapped(image, mean + (LEVELS - mean) * (1 + rng.uniform(-self.share, self.share))), points


@dataclass(frozen=True, slots=True)
class Noise:
    """Gaussian, each channel of each pixel by itself. share: standard deviation as a share of full white."""

    share: float

    def __call__(self, image: Image, points: Points | None, rng: np.random.Generator) -> tuple[Image, Points | None]:
        sigma = np.float32(255 * rng.uniform(0, self.share))
        noisy = np.empty_like(image)
        rows = max(1, _STRIP // image[0].size)
        for top in range(0, len(image), rows):  # in strips: a large image as float would take gigabytes
            strip = image[top : top + rows]
            values = rng.standard_normal(strip.shape, dtype=np.float32)
            noisy[top : top + rows] = np.rint(strip + sigma * values).clip(0, 255)
        return noisy, points


@dataclass(frozen=True, slots=True)
class Blur:
    """Gaussian. share: standard deviation as a share of the shorter side."""

    share: float

    def __call__(self, image: Image, points: Points | None, rng: np.random.Generator) -> tuple[Image, Points | None]:
        sigma = rng.uniform(0, self.share) * min(image.shape[:2])
        return _plain(cv2.GaussianBlur(image, (0, 0), max(sigma, 1e-3), borderType=BORDER)), points


@dataclass(frozen=True, slots=True)
class Erase:
    """One rectangle in the image's mean colour. share: of the image's area. Sides between 1:3 and 3:1.

    Zhong et al., "Random Erasing Data Augmentation", 2020, arXiv:1708.04896.
    """

    share: float

    def __call__(self, image: Image, points: Points | None, rng: np.random.Generator) -> tuple[Image, Points | None]:
        height, width = image.shape[:2]
        area, aspect = rng.uniform(0, self.share), np.exp(rng.uniform(-np.log(3), np.log(3)))
        erased = image.copy()
        erased[rectangle(height, width, area, aspect, rng.random(2))] = np.rint(image.mean(axis=(0, 1)))
        return erased, points


def chain(settings: Augment) -> tuple[Transform, ...]:
    """What the configuration's section `augment` asks for: geometry, then light, then what a lens and a sensor do."""
    wanted: tuple[tuple[float, Transform], ...] = (
        (settings.flip, Flip()),
        (settings.rotation, Rotate(settings.rotation)),
        (settings.shift, Shift(settings.shift)),
        (settings.contrast, Contrast(settings.contrast)),
        (settings.brightness, Brightness(settings.brightness)),
        (settings.blur, Blur(settings.blur)),
        (settings.noise, Noise(settings.noise)),
        (settings.erase, Erase(settings.erase)),
    )
    return tuple(transform for strength, transform in wanted if strength)


def apply(
    transforms: Iterable[Transform], image: Image, points: Points | None, rng: np.random.Generator
) -> tuple[Image, Points | None]:
    """One after another."""
    for transform in transforms:
        image, points = transform(image, points, rng)
    return image, points


def apply_to_boxes(
    transforms: Iterable[Transform], image: Image, boxes: Sequence[Box], rng: np.random.Generator
) -> tuple[Image, list[Box]]:
    """A turned box becomes the upright one around it, cut at the image's border; one outside of the image is gone."""
    height, width = image.shape[:2]
    sides = [(b.x, b.y, b.x + b.width, b.y + b.height) for b in boxes]
    scale = np.array((width, height, width, height), np.float64)
    image, moved = apply(transforms, image, corners(np.array(sides, np.float64).reshape(-1, 4) * scale), rng)
    assert moved is not None
    found = []
    for box, sides_now, there in zip(boxes, *around(moved, height, width), strict=True):
        if there:
            x, y, right, bottom = (float(value) for value in sides_now / scale)
            found.append(replace(box, x=x, y=y, width=right - x, height=bottom - y))
    return image, found


def corners(boxes: NDArray[np.floating]) -> Points:
    """(K, 4) left, top, right and bottom edge in pixels, 0 the image's own edge -> (4K, 2) points."""
    found: Points = np.asarray(boxes, np.float64)[:, [0, 1, 2, 1, 0, 3, 2, 3]].reshape(-1, 2)
    return found - 0.5  # edges lie between pixel centres


def around(points: Points, height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(4K, 2) moved corners -> (K, 4) the upright boxes around them, cut at the image's border, and which of them still
    show something."""
    inside = (points + 0.5).clip(0, (width, height)).reshape(-1, 4, 2)
    low, high = inside.min(1), inside.max(1)
    return np.concatenate([low, high], 1), (high > low).all(1)


def rectangle(
    height: int, width: int, area: float, aspect: float, at: Sequence[float] | NDArray[np.float64]
) -> tuple[slice, slice]:
    """Where a rectangle lies: rows and columns. area: share of the image's; aspect: height by width; at: (2,) of
    0..1, how far down and right among the places where it fits."""
    tall = min(height, round(float(np.sqrt(area * height * width * aspect))))
    wide = min(width, round(float(np.sqrt(area * height * width / aspect))))
    top, left = int(at[0] * (height - tall + 1)), int(at[1] * (width - wide + 1))
    return slice(top, top + tall), slice(left, left + wide)


def generator(parent: SampleId, copy: int) -> np.random.Generator:
    """The randomness of one copy of one image, and of nothing else."""
    seed = hashlib.sha256(f"everlearn augment\0{parent}\0{copy}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(seed, "big")))


def _mapped(image: Image, values: NDArray[np.float64]) -> Image:
    """values: (256,), what each level becomes; rounded and cut to 0-255."""
    return _plain(cv2.LUT(image, np.rint(values).clip(0, 255).astype(np.uint8)))


def _plain(image: NDArray[Any]) -> Image:
    return np.ascontiguousarray(image, dtype=np.uint8)

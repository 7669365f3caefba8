"""Is one image fit to learn from? Everything is measured on one small grey copy, made from the one decode.

The copy's longer side is at most 128 pixels, so the measures mean the same for a thumbnail and for a photo of 50
megapixels, and they cost the same. Smaller images are measured as they are, never enlarged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.types import Image

Reason = Literal["too_small", "odd_aspect", "dark", "bright", "low_contrast", "low_information", "blurry"]

SIDE = 128
"""Longer side of the grey copy that is measured, in pixels."""


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """What an image must reach (min_…), and the value at which its scaled score is full (good_…).

    A scaled score is value / good_…, at most 1. Set a min_… to 0 to switch its check off.

    min_side: shorter side in pixels.
    min_aspect: shorter side / longer side.
    min_brightness: luminance (0-1) that the brightest hundredth of the pixels reaches. A digit on black is not
        dark: its strokes are bright.
    min_darkness: 1 - luminance that the darkest hundredth of the pixels stays below. Ink on white paper is not bright.
    min_contrast: luminance (0-1) between the darkest and the brightest hundredth.
    min_information: entropy of the grey histogram, in bits (0-8). A pen drawing has about 1.
    min_sharpness: standard deviation of the Laplacian / standard deviation of the picture, so that neither low contrast
        nor much empty ground counts as blur.
    """

    min_side: int = 8
    min_aspect: float = 0.35
    min_brightness: float = 0.32
    min_darkness: float = 0.05
    min_contrast: float = 0.08
    min_information: float = 0.3
    min_sharpness: float = 0.13
    good_side: int = 8
    good_brightness: float = 0.5
    good_darkness: float = 0.15
    good_contrast: float = 0.25
    good_sharpness: float = 0.22


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with an image: the measured value and the limit that it does not reach."""

    reason: Reason
    value: float
    limit: float

    def __str__(self) -> str:
        return f"{self.reason} ({self.value:.3g}, limit {self.limit:.3g})"


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured of one image (units in QualityLimits), and what follows from it.

    score: 0-1, the least of sharpness_score, exposure_score, contrast_score and size_score (each 0-1).
    mean: mean luminance, 0-1. clipped_dark, clipped_bright: shares of pixels at the ends of the scale. These three are
        told, not judged.
    findings: every limit that is not reached, the gravest first; empty where the image is fit.
    """

    score: float
    sharpness_score: float
    exposure_score: float
    contrast_score: float
    size_score: float
    width: int
    height: int
    aspect: float
    sharpness: float
    brightness: float
    darkness: float
    contrast: float
    information: float
    mean: float
    clipped_dark: float
    clipped_bright: float
    findings: tuple[Finding, ...]

    @property
    def fit(self) -> bool:
        return not self.findings


def small_grey(pixels: Image) -> NDArray[np.uint8]:
    """(H, W, 3) -> (h, w) uint8 luminance (BT.601) with the longer side at most SIDE; what all checks look at.

    First the mean over whole squares of pixels, which is quick, then the rest of the way, a factor below 2, linearly.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    scale = SIDE / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        square = max(height, width) // SIDE
        if min(height, width) < 8 * square:  # a strip, of which whole squares would leave nothing
            return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        if square > 1:
            rows, columns = height // square, width // square
            whole = grey[: rows * square, : columns * square]
            grey = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(grey, dtype=np.uint8)


def examine(pixels: Image, limits: QualityLimits | None = None, grey: NDArray[np.uint8] | None = None) -> Quality:
    """Measure one image. pixels: (H, W, 3) uint8 RGB; grey: its `small_grey`, where the caller has it already."""
    limits = limits or QualityLimits()
    grey = small_grey(pixels) if grey is None else grey
    height, width = pixels.shape[:2]
    side, aspect = min(height, width), min(height, width) / max(height, width)

    histogram = np.bincount(grey.ravel(), minlength=256)
    shares = histogram / grey.size
    lowest, highest = (
        int(level) for level in np.searchsorted(np.cumsum(histogram), [0.01 * grey.size, 0.99 * grey.size])
    )
    brightness, darkness, contrast = highest / 255, 1 - lowest / 255, (highest - lowest) / 255
    present = shares[shares > 0]
    information = max(0.0, -float(present @ np.log2(present)))
    sharpness = sharpness_of(grey)

    scores = {
        "sharpness_score": _scaled(sharpness, limits.good_sharpness),
        "exposure_score": min(_scaled(brightness, limits.good_brightness), _scaled(darkness, limits.good_darkness)),
        "contrast_score": _scaled(contrast, limits.good_contrast),
        "size_score": _scaled(side, limits.good_side),
    }
    checks: tuple[tuple[Reason, float, float], ...] = (
        ("too_small", side, limits.min_side),
        ("odd_aspect", aspect, limits.min_aspect),
        ("dark", brightness, limits.min_brightness),
        ("bright", darkness, limits.min_darkness),
        ("low_contrast", contrast, limits.min_contrast),
        ("low_information", information, limits.min_information),
        ("blurry", sharpness, limits.min_sharpness),
    )
    return Quality(
        score=min(scores.values()),
        **scores,
        width=width,
        height=height,
        aspect=aspect,
        sharpness=sharpness,
        brightness=brightness,
        darkness=darkness,
        contrast=contrast,
        information=information,
        mean=float(shares @ np.arange(256)) / 255,
        clipped_dark=float(shares[:3].sum()),
        clipped_bright=float(shares[253:].sum()),
        findings=tuple(Finding(reason, float(value), limit) for reason, value, limit in checks if value < limit),
    )


def sharpness_of(grey: NDArray[np.uint8]) -> float:
    """Standard deviation of the Laplacian over that of the picture: the mean squared spatial frequency, if you like.

    The variance of the Laplacian (Pech-Pacheco et al. 2000) alone is small wherever contrast is low or ground is empty;
    divided by the picture's own variance it speaks of the edges only. One grey level squared in the denominator keeps
    a flat picture at 0.
    """
    _, laplacian = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S, ksize=1))
    _, spread = cv2.meanStdDev(grey)
    return float(laplacian[0, 0] / np.sqrt(spread[0, 0] ** 2 + 1))


def _scaled(value: float, good: float) -> float:
    return float(min(1.0, max(0.0, value / good))) if good > 0 else 1.0

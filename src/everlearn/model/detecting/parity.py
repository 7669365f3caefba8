"""Whether two forms of one detector find the same boxes: torch's and its ONNX file's, before that takes its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.errors import Corrupt
from everlearn.model.detecting.detector import MOST, Detector

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.types import Box, Image

TOLERANCE = 1e-3  # of a box's sides as shares of the image's, and of its confidence
_LEAST = 0.001
_TIES = 0.01  # share of boxes whose two surest classes are so alike that a rounding decides
_SURE = 0.05  # confidence below which such ties are not counted: a network that has hardly learned has many of them


def check(first: Detector, second: Detector, images: Sequence[Image], tolerance: float = TOLERANCE) -> float:
    """The largest difference of a box's corner, as a share of the image's sides, or of its confidence, over all boxes
    of these images. Nothing is suppressed before they are compared, so that no rounding decides which box is left.

    Raises Corrupt where it is beyond the tolerance, or the two name other classes.
    """
    if first.classes != second.classes:
        raise Corrupt(f"{second.spec} names other classes than {first.spec}.", "Export it again.")
    worst, boxes, ties = 0.0, 0, 0
    found = (one.detect(images, least=_LEAST, overlap=1.0) for one in (first, second))
    for here, there in zip(*found, strict=True):
        for one, other in ((here, there), (there, here)):
            differences, others = _differences(one, other, tolerance)
            worst, boxes, ties = max(worst, differences.max(initial=0)), boxes + len(differences), ties + others
    if not worst <= tolerance or ties > max(1, _TIES * boxes):
        what = f"a box by {worst:.2g}" if not worst <= tolerance else f"the class of {ties} boxes of {boxes}"
        raise Corrupt(f"{second.spec} differs from {first.spec} in {what}.", "Report this.")
    return float(worst)


def _differences(one: Sequence[Box], other: Sequence[Box], tolerance: float) -> tuple[NDArray[Any], int]:
    """How far each box is from the nearest among the other's, and how many of these nearest are of another class.

    Boxes whose confidence is within the tolerance of where a list ends may stand in one list alone and are left out.
    """
    least = max([_LEAST, *(boxes[-1].confidence or 0 for boxes in (one, other) if len(boxes) == MOST)]) + tolerance
    sure = [box for box in one if (box.confidence or 0) > least]
    if not sure:
        return np.zeros(0), 0
    if not other:
        return np.full(len(sure), np.inf), 0
    apart = np.abs(_corners(sure)[:, None] - _corners(other)[None]).max(2)
    named = np.array([box.label for box in sure])[:, None] == np.array([box.label for box in other])[None]
    alike = np.where(named, apart, np.inf).min(1)
    nearest = apart.min(1)
    turned = (alike > tolerance) & (nearest <= tolerance)
    told = np.array([(box.confidence or 0) >= _SURE for box in sure])
    return np.where(turned, nearest, alike), int((turned & told).sum())


def _corners(boxes: Sequence[Box]) -> NDArray[np.float64]:
    """(K, 5) x1 y1 x2 y2 confidence"""
    return np.array([(b.x, b.y, b.x + b.width, b.y + b.height, b.confidence or 0) for b in boxes], np.float64)

"""Precision against recall, and precision, recall and F1 against the confidence, at an overlap of 0.5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from everlearn.evaluate.detection.matching import Matched
from everlearn.evaluate.detection.precision import RECALLS, ranked
from everlearn.evaluate.figures import Result

if TYPE_CHECKING:
    from everlearn.evaluate.figures import Floats

SHOWN = 20
"""Classes above which there is the mean alone."""
CONFIDENCES: Floats = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True)
class Curve(Result):
    """One class, or "" for the mean over the classes of the truth. over_recall: the precision at the 101 recalls 0 to
    1; precision, recall, f1: at the 101 confidences 0 to 1, as `detection` has them (0 where nothing is found)."""

    name: str
    over_recall: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]


def curves(matched: Matched) -> tuple[Curve, ...]:
    """The mean, then up to `SHOWN` classes. Empty without a true box."""
    rows = ranked(matched)
    ends = np.searchsorted(matched.found.label[rows], np.arange(1, len(matched.classes)))
    boxes = np.bincount(matched.truth.label, minlength=len(matched.classes))
    names, each = [], []
    for number, own in enumerate(np.split(rows, ends)):
        if boxes[number]:
            names.append(matched.classes[number])
            each.append(_curves(matched.hit[0, own], matched.found.confidence[own], int(boxes[number])))
    if not each:
        return ()
    shown = [("", np.mean(each, axis=0)), *zip(names, each, strict=True)][: 1 if len(each) > SHOWN else None]
    return tuple(Curve(name, *(tuple(np.round(line, 4).tolist()) for line in lines)) for name, lines in shown)


def _curves(hit: Floats, confidence: Floats, boxes: int) -> Floats:
    """hit, confidence: (n,) of the boxes of one class, surest first. -> (4, 101)"""
    right, count = np.cumsum(hit), np.arange(1, len(hit) + 1)
    beyond = np.maximum.accumulate((right / count)[::-1])[::-1]
    at = np.searchsorted(right / boxes, RECALLS, "left")
    found = np.searchsorted(-confidence, -CONFIDENCES, "right")  # how many are at or above each confidence
    right = np.append(0, right)[found]
    precision = np.divide(right, found, out=np.zeros(len(found)), where=found > 0)
    return np.stack([np.append(beyond, 0.0)[at], precision, right / boxes, 2 * right / (found + boxes)])

"""Average precision of one ranking, for many weightings of its images at once.

AP is the mean, over the 101 recalls 0, 0.01, … 1, of the best precision reached at that recall or beyond (pycocotools'
`accumulate`). Only right boxes can raise the precision, so that a ranking is kept as its right boxes and, for each, how
many boxes of each image stand between it and the one before. Weights are how often an image counts: once each for the
measured value, 0 or 1 for one camera, its multiplicity for a bootstrap resample. The matching is never computed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from everlearn.evaluate.detection.matching import Bools, Matched
    from everlearn.evaluate.figures import Floats, Ints

RECALLS: Floats = np.linspace(0.0, 1.0, 101)
CELLS = 2_000_000
"""Numbers held at once, to bound the memory."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The boxes found of one class, surest first, over I images.

    hit: (T, K) whether the k-th kept box is right at each threshold; image: (K,) its image. among: sparse (K, I) boxes
    of each image from after the kept box before, up to this one. total: sparse (1, I) true boxes.
    """

    hit: Bools
    image: Ints
    among: Any
    total: Any

    def average_precision(self, weights: Floats) -> Floats:
        """weights: (I, R) -> (T, R), NaN where no true box is left."""
        step = max(1, CELLS // max(1, len(self.image), len(weights)))
        parts = [self._average_precision(weights[:, i : i + step]) for i in range(0, weights.shape[1], step)]
        return np.concatenate(parts, axis=1)

    def _average_precision(self, weights: Floats) -> Floats:
        total = (self.total @ weights)[0]  # (R,)
        seen = np.cumsum(self.among @ weights, axis=0)  # (K, R) boxes found so far
        own = weights[self.image]
        found = np.empty((len(self.hit), weights.shape[1]))
        for t, hit in enumerate(self.hit):
            right = np.cumsum(own[hit], axis=0)
            precision = right / (seen[hit] + np.spacing(1))
            beyond = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
            reached = np.divide(right, total, out=np.zeros_like(right), where=total > 0)
            recalls = np.diff(_recalls_within(reached), axis=0, prepend=0)  # (k, R) recalls first reached here
            found[t] = np.einsum("kr,kr->r", beyond, recalls) / len(RECALLS)
        return np.where(total > 0, found, np.nan)


def rankings(matched: Matched, images: Bools | None = None, levels: int | None = None) -> list[Ranking]:
    """One ranking for each class. images: (I,) those to keep, for what is asked of a part of them often; levels: the
    first so many overlaps."""
    total, rows = truths(matched), ranked(matched)
    rows = rows if images is None else rows[images[matched.found.image[rows]]]
    ends = np.cumsum(np.bincount(matched.found.label[rows], minlength=len(matched.classes)))
    hit = matched.hit[:levels]
    return [
        ranking(hit[:, own], matched.found.image[own], total[number], len(matched.images))
        for number, own in enumerate(np.split(rows, ends[:-1]))
    ]


def ranked(matched: Matched) -> Ints:
    """The found boxes by class, surest first; of equally sure ones in the order of their images. -> (N,)"""
    return np.lexsort((np.arange(len(matched.found)), -matched.found.confidence, matched.found.label))


def ranking(hit: Bools, image: Ints, total: Any, images: int) -> Ranking:
    """hit: (T, n) and image: (n,) of the boxes of one class, surest first."""
    from scipy.sparse import csr_matrix

    kept = np.flatnonzero(hit.any(axis=0))
    segment = np.searchsorted(kept, np.arange(len(image)))  # the kept box at or after each
    before = segment < len(kept)  # what stands after the last right box can no longer raise the precision
    cells = (np.ones(int(before.sum())), (segment[before], image[before]))
    return Ranking(hit[:, kept], image[kept], csr_matrix(cells, shape=(len(kept), images)), total)


def truths(matched: Matched, wanted: Bools | None = None) -> Any:
    """True boxes, or those that are wanted (G,), of each class in each image. -> sparse (C, I)"""
    from scipy.sparse import csr_matrix

    truth = matched.truth
    counted = np.ones(len(truth)) if wanted is None else wanted.astype(np.float64)
    return csr_matrix((counted, (truth.label, truth.image)), shape=(len(matched.classes), len(matched.images)))


def mean_over_classes(average: Floats) -> Floats:
    """(C, …) -> (…): the mean over the classes that have a value; NaN where none has one."""
    there = np.isfinite(average)
    with np.errstate(invalid="ignore"):
        return np.where(there, average, 0.0).sum(axis=0) / there.sum(axis=0)


def _recalls_within(recall: Floats) -> Ints:
    """How many of the 101 recalls are at or below each: exactly as `searchsorted` counts them, but faster."""
    count = (100 * recall + 1e-6).astype(np.int64)
    return count + (RECALLS[count] <= recall)

"""What does not follow from sums: head choice, temperature and thresholds, from out-of-fold scores of cached features.

Every sample is scored by weights learned without its fold. Rows are always taken in the order of their ids, and every
choice is one of a fixed grid with ties broken the same way, so the result depends on the set of samples alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import BadInput
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.head import softmax
from everlearn.learn.exact.solve import lowest

TEMPERATURES = tuple(10.0 ** (k / 40) for k in range(-240, 361))
"""Fixed grid, 6 % apart: from 10^-6 (ridge, many classes) to 10^9 (LDA, few samples)."""
_SCORES = 2**24
"""Scores that fit the search for a temperature; of more, every k-th row is taken."""
_STARTS = 4

Weights = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """The held-out view of one head. parts[k]: weights (D, C) and bias (C,) learned without fold k, or None.

    A class of which fold k has all samples has bias -inf in parts[k]: its samples cannot be answered rightly.
    """

    classes: tuple[str, ...]
    parts: tuple[Weights | None, ...]
    cached: Cached
    temperature: float = 1.0

    @cached_property
    def labels(self) -> NDArray[np.intp]:
        """(N,) column of each cached row's label."""
        return self.cached.class_rows(self.classes)

    def scores(self, every: int = 1) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        """(rows, (n, C) scores) in blocks, fold by fold, each in canonical order; with `every`, of every such row."""
        for fold, part in enumerate(self.parts):
            if part is None:
                continue
            weights, bias = part
            size = min(8192, max(256, 2**22 // len(bias)))  # a few MB of scores at a time
            for rows, phi in self.cached.blocks(self.cached.rows(fold, every), size):
                found = phi @ weights
                found += bias
                yield rows, found

    def correct(self, every: int = 1) -> int:
        """How many samples are answered rightly."""
        return sum(int((found.argmax(axis=1) == self.labels[rows]).sum()) for rows, found in self.scores(every))

    def probabilities(self) -> NDArray[np.float32]:
        """(N, C) in the order of the cached rows (not of the ids); NaN where a row's fold could not be held out."""
        found = np.full((len(self.cached.ids), len(self.classes)), np.nan, np.float32)
        for rows, scores in self.scores():
            found[rows] = softmax(scores, self.temperature)
        return found

    def answers(self) -> Answers:
        """Each scored sample's best class and its probability, in canonical order."""
        n = len(self.cached.ids)
        confidence, best = np.full(n, np.nan, np.float32), np.full(n, -1, np.intp)
        for rows, scores in self.scores():
            best[rows] = scores.argmax(axis=1)
            confidence[rows] = softmax(scores, self.temperature).max(axis=1)
        rows = self.cached.order[best[self.cached.order] >= 0]
        return Answers(rows, best[rows], confidence[rows], best[rows] == self.labels[rows])


@dataclass(frozen=True, eq=False)
class Answers:
    """rows: (n,) cached rows in the order of their ids; best: class column; confidence: its probability; correct."""

    rows: NDArray[np.intp]
    best: NDArray[np.intp]
    confidence: NDArray[np.float32]
    correct: NDArray[np.bool_]

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean()) if len(self.correct) else float("nan")


def stride(rows: int, classes: int, most: int = _SCORES) -> int:
    """Every k-th row, so that at most about `most` scores are looked at."""
    return max(1, -(-rows * classes // most))


def temperature(view: OutOfFold) -> float | None:
    """The temperature of least log loss on out-of-fold scores, from the grid; None where nothing was held out.

    (Guo et al. 2017.) The targets are smoothed by 1 / (N + 2), as Platt (1999) does: where every answer is right, log
    loss alone would choose temperature 0. Log loss is convex in 1 / temperature, so the search is exact on the grid;
    ties go to the softer.
    """
    kept, labels = [], []
    for rows, scores in view.scores(stride(len(view.cached.ids), len(view.classes))):
        known = np.isfinite(scores[np.arange(len(rows)), view.labels[rows]])
        kept.append(scores[known])
        labels.append(view.labels[rows][known])
    if not sum(map(len, kept)):
        return None
    smooth = 1.0 / (sum(map(len, kept)) + 2)
    # Per block: scores below the row's best (so that exp cannot overflow), the label's and the mean score likewise.
    blocks = []
    for scores, label in zip(kept, labels, strict=True):
        top = scores.max(axis=1, keepdims=True)
        shifted = scores - top
        mean = np.where(np.isfinite(shifted), shifted, 0).sum(axis=1, dtype=np.float64)
        mean /= np.isfinite(shifted).sum(axis=1)
        wanted = (1 - smooth) * shifted[np.arange(len(label)), label].astype(np.float64) + smooth * mean
        blocks.append((shifted, float(wanted.sum())))

    def loss(index: int) -> float:
        beta = 1.0 / TEMPERATURES[index]
        total = 0.0
        for shifted, wanted in blocks:
            partition = np.exp(shifted * np.float32(beta)).sum(axis=1)
            total += float(np.log(partition, dtype=np.float64).sum()) - beta * wanted
        return total

    return TEMPERATURES[lowest(len(TEMPERATURES), loss)]


@dataclass(frozen=True)
class Threshold:
    """Answers at least this confident are right with at least `bound` precision, at the stated confidence level.

    coverage: share of the samples that clear it; precision: among them, as seen; samples: how many they are.
    """

    threshold: float
    coverage: float
    precision: float
    bound: float
    samples: int


def precision_threshold(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], target: float = 0.95, delta: float = 0.05
) -> Threshold | None:
    """The smallest threshold whose precision is at least `target` with probability 1 - delta; None if there is none.

    Selective risk control (Geifman & El-Yaniv 2017) by fixed-sequence testing (Learn then Test, Angelopoulos et al.
    2021): from each of four starting coverages, fixed by the confidences alone, thresholds are lowered step by step as
    long as the Clopper-Pearson lower bound at delta / 4 stays at the target; the walk ends at its first failure. A
    wrong threshold needs a false rejection at the first wrong step of one of four walks, so choosing does not void the
    guarantee. It holds for new samples like these (independent, same source); the temperature, one number, is taken
    as given.
    """
    from scipy.special import betaincinv  # the quantile of Beta; scipy.stats takes half a second to import

    if not (0 < target < 1 and 0 < delta < 1):
        raise BadInput(f"a precision of {target} at delta {delta} cannot be promised.", "Give both between 0 and 1.")
    n, level = len(confidence), delta / _STARTS
    least = int(np.ceil(np.log(level) / np.log(target)))  # so many right answers in a row are needed at all
    if n < least:
        return None
    descending = np.argsort(-confidence, kind="stable")
    ranked, right = np.asarray(confidence, np.float64)[descending], np.cumsum(correct[descending])
    steps = np.unique(np.geomspace(least, n, 200).astype(np.int64))
    cuts = np.floor(ranked[steps - 1] * 1e4) / 1e4  # thresholds of four digits
    sizes = np.searchsorted(-ranked, -cuts, side="right")  # answers that clear each
    hits = right[sizes - 1]
    bounds = betaincinv(hits, sizes - hits + 1, level)
    passes = bounds >= target
    reached = -1
    for start in (len(steps) * s // _STARTS for s in range(_STARTS)):
        failures = np.flatnonzero(~passes[start:])
        reached = max(reached, (start + int(failures[0]) if len(failures) else len(steps)) - 1 if passes[start] else -1)
    if reached < 0:
        return None
    size, hit = int(sizes[reached]), int(hits[reached])
    return Threshold(round(float(cuts[reached]), 4), size / n, hit / size, float(bounds[reached]), size)


def residual_quantiles(
    residuals: NDArray[np.floating], shares: Sequence[float] = (0.5, 0.8, 0.9, 0.95)
) -> dict[float, float]:
    """Share -> |residual| that so many new samples stay within (split conformal: rank ceil((n + 1) share))."""
    ordered = np.sort(np.abs(residuals))
    ranks = {share: int(np.ceil((len(ordered) + 1) * share)) for share in shares}
    return {share: float(ordered[rank - 1]) for share, rank in ranks.items() if rank <= len(ordered)}


def model_digest(
    memory_digest: str, kind: str, alpha: float, warmth: float, thresholds: Mapping[str, float | None],
    unknown: Sequence[float] = (),
) -> str:  # fmt: skip
    """Hex SHA-256 of what decides the model: the memory, and the discrete choices made on it.

    Weights are left out: they follow from these, and their last bits differ between machines. alpha and temperature are
    points of fixed grids and thresholds have four digits, so that float noise (a few 1e-12) does not change the digest
    unless it tips one of these choices. unknown: what decides the answer `unknown`, where that is one.
    """
    parts = ["everlearn model 1", memory_digest, kind, f"{alpha:.6g}", f"{warmth:.6g}"]
    parts += [f"{name}={'none' if value is None else f'{value:.4f}'}" for name, value in sorted(thresholds.items())]
    parts += [f"unknown={' '.join(f'{value:.5g}' for value in unknown)}"] if unknown else []
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()

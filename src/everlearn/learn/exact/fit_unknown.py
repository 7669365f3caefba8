"""The rejection that keeps the false-accept rate asked for, from a memory and its cached features.

The threshold is set by impostors: each sample scored by a distance that was learned without its fold, as if its class
had never been learned, and each negative scored so. One more number, fitted to the same scores, says how fast
`unknown` becomes less likely than the best class as a row comes nearer to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.calibrate import TEMPERATURES, stride
from everlearn.learn.exact.memory import ExactMemory
from everlearn.learn.exact.openset import RANK, Curve, Cut, Distance, Floats, Rate, curve, cut, distance, equal
from everlearn.learn.exact.rejection import BLOCK, Rejection, beyond_negatives, margins, nearest, never_learned
from everlearn.learn.exact.solve import few, lowest, moments
from everlearn.learn.exact.threads import in_threads
from everlearn.naming import is_class

_SCORES = 2**27
"""Scores that the threshold is chosen on; of more, every k-th row is taken."""
_NARROWEST = 0.01
"""Least width: float32, in which models are served, tells scores apart to about 1e-5."""
_POINTS = 101
"""Points of a curve that are kept."""


@dataclass(frozen=True, eq=False)
class OpenSet:
    """What was found out of fold. cut: the threshold and its promise; rejection: None where there is no impostor to set
    it by. margins: (N,) of the cached rows, NaN where a row was not scored. negatives: samples of no class."""

    cut: Cut
    curve: Curve
    negatives: int
    margins: Floats
    rejection: Rejection | None

    def to_json(self) -> dict[str, Any]:
        """The promise and the curve, as cards and reports tell them."""
        one = self.cut
        seen = one.impostors > 0
        return {
            "false_accept": {
                "asked": one.asked, "seen": one.false_accept if seen else None, "upper": one.promised,
                "confidence": one.confidence,
            },
            "false_reject": one.false_reject if one.known else None,
            "threshold": one.threshold if seen else None,
            "kept": one.kept,
            "known": one.known,
            "impostors": one.impostors,
            "impostors_needed": one.needed,
            "negatives": self.negatives,
            "curve": points(self.curve),
        }  # fmt: skip


def open_set(
    memory: ExactMemory, classes: Sequence[str], cached: Cached, folds: Sequence[int], false_accept: Rate
) -> OpenSet:
    """The rejection that keeps a false-accept rate. classes: those of the head; every other column is of negatives.
    cached: all samples of the memory. folds: those that can be held out."""
    groups = _Groups.of(memory, classes, cached)
    near, other = (np.full(len(groups.labels), np.nan) for _ in range(2))
    known, impostors = [np.empty(0)], [np.empty(0)]
    whole, *held_out = in_threads(groups.scored, [None, *folds])
    for rows, nearest_, beside, mine, strange in (part for parts in held_out for part in parts.scores):
        near[rows], other[rows] = nearest_, beside
        accepted = beyond_negatives(nearest_, beside)
        known.append(accepted[mine])
        impostors += [accepted[~mine], strange]  # negatives, and classes of which this fold has all
    genuine, strangers = np.concatenate(known), np.concatenate(impostors)
    along = curve(genuine, strangers)
    found = equal(genuine, strangers) if false_accept == "equal" else cut(genuine, strangers, false_accept)
    rejection = None
    if found.impostors:
        width = _width(genuine - found.threshold, strangers - found.threshold)
        rejection = Rejection(whole.distance, len(classes), found.threshold, width)
    return OpenSet(found, along, int((groups.labels < 0).sum()), margins(near, other, found.threshold), rejection)


def points(found: Curve) -> list[dict[str, float | None]]:
    """A curve's points in ascending order of the threshold, thinned evenly; the first, where all is accepted, left
    out."""
    last = len(found.thresholds) - 1
    taken = sorted({round(at) for at in np.linspace(min(1, last), last, _POINTS)})
    return [
        {
            "threshold": _plain(found.thresholds[at]),
            "false_accept": _plain(found.false_accept[at]),
            "false_reject": _plain(found.false_reject[at]),
        }
        for at in taken
        if np.isfinite(found.thresholds[at])
    ]


def _plain(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


Scored = tuple[NDArray[np.intp], Floats, Floats, NDArray[np.bool_], Floats]
"""Rows; the nearest class's and the nearest negative's score of each; which are of a class that was learned; and the
scores of those as impostors."""


@dataclass(frozen=True, eq=False)
class _Fold:
    """A distance, and what it scores: nothing for the distance from all folds."""

    distance: Distance
    scores: list[Scored]


@dataclass(frozen=True, eq=False)
class _Groups:
    """order: columns of the memory, the C classes of the head first. labels: (N,) each cached row's class, -1 for
    negatives."""

    memory: ExactMemory
    cached: Cached
    order: list[int]
    classes: int
    labels: NDArray[np.intp]

    @classmethod
    def of(cls, memory: ExactMemory, classes: Sequence[str], cached: Cached) -> _Groups:
        columns = memory.columns
        order = [columns.index(name) for name in classes]
        order += [column for column, name in enumerate(columns) if name not in classes]
        place = np.full(len(columns), -1)
        place[order[: len(classes)]] = np.arange(len(classes))
        return cls(memory, cached, order, len(classes), place[cached.class_rows(columns)])

    def scored(self, fold: int | None) -> _Fold:
        """The distance from all folds but one, and that fold's rows scored by it."""
        one = self._distance(fold)
        if fold is None:
            return _Fold(one, [])
        learned = moments(self.memory, fold).counts[self.order][: self.classes] > 0
        every = stride(len(self.labels), len(self.order) + RANK, _SCORES)
        blocks = self.cached.blocks(self.cached.rows(fold, every), BLOCK)
        return _Fold(one, [self._block(one, learned, rows, phi.astype(np.float64)) for rows, phi in blocks])

    def _block(self, one: Distance, learned: NDArray[np.bool_], rows: NDArray[np.intp], x: Floats) -> Scored:
        own = self.labels[rows]
        scores = one.scores(x)
        scores[:, : self.classes][:, ~learned] = -np.inf
        mine = np.zeros(len(rows), bool)
        mine[own >= 0] = learned[own[own >= 0]]
        strange = np.empty(0)
        if learned.sum() > 1 and mine.any():
            strange = beyond_negatives(*never_learned(one, x[mine], own[mine], self.classes, learned))
        return rows, *nearest(scores, self.classes), mine, strange

    def _distance(self, without: int | None) -> Distance:
        """The distance from all folds but one.

        Negatives bend neither the covariance nor the origin, since they are many and not one; they are columns only.
        With a single class they are the rest of the world, and the origin lies between.
        """
        found = moments(self.memory, without)
        q, counts = found.q[:, self.order], found.counts[self.order]
        if self.classes == 1:
            return distance(self._gram(without, negatives=True), q, counts)
        known, beside = slice(self.classes), slice(self.classes, None)
        one = distance(self._gram(without, negatives=False), q[:, known], counts[known])
        means = q[:, beside] / np.maximum(counts[beside], 1) - one.origin[:, None]
        return replace(one, means=np.hstack([one.means, np.where(counts[beside] > 0, means, 0.0)]))

    def _gram(self, without: int | None, *, negatives: bool) -> Any:
        """X^T X of the rows of all folds but one."""
        held = np.ones(len(self.labels), bool) if without is None else np.asarray(self.cached.folds) != without
        left_out = held & (self.labels < 0) & (not negatives)
        order = self.cached.order
        if few(self.memory):
            return _OfRows(np.asarray(self.cached.phi[order[(held & ~left_out)[order]]], np.float64))
        sums = self.memory.total()
        if without is not None:
            sums.combine(self.memory.gram[without], -1)
        rows = np.flatnonzero(left_out)
        for start in range(0, len(rows), BLOCK):
            sums.add(self.cached.phi[rows[start : start + BLOCK]], -1)
        return sums.dense().astype(np.float64)


class _OfRows:
    """X^T X without making it: cheaper where there are fewer rows than half the dimensions."""

    def __init__(self, x: Floats) -> None:
        self.x = x

    def __len__(self) -> int:
        return self.x.shape[1]

    def __matmul__(self, y: Floats) -> Floats:
        return self.x.T @ (self.x @ y)  # type: ignore[no-any-return]

    def diagonal(self) -> Floats:
        return np.einsum("nd,nd->d", self.x, self.x)  # type: ignore[no-any-return]


def _width(known: Floats, impostors: Floats) -> float:
    """The w for which 1 / (1 + exp(-margin / w)) is the likeliest share of known rows at a margin, were there as many
    known as impostors; from the grid of temperatures. Targets smoothed as Platt (1999) does."""
    sides = []
    for side, sign in ((known, 1.0), (impostors, -1.0)):
        if len(side):
            sides.append((np.clip(side, -2, 2) * sign, 1 / (len(side) + 2)))

    def loss(index: int) -> float:
        beta = 1.0 / TEMPERATURES[index]
        total = 0.0
        for margin, smooth in sides:
            total += float(np.mean(np.logaddexp(0, -beta * margin) + smooth * beta * margin))
        return total

    return max(_NARROWEST, TEMPERATURES[lowest(len(TEMPERATURES), loss)])


def classes_of(memory: ExactMemory, reserved: bool) -> tuple[str, ...]:
    """The classes of a memory; without `unknown` where that is reserved for negatives."""
    return tuple(name for name in memory.classes if is_class(name, reserved))

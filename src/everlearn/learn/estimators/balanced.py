"""The heads of an estimator: ridge, shared-covariance LDA and class means, all from the solution of the ridge.

LDA needs no system of its own. With W = A^-1 Q, A = S + Q N^-1 Q^T + lambda I and P = Q^T W, its scores are the ridge's
times (N - P)^-1 (solve.py), and P follows from a corrected ridge at the cost of the corrected rows. So a corrected
LDA is the very LDA of the changed sums at the same penalty, as the ridge is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg as sl

from everlearn.learn.estimators.centred import Corrected, Floats, Solution
from everlearn.learn.exact.head import Kind
from everlearn.learn.exact.openset import Distance
from everlearn.learn.exact.solve import Moments, lda, lda_turn, plain, spheres
from everlearn.learn.exact.threads import single_blas

Head = tuple[Floats, Floats]
"""(D, C) weights, or the (C, C) turn of the ridge's scores, and (C,) bias."""
MOST_TURNED = 2048
"""Classes beyond the number of features up to which LDA is corrected; with more the sums are solved again."""


def linear(solution: Solution, kind: Kind) -> Head | None:
    """(D, C) weights on z and (C,) bias of a head; -inf for a class without rows, None where rounding leaves none."""
    found = Moments(solution.sums, solution.counts.astype(np.int64))
    if kind == "ridge":
        weights, bias = plain(solution.weights, found)
        return weights, bias + solution.scaling.base
    if kind == "mean":
        return spheres(found, solution.trace)
    both = lda(solution.weights, found)
    return None if both is None else (both[0], both[1] + allowance(solution))


def allowance(solution: Solution) -> Floats:
    """(C,) to be added to LDA's log-likelihoods, so that few rows make a class none the farther.

    The mean of n rows is off by S / n, which lowers the score of its own class by tr(S_lambda^-1 S) / 2n on average.
    Given back whole, that lets one-shot classes take from the others (as measured: 6 points of accuracy); not at all,
    they are hardly answered. Of n rows n / (n + 1) of it is given back.
    """
    return 0.5 * _effective(solution) / (solution.counts + 1)


def _effective(solution: Solution) -> float:
    """Dimensions in which rows of a class differ beyond the penalty: those that the ridge uses, if rows allow them."""
    inverse, _ = sl.lapack.dtrtri(solution.factor, lower=1)
    lower = np.tril(inverse)
    used = len(lower) - solution.penalty * float(np.einsum("ij,ij->", lower, lower))
    return min(max(0.0, used), max(0.0, solution.n - np.count_nonzero(solution.counts)))


@dataclass(eq=False)
class Answering:
    """A corrected ridge, and the head that answers from it. distance: of the open set, from the last solve."""

    corrected: Corrected
    kind: Kind = "ridge"
    distance: Distance | None = None
    _made: tuple[tuple[str, ...], int, Head] | None = field(default=None, repr=False)
    _allowed: float | None = None

    @property
    def correctable(self) -> bool:
        """Whether corrections hold for this head."""
        d, c = self.corrected.solution.weights.shape
        return self.kind != "lda" or c <= max(d, MOST_TURNED)

    def sound(self, names: tuple[str, ...]) -> bool:
        """Whether rounding leaves a head."""
        try:
            self.scores(np.zeros((1, len(self.corrected.solution.weights))), names)
        except sl.LinAlgError:
            return False
        return True

    def scores(self, x: Floats, names: tuple[str, ...]) -> Floats:
        """(N, D) -> (N, C), columns as `names`: all that are held."""
        solution = self.corrected.solution
        if self.kind == "ridge":
            return self.corrected.scores(x, names)
        if self.kind == "mean" or not self.correctable:
            weights, bias = self._once(names, self._linear)
            return solution.scaling(x) @ weights + bias
        turn, bias = self._once(names, self._turn)
        return self.corrected.scores(x, names) @ turn + bias

    def _once(self, names: tuple[str, ...], make: Callable[[tuple[str, ...]], Head]) -> Head:
        changed = len(self.corrected.signs)
        if self._made is None or self._made[:2] != (names, changed):
            self._made = names, changed, make(names)
        return self._made[2]

    def _linear(self, names: tuple[str, ...]) -> Head:
        solution = self.corrected.solution
        if self.kind == "mean":
            rows, signs = self.corrected.rows[:, :-1], np.array(self.corrected.signs)
            trace = solution.trace + float(signs @ np.einsum("kd,kd->k", rows, rows))
            counts = self.corrected.counts(names)
            return spheres(Moments(self.corrected.sums(names), counts.round().astype(np.int64)), trace)
        found = linear(solution, self.kind)
        if found is None:
            raise sl.LinAlgError("rounding has left nothing of LDA.")
        return found

    def _turn(self, names: tuple[str, ...]) -> Head:
        solution = self.corrected.solution
        counts, answered = self.corrected.counts(names), self.corrected.answered(names)
        base = counts / counts.sum() if solution.scaling.intercept else np.zeros(len(counts))
        with single_blas():
            turn = lda_turn(answered - np.outer(counts, base), counts)
        if self._allowed is None:
            self._allowed = _effective(solution)
        degrees = max(1.0, counts.sum() - len(counts))
        bias = -0.5 * (np.diagonal(turn) - degrees / counts) + 0.5 * self._allowed / (counts + 1)
        bias -= base @ turn
        return turn - turn.mean(axis=1, keepdims=True), bias - bias.mean()

    def known(self, x: Floats, names: tuple[str, ...]) -> Floats:
        """(N, D) -> (N, C) of the open set's distance, with the means of the classes as they are now."""
        assert self.distance is not None
        return self.moved(names).scores(self.corrected.solution.scaling(x))

    def moved(self, names: tuple[str, ...]) -> Distance:
        assert self.distance is not None
        if not self.corrected.signs:
            return self.distance
        means = self.corrected.sums(names) / self.corrected.counts(names) - self.distance.origin[:, None]
        return Distance(self.distance.origin, means, self.distance.flat, self.distance.damp, len(names))

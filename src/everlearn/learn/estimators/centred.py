"""Ridge on centred, standardised features from sums, its penalty by fold error; and corrections of a few rows.

Mean and spread of a feature follow from the exact sums, so standardising at the time of solving depends on the set of
samples alone. lambda = alpha * n with alpha on the grid of solve.py. A correction is Woodbury's identity on the factor
of the last solve: with rows U (signs S, +1 learned, -1 forgotten) and targets Y,
W' = W + B (S + U B)^-1 (Y - U W), B = A^-1 U^T: the very ridge of the changed sums at the same penalty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.linalg as sl
from numpy.typing import NDArray

from everlearn.errors import BadInput
from everlearn.learn.exact.head import Kind
from everlearn.learn.exact.solve import ALPHAS, DEFAULT_ALPHA, lowest
from everlearn.learn.exact.threads import in_threads, single_blas

Floats = NDArray[np.float64]
_SEARCH_FLOPS = 2e9  # of one solve; dearer ones (from 1,700 features on) are done fewer times
_ROWS = 32
_CONSTANT = 1e-12  # a variance below this share of the mean square is rounding


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over some rows. n; x: (D,); xx: (D, D); xy: (D, C); y: (C,); yy: Σ|y|²."""

    n: float
    x: Floats
    xx: Floats
    xy: Floats
    y: Floats
    yy: float

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(getattr(self, name) + getattr(other, name) for name in _PARTS))

    def __sub__(self, other: Moments) -> Moments:
        return Moments(*(getattr(self, name) - getattr(other, name) for name in _PARTS))

    def times(self, share: float) -> Moments:
        """The sums of rows that each count for so much."""
        return Moments(*(getattr(self, name) * share for name in _PARTS))


_PARTS = ("n", "x", "xx", "xy", "y", "yy")


@dataclass(frozen=True, eq=False)
class Scaling:
    """z = (x - mean) * inverse; inverse is 0 for a constant feature. base: (C,) mean target, 0 without intercept."""

    mean: Floats
    inverse: Floats
    base: Floats
    intercept: bool

    def __call__(self, x: Floats) -> Floats:
        return (x - self.mean) * self.inverse

    def moments(self, of: Moments) -> Moments:
        """The same sums in z, with targets less base."""
        m, b, n = self.mean, self.base, of.n
        xx = np.empty_like(of.xx)
        for at in range(0, len(m), _ROWS):  # a few rows at a time stay in the cache
            i, part = slice(at, at + _ROWS), xx[at : at + _ROWS]
            np.subtract(of.xx[i], np.outer(of.x[i], m), out=part)
            part -= np.outer(m[i], of.x)
            part += n * np.outer(m[i], m)
            part *= self.inverse
            part *= self.inverse[i, None]
        xy = of.xy - np.outer(of.x, b) - np.outer(m, of.y) + n * np.outer(m, b)
        yy = of.yy - 2 * float(b @ of.y) + n * float(b @ b)
        return Moments(n, (of.x - n * m) * self.inverse, xx, xy * self.inverse[:, None], of.y - n * b, yy)


@dataclass(frozen=True, eq=False)
class Solution:
    """scores = scaling(x) @ weights + scaling.base. factor: lower Cholesky factor of the system; n: rows.

    sums, counts: (D, C) Σz and rows per column, for other heads; xx: (D, D) Σzz^T, dropped by
    `lean`; trace: of it; penalty: lambda.
    """

    scaling: Scaling
    weights: Floats
    factor: Floats
    n: float
    sums: Floats
    counts: Floats
    xx: Floats | None
    trace: float
    penalty: float

    def scores(self, x: Floats) -> Floats:
        found: Floats = self.scaling(x) @ self.weights
        found += self.scaling.base
        return found

    def lean(self) -> Solution:
        return replace(self, xx=None)

    def plain(self) -> tuple[Floats, Floats]:
        """(D, C) weights and (C,) bias on x itself."""
        weights = self.weights * self.scaling.inverse[:, None]
        return weights, self.scaling.base - self.scaling.mean @ weights


@dataclass(frozen=True, eq=False)
class Searched:
    """held_out[k]: learned without fold k; None where fold k or all else is empty, or it was not asked for. errors:
    alpha to fold error."""

    alpha: float
    whole: Solution
    held_out: tuple[Solution | None, ...]
    errors: dict[float, float]


@dataclass(frozen=True)
class Settings:
    """alpha, head: fixed, or None to be chosen by the folds. unknown: the false-accept rate asked for, or None."""

    intercept: bool = True
    standardize: bool = True
    alpha: float | None = None
    head: Kind | None = None
    unknown: float | None = None


def scaling(total: Moments, settings: Settings) -> Scaling:
    n = max(total.n, 1.0)
    mean = total.x / n if settings.intercept else np.zeros_like(total.x)
    base = total.y / n if settings.intercept else np.zeros_like(total.y)
    square = np.diagonal(total.xx) / n
    variance = square - mean**2
    varies = variance > _CONSTANT * square
    if not settings.standardize:
        variance = np.full_like(variance, variance[varies].mean() if varies.any() else 1.0)
    inverse = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1.0)), 0.0)
    return Scaling(mean, inverse, base, settings.intercept)


class _System:
    """The sums of some rows, ready to be solved for any alpha."""

    def __init__(self, of: Moments, settings: Settings) -> None:
        self.scaling = scaling(of, settings)
        self.moments = self.scaling.moments(of)
        self.counts = of.y

    def solve(self, alpha: float) -> Solution:
        system, penalty = self.moments.xx.copy(), alpha * max(self.moments.n, 1.0)
        system.flat[:: len(system) + 1] += penalty
        factor, info = sl.lapack.dpotrf(system.T, lower=1, overwrite_a=1, clean=0)
        if info:  # a penalty this small is below the rounding of float64 on these features
            raise BadInput(f"alpha {alpha:g} is too small for these features.", "Give a larger one.")
        weights, _ = sl.lapack.dpotrs(factor, np.asfortranarray(self.moments.xy), lower=1)
        of = self.moments
        return Solution(self.scaling, weights, factor, of.n, of.xy, self.counts, of.xx, float(np.trace(of.xx)), penalty)


def solve(total: Moments, alpha: float, settings: Settings) -> Solution:
    with single_blas():
        return _System(total, settings).solve(alpha)


def search(parts: Sequence[Moments], settings: Settings, every: bool = False) -> Searched:
    """Choose alpha by the error of held-out folds (ties to the larger), solve with all rows and without each fold.

    Where a solve is dear, the rows of one fold choose, and two folds are held out; with `every`, all of them.
    """
    total = sum(parts[1:], parts[0])
    filled = [fold for fold, part in enumerate(parts) if part.n > 0]
    if len(filled) < 2:
        alpha = DEFAULT_ALPHA if settings.alpha is None else settings.alpha
        return Searched(alpha, solve(total, alpha, settings), (None,) * len(parts), {})
    flops = len(total.x) ** 2 * (len(total.x) / 3 + 4 * len(total.y))
    dear = flops > _SEARCH_FLOPS
    held = filled if every or not dear else filled[:2]
    looked = held[: 1 if parts[held[0]].n >= len(total.x) else 2] if dear else held
    systems = dict(zip(held, in_threads(lambda fold: _System(total - parts[fold], settings), held)))
    left_out = dict(zip(looked, in_threads(lambda fold: systems[fold].scaling.moments(parts[fold]), looked)))
    errors: dict[float, float] = {}

    def one(alpha: float, fold: int) -> float:
        found, out = systems[fold].solve(alpha).weights, left_out[fold]
        return out.yy - 2 * float(np.vdot(found, out.xy)) + float(np.vdot(found, out.xx @ found))

    def error(index: int) -> float:
        alpha = ALPHAS[index]
        errors[alpha] = float(sum(in_threads(lambda fold: one(alpha, fold), looked)))
        return errors[alpha]

    alpha = ALPHAS[lowest(len(ALPHAS), error)] if settings.alpha is None else settings.alpha
    solved = in_threads(lambda fold: systems[fold].solve(alpha), held)
    held_out: list[Solution | None] = [None] * len(parts)
    for fold, solution in zip(held, solved):
        held_out[fold] = solution
    return Searched(alpha, solve(total, alpha, settings), tuple(held_out), errors)


@dataclass(eq=False)
class Corrected:
    """A solution and the rows learned or forgotten since, up to a bounded number. Targets by name of their column."""

    solution: Solution
    names: tuple[str, ...]
    signs: list[float] = field(default_factory=list)
    targets: list[tuple[str, float]] = field(default_factory=list)
    rows: Floats = field(init=False)  # U (k, D + 1)
    images: Floats = field(init=False)  # B (D + 1, k)
    before: Floats = field(init=False)  # (k, C) what the solution answers to the rows
    _gain: tuple[tuple[str, ...], Floats] | None = None
    _answered: Floats | None = None

    def __post_init__(self) -> None:
        d, c = self.solution.weights.shape
        self.rows, self.images, self.before = np.zeros((0, d + 1)), np.zeros((d + 1, 0)), np.zeros((0, c))

    def change(self, x: Floats, targets: Sequence[tuple[str, float]], signs: Sequence[float]) -> None:
        """x: (b, D) rows; targets: name of the column and value; signs: +1 learned, -1 forgotten."""
        s = self.solution
        z = np.concatenate([s.scaling(x), np.full((len(x), 1), float(s.scaling.intercept))], axis=1)
        with single_blas():
            image, _ = sl.lapack.dpotrs(s.factor, np.asfortranarray(z[:, :-1].T), lower=1)
        self.rows = np.concatenate([self.rows, z])
        self.before = np.concatenate([self.before, z[:, :-1] @ s.weights + s.scaling.base])
        self.images = np.concatenate([self.images, np.concatenate([image, z[:, -1:].T / s.n])], axis=1)
        self.targets += targets
        self.signs += signs
        self._gain = None

    def gain(self, names: tuple[str, ...]) -> Floats:
        """(k, C): what the images of the rows are multiplied by."""
        if self._gain is None or self._gain[0] != names:
            miss = self.wanted(names) - self.place(self.before, names)
            gain: Floats = sl.solve(np.diag(self.signs) + self.rows @ self.images, miss)
            self._gain = names, gain
            return gain
        return self._gain[1]

    def wanted(self, names: tuple[str, ...]) -> Floats:
        """(k, C) targets of the rows."""
        at = {name: column for column, name in enumerate(names)}
        found = np.zeros((len(self.targets), len(names)))
        for row, (name, value) in enumerate(self.targets):
            if name in at:
                found[row, at[name]] += value
        return found

    def counts(self, names: tuple[str, ...]) -> Floats:
        """(C,) rows per column."""
        return self.place(self.solution.counts[None], names)[0] + np.array(self.signs) @ self.wanted(names)

    def sums(self, names: tuple[str, ...]) -> Floats:
        """(D, C) Σz per column."""
        signed = self.rows[:, :-1] * np.array(self.signs)[:, None]
        return self.place(self.solution.sums, names) + signed.T @ self.wanted(names)

    def answered(self, names: tuple[str, ...]) -> Floats:
        """(C, C) Σ over all rows of target times answer, Y^T f(X) = Q^T A^-1 Q: what other heads make of the ridge.

        With R the solution's answers to the changed rows, S their signs and R + U B gain the answers now,
        Q'^T A'^-1 Q' = Q^T A^-1 Q + R^T gain + Y^T S (R + U B gain).
        """
        s = self.solution
        if self._answered is None:
            self._answered = s.sums.T @ s.weights + np.outer(s.counts, s.scaling.base)
        found = self.place(self.place(self._answered, names).T, names).T
        if not self.signs:
            return found
        gain, before = self.gain(names), self.place(self.before, names)
        now = before + self.rows @ (self.images @ gain)
        left = np.concatenate([before, self.wanted(names)])
        return found + left.T @ np.concatenate([gain, np.array(self.signs)[:, None] * now])

    def place(self, scores: Floats, names: tuple[str, ...]) -> Floats:
        """Columns of the solution -> columns of `names`; a new class has 0."""
        if names == self.names:
            return scores
        found = np.zeros((len(scores), len(names)))
        at = {name: column for column, name in enumerate(self.names)}
        both = [(column, at[name]) for column, name in enumerate(names) if name in at]
        found[:, [new for new, _ in both]] = scores[:, [old for _, old in both]]
        return found

    def scores(self, x: Floats, names: tuple[str, ...]) -> Floats:
        """(N, D) -> (N, C), columns as `names`."""
        found = self.place(self.solution.scores(x), names)
        if self.signs:
            z = self.solution.scaling(x)
            found += (z @ self.images[:-1] + self.images[-1]) @ self.gain(names)
        return found

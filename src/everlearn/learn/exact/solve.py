"""W = (G + lambda I)^-1 Q from exact sums, with lambda chosen by fold error.

lambda = alpha * tr(G) / D with alpha on a fixed grid. The error of fold k is
n_k - 2 tr(W^T Q_k) + tr(W^T G_k W), which is ||Y_k - Phi_k W||^2, with W from the other folds: sums alone decide, so
the choice does not depend on the order in which samples came. (ACIL arXiv:2205.14922, RanPAC arXiv:2307.02251; they
choose lambda per task, which does.) Where there are fewer than D / 2 samples and their features are cached, the same
W is found from the N x N kernel: W = Phi^T (Phi Phi^T + lambda I)^-1 Y.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg as sl
from numpy.typing import NDArray

from everlearn.errors import BadInput
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.memory import ALL, TARGET, ExactMemory
from everlearn.learn.exact.sums import GramSum
from everlearn.learn.exact.threads import in_threads

Floats = NDArray[np.float64]

ALPHAS = tuple(10.0 ** (-5 + k / 3) for k in range(20))
DEFAULT_ALPHA = ALPHAS[12]
"""Where nothing can be held out: all samples in one fold."""
_SAME = 1e-9
"""Errors that differ by less, relatively, are ties: Cholesky's last bits must not choose."""
_SEARCH_FLOPS = 1e10
"""Above this cost of one solve (D about 3,000), and where samples are not few, two folds choose lambda and not all."""
_KEPT = 2**21
"""Solutions of up to so many weights are kept during the search; larger ones are solved again."""


@dataclass(frozen=True)
class Moments:
    """What a head is solved from. q: (D, C); counts: (C,), 0 where the fold held out had all; centre: mean target."""

    q: Floats
    counts: NDArray[np.int64]
    centre: float = 0.0


@dataclass(frozen=True)
class Ridge:
    """weights: (D, C); held_out[k]: (D, C) learned without fold k, None where fold k or all else is empty.

    errors: alpha to the summed fold error, for the alphas that were looked at; {} where nothing could be held out.
    """

    alpha: float
    weights: Floats
    held_out: tuple[Floats | None, ...]
    errors: dict[float, float]


def moments(memory: ExactMemory, without: int | None = None) -> Moments:
    """Q and n of all folds, or of all but one. For regression q is Σ phi (y - mean y) in steps."""
    counts, q = memory.column_counts(), memory.column_sums()
    if without is not None:
        q -= memory.column_sums(without)
    left = counts.sum(axis=0) - (counts[without] if without is not None else 0)
    if memory.target is None:
        return Moments(q.astype(np.float64), left)
    rows, steps = memory.columns.index(ALL), memory.columns.index(TARGET)
    centre = float(left[steps] / max(1, left[rows]))
    return Moments((q[:, steps] - centre * q[:, rows])[:, None], left[[rows]], centre)


def ridge(memory: ExactMemory, cached: Cached | None = None) -> Ridge:
    """Choose alpha and solve. Raises BadInput where the memory is empty."""
    if not memory.samples:
        raise BadInput("the memory is empty.", "Learn labelled samples first.")
    if cached is not None and few(memory):
        return _search(memory, _Dual(memory, cached))
    return _search(memory, _Primal(memory))


def few(memory: ExactMemory) -> bool:
    """Fewer samples than half the dimensions: the kernel is the cheaper system."""
    return memory.samples < memory.dimensions / 2


def lowest(count: int, error: Callable[[int], float]) -> int:
    """Index of the least of a unimodal sequence by Fibonacci search: 6 looks at 20 values. Ties to the larger index."""
    seen: dict[int, float] = {}

    def look(index: int) -> float:
        if index not in seen:
            seen[index] = error(index) if index < count else np.inf
        return seen[index]

    small, gap = 1, 2
    while gap < count + 1:
        small, gap = gap, small + gap
    low = -1
    while gap > 2:
        small, gap = gap - small, small  # gap: the next interval, small: the one after it
        left, right = low + small, low + gap
        if look(left) < look(right) * (1 - _SAME):
            continue
        low = left
    return low + 1


def _search(memory: ExactMemory, method: _Primal | _Dual) -> Ridge:
    filled = np.flatnonzero(memory.fold_counts)
    if len(filled) < 2:
        whole = method.solve(DEFAULT_ALPHA, None)
        return Ridge(DEFAULT_ALPHA, method.weights(whole, None), (None,) * memory.folds, {})
    searched = filled if few(memory) or method.flops <= _SEARCH_FLOPS else filled[:2]
    kept: dict[tuple[int, int], Floats] = {}
    errors: dict[float, float] = {}

    def error(index: int) -> float:
        def one(fold: int) -> float:
            solution = method.solve(ALPHAS[index], fold)
            if solution.size <= _KEPT:
                kept[index, fold] = solution
            return method.error(solution, fold)

        errors[ALPHAS[index]] = float(sum(in_threads(one, searched.tolist())))
        return errors[ALPHAS[index]]

    best = lowest(len(ALPHAS), error)

    def final(fold: int | None) -> Floats:
        found = kept.get((best, fold)) if fold is not None else None
        return method.weights(method.solve(ALPHAS[best], fold) if found is None else found, fold)

    whole, *parts = in_threads(final, [None, *filled.tolist()])
    held_out: list[Floats | None] = [None] * memory.folds
    for fold, part in zip(filled.tolist(), parts, strict=True):
        held_out[fold] = part
    return Ridge(ALPHAS[best], whole, tuple(held_out), errors)


class _Primal:
    """By Cholesky of G + lambda I, D x D."""

    def __init__(self, memory: ExactMemory) -> None:
        self.memory = memory
        self.total = memory.total()
        self.traces = [float(gram.diagonal().sum()) for gram in memory.gram]
        self.q = moments(memory).q
        d, c = self.q.shape
        self.flops = d * d * (d / 3 + 4 * c)

    def _moments(self, fold: int | None) -> Moments:
        return moments(self.memory, fold)

    def solve(self, alpha: float, fold: int | None) -> Floats:
        """(D, C) weights from all folds but this one."""
        d = self.memory.dimensions
        trace = sum(self.traces) - (self.traces[fold] if fold is not None else 0.0)
        system = self.total.triangle(None if fold is None else self.memory.gram[fold])
        system.flat[:: d + 1] += alpha * trace / d if trace > 0 else 1.0
        return _solve_positive(system, self._moments(fold).q)

    def weights(self, solution: Floats, fold: int | None) -> Floats:
        return solution

    def error(self, weights: Floats, fold: int) -> float:
        memory = self.memory
        q, counts = memory.column_sums(fold).astype(np.float64), memory.column_counts()[fold]
        energy = float(counts.sum())
        if memory.target is not None:
            centre = self._moments(fold).centre
            rows, steps = memory.columns.index(ALL), memory.columns.index(TARGET)
            energy = float(memory.squares[fold] - 2 * centre * counts[steps] + centre**2 * counts[rows])
            q = (q[:, steps] - centre * q[:, rows])[:, None]
        triangle = memory.gram[fold].triangle()
        image = sl.blas.dsymm(1.0, triangle.T, weights, lower=1)
        return energy - 2 * float(np.vdot(weights, q)) + float(np.vdot(weights, image))


class _Dual:
    """By Cholesky of Phi Phi^T + lambda I, N x N; a solution is (n, C) coefficients of the training rows."""

    def __init__(self, memory: ExactMemory, cached: Cached) -> None:
        self.dimensions = memory.dimensions
        order = cached.order
        phi = np.ascontiguousarray(cached.phi[order])
        kernel = GramSum(len(phi))
        kernel.add(phi.T)
        self.kernel = kernel.dense().astype(np.float64)
        self.phi = phi.astype(np.float64)
        self.folds = np.asarray(cached.folds)[order]
        self.regression = memory.target is not None
        if memory.target is not None:
            self.y = memory.target.fixed([cached.labels[i] for i in order]).astype(np.float64)[:, None]
        else:
            self.y = np.zeros((len(phi), len(memory.columns)))
            self.y[np.arange(len(phi)), cached.class_rows(memory.columns)[order]] = 1.0
        self.flops = 0.0

    def _rows(self, fold: int | None) -> NDArray[np.intp]:
        return np.flatnonzero(self.folds != fold) if fold is not None else np.arange(len(self.y))

    def _centre(self, rows: NDArray[np.intp]) -> float:
        return float(self.y[rows].sum() / len(rows)) if self.regression else 0.0

    def solve(self, alpha: float, fold: int | None) -> Floats:
        rows = self._rows(fold)
        system = self.kernel[np.ix_(rows, rows)]
        trace = float(np.trace(system))
        system.flat[:: len(rows) + 1] += alpha * trace / self.dimensions if trace > 0 else 1.0
        return _solve_positive(system, self.y[rows] - self._centre(rows))

    def weights(self, solution: Floats, fold: int | None) -> Floats:
        return self.phi[self._rows(fold)].T @ solution

    def error(self, solution: Floats, fold: int) -> float:
        rows, out = self._rows(fold), np.flatnonzero(self.folds == fold)
        found = self.kernel[np.ix_(out, rows)] @ solution
        return float(((self.y[out] - self._centre(rows) - found) ** 2).sum())


def _solve_positive(system: Floats, right: Floats) -> Floats:
    """Solve for a positive definite system of which the upper triangle counts; the system is overwritten."""
    factor, info = sl.lapack.dpotrf(system.T, lower=1, overwrite_a=1, clean=0)
    if info:  # lambda > 0 makes it definite; only features beyond float64's range get here
        raise BadInput("the sums cannot be solved: they are not positive definite.", "Rebuild the memory.")
    solution, _ = sl.lapack.dpotrs(factor, np.asfortranarray(right), lower=1, overwrite_b=1)
    return solution


def further(
    memory: ExactMemory, cached: Cached, targets: Floats, alpha: float
) -> tuple[Floats, tuple[Floats | None, ...]]:
    """The ridge of other targets (N, M) of the cached samples, on the memory's own G: (D, M) weights from all folds,
    and from all but each one, None where that is nothing or the fold is empty."""
    sums = np.zeros((memory.folds, memory.dimensions, targets.shape[1]))
    for fold in range(memory.folds):
        for rows, phi in cached.blocks(cached.rows(fold)):
            sums[fold] += phi.T @ targets[rows]
    total, whole = memory.total(), sums.sum(axis=0)
    filled = np.flatnonzero(memory.fold_counts)

    def one(fold: int | None) -> Floats:
        system = total.triangle(None if fold is None else memory.gram[fold])
        diagonal = system.flat[:: memory.dimensions + 1]
        system.flat[:: memory.dimensions + 1] = diagonal + (alpha * diagonal.mean() or 1.0)
        return _solve_positive(system, whole if fold is None else whole - sums[fold])

    folds = filled.tolist() if len(filled) > 1 else []
    found, *parts = in_threads(one, [None, *folds])
    held_out: list[Floats | None] = [None] * memory.folds
    for fold, part in zip(folds, parts, strict=True):
        held_out[fold] = part
    return found, tuple(held_out)


def lda(weights: Floats, found: Moments) -> tuple[Floats, Floats] | None:
    """Shared-covariance LDA, equal priors, shrinkage lambda: (D, C) weights and (C,) bias of its log-likelihoods.

    With A = G + lambda I, W = A^-1 Q and the within-class scatter S = G - Q N^-1 Q^T, the matrix inversion lemma gives
    (S + lambda I)^-1 Q N^-1 = W (N - Q^T W)^-1, so the head costs one more system, of the smaller of C and D. (Hastie,
    Buja & Tibshirani 1995, penalized discriminant analysis.) Classes with n_c = 0 get bias -inf. None where it fails.
    """
    present = found.counts > 0
    w, q, n = weights[:, present], found.q[:, present], found.counts[present].astype(np.float64)
    try:
        if len(n) <= len(w):
            v = w @ lda_turn(q.T @ w, n)
        else:  # the same by a D x D system: (I - W N^-1 Q^T)^-1 W N^-1
            v = sl.solve(np.eye(len(w)) - (w / n) @ q.T, w / n)
            v *= max(1.0, n.sum() - len(n))
    except sl.LinAlgError:
        return None
    bias = -0.5 * np.einsum("dc,dc->c", q / n, v)
    return _spread(v - v.mean(axis=1, keepdims=True), bias - bias.mean(), present)


def lda_turn(between: Floats, n: Floats) -> Floats:
    """(C, C) that turns scores phi^T W into LDA's phi^T W turn, from between = Q^T W and the counts (C,) of classes.

    It is (N - Q^T W)^-1 times the degrees of freedom, and LDA's bias -1/2 mu_c^T S^-1 mu_c follows from its diagonal:
    -1/2 (turn_cc - degrees / n_c). Raises LinAlgError where rounding has left nothing.
    """
    system = between + between.T
    system *= -0.5
    system.flat[:: len(n) + 1] += n
    factor, failed = sl.lapack.dpotrf(system.T, lower=1, overwrite_a=1)
    inverse, _ = sl.lapack.dpotri(factor, lower=1, overwrite_c=1)
    if failed:
        raise sl.LinAlgError("counts less what the ridge answers are not positive.")
    inverse *= max(1.0, n.sum() - len(n))
    return inverse + np.tril(inverse, -1).T


def means(memory: ExactMemory, found: Moments, without: int | None = None) -> tuple[Floats, Floats]:
    """Nearest class mean; as `lda`."""
    traces = [float(gram.diagonal().sum()) for fold, gram in enumerate(memory.gram) if fold != without]
    return spheres(found, sum(traces))


def spheres(found: Moments, trace: float) -> tuple[Floats, Floats]:
    """Nearest class mean: log-likelihoods of spheres of the pooled within-class variance; as `lda`. trace: of G."""
    present = found.counts > 0
    n = found.counts[present].astype(np.float64)
    mu = found.q[:, present] / n
    square = np.einsum("dc,dc->c", mu, mu)
    variance = (trace - float(n @ square)) / max(1.0, n.sum() - len(n)) / len(mu)
    scale = 1.0 / max(variance, 1e-6)
    bias = -0.5 * scale * square
    return _spread(scale * (mu - mu.mean(axis=1, keepdims=True)), bias - bias.mean(), present)


def plain(weights: Floats, found: Moments) -> tuple[Floats, Floats]:
    """The ridge itself; as `lda`."""
    return weights, np.where(found.counts > 0, 0.0, -np.inf)


def _spread(weights: Floats, bias: Floats, present: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    all_weights = np.zeros((len(weights), len(present)))
    all_weights[:, present] = weights
    all_bias = np.full(len(present), -np.inf)
    all_bias[present] = bias
    return all_weights, all_bias

"""What is fitted to combine members: weights of their probabilities, and a logistic regression on top of them.

Both are fitted on rows that no member had learned, and judged by fits that left a row's fold out (`crossed`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.floating]
"""(N, C) probabilities."""

FLOOR = 1e-4
"""Least probability whose logarithm is taken, so that one member that is wrong and sure does not decide alone."""
STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
"""Of the pull toward the members' plain mean."""
_STEPS, _STILL = 500, 1e-7
_SCORES = 2**20
"""Scores that a fit looks at; of more, every k-th row is taken."""


@dataclass(frozen=True, eq=False)
class Stack:
    """score of class c = sum over members m of weights[m, c] log p[m, c] + bias[c]. weights: (M, C); bias: (C,)."""

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    least: float = FLOOR

    def __call__(self, tables: Table) -> Table:
        """(N, M, C) -> (N, C) probabilities."""
        scores = np.einsum("nmc,mc->nc", logs(tables).astype(np.float32), self.weights) + self.bias
        return softmax(scores)


def logs(tables: Table) -> Table:
    return np.log(np.maximum(tables, FLOOR))


def softmax(scores: Table) -> Table:
    found = np.exp(scores - scores.max(axis=1, keepdims=True))
    return found / found.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def convex(tables: Sequence[Table], wanted: NDArray[np.intp]) -> NDArray[np.float32]:
    """(M,) weights, none negative, that sum to 1, of the least log loss of the weighted mean.

    Expectation-maximisation of a mixture's shares (Dempster, Laird & Rubin 1977): w_m <- mean_n w_m p_mn / sum_k w_k
    p_kn, with p_mn what member m gives the right class of row n. The loss is convex and falls with every step.
    """
    given = np.stack([np.maximum(table[np.arange(len(wanted)), wanted], FLOOR) for table in tables], axis=1)
    given = given.astype(np.float64)  # (N, M)
    weights = np.full(len(tables), 1 / len(tables))
    for _ in range(_STEPS):
        shares = given * weights
        fresh = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
        done = np.abs(fresh - weights).max() < _STILL
        weights = fresh
        if done:
            break
    return weights.astype(np.float32)


def stacked(tables: Sequence[Table], wanted: NDArray[np.intp], strength: float) -> Stack:
    """Stacked generalisation (Wolpert 1992) in the form of Seewald (2002, "How to make stacking better and faster"): a
    class's score looks at the members' probabilities of this class alone, so that there are M + 1 numbers to learn for
    a class however many classes there are.

    Logistic regression with a quadratic pull of this strength toward the members' geometric mean.
    """
    from scipy.optimize import minimize

    every = max(1, -(-len(wanted) * tables[0].shape[1] * len(tables) // _SCORES))
    x = logs(np.stack([np.asarray(table[::every], np.float64) for table in tables], axis=1))  # (N, M, C)
    wanted = wanted[::every]
    rows, members, classes = x.shape
    mean = np.vstack([np.full((members, classes), 1 / members), np.zeros((1, classes))])  # weights, bias

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        now = flat.reshape(members + 1, classes)
        scores = np.einsum("nmc,mc->nc", x, now[:-1]) + now[-1]
        shares = softmax(scores)
        total = -np.log(np.maximum(shares[np.arange(rows), wanted], 1e-300)).sum()
        shares[np.arange(rows), wanted] -= 1
        slope = np.vstack([np.einsum("nmc,nc->mc", x, shares), shares.sum(axis=0)])
        pull = now - mean
        return total + strength / 2 * (pull**2).sum(), (slope + strength * pull).ravel()

    found = minimize(loss, mean.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 100})
    best = found.x.reshape(members + 1, classes).astype(np.float32)
    return Stack(best[:-1], best[-1])


def strongest(tables: Sequence[Table], wanted: NDArray[np.intp], folds: NDArray[np.integer]) -> tuple[float, Table]:
    """The pull of the least log loss over all folds; and (N, C) what stacking answers for each row, fitted on the other
    folds, with the pull that was best on these."""
    each = {strength: crossed(tables, wanted, folds, partial(_fitted, strength=strength)) for strength in STRENGTHS}
    losses = {s: -np.log(np.maximum(one[np.arange(len(wanted)), wanted], 1e-30)) for s, one in each.items()}
    found = np.zeros_like(next(iter(each.values())))
    for fold in np.unique(folds):
        here = folds == fold
        best = min(STRENGTHS, key=lambda s: (float(losses[s][~here].sum()), -s))
        found[here] = each[best][here]
    return min(STRENGTHS, key=lambda s: (float(losses[s].sum()), -s)), found


def crossed(
    tables: Sequence[Table], wanted: NDArray[np.intp], folds: NDArray[np.integer],
    learn: Callable[[Sequence[Table], NDArray[np.intp]], Callable[[Sequence[Table]], Table]],
) -> Table:  # fmt: skip
    """(N, C): each fold's rows answered by what was learned on the other folds."""
    found = np.zeros(tables[0].shape, np.float32)
    for fold in np.unique(folds):
        here = folds == fold
        found[here] = learn([one[~here] for one in tables], wanted[~here])([one[here] for one in tables])
    return found


def _fitted(
    tables: Sequence[Table], wanted: NDArray[np.intp], strength: float
) -> Callable[[Sequence[Table]], Table]:  # fmt: skip
    stack = stacked(tables, wanted, strength)
    return lambda asked: stack(np.stack(asked, axis=1))

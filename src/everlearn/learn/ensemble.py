"""Several models as one: their average, a vote, weights of their own, or those most competent near the sample.

    average    mean of the probabilities: soft voting
    vote       each votes for its best class, as much as it is sure
    majority   each has one vote; the average settles ties
    weighted   mean with weights >= 0 that sum to 1, of the least log loss
    stacking   logistic regression on the members' log probabilities (`learn.stacking`)
    dynamic    average of the members that are about the most competent near the sample
    boosted    one vote each, weighted as boosting found it: only of members that were boosted

What each is worth is measured on answers to samples that no member had learned: a memory's out-of-fold answers, a
network's on the validation side. What is fitted there (weights, stacking, competence) answers for each fold by what was
fitted on the others. Competence is itself learned by a ridge on one memory's features, with the members'
right and wrong answers as targets; on random cosines that is a kernel average of how often each was right near x, the
"local accuracy" of dynamic selection (Woods, Kegelmeyer & Bowyer 1997; Cruz, Sabourin & Cavalcanti 2018), with no
neighbour stored. It follows from the same sums, so that a sample which is forgotten leaves it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import BadInput
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.calibrate import OutOfFold, temperature
from everlearn.learn.exact.memory import ExactMemory
from everlearn.learn.exact.solve import further
from everlearn.learn.stacking import Stack, convex, crossed, stacked, strongest

METHODS = ("average", "vote", "majority", "weighted", "stacking", "dynamic")
"""The simpler first."""
BOOSTED = "boosted"
FITTED = ("weighted", "stacking")
"""Those that are fitted, and need two folds or more to be judged."""
MARGIN = 0.1
"""Members whose competence near the sample is within this of the best are averaged: dynamic ensemble selection."""
LEAST = 1e-6
"""Share of the average in a combination, so that no class is impossible."""
TIES = 1e-3
"""The same of whole votes, where it settles ties."""

Table = NDArray[np.floating]
"""(N, C) probabilities."""


def combine(
    method: str, tables: Sequence[Table], competence: Table | None = None, *,
    weights: NDArray[np.floating] | None = None, stack: Stack | None = None,
) -> Table:  # fmt: skip
    """Tables (N, C) of M members -> (N, C). The ONNX bundle does the same.

    competence: (N, M), for `dynamic`. weights: (M,) of `weighted` and `boosted`, which sum to 1. stack: of `stacking`.
    """
    stacked = np.stack([np.asarray(table, np.float32) for table in tables], axis=1)  # (N, M, C)
    average = stacked.mean(axis=1)
    if method == "average":
        return average
    if method == "stacking" and stack is not None:
        return stack(stacked)
    if method in ("vote", "majority", BOOSTED):
        confidence = stacked.max(axis=2, keepdims=True) if method == "vote" else np.float32(1)
        if method == BOOSTED and weights is not None:
            confidence = weights[None, :, None].astype(np.float32) * len(tables)
        votes = np.where(np.arange(stacked.shape[2]) == stacked.argmax(axis=2)[:, :, None], confidence, np.float32(0))
        found = votes.sum(axis=1) / np.float32(len(tables))
    elif method == "weighted" and weights is not None:
        found = np.einsum("nmc,m->nc", stacked, weights.astype(np.float32))
    elif method == "dynamic" and competence is not None:
        chosen = competence >= competence.max(axis=1, keepdims=True) - MARGIN
        found = (stacked * chosen[:, :, None]).sum(axis=1) / chosen.sum(axis=1, keepdims=True)
    else:
        raise BadInput(f"{method!r} is no way to combine models.", f"Choose {', '.join(METHODS)}.")
    found = found + np.float32(floor(method)) * average
    return found / found.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def floor(method: str) -> float:
    """Share of the average in this combination."""
    return TIES if method in ("majority", BOOSTED) else LEAST


@dataclass(frozen=True, eq=False)
class Competence:
    """How likely each member is right at phi: phi @ weights + bias. weights: (D, M) float32; bias: (M,) float32."""

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __call__(self, phi: NDArray[np.int8]) -> Table:
        return phi.astype(np.float32) @ self.weights + self.bias


@dataclass(frozen=True, eq=False)
class Ensemble:
    """How members are combined, and what that was worth where nobody had learned.

    members: each one's right answers (n,); methods: method to right answers (n,); rows: (n,) the samples that all
    members could be asked honestly. temperature: of the combined log probabilities. competence, weights, stack: of the
    method that has them.
    """

    method: str
    temperature: float
    competence: Competence | None
    members: tuple[NDArray[np.bool_], ...]
    methods: dict[str, NDArray[np.bool_]]
    rows: NDArray[np.intp]
    weights: NDArray[np.float32] | None = None
    stack: Stack | None = None
    margin: float = MARGIN

    @property
    def floor(self) -> float:
        return floor(self.method)

    def table(self, tables: Sequence[Table], phi: NDArray[np.int8] | None = None) -> Table:
        """Members' probabilities -> the ensemble's. phi: (N, D) of the first memory, for `dynamic`."""
        asked = None if self.competence is None or phi is None else self.competence(phi)
        found = combine(self.method, tables, asked, weights=self.weights, stack=self.stack)
        return softened(found, self.temperature)


def softened(table: Table, warmth: float) -> Table:
    """Probabilities ^ (1 / warmth), so that they sum to 1."""
    found = np.log(np.maximum(table, 1e-30)) / np.float32(warmth)
    found -= found.max(axis=1, keepdims=True)
    np.exp(found, out=found)
    found /= found.sum(axis=1, keepdims=True)
    return found  # type: ignore[no-any-return]


def fit(
    memory: ExactMemory | None, cached: Cached, classes: Sequence[str], tables: Sequence[Table], alpha: float = 0.0,
    method: str = "auto", boosts: Sequence[float] | None = None,
) -> Ensemble:  # fmt: skip
    """Choose how to combine, and calibrate it.

    memory, cached, alpha: of the member on whose features competence is learned; memory None: there is none, and no
    `dynamic`; cached then only names the rows. tables: each member's probabilities for the cached rows, (N, C) as
    `classes`, made without having learned that row; NaN where that cannot be. boosts: (M,) the weights of members that
    were boosted. method: `auto` for the most right answers (the simpler of equals). Raises BadInput where fewer than
    two members are given, no row can be judged, or the method cannot be had.
    """
    if len(tables) < 2:
        raise BadInput("an ensemble has two members or more.", "Name another model or backbone.")
    labels = cached.class_rows(tuple(classes))
    known = np.all([np.isfinite(table).all(axis=1) for table in tables], axis=0) & (labels >= 0)
    rows = cached.order[known[cached.order]]
    if not len(rows):
        raise BadInput("no sample was held out from all members.", "Learn more samples, in two groups or more.")
    asked, wanted, folds = [table[rows] for table in tables], labels[rows], np.asarray(cached.folds)[rows]
    members = tuple(table.argmax(axis=1) == wanted for table in asked)
    shares = None if boosts is None else np.asarray(boosts, np.float32) / np.float32(sum(boosts))

    found = {name: combine(name, asked) for name in ("average", "vote", "majority")}
    strength = None
    if len(set(folds.tolist())) > 1:
        found["weighted"] = crossed(asked, wanted, folds, lambda part, label: _by(convex(part, label)))
        strength, found["stacking"] = strongest(asked, wanted, folds)
    competence = None
    if memory is not None:
        competence, guessed = _competence(memory, cached, rows, members, alpha)
        found["dynamic"] = combine("dynamic", asked, guessed)
    if shares is not None:
        found = {BOOSTED: combine(BOOSTED, asked, weights=shares), **found}
    right = {name: table.argmax(axis=1) == wanted for name, table in found.items()}
    chosen = max(found, key=lambda name: int(right[name].sum())) if method == "auto" else method
    if chosen not in found:
        missing = chosen in METHODS
        why = "needs a memory" if chosen == "dynamic" else "is fitted, and needs samples in two folds or more"
        raise BadInput(
            f"{chosen} {why}." if missing else f"{chosen!r} is no way to combine models.",
            f"Choose auto, {', '.join(found)}.",
        )
    view = _Combined(tuple(classes), (), cached, 1.0, rows, np.log(np.maximum(found[chosen], 1e-30)).astype(np.float32))
    return Ensemble(
        chosen, temperature(view) or 1.0, competence if chosen == "dynamic" else None, members, right, rows,
        weights=convex(asked, wanted) if chosen == "weighted" else shares if chosen == BOOSTED else None,
        stack=stacked(asked, wanted, strength) if chosen == "stacking" and strength is not None else None,
    )  # fmt: skip


def _by(weights: NDArray[np.float32]) -> Callable[[Sequence[Table]], Table]:
    return lambda tables: combine("weighted", tables, weights=weights)


def _competence(
    memory: ExactMemory, cached: Cached, rows: NDArray[np.intp], members: Sequence[NDArray[np.bool_]], alpha: float
) -> tuple[Competence, Table]:
    """Learned on all rows; and (n, M) what each row's would be, learned on the other folds."""
    targets = np.zeros((len(cached.ids), len(members)))
    bias = np.array([right.mean() for right in members])
    targets[rows] = np.stack(members, axis=1) - bias
    whole, parts = further(memory, cached, targets, alpha)
    guessed = np.zeros_like(targets)
    for fold, weights in enumerate(parts):
        if weights is not None:
            for at, phi in cached.blocks(cached.rows(fold)):
                guessed[at] = phi @ weights
    return Competence(whole.astype(np.float32), bias.astype(np.float32)), guessed[rows] + bias


@dataclass(frozen=True, eq=False)
class _Combined(OutOfFold):
    """The combined answers, for calibration."""

    answered: NDArray[np.intp] | None = None
    logs: NDArray[np.float32] | None = None

    def scores(self, every: int = 1) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        assert self.answered is not None and self.logs is not None
        yield self.answered[::every], self.logs[::every]

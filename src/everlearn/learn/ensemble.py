"""Several models as one: their average, a vote weighted by confidence, or those most competent near the sample.

What each is worth is measured on answers to samples that no member had learned: a memory's out-of-fold answers, a
network's on the validation side. Competence is itself learned by a ridge on one memory's features, with the members'
right and wrong answers as targets; on random cosines that is a kernel average of how often each was right near x, the
"local accuracy" of dynamic selection (Woods, Kegelmeyer & Bowyer 1997; Cruz, Sabourin & Cavalcanti 2018), with no
neighbour stored. It follows from the same sums, so that a sample which is forgotten leaves it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import BadInput
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.calibrate import OutOfFold, temperature
from everlearn.learn.exact.memory import ExactMemory
from everlearn.learn.exact.solve import further

METHODS = ("average", "vote", "dynamic")
MARGIN = 0.1
"""Members whose competence near the sample is within this of the best are averaged: dynamic ensemble selection."""
LEAST = 1e-6
"""Share of the average in a combination, so that no class is impossible."""

Table = NDArray[np.floating]
"""(N, C) probabilities."""


def combine(method: str, tables: Sequence[Table], competence: Table | None = None) -> Table:
    """Tables (N, C) of M members -> (N, C); competence: (N, M), for `dynamic`. The ONNX bundle does the same."""
    stacked = np.stack([np.asarray(table, np.float32) for table in tables], axis=1)  # (N, M, C)
    average = stacked.mean(axis=1)
    if method == "average":
        return average
    if method == "vote":
        confidence = stacked.max(axis=2, keepdims=True)
        found = np.where(np.arange(stacked.shape[2]) == stacked.argmax(axis=2)[:, :, None], confidence, 0).sum(axis=1)
        found /= len(tables)
    elif method == "dynamic" and competence is not None:
        chosen = competence >= competence.max(axis=1, keepdims=True) - MARGIN
        found = (stacked * chosen[:, :, None]).sum(axis=1) / chosen.sum(axis=1, keepdims=True)
    else:
        raise BadInput(f"{method!r} is no way to combine models.", f"Choose {', '.join(METHODS)}.")
    found += np.float32(LEAST) * average
    return found / found.sum(axis=1, keepdims=True)


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

    members: each one's right answers (N,); methods: method to right answers (N,); rows: (n,) the samples that all
    members could be asked honestly. temperature: of the combined log probabilities.
    """

    method: str
    temperature: float
    competence: Competence | None
    members: tuple[NDArray[np.bool_], ...]
    methods: dict[str, NDArray[np.bool_]]
    rows: NDArray[np.intp]
    floor: float = LEAST
    margin: float = MARGIN

    def table(self, tables: Sequence[Table], phi: NDArray[np.int8] | None = None) -> Table:
        """Members' probabilities -> the ensemble's. phi: (N, D) of the first memory, for `dynamic`."""
        asked = None if self.competence is None or phi is None else self.competence(phi)
        return softened(combine(self.method, tables, asked), self.temperature)


def softened(table: Table, warmth: float) -> Table:
    """Probabilities ^ (1 / warmth), so that they sum to 1."""
    found = np.log(np.maximum(table, 1e-30)) / np.float32(warmth)
    found -= found.max(axis=1, keepdims=True)
    np.exp(found, out=found)
    found /= found.sum(axis=1, keepdims=True)
    return found  # type: ignore[no-any-return]


def fit(
    memory: ExactMemory, cached: Cached, classes: Sequence[str], tables: Sequence[Table], alpha: float,
    method: str = "auto",
) -> Ensemble:  # fmt: skip
    """Choose how to combine, and calibrate it.

    memory, cached, alpha: of the member on whose features competence is learned. tables: each member's probabilities
    for the cached rows, (N, C) as `classes`, made without having learned that row; NaN where that cannot be.
    method: `auto` for the most right answers (the simpler of equals). Raises BadInput where fewer than two members are
    given, or no row can be judged.
    """
    if len(tables) < 2:
        raise BadInput("an ensemble has two members or more.", "Name another model or backbone.")
    labels = cached.class_rows(tuple(classes))
    known = np.all([np.isfinite(table).all(axis=1) for table in tables], axis=0) & (labels >= 0)
    rows = cached.order[known[cached.order]]
    if not len(rows):
        raise BadInput("no sample was held out from all members.", "Learn more samples, in two groups or more.")
    asked, wanted = [table[rows] for table in tables], labels[rows]
    members = tuple(table.argmax(axis=1) == wanted for table in asked)

    targets = np.zeros((len(labels), len(tables)))
    bias = np.array([right.mean() for right in members])
    targets[rows] = np.stack(members, axis=1) - bias
    whole, parts = further(memory, cached, targets, alpha)
    guessed = np.zeros_like(targets)
    for fold, weights in enumerate(parts):  # each row's competence from the other folds
        if weights is not None:
            for at, phi in cached.blocks(cached.rows(fold)):
                guessed[at] = phi @ weights

    found = {name: combine(name, asked, guessed[rows] + bias) for name in METHODS}
    right = {name: table.argmax(axis=1) == wanted for name, table in found.items()}
    chosen = max(METHODS, key=lambda name: int(right[name].sum())) if method == "auto" else method
    if chosen not in METHODS:
        raise BadInput(f"{chosen!r} is no way to combine models.", f"Choose auto, {', '.join(METHODS)}.")
    view = _Combined(tuple(classes), (), cached, 1.0, rows, np.log(np.maximum(found[chosen], 1e-30)).astype(np.float32))
    competence = Competence(whole.astype(np.float32), bias.astype(np.float32)) if chosen == "dynamic" else None
    return Ensemble(chosen, temperature(view) or 1.0, competence, members, right, rows)


@dataclass(frozen=True, eq=False)
class _Combined(OutOfFold):
    """The combined answers, for calibration."""

    answered: NDArray[np.intp] | None = None
    logs: NDArray[np.float32] | None = None

    def scores(self, every: int = 1) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        assert self.answered is not None and self.logs is not None
        yield self.answered[::every], self.logs[::every]

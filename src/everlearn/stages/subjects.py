"""What an experiment can try: ways of learning, each scored on rows of the learning side that it did not learn from.

A way of learning is named in one word: `exact` is the workspace's exact memory, `exact:BACKBONE` one over another
backbone, and anything else a recipe (a shipped name, or a YAML file).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from everlearn.catalog import samples, snapshots
from everlearn.dataset.build import build
from everlearn.errors import TooFew
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.fit import fit
from everlearn.learn.exact.leave import without
from everlearn.learn.exact.memory import ExactMemory
from everlearn.learn.exact.target import RegressionTarget
from everlearn.learn.features import Features
from everlearn.naming import is_class
from everlearn.stages.standing import basis_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.evaluate.folds import Fold
    from everlearn.track import Run
    from everlearn.types import Member, Progress, Snapshot
    from everlearn.workspace import Workspace

    Rows = NDArray[np.intp]

EXACT = "exact"


@dataclass(frozen=True)
class Pool:
    """The learning side of a snapshot: train and validation, never test. Rows are in order of id.

    members: the originals of a class (or number) that are learned from and tested on; groups: of each. extra: augmented
    copies, and negatives where `unknown` is an answer: learned beside the originals of their groups, never tested on;
    loose: those of groups without an original.
    """

    snapshot: Snapshot
    members: Sequence[Member]
    groups: NDArray[np.str_]
    extra: Mapping[str, Sequence[Member]]
    loose: Sequence[Member]
    numbers: bool
    strata: Sequence[str] | None = None
    """Of scenes the rarest class on each, by which folds are made alike; None for other tasks."""

    @cached_property
    def labels(self) -> NDArray[Any]:
        """(N,) class names, or numbers."""
        if self.strata is not None:
            return np.array(self.strata, dtype=object)
        found = [one.label for one in self.members]
        return np.array(found, np.float64) if self.numbers else np.array(found, dtype=object)

    @property
    def measure(self) -> str:
        return "map50" if self.strata is not None else "mae" if self.numbers else "accuracy"

    @property
    def classes(self) -> int:
        return 1 if self.numbers else len(set(self.labels))

    def learned(self, rows: Rows) -> list[Member]:
        """What is learned where these rows are: they, and what belongs to their groups besides."""
        own = [self.members[row] for row in rows]
        return own + [one for group in sorted(set(self.groups[rows])) for one in self.extra.get(group, ())]


def pool(workspace: Workspace) -> Pool:
    """The learning side as it is labelled now. Raises TooFew where nothing is on it."""
    snapshot = build(workspace)
    with workspace.catalog.read() as tx:
        every = [one for one in snapshots.members(tx, snapshot.number) if one.split != "test"]
        group = {id: one.group_key for id, one in samples.some(tx, [one.id for one in every]).items()}
    open_set, numbers = workspace.config.learn.unknown is not None, workspace.config.task == "regress"
    own = [one for one in every if one.parent is None and (numbers or is_class(one.label, open_set))]
    if not own:
        raise TooFew(f"None of {snapshot.samples} samples stands on the learning side.", "Collect more.")
    mine = {one.id for one in own}
    groups = {group[id] for id in mine}
    extra: dict[str, list[Member]] = {}
    for one in every:
        if one.id not in mine and group[one.id] in groups:
            extra.setdefault(group[one.id], []).append(one)
    loose = [one for one in every if group[one.id] not in groups]
    groups_of = np.array([group[one.id] for one in own], dtype=object)
    return Pool(snapshot, own, groups_of, extra, loose, numbers, _strata(workspace, own))


def _strata(workspace: Workspace, own: Sequence[Member]) -> list[str] | None:
    """The rarest class on each image, `` where there is none."""
    if workspace.config.task != "detect":
        return None
    from everlearn.stages.detecting import sides

    shown = [{box.label for box in one.coarse} for one in sides.labelled(workspace, own)]
    often = Counter(label for labels in shown for label in labels)
    return [min(labels, key=lambda label: (often[label], label), default="") for labels in shown]


@dataclass(frozen=True)
class Scored:
    """What one training was worth. score: accuracy, or mean absolute error; trained, tested: samples; seconds: of the
    training and the test. details: what else is told of it."""

    score: float
    trained: int
    tested: int
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)


class Way(Protocol):
    """A way of learning. name: as it was asked for; config: what decides it, as the catalog keeps it."""

    name: str
    config: Mapping[str, Any]
    heavy: bool
    """Whether one training takes minutes."""

    def folds(self, folds: Sequence[Fold]) -> Callable[[Fold, Run], Scored]:
        """Prepare for the folds of one repeat; the answer trains and tests one of them, written into a run."""
        ...

    def growing(self, fold: Fold, parts: Sequence[Rows]) -> Iterator[Callable[[Run], Scored]]:
        """For each part (ascending, nested) what learns it and is tested on the fold's test rows."""
        ...


class ExactWay:
    """The exact memory. All folds of a repeat come from one memory's sums, each with its own sums taken away, so that k
    folds are summed once. Ridge, head and temperature are chosen within what is learned, fold by fold."""

    heavy = False

    def __init__(self, workspace: Workspace, pool: Pool, progress: Progress, backbone: str | None = None) -> None:
        self.workspace, self.pool, self.progress = workspace, pool, progress
        learn = workspace.config.learn
        self.basis = basis_of(workspace, backbone or workspace.config.backbone)
        self.name = EXACT if backbone is None else f"{EXACT}:{backbone}"
        self.config: Mapping[str, Any] = {
            "learner": EXACT,
            "backbone": self.basis.spec,
            "basis": self.basis.digest,
            "dimensions": self.basis.dimensions,
            "unknown": learn.unknown,
        }
        self.target = None
        if pool.numbers:
            self.target = RegressionTarget(learn.target.low, learn.target.high, learn.target.step)

    @cached_property
    def _phi(self) -> dict[str, int]:
        return {id: row for row, id in enumerate(self._ids)}

    @cached_property
    def _ids(self) -> list[str]:
        every = self.pool.learned(np.arange(len(self.pool.members)))
        return sorted({one.id for one in (*every, *self.pool.loose)})

    @cached_property
    def _features(self) -> NDArray[np.int8]:
        return Features(self.workspace, self.basis).all(self._ids, self.progress)

    def folds(self, folds: Sequence[Fold]) -> Callable[[Fold, Run], Scored]:
        began = time.monotonic()
        parts = [(fold.number, one) for fold in folds for one in self.pool.learned(fold.test)]
        parts += [(one.fold % len(folds), one) for one in self.pool.loose]
        learned, numbers = [one for _, one in parts], np.array([number for number, _ in parts], np.int64)
        memory = ExactMemory(self.basis.digest, self.basis.dimensions, len(folds), self.target)
        self._add(memory, learned, numbers)
        shared = (time.monotonic() - began) / len(folds)

        def one(fold: Fold, run: Run) -> Scored:
            began = time.monotonic()
            kept = [i for i, number in enumerate(numbers) if number != fold.number]
            left = without(memory, fold.number)
            cached = self._cached([learned[i] for i in kept], numbers[kept])
            return self._judged(left, cached, fold.test, began - shared)

        return one

    def growing(self, fold: Fold, parts: Sequence[Rows]) -> Iterator[Callable[[Run], Scored]]:
        folds = self.workspace.config.learn.folds
        memory = ExactMemory(self.basis.digest, self.basis.dimensions, folds, self.target)
        held: list[Member] = []
        for part in parts:
            began = time.monotonic()
            known = {one.id for one in held}
            come = [one for one in (*self.pool.learned(part), *self.pool.loose) if one.id not in known]
            self._add(memory, come, np.array([one.fold for one in come], np.int64))
            held += come
            yield partial(self._grown, memory, held, fold.test, began)

    def _grown(self, memory: ExactMemory, held: Sequence[Member], test: Rows, began: float, run: Run) -> Scored:
        return self._judged(memory, self._cached(held, np.array([one.fold for one in held], np.int64)), test, began)

    def _add(self, memory: ExactMemory, learned: Sequence[Member], folds: NDArray[np.int64]) -> None:
        for start in range(0, len(learned), 4096):
            part = learned[start : start + 4096]
            memory.add(self._rows(part), [one.label for one in part], folds[start : start + 4096])

    def _cached(self, learned: Sequence[Member], folds: NDArray[np.int64]) -> Cached:
        return Cached([one.id for one in learned], self._rows(learned), [one.label for one in learned], folds)

    def _rows(self, learned: Sequence[Member]) -> NDArray[np.int8]:
        return self._features[[self._phi[one.id] for one in learned]]

    def _judged(self, memory: ExactMemory, cached: Cached, test: Rows, began: float) -> Scored:
        found = fit(memory, cached, false_accept=self.workspace.config.learn.unknown)
        phi = self._rows([self.pool.members[row] for row in test])
        wanted = self.pool.labels[test]
        if self.target is not None:
            score = float(np.abs(found.head.values(phi) - wanted).mean())
        else:
            said = np.array(found.head.answers, dtype=object)[found.head.table(phi).argmax(axis=1)]
            score = float((said == wanted).mean())
        details = {"head": found.head.kind, "alpha": found.alpha}
        return Scored(score, memory.samples, len(test), time.monotonic() - began, details)


def way(
    workspace: Workspace, name: str, pool: Pool, progress: Progress, *, keep: bool = False, quick: bool = False
) -> Way:
    """What a name stands for. keep: networks are kept in model_updates/checkpoints/; quick: one epoch a stage. Raises
    Missing, BadConfig."""
    if workspace.config.task == "detect":
        from everlearn.stages.detecting.trying import DetectorWay

        return DetectorWay(workspace, pool, progress, name, keep=keep, quick=quick)
    if name == EXACT:
        return ExactWay(workspace, pool, progress)
    if name.startswith(f"{EXACT}:"):
        return ExactWay(workspace, pool, progress, name.partition(":")[2])
    from everlearn.stages.trying import RecipeWay

    return RecipeWay(workspace, pool, progress, name, keep=keep, quick=quick)

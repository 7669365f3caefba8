"""Several tasks on the same features: colour, kind, defect …, each a group of columns, added whenever somebody asks.

A task's ridge needs G over the rows labelled for that task. So there is one memory for each *pattern*, the set of tasks
that a row is labelled for, its label there being the labels of all these tasks together; a task's sums are added up
over the patterns that it is in, when it is solved. Where every row carries every task there is one G for all. A row
that gets the label of one more task moves to another pattern. All of it is integers, so a task answers as an
ExactClassifier that learned just the rows labelled for it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from everlearn.learn.estimators.base import unchanged_if_refused
from everlearn.learn.estimators.centred import Floats
from everlearn.learn.estimators.encode import BadArray
from everlearn.learn.estimators.exact import ExactClassifier
from everlearn.learn.estimators.held import Held
from everlearn.learn.estimators.parted import Mark, Part, renamed
from everlearn.learn.estimators.several import SeveralBase
from everlearn.learn.exact.cached import Cached

Labels = Mapping[str, Sequence[Any]]


class ExactTasks(SeveralBase):
    """One memory for several classifications of the same rows.

    estimator: an ExactClassifier that carries the settings of all tasks; None: its defaults.
    Labels are given as {task: one label per row}; None (or NaN) where a row is not labelled for a task.
    """

    _kinds: dict[str, ExactClassifier]  # what knows the type of a task's labels
    _heads: dict[str, ExactClassifier]  # those that are solved

    def __init__(self, estimator: ExactClassifier | None = None) -> None:
        self.estimator = estimator

    def fit(self, X: ArrayLike, y: Labels, ids: Any = None, groups: Any = None) -> Self:
        """Forget all and learn X (N, D) with y {task: (N,)}; ids and groups as for ExactClassifier."""
        return self._learn(X, y, ids, groups, fresh=True)

    def partial_fit(self, X: ArrayLike, y: Labels, ids: Any = None, groups: Any = None) -> Self:
        """Learn more rows, or more of rows that are held: with its id, a row's labels come one task at a time.

        Without ids each row is a row of its own. A row without any label is not learned. All or nothing.
        Raises BadArray naming the row: NaN or infinity, an id that is held with other features or another label.
        """
        return self._learn(X, y, ids, groups, fresh=not hasattr(self, "_rows"))

    def forget(
        self, X: ArrayLike | None = None, y: Labels | None = None, *, ids: Any = None, groups: Any = None,
        tasks: Collection[str] | None = None,
    ) -> Self:  # fmt: skip
        """Become what never learned these rows: X and y as they were learned, or ids. All or nothing.

        tasks: only the labels of these tasks; what rows say of others stays, and a row that says nothing more is gone.
        Raises BadArray naming the first row that is not held.
        """
        check_is_fitted(self)
        if X is not None and y is not None:
            array = self._checked(X)
            rows, parts = self._batch(array, self._marks(y, len(array))[1], ids, groups)
        elif ids is not None:
            rows, parts = self._rows.find(map(str, ids))
        else:
            raise BadArray("nothing is named to be forgotten.", "Give X and y, or ids.")
        stays = None if tasks is None else [_without(Mark(*mark), tasks) for mark in zip(parts, rows.labels)]
        self._rows.forget(rows, parts, stays)
        self._after()
        return self

    @property
    def tasks_(self) -> tuple[str, ...]:
        """Sorted names of the tasks with labelled rows."""
        check_is_fitted(self)
        return tuple(sorted({task for part in self._rows.parts for task in part}))

    @property
    def classes_(self) -> dict[str, NDArray[Any]]:
        """Task -> its classes."""
        return {task: self.head(task).classes_ for task in self.tasks_}

    def head(self, task: str) -> ExactClassifier:
        """What answers for a task: an ExactClassifier of the rows labelled for it. To be asked, not to be taught.

        Raises BadArray where no row is labelled for it.
        """
        if task not in self.tasks_:
            raise BadArray(f"no row is labelled for task {task!r}.", f"Known: {', '.join(self.tasks_) or 'none'}.")
        if task not in self._heads:
            self._heads[task] = self._solved(task)
        return self._heads[task]

    def predict(self, X: ArrayLike) -> dict[str, NDArray[Any]]:
        """(N, D) -> {task: (N,) labels}."""
        return {task: self.head(task).predict(X) for task in self.tasks_}

    def predict_proba(self, X: ArrayLike) -> dict[str, Floats]:
        """(N, D) -> {task: (N, C)}, calibrated by the held-out rows of each task."""
        return {task: self.head(task).predict_proba(X) for task in self.tasks_}

    def score(self, X: ArrayLike, y: Labels) -> dict[str, float]:
        """{task: accuracy over the rows that are labelled for it}."""
        array, found = np.asarray(X), {}
        for task, labels in y.items():
            at = [row for row, label in enumerate(labels) if not _missing(label)]
            found[task] = float(self.head(task).score(array[at], np.array([labels[row] for row in at])))
        return found

    # inside

    def _learn(self, X: ArrayLike, y: Labels, ids: Any, groups: Any, fresh: bool) -> Self:
        with unchanged_if_refused(self):
            array = self._checked(X, fresh)
            kinds, marks = self._marks(y, len(array))
            changed = self._rows.learn(*self._batch(array, marks, ids, groups))
        self._kinds.update(kinds)
        self._after({task for was, now in changed for task in {*now.part} ^ {*(was.part if was else ())}})
        return self

    def _marks(self, y: Labels, count: int) -> tuple[dict[str, ExactClassifier], list[Mark | None]]:
        """(tasks with what knows the type of their labels, what is said of each row)."""
        if not isinstance(y, Mapping):
            raise BadArray(f"labels of type {type(y).__name__} name no task.", "Give {task: labels}.")
        kinds, said = {}, [dict[str, str]() for _ in range(count)]
        for task, labels in y.items():
            if len(labels) != count:
                raise BadArray(f"task {task!r} has {len(labels)} labels for {count} rows.", "Give None where unknown.")
            at = [row for row, label in enumerate(labels) if not _missing(label)]
            kinds[task] = self._kind(task)
            for row, name in zip(at, kinds[task]._encoded(np.array([labels[row] for row in at]))):
                said[row][task] = name
        return kinds, [_mark(labels) for labels in said]

    def _kind(self, task: str) -> ExactClassifier:
        if task in self._kinds:
            return copy.copy(self._kinds[task])
        made: ExactClassifier = clone(self._made)
        made._begin()
        return made

    def _solved(self, task: str) -> ExactClassifier:
        """The head of a task, from the patterns that it is in."""
        head, learned = self._kind(task), self._empty()
        for part, held in self._rows:
            if task in part:  # added up into sums of its own: rows may go to another pattern while the head stays
                learned.memory.merge(renamed(held.memory, _of(task, part)))
        learned.held = _Joined(learned.held, self._rows.cached(lambda part: _of(task, part) if task in part else None))
        head._learned, head.n_features_in_ = learned, self.n_features_in_
        if hasattr(self._made, "feature_names_in_"):
            head.feature_names_in_ = self._made.feature_names_in_
        head._after()
        return head

    def _begin(self) -> None:
        super()._begin()
        self._kinds, self._heads = {}, {}

    def _after(self, tasks: Collection[str] | None = None) -> None:
        """Heads of the tasks (None: of all) of which something has changed are solved anew when they are asked."""
        kept = {} if tasks is None else {name: head for name, head in self._heads.items() if name not in tasks}
        self._heads = kept

    def _join(self, held: Mark, said: Mark) -> Mark | None:
        before, now = _said(held), _said(said)
        return None if any(before.get(task, name) != name for task, name in now.items()) else _mark(before | now)

    def _refuse_other(self, other: Self) -> None:
        for task, kind in other._kinds.items():
            self._kind(task)._refuse_other(kind)

    def _adopt(self, other: Self) -> None:
        self._kinds.update(other._kinds | self._kinds)

    def _labels(self) -> dict[str, Any]:
        return {task: kind._labels() for task, kind in self._kinds.items()}

    def _restore(self, labels: dict[str, Any]) -> None:
        for task, known in labels.items():
            self._kinds[task] = self._kind(task)
            self._kinds[task]._restore(known)


class _Joined(Held):
    """What the held-out estimates of one task look at: the rows of several patterns."""

    def __init__(self, like: Held, rows: Cached) -> None:
        super().__init__(like.phi.shape[1], like.keep)
        self._cached = rows

    def cached(self) -> Cached:
        return self._cached


def _missing(label: Any) -> bool:
    return label is None or (isinstance(label, float) and label != label)


def _mark(labels: Mapping[str, str]) -> Mark | None:
    """{task: name of its class} -> the pattern and the label in it."""
    tasks = tuple(sorted(labels))
    return Mark(tasks, json.dumps([labels[task] for task in tasks])) if tasks else None


def _said(mark: Mark) -> dict[str, str]:
    return dict(zip(mark.part, json.loads(mark.label)))


def _without(mark: Mark, tasks: Collection[str]) -> Mark | None:
    return _mark({task: name for task, name in _said(mark).items() if task not in tasks})


def _of(task: str, part: Part) -> Callable[[str], str]:
    at = part.index(task)
    return lambda label: str(json.loads(label)[at])

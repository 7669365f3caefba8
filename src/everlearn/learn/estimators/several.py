"""What the estimators on several memories share: rows in parts (parted.py), settings from one exact estimator."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from everlearn.learn.estimators.base import refuse_columns, unchanged_if_refused
from everlearn.learn.estimators.encode import BadArray
from everlearn.learn.estimators.exact import ExactClassifier
from everlearn.learn.estimators.held import Batch
from everlearn.learn.estimators.learned import Learned
from everlearn.learn.estimators.parted import Mark, Part, Parted
from everlearn.learn.estimators.saved import sound


class SeveralBase(BaseEstimator):  # type: ignore[misc]
    """estimator: an ExactClassifier that carries the settings; it is not taught itself."""

    estimator: ExactClassifier | None

    def merge(self, other: Self) -> Self:
        """Learn all that another of the same settings holds. What the two know of one id is put together.

        Raises BadArray where the two do not match or contradict each other; nothing is changed then.
        """
        if type(other) is not type(self):
            raise BadArray(f"a {type(other).__name__} cannot be merged.", f"Give a {type(self).__name__}.")
        if not hasattr(other, "_rows"):
            return self
        with unchanged_if_refused(self):
            if not hasattr(self, "_rows"):
                self._start(other.n_features_in_)
                if hasattr(other._made, "feature_names_in_"):
                    self._made.feature_names_in_ = other._made.feature_names_in_
            refuse_columns(self._made, other._made)
            self._refuse_other(other)
            self._rows.merge(other._rows)
        self._adopt(other)
        self._after()
        return self

    def __add__(self, other: Self) -> Self:
        if not isinstance(other, SeveralBase):
            return NotImplemented
        return copy.deepcopy(self).merge(other)

    def digest(self) -> str:
        """Hex SHA-256 of what is held: equal for equal sets of rows, in whatever order and portions they came."""
        check_is_fitted(self)
        return self._rows.digest()

    @property
    def samples_(self) -> int:
        """Rows held."""
        check_is_fitted(self)
        return self._rows.samples

    def save(self, path: str | Path) -> None:
        """One file without pickle, whole or not at all; `load` gives it back. Raises StoreFault."""
        check_is_fitted(self)
        about = {"labels": self._labels(), "inputs": self._made.n_features_in_}
        if hasattr(self._made, "feature_names_in_"):
            about["columns"] = [str(name) for name in self._made.feature_names_in_]
        params = self.get_params(deep=False) | {"estimator": self._made.get_params()}
        self._rows.save(Path(path), type(self).__name__, params, about)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises Missing where there is no file, Corrupt where it is not what was written."""
        made: Self

        def make(params: dict[str, Any], inputs: int) -> Parted:
            nonlocal made
            made = cls(**(params | {"estimator": ExactClassifier(**params["estimator"])}))
            made._start(inputs)
            return made._rows

        _, about, _ = Parted.load(Path(path), cls.__name__, make)
        with sound(Path(path), cls.__name__):
            if "columns" in about:
                made._made.feature_names_in_ = np.array(about["columns"], dtype=object)
            made._restore(about["labels"])
            made._after()
        return made

    @property
    def n_features_in_(self) -> int:
        """Features of a row."""
        check_is_fitted(self)
        return int(self._made.n_features_in_)

    # inside

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_rows")

    def _start(self, inputs: int | None = None) -> None:
        """Forget all. inputs: where they are known."""
        self._made = ExactClassifier() if self.estimator is None else clone(self.estimator)
        if inputs is not None:
            self._made.n_features_in_ = inputs
            self._begin()

    def _begin(self) -> None:
        """Before the first rows, when their width is known."""
        self._rows = Parted(self._empty, self._join)

    def _empty(self) -> Learned:
        return self._made._empty(self._made.n_features_in_)

    def _checked(self, X: ArrayLike, fresh: bool = False) -> NDArray[Any]:
        if fresh:
            self._start()
        array = self._made._checked(X, fresh)
        if fresh:
            self._begin()
        return array

    def _batch(self, array: NDArray[Any], marks: Sequence[Mark | None], ids: Any, groups: Any) -> Placed:
        """The rows of which something is known, and their parts."""
        given, grouped = _texts(ids), _texts(groups)
        check_consistent_length(array, marks, given, grouped)
        at = [row for row, mark in enumerate(marks) if mark is not None]
        known = [mark for mark in marks if mark is not None]
        if len(at) < len(array):
            array = array[at]
            given, grouped = ([names[row] for row in at] if names else names for names in (given, grouped))
        rows = self._rows.empty.batch(array, [mark.label for mark in known], given, grouped)
        return rows, [mark.part for mark in known]

    # what they do differently

    def _join(self, held: Mark, said: Mark) -> Mark | None:
        """Both, or None where they contradict each other."""
        raise NotImplementedError

    def _refuse_other(self, other: Self) -> None:
        """Raises BadArray for one that cannot be merged."""

    def _adopt(self, other: Self) -> None:
        """What a merged one knows beside its rows."""

    def _after(self) -> None:
        """Something was learned or forgotten."""

    def _labels(self) -> dict[str, Any]:
        """For `save`."""
        return {}

    def _restore(self, labels: dict[str, Any]) -> None:
        """From `_labels`."""


Placed = tuple[Batch, list[Part]]


def _texts(values: Any) -> list[str] | None:
    return None if values is None else [str(value) for value in values]

"""scikit-learn estimators on the exact memory: learners of feature arrays that forget nothing, or exactly what they are
told to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from everlearn.learn.exact.base import ExactBase
from everlearn.learn.exact.centred import Floats
from everlearn.learn.exact.encode import BadArray, refuse_gaps
from everlearn.learn.exact.learned import TARGET, TARGET_STEP

_KINDS = {"b": "b", "i": "i", "u": "i", "f": "f", "U": "s"}


class ExactClassifier(ClassifierMixin, ExactBase):  # type: ignore[misc]
    """Ridge classification on exact integer sums: any order, any portions, merged or forgotten: the same digest.

    features: `linear`, or `cosine`: `dimensions` random cosines, a Gaussian kernel of `width` (in `scale`, or in
        doublings), by `seed`.
    scale: the largest |x|, one or one per feature; steps are then even over it, and values beyond are clipped. None:
        steps even up to a knee (16,384 for up to 128 features, 64 up to 170, 4 up to 1,024, else 1) and logarithmic
        beyond.
    planes: int8 columns per feature, 1 to 4; `auto`: as many as are cheap, by the number of features.
    alpha: the penalty; None: chosen by fold error. intercept, standardize: by the sums, when solving.
    folds: sides of the held-out estimates. keep: share of the rows whose int8 features are kept (for calibration, and
        for forgetting by id alone).

    Attributes: classes_, n_features_in_, samples_, alpha_, calibrated_, temperature_, quantisation_loss_.
    Sources: ACIL arXiv:2205.14922, RanPAC arXiv:2307.02251, Guo et al. 2017 (temperature).
    """

    _regression = False

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """(N, D) -> (N,) labels. Raises BadArray naming a row with NaN or infinity."""
        found = self._scores(X)
        return self.classes_[found.argmax(axis=1)]

    def predict_proba(self, X: ArrayLike) -> Floats:
        """(N, C), calibrated by out-of-fold scores; 0 for a declared class without a sample."""
        found = self._scores(X) / self._learned.ready().temperature
        found -= found.max(axis=1, keepdims=True)
        found = np.exp(found, out=found)
        return found / found.sum(axis=1, keepdims=True)

    def predict_log_proba(self, X: ArrayLike) -> Floats:
        """Logarithm of `predict_proba`."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def decision_function(self, X: ArrayLike) -> Floats:
        """(N, C) scores, about 1 for the right class and 0 for others; for two classes (N,), > 0 for classes_[1].

        A declared class without a sample scores 1 below the lowest.
        """
        found = self._scores(X)
        lowest = np.where(np.isfinite(found), found, np.inf).min(axis=1, keepdims=True)
        found = np.where(np.isfinite(found), found, lowest - 1)
        return found[:, 1] - found[:, 0] if len(self.classes_) == 2 else found

    @property
    def temperature_(self) -> float:
        """Probabilities are softmax(scores / temperature)."""
        check_is_fitted(self)
        return self._learned.ready().temperature

    @property
    def calibrated_(self) -> bool:
        """Whether out-of-fold scores set the temperature; not before there are two classes in two folds."""
        check_is_fitted(self)
        return self._learned.ready().calibrated

    def _scores(self, X: ArrayLike) -> Floats:
        """(N, C) as classes_; -inf for a class without a sample."""
        check_is_fitted(self)
        array, columns = self._checked(X, least=1), self._learned.memory.columns
        found = self._learned.scores(array, columns)
        if self._order is None:
            return found
        placed = np.full((len(found), len(self.classes_)), -np.inf)
        placed[:, self._order] = found
        return placed

    def _begin(self) -> None:
        self._kind: str | None = None
        self._declared: frozenset[str] = frozenset()

    def _declare(self, classes: Any) -> None:
        if classes is not None:
            self._declared |= frozenset(self._encoded(np.asarray(classes)))

    def _after(self) -> None:
        """classes_ in the order of their values; _order: place of each of the memory's columns, None if the same."""
        columns = self._learned.memory.columns
        names = tuple(sorted({*columns, *self._declared}))
        if (names, columns) == getattr(self, "_known", None):
            return
        values = np.array([_value(name) for name in names])
        order = np.argsort(values, kind="stable")
        self.classes_ = values[order]
        place = {names[old]: new for new, old in enumerate(order)}
        found = np.array([place[name] for name in columns], np.intp)
        self._order = None if np.array_equal(found, np.arange(len(names))) else found
        self._known = names, columns

    def _encoded(self, y: NDArray[Any]) -> list[str]:
        """Labels -> names of columns: the kind of value, and the value as text."""
        if not len(y):
            return []
        if y.dtype.kind == "O":
            y = np.array(y.tolist())
        if y.dtype.kind == "f":
            refuse_gaps(y, "y")
            check_classification_targets(y)
        kind = _KINDS.get(y.dtype.kind)
        if kind is None or kind != (self._kind or kind):
            raise BadArray(f"labels of type {y.dtype} cannot be learned here.", "Give all as texts, or all as numbers.")
        self._kind = kind
        values, inverse = np.unique(y, return_inverse=True)
        names = [f"{kind}{value!r}" if kind == "f" else f"{kind}{value}" for value in values.tolist()]
        return [names[at] for at in inverse.reshape(-1)]

    def _refuse_other(self, other: Self) -> None:
        if self._kind and other._kind and self._kind != other._kind:
            raise BadArray("labels of two types cannot be merged.", "Give all as texts, or all as numbers.")

    def _adopt(self, other: Self) -> None:
        self._kind = self._kind or other._kind
        self._declared |= other._declared

    def _labels(self) -> dict[str, Any]:
        return {"kind": self._kind, "declared": sorted(self._declared)}

    def _restore(self, labels: dict[str, Any]) -> None:
        self._kind, self._declared = labels["kind"], frozenset(labels["declared"])

    def _compared(self, y: ArrayLike) -> tuple[Floats, Callable[[Floats, int], float]]:
        at = {name: column for column, name in enumerate(self._learned.memory.columns)}
        label = np.array([at[name] for name in self._encoded(np.asarray(y).reshape(-1))], np.intp)
        return np.eye(len(at))[label], lambda scores, origin: float((scores.argmax(axis=1) == label).mean())


class ExactRegressor(RegressorMixin, ExactBase):  # type: ignore[misc]
    """Ridge regression on exact integer sums; settings as for `ExactClassifier`. Targets are held to 1e-9 within 8e9.

    Attributes: n_features_in_, samples_, alpha_, quantisation_loss_.
    """

    _regression = True

    def predict(self, X: ArrayLike) -> Floats:
        """(N, D) -> (N,) values. Raises BadArray naming a row with NaN or infinity."""
        check_is_fitted(self)
        return self._learned.scores(self._checked(X, least=1), (TARGET,))[:, 0]

    def _encoded(self, y: NDArray[Any]) -> Floats:
        found = np.asarray(y, np.float64)
        refuse_gaps(found, "y")
        return found

    def _compared(self, y: ArrayLike) -> tuple[Floats, Callable[[Floats, int], float]]:
        wanted = self._encoded(np.asarray(y).reshape(-1))
        spread = float(((wanted - wanted.mean()) ** 2).sum()) or 1.0

        def score(scores: Floats, origin: int) -> float:
            return 1 - float((((scores[:, 0] + origin) * TARGET_STEP - wanted) ** 2).sum()) / spread

        return wanted[:, None], score


def _value(name: str) -> Any:
    kind, text = name[0], name[1:]
    if kind == "b":
        return text == "True"
    return int(text) if kind == "i" else float(text) if kind == "f" else text

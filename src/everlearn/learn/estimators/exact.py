"""scikit-learn estimators on the exact memory: learners of feature arrays that forget nothing, or exactly what they are
told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from everlearn.learn.estimators.base import ExactBase, unchanged_if_refused
from everlearn.learn.estimators.centred import Floats, Settings
from everlearn.learn.estimators.encode import BadArray, Features, refuse_gaps
from everlearn.learn.estimators.learned import TARGET, TARGET_STEP, Line
from everlearn.learn.exact.head import KINDS
from everlearn.learn.exact.openset import Curve, Cut
from everlearn.naming import UNKNOWN, denial

_KINDS = {"b": "b", "i": "i", "u": "i", "f": "f", "U": "s"}


class ExactClassifier(ClassifierMixin, ExactBase):  # type: ignore[misc]
    """Classification from exact integer sums: any order, any portions, merged or forgotten: the same digest.

    features: `linear`, or `cosine`: `dimensions` random cosines, a Gaussian kernel of `width` (in `scale`, or in
        doublings), by `seed`.
    scale: the largest |x|, one or one per feature; steps are then even over it, and values beyond are clipped. None:
        steps even up to a knee (16,384 for up to 128 features, 64 up to 170, 4 up to 2,048, else 1) and logarithmic
        beyond.
    planes: int8 columns per feature, 1 to 4; `auto`: as many as are cheap, by the number of features.
    alpha: the penalty; None: chosen by fold error. intercept, standardize: by the sums, when solving.
    folds: sides of the held-out estimates. keep: share of the rows whose int8 features are kept (for calibration, and
        for forgetting by id alone).

    head: `ridge`, `lda` (shared covariance, balanced), `mean` (nearest class mean), or `auto`: the best by out-of-fold
        accuracy; while a class is new (head.py: at most 5 rows), the balanced heads have the precedence.
    unknown: the false-accept rate: the share of strangers that may be taken for a class. `predict` then answers
        unknown_label (None: "unknown" among texts, -1 among numbers) to the others. None: never.

    Attributes: classes_, n_features_in_, samples_, alpha_, head_, calibrated_, temperature_, unknown_,
    quantisation_loss_.
    Sources: ACIL arXiv:2205.14922, RanPAC arXiv:2307.02251, Deep SLDA arXiv:1909.01520, Guo et al. 2017 (temperature);
    openset.py for the unknown.
    """

    _regression = False

    def __init__(
        self,
        *,
        features: Features = "linear",
        scale: float | Sequence[float] | None = None,
        planes: int | str = "auto",
        dimensions: int = 1024,
        width: float = 1.0,
        seed: int = 0,
        alpha: float | None = None,
        intercept: bool = True,
        standardize: bool = True,
        folds: int = 5,
        keep: float = 1.0,
        head: str = "auto",
        unknown: float | None = None,
        unknown_label: Any = None,
    ) -> None:
        super().__init__(
            features=features, scale=scale, planes=planes, dimensions=dimensions, width=width, seed=seed, alpha=alpha,
            intercept=intercept, standardize=standardize, folds=folds, keep=keep,
        )  # fmt: skip
        self.head = head
        self.unknown = unknown
        self.unknown_label = unknown_label

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike | None = None, classes: Any = None, ids: Any = None, groups: Any = None,
        negative: bool = False,
    ) -> Self:  # fmt: skip
        """Learn more rows, with any classes, also none. classes: those that may come, to have their columns now.

        negative: these rows are known not to be y; without y they are nobody that will ever be known. They enter the
        sums and the digest as groups of their own that are never answered, and show what strangers look like.
        """
        fresh = not hasattr(self, "_learned")
        return self._learn(X, y, ids, groups, fresh, classes, negative=negative)

    def forget(
        self, X: ArrayLike | None = None, y: ArrayLike | None = None, *, ids: Any = None, groups: Any = None,
        negative: bool = False,
    ) -> Self:  # fmt: skip
        """Become what never learned these rows: X and y of rows learned without ids (and the groups they were learned
        with; negative, if they were), or ids. With keep < 1, give ids with their X and y. All or nothing.

        Raises BadArray naming the first row that is not held.
        """
        if X is None or not negative:
            return super().forget(X, y, ids=ids, groups=groups)
        check_is_fitted(self)
        with unchanged_if_refused(self):
            return self._forget(self._batch(self._checked(X), y, ids, groups, negative))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """(N, D) -> (N,) labels. Raises BadArray naming a row with NaN or infinity."""
        found = self._scores(X)
        answers = self.classes_[found.argmax(axis=1)]
        if self.unknown is None:
            return answers
        return np.where(self.nearness(X) > self.unknown_.threshold, answers, self._stranger())

    def nearness(self, X: ArrayLike) -> Floats:
        """(N,) how near the nearest class is, -1 to 1: what the thresholds of `false_accept_curve` are of."""
        self._line()
        return self._learned.nearness(self._checked(X, least=1))

    def false_accept_curve(self) -> Curve:
        """Share of strangers accepted and of the known refused, for each threshold, by the rows held, out of fold.

        A stranger is a negative, or a row as it looks where its class was never learned.
        """
        return self._line().curve

    @property
    def unknown_(self) -> Cut:
        """The threshold taken and what it promises; see `Cut`."""
        return self._line().cut

    @property
    def head_(self) -> str:
        """The head that answers: `ridge`, `lda` or `mean`."""
        check_is_fitted(self)
        return self._learned.ready().answering.kind

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
        array, columns = self._checked(X, least=1), self._learned.memory.classes
        found = self._learned.scores(array, columns)
        if self._order is None:
            return found
        placed = np.full((len(found), len(self.classes_)), -np.inf)
        placed[:, self._order] = found
        return placed

    def _line(self) -> Line:
        check_is_fitted(self)
        line = self._learned.ready().line
        if line is None:
            raise BadArray("no false-accept rate is asked for.", "Set unknown, to 0.01 for example.")
        return line

    def _stranger(self) -> Any:
        """The answer to a stranger. Raises BadArray where it could be mistaken for a class."""
        label = self.unknown_label
        if label is None:
            label = {"s": UNKNOWN, "i": -1, "f": -1.0}.get(self._kind or "")
        fits = isinstance(label, {"s": str, "i": Integral, "f": Real}.get(self._kind or "", ()))
        if not fits or label in self.classes_.tolist():
            raise BadArray(
                f"{label!r} cannot stand for the unknown among these classes.", "Give another unknown_label."
            )
        return label

    def _settings(self) -> Settings:
        if self.head not in ("auto", *KINDS):
            raise BadArray(f"head={self.head!r} is not known.", f"Give 'auto' or one of {', '.join(KINDS)}.")
        if self.unknown is not None and not 0 < self.unknown < 1:
            raise BadArray(f"unknown={self.unknown!r} is no false-accept rate.", "Give a share above 0 and below 1.")
        head = next((kind for kind in KINDS if kind == self.head), None)
        return replace(super()._settings(), head=head, unknown=self.unknown)

    def _begin(self) -> None:
        self._kind: str | None = None
        self._declared: frozenset[str] = frozenset()

    def _declare(self, classes: Any) -> None:
        if classes is not None:
            self._declared |= frozenset(self._encoded(np.asarray(classes)))

    def _after(self) -> None:
        """classes_ in the order of their values; _order: place of each of the memory's classes, None if the same."""
        columns = self._learned.memory.classes
        if not (self._learned.memory.columns or self._declared):
            self._kind = None  # nothing is held that says whether labels are texts or numbers
        names = tuple(sorted({*columns, *self._declared}))
        if (names, columns) == getattr(self, "_known", None):
            return
        values = np.array([value_of(name) for name in names])
        order = np.argsort(values, kind="stable")
        self.classes_ = values[order]
        place = {names[old]: new for new, old in enumerate(order)}
        found = np.array([place[name] for name in columns], np.intp)
        self._order = None if np.array_equal(found, np.arange(len(names))) else found
        self._known = names, columns

    def _denied(self, y: ArrayLike | None, count: int) -> list[str]:
        if y is None:
            return [denial("")] * count
        return [denial(name) for name in self._encoded(column_or_1d(y, warn=True))]

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


def value_of(name: str) -> Any:
    """The label that a column's name stands for."""
    kind, text = name[0], name[1:]
    if kind == "b":
        return text == "True"
    return int(text) if kind == "i" else float(text) if kind == "f" else text

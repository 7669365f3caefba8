"""What the two estimators share: arrays in, learning and forgetting, files."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

from everlearn.learn.estimators.centred import Floats, Settings
from everlearn.learn.estimators.encode import PLANES, BadArray, Encoder, Features, refuse_gaps
from everlearn.learn.estimators.learned import TARGET_STEP, Learned, float_parts, held_out_scores, sums

if TYPE_CHECKING:
    from everlearn.learn.estimators.held import Batch

_WIDE = {2: 2048, 3: 170, 4: 128}
_WIDE_SCALED = {2: 1024}
"""The most features that so many planes are taken for by planes="auto"; with a scale one plane loses little."""
_LOOKED_AT = 256  # rows of a portion that are looked at for a warning


class ExactBase(BaseEstimator):  # type: ignore[misc]
    """What both estimators share."""

    _regression: bool
    _learned: Learned
    n_features_in_: int
    feature_names_in_: NDArray[Any]

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
    ) -> None:
        self.features = features
        self.scale = scale
        self.planes = planes
        self.dimensions = dimensions
        self.width = width
        self.seed = seed
        self.alpha = alpha
        self.intercept = intercept
        self.standardize = standardize
        self.folds = folds
        self.keep = keep

    # learning and forgetting

    def fit(self, X: ArrayLike, y: ArrayLike, ids: Any = None, groups: Any = None) -> Self:
        """Forget all and learn X (N, D) with y (N,).

        ids: a name per row, by which it can be forgotten; a row that comes again with its id is not learned twice.
        groups: rows of one group are never on both sides of a fold; without groups a row's fold follows from its id,
        without ids from its features. Raises BadArray (a ValueError), naming the row, for what cannot be learned.
        """
        return self._learn(X, y, ids, groups, fresh=True, least=1)

    def partial_fit(self, X: ArrayLike, y: ArrayLike, classes: Any = None, ids: Any = None, groups: Any = None) -> Self:
        """Learn more rows, with any classes, also none. classes: those that may come, to have their columns now."""
        return self._learn(X, y, ids, groups, fresh=not hasattr(self, "_learned"), classes=classes)

    def forget(
        self, X: ArrayLike | None = None, y: ArrayLike | None = None, *, ids: Any = None, groups: Any = None
    ) -> Self:
        """Become what never learned these rows: X and y of rows learned without ids (and the groups they were learned
        with), or ids. With keep < 1, give ids with their X and y. All or nothing.

        Raises BadArray naming the first row that is not held.
        """
        check_is_fitted(self)
        if X is not None:
            with unchanged_if_refused(self):
                return self._forget(self._batch(self._checked(X), y, ids, groups))
        if ids is None:
            raise BadArray("nothing is named to be forgotten.", "Give X and y, or ids.")
        return self._forget(self._learned.held.find(_texts(ids)))

    def merge(self, other: Self) -> Self:
        """Learn all that another estimator of the same settings holds. Raises BadArray where the two do not match."""
        if type(other) is not type(self):
            raise BadArray(f"a {type(other).__name__} cannot be merged.", f"Give a {type(self).__name__}.")
        if not hasattr(other, "_learned"):
            return self
        fresh = not hasattr(self, "_learned")
        learned = self._empty(other.n_features_in_) if fresh else self._learned
        self._refuse_unlike(learned, other)
        if not fresh:
            self._refuse_other(other)
        learned.merge(copy.deepcopy(other._learned) if other is self else other._learned)
        if fresh:
            self._learned, self.n_features_in_ = learned, other.n_features_in_
            self._begin()
            if hasattr(other, "feature_names_in_"):
                self.feature_names_in_ = other.feature_names_in_
        self._adopt(other)
        self._after()
        return self

    def __add__(self, other: Self) -> Self:
        if not isinstance(other, ExactBase):
            return NotImplemented
        return copy.deepcopy(self).merge(other)

    def digest(self) -> str:
        """Hex SHA-256 of what is held: equal for equal sets of rows, in whatever order and portions they came."""
        check_is_fitted(self)
        return self._learned.memory.digest()

    def settle(self) -> Self:
        """Choose the penalty and the temperature anew at once. See `Learned`: predictions do it when it is due."""
        check_is_fitted(self)
        self._learned.settle()
        return self

    @property
    def samples_(self) -> int:
        """Rows held."""
        check_is_fitted(self)
        return self._learned.memory.samples

    @property
    def alpha_(self) -> float:
        """The penalty on standardised features, as a share of the number of rows."""
        check_is_fitted(self)
        return self._learned.ready().alpha

    def quantisation_loss(self, X: ArrayLike, y: ArrayLike) -> dict[str, float]:
        """What int8 costs on a sample: out-of-fold score (accuracy or R²) of ridge on phi and on float64 features.

        Nothing is learned. Both choose their penalty alike, on the same folds. Also kept as `quantisation_loss_`.
        """
        other = copy.copy(self)
        rows = other._prepared(X, y, None, None, fresh=True)
        learned = other._learned
        learned.memory.add(rows.phi, rows.labels, rows.folds)
        centre = learned.settings.intercept
        found = sums(learned.memory, learned.encoder, self._regression, centre)
        phi = learned.encoder.values(rows.phi[:, : learned.encoder.columns]) - found.origin
        x = learned.encoder.unrounded(other._checked(X))
        x = x - x.mean(axis=0) if centre else x
        targets, score = other._compared(y)
        ours = held_out_scores(found.parts, phi, rows.folds, learned.settings)
        parts = float_parts(x, targets, rows.folds, learned.memory.folds)
        theirs = held_out_scores(parts, x, rows.folds, learned.settings)
        exact, float64 = (
            score(ours, found.target_origin),
            score(theirs / TARGET_STEP if self._regression else theirs, 0),
        )
        self.quantisation_loss_ = {"exact": exact, "float64": float64, "loss": float64 - exact}
        return self.quantisation_loss_

    # files

    def save(self, path: str | Path) -> None:
        """One file without pickle, whole or not at all; `load` gives it back. Raises StoreFault."""
        from everlearn.learn.estimators.saved import save

        check_is_fitted(self)
        about = {"labels": self._labels(), "inputs": self.n_features_in_}
        if hasattr(self, "feature_names_in_"):
            about["columns"] = [str(name) for name in self.feature_names_in_]
        save(Path(path), type(self).__name__, self.get_params(), about, self._learned)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises Missing where there is no file, Corrupt where it is not what was written."""
        from everlearn.learn.estimators.saved import load, sound

        params, about, learned = load(Path(path), cls.__name__, lambda given, inputs: cls(**given)._empty(inputs))
        made = cls(**params)
        made._learned, made.n_features_in_ = learned, about["inputs"]
        with sound(Path(path), cls.__name__):
            if "columns" in about:
                made.feature_names_in_ = np.array(about["columns"], dtype=object)
            made._restore(about["labels"])
            made._after()
        return made

    # inside

    def _forget(self, rows: Batch) -> Self:
        self._learned.forget(rows)
        self._after()
        return self

    def _learn(
        self, X: ArrayLike, y: ArrayLike | None, ids: Any, groups: Any, fresh: bool, classes: Any = None,
        least: int = 0, negative: bool = False,
    ) -> Self:  # fmt: skip
        with unchanged_if_refused(self):
            rows = self._prepared(X, y, ids, groups, fresh, classes, least, negative)
            self._learned.learn(rows)
        self._after()
        return self

    def _prepared(
        self, X: ArrayLike, y: ArrayLike | None, ids: Any, groups: Any, fresh: bool, classes: Any = None,
        least: int = 0, negative: bool = False,
    ) -> Batch:  # fmt: skip
        array = self._checked(X, fresh, least)
        if fresh:
            self._learned = self._empty(self.n_features_in_)
            self._begin()
        self._declare(classes)
        return self._batch(array, y, ids, groups, negative)

    def _batch(self, array: NDArray[Any], y: ArrayLike | None, ids: Any, groups: Any, negative: bool = False) -> Batch:
        if y is None and not negative:
            name = type(self).__name__
            raise BadArray(f"This {name} estimator requires y to be passed, but the target y is None.", "Give it.")
        labels = self._denied(y, len(array)) if negative else self._encoded(column_or_1d(y, warn=True))
        given, grouped = None if ids is None else _texts(ids), None if groups is None else _texts(groups)
        check_consistent_length(array, labels, given, grouped)
        rows = self._learned.batch(array, labels, given, grouped)
        if self._learned.encoder.planes == 1 and self.features == "linear":
            _warn_of_zeros(array[:_LOOKED_AT], rows.phi[:_LOOKED_AT])
        return rows

    def _checked(self, X: ArrayLike, fresh: bool = False, least: int = 0) -> NDArray[Any]:
        """(N, D) finite floats. Raises what scikit-learn raises, and BadArray naming a row with NaN or infinity."""
        array = validate_data(
            self, X, reset=fresh, dtype=[np.float64, np.float32], ensure_all_finite=False, ensure_min_samples=least
        )
        refuse_gaps(array)
        return np.asarray(array)

    def _empty(self, inputs: int) -> Learned:
        if self.features not in ("linear", "cosine"):
            raise BadArray(f"features={self.features!r} is not known.", "Give 'linear' or 'cosine'.")
        scale: tuple[float, ...] = ()
        if self.scale is not None:
            given = np.asarray(self.scale, np.float64).reshape(-1)
            if len(given) not in (1, inputs) or not (np.isfinite(given) & (given > 0)).all():
                raise BadArray("scale does not suit.", f"Give one largest |x| > 0, or {inputs} of them.")
            scale = tuple(given.tolist())
        if self.planes != "auto" and self.planes not in range(1, PLANES + 1):
            raise BadArray(f"planes={self.planes!r} cannot be.", f"Give 1 to {PLANES}, or 'auto'.")
        if self.dimensions < 1 or not 0 < self.width < np.inf or not 0 <= self.keep <= 1:
            raise BadArray("dimensions, width or keep cannot be.", "Give dimensions >= 1, width > 0, keep from 0 to 1.")
        if self.alpha is not None and not 0 < self.alpha < np.inf:
            raise BadArray(f"alpha={self.alpha!r} cannot be.", "Give a number > 0, or None.")
        planes = self._planes(inputs)
        cosine = (int(self.dimensions), float(self.width), int(self.seed)) if self.features == "cosine" else ()
        encoder = Encoder(inputs, planes, scale, self.features, *cosine)
        settings = self._settings()
        return Learned(encoder, int(self.folds), float(self.keep), settings, self._regression)

    def _planes(self, inputs: int) -> int:
        if self.features == "cosine":
            return 1
        if self.planes != "auto":
            return int(self.planes)
        wide = _WIDE if self.scale is None else _WIDE_SCALED
        return next((planes for planes in sorted(wide, reverse=True) if inputs <= wide[planes]), 1)

    def _refuse_unlike(self, learned: Learned, other: Self) -> None:
        """Raises BadArray, naming the first difference, where the features of another are not these."""
        mine, theirs = ({**vars(one.encoder), "folds": one.memory.folds} for one in (learned, other._learned))
        differ = [field for field in (*learned.encoder.__dataclass_fields__, "folds") if mine[field] != theirs[field]]
        if differ:
            name = differ[0]
            raise BadArray(f"{name} {theirs[name]!r} cannot be merged into {mine[name]!r}.", "Merge equal settings.")
        refuse_columns(self, other)

    def _settings(self) -> Settings:
        return Settings(bool(self.intercept), bool(self.standardize), self.alpha)

    # what the two do differently

    def _begin(self) -> None:
        """Before the first rows."""

    def _declare(self, classes: Any) -> None:
        """Classes that may come."""

    def _after(self) -> None:
        """What follows from the rows held."""

    def _refuse_other(self, other: Self) -> None:
        """Raises BadArray for one that cannot be merged."""

    def _adopt(self, other: Self) -> None:
        """What a merged one knows beside its rows."""

    def _labels(self) -> dict[str, Any]:
        """For `save`."""
        return {}

    def _restore(self, labels: dict[str, Any]) -> None:
        """From `_labels`."""

    def _denied(self, y: ArrayLike | None, count: int) -> Any:
        """(N,) names of the columns of rows that are not y, or nobody known."""
        raise NotImplementedError

    def _encoded(self, y: NDArray[Any]) -> Any:
        """(N,) names of classes, or numbers."""
        raise NotImplementedError

    def _compared(self, y: ArrayLike) -> tuple[Floats, Callable[[Floats, int], float]]:
        """(N, C) targets, columns as the memory's, and what scores a (N, C) answer in steps above an origin."""
        raise NotImplementedError


def _warn_of_zeros(x: NDArray[Any], phi: NDArray[np.int8]) -> None:
    """Features far below the step are lost; nobody should learn on zeros without knowing."""
    there = np.count_nonzero(x)
    lost = there - np.count_nonzero(phi[:, : x.shape[1]])
    if lost > there / 2:
        warnings.warn(
            f"{lost / there:.0%} of the features other than 0 round to 0. Give scale=… (the largest |x|), or planes=2.",
            stacklevel=6,
        )


@contextmanager
def unchanged_if_refused(estimator: BaseEstimator) -> Iterator[None]:
    """A refused portion leaves nothing behind."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def refuse_columns(mine: BaseEstimator, theirs: BaseEstimator) -> None:
    """Raises BadArray where the columns of two estimators have names, and not the same in the same order."""
    own, other = (getattr(one, "feature_names_in_", None) for one in (mine, theirs))
    if own is None or other is None or np.array_equal(own, other):
        return
    at = next((n for n, (a, b) in enumerate(zip(own, other)) if a != b), min(len(own), len(other)) - 1)
    raise BadArray(f"column {at} is {other[at]!r} in one, {own[at]!r} in the other.", "Give both the same columns.")


def _texts(values: Any) -> list[str]:
    return [str(value) for value in values]

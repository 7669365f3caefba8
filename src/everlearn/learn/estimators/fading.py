"""A memory for worlds that change: what is old counts less and less. It gives up exactness, and says so.

The sums of exact memories, but in float64 and multiplied by 1/2 with every half-life that passes, so that the ridge is
that of exponentially weighted rows (recursive least squares with a forgetting factor, solved anew). The order of rows
matters here, and a sum that was multiplied cannot give back one row: no digest, no merge, nothing to be forgotten.
"""

from __future__ import annotations

from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from everlearn.learn.estimators.base import unchanged_if_refused
from everlearn.learn.estimators.centred import Floats, Moments, Solution, search, solve
from everlearn.learn.estimators.encode import BadArray, portions
from everlearn.learn.estimators.exact import ExactClassifier, value_of
from everlearn.learn.estimators.learned import Learned

_STALE = 0.2  # share of the weight that has come anew before the penalty is chosen again
_WEIGHT = 1000.0  # in rows, of what is solved at the least


class FadingClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Ridge classification in which a row counts half as much after each half-life.

    estimator: an ExactClassifier that carries the settings of features, penalty and folds; None: its defaults.
    half_life: in rows learned since, or, with per="step", in calls of `step` (a day, a shift, a season); inf: never.
    About 1.44 half-lives of rows are what is known; with fewer than there are features, little can be.
    """

    _learned: Learned  # the encoder, the folds, the settings: nothing is ever learned in it
    _kind: ExactClassifier  # what knows the type of the labels
    _names: tuple[str, ...]
    _parts: list[Moments]  # per fold, about _origin
    _origin: Floats
    _model: Solution | None
    _fresh: int  # rows since the penalty was chosen
    _solved_at: int  # _fresh when it was solved

    def __init__(
        self, estimator: ExactClassifier | None = None, *, half_life: float = 1000.0, per: str = "row"
    ) -> None:
        self.estimator = estimator
        self.half_life = half_life
        self.per = per

    def fit(self, X: ArrayLike, y: ArrayLike, groups: Any = None) -> Self:
        """Start anew and learn X (N, D) with y (N,), the oldest row first."""
        with unchanged_if_refused(self):
            self.__dict__.pop("_learned", None)
            return self.partial_fit(X, y, groups=groups)

    def partial_fit(self, X: ArrayLike, y: ArrayLike, classes: Any = None, groups: Any = None) -> Self:
        """Learn more rows, the oldest first, with any classes. Raises BadArray naming a row with NaN or infinity.

        classes: taken and not needed. groups: rows of one group are never on both sides of a fold.
        """
        if not self.half_life > 0 or self.per not in ("row", "step"):
            raise BadArray(
                f"half_life={self.half_life!r} per {self.per!r} cannot be.", "Give > 0, per 'row' or 'step'."
            )
        fresh = not hasattr(self, "_learned")
        made = (ExactClassifier() if self.estimator is None else clone(self.estimator)) if fresh else self._kind
        array = made._checked(X, fresh)
        if fresh:
            made._begin()
        labels = made._encoded(column_or_1d(y, warn=True))
        check_consistent_length(array, labels)
        if fresh:
            self._kind, self._learned, self.n_features_in_ = made, made._empty(made.n_features_in_), made.n_features_in_
            self._names, self._parts, self._model = (), [], None
            self._fresh, self._solved_at = 0, 0
        for part in portions(len(array)):
            some = None if groups is None else [str(group) for group in groups[part]]
            self._add(array[part], labels[part], some)
        return self

    def step(self, count: float = 1.0) -> Self:
        """Time has passed: with per="step", all that is known fades by so many steps."""
        check_is_fitted(self)
        if self.per != "step" or not count >= 0:
            raise BadArray(f"step({count!r}) with per={self.per!r} cannot be.", "Set per='step', and count >= 0.")
        self._fade(count)
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """(N, D) -> (N,) labels."""
        return self.classes_[self._scores(X).argmax(axis=1)]

    def decision_function(self, X: ArrayLike) -> Floats:
        """(N, C) scores, about 1 for the right class; for two classes (N,), > 0 for classes_[1]. Not calibrated."""
        found = self._scores(X)
        return found[:, 1] - found[:, 0] if len(self.classes_) == 2 else found

    @property
    def classes_(self) -> NDArray[Any]:
        """All classes that ever came, in the order of their values."""
        check_is_fitted(self)
        return np.sort(np.array([value_of(name) for name in self._names]))

    @property
    def weight_(self) -> float:
        """What the rows learned still weigh together, in rows."""
        check_is_fitted(self)
        return float(sum(part.n for part in self._parts))

    def forget(self, *_: Any, **__: Any) -> NoReturn:
        """Cannot be: see the error."""
        raise BadArray(
            "a fading memory cannot forget a row: its sums were multiplied since, and rounded.",
            "Fit anew on the rows that may stay, or use ExactClassifier, which forgets exactly.",
        )

    def digest(self) -> NoReturn:
        """Cannot be: see the error."""
        raise BadArray("a fading memory has no digest: it depends on the order of its rows.", "Use ExactClassifier.")

    # inside

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_learned")

    def _add(self, array: NDArray[Any], labels: list[str], groups: list[str] | None) -> None:
        rows = self._learned.batch(array, labels, None, groups)
        x = self._learned.encoder.values(rows.phi)
        if not self._parts:  # near the rows, so that no digit is lost to cancellation
            self._origin = np.rint(x.mean(axis=0)) if self._learned.settings.intercept else np.zeros(x.shape[1])
            d = x.shape[1]
            empty = Moments(0.0, np.zeros(d), np.zeros((d, d)), np.zeros((d, 0)), np.zeros(0), 0.0)
            self._parts = [empty] * self._learned.memory.folds
        x -= self._origin
        self._name(labels)
        at = {name: column for column, name in enumerate(self._names)}
        y = np.eye(len(at))[[at[name] for name in labels]]
        by_row = self.per == "row"
        if by_row:
            self._fade(len(x))
        weight = 0.5 ** (np.arange(len(x))[::-1] / self.half_life) if by_row else np.ones(len(x))
        for fold in np.unique(rows.folds):
            here = rows.folds == fold
            w, xs, ys = weight[here], x[here], y[here]
            heavy, n = xs * w[:, None], float(w.sum())
            self._parts[fold] += Moments(n, w @ xs, heavy.T @ xs, heavy.T @ ys, w @ ys, n)
        self._fresh += len(x)

    def _name(self, labels: list[str]) -> None:
        """Columns for classes that are new, all in the order of their values."""
        names = tuple(sorted({*self._names, *labels}, key=value_of))
        if names == self._names:
            return
        at = [names.index(name) for name in self._names]
        for fold, part in enumerate(self._parts):
            xy, y = np.zeros((len(part.x), len(names))), np.zeros(len(names))
            xy[:, at], y[at] = part.xy, part.y
            self._parts[fold] = Moments(part.n, part.x, part.xx, xy, y, part.yy)
        self._names, self._model = names, None

    def _fade(self, passed: float) -> None:
        share = float(0.5 ** (passed / self.half_life))
        self._parts = [part.times(share) for part in self._parts]

    def _solved(self) -> Solution:
        """Fading alone changes no answer: all sums shrink alike, and the penalty with them. However
        little is left is solved as if it were many rows, since a solve takes less than one for one."""
        settings, weight = self._learned.settings, self.weight_
        if not weight > 0:
            raise BadArray("all that was learned has faded away.", "Learn rows again.")
        parts = [part.times(max(1.0, _WEIGHT / weight)) for part in self._parts]
        if self._model is None or self._fresh > _STALE * weight:
            searched = search(parts, settings)
            self._model, self._alpha, self._fresh = searched.whole.lean(), searched.alpha, 0
        elif self._fresh > self._solved_at:
            self._model = solve(sum(parts[1:], parts[0]), self._alpha, settings).lean()
        self._solved_at = self._fresh
        return self._model

    def _scores(self, X: ArrayLike) -> Floats:
        check_is_fitted(self)
        array, encoder, solution = self._kind._checked(X, least=1), self._learned.encoder, self._solved()
        found = np.empty((len(array), len(self._names)))
        for part in portions(len(array)):
            found[part] = solution.scores(encoder.values(encoder.phi(array[part])) - self._origin)
        return found

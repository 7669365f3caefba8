"""Cross-validation: who is tested when, and what the scores of all folds say together.

Folds are stratified by class and never split a group. The scores of folds are not independent, since their training
sets overlap: the usual standard error is far too small. Here the variance is corrected as by Nadeau & Bengio (2003,
"Inference for the generalization error", Machine Learning 52, section 3): s^2 (1/J + n_test / n_train) instead of
s^2 / J, with Student's t of J - 1 degrees of freedom, J the number of folds over all repeats.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.errors import BadInput, TooFew
from everlearn.evaluate.figures import LEVEL, Figure, Result

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from everlearn.evaluate.figures import Floats

    Rows = NDArray[np.intp]

BINS = 10
"""Numbers are stratified by up to so many bins of equal size."""


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """One of the parts. repeat, number: from 0; train, test: row numbers, ascending."""

    repeat: int
    number: int
    train: Rows
    test: Rows

    @property
    def name(self) -> str:
        """`2.5`: the fifth fold of the second repeat."""
        return f"{self.repeat + 1}.{self.number + 1}"


@dataclass(frozen=True, slots=True)
class CrossValidated(Result):
    """What all folds say together. scores: of each fold, in order; deviation: between folds; interval: of the mean,
    holding 95 %, None from one fold. measure: accuracy (more is better) or mae (less is better, the target's unit)."""

    measure: str
    scores: tuple[float, ...]
    mean: float
    deviation: float
    interval: tuple[float, float] | None
    folds: int
    repeats: int
    samples: int

    def __str__(self) -> str:
        span = "" if self.interval is None else f" (95 % interval {self.interval[0]:.4f} to {self.interval[1]:.4f})"
        of = f"{self.folds} folds" + (f" x {self.repeats} repeats" if self.repeats > 1 else "")
        return f"{self.measure} {self.mean:.4f}, deviation {self.deviation:.4f}{span}, {of} of {self.samples} samples"


def folds_of(
    labels: Sequence[Any] | NDArray[Any], groups: Sequence[Any] | NDArray[Any] | None = None, *,
    folds: int = 5, repeats: int = 1, seed: int = 0, numbers: bool = False,
) -> Iterator[Fold]:  # fmt: skip
    """The folds of rows with these labels (N,) and groups (N,), repeat by repeat; each row is tested once in a repeat.

    numbers: labels are numbers. The same rows in the same order give the same folds. Raises TooFew where there are
    fewer groups than folds, or a fold would be empty.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if folds < 2 or repeats < 1:
        raise BadInput(f"{folds} folds in {repeats} repeats cannot be.", "Use 2 folds or more, and 1 repeat or more.")
    classes = (
        _bins(np.asarray(labels, np.float64)) if numbers else np.unique(np.asarray(labels), return_inverse=True)[1]
    )
    unit = np.arange(len(classes)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    units = len(np.unique(unit))
    if units < folds:
        raise TooFew(f"{units} groups of images cannot make {folds} folds.", "Use fewer folds, or collect more.")
    if int(np.bincount(classes).max()) < folds:
        raise TooFew(f"No class has {folds} samples, one for each fold.", "Use fewer folds, or collect more.")
    for repeat in range(repeats):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed + repeat)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The least populated class")  # it is in some of the folds then
            parts = list(splitter.split(np.zeros(len(classes)), classes, unit))
        for number, (train, test) in enumerate(parts):
            if not len(train) or not len(test):
                raise TooFew(f"Fold {number + 1} of {folds} would be empty.", "Use fewer folds, or collect more.")
            yield Fold(repeat, number, train, test)


def _bins(values: Floats) -> NDArray[np.intp]:
    """(N,) numbers -> (N,) bins of about equal size."""
    edges = np.quantile(values, np.linspace(0, 1, min(BINS, max(2, len(values) // 10)) + 1)[1:-1])
    return np.searchsorted(edges, values, side="right")


def summary(
    scores: Sequence[float], *, folds: int, repeats: int, samples: int, measure: str = "accuracy"
) -> CrossValidated:
    """Mean, deviation and corrected interval of the scores of `folds` x `repeats` folds."""
    values = np.asarray(scores, np.float64)
    if values.size != folds * repeats or not np.isfinite(values).all():
        raise BadInput(
            f"{values.size} scores came of {folds} folds x {repeats} repeats, or one is no number.", "Run it again."
        )
    mean, low, high, _ = corrected(values, 1 / (folds - 1))
    if measure == "accuracy":
        low, high = max(0.0, low), min(1.0, high)
    interval = (low, high) if math.isfinite(low) else None
    return CrossValidated(
        measure, tuple(values.tolist()), mean, float(values.std(ddof=1)), interval, folds, repeats, samples
    )


def corrected(values: Floats, test_over_train: float, level: float = LEVEL) -> tuple[float, float, float, float]:
    """(mean, low, high, p) of the scores of folds, or of two models' differences in them: the corrected resampled
    t-test (Nadeau & Bengio 2003; Bouckaert & Frank 2004 for repeated folds). p: two-sided, that the mean is 0.

    values: (J,). test_over_train: n_test / n_train, which is 1 / (k - 1) of k folds.
    """
    from scipy.stats import t

    count, mean = len(values), float(values.mean())
    if count < 2:
        return mean, -math.inf, math.inf, 1.0
    error = math.sqrt(float(values.var(ddof=1)) * (1 / count + test_over_train))
    half = float(t.ppf((1 + level) / 2, count - 1)) * error
    p_value = float(2 * t.sf(abs(mean) / error, count - 1)) if error else float(mean == 0)
    return mean, mean - half, mean + half, p_value


Score = Callable[[Any, "NDArray[Any]", "NDArray[Any]"], float]


def cross_validate(
    estimator: Any, inputs: ArrayLike, labels: ArrayLike, *, groups: Sequence[Any] | None = None,
    folds: int = 5, repeats: int = 1, seed: int = 0, numbers: bool = False, score: Score | None = None,
) -> CrossValidated:  # fmt: skip
    """Cross-validate an estimator of scikit-learn's kind on arrays: (N, D) inputs, (N,) labels. It is cloned for each
    fold. score: (fitted estimator, inputs, labels) -> a number; default: accuracy, for numbers the mean absolute error.

    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import RidgeClassifier
    >>> found = cross_validate(RidgeClassifier(), *load_digits(return_X_y=True))
    >>> round(found.mean, 2)
    0.94
    """
    from sklearn.base import clone

    x, y = np.asarray(inputs), np.asarray(labels)
    if len(x) != len(y) or (groups is not None and len(groups) != len(y)):
        raise BadInput(f"{len(x)} inputs have {len(y)} labels.", "Give a label (and a group) for each input.")
    judge = score or (absolute_error if numbers else accuracy)
    scores = [
        judge(clone(estimator).fit(x[fold.train], y[fold.train]), x[fold.test], y[fold.test])
        for fold in folds_of(y, groups, folds=folds, repeats=repeats, seed=seed, numbers=numbers)
    ]
    measure = "score" if score else "mae" if numbers else "accuracy"
    return summary(scores, folds=folds, repeats=repeats, samples=len(y), measure=measure)


def accuracy(estimator: Any, inputs: NDArray[Any], labels: NDArray[Any]) -> float:
    return float(np.mean(estimator.predict(inputs) == labels))


def absolute_error(estimator: Any, inputs: NDArray[Any], labels: NDArray[Any]) -> float:
    return float(np.mean(np.abs(estimator.predict(inputs) - labels)))


def figure(found: CrossValidated) -> Figure:
    """The mean and its interval, as reports show them."""
    return Figure(found.mean, *(found.interval or (None, None)))

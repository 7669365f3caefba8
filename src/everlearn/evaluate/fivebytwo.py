"""Is one way of training better than another? Five times the data is cut in half; each way learns on one half and is
tested on the other, and the reverse. (Two trained models are compared by `compare`; this compares what trains them.)

With p_i(j) the difference (second - first) in repeat i on half j, and s_i^2 = (p_i(1) - m_i)^2 + (p_i(2) - m_i)^2,
- 5x2 cv t (Dietterich 1998, "Approximate statistical tests", Neural Computation 10, eq. 3):
  t = p_1(1) / sqrt(sum_i s_i^2 / 5), Student's t with 5 degrees of freedom;
- combined 5x2 cv F (Alpaydin 1999, Neural Computation 11, eq. 4): f = sum_ij p_i(j)^2 / (2 sum_i s_i^2), F(10, 5). It
  does not hang on which half came first, and is the one that decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from everlearn.errors import BadInput
from everlearn.evaluate.compare import ALPHA
from everlearn.evaluate.figures import Result
from everlearn.evaluate.folds import corrected, folds_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

REPEATS, HALVES = 5, 2


@dataclass(frozen=True, slots=True)
class FiveByTwo(Result):
    """The answer. difference: mean of the ten, second minus first, positive: the second is better; interval: its 95 %
    interval (corrected as in `folds`); p_value: of the F test, which decides; dietterich: p of the t test. first,
    second: mean scores; n: samples."""

    verdict: Literal["better", "worse", "undecided"]
    difference: float
    interval: tuple[float, float]
    p_value: float
    f: float
    t: float
    dietterich: float
    first: float
    second: float
    n: int
    measure: str


def five_by_two(
    first: Sequence[float], second: Sequence[float], *, n: int, measure: str = "accuracy", alpha: float = ALPHA
) -> FiveByTwo:
    """Judge two ways of training. first, second: (10,) scores on the same folds, repeat by repeat, half by half.
    measure: `mae` is better where it is less. Raises BadInput for another number of scores."""
    from scipy.stats import f as f_distribution
    from scipy.stats import t as t_distribution

    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != (REPEATS * HALVES,) or b.shape != a.shape:
        raise BadInput(f"{a.size} and {b.size} scores came of 5 x 2 folds.", "Give ten of each.")
    gain = (a - b if measure == "mae" else b - a).reshape(REPEATS, HALVES)  # (5, 2)
    variance = float(((gain - gain.mean(axis=1, keepdims=True)) ** 2).sum())  # sum of s_i^2
    mean, low, high, _ = corrected(gain.ravel(), 1.0)
    if variance:
        t = float(gain[0, 0]) / math.sqrt(variance / REPEATS)
        f = float((gain**2).sum()) / (2 * variance)
        dietterich, p_value = float(2 * t_distribution.sf(abs(t), REPEATS)), float(f_distribution.sf(f, 10, 5))
    else:  # the same in every half: certain, or no difference at all
        t = f = math.inf if gain.any() else 0.0
        dietterich = p_value = 0.0 if gain.any() else 1.0
    verdict: Literal["better", "worse", "undecided"] = "undecided"
    if p_value <= alpha and mean:
        verdict = "better" if mean > 0 else "worse"
    return FiveByTwo(
        verdict, mean, (low, high), p_value, f, t, dietterich, float(a.mean()), float(b.mean()), n, measure
    )


def compare_estimators(
    first: Any, second: Any, inputs: ArrayLike, labels: ArrayLike, *, groups: Sequence[Any] | None = None,
    seed: int = 0, numbers: bool = False, alpha: float = ALPHA,
) -> FiveByTwo:  # fmt: skip
    """The test for two estimators of scikit-learn's kind on arrays: (N, D) inputs, (N,) labels."""
    from sklearn.base import clone

    from everlearn.evaluate.folds import absolute_error, accuracy

    x, y = np.asarray(inputs), np.asarray(labels)
    judge = absolute_error if numbers else accuracy
    scores: tuple[list[float], list[float]] = ([], [])
    for half in folds_of(y, groups, folds=HALVES, repeats=REPEATS, seed=seed, numbers=numbers):
        for one, kept in zip((first, second), scores, strict=True):
            fitted = clone(one).fit(x[half.train], y[half.train])
            kept.append(judge(fitted, x[half.test], y[half.test]))
    return five_by_two(*scores, n=len(y), measure="mae" if numbers else "accuracy", alpha=alpha)

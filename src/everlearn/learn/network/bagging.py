"""Several networks of one recipe on different drawings of the same images: bagging and boosting.

Both say which rows each network learns; whoever trains gives them to `fit` as a `Data` of these rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def bootstrap(groups: NDArray[np.generic], seed: int, member: int) -> Rows:
    """Rows of as many groups as there are, drawn with replacement (Breiman 1996, "Bagging predictors"). groups: (N,) of
    each row; the images of one group come together, as often as it was drawn."""
    names, unit = np.unique(groups, return_inverse=True)
    drawn = np.random.default_rng([seed, member, 0xBA6]).integers(len(names), size=len(names))
    rows = np.argsort(unit, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(unit))])
    return np.concatenate([rows[starts[one] : starts[one + 1]] for one in drawn]).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Round:
    """What a boosted network was worth. error: its weighted share of wrong answers on the training images; weight: of
    its vote, 0 where it is no better than guessing; weights: (N,) of the images in the next round."""

    error: float
    weight: float
    weights: NDArray[np.float64]

    @property
    def helps(self) -> bool:
        return self.weight > 0

    @property
    def perfect(self) -> bool:
        return self.error == 0


def equal(rows: int) -> NDArray[np.float64]:
    """The weights of the first round."""
    return np.full(rows, 1 / rows)


def drawn(weights: NDArray[np.float64], seed: int, member: int) -> Rows:
    """(N,) rows drawn by their weights: boosting by resampling (Freund & Schapire 1996), which any loss, batch size and
    augmentation goes with. The first network sees each image once."""
    if np.ptp(weights) == 0:
        return np.arange(len(weights))
    return np.random.default_rng([seed, member, 0xB005]).choice(len(weights), len(weights), p=weights).astype(np.int64)


def judged(right: NDArray[np.bool_], weights: NDArray[np.float64], classes: int) -> Round:
    """SAMME (Zhu, Zou, Rosset & Hastie 2009, "Multi-class AdaBoost", algorithm 2):

        error = sum of the weights of wrong answers
        alpha = log((1 - error) / error) + log(K - 1)
        weight of an image <- weight x exp(alpha), where it was answered wrong; then to a sum of 1

    A network that is right everywhere would have an endless vote: its error is taken for half an image's.
    """
    error = float(weights[~right].sum() / weights.sum())
    if error >= 1 - 1 / classes - 1e-9:  # sums of shares are not exact
        return Round(error, 0.0, weights)
    counted = max(error, 0.5 / len(weights))
    alpha = math.log((1 - counted) / counted) + math.log(classes - 1)
    raised = np.where(right, weights, weights * math.exp(alpha))
    return Round(error, alpha, raised / raised.sum())

"""Labels that are probably wrong: confident learning (Northcutt, Jiang & Chuang 2021, JAIR 70, arXiv:1911.00068).

From what a model says of images it was not taught with, count how often each label stands where another class was
meant (the confident joint), and take that many of the least believable. cleanlab, by the same authors, is the reference
that the tests compare with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from everlearn.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

Prune = Literal["noise_rate", "class", "both"]
_EPSILON = 1e-6  # probabilities that near a threshold count as reaching it
_BLOCK = 8192


@dataclass(frozen=True, slots=True, eq=False)
class Suspects:
    """Which of n labels are judged wrong.

    wrong: (n,) bool. believed: (n,) self-confidence, the probability of the given label, 0-1. meant: (n,) the most
    probable class. order: rows judged wrong, the least believed first.
    """

    wrong: NDArray[np.bool_]
    believed: NDArray[np.float64]
    meant: NDArray[np.int64]
    order: NDArray[np.int64]

    @property
    def label_accuracy(self) -> float:
        """1 - the share of labels judged wrong; 1 where there are none."""
        return 1.0 - float(self.wrong.mean()) if len(self.wrong) else 1.0


def find(probabilities: NDArray[np.floating], labels: NDArray[np.integer], prune: Prune = "noise_rate") -> Suspects:
    """Judge labels. probabilities: (n, c) out of fold, rows summing to 1; labels: (n,) integers in 0 ... c - 1.

    prune: which images make up the counted errors. `noise_rate` (as cleanlab's default): for each pair of classes those
    where the other class leads by most; `class`: for each class the least believed; `both`: who is in both.
    An image whose most probable class is its label is never judged wrong. Give the rows in the order of their ids: ties
    go to the earlier row. Raises BadInput for shapes or values that do not fit.
    """
    chances, given = _checked(probabilities, labels)
    joint = confident_joint(chances, given)
    believed = chances[np.arange(len(given)), given]
    wrong = np.zeros(len(given), dtype=bool)
    for label in np.unique(given):
        rows = np.flatnonzero(given == label)
        if len(rows) < 2:  # the last example of a class stays
            continue
        of_class = chances[rows]
        picked = {"noise_rate": _by_noise_rate, "class": _by_class}
        masks = [pick(of_class, joint[label], int(label)) for name, pick in picked.items() if prune in (name, "both")]
        wrong[rows] = np.logical_and.reduce(masks)
    wrong &= believed < chances.max(1, initial=0.0) - 1e-12
    rows = np.flatnonzero(wrong)
    order = rows[np.argsort(believed[rows], kind="stable")]
    return Suspects(wrong, believed, chances.argmax(1) if chances.size else given, order)


def confident_joint(chances: NDArray[np.float64], given: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, c), (n,) -> (c, c): how many images carry the label of the row and belong to the class of the column.

    An image counts for the class whose threshold t_j = mean of p_j over the images labelled j it reaches (equation 1 of
    the paper), the most probable of several; then rows are scaled to the number of labels (equation 2).
    """
    classes = chances.shape[1]
    counts = np.bincount(given, minlength=classes)
    threshold = np.full(classes, 2.0)  # a class without images is never reached
    for label in np.flatnonzero(counts):
        threshold[label] = chances[given == label, label].mean()
    joint = np.zeros((classes, classes), dtype=np.int64)
    for at in range(0, len(given), _BLOCK):  # bounds the memory where there are thousands of classes
        block = chances[at : at + _BLOCK]
        reached = block >= threshold - _EPSILON
        several = reached.sum(1)
        column = np.where(several > 1, block.argmax(1), reached.argmax(1))
        sure = several > 0
        np.add.at(joint, (given[at : at + _BLOCK][sure], column[sure]), 1)
    np.fill_diagonal(joint, np.maximum(joint.diagonal(), 1))
    joint = np.stack([_scaled(row, int(number)) for row, number in zip(joint, counts)])
    for label in np.flatnonzero((joint.diagonal() == 0) & (counts > 0)):  # one of each class is right, at the least
        joint[label, joint[label].argmax()] -= 1
        joint[label, label] = 1
    return joint


def _by_noise_rate(chances: NDArray[np.float64], joint: NDArray[np.int64], label: int) -> NDArray[np.bool_]:
    """(n, c) of the images of one label -> (n,): for each other class, the counted number with the largest margin."""
    wrong = np.zeros(len(chances), dtype=bool)
    for other in np.flatnonzero(joint):
        if other != label:
            margin = chances[:, other] - chances[:, label]
            wrong[np.argsort(-margin, kind="stable")[: joint[other]]] = True
    return wrong


def _by_class(chances: NDArray[np.float64], joint: NDArray[np.int64], label: int) -> NDArray[np.bool_]:
    """(n, c) of the images of one label -> (n,): as many of the least believed as are counted outside the diagonal."""
    wrong = np.zeros(len(chances), dtype=bool)
    errors = len(chances) - int(joint[label])
    wrong[np.argsort(chances[:, label], kind="stable")[:errors]] = True
    return wrong


def _scaled(row: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Whole numbers in the proportions of the row that add up to `number`: the largest remainders are rounded up.

    In whole numbers throughout, so that ties are ties on every machine; they go to the later class.
    """
    shares, remainders = np.divmod(row * number, row.sum())
    shares[np.argsort(remainders, kind="stable")[::-1][: number - shares.sum()]] += 1
    return shares


def _checked(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    chances, given = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if chances.ndim != 2 or given.shape != chances.shape[:1] or given.dtype.kind not in "iu":
        raise BadInput(f"Probabilities {chances.shape} and labels {given.shape} do not fit.", "Give (n, c) and (n,).")
    if len(given) and (given.min() < 0 or given.max() >= chances.shape[1]):
        raise BadInput(f"A label lies outside 0 ... {chances.shape[1] - 1}.", "Number the classes from 0.")
    if not np.isfinite(chances).all() or (chances < -_EPSILON).any() or (chances > 1 + _EPSILON).any():
        raise BadInput("Probabilities must lie between 0 and 1.", "Give calibrated probabilities, not scores.")
    return chances, given.astype(np.int64)

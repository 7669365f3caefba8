"""Confident learning finds planted errors, and the ones that its authors' own program finds."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.errors import BadInput
from everlearn.validate.suspects import confident_joint, find


def planted(n: int, classes: int, noise: float, sharp: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """(probabilities, given labels, true labels): a model that is right more often than the labels are."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, n)
    given = np.where(rng.random(n) < noise, rng.integers(0, classes, n), true)
    given[:classes] = np.arange(classes)
    scores = rng.normal(0, 1.5, (n, classes))
    scores[np.arange(n), true] += sharp
    chances = np.exp(scores)
    return chances / chances.sum(1, keepdims=True), given, true


def test_planted_errors_are_found() -> None:
    chances, given, true = planted(3000, 10, 0.1, 9)
    judged = find(chances, given)
    wrong = given != true
    assert (judged.wrong & wrong).sum() / wrong.sum() > 0.95
    assert (judged.wrong & wrong).sum() / judged.wrong.sum() > 0.95
    assert judged.label_accuracy == pytest.approx(1 - wrong.mean(), abs=0.01)
    assert set(judged.order) == set(np.flatnonzero(judged.wrong))
    assert (np.diff(judged.believed[judged.order]) >= 0).all()
    assert np.array_equal(judged.meant[judged.order], chances.argmax(1)[judged.order])


def test_right_labels_are_believed() -> None:
    chances, given, _ = planted(2000, 5, 0.0, 12)
    chances, given = chances[5:], given[5:]
    assert find(chances, given).label_accuracy > 0.995


@pytest.mark.parametrize(
    ("ours", "theirs"), [("noise_rate", "prune_by_noise_rate"), ("class", "prune_by_class"), ("both", "both")]
)
@pytest.mark.parametrize(
    ("n", "classes", "noise", "sharp"), [(2000, 10, 0.1, 4), (500, 3, 0.2, 2), (4000, 40, 0.05, 5), (300, 2, 0.0, 3)]
)
def test_agrees_with_cleanlab(ours: str, theirs: str, n: int, classes: int, noise: float, sharp: float) -> None:
    """Not bit by bit: where two pairs of classes tie for the last count, cleanlab goes by rounding noise."""
    filters = pytest.importorskip("cleanlab.filter", reason="cleanlab is not installed (the `test` extra)")
    chances, given, _ = planted(n, classes, noise, sharp)
    reference = filters.find_label_issues(given, chances, filter_by=theirs, n_jobs=1)
    judged = find(chances, given, ours)  # type: ignore[arg-type]
    assert (judged.wrong == reference).mean() > 0.998
    assert (judged.wrong & reference).sum() >= 0.97 * (judged.wrong | reference).sum()


def test_the_joint_keeps_the_number_of_labels() -> None:
    chances, given, _ = planted(700, 12, 0.3, 2)
    joint = confident_joint(chances, given)
    assert np.array_equal(joint.sum(1), np.bincount(given, minlength=12))
    assert (joint >= 0).all()
    assert (joint.diagonal() >= 1).all()


def test_the_order_of_the_images_does_not_matter() -> None:
    chances, given, _ = planted(800, 6, 0.2, 3)
    shuffle = np.random.default_rng(1).permutation(800)
    assert np.array_equal(find(chances, given).wrong[shuffle], find(chances[shuffle], given[shuffle]).wrong)


def test_edges() -> None:
    assert find(np.zeros((0, 3)), np.zeros(0, int)).label_accuracy == 1
    one_each = find(np.array([[0.1, 0.9], [0.9, 0.1]]), np.array([0, 1]))
    assert not one_each.wrong.any()  # the last example of a class stays
    absent = planted(200, 4, 0.1, 6)
    given = np.where(absent[1] == 3, 0, absent[1])
    assert find(absent[0], given).wrong.any()  # a class without any label


@pytest.mark.parametrize(
    ("chances", "labels"),
    [
        (np.ones((3, 2)) / 2, np.array([0, 1])),
        (np.ones((2, 2)) / 2, np.array([0, 2])),
        (np.ones((2, 2)) / 2, np.array([0.0, 1.0])),
        (np.array([[np.nan, 1], [0.5, 0.5]]), np.array([0, 1])),
        (np.array([[-3.0, 4.0], [0.5, 0.5]]), np.array([0, 1])),
    ],
)
def test_what_does_not_fit_is_refused(chances: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(BadInput):
        find(chances, labels)

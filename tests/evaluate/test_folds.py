"""Folds keep groups together and classes in proportion; intervals of their scores agree with the published formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge, RidgeClassifier

from everlearn.errors import BadInput, TooFew
from everlearn.evaluate.folds import corrected, cross_validate, folds_of, summary

LABELS = np.array(["a"] * 40 + ["b"] * 20)
GROUPS = np.array([f"g{i // 2}" for i in range(60)])


def test_each_row_is_tested_once_in_a_repeat_and_no_group_is_split() -> None:
    found = list(folds_of(LABELS, GROUPS, folds=5, repeats=2, seed=3))
    assert [fold.name for fold in found] == ["1.1", "1.2", "1.3", "1.4", "1.5", "2.1", "2.2", "2.3", "2.4", "2.5"]
    for repeat in (found[:5], found[5:]):
        assert sorted(np.concatenate([fold.test for fold in repeat]).tolist()) == list(range(60))
    for fold in found:
        assert not set(GROUPS[fold.train]) & set(GROUPS[fold.test])
        assert (LABELS[fold.test] == "a").mean() == pytest.approx(2 / 3)
    assert any((a.test.tolist() != b.test.tolist()) for a, b in zip(found[:5], found[5:], strict=True))
    again = list(folds_of(LABELS, GROUPS, folds=5, repeats=2, seed=3))
    assert all((a.test == b.test).all() for a, b in zip(found, again, strict=True))


def test_numbers_are_stratified_by_size() -> None:
    values = np.arange(100.0)
    for fold in folds_of(values, None, folds=5, numbers=True):
        assert abs(values[fold.test].mean() - values.mean()) < 5


@pytest.mark.parametrize(
    ("labels", "groups", "options", "kind", "says"),
    [
        ("ab", None, {"folds": 5}, TooFew, "2 groups"),
        ("aabbcc", None, {"folds": 4}, TooFew, "No class has 4"),
        ("a" * 9, ["x"] * 9, {"folds": 2}, TooFew, "1 groups"),
        ("ab", None, {"folds": 1}, BadInput, "1 folds"),
        ("ab", None, {"folds": 2, "repeats": 0}, BadInput, "0 repeats"),
    ],
)
def test_what_cannot_be_is_refused(labels: str, groups: object, options: dict, kind: type, says: str) -> None:
    with pytest.raises(kind, match=says):
        list(folds_of(list(labels), groups, **options))  # type: ignore[arg-type]


def test_the_interval_is_nadeaus_and_bengios() -> None:
    """By hand: mean 0.9, s^2 = 0.001, five folds: error = sqrt(0.001 * (1/5 + 1/4)), t(4) at 97.5 % = 2.7764."""
    scores = [0.86, 0.88, 0.9, 0.92, 0.94]
    mean, low, high, p_value = corrected(np.array(scores) - 0.88, 1 / 4)
    error = math.sqrt(0.001 * (1 / 5 + 1 / 4))
    assert mean == pytest.approx(0.02)
    assert (high - low) / 2 == pytest.approx(2.7764451 * error)
    assert p_value == pytest.approx(0.3991616, abs=1e-6)  # the closed form of t(4) at 0.02 / error = 0.942809
    found = summary(scores, folds=5, repeats=1, samples=100)
    assert (found.mean, found.deviation) == (pytest.approx(0.9), pytest.approx(math.sqrt(0.001)))
    assert found.interval == (pytest.approx(0.9 - 2.7764451 * error), pytest.approx(0.9 + 2.7764451 * error))
    assert "0.9000" in str(found)
    with pytest.raises(BadInput):
        summary(scores[:4], folds=5, repeats=1, samples=100)


def test_estimators_on_arrays() -> None:
    x, y = load_digits(return_X_y=True)
    found = cross_validate(RidgeClassifier(), x[:600], y[:600], folds=3, repeats=2, seed=1)
    assert len(found.scores) == 6 and 0.85 < found.mean < 0.97 and found.measure == "accuracy"
    errors = cross_validate(Ridge(), x[:300], y[:300].astype(float), folds=3, numbers=True)
    assert errors.measure == "mae" and 0.5 < errors.mean < 3

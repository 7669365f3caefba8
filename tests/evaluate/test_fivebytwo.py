"""The 5x2 cv tests give what mlxtend 0.25 gives for the same halves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier
from sklearn.naive_bayes import GaussianNB

from everlearn.errors import BadInput
from everlearn.evaluate.fivebytwo import compare_estimators, five_by_two

# Accuracies of mlxtend.evaluate.{paired_ttest,combined_ftest}_5x2cv(DecisionTreeClassifier(max_depth=8,
# random_state=0), GaussianNB(), first 400 of load_digits, random_seed=1); it answered t = -2.157263131609493 (its
# difference is the other way round), p = 0.0834751479563997, and f = 7.125603864734285, p = 0.021346200008552526.
TREE = [0.805, 0.805, 0.765, 0.75, 0.795, 0.75, 0.75, 0.745, 0.81, 0.705]
BAYES = [0.89, 0.905, 0.885, 0.825, 0.865, 0.865, 0.84, 0.91, 0.865, 0.835]


def test_it_agrees_with_the_reference() -> None:
    found = five_by_two(TREE, BAYES, n=400)
    assert found.t == pytest.approx(2.157263131609493) and found.dietterich == pytest.approx(0.0834751479563997)
    assert found.f == pytest.approx(7.125603864734285) and found.p_value == pytest.approx(0.021346200008552526)
    assert found.verdict == "better" and found.difference == pytest.approx(np.mean(BAYES) - np.mean(TREE))
    assert found.interval[0] < found.difference < found.interval[1]
    back = five_by_two(BAYES, TREE, n=400)
    assert back.verdict == "worse" and back.p_value == found.p_value and back.difference == -found.difference


def test_less_error_is_better() -> None:
    assert five_by_two(BAYES, TREE, n=400, measure="mae").verdict == "better"


def test_the_same_in_every_half() -> None:
    assert five_by_two(TREE, TREE, n=400).verdict == "undecided"
    assert five_by_two(TREE, TREE, n=400).p_value == 1.0
    sure = five_by_two([0.5] * 10, [0.75] * 10, n=400)
    assert sure.verdict == "better" and math.isinf(sure.f) and sure.to_json()["f"] is None


def test_another_number_of_scores_is_refused() -> None:
    with pytest.raises(BadInput):
        five_by_two(TREE[:9], BAYES[:9], n=400)


def test_estimators_on_arrays() -> None:
    x, y = load_digits(return_X_y=True)
    found = compare_estimators(DummyClassifier(), GaussianNB(), x[:300], y[:300])
    assert found.verdict == "better" and found.first < 0.2 < 0.6 < found.second
    assert found == compare_estimators(DummyClassifier(), GaussianNB(), x[:300], y[:300])

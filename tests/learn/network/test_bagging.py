"""Which images each network of a bag, or of a boosted row, learns."""

from __future__ import annotations

import math

import numpy as np
import pytest

from everlearn.learn.network.bagging import bootstrap, drawn, equal, judged


def test_a_bootstrap_takes_whole_groups_and_the_same_ones_for_the_same_seed() -> None:
    groups = np.array(["a", "a", "b", "c", "c", "c", "d", "e"])
    rows = bootstrap(groups, seed=3, member=1)
    for name in "abcde":
        times = [int((rows == row).sum()) for row in np.flatnonzero(groups == name)]
        assert len(set(times)) == 1, "the images of a group come together"
    assert np.array_equal(rows, bootstrap(groups, 3, 1)) and not np.array_equal(rows, bootstrap(groups, 3, 2))


def test_a_bootstrap_leaves_a_third_out() -> None:
    out = [1 - len(set(bootstrap(np.arange(2000), 0, member))) / 2000 for member in range(5)]
    assert np.mean(out) == pytest.approx(math.exp(-1), abs=0.01)


def test_samme_weighs_what_was_wrong_as_the_paper_does() -> None:
    """Zhu et al. 2009, algorithm 2, by hand: 4 classes, one of ten images wrong."""
    right = np.ones(10, bool)
    right[3] = False
    found = judged(right, equal(10), 4)
    assert found.error == pytest.approx(0.1)
    assert found.weight == pytest.approx(math.log(9) + math.log(3))
    assert found.weights[3] == pytest.approx(27 / 36) and found.weights.sum() == pytest.approx(1)
    assert (drawn(found.weights, 0, 1) == 3).sum() >= 4 and len(drawn(found.weights, 0, 1)) == 10
    again = judged(right, found.weights, 4)  # the same mistake once more: no better than guessing, so no vote
    assert again.error == pytest.approx(0.75) and not again.helps and again.weights is found.weights


def test_a_perfect_network_has_a_vote_that_ends() -> None:
    found = judged(np.ones(50, bool), equal(50), 3)
    assert found.perfect and found.helps and math.isfinite(found.weight)


def test_the_first_network_sees_each_image_once() -> None:
    assert drawn(equal(7), 0, 0).tolist() == list(range(7))

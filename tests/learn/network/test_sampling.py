"""Which images an epoch shows: balanced as asked, the same for every process, shared out without a gap."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.errors import BadInput
from everlearn.learn.network.sampling import _mixed, keys, order

TARGETS = np.repeat(np.arange(4), (80, 40, 20, 4))


def counts(rows: np.ndarray) -> list[int]:
    return np.bincount(TARGETS[rows], minlength=4).tolist()


def test_natural_shows_each_once() -> None:
    rows = order(TARGETS, "natural", 0, 0)
    assert sorted(rows) == list(range(144))
    assert not np.array_equal(rows, np.arange(144))


def test_balanced_draws_classes_alike() -> None:
    drawn = np.sum([counts(order(TARGETS, "balanced", 0, epoch)) for epoch in range(50)], axis=0)
    assert drawn.sum() == 50 * 144
    assert np.allclose(drawn / drawn.sum(), 0.25, atol=0.02)
    rows = np.concatenate([order(TARGETS, "balanced", 0, epoch) for epoch in range(50)])
    assert set(rows) == set(range(144)), "each image has its chance"


def test_over_repeats_the_rare() -> None:
    rows = order(TARGETS, "over", 0, 0)
    assert counts(rows) == [80, 80, 80, 80]
    times = np.bincount(rows, minlength=144)
    assert set(times[:80]) == {1}
    assert set(times[80:120]) == {2}
    assert set(times[120:140]) == {4}
    assert set(times[140:]) == {20}


def test_under_cuts_the_frequent_and_takes_others_each_time() -> None:
    rows = order(TARGETS, "under", 0, 0)
    assert counts(rows) == [4, 4, 4, 4]
    assert len(set(rows)) == 16
    assert set(order(TARGETS, "under", 0, 1)) != set(rows)


@pytest.mark.parametrize("how", ["natural", "balanced", "over", "under"])
def test_a_function_of_seed_and_epoch(how: str) -> None:
    first = order(TARGETS, how, 3, 5)  # type: ignore[arg-type]
    np.random.seed(99)  # noqa: NPY002 - what others draw changes nothing
    assert np.array_equal(first, order(TARGETS, how, 3, 5))  # type: ignore[arg-type]
    assert not np.array_equal(first, order(TARGETS, how, 3, 6))  # type: ignore[arg-type]
    assert not np.array_equal(first, order(TARGETS, how, 4, 5))  # type: ignore[arg-type]


@pytest.mark.parametrize("targets", [np.zeros((5, 3), np.float32), np.zeros(5, np.float32)])
def test_only_classes_can_be_balanced(targets: np.ndarray) -> None:
    assert len(order(targets, "natural", 0, 0)) == 5
    with pytest.raises(BadInput, match="natural"):
        order(targets, "over", 0, 0)


def test_keys_differ_and_stay() -> None:
    places = np.arange(1000)
    found = np.stack([keys(seed, epoch, places) for seed in range(4) for epoch in range(4)])
    assert len(np.unique(found)) == found.size
    assert (found >= 0).all()
    assert np.array_equal(keys(1, 2, places[::-1]), keys(1, 2, places)[::-1])
    assert np.array_equal(keys(1, 2, np.array([-1])), keys(1, 2, np.array([-1])))


def test_keys_are_mixed_as_published() -> None:
    """The first outputs of SplitMix64 in state 0, as in its reference implementation."""
    state = np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert [hex(int(one)) for one in _mixed(state)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]

"""The law that a curve followed is found again, and its interval holds the truth about as often as it says."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from everlearn.errors import BadInput, TooFew
from everlearn.evaluate.learning_curve import PowerLaw, growing, learning_curve, nested, picture, shares

SIZES = np.array([50, 100, 200, 400, 800, 1600.0])
TRUTH = PowerLaw(2.0, 0.6, 0.02)
ERRORS = np.array([TRUTH.error(n) for n in SIZES])


def test_an_exact_law_is_found_again() -> None:
    found = learning_curve(SIZES, np.stack([ERRORS] * 3), samples=2000, tested=400, target=0.97)
    assert found.law.slope == pytest.approx(0.6, abs=0.02) and found.law.floor == pytest.approx(0.02, abs=0.002)
    assert found.gain.value == pytest.approx(TRUTH.error(2000) - TRUTH.error(4000), rel=0.02)
    assert found.needed == pytest.approx((2.0 / 0.01) ** (1 / 0.6), rel=0.15)
    assert "twice the images (2,000 more)" in str(found) and "+0.7 points" in str(found)
    assert found.points[0].samples == 50 and found.points[0].score == pytest.approx(1 - ERRORS[0])


def test_the_interval_holds_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth, held = TRUTH.error(2000) - TRUTH.error(4000), 0
    for _ in range(60):
        errors = rng.binomial(400, ERRORS, (5, len(SIZES))) / 400
        gain = learning_curve(SIZES, errors, samples=2000, tested=400).gain
        held += gain.low <= truth <= gain.high  # type: ignore[operator]
    assert held >= 51  # 57 wanted; 51 or fewer of 60 at 95 % happen once in 150 times


def test_a_flat_curve_promises_nothing_and_says_so() -> None:
    rng = np.random.default_rng(1)
    found = learning_curve(SIZES, 0.1 + 0.01 * rng.standard_normal((5, 6)), samples=2000, tested=400, target=0.99)
    assert found.gain.low == 0.0 and found.gain.value < 0.005 and found.needed is None
    assert str(found).startswith("It is not shown that more images would help")
    assert "does not reach accuracy 0.99" in str(found)


def test_one_curve_and_errors_in_a_unit() -> None:
    one = learning_curve(SIZES, [ERRORS], samples=2000, tested=400)
    assert one.gain.low < one.gain.value < one.gain.high  # type: ignore[operator]
    years = learning_curve(SIZES, 40 * np.stack([ERRORS, 1.1 * ERRORS]), samples=2000, tested=400, measure="mae")
    assert years.points[0].score == pytest.approx(42 * ERRORS[0]) and "off the error (" in str(years)


def test_parts_grow_hold_each_other_and_split_no_group() -> None:
    labels = np.array(["a"] * 200 + ["b"] * 100)
    groups = np.array([f"g{i // 2}" for i in range(300)])
    rows = np.arange(20, 300)
    parts = nested(labels, groups, rows, [0.1, 0.25, 0.5, 1.0], seed=5)
    assert parts[-1].tolist() == rows.tolist()
    for part, more in pairwise(parts):
        assert set(part) < set(more)
    for part, share in zip(parts, [0.1, 0.25, 0.5, 1.0], strict=True):
        inside = set(groups[part])
        assert all((group in inside) == (i in set(part)) for i, group in enumerate(groups) if i in set(rows))
        assert len(part) == pytest.approx(share * len(rows), abs=4)
        assert (labels[part] == "b").mean() == pytest.approx(100 / 280, abs=0.05)
    alone = nested(labels, groups, rows[:100], [0.1], seed=5)  # a group's place hangs on no other's class
    assert set(alone[0]) <= set(rows[:100])


def test_shares_begin_where_each_class_can_be_known() -> None:
    assert shares(1648, 20) == [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0]
    assert shares(100, 20) == [0.25, 0.5, 1.0]
    with pytest.raises(TooFew, match="It begins at 80"):
        shares(60, 20)


def test_sizes_that_large_groups_make_alike_count_once() -> None:
    assert growing([270, 270, 328, 424, 652, 1219]) == [2, 3, 4, 5]
    assert growing([100, 200, 400]) == [0, 1, 2]
    with pytest.raises(TooFew, match="only 2 sizes"):
        growing([390, 395, 400, 900])


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(BadInput):
        learning_curve(SIZES[:2], [ERRORS[:2]], samples=100, tested=10)
    with pytest.raises(BadInput):
        learning_curve(SIZES, [[np.nan] * 6], samples=100, tested=10)


def test_it_is_drawn() -> None:
    found = learning_curve(SIZES, [ERRORS, ERRORS], samples=2000, tested=400)
    assert b"twice the images" in picture(found) and picture(found, form="png").startswith(b"\x89PNG")

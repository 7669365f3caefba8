"""Forgetting and backward transfer against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.evaluate.forgetting import forgetting

HISTORY = [{"a": 0.9, "b": 0.8}, {"a": 0.95, "b": 0.7, "c": 1.0}, {"a": 0.85, "b": 0.75, "c": 0.9, "d": 0.5}]


def test_by_hand() -> None:
    found = forgetting(HISTORY)
    assert found.forgetting is not None
    assert found.forgetting.value == pytest.approx((0.10 + 0.05 + 0.10) / 3)
    assert found.backward_transfer is not None
    assert found.backward_transfer.value == pytest.approx((-0.05 - 0.05 - 0.10) / 3)
    assert [r.name for r in found.classes][-1] == "b"
    assert {r.name: r.learned_in for r in found.classes} == {"a": 0, "b": 0, "c": 1}
    assert found.curve[0] is None
    assert found.curve[1] == pytest.approx((-0.05 + 0.1) / 2)
    assert found.accuracy[2] == pytest.approx(0.75)


def test_nothing_before_a_second_version_and_nothing_of_a_class_no_longer_tested() -> None:
    for history in ([], HISTORY[:1], [{"a": 1.0}, {"b": 1.0}]):
        found = forgetting(history)
        assert found.forgetting is None
        assert found.backward_transfer is None
    assert forgetting([{"a": 1.0, "gone": 1.0}, {"a": 0.5}]).classes[0].name == "a"


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=2, max_size=6))
def test_agrees_with_the_matrix_formula(table: list[list[float]]) -> None:
    """R[t, i]: all classes known from the start, so that the sums of the papers are plain array expressions."""
    r = np.array(table)
    found = forgetting([dict(zip("abc", row, strict=True)) for row in table])
    assert found.forgetting is not None
    assert found.backward_transfer is not None
    assert found.forgetting.value == pytest.approx((r[:-1].max(axis=0) - r[-1]).mean())
    assert found.backward_transfer.value == pytest.approx((r[-1] - r[0]).mean())
    assert -found.backward_transfer.value <= found.forgetting.value + 1e-12


def test_interval_needs_the_number_of_images_and_narrows_with_it() -> None:
    assert forgetting(HISTORY).forgetting.low is None  # type: ignore[union-attr]
    few, many = (forgetting(HISTORY, dict.fromkeys("abcd", n)).forgetting for n in (20, 2000))
    assert few is not None
    assert many is not None
    assert few.low < many.low < many.value < many.high < few.high  # type: ignore[operator]

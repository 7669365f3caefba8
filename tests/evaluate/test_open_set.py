"""The two mistakes of an open set, counted apart."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.evaluate.open_set import open_set
from everlearn.evaluate.plots import false_accepts

PROMISE = {
    "false_accept": {"asked": 0.05, "upper": 0.04}, "threshold": 0.3,
    "curve": [{"threshold": 0.1, "false_accept": 0.5, "false_reject": 0.0},
              {"threshold": 0.4, "false_accept": 0.0, "false_reject": 0.3}],
}  # fmt: skip


def flags(hits: int, of: int) -> np.ndarray:
    return np.arange(of) < hits


def test_refused_and_accepted_are_shares_of_their_own_with_exact_bounds() -> None:
    found = open_set(flags(3, 20), flags(1, 10), flags(2, 20), PROMISE).to_json()
    assert found["false_reject"] == pytest.approx(0.15)
    assert found["false_accept"] == {"asked": 0.05, "seen": 0.1, "promised": 0.04,
                                     "upper": pytest.approx(0.2653, abs=1e-4)}  # fmt: skip
    assert found["strangers"] == {"images": 10, "false_accept": 0.1}
    assert (found["known"], found["impostors"], found["threshold"]) == (20, 30, 0.3)
    assert found["learned_curve"] == PROMISE["curve"]


def test_what_nobody_was_asked_of_is_no_figure() -> None:
    nobody = np.zeros(0, bool)
    found = open_set(flags(1, 5), nobody, nobody, {}).to_json()
    assert found["false_accept"] == {"asked": None, "seen": None, "upper": None, "promised": None}
    assert found["strangers"] == {"images": 0, "false_accept": None}
    assert list(found["intervals"]) == ["false_reject"]


def test_the_curve_is_drawn_with_what_was_asked_for() -> None:
    found = open_set(flags(3, 20), flags(1, 10), flags(2, 20), PROMISE, PROMISE["curve"])
    picture = false_accepts(found).decode()
    for words in ("Known refused", "Strangers accepted", "asked for", "test images", "out of fold"):
        assert words in picture
    assert b"PNG" in false_accepts(open_set(flags(0, 5), flags(0, 5), flags(0, 5), {}), form="png")[:8]

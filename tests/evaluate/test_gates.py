"""Targets, their directions, and the decision."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.errors import BadConfig
from everlearn.evaluate.compare import Comparison, compare
from everlearn.evaluate.gates import DATA_TARGETS, MODEL_TARGETS, decide, failed, judge

GOOD = {"accuracy": 0.97, "precision": 0.95, "recall": 0.9, "f1": 0.9, "training_seconds": 3, "memory_bytes": 1e9}


def change(lost: int, gained: int, same: int, labels: list[str] | None = None) -> Comparison:
    moved = np.repeat([-1, 1, 0], [lost, gained, same])
    return compare(moved <= 0, moved >= 0, labels=labels)


def test_defaults_are_the_designed_ones() -> None:
    assert {name: MODEL_TARGETS[name] for name in ("accuracy", "precision", "recall", "f1")} == {
        "accuracy": 0.95,
        "precision": 0.90,
        "recall": 0.85,
        "f1": 0.87,
    }
    assert DATA_TARGETS == {"quality": 0.8, "label_accuracy": 0.95, "diversity": 0.7, "class_balance": 0.6}


def test_directions_and_boundaries() -> None:
    gates = judge(GOOD | {"accuracy": 0.95, "training_seconds": 7200.1, "best_epoch": 100}, MODEL_TARGETS)
    assert gates["accuracy"].passed
    assert not gates["training_seconds"].passed
    assert gates["best_epoch"].passed
    assert failed(judge(GOOD | {"training_seconds": 9000}, MODEL_TARGETS)) == ["training_seconds 9000 > 7200"]
    assert gates["accuracy"].to_json() == {"value": 0.95, "target": 0.95, "pass": True}


def test_missing_values_fail_unless_they_may_be_missing() -> None:
    gates = judge(GOOD | {"recall": None, "f1": float("nan")}, MODEL_TARGETS)
    assert [name for name, gate in gates.items() if not gate.passed] == ["recall", "f1"]
    assert gates["gpu_utilisation"].skipped
    assert gates["gpu_utilisation"].to_json() == {
        "value": None,
        "target": 0.9,
        "pass": True,
        "skipped": True,
        "reason": "there is no GPU",
    }
    assert failed(gates) == ["recall is missing (it was not measured)", "f1 is missing (it was not measured)"]


def test_targets_that_are_no_numbers() -> None:
    with pytest.raises(BadConfig, match="gate accuracy is 'high'"):
        judge(GOOD, {"accuracy": "high"})  # type: ignore[dict-item]


def test_first_champion_needs_only_the_gates() -> None:
    assert decide(judge(GOOD, MODEL_TARGETS), None, {"x": False}, first=True).outcome == "promote"
    held = decide(judge(GOOD | {"accuracy": 0.5}, MODEL_TARGETS), None, {}, first=True)
    assert held.outcome == "hold"
    assert "accuracy 0.5 < 0.95" in held.reason


def test_later_champions_need_more() -> None:
    gates = judge(GOOD, MODEL_TARGETS)
    assert decide(gates, None, {}, first=False).outcome == "hold"
    assert decide(gates, change(0, 50, 950), {"x": True}, first=False).outcome == "promote"
    assert "not to be worse" in decide(gates, change(0, 0, 950), {}, first=False).reason
    worse = decide(gates, change(60, 5, 935), {}, first=False)
    assert (worse.outcome, worse.reason) == ("hold", "It is shown to be worse than the champion, by 5.50 points.")
    unsure = decide(gates, change(10, 10, 80), {}, first=False)
    assert unsure.outcome == "hold"
    assert "more like these would decide" in unsure.reason
    again = decide(gates, change(0, 50, 950), {"id1": True, "id2": False}, first=False)
    assert (again.outcome, again.reason) == ("hold", "1 of 2 reported mistakes are still made: id2.")


def test_a_harmed_class_holds_a_better_model() -> None:
    labels = ["hurt"] * 12 + ["other"] * 988
    found = change(12, 88, 900, labels)
    assert found.verdict == "better"
    held = decide(judge(GOOD, MODEL_TARGETS), found, {}, first=False)
    assert held.outcome == "hold"
    assert "hurt (-100.0 %)" in held.reason

"""Curves made by hand, each as a careful person would name it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from everlearn.evaluate.curves import Fitting, column, fitting

E = np.arange(30)
FALLING = 2 * np.exp(-E / 5) + 0.1
NOISE = np.random.default_rng(0).normal(0, 0.01, 30)


def curves(train: Any, held: Any, train_accuracy: Any = None, val_accuracy: Any = None) -> list[dict[str, float]]:
    rows = [{"train_loss": float(a), "val_loss": float(b)} for a, b in zip(train, held, strict=True)]
    for name, values in (("train_accuracy", train_accuracy), ("val_accuracy", val_accuracy)):
        for row, value in zip(rows, np.broadcast_to(math.nan if values is None else values, len(rows)), strict=True):
            row[name] = float(value)
    return rows


def test_training_loss_falls_while_validation_loss_rises() -> None:
    held = FALLING + np.maximum(0, E - 10) * 0.03 + NOISE
    found = fitting(curves(FALLING, held, 0.99, 0.93))
    assert found.kind == "overfitting"
    assert "since epoch" in found.reason and "rose" in found.reason
    assert str(found) == f"overfitting: {found.reason}"
    assert found.to_json() == {"kind": "overfitting", "reason": found.reason}


def test_learned_by_heart_without_the_loss_rising() -> None:
    found = fitting(curves(FALLING, FALLING * 0.4 + 0.9 + NOISE, 1.0, 0.7))
    assert found.kind == "overfitting"
    assert "100 % of the training images" in found.reason and "70 % of the validation" in found.reason


@pytest.mark.parametrize("accuracy", [(0.3, 0.28), (None, 0.2)])
def test_both_stay_high(accuracy: tuple[float | None, float]) -> None:
    found = fitting(curves(np.full(30, 2.2) + NOISE, np.full(30, 2.25) + NOISE[::-1], *accuracy))
    assert found.kind == "underfitting"


def test_both_are_still_falling() -> None:
    line = np.linspace(2.3, 0.8, 12)
    found = fitting(curves(line, line + 0.1, 0.8, 0.78))
    assert found.kind == "underfitting"
    assert "still fall" in found.reason


def test_a_good_training() -> None:
    assert fitting(curves(FALLING + NOISE, FALLING + 0.05 + NOISE, 0.98, 0.97)).kind == "good"
    assert fitting(curves(FALLING, FALLING + 0.05, None, 0.9)).kind == "good"  # numbers: R²


def test_augmentation_makes_the_training_side_look_worse_and_is_no_underfitting() -> None:
    assert fitting(curves(FALLING + 1.2 + NOISE, FALLING + NOISE, 0.55, 0.98)).kind == "good"


def test_one_odd_epoch_is_no_overfitting() -> None:
    held = FALLING + 0.05
    held[27] += 2
    assert fitting(curves(FALLING, held, 0.98, 0.97)).kind == "good"
    held = FALLING + 0.05
    held[-1] += 0.02
    assert fitting(curves(FALLING, held, 0.98, 0.97)).kind == "good"


def test_noise_is_no_overfitting() -> None:
    noisy = 0.3 + np.random.default_rng(1).normal(0, 0.06, 30)
    assert fitting(curves(np.linspace(0.4, 0.35, 30), noisy, 0.9, 0.9)).kind != "overfitting"


def test_both_losses_rising_is_another_matter() -> None:
    found = fitting(curves(np.linspace(0.5, 3, 20), np.linspace(0.6, 4, 20), 0.3, 0.3))
    assert found.kind == "unclear"
    assert "learning rate" in found.reason


@pytest.mark.parametrize("history", [[], curves([1.0] * 3, [1.0] * 3)])
def test_too_few_epochs(history: list[dict[str, float]]) -> None:
    assert fitting(history) == Fitting("unclear", f"{len(history)} epochs are too few to tell; 4 are the least.")


def test_a_loss_that_is_no_number() -> None:
    assert fitting(curves([1, 1, 1, 1, math.nan], [1, 1, 1, 1, 1])).kind == "unclear"


def test_epochs_of_the_loop_are_read_as_they_are() -> None:
    from everlearn.learn.fit import Epoch

    history = [Epoch(n + 1, float(FALLING[n]), 0.97, float(FALLING[n]) + 0.05, 0.96, 0.1, 1.0, 10.0) for n in range(30)]
    assert fitting(history).kind == "good"
    assert column(history, "nothing").shape == (30,)

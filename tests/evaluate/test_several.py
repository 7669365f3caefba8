"""Many comparisons at once: Holm's correction, and what one variable changed means."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from everlearn.errors import BadInput
from everlearn.evaluate.changes import changes, told
from everlearn.evaluate.compare import compare
from everlearn.evaluate.several import holm, several


def test_holm_agrees_with_the_reference() -> None:
    """statsmodels 0.15, multipletests(p, method="holm")."""
    found = holm([0.011, 0.02, 0.6, 0.0004, 0.03, 0.02])
    assert found == pytest.approx([0.055, 0.08, 0.6, 0.0024, 0.08, 0.08])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]


def _model(base: np.ndarray, lost: int, gained: int) -> np.ndarray:
    """Right where the baseline is, but for so many images."""
    after = base.copy()
    after[np.flatnonzero(base)[:lost]] = False
    after[np.flatnonzero(~base)[:gained]] = True
    return after


def test_chance_does_not_become_better_by_many_tries() -> None:
    base = np.arange(1000) % 10 != 0  # 900 right
    few = _model(base, 8, 24)  # p = 0.0070 alone
    one = several("base", {"few": partial(_compared, base, few)}, 0.05)
    assert one.models["few"].verdict == "better" and one.corrected["few"] == one.models["few"].p_value
    crowd = {f"m{i}": partial(_compared, base, _model(base, 20, 20 + i)) for i in range(9)}
    many = several("base", {**crowd, "few": partial(_compared, base, few)}, 0.05)
    assert many.models["few"].verdict != "better" and many.best == "base"
    assert many.corrected["few"] == pytest.approx(10 * many.models["few"].p_value)


def test_holm_gives_a_later_step_more() -> None:
    """Alone among three the second is not shown (alpha / 3), but it is once the first has been (alpha / 2)."""
    base = np.arange(1000) % 10 != 0
    models = {"none": _model(base, 5, 5), "second": _model(base, 8, 23), "first": _model(base, 0, 60)}
    found = several("base", {name: partial(_compared, base, one) for name, one in models.items()}, 0.05)
    assert [found.models[name].verdict for name in models] == ["equivalent", "better", "better"]
    assert list(found.models) == list(models) and found.best == "first"
    assert _compared(base, models["second"], 0.05 / 3).verdict != "better"
    assert found.models["second"].interval[0] > 0
    assert found.to_json()["corrected"]["first"] == found.corrected["first"]


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(BadInput):
        several("base", {}, 0.05)


def _compared(base: np.ndarray, after: np.ndarray, alpha: float):
    return compare(base, after, alpha=alpha)


BEFORE = {"recipe": {"seed": 0, "stages": [{"optimizer": {"learning_rate": 0.001}, "dropout": None}]}, "data": "4f1a"}


def test_one_variable_changed_is_named() -> None:
    after = {"recipe": {"seed": 0, "stages": [{"optimizer": {"learning_rate": 0.01}}]}, "data": "4f1a"}
    found = changes(BEFORE, after)
    assert [(one.path, one.before, one.after) for one in found] == [
        ("recipe.stages.0.optimizer.learning_rate", 0.001, 0.01)
    ]
    assert told(found) == "One variable changed: recipe.stages.0.optimizer.learning_rate 0.001 -> 0.01."


def test_seed_data_and_stages_count_too() -> None:
    after = {"recipe": {"seed": 1, "stages": [*BEFORE["recipe"]["stages"], {"epochs": 3}]}, "data": "99"}  # type: ignore[index]
    found = changes(BEFORE, after)
    assert [one.path for one in found] == ["data", "recipe.seed", "recipe.stages.1.epochs"]
    assert told(found).startswith("3 variables changed: data 4f1a -> 99; recipe.seed 0 -> 1;")
    assert told(found).endswith("The comparison cannot say which one did it.")


def test_the_same_configuration_changed_nothing() -> None:
    assert changes(BEFORE, BEFORE) == () and "chance" in told(())
    assert changes({"a": 1, "b": True}, {"a": 1.0, "b": 1}) == changes({"b": True}, {"b": 1})
    assert len(changes({"a": 1, "b": True}, {"a": 1.0, "b": 1})) == 1
    assert changes({"a": None, "c": {}}, {"c": {}}) == ()

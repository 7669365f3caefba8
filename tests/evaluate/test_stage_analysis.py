"""Gains of stages, as the published example of such a system reports them."""

from __future__ import annotations

import math

import pytest

from everlearn.evaluate.checklist import ITEMS, Item, lines
from everlearn.evaluate.curves import Fitting
from everlearn.evaluate.stage_analysis import StageFacts, analysed, picture, summary, told
from everlearn.evaluate.words import WORDS

LOSSES = (4.2559, 4.2053, 4.0165, 3.8371, 3.5488)
ACCURACIES = (0.102, 0.108, 0.160, 0.192, 0.252)
NAMES = ("baseline", "augmentation", "regularization", "fine_tuning", "polishing")


def test_it_reports_the_published_example_as_it_was_published() -> None:
    """Five one-epoch stages: loss 16.7 % lower (16.6 to three digits), accuracy 147 % higher in total."""
    found = analysed([StageFacts(*one, 10.0) for one in zip(NAMES, NAMES, LOSSES, ACCURACIES, strict=True)])
    assert found.total is not None
    assert found.total.loss_reduction == pytest.approx(0.1661, abs=1e-4)
    assert found.total.accuracy_gain == pytest.approx(1.4706, abs=1e-4)
    assert told(found.total) == ("-16.6 %", "+147.1 %") and "+15.0 points" in summary(found)
    assert found.best == "polishing" and found.seconds == 50
    assert found.stages[0].gain is None and found.stages[1].to_json()["points"] == pytest.approx(0.006)


def test_a_stage_that_made_it_worse_is_not_the_best() -> None:
    found = analysed([StageFacts("a", "", 0.5, 0.8, 1), StageFacts("b", "", 0.6, 0.7, 1)])
    assert found.best == "a" and told(found.total) == ("+20.0 %", "-12.5 %")
    equal = analysed([StageFacts("a", "", 0.5, 0.8, 1), StageFacts("b", "", 0.4, 0.8, 1)])
    assert equal.best == "b"


def test_what_there_is_nothing_to_divide_by_is_left_out() -> None:
    found = analysed([StageFacts("a", "", math.nan, 0.0, 1), StageFacts("b", "", 0.4, 0.5, 1)])
    assert found.total is not None and found.total.loss_reduction is None and found.total.accuracy_gain is None
    assert analysed([StageFacts("a", "", 1.0, 0.5, 1)]).total is None
    assert "One stage" in summary(analysed([StageFacts("a", "", 1.0, 0.5, 1)]))


def test_where_the_gains_come_from() -> None:
    facts = [
        StageFacts("a", "", 1.0, 0.5, 1, classes={"x": 0.2, "y": 0.9}),
        StageFacts("b", "", 0.8, 0.7, 1, weights={"layers.0": 0.1}, classes={"x": 0.8, "y": 0.8, "new": 1.0},
                   curves=Fitting("good", "it learned.")),
    ]  # fmt: skip
    found = analysed(facts)
    assert list(found.stages[1].classes) == ["x", "y"] and found.stages[1].classes["x"] == pytest.approx(0.6)
    drawn = picture(found, WORDS["ko"])
    assert WORDS["ko"]["weights_change"].encode() in drawn and b"layers.0" in drawn
    assert len(picture(analysed(facts[:1]))) < len(drawn)
    assert found.stages[1].to_json()["curves"] == {"kind": "good", "reason": "it learned."}


def test_every_box_has_its_words_in_both_languages() -> None:
    for name in ITEMS:
        codes = {key.removeprefix(f"check_{name}_") for key in WORDS["en"] if key.startswith(f"check_{name}_")}
        assert "none" in codes and len(codes) > 1
        for lang in ("en", "ko"):
            assert Item(name, False, "none").title(lang) and Item(name, False, "none").evidence(lang)
    shown = lines([Item("plan", False, "none"), Item("saved", True, "version",
                   {"version": "v1", "count": "2", "where": "here", "digest": "ab"})])  # fmt: skip
    assert shown[0].startswith("[ ] ") and shown[2].startswith("[x] ") and "v1 of 2 versions" in shown[3]

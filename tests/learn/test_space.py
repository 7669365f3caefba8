"""What a search may change: read from text, tried on the recipe, applied to it."""

from __future__ import annotations

import pytest

from everlearn.errors import BadConfig
from everlearn.learn.network import recipe as recipes
from everlearn.learn.space import DEFAULT, space

FIVE = recipes.load("five-stage")
ONE = recipes.load("baseline")


def test_default_space_is_the_published_one() -> None:
    rate, batch, epochs = space(ONE, DEFAULT).dimensions
    assert (rate.low, rate.high, rate.log) == (0.001, 0.1, True)
    assert batch.choices == (16, 32, 64, 128) and batch.ordered
    assert (epochs.low, epochs.high, epochs.whole) == (10, 200, True)


def test_whole_recipe_keeps_the_relation_of_its_stages() -> None:
    found = space(FIVE).applied({"learning_rate": 0.02, "batch_size": 64, "epochs": 30})
    before = [(one.optimizer.learning_rate, one.epochs) for one in FIVE.stages]
    for (rate, epochs), after in zip(before, found.stages, strict=True):
        assert after.optimizer.learning_rate == pytest.approx(10 * rate)
        assert after.epochs == 2 * epochs
        assert after.batch_size == 64
    own = space(FIVE).own()
    assert own == {"learning_rate": 0.002, "batch_size": 32, "epochs": 15}
    assert space(FIVE).applied(own) == FIVE


def test_one_stage_alone_is_changed_where_it_is_named() -> None:
    found = space(FIVE, ["learning_rate=0.001..0.1:log", "dropout=0..0.5"], "fine_tuning").applied(
        {"learning_rate": 0.01, "dropout": 0.25}
    )
    changed = [one for one, before in zip(found.stages, FIVE.stages, strict=True) if one != before]
    assert [one.name for one in changed] == ["fine_tuning"]
    assert (changed[0].optimizer.learning_rate, changed[0].dropout) == (0.01, 0.25)


def test_kinds_of_dimensions() -> None:
    written = [
        "size=16..48:8",
        "stages.*.optimizer.weight_decay=1e-4..0.1:log",
        "patience=null,3",
        "ema=0,0.99",
        'network=["cnn:depth=2,width=8", "cnn:depth=3,width=8"]',
        "loss.label_smoothing=0..0.2:0.05",
    ]
    size, decay, patience, ema, network, smoothing = space(ONE, written).dimensions
    assert size.whole and size.grid() == [16, 24, 32, 40, 48]
    assert decay.grid()[0] == 0.0001 and decay.grid()[-1] == 0.1 and decay.log
    assert patience.choices == (None, 3) and not patience.ordered
    assert ema.ordered and ema.outside(ema.inside(0.99)) == 0.99
    assert network.choices == ("cnn:depth=2,width=8", "cnn:depth=3,width=8")
    assert smoothing.grid() == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert len(space(ONE, written)) == 5 * 5 * 2 * 2 * 2 * 5
    assert space(ONE, ["learning_rate=0.01..0.1"]).own() == {}, "its own 0.002 is not in there"


@pytest.mark.parametrize(
    "line",
    ["epochs=3", "epochs=9..3", "epochs=0..5", "epochs=10..20:2.5", "x=1..2", "stages.nope.epochs=1..2",
     "dropout=0..2", "loss.name=1..2", "learning_rate=0..1:log", "learning_rate", "size=16..a", "network=[",
     "loss.name=cross_entropy,nope", "epochs=1..inf"],
)  # fmt: skip
def test_what_a_recipe_cannot_hold_is_said(line: str) -> None:
    with pytest.raises(BadConfig) as found:
        space(FIVE, [line])
    assert found.value.remedy


def test_a_field_is_searched_once() -> None:
    with pytest.raises(BadConfig, match="Two dimensions"):
        space(ONE, ["learning_rate=0.1..1", "optimizer.learning_rate=0.1..1"])
    with pytest.raises(BadConfig, match="no stage"):
        space(ONE, ["epochs=1..2"], "nope")

"""Recipes: typed, checked, changed field by field; every shipped one can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlearn.errors import BadConfig, Missing
from everlearn.learn.network import recipe as recipes
from everlearn.learn.network.recipe import Recipe, Stage


@pytest.mark.parametrize("name", recipes.shipped())
def test_shipped_ones_are_whole(name: str) -> None:
    found = recipes.load(name)
    assert found.name == name
    assert all(stage.description for stage in found.stages)
    assert recipes.load(found.model_dump(mode="json")) == found


def test_the_five_stages() -> None:
    found = recipes.load("five-stage")
    assert [one.name for one in found.stages] == [
        "baseline", "augmentation", "regularization", "fine_tuning", "polishing"
    ]  # fmt: skip
    assert found.stages[2].loss.label_smoothing == 0.1
    assert found.improvement_threshold < 0, "every stage is trained"
    assert not any(stage.augmentation.flip for stage in found.stages), "it changes what signs and digits mean"


def test_quick_is_one_epoch_a_stage() -> None:
    found = recipes.load("five-stage").model_copy(update={"improvement_threshold": 0.5}).quick()
    assert [one.epochs for one in found.stages] == [1] * 5
    assert found.improvement_threshold < 0
    assert all(one.schedule.warmup_epochs < 1 for one in found.stages)
    assert [one.epochs for one in found.quick(3).stages] == [3] * 5


def test_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nstages:\n  - {name: one, epochs: 3, optimizer: {name: sgd}}\n")
    found = recipes.load(file)
    assert (found.name, found.stages[0].epochs, found.stages[0].optimizer.name) == ("mine", 3, "sgd")
    assert recipes.load(str(file)) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stages: []", "stages"),
        ("stages: [{epoch: 3}]", "epoch"),
        ("stages: [{epochs: 0}]", "epochs"),
        ("stages: [{optimizer: {name: lion}}]", "lion"),
        ("stages: [{optimizer: {learning_rate: -1}}]", "learning_rate"),
        ("stages: [{name: one}, {name: one}]", "one"),
        ("stages: [{name: a, loss: {name: mse}}, {name: b}]", "numbers"),
        ("stages: [{name: a, loss: {name: bce}}, {name: b}]", "bce"),
        ("stages: [{name: ../../etc}]", "name"),
        ("size: 5000\nstages: [{}]", "size"),
        ("stages: [{}", "YAML"),
        ("- 3", "no settings"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(BadConfig) as error:
        recipes.load(file)
    assert says in error.value.message
    assert "\n" not in error.value.message


def test_a_bomb_of_references_is_harmless(tmp_path: Path) -> None:
    file = tmp_path / "bomb.yaml"
    lines = ["x0: &x0 [a, a]", *(f"x{n}: &x{n} [*x{n - 1}, *x{n - 1}]" for n in range(1, 64))]
    file.write_text("\n".join([*lines, "name: *x63", "stages: *x63"]))
    with pytest.raises(BadConfig) as error:
        recipes.load(file)
    assert len(error.value.message) < 400


def test_what_is_not_there(tmp_path: Path) -> None:
    for name in ("no-such", "no.yaml", str(tmp_path)):
        with pytest.raises(Missing, match="five-stage"):
            recipes.load(name)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadConfig, match="UTF-8"):
        recipes.load(tmp_path / "bytes.yaml")


def test_changes() -> None:
    recipe = Recipe(stages=(Stage(name="a"), Stage(name="b")))
    found = recipes.changed(
        recipe, ["size=96", "stages.0.optimizer.learning_rate=0.5", "stages.b.epochs=7", "stages.*.patience=4",
                 "stages.a.clip=1.5", "network=cnn:depth=2,width=8"],
    )  # fmt: skip
    assert (found.size, found.network) == (96, "cnn:depth=2,width=8")
    assert [one.patience for one in found.stages] == [4, 4]
    assert (found.stages[0].optimizer.learning_rate, found.stages[0].clip) == (0.5, 1.5)
    assert [one.epochs for one in found.stages] == [10, 7]
    assert recipe == Recipe(stages=(Stage(name="a"), Stage(name="b"))), "the recipe itself stays"
    assert recipes.changed(recipe, []) is recipe


@pytest.mark.parametrize(
    ("change", "says"),
    [("size", "FIELD=VALUE"), ("sise=3", "sise"), ("stages.c.epochs=3", "no stage c"), ("stages.a.epoch=3", "epoch"),
     ("stages.0.epochs=many", "many"), ("stages.9.epochs=3", "9"), ("stages.a.optimizer.name.x=3", "name.x")],
)  # fmt: skip
def test_changes_that_cannot_be(change: str, says: str) -> None:
    with pytest.raises(BadConfig) as error:
        recipes.changed(Recipe(stages=(Stage(name="a"),)), [change])
    assert says in str(error.value)


def test_a_key_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("name: twice\nstages:\n  - {name: a, epochs: 1, epochs: 2}\n")
    with pytest.raises(BadConfig, match="epochs stands twice"):
        recipes.load(path)


def test_a_field_of_a_stage_is_told_where_it_stands() -> None:
    with pytest.raises(BadConfig, match=r"stages\.\*\.epochs"):
        recipes.changed(recipes.load("baseline"), ["epochs=3"])


def test_a_quick_run_warms_up_in_proportion() -> None:
    quick = recipes.load("five-stage").quick()
    assert [stage.epochs for stage in quick.stages] == [1] * 5
    assert all(stage.schedule.warmup_epochs <= 0.1 for stage in quick.stages)

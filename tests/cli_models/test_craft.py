"""Cross-validation, learning curve, comparison, analysis and checklist, through the command line."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from everlearn.catalog import runs
from everlearn.evaluate.folds import folds_of
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.fit import fit
from everlearn.learn.exact.memory import ExactMemory
from everlearn.learn.features import Features
from everlearn.stages import subjects
from everlearn.stages.analysing import groups
from everlearn.types import SILENT
from everlearn.workspace import Workspace
from tests.child import KILLED, everlearn
from tests.cli_models.conftest import Everlearn

RECIPE = """\
name: tiny
network: "cnn:depth=2,width=8"
size: 16
stages:
  - {name: first, epochs: 3, batch_size: 16, optimizer: {learning_rate: 0.02}}
  - {name: second, epochs: 1, batch_size: 16, optimizer: {learning_rate: 0.01}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def test_folds_of_the_memory_are_scored_as_if_each_had_been_learned_alone(taught: Everlearn) -> None:
    found = taught("crossval", "--folds", 3, "--repeats", 2)
    assert len(found["scores"]) == 6 and found["mean"] == pytest.approx(np.mean(found["scores"]))
    assert found["interval"][0] < found["mean"] < found["interval"][1]
    workspace = Workspace.open(taught.workspace)
    pool = subjects.pool(workspace)
    assert not {one.id for one in pool.members} & {one.id for one in _test_side(workspace)}
    way = subjects.ExactWay(workspace, pool, SILENT)
    phi = Features(workspace, way.basis).all([one.id for one in pool.members], SILENT)
    for fold, score in zip(folds_of(pool.labels, pool.groups, folds=3, repeats=2), found["scores"], strict=True):
        repeat = [one for one in folds_of(pool.labels, pool.groups, folds=3, repeats=2) if one.repeat == fold.repeat]
        number = {int(row): one.number for one in repeat for row in one.test}
        inner = np.array([number[int(row)] for row in fold.train])
        alone = ExactMemory(way.basis.digest, way.basis.dimensions, 3)
        labels = [str(pool.labels[row]) for row in fold.train]
        alone.add(phi[fold.train], labels, inner)
        head = fit(alone, Cached([pool.members[row].id for row in fold.train], phi[fold.train], labels, inner)).head
        said = np.array(head.answers)[head.table(phi[fold.test]).argmax(axis=1)]
        assert (said == pool.labels[fold.test]).mean() == score


def test_copies_are_learned_beside_their_parents_and_never_tested_on(taught: Everlearn) -> None:
    before = taught("crossval", "--folds", 3)
    taught("augment", "--copies", 1)
    after = taught("crossval", "--folds", 3)
    assert after["samples"] == before["samples"] and after["run"] != before["run"]
    for one, other in zip(before["each"], after["each"], strict=True):
        assert other["tested"] == one["tested"] and other["trained"] > 1.5 * one["trained"]
    pool = subjects.pool(Workspace.open(taught.workspace))
    assert all(one.parent is None for one in pool.members) and not pool.loose
    learned = pool.learned(np.arange(5))
    assert {one.parent for one in learned if one.parent} <= {one.id for one in pool.members[:5]}


@pytest.mark.soak
def test_stopped_in_the_middle_of_a_network_it_goes_on_there(taught: Everlearn, tmp_path: Path, recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("epochs: 3", "epochs: 2"))
    words = ("crossval", "--recipe", recipe, "--folds", 2)
    shutil.copytree(taught.workspace, tmp_path / "undisturbed")
    wanted = Everlearn(tmp_path / "undisturbed")(*words)
    code, _ = everlearn(tmp_path, "-w", taught.workspace, *words, interrupt="train.step")
    assert code == 130
    [state] = (taught.workspace / "model_updates/checkpoints").glob("fold-*/last.pt")
    found = taught(*words)
    assert found["scores"] == pytest.approx(wanted["scores"]) and found["each"][0]["run"] == state.parent.name
    assert not state.exists()


def _test_side(workspace: Workspace) -> list:
    from everlearn.stages import prove

    return prove.test_side(workspace)


def test_what_is_done_is_not_done_again_unless_asked(taught: Everlearn) -> None:
    first = taught("crossval", "--folds", 3)
    same = taught("crossval", "--folds", 3)
    assert same == first
    assert taught("crossval", "--folds", 3, "--anew")["run"] != first["run"]
    assert taught("crossval", "--folds", 3, "--seed", 1)["run"] != first["run"]
    listed = taught("analyze", "--runs")["runs"]
    assert [one["parts"] for one in listed if one["kind"] == "crossval"] == [3, 3, 3]
    assert listed[-1]["score"] is not None


@pytest.mark.parametrize("point", ["crossval.scored:2", pytest.param("crossval.kept:3", marks=pytest.mark.soak)])
def test_killed_it_goes_on_with_the_folds_that_remain(taught: Everlearn, tmp_path: Path, point: str) -> None:
    shutil.copytree(taught.workspace, tmp_path / "undisturbed")
    wanted = Everlearn(tmp_path / "undisturbed")("crossval", "--folds", 4)
    code, _ = everlearn(tmp_path, "-w", taught.workspace, "crossval", "--folds", 4, fault=point)
    assert code == KILLED
    workspace = Workspace.open(taught.workspace)
    with workspace.catalog.read() as tx:
        before = [one.name for one in runs.every(tx, kind="fold") if one.status == "done"]
        [parent] = runs.every(tx, kind="crossval")
    assert len(before) in (1, 3) and parent.status == "running"
    found = taught("crossval", "--folds", 4)
    assert found["run"] == parent.name and found["scores"] == wanted["scores"]
    assert [one["run"] for one in found["each"]][: len(before)] == before
    with workspace.catalog.read() as tx:
        assert len(runs.every(tx, kind="fold")) == 4 and runs.get(tx, parent.name).status == "done"


def test_a_recipe_is_cross_validated_and_its_networks_are_kept(taught: Everlearn, recipe: Path) -> None:
    from everlearn.model.trainable import from_stage_file

    found = taught("crossval", "--recipe", recipe, "--folds", 2, "--keep-models", "--quick")
    assert len(found["each"]) == 2 and all(0 < one["score"] <= 1 for one in found["each"])
    for one in found["each"]:
        folder = taught.workspace / "model_updates/checkpoints" / one["run"]
        assert from_stage_file(folder / one["best_file"]).size == 16
        assert one["trained"] < 200 - one["tested"]  # some of what is left chooses the best epoch
    stages = taught("analyze", found["each"][0]["run"])["stages"]
    assert [one["name"] for one in stages] == ["first", "second"]
    other = taught("crossval", "--recipe", recipe, "--folds", 2, "--quick")
    assert other["scores"] == found["scores"]  # the same seeds
    assert not (taught.workspace / "model_updates/checkpoints" / other["each"][0]["run"]).exists()


def test_what_cannot_be_cross_validated_is_said(taught: Everlearn, tmp_path: Path) -> None:
    assert taught.error("crossval", "--folds", 150)["code"] == "too_few"
    assert taught.error("crossval", "--recipe", "nothing")["code"] == "missing"
    assert "two ways" in taught.error("compare", "exact", "exact:patches:small", "exact", "--test", "5x2cv")["message"]
    assert "same way" in taught.error("compare", "exact", "exact", "--test", "5x2cv")["message"]
    assert taught.error("analyze")["code"] == "missing"
    run = taught("crossval", "--folds", 2)["run"]
    assert "no stages" in taught.error("analyze", run)["message"]


def test_a_curve_says_what_more_images_would_be_worth(taught: Everlearn, recipe: Path) -> None:
    found = taught("curve", "--target", 0.999)
    scores = [point["score"] for point in found["points"]]
    assert scores[0] < scores[-1] and found["gain"]["interval"][0] <= found["gain"]["value"]
    assert f"twice the images ({found['samples']:,} more)" in found["answer"]
    assert Path(found["picture"]).read_bytes().startswith(b"<?xml")
    assert taught("curve", "--target", 0.5)["run"] == found["run"]  # asked about something else, not tried again
    assert len(found["each"]) == 5 * len(scores)
    for _, one_curve in itertools.groupby(found["each"], key=lambda one: one["fold"]):
        trained = [one["trained"] for one in one_curve]
        assert trained == sorted(trained) and trained[0] < trained[-1]
    network = taught("curve", "--recipe", recipe, "--curves", 1, "--quick")
    assert len(network["points"]) == 3 and network["gain"]["value"] >= 0


def test_two_ways_of_learning_by_5x2_cv(taught: Everlearn) -> None:
    found = taught("compare", "exact", "exact:patches:small", "--test", "5x2cv")
    assert len(found["each"]) == 20 and found["verdict"] in ("better", "worse", "undecided")
    assert found["changed"] == [{"path": "backbone", "before": "patches", "after": "patches:small"}]
    assert found["n"] == len({one.id for one in subjects.pool(Workspace.open(taught.workspace)).members})
    first = [one["score"] for one in found["each"] if one["side"] == "first"]
    assert found["first"] == pytest.approx(np.mean(first))


def test_a_comparison_says_what_was_changed(taught: Everlearn) -> None:
    """Day 2 brought images: the data is what differs between the two versions."""
    found = taught("compare", "v1.0", "v1.1")
    assert [one["path"] for one in found["changed"]] == ["data"]
    assert {"verdict", "difference", "interval", "p_value", "n"} <= set(found)
    assert "One variable changed: data" in taught.people("compare", "v1.0", "v1.1")
    settings = taught.workspace / "everlearn.yaml"
    settings.write_text(settings.read_text().replace("dimensions: 64", "dimensions: 32"))
    version = taught("learn")["model"]
    many = taught("compare", "v1.1", "v1.0", version)
    assert list(many["models"]) == ["v1.0", version] and many["best"] in ("v1.1", version)
    assert [one["path"] for one in many["models"][version]["changed"]] == ["learn.dimensions"]
    assert all(one["corrected"] >= one["p_value"] for one in many["models"].values())
    assert {"verdict", "difference", "interval", "p_value", "n"} <= set(many)
    workspace, config = Workspace.open(taught.workspace), {"stages": [{"optimizer": {"learning_rate": 0.001}}]}
    changed = {"stages": [{"optimizer": {"learning_rate": 0.01}}], "facts.1.images": 9}
    with workspace.catalog.write() as tx:  # as trainings of these versions would have been recorded
        first, _ = (
            runs.begin(tx, "train", config=one, version=name) for one, name in ((config, "v1.1"), (changed, version))
        )
    found = taught("compare", first, version)
    assert [(one["path"], one["before"], one["after"]) for one in found["changed"]] == [
        ("stages.0.optimizer.learning_rate", 0.001, 0.01)
    ]
    assert "named twice" in taught.error("compare", "v1.0", "v1.1", "v1.1")["message"]


def test_the_checklist_is_ticked_by_what_was_done(make, tmp_path: Path, taught: Everlearn, recipe: Path) -> None:  # type: ignore[no-untyped-def]
    done = {one["item"]: one for one in taught("checklist")["items"]}
    assert {name for name, one in done.items() if one["done"]} == {
        "baseline", "records", "overfitting", "criterion", "saved"
    }  # fmt: skip
    assert "v1.0" in done["baseline"]["evidence"] and "everlearn tune" in done["plan"]["evidence"]
    page = max((taught.workspace / "model_updates/evaluations").glob("*v1.0*.ko.html"))
    assert "실험 체크리스트" in page.read_text() and "v1.0을(를) 처음으로 평가했습니다" in page.read_text()
    workspace = Workspace.open(taught.workspace)
    with workspace.catalog.write() as tx:
        search = runs.begin(tx, "tune", snapshot=1, config={"space": {"learning_rate": [0.001, 0.1]}})
        runs.end(tx, runs.begin(tx, "trial", parent=search, snapshot=1, config={"learning_rate": 0.01}))
        runs.end(tx, search)
    plan = {one["item"]: one for one in taught("checklist")["items"]}["plan"]
    assert plan["done"] and search in plan["evidence"] and "learning_rate" in plan["evidence"]
    (taught.workspace / "model_updates/versions").joinpath("x").touch()
    for path in (taught.workspace / "model_updates/versions").glob("*v1.1*.onnx"):
        path.unlink()
    assert not {one["item"]: one for one in taught("checklist")["items"]}["saved"]["done"]


def test_nothing_is_ticked_where_nothing_was_done(make) -> None:  # type: ignore[no-untyped-def]
    items = make()("checklist")["items"]
    assert len(items) == 6 and not any(one["done"] for one in items) and all(one["evidence"] for one in items)


def test_stages_are_compared(taught: Everlearn, recipe: Path) -> None:
    from everlearn.learn.network import checkpoint

    trained = taught("train", "--recipe", recipe)
    found = taught("analyze")
    assert [one["name"] for one in found["stages"]] == ["first", "second"]
    first, second = found["stages"]
    assert second["points"] == pytest.approx(second["val_accuracy"] - first["val_accuracy"])
    assert found["total"]["loss_reduction"] == pytest.approx(1 - second["val_loss"] / first["val_loss"])
    folder = taught.workspace / "model_updates/checkpoints" / found["run"]
    before, after = (
        checkpoint.load(folder / f"best_model_stage_{n}.pt")["model_state_dict"]["head.weight"].double() for n in (1, 2)
    )
    biases = [checkpoint.load(folder / f"best_model_stage_{n}.pt")["model_state_dict"]["head.bias"] for n in (1, 2)]
    change = ((after - before) ** 2).sum() + ((biases[1] - biases[0]).double() ** 2).sum()
    size = (before**2).sum() + (biases[0].double() ** 2).sum()
    assert second["weights"]["head"] == pytest.approx(float((change / size) ** 0.5))
    assert first["weights"] == {} and set(first["classes"]) == {"1", "4", "7", "8", "9"}
    assert first["curves"]["kind"] == "unclear"  # three epochs are too few to tell
    assert Path(found["picture"]).exists() and "In total: loss" in taught.people("analyze")
    assert taught("analyze", found["run"])["stages"] == found["stages"]
    compared = taught("compare", "v1.1", trained["model"])
    assert [one["path"] for one in compared["changed"]] == ["backbone", "learner"]
    watched = {one["item"]: one for one in taught("checklist")["items"]}["overfitting"]
    assert watched["done"] and "over 4 epochs" in watched["evidence"]


def test_layers_are_grouped_by_what_tells_them_apart() -> None:
    names = ["backbone.layers.0.conv.weight", "backbone.layers.1.conv.weight", "backbone.layers.1.norm.bias",
             "head.weight"]  # fmt: skip
    assert groups(names) == ["layers.0", "layers.1", "layers.1", "head"]
    assert groups(["net.conv1.weight", "net.layer1.0.w.weight", "net.layer1.1.w.weight"]) == [
        "conv1", "layer1.0", "layer1.1",
    ]  # fmt: skip

"""An ensemble is a version like any other: judged, promoted, deployed, exported, and forgotten from."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlearn.learn.ensemble import METHODS
from everlearn.model.bundle import OnnxModel
from tests.cli_models.conftest import Everlearn, digits
from tests.model.test_external import network

NET = "onnx:net.onnx?mean=127.5&std=127.5"


@pytest.fixture
def ready(taught: Everlearn) -> Everlearn:
    (taught.workspace / "net.onnx").write_bytes(network().SerializeToString())
    return taught


def test_it_registers_evaluates_promotes_predicts_deploys_and_exports(ready: Everlearn, tmp_path: Path) -> None:
    made = ready("ensemble", "--backbone", NET)
    assert [one["name"] for one in made["members"]] == ["patches", NET]
    assert made["method"] in made["methods"] and set(made["methods"]) == set(METHODS)
    assert made["method"] == max(made["methods"], key=lambda name: made["methods"][name]["accuracy"])
    assert made["helps"] == (made["methods"][made["method"]]["verdict"] == "better")
    version = made["model"]
    assert ready("models", "show", version)["models"][0]["learner"] == "ensemble"
    judged = ready("evaluate", "--model", version, code=None)
    assert judged["champion"] == "v1.1" and judged["accuracy"] > 0.6
    ready("promote", version, "--force", "--reason", "a test")
    assert ready("history")["champion"] == version

    images = digits(tmp_path / "new", (1, 8), 3, first=60, flat=True)
    inside = ready("predict", images)["predictions"]
    assert {one["label"] for one in inside} <= {"1", "4", "7", "8", "9"}
    ready("deploy", "--to", tmp_path / "edge")
    file = next((tmp_path / "edge").rglob("*.onnx"))
    assert ready("predict", images, "--model", file)["predictions"] == inside
    assert OnnxModel(file).card["members"][0]["name"] == "patches"
    ready("rollback")
    assert ready("history")["champion"] == "v1.1"


@pytest.mark.parametrize("method", METHODS)
def test_every_way_to_combine_becomes_a_file(ready: Everlearn, method: str) -> None:
    assert ready("ensemble", "--backbone", NET, "--combine", method)["method"] == method


def test_what_is_forgotten_leaves_it(ready: Everlearn) -> None:
    version = ready("ensemble", "--backbone", NET)["model"]
    ready("promote", version, "--force", "--reason", "a test")
    done = ready("forget", "--label", "9")
    assert ready("models", "show", version)["models"][0]["retired"]
    assert not [one for one in ready.workspace.rglob(f"*{version}*/*") if one.is_file()]
    assert not list(ready.workspace.rglob(f"*{version}*.onnx"))
    assert ready("history")["champion"] not in (version, "v1.0", "v1.1")
    assert ready("verify", done["certificate"])["verified"]
    again = ready("ensemble", "--backbone", NET)["model"]
    assert "9" not in ready("models", "show", again)["models"][0]["card"]["classes"]


def test_a_model_from_elsewhere_is_judged_on_the_validation_side(ready: Everlearn, tmp_path: Path) -> None:
    other = Everlearn(tmp_path / "elsewhere").init()
    other("run", digits(tmp_path / "theirs", (4, 7), 30, first=60), "--labels-from", "folder", code=None)
    other("models", "export", tmp_path / "out")
    file = next((tmp_path / "out").glob("*.onnx"))
    made = ready("ensemble", file)
    listed = ready("dataset", "list")["snapshots"][-1]
    assert made["n"] == listed["splits"]["validation"] > 0
    assert made["members"][1]["accuracy"] < made["members"][0]["accuracy"]  # it knows two classes of five
    assert ready("predict", digits(tmp_path / "new", (9,), 2, first=60), "--model", made["model"])["predictions"]


def test_what_cannot_be_one(ready: Everlearn) -> None:
    assert "two members" in ready.error("ensemble")["message"]
    assert "two members" in ready.error("ensemble", "--backbone", "patches")["message"]
    assert "v7.0" in ready.error("ensemble", "v7.0")["message"]
    made = ready("ensemble", "--backbone", NET)["model"]
    assert "an ensemble itself" in ready.error("ensemble", made)["message"]


def test_every_turn_learns_the_ensemble_anew_where_it_is_the_learner(ready: Everlearn, tmp_path: Path) -> None:
    settings = ready.workspace / "everlearn.yaml"
    settings.write_text(settings.read_text().replace("learn: {", f"learn: {{learner: 'ensemble:{NET}', "))
    memory = ready("status")["champion"]
    turn = ready("run", digits(tmp_path / "day2", (0,), 40), "--labels-from", "folder", code=None)
    version = ready("models", "show", turn["model"])["models"][0]
    assert version["learner"] == f"ensemble:{NET}" and version["memory_digest"] and memory == "v1.1"
    assert "0" in version["card"]["classes"] and version["card"]["method"]
    again = ready("run", digits(tmp_path / "day3", (0,), 3, first=50), "--labels-from", "folder", code=None)
    assert again["model"].split(".")[0] == turn["model"].split(".")[0]  # the same backbones: a minor version
    done = ready("forget", "--label", "0")
    assert ready("verify", done["certificate"])["verified"]
    newest = ready("models", "show", "newest")["models"][0]
    assert newest["learner"] == f"ensemble:{NET}" and "0" not in newest["card"]["classes"]
    assert ready("run")["decision"] == "nothing new"


def test_augmented_copies_are_no_evidence(ready: Everlearn) -> None:
    before = ready("ensemble", "--backbone", NET)["n"]
    ready("augment", "--copies", 1)
    after = ready("ensemble", "--backbone", NET)
    assert after["n"] == before
    assert ready("models", "show", after["model"])["models"][0]["card"]["samples"]["all"] > before

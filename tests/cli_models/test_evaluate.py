"""Evaluation through the command line: figures that scikit-learn agrees with, files as models, reports, exit codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from everlearn.catalog import versions
from everlearn.workspace import Workspace
from tests.cli_models.conftest import SETTINGS, Everlearn, digits

Make = Callable[..., Everlearn]
ALWAYS = {"model", "accuracy", "precision", "recall", "f1", "forgetting", "gates", "ece", "mae", "mse", "r2", "report",
          "backward_transfer", "classes", "cameras", "decision", "comparison", "regressions", "intervals",
          "images"}  # fmt: skip


def _test_side(ever: Everlearn, model: str) -> tuple[list[str], list[str], np.ndarray]:
    """Labels, answers and confidences of the test side, asked of the exported model alone."""
    from everlearn.workspace import Workspace

    workspace = Workspace.open(ever.workspace)
    from everlearn.stages import prove

    members = prove.test_side(workspace)
    from everlearn.catalog import samples

    with workspace.catalog.read() as tx:
        rows = samples.some(tx, [one.id for one in members])
    paths = [workspace.root / rows[one.id].key for one in members]
    told = ever("predict", *paths, "--model", model)["predictions"]
    return [one.label for one in members], [p["label"] for p in told], np.array([p["confidence"] for p in told])


@pytest.mark.parametrize("model", ["v1.0", "v1.1"])
def test_figures_are_scikit_learns_on_the_same_answers(taught: Everlearn, model: str) -> None:
    found = taught("evaluate", "--model", model, code=None)
    assert set(found) >= ALWAYS
    true, said, sure = _test_side(taught, model)
    there = sorted(set(true))
    precision, recall, f1, _ = precision_recall_fscore_support(
        true, said, labels=there, average="macro", zero_division=0
    )
    assert found["images"] == len(true)
    assert found["accuracy"] == pytest.approx(accuracy_score(true, said))
    assert (found["precision"], found["recall"], found["f1"]) == pytest.approx((precision, recall, f1))
    for name in ("accuracy", "precision", "recall", "f1"):
        low, high = found["intervals"][name]
        assert 0 <= low <= found[name] <= high <= 1
    _, each, _, counts = precision_recall_fscore_support(true, said, labels=there, zero_division=0)
    assert [found["classes"][name]["recall"] for name in there] == pytest.approx(each)
    assert [found["classes"][name]["images"] for name in there] == list(counts)
    right = np.array(true) == np.array(said)
    assert {name: one["accuracy"] for name, one in found["cameras"].items()} == pytest.approx({"unknown": right.mean()})
    # each answer is in a bin with others as sure, so the error is at least the overall one and at most the whole gap
    assert abs(sure.mean() - right.mean()) - 1e-6 <= found["ece"] <= np.abs(sure - right).mean() + 1e-6
    report = json.loads(Path(found["report"].replace(".html", ".json")).read_text())
    shown = report["metrics"]["confusion"]
    np.testing.assert_array_equal(shown["matrix"], confusion_matrix(true, said, labels=shown["classes"]))
    wrong = [one for one in zip(sure, true, said, strict=True) if one[1] != one[2]]
    assert [m["confidence"] for m in report["metrics"]["mistakes"]] == pytest.approx(
        sorted((one[0] for one in wrong), reverse=True)[:50], abs=1e-6
    )


def test_forgetting_is_best_before_less_now_over_the_old_classes(taught: Everlearn) -> None:
    first = taught("evaluate", "--model", "v1.0", code=None)
    second = taught("evaluate", "--model", "v1.1")
    assert first["forgetting"] is None
    assert first["backward_transfer"] is None
    lost = [first["classes"][name]["recall"] - second["classes"][name]["recall"] for name in "147"]
    assert second["forgetting"] == pytest.approx(np.mean(lost))
    assert second["backward_transfer"] == pytest.approx(-np.mean(lost))


def test_a_failed_gate_exits_1_and_says_which(taught: Everlearn) -> None:
    settings = taught.workspace / "everlearn.yaml"
    settings.write_text(settings.read_text().replace("accuracy: 0.6", "accuracy: 1.01"))
    found = taught("evaluate", "--model", "newest", code=1)
    assert found["gates"]["accuracy"] == {"value": found["accuracy"], "target": 1.01, "pass": False}
    assert found["decision"]["outcome"] == "hold"
    assert "accuracy" in found["decision"]["reason"]


def test_a_version_can_be_named_in_many_ways(taught: Everlearn, tmp_path: Path) -> None:
    file = next((taught.workspace / "model_updates/versions").glob("model_v1.1_*.onnx"))
    copied = shutil.copy(file, tmp_path / "copy.onnx")
    names = ("champion", "newest", "v1.1", "1.1", file, copied)
    found = [taught("evaluate", "--model", name) for name in names]
    assert {one["model"] for one in found} == {"v1.1"}
    assert len({json.dumps({**one, "report": ""}, sort_keys=True) for one in found}) == 1
    for bad in ("v9.9", "nobody"):
        assert taught.error("evaluate", "--model", bad)["code"] == "missing"
    assert taught.error("evaluate", "--model", tmp_path / "not there.onnx")["code"] == "missing"
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    assert taught.error("evaluate", "--model", tmp_path / "junk.onnx")["code"] in ("bad_input", "corrupt")


def test_a_file_that_is_no_version_is_evaluated_by_what_it_answers(taught: Everlearn, tmp_path: Path) -> None:
    """The same card, other weights: the file itself must be asked."""
    file = next((taught.workspace / "model_updates/versions").glob("model_v1.1_*.onnx"))
    model = onnx.load(file)
    divide = next(node for node in model.graph.node if node.op_type == "Softmax")
    model.graph.node.insert(
        list(model.graph.node).index(divide), onnx.helper.make_node("Neg", [divide.input[0]], ["turned"])
    )
    divide.input[0] = "turned"
    onnx.save(model, tmp_path / "turned.onnx")
    before = taught("history")["history"], taught("models")["models"]
    found = taught("evaluate", "--model", tmp_path / "turned.onnx", code=1)
    assert found["model"] == "turned.onnx"
    assert found["accuracy"] < 0.1
    assert found["comparison"]["verdict"] == "worse"
    assert Path(found["report"]).is_file()
    assert (taught("history")["history"], taught("models")["models"]) == before  # it is no version
    told = taught("compare", "champion", tmp_path / "turned.onnx")
    assert told["verdict"] == "worse"
    assert told["difference"] == pytest.approx(found["accuracy"] - taught("evaluate")["accuracy"])
    assert taught.error("deploy", "--model", tmp_path / "turned.onnx", "--to", tmp_path)["code"] == "bad_input"
    assert taught("doctor")["lost"] == []
    assert Path(found["report"]).is_file()


def test_compare_answers_what_the_counts_say(taught: Everlearn) -> None:
    found = taught("compare", "v1.0", "v1.1")
    assert set(found) >= {"verdict", "difference", "interval", "p_value", "n", "a", "b"}
    assert found["difference"] == pytest.approx((found["gained"] - found["lost"]) / found["n"])
    assert found["interval"][0] <= found["difference"] <= found["interval"][1]
    assert found["verdict"] == "better"
    same = taught("compare", "v1.1", "v1.1")
    assert (same["difference"], same["p_value"], same["verdict"]) == (0, 1, "equivalent")


def test_reports_lie_beside_each_other_in_two_languages_with_their_pictures(taught: Everlearn) -> None:
    page = Path(taught("evaluate")["report"])
    english, korean = page.read_text("utf-8"), page.with_suffix(".ko.html").read_text("utf-8")
    assert '<html lang="en">' in english
    assert '<html lang="ko">' in korean
    assert "평가: v1.1" in korean
    report = json.loads(page.with_suffix(".json").read_text("utf-8"))
    shown = {one["id"] for one in report["metrics"]["mistakes"]}
    shown |= {id for score in report["data"] for id, _ in score["worst"] if score["value"] < 0.995}
    for text in (english, korean):
        assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")
        assert text.count('<img class="thumb"') >= len(shown) > 0
        assert 'class="thumb none"' not in text


def test_a_workspace_without_a_test_image_holds(make: Make, tmp_path: Path) -> None:
    ever = make(settings=SETTINGS + "dataset: {test: 0}\n")
    turn = ever("run", digits(tmp_path / "in", (1, 7), 12), "--labels-from", "folder", code=1)
    assert turn["decision"] == "held"
    assert "test side" in turn["reason"]
    assert "test side" in ever.error("evaluate")["message"]
    assert "test side" in ever.error("compare", "newest", "v1.0")["message"]


def test_one_class_is_evaluated(make: Make, tmp_path: Path) -> None:
    ever = make()
    ever("collect", digits(tmp_path / "in", (1,), 40), "--labels-from", "folder")
    ever("validate")
    ever("learn")
    found = ever("evaluate")
    assert found["accuracy"] == found["f1"] == 1
    assert list(found["classes"]) == ["1"]


def test_a_retired_version_is_refused(taught: Everlearn) -> None:
    taught("forget", "--label", "9")
    retired = [one["version"] for one in taught("models")["models"] if one["retired"]]
    assert retired
    for words in (["evaluate", "--model"], ["predict", ".", "--model"], ["deploy", "--to", "x", "--model"]):
        error = taught.error(*words, retired[0])
        assert "retired" in error["message"]
    assert taught.error("promote", retired[0], "--force", "--reason", "x")["code"] == "bad_input"
    assert taught("evaluate", code=None)["model"] not in retired


@pytest.mark.parametrize("cost", ["training_hours", "memory_gb"])
def test_gates_of_cost_can_be_switched_off(taught: Everlearn, cost: str) -> None:
    settings = taught.workspace / "everlearn.yaml"
    named = {"training_hours": "training_seconds", "memory_gb": "memory_bytes"}[cost]
    settings.write_text(settings.read_text().replace("gates: {", f"gates: {{{cost}: 1.0e-9, "))
    assert taught("evaluate", code=1)["gates"][named]["pass"] is False
    settings.write_text(settings.read_text().replace("1.0e-9", "null"))
    assert named not in taught("evaluate")["gates"]


def test_a_trained_network_has_gates_for_its_epochs_and_its_gpu(taught: Everlearn) -> None:
    assert not {"best_epoch", "gpu_utilisation"} & set(taught("evaluate")["gates"])  # a memory has neither
    catalog = Workspace.open(taught.workspace).catalog
    for epoch, use, passes in ((100, 0.95, True), (101, 0.5, False)):
        with catalog.write() as tx:
            version = versions.newest(tx)
            assert version is not None
            metrics = {**(version.metrics or {}), "best_epoch": epoch, "gpu_utilisation": use}
            versions.change(tx, version.name, metrics=metrics)
        gates = taught("evaluate", "--model", "newest", code=None)["gates"]
        assert gates["best_epoch"] == {"value": epoch, "target": 100, "pass": passes}
        assert gates["gpu_utilisation"] == {"value": use, "target": 0.9, "pass": passes}


def test_people_see_the_figures_and_the_way_to_the_report(taught: Everlearn) -> None:
    told = taught.people("evaluate")
    for word in ("v1.1", "accuracy", "forgetting", "gate", "report:"):
        assert word in told


def test_learning_says_what_it_did(taught: Everlearn) -> None:
    found: dict[str, Any] = taught("learn")
    assert set(found) >= {"model", "learner", "samples", "seconds", "memory_digest", "model_digest"}
    assert (found["model"], found["samples"], found["learner"]) == ("v1.1", 0, "exact")

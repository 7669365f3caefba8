"""Networks in training as members of an ensemble and as teachers, through the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from everlearn.catalog import runs  # noqa: E402
from everlearn.model.bundle import OnnxModel  # noqa: E402
from everlearn.model.chained_bundle import ChainedModel  # noqa: E402
from everlearn.workspace import Workspace  # noqa: E402
from tests.cli_models.conftest import Everlearn, digits  # noqa: E402

RECIPE = """\
name: tiny
network: cnn:depth=2,width=4
size: 8
stages:
  - name: first
    epochs: 6
    snapshots: 2
    batch_size: 16
    optimizer: {name: adamw, learning_rate: 0.02}
  - name: second
    epochs: 3
    batch_size: 16
    optimizer: {name: adamw, learning_rate: 0.01}
    augmentation: {brightness: 0.1}
"""
TINY = ("--recipe", "tiny.yaml", "--epochs", 2)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(RECIPE)


@pytest.fixture(scope="module")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three digits, learned by the memory, v1.0, and by a network in two stages, v2.0."""
    folder = tmp_path_factory.mktemp("trained")
    torch.set_num_threads(1)
    (folder / "tiny.yaml").write_text(RECIPE)
    ever = Everlearn(folder / "workspace").init()
    ever("collect", digits(folder / "photos", (1, 4, 7), 50), "--labels-from", "folder")
    ever("validate")
    ever("learn")
    assert ever("train", "--recipe", folder / "tiny.yaml")["model"] == "v2.0"
    return folder / "workspace"


@pytest.fixture
def ever(_trained: Path, tmp_path: Path) -> Everlearn:
    shutil.copytree(_trained, tmp_path / "workspace")
    return Everlearn(tmp_path / "workspace")


def run_of(ever: Everlearn, kind: str) -> runs.Run:
    with Workspace.open(ever.workspace).catalog.read() as tx:
        return runs.get(tx, kind=kind)


def test_stages_and_snapshots_of_a_training_become_one_version(ever: Everlearn, tmp_path: Path) -> None:
    trained = run_of(ever, "train")
    made = ever("ensemble", "--stages", trained.name, "--combine", "weighted")
    names = [f"{trained.name}/best_model_stage_{number}" for number in (1, 2)]
    assert [one["name"] for one in made["members"]] == names, "the memory is no member where stages are"
    assert "dynamic" not in made["methods"] and made["judged_on"] == "samples nobody had learned"
    listed = ever("dataset", "list")["snapshots"][-1]
    assert made["n"] == listed["splits"]["validation"]
    run = run_of(ever, "ensemble")
    assert (run.status, run.version, run.result["method"]) == ("done", made["model"], "weighted")

    images = digits(tmp_path / "new", (1, 4), 3, first=60, flat=True)
    inside = ever("predict", images, "--model", made["model"])["predictions"]
    ever("models", "export", tmp_path / "out", "--model", made["model"])
    file = next((tmp_path / "out").glob("*.onnx"))
    assert ever("predict", images, "--model", file)["predictions"] == inside
    assert OnnxModel(file).squares[0][0] == 8 and len(OnnxModel(file).squares) == 1


def test_a_memory_and_the_snapshots_of_a_training(ever: Everlearn) -> None:
    made = ever("ensemble", "--snapshots", "newest", "--memory", "--combine", "dynamic")
    members = [one["name"].rpartition("/")[2] for one in made["members"]]
    assert members == ["patches", "snapshot_1_1", "snapshot_1_2"] and made["method"] == "dynamic"


def test_bagged_networks_differ_and_are_compared_with_their_best(ever: Everlearn) -> None:
    made = ever("ensemble", "--bag", 2, *TINY)
    run = run_of(ever, "ensemble")
    with Workspace.open(ever.workspace).catalog.read() as tx:
        parts = runs.every(tx, parent=run.name)
    assert [one.config["bag"] for one in parts] == [0, 1] and all(one.status == "done" for one in parts)
    files = [ever.workspace / "model_updates/checkpoints" / one.name / str(one.result["best_file"]) for one in parts]
    weights = [torch.load(one, weights_only=True)["model_state_dict"] for one in files]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert made["methods"][made["method"]]["verdict"] in ("better", "equivalent", "undecided", "worse")
    assert made["helps"] == (made["methods"][made["method"]]["verdict"] == "better")


def test_boosting_votes_by_what_each_was_worth(ever: Everlearn) -> None:
    made = ever("ensemble", "--boost", 2, *TINY)
    assert "boosted" in made["methods"] and len(made["members"]) >= 2
    with Workspace.open(ever.workspace).catalog.read() as tx:
        assert [one.config["boost"] for one in runs.every(tx, kind="member")][:2] == [0, 1]


def test_networks_of_folds_are_judged_on_the_test_side(ever: Everlearn) -> None:
    ever("crossval", "--recipe", "tiny.yaml", "--folds", 2, "--quick", "--keep-models")
    folds = run_of(ever, "crossval").name
    made = ever("ensemble", "--folds", folds)
    assert made["judged_on"] == "the test side" and list(made["methods"]) == ["average"] and len(made["members"]) == 2
    assert made["n"] == ever("dataset", "list")["snapshots"][-1]["splits"]["test"]
    assert "have learned them all" in ever.error("ensemble", "--folds", folds, "--combine", "stacking")["message"]


def test_a_student_stands_beside_itself_alone_and_its_teacher(ever: Everlearn) -> None:
    made = ever("distill", "--teacher", "v2.0", "--network", "cnn:depth=1,width=4", *TINY)
    assert made["asked"]["first"].startswith("the teacher's answers to the images as they are")
    assert made["asked"]["second"].startswith("the teacher is asked about each image as it was augmented")
    assert made["student"]["bytes"] == made["alone"]["bytes"] < made["teacher"]["bytes"]
    assert made["gain"]["difference"] == pytest.approx(made["student"]["accuracy"] - made["alone"]["accuracy"])
    assert made["helps"] == (made["gain"]["verdict"] == "better")
    assert all(one["latency"] > 0 for one in (made["teacher"], made["student"], made["alone"]))
    version = ever("models", "show", made["model"])["models"][0]
    assert version["learner"] == "distilled:tiny" and version["backbone"] == "cnn:depth=1,width=4"
    run = run_of(ever, "distill")
    assert run.version == made["model"] and run.result["student"]["accuracy"] == made["student"]["accuracy"]
    assert np.isfinite(ever("evaluate", "--model", made["model"], code=None)["accuracy"])


def test_a_memory_teaches_and_is_not_praised_for_what_it_has_learned(ever: Everlearn) -> None:
    network = run_of(ever, "train").name
    made = ever("distill", "--teacher", "v1.0", "--teacher", network, *TINY, "--no-baseline")
    assert made["teacher"]["accuracy"] is None and made["against_teacher"] is None
    assert made["alone"] is None and made["helps"] is None
    assert set(made["asked"].values()) == {"the teacher's answers to the images as they are, computed once"}


def test_labels_in_two_parts_are_chained_in_one_network(tmp_path: Path) -> None:
    ever = Everlearn(tmp_path / "workspace").init()
    for kind, names in (("odd", (1, 7)), ("even", (4, 8))):
        for name in names:
            folder = digits(tmp_path / f"photos{name}", (name,), 40)
            ever("collect", folder, "--label", f"{kind}/{name}")
    ever("validate")
    made = ever("chain", *TINY)
    assert made["kinds"] == ["even", "odd"] and 0 <= made["second"] <= 1
    shown = ever("models", "show", made["model"])["models"][0]
    assert shown["learner"] == "chained:tiny" and "odd/7" in shown["card"]["classes"]
    ever("models", "export", tmp_path / "out", "--model", made["model"])
    model = ChainedModel(next((tmp_path / "out").glob("*.onnx")))
    first, second = model.both([np.zeros((8, 8, 3), np.uint8)])
    assert first.shape == (1, 2) and second.shape == (1, 4) and model.first == ("even", "odd")
    assert ever("evaluate", "--model", made["model"], code=None)["accuracy"] >= 0
    assert "No label has '-'" in ever.error("chain", "--separator", "-", *TINY)["message"]


def test_what_cannot_be(ever: Everlearn) -> None:
    assert "There is no" in ever.error("ensemble", "train-1/stage_1", "v1.0")["message"]
    assert "no folds" in ever.error("ensemble", "--folds", run_of(ever, "train").name)["message"]
    assert "--bag and --boost" in ever.error("ensemble", "--bag", 2, "--boost", 2)["message"]
    assert "--bag 1 is no ensemble" in ever.error("ensemble", "--bag", 1, *TINY)["message"]
    assert "A recipe is for" in ever.error("ensemble", "--recipe", "tiny.yaml")["message"]
    assert "temperature is 0" in ever.error("distill", "-t", "v1.0", "--temperature", 0, *TINY)["message"]
    assert "v9.0" in ever.error("distill", "-t", "v9.0", *TINY)["message"]

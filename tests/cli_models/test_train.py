"""`everlearn train`: its answer, its errors, and several processes, by a launcher and on a Ray cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from everlearn.learn.network import checkpoint
from tests.cli_models.conftest import Everlearn, digits

SETTINGS = "learn: {dimensions: 64}\ndataset: {validation: 0.3}\ntrack: {plots: false}\n"
RECIPE = """\
name: tiny
network: cnn:depth=2,width=8,dropout=0,norm=none
size: 16
stages:
  - {name: one, epochs: 24, batch_size: BATCH, optimizer: {name: adamw, learning_rate: RATE}}
"""


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of three digits, 40 images of each."""
    folder = tmp_path_factory.mktemp("ready")
    ever = Everlearn(folder / "workspace").init(settings=SETTINGS)
    ever("collect", digits(folder / "photos", (1, 4, 7), 40), "--labels-from", "folder")
    ever("validate", code=None)
    return folder / "workspace"


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, value in (("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE"), ("RAY_USAGE_STATS_ENABLED", "0")):
        monkeypatch.setenv(name, value)
    yield
    torch.set_num_threads(before)


def copied(ready: Path, folder: Path, batch: int = 16, rate: float = 0.01) -> Everlearn:
    shutil.copytree(ready, folder / "workspace")
    (folder / "tiny.yaml").write_text(RECIPE.replace("BATCH", str(batch)).replace("RATE", str(rate)))
    return Everlearn(folder / "workspace")


def best(ever: Everlearn, said: dict[str, Any]) -> dict[str, Any]:
    return checkpoint.load(ever.workspace / "model_updates" / "checkpoints" / said["run"] / "best_model_stage_1.pt")


@pytest.fixture(scope="module")
def alone(ready: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process comes to, with batches of 16 at a rate of 0.01."""
    ever = copied(ready, tmp_path_factory.mktemp("alone"))
    said = ever("train", "-r", ever.workspace.parent / "tiny.yaml")
    return {"said": said, "best": best(ever, said), "workspace": ever.workspace}


def test_the_answer(alone: dict[str, Any]) -> None:
    said = alone["said"]
    assert said.keys() >= {"model", "run", "recipe", "kept", "seconds", "stages"}
    (stage,) = said["stages"]
    assert stage["val_accuracy"] >= 0.8
    assert stage["improvement"] is None, "there was nothing before it: null, for JSON has no NaN"
    assert len(stage["history"]) == 24
    ever = Everlearn(alone["workspace"])
    shown = ever("models", "show", said["model"])
    assert said["run"] in json.dumps(shown)


def assert_like_one(found: dict[str, Any], alone: dict[str, Any]) -> None:
    """Two processes with half the batch and half the rate each take the same steps, up to rounding, which grows; that
    the weights are the same stands in tests/learn/network/test_launch.py."""
    assert found["val_accuracy"] == pytest.approx(alone["best"]["val_accuracy"], abs=0.05)


def test_by_a_launcher(ready: Path, alone: dict[str, Any], tmp_path: Path) -> None:
    """`accelerate launch` starts them; the first reads and writes the workspace, and speaks."""
    ever = copied(ready, tmp_path, batch=8, rate=0.005)
    settings = ("num_processes", 2, "num_machines", 1, "mixed_precision", "no", "dynamo_backend", "no")
    accelerate = [Path(sys.executable).with_name("accelerate"), "launch", "--multi_gpu", "--main_process_port", 0]
    launcher = [*accelerate, *(f"--{one}" if number % 2 == 0 else one for number, one in enumerate(settings))]
    words = ["-m", "everlearn", "-w", ever.workspace, "train", "-r", tmp_path / "tiny.yaml", "--json"]
    done = subprocess.run(
        [*map(str, launcher), *map(str, words)], capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = done.stdout.splitlines()
    said = json.loads(line)
    assert said["model"] == "v1.0"
    assert "batch 16" in done.stderr, "of both together"
    assert "learning rate 0.01" in done.stderr
    assert "2 processes" in done.stderr
    assert_like_one(best(ever, said), alone)


def test_on_a_cluster(ready: Path, alone: dict[str, Any], tmp_path: Path, capfd: Any) -> None:
    """Two workers of a Ray cluster on this machine."""
    ever = copied(ready, tmp_path, batch=8, rate=0.005)
    (ever.workspace / "everlearn.yaml").write_text(SETTINGS + "engine: {kind: ray, workers: 2}\n")
    said = ever("train", "-r", tmp_path / "tiny.yaml")
    assert said["model"] == "v1.0"
    assert_like_one(best(ever, said), alone)


def test_a_loss_that_is_no_number(ready: Path, tmp_path: Path) -> None:
    """Said in a line, with what to do; the stages are saved, and no version comes of it."""
    ever = copied(ready, tmp_path, rate=1e18)
    error = ever.error("train", "-r", tmp_path / "tiny.yaml")
    assert "one (diverged)" in error["message"]
    assert "learning_rate" in error["remedy"]
    assert not ever("models")["models"]
    assert list(ever.workspace.glob("model_updates/checkpoints/*/stage_1_one.pt"))
    said = ever("train", "-r", tmp_path / "tiny.yaml", "--set", "stages.0.optimizer.learning_rate=0.01", "--quick")
    assert said["model"] == "v1.0"


def test_hostile_and_foreign_stages(alone: dict[str, Any], tmp_path: Path) -> None:
    """Nothing in a stage file is run; one that lacks what it needs is said to."""

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "trap"),))

    ever = Everlearn(shutil.copytree(alone["workspace"], tmp_path / "workspace"))
    torch.save({"model_state_dict": Evil(), "network": "cnn"}, tmp_path / "evil.pt")
    assert ever.error("train", "--from", tmp_path / "evil.pt")["code"] == "corrupt"
    assert not (tmp_path / "trap").exists()
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    assert ever.error("train", "--from", tmp_path / "other.pt")["code"] == "corrupt"
    whole = dict(alone["best"])
    for change in ({"classes": ["0", "9"]}, {"network": "cnn:depth=3,width=8"}):
        torch.save({**whole, **change}, tmp_path / "changed.pt")
        error = ever.error("train", "--from", tmp_path / "changed.pt", "--quick")
        assert error["code"] == "corrupt", error
    assert ever.error("train", "--from", "nobody")["code"] == "missing"


def test_too_little_to_learn_from(tmp_path: Path) -> None:
    ever = Everlearn(tmp_path / "workspace").init(settings=SETTINGS.replace("0.3", "0.0"))
    assert ever.error("train")["code"] == "too_few"
    ever("collect", digits(tmp_path / "photos", (1, 4), 6), "--labels-from", "folder")
    ever("validate", code=None)
    error = ever.error("train", "--quick")
    assert "validation" in error["message"]
    assert "dataset.validation" in error["remedy"]
    assert ever.error("train", "--resume")["code"] in ("missing", "too_few")


def test_a_class_with_one_image(ready: Path, tmp_path: Path) -> None:
    ever = copied(ready, tmp_path)
    ever("collect", digits(tmp_path / "one", (9,), 1), "--labels-from", "folder")
    ever("validate", code=None)
    said = ever("train", "-r", tmp_path / "tiny.yaml", "--quick")
    assert said["model"]

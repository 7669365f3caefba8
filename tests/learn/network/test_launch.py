"""Two processes train as one does with batches twice as large."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from everlearn.errors import ClusterFault
from everlearn.learn.network import checkpoint
from everlearn.learn.network.launch import follows, launch, launched, processes
from everlearn.learn.network.recipe import Optimizer, Recipe, Stage
from everlearn.learn.network.staged import Job, train

SIDE = 8
NETWORK = "cnn:depth=1,width=4,dropout=0,norm={norm}"


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(before)


def stages(batch: int, rate: float, epochs: int = 3) -> tuple[Stage, ...]:
    settings = Optimizer(name="sgd", learning_rate=rate)
    return (Stage(epochs=epochs, batch_size=batch, optimizer=settings, clip=5.0, sampling="over"),)


def trained(folder: str, batch: int, rate: float, norm: str, epochs: int = 3) -> None:
    """In as many processes as were started: 24 images, 13 to judge on, which two cannot share evenly."""
    import numpy as np

    from everlearn.learn.fit import Quiet
    from everlearn.learn.network.loading import Data
    from everlearn.model.trainable import build

    class Facts(Quiet):
        def begin(self, stage: Stage, facts: dict[str, Any]) -> None:
            if int(os.environ.get("RANK", "0")) == 0:
                told = ("batch", "batch_of_one_process", "processes", "learning_rate", "steps")
                checkpoint.save(Path(folder) / "facts.pt", {name: facts[name] for name in told})

        def step(self, epoch: int, *told: Any) -> None:
            if epochs > 100:
                time.sleep(0.01)
                (Path(folder) / "begun").touch()

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (37, SIDE, SIDE, 3), dtype=np.uint8)
    images[::2, :4] //= 4
    data = Data(images, (np.arange(37) % 2).astype(np.int64), ("a", "b"))
    spec = NETWORK.format(norm=norm)
    recipe = Recipe(network=spec, size=SIDE, stages=stages(batch, rate, epochs))
    about = {"network": spec, "classes": ["a", "b"], "size": SIDE, "task": "classify"}
    net = build(spec, classes=2, size=SIDE)
    train(Job(recipe, Path(folder), about), net, data.some(np.arange(24)), data.some(np.arange(24, 37)),
          lambda settings: None, watch=Facts())  # fmt: skip


def fails(message: str) -> None:
    from everlearn.errors import BadInput

    raise BadInput(message, "Mend it.")


def weights(folder: Path) -> dict[str, Any]:
    return dict(checkpoint.load(folder / "stage_1_training.pt"))


def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path) -> None:
    """Where no norm looks at a batch. The rate of one process is for its own batch; of two it is twice as high."""
    trained(str(tmp_path / "one"), 8, 0.04, "none")
    launch(trained, 2, str(tmp_path / "two"), 4, 0.02, "none")
    one, two = (checkpoint.load(tmp_path / name / "facts.pt") for name in ("one", "two"))
    assert (two["processes"], two["batch"], two["batch_of_one_process"]) == (2, 8, 4)
    assert (one["batch"], one["steps"], one["learning_rate"]) == (two["batch"], two["steps"], two["learning_rate"])
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in a["model_state_dict"].items():
        assert torch.allclose(value, b["model_state_dict"][name], atol=1e-6), name
    assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-5)
    assert a["val_accuracy"] == b["val_accuracy"]


def test_what_goes_wrong_in_one_process_is_told() -> None:
    with pytest.raises(ClusterFault, match=r"too dark\. Mend it\."):
        launch(fails, 1, "The image is too dark.")


def test_ctrl_c_ends_them_with_their_state_saved(tmp_path: Path) -> None:
    """Of a process group, as from a terminal."""
    given = (str(tmp_path), 4, 0.01, "batch", 9999)
    code = f"from tests.learn.network import test_launch as t; t.launch(t.trained, 2, *{given!r})"
    started = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, start_new_session=True)
    for _ in range(600):
        if (tmp_path / "begun").exists() or started.poll() is not None:
            break
        time.sleep(0.1)
    os.killpg(started.pid, signal.SIGINT)
    _, said = started.communicate(timeout=60)
    assert b"KeyboardInterrupt" in said
    found = checkpoint.load(tmp_path / "last.pt")
    assert found["processes"] == 2
    assert found["training"]["step"] + found["training"]["epoch"] > 0


def test_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert not launched()
    assert not follows()
    assert processes(3) == 3
    assert processes(None) == max(1, torch.cuda.device_count())
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launched()
    assert not follows()
    assert processes(None) == processes(9) == 4
    monkeypatch.setenv("RANK", "1")
    assert follows()

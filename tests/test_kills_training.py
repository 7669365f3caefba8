"""A training that is killed anywhere, any number of times, ends with the same weights in every bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from everlearn.learn.network import checkpoint
from tests import child
from tests.child import KILLED
from tests.cli_models.conftest import Everlearn, digits

RECIPE = """\
name: tiny
network: cnn:depth=2,width=8,dropout=0.2
size: 16
stages:
  - {name: one, epochs: 3, batch_size: 8, optimizer: {learning_rate: 0.005}, schedule: {name: one_cycle}}
  - name: two
    epochs: 3
    batch_size: 8
    sampling: over
    augmentation: {rotation: 10, shift: 0.1, mixup: 0.2}
    schedule: {name: plateau, patience: 0, warmup_epochs: 0.5}
    optimizer: {name: sgd, learning_rate: 0.01}
    ema: 0.9
    clip: 1
    dropout: 0.4
  - {name: three, epochs: 2, batch_size: 8, freeze: backbone}
"""
STAGES = 3
SETTINGS = "learn: {dimensions: 64}\ndataset: {validation: 0.3}\ntrack: {plots: false}\n"


def _loaded(pipe: Connection) -> None:
    """A process that has loaded everything and trains nothing itself; of it others are forked, one for each command."""
    torch.set_num_threads(1)
    import accelerate  # noqa: F401

    import everlearn.augment.training
    import everlearn.stages.trained  # noqa: F401
    from everlearn.learn.network import staged
    from everlearn.model.network_bundle import Trained, packed
    from everlearn.model.trainable import build

    packed(Trained(build("cnn:depth=1,width=4", classes=2, size=8), ("a", "b")), {})  # loads what writes ONNX
    while True:
        said, words, conditions = pipe.recv()
        staged.SAVE_SECONDS = conditions.pop("save_seconds", 0.0)
        pid = os.fork()
        if pid == 0:
            child._run(said, [*map(str, words), "--json"], conditions)
        pipe.send(pid)
        pipe.send(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


class Trainings:
    """`there(ever)` trains in a process of its own; the exit code, and what it said."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.seconds = 0.0

    def __call__(
        self, ever: Everlearn, *words: object, after: float = 0.0, **conditions: Any
    ) -> tuple[int, dict[str, Any]]:
        """after: seconds until it is killed; 0: never. conditions: of `child._run`, and save_seconds."""
        said = ever.workspace.parent / "said.json"
        said.unlink(missing_ok=True)
        began = time.monotonic()
        recipe = ("-r", ever.workspace.parent / "tiny.yaml") if "--resume" not in words else ()
        given = ("-w", ever.workspace, "train", *recipe, *words)
        self._pipe.send((str(said), given, conditions))
        pid = self._pipe.recv()
        if after:
            time.sleep(after)
            with suppress(ProcessLookupError):  # it was quicker
                os.kill(pid, signal.SIGKILL)
        code = self._pipe.recv()
        self.seconds = time.monotonic() - began
        return code, json.loads(said.read_text() or "{}") if said.exists() else {}


@pytest.fixture(scope="module")
def there() -> Iterator[Trainings]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_loaded, args=(theirs,))
    process.start()
    theirs.close()  # so that we are told when it ends
    yield Trainings(ours)
    process.kill()
    process.join()


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with 36 labelled images."""
    folder = tmp_path_factory.mktemp("ready")
    ever = Everlearn(folder / "workspace").init(settings=SETTINGS)
    ever("collect", digits(folder / "photos", (1, 4, 7), 20), "--labels-from", "folder")
    ever("validate", code=None)
    return folder / "workspace"


def copied(ready: Path, folder: Path) -> Everlearn:
    shutil.copytree(ready, folder / "workspace")
    (folder / "tiny.yaml").write_text(RECIPE)
    return Everlearn(folder / "workspace")


def files(ever: Everlearn) -> dict[str, dict[str, Any]]:
    """Every stage file of the newest run."""
    run = max((ever.workspace / "model_updates" / "checkpoints").iterdir())
    assert not list(run.glob(".*"))
    return {path.name: checkpoint.load(path) for path in run.glob("*stage_*.pt")}


def assert_same(found: dict[str, dict[str, Any]], wanted: dict[str, dict[str, Any]]) -> None:
    assert found.keys() == wanted.keys()
    for name, stage in found.items():
        for key, value in stage["model_state_dict"].items():
            assert torch.equal(value, wanted[name]["model_state_dict"][key]), (name, key)
        assert stage["val_loss"] == wanted[name]["val_loss"]
        assert stage["val_accuracy"] == wanted[name]["val_accuracy"]


@pytest.fixture(scope="module")
def undisturbed(there: Trainings, ready: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    ever = copied(ready, tmp_path_factory.mktemp("undisturbed"))
    code, said = there(ever, save_seconds=60.0)
    assert code == 0, said
    (run,) = (ever.workspace / "model_updates" / "checkpoints").iterdir()
    assert {path.suffix for path in run.iterdir()} == {".pt"}
    assert not (run / "last.pt").exists(), "what only a running training needs is gone"
    assert len(said["stages"]) == STAGES
    return {"files": files(ever), "said": said, "seconds": there.seconds}


def curves(said: dict[str, Any]) -> list[Any]:
    told = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate")
    return [[one["name"], one["kept"], *([epoch[name] for name in told] for epoch in one["history"])]
            for one in said["stages"]]  # fmt: skip


def test_killed_ten_times(there: Trainings, ready: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """Before the first step, at steps by chance, while saving, between stages; each time the same run goes on."""
    ever, dice = copied(ready, tmp_path), random.Random(4)
    points = ["arrays.data:1", "train.job:1"]
    points += [f"train.step:{dice.randint(2, 6)}" for _ in range(6)]
    points += ["train.saved:1", "train.stage:1", "train.step:3", "train.saved:2", "train.trained:1"]
    for point in points:
        code, said = there(ever, fault=point)
        assert code == KILLED, (point, said)
    code, said = there(ever)
    assert code == 0, said
    assert_same(files(ever), undisturbed["files"])
    assert curves(said) == curves(undisturbed["said"])
    begun = [list(one.iterdir()) for one in (ever.workspace / "model_updates" / "checkpoints").iterdir()]
    assert sum(map(bool, begun)) == 1, "one run, not many; the first died before there was something to go on with"
    assert ever("doctor", "--deep")["lost"] == []


def test_killed_at_any_moment(there: Trainings, ready: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """A real SIGKILL, whenever; with nothing saved between two stages."""
    ever, dice = copied(ready, tmp_path), random.Random()
    after = dice.uniform(0.1, 0.9) * undisturbed["seconds"]
    code, _ = there(ever, after=after, save_seconds=dice.choice([0.0, 60.0]))
    if code != KILLED:
        assert code == 0, after
        return
    there(ever, after=0.3)
    assert there(ever, fault="train.trained")[0] == KILLED, after
    assert_same(files(ever), undisturbed["files"])


def test_interrupted(there: Trainings, ready: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """Ctrl-C ends after the step in hand: exit 130, and it says how to go on."""
    ever = copied(ready, tmp_path)
    code, said = there(ever, interrupt="train.step", save_seconds=60.0)
    assert (code, said["error"]["code"]) == (130, "interrupted")
    assert "go on" in said["error"]["remedy"]
    (run,) = (ever.workspace / "model_updates" / "checkpoints").iterdir()
    assert checkpoint.load(run / "last.pt")["training"]["step"] == 1, "it ended at once, and saved"
    assert there(ever, "--resume", fault="train.trained")[0] == KILLED
    assert_same(files(ever), undisturbed["files"])


def test_a_full_disk(there: Trainings, ready: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """As a limit on the size of a file: a state that does not fit is said, the one before it stays, and it goes on."""
    ever = copied(ready, tmp_path)
    assert there(ever, fault="train.saved:4")[0] == KILLED
    (run,) = (ever.workspace / "model_updates" / "checkpoints").iterdir()
    before = (run / "last.pt").read_bytes()
    code, said = there(ever, file_limit=len(before) // 2)
    assert (code, said["error"]["code"]) == (2, "store"), said
    assert said["error"]["remedy"]
    assert (run / "last.pt").read_bytes() == before
    assert not list(run.glob(".*part"))
    assert there(ever, fault="train.trained")[0] == KILLED
    assert_same(files(ever), undisturbed["files"])


def test_what_has_changed_is_said(there: Trainings, ready: Path, tmp_path: Path) -> None:
    """Another recipe or other images are refused; --force goes on with them, --anew leaves the run."""
    ever = copied(ready, tmp_path)
    assert there(ever, fault="train.saved:4")[0] == KILLED
    (run,) = (ever.workspace / "model_updates" / "checkpoints").iterdir()
    for words in (("--epochs", 4), ("-r", tmp_path / "tiny.yaml", "--epochs", 4, "--resume")):
        code, said = there(ever, *words)
        assert (code, said["error"]["code"]) == (2, "bad_input"), said
        assert "stages.0.epochs: 3, now 4" in said["error"]["message"]
        assert "--anew" in said["error"]["remedy"]
        assert "--force" in said["error"]["remedy"]
    code, said = there(ever, "--network", "cnn:depth=3,width=8", "--force")
    assert code == 2
    assert "recipe.network" in said["error"]["message"]
    assert "--force" not in said["error"]["remedy"], "its weights would not fit"

    assert there(ever, "--epochs", 4, "--force", fault="train.trained")[0] == KILLED
    last = checkpoint.load(run / "last.pt")
    assert [len(one["history"]) for one in last["done"]] == [4, 4, 4]

    ever("collect", digits(tmp_path / "more", (1, 4, 7), 6, first=30), "--labels-from", "folder")
    ever("validate", code=None)
    code, said = there(ever, "--resume")
    assert code == 2
    assert "images.digest" in said["error"]["message"]
    assert "images.train" in said["error"]["message"]
    assert there(ever, "--anew", fault="train.saved:4")[0] == KILLED
    assert len(list(run.parent.iterdir())) == 2, "another run"


def test_a_cache_made_anew(there: Trainings, ready: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """The images of a run may lie elsewhere in the cache when it goes on; what said where they lay may be damaged."""
    ever = copied(ready, tmp_path)
    assert there(ever, fault="train.saved:2")[0] == KILLED
    (names,) = (ever.workspace / ".everlearn" / "arrays").glob("*.ids")
    data, ids = names.with_suffix(".bin"), names.read_bytes()
    rows = np.frombuffer(data.read_bytes(), np.uint8).reshape(len(ids) // 33, -1)
    data.write_bytes(rows[::-1].tobytes())
    names.write_bytes(b"".join(ids[at : at + 33] for at in reversed(range(0, len(ids), 33))))
    (run,) = (ever.workspace / "model_updates" / "checkpoints").iterdir()
    (run / "rows.npz").write_bytes(b"PK")
    code, said = there(ever)
    assert code == 0, said
    assert_same(files(ever), undisturbed["files"])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("last.pt", b"no state"),
        ("last.pt", b""),
        ("job.json", b"{"),
        ("job.json", b"{}"),
    ],
)
def test_damaged_files_are_said(there: Trainings, ready: Path, tmp_path: Path, name: str, data: bytes) -> None:
    ever = copied(ready, tmp_path)
    assert there(ever, fault="train.saved:2")[0] == KILLED
    (run,) = (ever.workspace / "model_updates" / "checkpoints").iterdir()
    (run / name).write_bytes(data)
    code, said = there(ever, "--resume")
    assert (code, said["error"]["code"]) == (2, "corrupt"), said
    assert name in said["error"]["message"]
    assert "Traceback" not in (tmp_path / "said.err").read_text()
    assert there(ever, "--anew", fault="train.saved:2")[0] == KILLED, "another can be begun"

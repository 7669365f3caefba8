"""A network in a workspace that is taught classes which come later."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from everlearn.errors import BadInput, Missing, TooFew
from everlearn.learn.network import recipe as recipes
from everlearn.learn.network.continual import opened
from everlearn.model.trainable import from_stage_file
from everlearn.stages import continual, sides, training
from everlearn.types import SILENT
from everlearn.workspace import Workspace
from tests import digits, wheel

RECIPE = recipes.load({
    "name": "tiny", "network": "cnn:depth=2,width=8", "size": 16, "processes": 1,
    "stages": [{"name": "only", "epochs": 12, "batch_size": 16, "optimizer": {"learning_rate": 0.02}}],
})  # fmt: skip


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that knows 0, 1 and 2; images of 3 and 4 have come since."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("continual")
    workspace = wheel.make(folder / "workspace", learn={"dimensions": 64, "replay_bytes": 60_000})
    for labels, name in (((0, 1, 2), "old"), ((3, 4), "new")):
        digits.write(str(folder / name), labels, stop=50)
        for words in (("collect", folder / name, "--labels-from", "folder"), ("validate",)):
            done = wheel.run(workspace.root, *words)
            assert done.code == 0, (words, done)
        if name == "old":
            with pytest.raises(Missing, match="No network"):
                continual.standing(workspace)
            training.train(workspace, RECIPE, SILENT)
            with pytest.raises(TooFew, match="new since"):
                continual.train(workspace, RECIPE, "replay", SILENT)
    return workspace.root


@pytest.fixture
def workspace(begun: Path, tmp_path: Path) -> Workspace:
    return Workspace.open(shutil.copytree(begun, tmp_path / "workspace"))


def right(workspace: Workspace, found: training.Training, labels: str) -> float:
    """Accuracy of the weights kept on the validation images of some classes."""
    from everlearn.catalog import snapshots

    with workspace.catalog.read() as tx:
        divided = sides.of(workspace, snapshots.latest(tx))
    some = sides.Sides((), tuple(one for one in divided.validation if one.label in labels), divided.classes, False)
    return continual.accuracy_of(workspace, some, found, SILENT) if some.validation else float("nan")


def test_replay_learns_the_new_classes_and_keeps_the_old(workspace: Workspace) -> None:
    stage, _ = continual.standing(workspace)
    version, found = continual.train(workspace, RECIPE, "replay", SILENT)
    file = torch.load(found.folder / found.stages[0].file, weights_only=True)
    assert file["classes"] == [*stage["classes"], "3", "4"]  # old columns stay where they are
    assert right(workspace, found, "34") > 0.7
    assert right(workspace, found, "012") > 0.7
    assert version is not None
    (reservoir,) = (workspace.private(continual.FOLDER)).glob("reservoir-*/")
    assert sum(path.stat().st_size for path in reservoir.glob("*")) <= 60_000
    assert json.loads(reservoir.with_suffix(".json").read_text())["classes"] == stage["classes"]
    again, _ = continual.standing(workspace)
    assert again["classes"] == file["classes"]  # the next experience begins where this one ended


def test_only_what_is_new_is_learned_beside_what_is_replayed(workspace: Workspace) -> None:
    from everlearn.dataset.build import build

    divided = sides.of(workspace, build(workspace))
    old, new = continual.since(workspace, divided, continual.standing(workspace)[1])
    assert {one.label for one in old} == set("012")
    assert {one.label for one in new.train} == set("34")
    assert {one.label for one in new.validation} == set("01234")


def test_the_reservoir_is_a_function_of_what_is_there(workspace: Workspace) -> None:
    from everlearn.dataset.build import build

    stage, name = continual.standing(workspace)
    network, classes = from_stage_file(stage), list(stage["classes"])
    old, _ = continual.since(workspace, sides.of(workspace, build(workspace)), name)
    first = continual.refilled(workspace, network, classes, old, SILENT, logits=True)
    keys, targets, logits = first.keys, first.targets, first.logits
    assert 0 < len(first) < len(old)
    assert np.ptp(np.bincount(targets)) <= 1
    assert not np.isnan(logits).any()
    gone = continual.refilled(workspace, network, classes, old[::2], SILENT, logits=True)
    assert not any(one.id in gone for one in old[1::2])
    back = continual.refilled(workspace, network, classes, old, SILENT, logits=True)
    assert (back.keys, back.targets.tolist()) == (keys, targets.tolist())
    assert np.array_equal(back.logits, logits)
    turned = continual.refilled(workspace, network, classes[::-1], old, SILENT, logits=False)
    by_id = {one.id: one.label for one in old}
    assert all(
        by_id[id] == classes[::-1][column] for id, column in zip(_ids(turned, by_id), turned.targets, strict=True)
    )
    continual.forget(workspace)
    assert not workspace.private(continual.FOLDER).exists()


def _ids(held, ids):
    from everlearn.learn.network.continual.reservoir import _digest

    by_digest = {_digest(id).hex(): id for id in ids}
    return [by_digest[key] for key in held.keys]


@pytest.mark.parametrize("method", ["lwf", "ewc", "joint"])
def test_each_method_makes_a_version(workspace: Workspace, method: str) -> None:
    version, found = continual.train(workspace, RECIPE, method, SILENT)
    assert version is not None
    assert len(torch.load(found.folder / found.stages[0].file, weights_only=True)["classes"]) == 5
    if method == "joint":
        assert min(right(workspace, found, labels) for labels in ("012", "34")) > 0.6


def test_the_better_of_network_and_memory_is_registered(workspace: Workspace, monkeypatch) -> None:
    said: list[str] = []

    class Says(type(SILENT)):  # type: ignore[misc]
        def say(self, text: str) -> None:
            said.append(text)

    begin, name = continual.standing(workspace)
    version, _ = continual.train(workspace, RECIPE, "replay", Says())
    line = next(one for one in said if one.startswith("On the validation side"))
    network, memory = map(float, re.findall(r"\d\.\d{4}", line))
    assert version is not None
    assert version.learner == ("exact" if memory > network else "staged:tiny")
    monkeypatch.setattr(continual, "accuracy_of", lambda *_: 2.0 if version.learner == "exact" else -1.0)
    other, _ = continual.train(workspace, RECIPE, "lwf", Says(), begin=begin, begun_from=name)
    assert other is not None
    assert {version.learner, other.learner} == {"exact", "staged:tiny"}
    for one in (version, other):
        done = wheel.run(workspace.root, "evaluate", "--model", one.name)
        assert done.code in (0, 1), done  # it answers by itself; what the gate says of it is its own matter


def test_a_killed_run_goes_on_by_the_same_command(begun: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(json.dumps(RECIPE.model_dump(mode="json")))
    roots = [shutil.copytree(begun, tmp_path / name) for name in ("whole", "killed")]
    words = ("train", "--method", "derpp", "--recipe", tmp_path / "tiny.yaml")
    killed = subprocess.run(
        [sys.executable, "-m", "everlearn", "-w", str(roots[1]), *map(str, words)], capture_output=True,
        env={**os.environ, "EVERLEARN_FAULT": "train.step:7", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    digests = []
    for root in roots:
        done = wheel.run(root, *words)
        assert done.code == 0, done
        file = Path(root, "model_updates/checkpoints", done.values["run"], "stage_1_only.pt")
        digests.append({name: value.numpy().tobytes() for name, value in torch.load(file)["model_state_dict"].items()})
    assert digests[0] == digests[1]


def test_forgetting_leaves_nothing_of_the_past(workspace: Workspace) -> None:
    continual.train(workspace, RECIPE, "derpp", SILENT)
    assert workspace.private(continual.FOLDER).exists()
    done = wheel.run(workspace.root, "forget", "--label", "3")
    assert done.code == 0, done
    assert not workspace.private(continual.FOLDER).exists()


def test_what_it_refuses(workspace: Workspace) -> None:
    with pytest.raises(BadInput, match="no method"):
        continual.train(workspace, RECIPE, "magic", SILENT)
    with pytest.raises(KeyError):
        opened({"name": "replay", "known": [], "seed": 0})

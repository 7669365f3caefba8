"""A network trained in stages as the workspace's learner: what it goes on from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from everlearn.dataset.build import build as build_snapshot
from everlearn.learn.network import recipe as recipes
from everlearn.stages import saved
from everlearn.stages.networks import StagedLearner
from everlearn.types import SILENT
from everlearn.workspace import Workspace
from tests import digits, wheel

RECIPE = """\
name: tiny
network: cnn:depth=1,width=8
size: 16
stages: [{name: only, epochs: 4, batch_size: 16, optimizer: {learning_rate: 0.02}}]
"""


def come(workspace: Workspace, folder: Path, start: int, stop: int) -> None:
    digits.write(str(folder), (0, 1), start=start, stop=stop)
    for words in (("collect", folder, "--labels-from", "folder"), ("validate",)):
        assert wheel.run(workspace.root, *words).code == 0


def test_where_nothing_was_better_it_goes_on_from_the_weights_that_stayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    made = wheel.make(tmp_path / "workspace", learn={"learner": "staged:tiny.yaml"}, track={"plots": False})
    (made.root / "tiny.yaml").write_text(RECIPE)
    come(made, tmp_path / "old", 0, 40)
    learner = StagedLearner.open(made)
    learner.bring_to(build_snapshot(made), SILENT)
    first = learner.run
    assert learner.fresh

    come(made, tmp_path / "new", 40, 60)
    diverging = recipes.changed(recipes.load(made.root / "tiny.yaml"), ["stages.0.optimizer.learning_rate=1e30"])
    monkeypatch.setattr(saved, "continued", lambda stage, kind: diverging)
    snapshot = build_snapshot(made)
    learner.bring_to(snapshot, SILENT)
    assert (learner.run, learner.fresh) == (first, False)
    stage, _ = StagedLearner.open(made)._kept()
    assert stage is not None, "the weights that stayed can be gone on from"
    assert learner.knows(snapshot)


@pytest.mark.parametrize(("loss", "then"), [("bce", "bce"), ("mae", "mae"), ("focal", "cross_entropy")])
def test_a_stage_is_continued_with_its_kind_of_loss(loss: str, then: str) -> None:
    stage = {"network": "cnn", "size": 32, "stage_config": {"loss": {"name": loss}}}
    for kind in ("fine_tune", "regularization", "exploration"):
        assert {one.loss.name for one in saved.continued(stage, kind).stages} == {then}

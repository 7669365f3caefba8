"""Cross-validation, tuning and comparison of detectors, on scenes so small that only the machinery is tested."""

from __future__ import annotations

import pytest
import yaml

from everlearn import stages
from everlearn.catalog import runs
from everlearn.config import check
from everlearn.errors import BadConfig
from everlearn.workspace import Workspace
from tests import scenes
from tests.make import Quiet

pytest.importorskip("ultralytics", reason="training YOLO needs ultralytics")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("experiments")
    scenes.write(folder / "data", 40, ("circle", "square"), side=64)
    settings = {
        "task": "detect", "detect": {"size": 64, "epochs": 2, "batch": 8}, "track": {"plots": False},
        "validate": {"near_duplicates": False}, "dataset": {"validation": 0.2},
    }  # fmt: skip
    made = Workspace.create(folder / "w", check(settings, folder / "everlearn.yaml"))
    stages.collect(made, [str(folder / "data")], Quiet(), labels_from="yolo")
    stages.validate(made, Quiet())
    return made


def test_folds_are_trained_apart_and_done_once(workspace: Workspace) -> None:
    found, done = stages.crossval(workspace, "yolo", Quiet(), folds=2, quick=True)
    assert (found.measure, found.folds, len(done.each)) == ("map50", 2, 2)
    assert all(0 <= one["score"] <= 1 and one["trained"] and one["tested"] for one in done.each)
    assert sum(one["tested"] for one in done.each) == found.samples
    again, same = stages.crossval(workspace, "yolo", Quiet(), folds=2, quick=True)
    assert (again.scores, same.run, same.following) == (found.scores, done.run, None)  # nothing was trained
    assert not list((workspace.root / "model_updates/checkpoints").glob("fold-*"))


def test_a_search_keeps_its_trials_and_writes_the_section(workspace: Workspace) -> None:
    from everlearn.stages.detecting import tuning

    found = tuning.tune(workspace, Quiet(), written=["lr0=0.001..0.01:log", "batch=4,8"], trials=2, quick=True)
    assert [one.number for one in found.trials] == [0, 1]
    assert found.value == max(one.value or 0 for one in found.trials)
    section = yaml.safe_load(found.path.read_text())["detect"]
    assert section["size"] == 64
    assert check({"task": "detect", "detect": section}, found.path).detect.epochs == 2
    again = tuning.tune(workspace, Quiet(), written=["lr0=0.001..0.01:log", "batch=4,8"], trials=2, quick=True)
    assert (again.study, again.best.number, len(again.trials)) == (found.study, found.best.number, 2)
    with workspace.catalog.read() as tx:
        assert len(runs.every(tx, kind="trial")) == 2
        assert (workspace.root / str(runs.get(tx, found.run).result["recipe"])) == found.path


@pytest.mark.parametrize("space", [["lrr0=1..2"], ["lr0=1..2", "lr0=2..3"], ["mosaic=5"]])
def test_a_space_that_no_training_can_be_told_is_refused(workspace: Workspace, space: list[str]) -> None:
    from everlearn.stages.detecting import tuning

    with pytest.raises(BadConfig):
        tuning.tune(workspace, Quiet(), written=space, trials=2)

"""A search in a workspace: trials as runs, the tuned recipe as a file, what a kill leaves, several processes."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from everlearn.catalog import runs, snapshots
from everlearn.config import Config
from everlearn.dataset.build import build as build_snapshot
from everlearn.errors import BadConfig, BadInput
from everlearn.image import encode_png
from everlearn.learn.network import recipe as recipes
from everlearn.learn.network.recipe import Recipe
from everlearn.stages import automatic, saved
from everlearn.stages.trials import Bench
from everlearn.stages.tuned import Tuned
from everlearn.stages.tuning import Asked, by_stage, tune
from everlearn.workspace import CHECKPOINTS, Workspace
from tests.make import Quiet, add_image, picture

torch.set_num_threads(1)
SPACE = ("learning_rate=0.001..0.1:log", "batch_size=8,16,32")


def recipe(name: str = "baseline", *changes: str) -> Recipe:
    small = ["network=cnn:depth=1,width=4", "size=12", "stages.*.epochs=1", *changes]
    return recipes.changed(recipes.load(name), small)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Dark and light pictures: something to learn."""
    workspace = Workspace.create(
        tmp_path_factory.mktemp("tuning") / "w", Config(dataset={"validation": 0.3, "test": 0.1})
    )
    for number in range(60):
        light = number % 2
        pixels = picture(number) // 2 + 120 * light
        add_image(workspace, encode_png(pixels), "light" if light else "dark", camera=f"cam{number % 3}")
    build_snapshot(workspace)
    return workspace


def trials_of(workspace: Workspace, found: Tuned) -> list[runs.Run]:
    with workspace.catalog.read() as tx:
        return runs.every(tx, kind="trial", parent=found.run)


def test_a_search_from_beginning_to_end(made: Workspace) -> None:
    said = Quiet()
    found = tune(made, recipe(), Asked(SPACE, trials=5, sampler="random"), said)
    assert [one.number for one in found.trials] == [0, 1, 2, 3, 4] and found.trials[0].values == {
        "learning_rate": 0.002, "batch_size": 32,
    }  # fmt: skip
    assert found.baseline == found.trials[0].value and found.value == max(one.value or 0 for one in found.trials)
    assert found.gain == pytest.approx(found.value - (found.baseline or 0))
    tuned = recipes.load(found.path)
    assert tuned == found.recipe and tuned.name == "baseline-tuned"
    assert tuned.stages[0].batch_size == found.best.values["batch_size"]
    assert all(one.stat().st_size > 1000 for one in found.pictures)
    rows = trials_of(made, found)
    assert [one.status for one in rows] == ["done"] * 5 and all(one.version is None for one in rows)
    assert not any((made.root / CHECKPOINTS / one.name).exists() for one in rows), "nobody asked for their networks"
    with made.catalog.read() as tx:
        run = runs.get(tx, found.run)
        assert run.status == "done" and run.config["space"] and run.result["value"] == found.value
        assert [value for _, value in runs.series(tx, rows[0].name)["val_accuracy"]] == [found.baseline]
    assert any("optimistic" in one for one in found.notes)

    again = tune(made, recipe(), Asked(SPACE, trials=5, sampler="random"), Quiet())
    assert (again.run, again.value) == (found.run, found.value) and len(trials_of(made, found)) == 5, "done is done"
    more = tune(made, recipe(), Asked(SPACE, trials=6, sampler="random"), Quiet())
    assert more.run == found.run and len(more.trials) == 6
    other = tune(made, recipe(), Asked(SPACE, trials=2, sampler="random", anew=True, keep=True), Quiet())
    assert other.run != found.run and other.study == f"{found.study}-2"
    assert all(
        (made.root / CHECKPOINTS / one.name / "best_model_stage_1.pt").exists() for one in trials_of(made, other)
    )


def test_the_test_side_is_not_touched(made: Workspace) -> None:
    bench = Bench(made, 1)
    used = {one.id for one in (*bench.sides.train, *bench.sides.validation)}
    assert {one.split for one in (*bench.sides.train, *bench.sides.validation)} == {"train", "validation"}
    with made.catalog.read() as tx:
        tests = [one.id for one in snapshots.members(tx, 1) if one.split == "test"]
    assert tests and not used & set(tests)


def test_trials_that_fail_do_not_stop_it(made: Workspace) -> None:
    """Of two networks one is no network, and a rate of 1e30 makes the loss no number."""
    written = ('network=["cnn:depth=1,width=4", "cnn:nope=1"]', "learning_rate=0.002,1e30")
    found = tune(made, recipe(), Asked(written, sampler="grid", study="failing"), Quiet())
    assert len(found.trials) == 5
    failed = {tuple(one.values.values()): one.error for one in found.trials if one.status == "failed"}
    assert set(failed) == {("cnn:nope=1", 0.002), ("cnn:nope=1", 1e30), ("cnn:depth=1,width=4", 1e30)}
    assert "nope" in str(failed["cnn:nope=1", 0.002]) and "no number" in str(failed["cnn:depth=1,width=4", 1e30])
    assert sorted(one.status for one in trials_of(made, found)) == ["done", "done", "failed", "failed", "failed"]
    wild = recipe("baseline", "stages.*.optimizer.learning_rate=1e30")
    with pytest.raises(BadInput, match="None of 2 trials"):
        tune(made, wild, Asked(("learning_rate=1e30,1e31",), trials=2, sampler="random"), Quiet())
    with pytest.raises(BadConfig, match="nope"):
        tune(made, recipe("baseline", "network=cnn:nope=1"), Asked(SPACE, trials=2), Quiet())


def test_one_stage_and_stage_by_stage(made: Workspace) -> None:
    two = recipe("regression", "stages.*.loss.name=cross_entropy")
    asked = Asked(("learning_rate=0.001..0.1:log",), trials=2, sampler="random")
    alone = tune(made, two, replace(asked, stage="polishing"), Quiet())
    assert alone.recipe.stages[0] == two.stages[0]
    before = torch.load(made.root / CHECKPOINTS / alone.run / "before.pt", weights_only=True)
    assert before["weights"] and len(trials_of(made, alone)) == 2
    found = by_stage(made, two, asked, Quiet())
    assert [one.stage for one in found] == ["baseline", "polishing"]
    assert found[1].recipe.stages[0] == found[0].recipe.stages[0], "the second is searched after the first is tuned"


def test_time_ends_it_and_it_goes_on(made: Workspace) -> None:
    asked = Asked(SPACE, minutes=1 / 6000, sampler="random", seed=5)
    with pytest.raises(BadInput, match="time was over"):
        tune(made, recipe(), asked, Quiet())
    found = tune(made, recipe(), replace(asked, minutes=None, trials=2), Quiet())
    assert len(found.trials) == 2
    timed = tune(made, recipe(), replace(asked, minutes=0.02), Quiet())
    assert timed.run == found.run and len(timed.trials) > 2, "as many as the time has room for"


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
from everlearn.workspace import Workspace
from tests.make import Quiet
from tests.stages.test_tuning import Asked, SPACE, recipe, tune
tune(Workspace.open(sys.argv[1]), recipe(), Asked(SPACE, trials=4, sampler="random", seed=7), Quiet())
"""


def test_killed_it_goes_on_with_what_remains(made: Workspace) -> None:
    root = str(Path(__file__).resolve().parents[2])
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(made.root), root])
    study, deadline = None, time.monotonic() + 120
    while study is None and time.monotonic() < deadline and child.poll() is None:
        with made.catalog.read() as tx:
            ours = [one for one in runs.every(tx, kind="tune") if one.config.get("seed") == 7]
            if ours and any(one.status == "done" for one in runs.every(tx, kind="trial", parent=ours[-1].name)):
                study = ours[-1].name
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert study is not None
    asked = Asked(SPACE, trials=4, sampler="random", seed=7)
    found = tune(made, recipe(), asked, Quiet())
    assert found.run == study and [one.status for one in found.trials] == ["done"] * 4
    alone = tune(made, recipe(), replace(asked, anew=True), Quiet())
    assert [one.values for one in found.trials] == [one.values for one in alone.trials]
    assert [one.value for one in found.trials] == [one.value for one in alone.trials], "to the same bits"
    assert not [one for one in trials_of(made, found) if one.status == "running"]


@pytest.mark.soak
def test_processes_share_it_also_where_one_is_killed(made: Workspace) -> None:
    asked = Asked(SPACE, trials=8, sampler="random", seed=9)
    killed: list[int] = []

    class Kills(Quiet):
        def say(self, message: str) -> None:
            super().say(message)
            if not killed and message.startswith("trial "):
                workers = [one.pid for one in psutil.Process().children() if "spawn_main" in " ".join(one.cmdline())]
                killed.extend(workers[:1])
                os.kill(killed[0], signal.SIGKILL)

    found = tune(made, recipe(), replace(asked, jobs=2), Kills())
    alone = tune(made, recipe(), replace(asked, anew=True), Quiet())
    assert killed and [one.value for one in found.trials] == [one.value for one in alone.trials]
    assert [one.values for one in found.trials] == [one.values for one in alone.trials]


@pytest.mark.soak
def test_a_cluster_shares_it(made: Workspace) -> None:
    from everlearn import engine
    from everlearn.config import Engine

    asked = Asked(SPACE, trials=4, sampler="random", seed=11)
    engine.choose(Engine(kind="ray", workers=2))
    try:
        found = tune(made, recipe(), asked, Quiet())
    finally:
        engine.choose(None)
        engine.close()
    alone = tune(made, recipe(), replace(asked, anew=True), Quiet())
    assert [(one.values, one.value) for one in found.trials] == [(one.values, one.value) for one in alone.trials]


def test_a_name_is_not_shared_by_other_searches(made: Workspace) -> None:
    tune(made, recipe(), Asked(SPACE, trials=2, sampler="random", study="ours"), Quiet())
    with pytest.raises(BadInput, match="something else"):
        tune(made, recipe("baseline", "size=16"), Asked(SPACE, trials=2, sampler="random", study="ours"), Quiet())


def test_a_recipe_by_measuring(made: Workspace) -> None:
    said = Quiet()
    found = automatic.choose(made, said, minutes=0.05)
    assert recipes.load(found.path) == found.recipe and found.recipe.name == "auto"
    assert found.recipe.size <= 24, "no image is made larger than it is"
    stage = found.recipe.stages[0]
    assert stage.batch_size in automatic.BATCHES and 1 <= stage.epochs <= automatic.EPOCHS[1]
    assert math.isfinite(stage.optimizer.learning_rate)
    assert "Chosen" in found.why[-1] and set(found.why) <= set(said.said)
    again = automatic.choose(made, Quiet(), minutes=0.05)
    assert again == found, "asked again, it is not measured again: a killed training goes on"
    tight = automatic.choose(made, Quiet(), minutes=0.05, memory_gb=0.0001)
    assert (tight.recipe.network, tight.recipe.size) == (automatic.NETWORKS[0], automatic.SIZES[0])
    assert "memory" in " ".join(tight.why)


def test_a_rate_by_a_sweep(made: Workspace) -> None:
    before = saved.trained_runs(made)
    found, run, path = automatic.find_rate(made, recipe(), Quiet())
    assert 1e-5 <= found.suggestion <= 1 and path.stat().st_size > 1000
    with made.catalog.read() as tx:
        assert runs.get(tx, run).result["rate"] == found.suggestion
    assert saved.trained_runs(made) == before, "nothing is trained"

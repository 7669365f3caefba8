"""A training ends with its pictures, and with what it took of the machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from everlearn import track
from everlearn.catalog import runs, versions
from everlearn.cli.main import run as ever
from everlearn.learn import fit
from everlearn.learn.network import recipe as recipes
from everlearn.stages import picturing, sides, training
from everlearn.types import SILENT
from everlearn.workspace import Workspace
from tests.digits import write

pytestmark = pytest.mark.usefixtures("pictures")

RECIPE = {
    "name": "tiny",
    "network": "cnn:depth=2,width=4",
    "size": 16,
    "stages": [
        {"name": "plain", "epochs": 2},
        {"name": "mixed", "epochs": 1, "augmentation": {"rotation": 10, "mixup": 0.4}},
    ],
}


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, no_pictures: Callable[..., Any]
) -> Iterator[tuple[Workspace, training.Training, list[Any]]]:
    """A workspace with a training, and the first batch that each stage was given."""
    base = tmp_path_factory.mktemp("pictured")
    torch.set_num_threads(1)
    write(str(base / "photos"), range(3), 0, 20)
    for words in (["init", str(base / "w")], ["-w", str(base / "w"), "collect", str(base / "photos"), "--labels-from",
                                             "folder"], ["-w", str(base / "w"), "validate"]):  # fmt: skip
        assert ever(words) == 0
    workspace = Workspace.open(base / "w")
    seen: list[Any] = []
    parts = fit.Training.parts

    def remembered(self: fit.Training, batch: Any) -> Any:
        if self.epoch == 0 and self.step == 0:
            seen.append(batch.inputs.clone())
        return parts(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit.Training, "parts", remembered)
        patch.setattr(picturing, "pictures", no_pictures)
        _, found = training.train(workspace, recipes.load(RECIPE), SILENT)
    yield workspace, found, seen
    shutil.rmtree(base)


def test_a_training_has_its_pictures_and_costs(trained: tuple[Workspace, training.Training, list[Any]]) -> None:
    workspace, found, _ = trained
    folder = workspace.root / track.PLOTS / found.run
    names = {path.name for path in folder.iterdir()}
    assert {"curves.png", "confusion.png", "roc.png", "images_first_batches.png", "images_validation.png"} < names
    numbers = json.loads((folder / "numbers.json").read_text())
    assert [row["stage"] for row in numbers["history"]] == [1, 1, 2]
    assert sum(numbers["labels"]["training"].values()) == len(sides.of(workspace, _snapshot(workspace)).train)
    with workspace.catalog.read() as tx:
        run, version = runs.get(tx, found.run), versions.newest(tx)
    assert set(run.result["artifacts"]) == {f"{track.PLOTS}/{found.run}/{name}" for name in names}
    assert run.result["system"]["memory_peak"] > 50_000_000
    assert version is not None and version.metrics is not None
    assert version.metrics["memory_bytes"] == run.result["system"]["memory_peak"]
    assert "gpu_utilisation" not in version.metrics  # of a run of seconds it says nothing


def test_the_first_batches_are_what_the_network_was_given(
    trained: tuple[Workspace, training.Training, list[Any]],
) -> None:
    from everlearn.stages.trained import answering

    workspace, found, seen = trained
    divided = sides.of(workspace, _snapshot(workspace))
    shown = picturing._first_batches(workspace, divided, found, answering(workspace, divided, found, SILENT), SILENT)
    assert len(shown.images) == len(shown.labels) == 32
    for stage, batch in enumerate(seen):
        given = (batch[:16] * 255 if batch.max() <= 1 else batch[:16]).permute(0, 2, 3, 1).numpy()
        assert np.abs(given - shown.images[16 * stage : 16 * stage + 16]).max() <= 1
    assert all(label.startswith("1: ") for label in shown.labels[:16])
    assert any("+" in label for label in shown.labels[16:])  # mixed of two


def test_what_cannot_be_drawn_costs_the_pictures_alone(
    trained: tuple[Workspace, training.Training, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, found, _ = trained
    monkeypatch.setattr(picturing, "plot_run", lambda *a, **k: 1 / 0)
    said: list[str] = []

    class Says(type(SILENT)):  # type: ignore[misc]
        def say(self, message: str) -> None:
            said.append(message)

    divided = sides.of(workspace, _snapshot(workspace))
    with track.follow(workspace, found.run) as following:
        assert picturing.pictures(workspace, divided, found, following, Says()) == []
        off = workspace.config.track.model_copy(update={"plots": False})
        monkeypatch.setattr(workspace, "config", workspace.config.model_copy(update={"track": off}))
        assert picturing.pictures(workspace, divided, found, following, Says()) == []
    assert said == [f"The pictures of {found.run} could not be drawn (ZeroDivisionError); the model is kept."]


def _snapshot(workspace: Workspace) -> Any:
    from everlearn.catalog import snapshots

    with workspace.catalog.read() as tx:
        return snapshots.latest(tx)


def test_pictures_of_people_are_named_so_that_they_stay_here(tmp_path: Path) -> None:
    from everlearn.evaluate.grids import Shown
    from everlearn.evaluate.training_plots import plot_run

    shown = Shown(np.zeros((2, 8, 8, 3), np.uint8), ["a", "b"])
    written = plot_run(tmp_path, [], first_batches=shown, validation=shown)
    assert [path.name.startswith(track.SHOWING) for path in written if path.suffix == ".png"] == [True, True]

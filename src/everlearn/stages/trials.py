"""One trial of a search: a recipe trained on the training side and scored on the validation side, as a run of its own.

The test side is never touched: what it is worth there is for `evaluate` to say, of the one recipe that was chosen.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn import faults, track
from everlearn.catalog import snapshots
from everlearn.errors import Busy, EverlearnError, StoreFault
from everlearn.learn.space import Space
from everlearn.stages import saved, sides
from everlearn.types import SILENT
from everlearn.workspace import CHECKPOINTS

if TYPE_CHECKING:
    from everlearn.learn.fit import Epoch, Fit, Watch
    from everlearn.learn.network.loading import Data
    from everlearn.learn.network.recipe import Recipe, Stage
    from everlearn.learn.network.staged import Trained
    from everlearn.learn.search import Search, Trial
    from everlearn.model.trainable import Network
    from everlearn.types import Progress
    from everlearn.workspace import Workspace

BEFORE = "before.pt"
"""In a search's folder: the weights that the searched stage begins with."""


class Bench:
    """Where recipes are tried in one process: one snapshot's training and validation side, whatever the recipe."""

    def __init__(self, workspace: Workspace, snapshot: int, progress: Progress = SILENT) -> None:
        self.workspace, self.snapshot, self.progress = workspace, snapshot, progress
        with workspace.catalog.read() as tx:
            found = snapshots.get(tx, snapshot)
        self.sides = sides.of(workspace, found, progress)
        self.classes = self.sides.classes
        targets, self.target = sides.targets_of(workspace, self.sides, self.classes, None)
        split = len(self.sides.train)
        self._targets = targets[:split], targets[split:]
        self._kept: dict[Path, tuple[Data, Data]] = {}

    def network(self, recipe: Recipe, seed: int | None = None) -> Network:
        from everlearn.model.trainable import build

        seed, root = recipe.seed if seed is None else seed, self.workspace.root
        return build(recipe.network, classes=max(1, len(self.classes)), size=recipe.size, seed=seed, base=root)

    def data(self, network: Network) -> tuple[Data, Data]:
        """Both sides, as this network takes them."""
        from everlearn.learn.network.loading import Data

        arrays = sides.arrays_of(self.workspace, network)
        if arrays.path not in self._kept:
            ids = [one.id for one in (*self.sides.train, *self.sides.validation)]
            with self.workspace.lock():  # others may be making the same
                rows = arrays.rows(ids, self.progress)
            split = len(self.sides.train)
            self._kept[arrays.path] = (
                Data(arrays.all(), self._targets[0], self.classes, rows[:split]),
                Data(arrays.all(), self._targets[1], self.classes, rows[split:]),
            )
        return self._kept[arrays.path]

    def train(
        self, recipe: Recipe, folder: Path, watch: Watch, weights: Mapping[str, Any] | None = None
    ) -> tuple[Network, list[Trained]]:
        """All stages, in this process. weights: those to begin with."""
        from everlearn.augment.training import augmenter
        from everlearn.learn.network import staged
        from everlearn.learn.network.runtime import runtime

        network = self.network(recipe)
        if weights is not None:
            network.load_state_dict(dict(weights))
        about = {"network": recipe.network, "classes": list(self.classes), "size": network.size,
                 "task": self.workspace.config.task, "recipe": recipe.name, "licence": network.licence,
                 **self.target}  # fmt: skip
        job = staged.Job(recipe, folder, about, warm=weights is not None)
        done = staged.train(
            job, network, *self.data(network), augmenter, run=runtime(recipe.precision), watch=watch,
            save_seconds=math.inf,
        )  # fmt: skip
        return network, done


def tried(
    bench: Bench, search: Search, trial: Trial, parent: str, *, keep: bool, until: float | None, watched: int | None
) -> None:
    """Carry a claimed trial out, and say in the study and in the catalog what came of it.

    until: the time (of `time.time`) after which it is given back. watched: the process without which nobody waits for
    it. What goes wrong with one trial stays its own; a disk that is full, or settings with which not even the untuned
    recipe can be trained, are raised.
    """
    feed, began = _Feed(trial, until, watched), time.monotonic()

    def about() -> dict[str, Any]:
        return {"epochs": feed.done, "seconds": time.monotonic() - began}

    try:
        with track.run(
            bench.workspace, "trial", config={"place": trial.number, "values": dict(trial.values)},
            snapshot=bench.snapshot, parent=parent, mirrored=False,
        ) as run:  # fmt: skip
            trial.begun(run.name)
            faults.point("tune.begun")
            try:
                done = _trained(bench, search, trial, parent, run, feed)
            finally:
                if not keep:
                    saved.drop(bench.workspace, run.name)
            run.status = "interrupted" if feed.late else "pruned" if feed.pruned else "done"
            value = math.nan if feed.late or feed.pruned else _value(done, _space(search).stage is not None)
            run.note(about() if math.isnan(value) else {**about(), "value": value})
    except (StoreFault, Busy, KeyboardInterrupt):
        trial.back()
        raise
    except Exception as error:
        if isinstance(error, EverlearnError) and trial.number == 0:
            trial.back()
            raise
        _make_room()
        trial.failed(" ".join(str(error).split())[:300] or type(error).__name__, **about())
        return
    faults.point("tune.trained")
    if feed.late:
        trial.back()
    elif feed.pruned:
        trial.pruned(**about())
    else:
        trial.done(value, **about())


def _trained(bench: Bench, search: Search, trial: Trial, parent: str, run: track.Run, feed: _Feed) -> list[Trained]:
    """The stages that were trained to their end."""
    from everlearn.learn.network import checkpoint

    recipe, folder = _recipe(search, trial), bench.workspace.root / CHECKPOINTS
    before = folder / parent / BEFORE
    weights = checkpoint.load(before)["weights"] if before.exists() else None
    feed.follow, feed.epochs = track.Follow(run), sum(one.epochs for one in recipe.stages)
    with suppress(_Stopped):
        return bench.train(recipe, folder / run.name, feed, weights)[1]
    return []


def _recipe(search: Search, trial: Trial) -> Recipe:
    """Place 0 is the recipe as it is. A stage that is searched alone is trained alone."""
    space = _space(search)
    recipe = space.applied(trial.values) if trial.number else space.recipe
    if space.stage is None:
        return recipe
    alone = tuple(one for one in recipe.stages if one.name == space.stage)
    return recipe.model_copy(update={"stages": alone})


def _space(search: Search) -> Space:
    assert isinstance(search.space, Space)
    return search.space


def _value(done: list[Trained], alone: bool) -> float:
    """Accuracy on the validation side, of numbers R²: of the weights kept; of a stage alone those of its best epoch."""
    for one in done:
        if one.stopped == "diverged":
            raise _NoScore(f"Stage {one.name} diverged: its loss was no number any more.")
    value = done[-1].val_accuracy if alone else done[-1].kept_accuracy
    if not math.isfinite(value):
        raise _NoScore("It diverged: its loss on the validation side is no number.")
    return value


def _make_room() -> None:
    """After a GPU out of memory: the next trial may need less."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _NoScore(Exception):
    """A training that came to nothing, as one with too high a learning rate does; the search goes on."""


class _Stopped(Exception):
    """No further stage is wanted."""


class _Feed:
    """A `learn.fit.Watch`: tells the study each epoch's score, and stops what is not worth going on with."""

    def __init__(self, trial: Trial, until: float | None, watched: int | None) -> None:
        self.follow: Watch | None = None
        self.epochs, self.done = 1, 0
        self.pruned = self.late = False
        self._trial, self._until, self._watched = trial, until, watched

    def begin(self, stage: Stage, facts: dict[str, Any]) -> None:
        if self.pruned or self.late:
            raise _Stopped
        if self.follow:
            self.follow.begin(stage, facts)

    def step(self, epoch: int, step: int, steps: int, loss: float, learning_rate: float) -> None:
        self._trial.alive()
        if self._watched is not None and os.getppid() != self._watched:
            raise KeyboardInterrupt  # whoever asked for it is gone

    def epoch(self, found: Epoch) -> bool:
        self.done += 1
        if self.follow:
            self.follow.epoch(found)
        last = self.done >= self.epochs
        self.pruned = self._trial.report(self.done / self.epochs, found.val_accuracy) and not last
        self.late = not last and not self.pruned and self._until is not None and time.time() > self._until
        faults.point("tune.epoch")
        return self.pruned or self.late

    def end(self, found: Fit) -> None:
        pass

    def say(self, text: str) -> None:
        pass

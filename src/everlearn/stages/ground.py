"""Experiments that train several networks on the same images: the members of an ensemble, a student beside the same
without its teacher. Each training is a run of its own under the experiment's; what was killed goes on where it stood
when the same is asked for again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn import track
from everlearn.catalog import runs, samples
from everlearn.dataset.build import build as build_snapshot
from everlearn.stages import saved, sides, training
from everlearn.workspace import CHECKPOINTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.learn.network.continual.method import Method
    from everlearn.learn.network.loading import Data
    from everlearn.learn.network.recipe import Recipe
    from everlearn.learn.network.staged import Augmenters
    from everlearn.model.network_bundle import Trained as Answering
    from everlearn.model.trainable import Network
    from everlearn.stages.sides import Sides
    from everlearn.stages.training import Training
    from everlearn.types import Member, Progress, Snapshot
    from everlearn.workspace import Workspace

MEMBER = "member"
"""Kind of a run that is a part of an experiment."""


@dataclass(frozen=True, eq=False)
class Ground:
    """What all networks of an experiment are trained on and chosen by."""

    workspace: Workspace
    snapshot: Snapshot
    divided: Sides
    progress: Progress

    @classmethod
    def of(cls, workspace: Workspace, progress: Progress) -> Ground:
        """As it is labelled now. Raises TooFew, BadInput, NotInstalled."""
        training.check_parts()
        snapshot = build_snapshot(workspace)
        return cls(workspace, snapshot, sides.of(workspace, snapshot, progress), progress)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.divided.classes

    @cached_property
    def groups(self) -> NDArray[Any]:
        """(N,) of the training side's images."""
        return self.groups_of(self.divided.train)

    def groups_of(self, members: tuple[Member, ...]) -> NDArray[Any]:
        ids = [one.id for one in members]
        with self.workspace.catalog.read() as tx:
            known = samples.some(tx, ids)
        return np.array([known[id].group_key for id in ids], dtype=object)

    @cached_property
    def targets(self) -> tuple[NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Of both sides, and what a stage's file says of them."""
        both, about = sides.targets_of(self.workspace, self.divided, self.classes, None)
        split = len(self.divided.train)
        return both[:split], both[split:], about

    def network(self, recipe: Recipe) -> Network:
        from everlearn.model.trainable import build

        columns, base = max(1, len(self.classes)), self.workspace.root
        return build(recipe.network, classes=columns, size=recipe.size, seed=recipe.seed, base=base)

    def inputs(self, network: Network) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
        """All images as this network takes them, and where the training and the validation side stand among them."""
        arrays = sides.arrays_of(self.workspace, network)
        ids = [one.id for one in (*self.divided.train, *self.divided.validation)]
        rows, split = arrays.rows(ids, self.progress), len(self.divided.train)
        return arrays.all(), rows[:split], rows[split:]

    def data(self, network: Network) -> tuple[Data, Data]:
        """Both sides."""
        from everlearn.learn.network.loading import Data

        inputs, train, validation = self.inputs(network)
        learned, chosen, _ = self.targets
        return Data(inputs, learned, self.classes, train), Data(inputs, chosen, self.classes, validation)

    def train(
        self, run: track.Run, recipe: Recipe, *, only: NDArray[np.int64] | None = None, method: Method | None = None,
        changed: Callable[[Data], Data] | None = None, augmenters: Augmenters | None = None,
    ) -> Training:  # fmt: skip
        """Train a network into a run's folder. only: these rows of the training side, any of them several times;
        changed: puts something else in the place of the training data; augmenters: of the one that a stage asks for."""
        from everlearn.augment.training import augmenter
        from everlearn.learn.network import staged
        from everlearn.learn.network.runtime import runtime

        network, here = self.network(recipe), runtime(recipe.precision)
        folder = self.workspace.root / CHECKPOINTS / run.name
        about = {"network": recipe.network, "classes": list(self.classes), "size": network.size,
                 "task": self.workspace.config.task, "recipe": recipe.name, "licence": network.licence,
                 **self.targets[2]}  # fmt: skip
        data, validation = self.data(network)
        data = data if only is None else data.some(only)
        data = data if changed is None else changed(data)
        done = staged.train(
            staged.Job(recipe, folder, about), network, data, validation, augmenters or augmenter, run=here,
            method=method, watch=track.Aloud(run, self.progress), force=True,
        )  # fmt: skip
        kept = max((one.number for one in done if one.kept), default=0)
        return training.Training(run.name, folder, recipe, tuple(done), kept)


@contextmanager
def experiment(
    workspace: Workspace, kind: str, config: Mapping[str, Any], snapshot: Snapshot, progress: Progress
) -> Iterator[track.Run]:
    """A run of this kind; one that was begun with the same on the same data and not finished goes on."""
    config = {**config, "data": snapshot.digest}
    with workspace.catalog.read() as tx:
        same = [one.name for one in runs.every(tx, kind=kind) if one.status != "done" and _same(one.config, config)]
    if same:
        progress.say(f"Going on with {same[-1]}, which was not finished.")
    resume = same[-1] if same else None
    with track.run(workspace, kind, config=config, snapshot=snapshot.number, resume=resume, say=progress.say) as run:
        yield run


def part(
    workspace: Workspace, parent: track.Run, about: Mapping[str, Any], learn: Callable[[track.Run], Training]
) -> str:
    """One training of an experiment, as a run under its own; or, where it was done before, the run that it was. Returns
    the run's name, by which `saved.stage_file` finds its best weights."""
    with workspace.catalog.read() as tx:
        there = [one for one in runs.every(tx, kind=MEMBER, parent=parent.name) if _same(one.config, about)]
        snapshot = runs.get(tx, parent.name).snapshot
    for one in there:
        if one.status == "done":
            return one.name
    resume = there[-1].name if there else None
    with track.run(
        workspace, MEMBER, config=about, snapshot=snapshot, parent=parent.name, resume=resume, mirrored=False
    ) as run:
        run.note(training.summary(learn(run)))
        return run.name


def answering(workspace: Workspace, stage: str) -> Answering:
    """A saved stage, ready to answer, its scores as they are."""
    from everlearn.learn.network import checkpoint
    from everlearn.model.network_bundle import Scale, Trained
    from everlearn.model.trainable import from_stage_file

    found = checkpoint.load(saved.stage_file(workspace, stage))
    network, classes = from_stage_file(found, base=workspace.root), tuple(map(str, found["classes"]))
    if target := found.get("target"):
        return Trained(network, (), Scale(target["mean"], target["deviation"], target["low"], target["high"]))
    several = dict(found.get("stage_config") or {}).get("loss", {}).get("name") == "bce"
    return Trained(network, classes, several=several)


def _same(there: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether a run was begun with this; what was noted of it since does not count."""
    return all(name in there and there[name] == value for name, value in asked.items())

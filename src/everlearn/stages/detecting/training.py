"""`train` where the task is `detect`: a detector trained on all that is labelled, as a version of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from everlearn.catalog import snapshots, turns, versions
from everlearn.dataset.build import build
from everlearn.errors import BadInput
from everlearn.stages import teach
from everlearn.stages.detecting import learning, sides, taught
from everlearn.stages.detecting.learning import Base, Came, Lesson

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.model.detecting.training import DetectionWatch
    from everlearn.stages.detecting.sides import Sides
    from everlearn.types import Progress
    from everlearn.workspace import Workspace

QUICK = 1
"""Epochs of a test run."""


@dataclass(frozen=True)
class Trained:
    """A training and the version that it became."""

    version: Version
    came: Came

    def to_json(self) -> dict[str, Any]:
        result = self.came.result
        best = result.history[result.best_epoch - 1] if result.best_epoch else None
        stage = {
            "name": "detector", "val_loss": sum(best.val_losses.values()) if best else None, "val_accuracy": None,
            "map50": result.map50, "map50_95": result.map50_95, "precision": result.precision,
            "recall": result.recall, "seconds": result.seconds, "best_epoch": result.best_epoch,
            "epochs": len(result.history), "stopped": result.stopped,
        }  # fmt: skip
        return {"model": self.version.name, "run": self.came.run, "folder": str(self.came.folder), "stages": [stage]}


def train(
    workspace: Workspace, progress: Progress, *, begin: str | None = None, changes: Mapping[str, Any] | None = None,
    watch: DetectionWatch | None = None, anew: bool = False,
) -> Trained:  # fmt: skip
    """Train on all that is labelled, from nothing or from a version's weights, and register the best. changes: of the
    job's fields (epochs, size, …). A training of the same that was killed goes on; one that was finished is done again
    only `anew`. Raises BadInput for a version that cannot be gone on from, NotInstalled, TooFew."""
    began = time.monotonic()
    learning.check(workspace, changes or {})
    snapshot = build(workspace)
    divided = sides.of(workspace, snapshot)
    base = None if begin is None else _begin(workspace, begin, divided)
    given = Lesson(base, divided.train, (), divided.validation, divided.classes)
    came = learning.trained(workspace, given, snapshot, progress, watch=watch, changes=changes, anew=anew)
    found = taught.of_training(workspace, came, divided, learning.moved(base, divided), progress)
    with workspace.catalog.write() as tx:
        snapshots.mark_learned(tx, snapshot.number)
    entered = _entered(workspace, came.run)
    if entered is None:
        report = teach.reported(workspace.config.learn.learner, found, began, snapshot)
        entered = teach.register(workspace, found, snapshot, report, f"trained: {came.run}", changes=changes)
    return Trained(entered, came)


FIELDS = ("size", "epochs", "batch", "patience", "seed", "optimizer", "lr0", "distil", "device", "workers")
"""Of a `DetectionJob`, what a person may set by name; other names are Ultralytics' own."""


def assigned(change: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` as changes of a job. Raises BadConfig."""
    values = learning.options(change)
    own = {name: values.pop(name) for name in FIELDS if name in values}
    return {**own, "settings": values} if values else own


def _begin(workspace: Workspace, name: str, divided: Sides) -> Base:
    with workspace.catalog.read() as tx:
        version = versions.get(tx, name)
        knowing = turns.setting_of(tx, turns.FORGETTING, [])
    if version.retired or version.name in knowing or not learning.has_weights(workspace, version):
        raise BadInput(f"{version.name} has no weights to go on from.", "Name a version that was trained here.")
    if seen := learning.held_out(workspace, version, divided):
        raise BadInput(
            f"{version.name} was trained on {seen} images that are held out now: what it would be chosen or tested by.",
            "Train without --from.",
        )
    return Base(version, {})


def _entered(workspace: Workspace, run: str) -> Version | None:
    """The version that came of a run, where one did before this was killed."""
    with workspace.catalog.read() as tx:
        every = [one for one in versions.every(tx) if not one.retired]
    return next((one for one in reversed(every) if (one.metrics or {}).get("run") == run), None)

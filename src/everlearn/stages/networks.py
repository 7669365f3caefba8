"""A network trained in stages as the workspace's learner (`learn.learner: staged:RECIPE`).

The first time the recipe is trained from nothing. What comes in later is learned by continuing from the weights kept,
with all images, so that the old are not forgotten. Where something that the network knows is gone or changed, it begins
from nothing again: a network cannot unlearn.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from everlearn.errors import Missing, TooFew
from everlearn.learn.live import Moved
from everlearn.workspace import read_json, write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from everlearn.learn.network.recipe import Recipe
    from everlearn.stages.learners import Taught
    from everlearn.stages.sides import Sides
    from everlearn.types import Progress, SampleId, Snapshot
    from everlearn.workspace import Workspace

DEFAULT = "five-stage"
STATE = "staged.json"


@dataclass
class StagedLearner:
    """What the network has learned. held: id to side and label; run: whose weights are kept; fresh: whether they were
    trained from nothing on just these, and so can be trained again to the same bits on this machine's CPU."""

    workspace: Workspace
    path: Path
    run: str | None = None
    digest: str | None = None
    fresh: bool = False
    held: dict[SampleId, str] = field(default_factory=dict)

    @classmethod
    def open(cls, workspace: Workspace) -> StagedLearner:
        path = workspace.private(STATE)
        found = cls(workspace, path)
        if path.exists():
            values = read_json(path)
            found.run, found.digest = values.get("run"), values.get("digest")
            found.fresh, found.held = bool(values.get("fresh")), dict(values.get("held", {}))
        return found

    @property
    def recipe(self) -> Recipe:
        """Raises Missing, BadConfig."""
        from everlearn.learn.network import recipe as recipes

        name = self.workspace.config.learn.learner.partition(":")[2] or DEFAULT
        path = self.workspace.root / name
        return recipes.load(path if path.suffix in (".yaml", ".yml") else name)

    def bring_to(self, snapshot: Snapshot, progress: Progress) -> Taught:
        """Train what of the snapshot is new, and keep it. Raises TooFew as `training.train`."""
        from everlearn.learn.fit import Says
        from everlearn.stages import saved, sides, trained, training

        divided = sides.of(self.workspace, snapshot, progress)
        wanted = _held(divided)
        gone = sum(wanted.get(id) != said for id, said in self.held.items())
        added = sum(id not in self.held for id in wanted)
        if gone:
            progress.say(f"{gone} images that the network knows are gone or changed: it begins from nothing.")
        stage, name = (None, None) if gone or self.run is None else self._kept()
        recipe = self.recipe if stage is None else saved.continued(stage, "fine_tune")
        _, result = training.train(
            self.workspace, recipe, progress, begin=stage, begun_from=name, register=False, watch=Says(progress.say)
        )
        found = trained.taught(self.workspace, divided, result, progress, Moved(added, gone))
        before = self.run
        if result.kept or stage is None:  # else nothing was better than the weights that it began with, and they stay
            self.run = result.run
        self.digest, self.held, self.fresh = found.model_digest, wanted, stage is None
        self._save()
        if before is not None and gone:  # weights that knew what is gone
            saved.drop(self.workspace, before)
        return found

    def again(self, progress: Progress) -> str:
        """The digest of weights trained again on what is held now."""
        from everlearn.catalog import snapshots
        from everlearn.stages import saved, sides, trained, training

        with self.workspace.catalog.read() as tx:
            snapshot = snapshots.latest(tx)
        if snapshot is None:
            raise TooFew("Nothing is left to train on.", "Collect and label more.")
        divided = sides.of(self.workspace, snapshot)
        _, result = training.train(self.workspace, self.recipe, progress, register=False, kind="verify", anew=True)
        found = trained.taught(self.workspace, divided, result, progress, Moved(0, 0)).model_digest
        saved.drop(self.workspace, result.run)
        return str(found)

    def knows(self, snapshot: Snapshot) -> bool:
        """Whether it knows just what a snapshot holds."""
        from everlearn.stages import sides

        return self.held == _held(sides.of(self.workspace, snapshot))

    def _kept(self) -> tuple[Any, str | None]:
        from everlearn.stages import saved

        try:
            return saved.begin_with(self.workspace, str(self.run))
        except Missing:  # its files were removed
            return None, None

    def _save(self) -> None:
        values = {"run": self.run, "digest": self.digest, "fresh": self.fresh, "held": self.held}
        write_whole(self.path, json.dumps(values, ensure_ascii=False).encode())


def _held(divided: Sides) -> dict[SampleId, str]:
    """Labels as digests: the state need not name anybody."""
    return {
        one.id: f"{side} {hashlib.sha256(one.label.encode()).hexdigest()[:16]}"
        for side, members in (("train", divided.train), ("validation", divided.validation)) for one in members
    }  # fmt: skip

"""Training in stages from Python: `everlearn.StagedTrainer`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.errors import BadInput
from everlearn.learn.network import recipe as recipes
from everlearn.types import SILENT
from everlearn.workspace import Workspace

if TYPE_CHECKING:
    from everlearn.learn.network.recipe import ContinueAs, Recipe
    from everlearn.stages.training import Training
    from everlearn.types import Progress


class StagedTrainer:
    """Trains a network stage by stage on what a workspace has labelled; every stage is saved.

        trainer = StagedTrainer("five-stage", workspace="signs")
        result = trainer.train()
        result.stages[-1].val_accuracy
        trainer.continue_training("best_model_stage_5", "fine_tune")

    config: a recipe (`everlearn.learn.network.recipe.Recipe`), its shipped name, a YAML file, or a dictionary.
    workspace: the workspace or its folder; None: the nearest at or above the current folder. images: a folder of images
    in folders named after their classes, collected first; a workspace that is not there yet is made.

    Raises BadConfig for a recipe that cannot be, Missing without a workspace, and as `train` of the command line.
    """

    def __init__(
        self,
        config: Recipe | str | Path | Mapping[str, Any] = "five-stage",
        *,
        workspace: Workspace | str | Path | None = None,
        images: str | Path | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.config = recipes.load(config)
        self.progress = progress
        self.workspace = _opened(workspace, images, progress)
        self.version: str | None = None
        """The version that came of the newest training here."""

    def train(self, *, resume: bool = False, anew: bool = False) -> Training:
        """Every stage of the recipe. A run like it that was killed goes on; resume: insist on one; anew: begin
        another."""
        return self._train(self.config, resume=resume, anew=anew)

    def quick(self, epochs_per_stage: int = 1) -> Training:
        """A test run: so few epochs in each stage, and every stage trained whatever it gains."""
        if epochs_per_stage < 1:
            raise BadInput(f"epochs_per_stage is {epochs_per_stage}.", "Give 1 or more.")
        return self._train(self.config.quick(epochs_per_stage))

    def list_models(self) -> list[dict[str, Any]]:
        """Every stage that was saved, newest run first: model, stage, name, val_loss, val_accuracy, seconds, path."""
        from everlearn.stages.saved import list_stages

        return list_stages(self.workspace)

    def continue_training(self, model: str, type: ContinueAs = "fine_tune") -> Training:
        """Train a saved stage further. model: as `list_models` names it, such as `best_model_stage_5`."""
        from everlearn.stages import saved

        if type not in ("fine_tune", "regularization", "exploration"):
            raise BadInput(f"type is {type!r}.", "Choose fine_tune, regularization or exploration.")
        stage, name = saved.begin_with(self.workspace, model)
        return self._train(saved.continued(stage, type), begin=stage, begun_from=name)

    def _train(self, recipe: Recipe, **how: Any) -> Training:
        from everlearn.learn.fit import Says
        from everlearn.stages import training

        with self.workspace.lock():
            version, found = training.train(self.workspace, recipe, self.progress, watch=Says(self.progress.say), **how)
        self.version = version.name if version else None
        return found


def _opened(workspace: Workspace | str | Path | None, images: str | Path | None, progress: Progress) -> Workspace:
    from everlearn.config import FILE_NAME, Config

    if isinstance(workspace, Workspace) or workspace is None:
        found = workspace or Workspace.open()
    elif images is not None and not (Path(workspace) / FILE_NAME).exists():
        found = Workspace.create(Path(workspace), Config())
    else:
        found = Workspace.open(workspace)
    if images is not None:
        from everlearn.stages import data, validating

        with found.lock():
            data.collect(found, [str(images)], progress, labels_from="folder")
            validating.validate(found, progress)
    return found

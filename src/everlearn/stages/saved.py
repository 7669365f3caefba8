"""Stages that were saved: found by any of their names, listed, and taken to begin another training with."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.catalog import runs, versions
from everlearn.errors import Corrupt, EverlearnError, Missing
from everlearn.learn.network import recipe as recipes
from everlearn.workspace import CHECKPOINTS

if TYPE_CHECKING:
    from everlearn.catalog.runs import Run
    from everlearn.learn.network.recipe import ContinueAs, Recipe
    from everlearn.workspace import Workspace


def stage_file(workspace: Workspace, name: str) -> Path:
    """The stage file that a name means: a path, RUN/stage_3_regularization, RUN for its best, best_model for that of
    the newest run, or best_model_stage_3 of the newest run that has it. Raises Missing."""
    path = Path(name).expanduser()
    if path.suffix == ".pt" and path.is_file():
        return path
    wanted = name.removesuffix(".pt")
    folder, stem = (wanted.rpartition("/")[0], wanted.rpartition("/")[2]) if "/" in wanted else (None, wanted)
    for run in trained_runs(workspace):
        if folder not in (None, run.name):
            continue
        found = folder_of(workspace, run.name) / f"{stem}.pt"
        if found.is_file() and found.parent.parent == workspace.root / CHECKPOINTS:
            return found
        if stem in (run.name, "best_model") and (best := run.result.get("best_file")):
            return folder_of(workspace, run.name) / str(best)
    raise Missing(f"There is no trained stage {name}.", "See: everlearn models stages")


def full_name(workspace: Workspace, name: str) -> str:
    """RUN/STAGE of the stage that a name means. Raises Missing."""
    path = stage_file(workspace, name)
    return f"{path.parent.name}/{path.stem}"


def list_stages(workspace: Workspace) -> list[dict[str, Any]]:
    """Every stage that was saved, newest run first: run, stage, name, val_loss, val_accuracy, seconds, file."""
    found = []
    for run in trained_runs(workspace):
        for one in run.result.get("stages", []):
            for kind, best in (("file", False), ("best_file", True)):
                path = folder_of(workspace, run.name) / str(one.get(kind))
                if path.is_file():
                    loss, accuracy = ("val_loss", "val_accuracy") if best else ("last_loss", "last_accuracy")
                    found.append({
                        "model": f"{run.name}/{path.stem}", "run": run.name, "stage": one["number"],
                        "name": one["name"], "best": best,
                        "kept": best and one["number"] == run.result.get("kept"),
                        "val_loss": one[loss], "val_accuracy": one[accuracy],
                        "seconds": one["seconds"], "version": run.version if best and one["kept"] else None,
                        "path": str(path.relative_to(workspace.root)),
                    })  # fmt: skip
    return found


def begin_with(workspace: Workspace, model: str) -> tuple[dict[str, Any], str]:
    """A stage to begin with, as it was read, and its name: a stage's file by any of its names, or a version that was
    trained. Raises Missing, Corrupt."""
    from everlearn.learn.network import checkpoint

    try:
        path = stage_file(workspace, model)
    except Missing:
        with workspace.catalog.read() as tx:
            trained = {one.version: one for one in runs.every(tx) if one.version and one.result.get("best_file")}
            try:
                version = versions.get(tx, model).name
            except EverlearnError:
                version = ""
        if version not in trained:
            raise
        path = folder_of(workspace, trained[version].name) / str(trained[version].result["best_file"])
    stage = checkpoint.load(path)
    return stage, f"{path.parent.name}/{path.stem}"


def like(recipe: Recipe, stage: Mapping[str, Any]) -> Recipe:
    """A recipe for the network of a saved stage."""
    try:
        return recipe.model_copy(update={"network": str(stage["network"]), "size": int(stage["size"])})
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"The stage lacks what it was trained with ({error!r}).", "Name a stage's file.") from None


def continued(stage: Mapping[str, Any], kind: ContinueAs) -> Recipe:
    """The recipe that trains a saved stage further: fine_tune, regularization or exploration. stage: as it was read.
    Raises Corrupt where it is none."""
    found = like(recipes.load(kind), stage)
    loss = str((dict(stage["stage_config"]).get("loss") or {}).get("name", "cross_entropy"))
    if loss in ("cross_entropy", "focal"):
        return found
    stages = tuple(one.model_copy(update={"loss": one.loss.model_copy(update={"name": loss})}) for one in found.stages)
    return found.model_copy(update={"stages": stages})


def folder_of(workspace: Workspace, run: str) -> Path:
    return workspace.root / CHECKPOINTS / run


def trained_runs(workspace: Workspace) -> list[Run]:
    """Those that train, newest first."""
    with workspace.catalog.read() as tx:
        return [one for one in reversed(list(runs.every(tx))) if one.result.get("stages")]


def drop(workspace: Workspace, run: str) -> None:
    """Remove a run's files."""
    shutil.rmtree(folder_of(workspace, run), ignore_errors=True)

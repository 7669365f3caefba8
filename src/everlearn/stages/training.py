"""Training a network in a workspace: from what is labelled to stages on disk and a version in the registry."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn import faults, track
from everlearn.catalog import runs, versions
from everlearn.dataset.build import build as build_snapshot
from everlearn.errors import BadConfig, BadInput, Corrupt, Missing
from everlearn.learn.network import recipe as recipes
from everlearn.monitor.system import Sampler
from everlearn.stages import jobs, picturing, sides
from everlearn.stages.jobs import JOB, START
from everlearn.stages.saved import folder_of
from everlearn.stages.sides import Sides

if TYPE_CHECKING:
    from everlearn.catalog.runs import Run
    from everlearn.catalog.versions import Version
    from everlearn.learn.fit import Watch
    from everlearn.learn.network.recipe import Recipe
    from everlearn.learn.network.staged import Trained
    from everlearn.model.trainable import Network
    from everlearn.types import Progress, Snapshot
    from everlearn.workspace import Workspace


@dataclass(frozen=True)
class Training:
    """What a run of `train` came to. kept: the stage whose weights are kept, 0 where those it began with are."""

    run: str
    folder: Path
    recipe: Recipe
    stages: tuple[Trained, ...]
    kept: int

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in self.stages)

    @property
    def best_file(self) -> Path | None:
        """The stage file with the weights that are kept."""
        return self.folder / self.stages[self.kept - 1].best_file if self.kept else None

    def to_json(self) -> dict[str, Any]:
        return {"run": self.run, "recipe": self.recipe.name, "kept": self.kept, "seconds": self.seconds,
                "stages": [one.to_json() for one in self.stages]}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Part:
    """What a continual method changes in a training. new: what is learned of the sides, None for all; method: as
    `learn.network.continual.opened` takes it; enter: registers what came of it."""

    enter: Callable[[Workspace, Snapshot, Sides, Training, Progress], Version]
    new: Sides | None = None
    method: Mapping[str, Any] | None = None


def train(
    workspace: Workspace, recipe: Recipe, progress: Progress, *, watch: Watch | None = None,
    begin: Mapping[str, Any] | None = None, begun_from: str | None = None, resume: bool = False, anew: bool = False,
    force: bool = False, kind: str = "train", register: bool = True, part: Part | None = None,
) -> tuple[Version | None, Training]:  # fmt: skip
    """Train a network by a recipe on what is labelled, and register the best weights as a version.

    begin: what was read from a stage file, to begin with its network; begun_from: its name. A run like this one that
    was killed goes on; resume: insist on one; anew: begin another; force: go on although settings or data have changed.
    Of the processes that a launcher started the first does all this; the others only train, and get no version.
    Raises BadInput, TooFew, and Missing where there is nothing to resume.
    """
    check_parts()
    from everlearn.learn.network.launch import follows, leading

    if follows():
        return None, _came_of(workspace, *jobs.followed(workspace, force))
    with leading():
        return _train(
            workspace, recipe, progress, watch, begin, begun_from, resume=resume, anew=anew, force=force, kind=kind,
            register=register, part=part,
        )  # fmt: skip


def _train(
    workspace: Workspace, recipe: Recipe, progress: Progress, watch: Watch | None, begin: Mapping[str, Any] | None,
    begun_from: str | None, *, resume: bool, anew: bool, force: bool, kind: str, register: bool, part: Part | None,
) -> tuple[Version | None, Training]:  # fmt: skip
    snapshot = build_snapshot(workspace)
    divided = sides.of(workspace, snapshot, progress)
    classes = _classes(divided, begin)
    network = _fitting(workspace, recipe, divided, classes)
    learned = part.new if part and part.new else divided
    fingerprint: dict[str, Any] = {
        "recipe": json.loads(recipe.model_dump_json()), "classes": list(classes), "from": begun_from,
        "images": {"train": len(learned.train), "validation": len(learned.validation), "digest": learned.digest()},
    }  # fmt: skip
    if part and part.method:
        fingerprint["method"] = dict(part.method)
    goes_on = None if anew else _to_go_on(workspace, kind, fingerprint, resume)
    if goes_on:
        _check_same(workspace, goes_on, fingerprint, force)
    if goes_on:
        progress.say(f"Going on with {goes_on}, which was not finished.")
    config = {**fingerprint["recipe"], "from": begun_from}
    if "method" in fingerprint:
        config["method"] = fingerprint["method"]["name"]
    with track.run(
        workspace, kind, config=config, snapshot=snapshot.number, resume=goes_on, say=progress.say
    ) as following:
        folder = folder_of(workspace, following.name)
        # where it goes on as well: the cache of images that rows.npz refers to may have been made anew
        jobs.write(workspace, folder, network, recipe, learned, classes, begin, begun_from, progress, fingerprint)
        told = track.Follow(following)
        with Sampler() as sampler:
            done = jobs.carried_out(workspace, folder, recipe, (told, watch), progress, force)
            faults.point("train.trained")
            check_something_came(folder, done, begin)
        result = _came_of(workspace, following.name, recipe, done)
        following.note({**summary(result), "system": sampler.use().to_json()}, snapshot=snapshot.number)
        version = None
        if register:
            from everlearn.stages.trained import enter

            version = _entered(workspace, following.name)  # by this run, before it was killed
            version = version or (part.enter if part else enter)(workspace, snapshot, divided, result, progress)
            following.note({}, version=version.name)
        if kind == "train":
            picturing.pictures(workspace, learned, result, following, progress)
    jobs.tidy(folder)
    faults.point("train.done")
    return version, result


def _entered(workspace: Workspace, run: str) -> Version | None:
    """The version that came of a run, where one did."""
    with workspace.catalog.read() as tx:
        found = [one for one in versions.every(tx) if not one.retired and (one.metrics or {}).get("run") == run]
    return found[-1] if found else None


def _came_of(workspace: Workspace, run: str, recipe: Recipe, done: Sequence[Trained]) -> Training:
    kept = max((one.number for one in done if one.kept), default=0)
    return Training(run, folder_of(workspace, run), recipe, tuple(done), kept)


def _fitting(workspace: Workspace, recipe: Recipe, divided: Sides, classes: Sequence[str]) -> Network:
    """The recipe's network, before any run is begun that could not be trained. Raises BadConfig, BadInput, Missing."""
    from everlearn.learn.network.losses import NUMBERS
    from everlearn.model.trainable import build

    for stage in recipe.stages:
        if divided.numbers != (stage.loss.name in NUMBERS):
            kind, wanted = ("numbers", NUMBERS) if divided.numbers else ("classes", ("cross_entropy", "focal", "bce"))
            remedy = f"Set loss.name to {', '.join(wanted)}" + (", or: --recipe regression" if divided.numbers else ".")
            raise BadInput(f"Stage {stage.name} has loss {stage.loss.name}, and the labels are {kind}.", remedy)
    return build(recipe.network, classes=max(1, len(classes)), size=recipe.size, base=workspace.root)


def _classes(divided: Sides, begin: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Those that a network knows already stay where they are; new ones come after them."""
    if begin is None:
        return divided.classes
    known = tuple(str(name) for name in begin.get("classes", ()))
    if bool(known) == divided.numbers:
        raise BadInput("That stage was trained for another task.", "Name a stage of this task.")
    return (*known, *(name for name in divided.classes if name not in known))


def _unfinished(workspace: Workspace, kind: str) -> list[Run]:
    """Runs that can go on, newest first."""
    with workspace.catalog.read() as tx:
        found = [one for one in runs.every(tx, kind=kind) if one.status != "done" and one.parent is None]
    return [one for one in reversed(found) if (folder_of(workspace, one.name) / JOB).is_file()]


def _to_go_on(workspace: Workspace, kind: str, fingerprint: Mapping[str, Any], resume: bool) -> str | None:
    """The run to go on with: the newest that was begun with the same; with resume the newest at all. Also the newest of
    all runs where it is one of this recipe and not finished: its work is not left behind without a word."""
    from everlearn.learn.network.staged import LAST

    unfinished = _unfinished(workspace, kind)
    if resume:
        return _newest_unfinished(workspace, kind).name
    begun = {one.name: _fingerprint(workspace, one.name) for one in unfinished}
    for name, before in begun.items():
        if before == fingerprint:
            return name
    with workspace.catalog.read() as tx:
        newest = [one.name for one in runs.every(tx, kind=kind) if one.parent is None][-1:]
    for name in newest:
        same = name in begun and all(begun[name][key] == fingerprint[key] for key in ("classes", "from"))
        if same and begun[name]["recipe"]["name"] == fingerprint["recipe"]["name"]:
            return name if (folder_of(workspace, name) / LAST).exists() else None
    return None


def to_resume(
    workspace: Workspace, kind: str = "train"
) -> tuple[Recipe, dict[str, Any] | None, str | None, str | None]:  # fmt: skip
    """Of the newest run that was not finished: its recipe, the stage that it began with, that one's name, and the
    continual method's. Raises Missing where there is none."""
    run = _newest_unfinished(workspace, kind).name
    job = jobs.read(folder_of(workspace, run))
    return recipes.load(job["recipe"]), _begun(workspace, run), job["from"], (job.get("method") or {}).get("name")


def _newest_unfinished(workspace: Workspace, kind: str) -> Run:
    unfinished = _unfinished(workspace, kind)
    if not unfinished:
        raise Missing("There is no training to go on with.", "Begin one: everlearn train")
    return unfinished[0]


def _fingerprint(workspace: Workspace, run: str) -> dict[str, Any]:
    """What a run was begun with; an empty one where that cannot be read, which no other is like."""
    try:
        found = jobs.read(folder_of(workspace, run))["fingerprint"]
    except Corrupt:
        return {"recipe": {"name": None}, "classes": None, "from": None}
    return dict(found)


def check_something_came(folder: Path, done: Sequence[Trained], begin: Mapping[str, Any] | None) -> None:
    """Raises BadConfig where no weights are worth keeping: every loss became no number, and none were there before."""
    if begin is None and not any(one.kept for one in done):
        jobs.tidy(folder)  # there is nothing to go on with
        told = ", ".join(f"{one.name} ({one.stopped})" for one in done)
        raise BadConfig(
            f"No stage came to a network: {told}.", "Lower stages.*.optimizer.learning_rate, or set stages.*.clip=1."
        )


def _check_same(workspace: Workspace, run: str, now: Mapping[str, Any], force: bool) -> None:
    """Raises BadInput where a run would not go on as it was begun."""
    from everlearn.learn.network.checkpoint import differences

    before = jobs.read(folder_of(workspace, run))["fingerprint"]
    changed = differences(before, dict(now))
    fixed = [line for line in changed if line.startswith(("classes", "recipe.network", "recipe.size", "from"))]
    if changed and (fixed or not force):
        remedy = "Begin another: everlearn train --anew" + ("" if fixed else "; or go on all the same: --force")
        raise BadInput(f"{run} was begun with something else: {'; '.join(changed[:10])}.", remedy)


def _begun(workspace: Workspace, run: str) -> dict[str, Any] | None:
    from everlearn.learn.network import checkpoint

    path = folder_of(workspace, run) / START
    return checkpoint.load(path) if path.exists() else None


def summary(result: Training) -> dict[str, Any]:
    """For the catalog. The curves are in its metrics."""
    best = result.best_file
    best_epoch = result.stages[result.kept - 1].best_epoch if result.kept else 0
    stages = [
        {**{key: value for key, value in one.to_json().items() if key != "history"}, "file": one.file,
         "best_file": one.best_file}
        for one in result.stages
    ]  # fmt: skip
    return {"stages": [_finite(one) for one in stages], "kept": result.kept, "best_file": best.name if best else None,
            "seconds": result.seconds, "best_epoch": best_epoch}  # fmt: skip


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


def check_parts() -> None:
    """Raises NotInstalled naming the extra, before anything is done."""
    from importlib.util import find_spec

    from everlearn.errors import NotInstalled

    missing = [name for name in ("torch", "torchvision", "accelerate") if find_spec(name) is None]
    if missing:
        raise NotInstalled(f"Training a network needs {', '.join(missing)}.", 'pip install "everlearn[train]"')

"""Training a network in a workspace: from what is labelled to stages on disk and a version in the registry.

Everything that a process of a training needs is written into the run's folder first (`job.json`, `rows.npz`); `work`
reads it there. So one process, several on one machine and several machines that share a disk do the same, and a killed
run can go on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from everlearn import faults, track
from everlearn.catalog import runs, snapshots, versions
from everlearn.dataset.build import build as build_snapshot
from everlearn.errors import BadConfig, BadInput, ClusterFault, Corrupt, EverlearnError, Missing, TooFew
from everlearn.learn.network import recipe as recipes
from everlearn.monitor.system import Sampler
from everlearn.naming import is_class
from everlearn.stages import picturing
from everlearn.types import SILENT
from everlearn.workspace import CHECKPOINTS, read_json, write_whole

if TYPE_CHECKING:
    from everlearn.catalog.runs import Run
    from everlearn.catalog.versions import Version
    from everlearn.learn.fit import Watch
    from everlearn.learn.network.continual.method import Method
    from everlearn.learn.network.loading import Data
    from everlearn.learn.network.recipe import ContinueAs, Recipe
    from everlearn.learn.network.staged import Trained
    from everlearn.model.trainable import Network
    from everlearn.types import Member, Progress, Snapshot
    from everlearn.workspace import Workspace

JOB, ROWS, START, RESULT, SAID = "job.json", "rows.npz", "start.pt", "result.json", "said.txt"
LEARNER = "staged"


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
class Sides:
    """What is learned and what chooses the best epoch, by sample. numbers: whether targets are numbers."""

    train: tuple[Member, ...]
    validation: tuple[Member, ...]
    classes: tuple[str, ...]
    numbers: bool

    def digest(self) -> str:
        lines = [f"{side} {one.id} {one.label}" for side, members in (("t", self.train), ("v", self.validation))
                 for one in members]  # fmt: skip
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Part:
    """What a continual method changes in a training. new: what is learned of the sides, None for all; method: as
    `learn.network.continual.opened` takes it; enter: registers what came of it."""

    enter: Callable[[Workspace, Snapshot, Sides, Training, Progress], Version]
    new: Sides | None = None
    method: Mapping[str, Any] | None = None


def sides(workspace: Workspace, snapshot: Snapshot, progress: Progress = SILENT) -> Sides:
    """The learning side of a snapshot, divided. Augmented copies are left out: a recipe makes its own, anew in every
    epoch. Raises TooFew where one side has nothing, BadInput where no images are held."""
    with workspace.catalog.read() as tx:
        members = [one for one in snapshots.members(tx, snapshot.number) if one.parent is None]
    numbers = workspace.config.task == "regress"
    if workspace.config.backbone == "features":
        raise BadInput("This workspace holds rows of numbers; a network learns from images.", "Use learn there.")
    usable = [one for one in members if numbers or is_class(one.label, workspace.config.learn.unknown is not None)]
    train = tuple(one for one in usable if one.split == "train")
    validation = tuple(one for one in usable if one.split == "validation")
    if len(train) < 2:
        raise TooFew(f"{len(train)} labelled images are on the training side.", "Collect and label more.")
    if not validation:
        raise TooFew(
            f"None of {len(usable)} labelled images fell on the validation side, which chooses the best epoch.",
            f"Collect more, or raise dataset.validation (it is {workspace.config.dataset.validation:g}).",
        )
    classes = () if numbers else tuple(sorted({one.label for one in (*train, *validation)}))
    if not numbers:
        _warn(classes, train, progress)
    return Sides(train, validation, classes, numbers)


def _warn(classes: Sequence[str], train: Sequence[Member], progress: Progress) -> None:
    counts = dict.fromkeys(classes, 0)
    for one in train:
        counts[one.label] += 1
    if len(classes) < 2:
        raise TooFew(f"Only one class is labelled: {classes[0] if classes else 'none'}.", "Label a second one.")
    few = sorted((number, name) for name, number in counts.items() if number < 2)
    if few:
        said = ", ".join(f"{name} ({number})" for number, name in few[:10]) + (" …" if len(few) > 10 else "")
        progress.say(f"Of these classes there is no image or one alone to train on: {said}. Collect more of them.")


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
    _check_parts()
    from everlearn.learn.network.launch import follows, leading

    if follows():
        return None, _followed(workspace, force)
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
    divided = sides(workspace, snapshot, progress)
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
    done_before = _done(workspace, goes_on) if goes_on else []
    if goes_on:
        progress.say(f"Going on with {goes_on}, which was not finished.")
    config = {**fingerprint["recipe"], "from": begun_from}
    if "method" in fingerprint:
        config["method"] = fingerprint["method"]["name"]
    with track.run(
        workspace, kind, config=config, snapshot=snapshot.number, resume=goes_on, say=progress.say
    ) as following:
        folder = _folder(workspace, following.name)
        if not goes_on or force:
            _write_job(workspace, folder, network, recipe, learned, classes, begin, begun_from, progress, fingerprint)
        told = track.Follow(following, stages=len(done_before), epochs=sum(len(one.history) for one in done_before))
        with Sampler() as sampler:
            done = _carried_out(workspace, folder, recipe, (told, watch), progress, force)
            faults.point("train.trained")
            _check_something_came(done, begin)
        best = max((one.number for one in done if one.kept), default=0)
        result = Training(following.name, folder, recipe, tuple(done), best)
        following.note({**_summary(result), "system": sampler.use().to_json()}, snapshot=snapshot.number)
        version = None
        if register:
            from everlearn.stages.trained import enter

            version = (part.enter if part else enter)(workspace, snapshot, divided, result, progress)
            following.note({}, version=version.name)
        if kind == "train":
            picturing.pictures(workspace, divided, result, following, progress)
    _tidy(folder)
    faults.point("train.done")
    return version, result


def stage_file(workspace: Workspace, name: str) -> Path:
    """The stage file that a name means: a path, RUN/stage_3_regularization, RUN for its best, or best_model_stage_3 of
    the newest run that has it. Raises Missing."""
    path = Path(name).expanduser()
    if path.suffix == ".pt" and path.is_file():
        return path
    wanted = name.removesuffix(".pt")
    folder, stem = (wanted.rpartition("/")[0], wanted.rpartition("/")[2]) if "/" in wanted else (None, wanted)
    for run in _runs(workspace):
        if folder not in (None, run.name):
            continue
        found = _folder(workspace, run.name) / f"{stem}.pt"
        if found.is_file() and found.parent.parent == workspace.root / CHECKPOINTS:
            return found
        if stem == run.name and (best := run.result.get("best_file")):
            return _folder(workspace, run.name) / str(best)
    raise Missing(f"There is no trained stage {name}.", "See: everlearn models stages")


def list_stages(workspace: Workspace) -> list[dict[str, Any]]:
    """Every stage that was saved, newest run first: run, stage, name, val_loss, val_accuracy, seconds, file."""
    found = []
    for run in _runs(workspace):
        for one in run.result.get("stages", []):
            for kind, best in (("file", False), ("best_file", True)):
                path = _folder(workspace, run.name) / str(one.get(kind))
                if path.is_file():
                    loss, accuracy = ("val_loss", "val_accuracy") if best else ("last_loss", "last_accuracy")
                    found.append({
                        "model": f"{run.name}/{path.stem}", "run": run.name, "stage": one["number"],
                        "name": one["name"], "best": best, "val_loss": one[loss], "val_accuracy": one[accuracy],
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
        path = _folder(workspace, trained[version].name) / str(trained[version].result["best_file"])
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
    if loss not in ("mse", "mae", "huber"):
        return found
    stages = tuple(one.model_copy(update={"loss": one.loss.model_copy(update={"name": loss})}) for one in found.stages)
    return found.model_copy(update={"stages": stages})


# --- carrying it out --------------------------------------------------------------------------------------------------


def work(root: str, run: str, force: bool = False, watches: Sequence[Watch] = (), alone: bool = False) -> list[Trained]:
    """Train what lies in a run's folder: what each process of a training does.

    root: of the workspace. watches: of the first process. alone: nothing was launched, this process is all there is.
    """
    from everlearn.augment.training import augmenter
    from everlearn.learn.fit import Watches
    from everlearn.learn.network import staged
    from everlearn.learn.network.runtime import runtime

    folder = Path(root) / CHECKPOINTS / run
    job = _job(folder)
    recipe = recipes.load(job["recipe"])
    here = runtime(recipe.precision)
    network, data, validation = _network(Path(root), folder, job), *_data(folder, job)
    method = _method(folder, job)
    done = staged.train(
        staged.Job(recipe, folder, job["about"], job["fingerprint"], warm=job["from"] is not None, keep_state=True),
        network, data, validation, augmenter, run=here, watch=Watches(*watches if here.first else ()), method=method,
        force=force,
    )  # fmt: skip
    if here.first and not alone:
        write_whole(folder / RESULT, json.dumps([one.to_json() for one in done]).encode())
    here.wait()
    return done


def _carried_out(
    workspace: Workspace, folder: Path, recipe: Recipe, watches: Sequence[Watch | None], progress: Progress, force: bool
) -> list[Trained]:  # fmt: skip
    """In this process, or in as many as there are GPUs, or as the recipe asks for; or on the machines of a cluster."""
    from everlearn import engine
    from everlearn.learn.network.launch import launch, launched, processes, tell
    from everlearn.learn.network.staged import Trained

    root, run = str(workspace.root), folder.name
    there = [one for one in watches if one is not None]
    if launched():
        tell(run)
        return work(root, run, force, there, alone=True)
    cluster = engine.opened(workspace.config.engine)
    far = cluster if isinstance(cluster, engine.Ray) else None
    wanted = recipe.processes or (processes(None) if far is None else far.members)
    if wanted == 1 and far is None:
        return work(root, run, force, there, alone=True)
    (folder / RESULT).unlink(missing_ok=True)
    if far is None:
        progress.say(f"Training in {wanted} processes.")
        launch(_in_a_process, wanted, root, run, force)
    else:
        progress.say(f"Training in {wanted} processes of the Ray cluster; all read and write {folder}.")
        heard = _Heard(folder / SAID, progress)
        far.together(partial(_in_a_process, root, run, force, True), wanted, heard)
        heard()
    return [Trained.from_json(one) for one in json.loads((folder / RESULT).read_text(encoding="utf-8"))]


class _Heard:
    """Says what the first of a cluster's processes has written."""

    def __init__(self, path: Path, progress: Progress) -> None:
        path.unlink(missing_ok=True)
        self._path, self._progress, self._at = path, progress, 0

    def __call__(self) -> None:
        text = self._path.read_bytes()[self._at :] if self._path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.decode("utf-8", "replace").splitlines():
            self._progress.say(line)


def _followed(workspace: Workspace, force: bool) -> Training:
    """What the first of a launcher's processes leads."""
    from everlearn.learn.network.launch import told

    run = told()
    if run is None:
        raise ClusterFault("The first process has failed before the training began.", "It says why.")
    folder = _folder(workspace, run)
    recipe = recipes.load(_job(folder)["recipe"])
    done = work(str(workspace.root), run, force, alone=True)
    return Training(run, folder, recipe, tuple(done), max((one.number for one in done if one.kept), default=0))


def _in_a_process(root: str, run: str, force: bool, said: bool = False) -> None:
    """One of several; the first follows the run in the catalog, and speaks. said: into a file, from another machine."""
    from everlearn.learn.fit import Quiet
    from everlearn.workspace import Workspace

    class Lines(Quiet):
        def begin(self, stage: Any, facts: dict[str, Any]) -> None:
            self.say(
                f"{stage.name}: {facts['processes']} processes, {facts['batch']} images a step "
                f"({facts['batch_of_one_process']} of each), learning rate {facts['learning_rate']:g} "
                f"({stage.optimizer.learning_rate:g} x {facts['processes']})"
            )

        def epoch(self, found: Any) -> bool | None:
            self.say(
                f"  epoch {found.epoch}: loss {found.train_loss:.4f}, validation loss {found.val_loss:.4f}, "
                f"accuracy {found.val_accuracy:.4f}, {found.images_per_second:.0f} images/s"
            )
            return None

        def say(self, text: str) -> None:
            if said:
                with (Path(root) / CHECKPOINTS / run / SAID).open("a", encoding="utf-8") as file:
                    file.write(f"{text}\n")
            else:
                os.write(2, f"{text}\n".encode())

    if not (Path(root) / CHECKPOINTS / run / JOB).is_file():
        raise ClusterFault(
            f"{socket.gethostname()} does not see the run in {root}.",
            "Put the workspace on a disk that every machine has under the same name.",
        )
    workspace = Workspace.open(root)
    with ExitStack() as stack:
        watches: list[Watch] = []
        if int(os.environ.get("RANK", "0")) == 0:
            following = stack.enter_context(track.follow(workspace, run))
            watches = [track.Follow(following), Lines()]
        work(root, run, force, watches)


def _network(root: Path, folder: Path, job: Mapping[str, Any]) -> Network:
    """As it begins: new, or from another training's stage, with room for new classes."""
    from everlearn.learn.network import checkpoint
    from everlearn.model.trainable import build, from_stage_file

    about, recipe = job["about"], job["recipe"]
    columns = max(1, len(about["classes"]))
    if job["from"] is None:
        return build(about["network"], classes=columns, size=about["size"], seed=recipe["seed"], base=root)
    network = from_stage_file(checkpoint.load(folder / START), base=root)
    network.grow(columns)
    return network


def _data(folder: Path, job: Mapping[str, Any]) -> tuple[Data, Data]:
    from everlearn.learn.network.loading import Data

    try:
        with np.load(folder / ROWS) as file:
            rows = dict(file)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise Corrupt(
            f"{folder / ROWS} cannot be read: {error}.", "Begin another run: everlearn train --anew"
        ) from None
    shape, dtype, path = tuple(job["shape"]), np.dtype(job["dtype"]), Path(job["inputs"])
    inputs = np.memmap(path, dtype, "r").reshape(-1, *shape)
    classes = tuple(job["about"]["classes"])
    made = [Data(inputs, rows[f"{side}_targets"], classes, rows[f"{side}_rows"]) for side in ("train", "validation")]
    return made[0], made[1]


def _method(folder: Path, job: Mapping[str, Any]) -> Method | None:
    if not job.get("method"):
        return None
    from everlearn.learn.network.continual import opened

    return opened(job["method"], folder)  # type: ignore[no-any-return]


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


def _write_job(
    workspace: Workspace, folder: Path, network: Network, recipe: Recipe, divided: Sides, classes: Sequence[str],
    begin: Mapping[str, Any] | None, begun_from: str | None, progress: Progress, fingerprint: Mapping[str, Any],
) -> None:  # fmt: skip
    """All that the processes of this run need. job.json last: without it there is no run to go on with."""
    from everlearn.learn.network import checkpoint

    folder.mkdir(parents=True, exist_ok=True)
    arrays = arrays_of(workspace, network)
    ids = [one.id for one in (*divided.train, *divided.validation)]
    rows = arrays.rows(ids, progress)
    targets, about = _targets(workspace, divided, classes, begin)
    split = len(divided.train)
    with (folder / ROWS).open("wb") as file:
        np.savez(
            file, train_rows=rows[:split], validation_rows=rows[split:], train_targets=targets[:split],
            validation_targets=targets[split:],
        )  # fmt: skip
    if begin is not None:
        checkpoint.save(folder / START, dict(begin))
    about |= {"network": recipe.network, "classes": list(classes), "size": network.size, "task": workspace.config.task,
              "recipe": recipe.name, "licence": network.licence}  # fmt: skip
    values = json.loads(recipe.model_dump_json())
    job = {
        "recipe": values, "from": begun_from, "about": about, "inputs": str(arrays.path), "shape": arrays.shape,
        "dtype": arrays.dtype.name, "method": fingerprint.get("method"),
        "fingerprint": fingerprint,
    }  # fmt: skip
    write_whole(folder / JOB, json.dumps(job, ensure_ascii=False).encode())
    faults.point("train.job")


def arrays_of(workspace: Workspace, network: Network) -> Any:
    """What a network takes, kept by row: squares of its size, or its backbone's features. A `stages.arrays.Arrays`."""
    from everlearn.model.backbone import runs as backbone_runs
    from everlearn.model.pixels import prepare
    from everlearn.stages.arrays import Arrays

    if network.frozen is None:
        shape = (network.size, network.size, 3)
        name = f"squares {network.size} {network.fit}"
        return Arrays(workspace, name, shape, np.uint8, lambda found: prepare(found, network.size, network.fit))
    backbone = network.frozen
    session = backbone_runs(backbone)

    def features(found: Any) -> Any:
        parts = [
            session.run(None, {"images": backbone.prepare(found[at : at + backbone.batch])})[0]
            for at in range(0, len(found), backbone.batch)
        ]
        return np.concatenate(parts)

    return Arrays(workspace, f"features {backbone.digest}", (backbone.dimensions,), np.float32, features)


def _targets(
    workspace: Workspace, divided: Sides, classes: Sequence[str], begin: Mapping[str, Any] | None
) -> tuple[Any, dict[str, Any]]:
    """Of both sides: class columns; numbers at mean 0 and deviation 1 of the training side, as the stage files say."""
    both = (*divided.train, *divided.validation)
    if not divided.numbers:
        columns = {name: column for column, name in enumerate(classes)}
        return np.array([columns[one.label] for one in both], np.int64), {}
    values = np.array([float(one.label) for one in both])
    learned = values[: len(divided.train)]
    target = (begin or {}).get("target") or {
        "mean": float(learned.mean()), "deviation": float(learned.std()) or 1.0,
        **workspace.config.learn.target.model_dump(),
    }  # fmt: skip
    return ((values - target["mean"]) / target["deviation"]).astype(np.float32), {"target": target}


def _classes(divided: Sides, begin: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Those that a network knows already stay where they are; new ones come after them."""
    if begin is None:
        return divided.classes
    known = tuple(str(name) for name in begin.get("classes", ()))
    if bool(known) == divided.numbers:
        raise BadInput("That stage was trained for another task.", "Name a stage of this task.")
    return (*known, *(name for name in divided.classes if name not in known))


# --- runs -------------------------------------------------------------------------------------------------------------


def _folder(workspace: Workspace, run: str) -> Path:
    return workspace.root / CHECKPOINTS / run


def _runs(workspace: Workspace) -> list[Run]:
    """Those that train, newest first."""
    with workspace.catalog.read() as tx:
        return [one for one in reversed(list(runs.every(tx))) if one.result.get("stages")]


def _unfinished(workspace: Workspace, kind: str) -> list[Run]:
    """Runs that can go on, newest first."""
    with workspace.catalog.read() as tx:
        found = [one for one in runs.every(tx, kind=kind) if one.status != "done" and one.parent is None]
    return [one for one in reversed(found) if (_folder(workspace, one.name) / JOB).is_file()]


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
            return name if (_folder(workspace, name) / LAST).exists() else None
    return None


def to_resume(workspace: Workspace, kind: str = "train") -> tuple[Recipe, dict[str, Any] | None, str | None]:
    """Of the newest run that was not finished: its recipe, the stage that it began with, and that one's name. Raises
    Missing where there is none."""
    run = _newest_unfinished(workspace, kind).name
    job = _job(_folder(workspace, run))
    return recipes.load(job["recipe"]), _begun(workspace, run), job["from"]


def _newest_unfinished(workspace: Workspace, kind: str) -> Run:
    unfinished = _unfinished(workspace, kind)
    if not unfinished:
        raise Missing("There is no training to go on with.", "Begin one: everlearn train")
    return unfinished[0]


def _fingerprint(workspace: Workspace, run: str) -> dict[str, Any]:
    """What a run was begun with; an empty one where that cannot be read, which no other is like."""
    try:
        found = _job(_folder(workspace, run))["fingerprint"]
    except Corrupt:
        return {"recipe": {"name": None}, "classes": None, "from": None}
    return dict(found)


def _job(folder: Path) -> dict[str, Any]:
    """Raises Corrupt where it is not what `_write_job` wrote."""
    job = read_json(folder / JOB)
    if not {"recipe", "from", "about", "inputs", "shape", "dtype", "fingerprint"} <= job.keys():
        raise Corrupt(f"{folder / JOB} lacks what a training needs.", "Begin another run: everlearn train --anew")
    return job


def _check_something_came(done: Sequence[Trained], begin: Mapping[str, Any] | None) -> None:
    """Raises BadConfig where no weights are worth keeping: every loss became no number, and none were there before."""
    if begin is None and not any(one.kept for one in done):
        told = ", ".join(f"{one.name} ({one.stopped})" for one in done)
        raise BadConfig(
            f"No stage came to a network: {told}.", "Lower stages.*.optimizer.learning_rate, or set stages.*.clip=1."
        )


def _check_same(workspace: Workspace, run: str, now: Mapping[str, Any], force: bool) -> None:
    """Raises BadInput where a run would not go on as it was begun."""
    from everlearn.learn.network.checkpoint import differences

    before = _job(_folder(workspace, run))["fingerprint"]
    changed = differences(before, dict(now))
    fixed = [line for line in changed if line.startswith(("classes", "recipe.network", "recipe.size", "from"))]
    if changed and (fixed or not force):
        remedy = "Begin another: everlearn train --anew" + ("" if fixed else "; or go on all the same: --force")
        raise BadInput(f"{run} was begun with something else: {'; '.join(changed[:10])}.", remedy)


def _begun(workspace: Workspace, run: str) -> dict[str, Any] | None:
    from everlearn.learn.network import checkpoint

    path = _folder(workspace, run) / START
    return checkpoint.load(path) if path.exists() else None


def _done(workspace: Workspace, run: str) -> list[Trained]:
    from everlearn.learn.network import checkpoint
    from everlearn.learn.network.staged import LAST, Trained

    path = _folder(workspace, run) / LAST
    if not path.exists():
        return []
    return [Trained.from_json(one) for one in checkpoint.load(path).get("done", [])]


def _summary(result: Training) -> dict[str, Any]:
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


def _tidy(folder: Path) -> None:
    """What only a running training needs; rows.npz has labels by sample."""
    for name in (ROWS, START, RESULT, SAID, "last.pt", JOB):
        (folder / name).unlink(missing_ok=True)


def drop(workspace: Workspace, run: str) -> None:
    """Remove a run's files."""
    shutil.rmtree(_folder(workspace, run), ignore_errors=True)


def _check_parts() -> None:
    """Raises NotInstalled naming the extra, before anything is done."""
    from importlib.util import find_spec

    from everlearn.errors import NotInstalled

    missing = [name for name in ("torch", "torchvision", "accelerate") if find_spec(name) is None]
    if missing:
        raise NotInstalled(f"Training a network needs {', '.join(missing)}.", 'pip install "everlearn[train]"')

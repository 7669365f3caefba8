"""A detector as every turn's learner (`learn.learner: yolo:SPEC` or `onnx:FILE`).

The first time it is trained on all that is labelled. What comes in later is learned by going on from the weights of the
champion, on the new images and on old ones under a budget (`learn.replay_bytes`), with the champion as teacher, so
that old classes stay. What an image was not labelled for is not taken for background: `missing` fills it in or masks
it. Where only the second parts of labels have changed, nothing is trained: the memory of crops moves, and the detector
stays.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn import faults, registry, track
from everlearn.catalog import runs, snapshots
from everlearn.errors import BadConfig, BadInput, Missing, NotInstalled
from everlearn.learn.live import Moved
from everlearn.learn.old_images import Old, chosen
from everlearn.monitor.system import Sampler
from everlearn.stages.detecting import missing
from everlearn.stages.detecting.answering import standing
from everlearn.stages.detecting.sides import stand_in
from everlearn.stages.saved import folder_of
from everlearn.workspace import write_whole

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.model.detecting.training import DetectionJob, DetectionWatch, TrainedDetector
    from everlearn.stages.detecting.missing import Filled
    from everlearn.stages.detecting.sides import Labelled, Sides
    from everlearn.types import Member, Progress, SampleId, Snapshot
    from everlearn.workspace import Workspace

WEIGHTS = "/weights.pt"
"""Of a version's bundle: what a training goes on from."""
DATA, OUT, ABOUT = "data", "detector", "about.json"
"""In a run's folder: the images and labels that it learns; what Ultralytics' users know; what images are complete
for."""
OF_LABELS = ("teachers", "trust", "audit", "wanted", "noise", "frames")
"""Settings of the section detect that decide which labels are taken, not what a training makes of them."""
KEPT_FILES = ("results.csv", "results.png", "args.yaml")
"""Of the results, what goes into a version's bundle."""


@dataclass(frozen=True, slots=True)
class Base:
    """What a training goes on from. held: what it was trained on, id to label."""

    version: Version
    held: Mapping[SampleId, str]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one training learns. new, again: images that it has not seen, and old ones."""

    base: Base | None
    new: tuple[Labelled, ...]
    again: tuple[Labelled, ...]
    validation: tuple[Labelled, ...]
    classes: tuple[str, ...]

    @property
    def train(self) -> tuple[Labelled, ...]:
        return (*self.new, *self.again)


@dataclass(frozen=True, slots=True)
class Came:
    """What a training came to. run: its name."""

    run: str
    folder: Path
    result: TrainedDetector
    filled: Filled

    def summary(self) -> dict[str, Any]:
        """For the catalog. The curves are in its metrics."""
        found = self.result
        return {"map50": found.map50, "map50_95": found.map50_95, "best_epoch": found.best_epoch,
                "seconds": found.seconds, "stopped": found.stopped, "epochs": len(found.history),
                "filled_in": self.filled.count}  # fmt: skip


def spec_of(workspace: Workspace) -> str:
    """What `learn.learner` names behind its colon. Raises BadInput where that is not trained."""
    from everlearn.model.detecting.training import SPEC

    if not workspace.config.learn.learner.startswith("yolo"):
        raise BadInput(
            f"learn.learner is {workspace.config.learn.learner}, which is used as it is.",
            "Set learn.learner to yolo to train one.",
        )
    return workspace.config.learn.learner.partition(":")[2] or SPEC


def lesson(workspace: Workspace, divided: Sides, base: Base | None) -> Lesson:
    """What is to be learned: everything where nothing is gone on from, else what is new and a choice of the old."""
    if base is None:
        return Lesson(None, divided.train, (), divided.validation, divided.classes)
    new = tuple(one for one in divided.train if base.held.get(one.id) != one.member.label)
    old = [one for one in divided.train if base.held.get(one.id) == one.member.label]
    offered = [Old(one.id, one.bytes, tuple(box.label for box in one.coarse)) for one in old]
    again = set(chosen(offered, workspace.config.learn.replay_bytes))
    return Lesson(base, new, tuple(one for one in old if one.id in again), divided.validation, divided.classes)


def base_of(workspace: Workspace, divided: Sides, progress: Progress) -> Base | None:
    """The champion, else the newest version, where its weights can be gone on from by these settings, and were not
    trained on what models are chosen or tested by now."""
    version = standing(workspace)
    if version is None or version.config.get("learn", {}).get("learner") != workspace.config.learn.learner:
        return None
    if not has_weights(workspace, version):
        return None
    if version.config.get("detect", {}).get("size") != workspace.config.detect.size:
        return None
    held = {one.id: one.label for one in _taught(workspace, version) if one.split != "test"}
    if seen := held_out(workspace, version, divided):
        progress.say(
            f"{version.name} was trained on {seen} images that are held out now: this one begins from nothing."
        )
        return None
    return Base(version, held)


def held_out(workspace: Workspace, version: Version, divided: Sides) -> int:
    """How many of the images that a version was trained on are on the validation or the test side now: a change of
    the settings moves them."""
    now = {one.id for one in (*divided.validation, *divided.test)}
    there = _taught(workspace, version)
    chosen_by = {one.id for one in stand_in(there)}
    return sum(one.split == "train" and one.id not in chosen_by and one.id in now for one in there)


def _taught(workspace: Workspace, version: Version) -> list[Member]:
    """What a version's detector was trained by: the snapshot of its training, which is an older one than its own where
    only its memory of crops has moved since."""
    with workspace.catalog.read() as tx:
        number = version.snapshot
        if name := (version.metrics or {}).get("run"):
            number = runs.get(tx, str(name)).snapshot
        return [] if number is None else [one for one in snapshots.members(tx, number) if one.parent is None]


def has_weights(workspace: Workspace, version: Version) -> bool:
    """Whether a version's bundle has what a training goes on from."""
    try:
        with workspace.store.open(version.key.removesuffix(".onnx") + WEIGHTS):
            return True
    except Missing:
        return False


def trained(
    workspace: Workspace, given: Lesson, snapshot: Snapshot, progress: Progress, *,
    watch: DetectionWatch | None = None, changes: Mapping[str, Any] | None = None, anew: bool = False,
) -> Came:  # fmt: skip
    """Train a detector on a lesson, as a run. A training of the same lesson that was killed goes on; one that was
    finished is not done again, but where `anew` asks for it. changes: of the job's fields. Raises NotInstalled,
    BadConfig, BadInput, TooFew."""
    from everlearn.model.detecting.training import licence_said

    check(workspace, changes or {})
    fingerprint = _fingerprint(workspace, given, changes or {})
    goes_on = None if anew else _to_go_on(workspace, fingerprint)
    config = {
        **workspace.config.detect.model_dump(), **(changes or {}), "detector": spec_of(workspace),
        "classes": list(given.classes), "images": len(given.train), "fingerprint": fingerprint,
        "from": given.base.version.name if given.base else None, "changes": dict(changes or {}),
    }  # fmt: skip
    progress.say(licence_said())
    with track.run(
        workspace, "train", config=config, snapshot=snapshot.number, resume=goes_on, say=progress.say
    ) as following:
        folder = folder_of(workspace, following.name)
        with Sampler() as sampler:
            came = carried_out(
                workspace, following, given, changes or {}, Following(following, watch, progress), progress
            )
            faults.point("train.trained")
        following.note({**came.summary(), "system": sampler.use().to_json()}, snapshot=snapshot.number)
        for picture in sorted(came.folder.glob("*.png")):
            following.artifact(picture)
    shutil.rmtree(folder / DATA, ignore_errors=True)
    faults.point("train.done")
    return came


def carried_out(
    workspace: Workspace, run: track.Run, given: Lesson, changes: Mapping[str, Any], watch: DetectionWatch,
    progress: Progress,
) -> Came:  # fmt: skip
    """One training in the folder of its run. Where it was killed before, it goes on."""
    from everlearn.model.detecting import yolo

    folder = folder_of(workspace, run.name)
    filled = missing.filled(workspace, given.train, given.classes, given.base, progress)
    result = yolo.train(_written(workspace, folder, given, filled, changes), watch)
    return Came(run.name, folder / OUT, result, filled)


def check(workspace: Workspace, changes: Mapping[str, Any]) -> None:
    """Before a run begins: raises NotInstalled, BadConfig for a setting that Ultralytics does not have or a value that
    cannot be, and Missing for an architecture or weights that are not there."""
    check_installed()
    from everlearn.model.detecting import yolo

    spec = str(changes.get("spec") or spec_of(workspace))
    if spec.endswith((".yaml", ".yml")):
        yolo.architecture(spec, workspace.root)
    elif not (workspace.root / spec).is_file():
        raise Missing(f"There is no {spec}.", "Name an architecture, such as yolo11n.yaml, or a file of weights.")
    yolo.check_settings(_changes(workspace, changes)["settings"])
    _job(workspace, changes, begin=None, classes=("any",), data="", folder="", about=None)


def check_installed() -> None:
    """Raises NotInstalled naming the extra, before anything is done."""
    from importlib.util import find_spec

    if find_spec("ultralytics") is None:
        raise NotInstalled("Training YOLO needs ultralytics (AGPL-3.0).", 'pip install "everlearn[yolo]"')


def _fingerprint(workspace: Workspace, given: Lesson, changes: Mapping[str, Any]) -> str:
    """By which a training that was killed is known again: SHA-256 of all that decides it."""
    from everlearn.catalog.scenes import label_of
    from everlearn.types import Scene

    learned = [
        [side, one.id, label_of(Scene(one.coarse, one.scene.about))]
        for side, several in (("new", given.new), ("again", given.again), ("validation", given.validation))
        for one in several
    ]
    file = workspace.root / str(changes.get("spec") or spec_of(workspace))
    said = {
        "detect": of_training(workspace.config.detect.model_dump()),
        "weights": hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None,
        "learner": workspace.config.learn.learner,
        "classes": given.classes, "from": given.base and given.base.version.model_digest, "changes": dict(changes),
        "learned": sorted(learned),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()


def of_training(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of the section detect what a training depends on; the rest is about labels."""
    return {name: value for name, value in settings.items() if name not in OF_LABELS}


def _to_go_on(workspace: Workspace, fingerprint: str) -> str | None:
    with workspace.catalog.read() as tx:
        before = runs.every(tx, kind="train")
    for one in reversed(before):
        if one.config.get("fingerprint") == fingerprint and (folder_of(workspace, one.name) / OUT).exists():
            return one.name
    return None


def _written(
    workspace: Workspace, folder: Path, given: Lesson, filled: Filled, changes: Mapping[str, Any]
) -> DetectionJob:  # fmt: skip
    """The run's folder with all that the training reads."""
    from everlearn.dataset import yolo_folder

    folder.mkdir(parents=True, exist_ok=True)
    validation = [(one.id, [box for box in one.coarse if box.label in given.classes]) for one in given.validation]
    sides_ = {"train": [(one.id, filled.boxes[one.id]) for one in given.train], "validation": validation}
    data = yolo_folder.write(workspace, folder / DATA, sides_, given.classes)  # type: ignore[arg-type]
    names = {path.stem: path.name for path in (folder / DATA / "images").glob("*/*")}
    complete = {**filled.about, **{one.id: one.about for one in given.validation}}
    partly = {
        names[id]: sorted(known) for id, known in sorted(complete.items()) if not set(given.classes) <= set(known)
    }  # fmt: skip
    write_whole(folder / ABOUT, json.dumps(partly, ensure_ascii=False).encode())
    begin = None
    if given.base is not None:
        begin = folder / "begin.pt"
        write_whole(begin, registry.bundle_file(workspace, given.base.version, WEIGHTS))
    return _job(
        workspace, changes, classes=given.classes, data=str(data), folder=str(folder / OUT),
        begin=str(begin) if begin else None, about=str(folder / ABOUT),
    )  # fmt: skip


def _job(workspace: Workspace, changes: Mapping[str, Any], *, begin: str | None, **places: Any) -> DetectionJob:
    """What the settings, with these changes, ask of a training. places: where it reads and writes. Raises BadConfig."""
    from everlearn.model.detecting.training import DetectionJob

    settings, spec = workspace.config.detect, spec_of(workspace)
    at = workspace.root / spec
    fields: dict[str, Any] = {
        "spec": str(at) if at.is_file() else spec, "size": settings.size, "epochs": settings.epochs,
        "batch": settings.batch, "patience": settings.patience, "seed": settings.seed, "begin": begin,
        "teacher": begin if settings.distil else None, "distil": settings.distil,
        "plots": workspace.config.track.plots,
    }  # fmt: skip
    return DetectionJob(**{**fields, **places, **_changes(workspace, changes)})


def _changes(workspace: Workspace, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What `detect.options` and these changes set of a job; `settings` are Ultralytics' own."""
    said = options(workspace.config.detect.options)
    own: dict[str, Any] = {name: said.pop(name) for name in ("lr0", "optimizer") if name in said}
    return {**own, **changes, "settings": {**said, **changes.get("settings", {})}}


def options(given: Sequence[str]) -> dict[str, Any]:
    """Settings of Ultralytics' from `NAME=VALUE`. Raises BadConfig."""
    import yaml

    found = {}
    for one in given:
        name, equals, value = (part.strip() for part in one.partition("="))
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            found[name] = None
        if not name or not equals or found[name] is None:
            raise BadConfig(f"{one!r} has no value that can be read.", "Write NAME=VALUE, as lr0=0.005.")
    return found


class Following:
    """Writes a training into its run epoch by epoch, and passes on what is said; a `DetectionWatch`."""

    def __init__(self, run: track.Run, watch: DetectionWatch | None, progress: Progress) -> None:
        self._run, self._watch, self._progress = run, watch, progress

    def begin(self, job: DetectionJob, facts: Mapping[str, Any]) -> None:
        self._run.params(track.flat(dict(facts), "facts."))
        if self._watch:
            self._watch.begin(job, facts)

    def step(self, epoch: int, step: int, steps: int, loss: float, learning_rate: float) -> None:
        if self._watch:
            self._watch.step(epoch, step, steps, loss, learning_rate)

    def epoch(self, found: Any) -> bool | None:
        values = {"train_loss": sum(found.losses.values()), "val_loss": sum(found.val_losses.values()),
                  **{name: getattr(found, name) for name in ("map50", "map50_95", "precision", "recall", "seconds")},
                  "learning_rate": found.learning_rate, **found.losses}  # fmt: skip
        self._run.metrics({name: float(value) for name, value in values.items()}, found.epoch)
        faults.point("detect.epoch")
        if self._watch:
            return self._watch.epoch(found)
        self._progress.say(f"epoch {found.epoch}: mAP50 {found.map50:.4f}, mAP50-95 {found.map50_95:.4f}, "
                           f"{found.seconds:.1f} s")  # fmt: skip
        return None

    def say(self, text: str) -> None:
        (self._watch.say if self._watch else self._progress.say)(text)


def moved(base: Base | None, divided: Sides) -> Moved:
    """Samples learned and no longer there since the base."""
    now = {one.id: one.member.label for one in divided.learned}
    held = base.held if base else {}
    return Moved(
        sum(held.get(id) != label for id, label in now.items()), sum(now.get(id) != label for id, label in held.items())
    )

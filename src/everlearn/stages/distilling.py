"""A small network from a large one, or from several: a student, the same student without its teacher, and the teacher,
beside each other on the validation side."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn import registry, track
from everlearn.errors import BadInput, Missing
from everlearn.evaluate import compare as comparing
from everlearn.learn.live import Moved
from everlearn.stages import answering, ground, members, saved, teach, training
from everlearn.stages.learners import ENSEMBLE, EXACT, RIVER, Taught
from everlearn.stages.trained import answering as best_of
from everlearn.stages.trained import inputs_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.catalog.versions import Version
    from everlearn.evaluate.compare import Comparison
    from everlearn.learn.network.distilling import Networks
    from everlearn.learn.network.recipe import Recipe
    from everlearn.model.bundle import OnnxModel
    from everlearn.model.network_bundle import Trained
    from everlearn.types import Progress, SampleId
    from everlearn.workspace import Workspace

LEARNER = "distilled"
TIMED = 30
"""Images that a model is timed on, one by one."""


@dataclass(frozen=True)
class Standing:
    """One of them. accuracy: on the validation side; None of a teacher that has learned it. bytes: of its ONNX file.
    latency: of one image on one core, from prepared pixels to answer, in seconds (median); None where not timed."""

    name: str
    accuracy: float | None
    bytes: int
    latency: float | None

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "accuracy": self.accuracy, "bytes": self.bytes, "latency": self.latency}


@dataclass(frozen=True)
class Distilled:
    """What came of it. gain: distilled against the same student alone; loss: against the teacher. softly: for each
    stage, how the teacher was asked."""

    run: str
    teacher: Standing
    student: Standing
    alone: Standing | None
    gain: Comparison | None
    against_teacher: Comparison | None
    softly: dict[str, str]
    images: int

    @property
    def helps(self) -> bool | None:
        """Whether the teacher is shown to have helped; None where the student was not trained without."""
        return None if self.gain is None else self.gain.verdict == "better"

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run, "n": self.images, "helps": self.helps, "teacher": self.teacher.to_json(),
            "student": self.student.to_json(), "alone": self.alone and self.alone.to_json(),
            "gain": _compared(self.gain), "against_teacher": _compared(self.against_teacher), "asked": self.softly,
        }  # fmt: skip


def _compared(found: Comparison | None) -> dict[str, Any] | None:
    if found is None:
        return None
    interval = list(found.interval)
    return {"difference": found.difference, "interval": interval, "p_value": found.p_value, "verdict": found.verdict}


@dataclass(frozen=True, eq=False)
class Teacher:
    """One model that teaches. answer: probabilities of the student's classes; knows: (C,) those it has a word for.
    honest: whether it has not learned the validation side. network: its torch form, where it has one."""

    name: str
    answer: Callable[[Sequence[SampleId]], NDArray[Any]]
    knows: NDArray[np.bool_]
    honest: bool
    model: OnnxModel
    bytes: int
    digest: str
    network: Trained | None

    def places(self, classes: tuple[str, ...]) -> NDArray[np.float32]:
        return _places(self.model.classes, classes)


def distill(
    workspace: Workspace, teachers: Sequence[str], recipe: Recipe, progress: Progress, *, temperature: float = 4.0,
    alpha: float = 0.9, baseline: bool = True,
) -> tuple[Version, Distilled]:  # fmt: skip
    """Train a student by a recipe, with what the teachers say beside the labels, and register it.

    teachers: aliases, versions, exported files or saved stages of networks; of several the mean probabilities.
    temperature, alpha: as in `learn.network.distilling`. baseline: train the student alone too, and compare. Raises
    BadInput for other tasks than `classify`, TooFew, Missing.
    """
    from everlearn.learn.network.distilling import Distil

    began = time.monotonic()
    if workspace.config.task != "classify":
        raise BadInput(f"Distillation is of classifiers; this workspace is for {workspace.config.task}.", "Use train.")
    if not teachers:
        raise BadInput("There is no teacher.", "Name one: --teacher MODEL")
    if any(stage.loss.name == "bce" for stage in recipe.stages):
        raise BadInput("The recipe's loss is bce, of several labels at once.", "Set loss.name: cross_entropy.")
    Distil(temperature, alpha)  # says what cannot be
    floor = ground.Ground.of(workspace, progress)
    found = [_teacher(workspace, name, floor.classes, progress) for name in teachers]
    knows = np.any([one.knows for one in found], axis=0)
    config = {
        "teachers": [one.digest for one in found], "names": [one.name for one in found],
        "recipe": recipe.model_dump(mode="json"), "temperature": temperature, "alpha": alpha, "baseline": baseline,
    }  # fmt: skip
    with ground.experiment(workspace, "distill", config, floor.snapshot, progress) as run:
        asked = _torch(floor, recipe, found)
        softly = _how(recipe, asked)
        for stage, how in softly.items():
            progress.say(f"Stage {stage}: {how}.")
        method = Distil(temperature, alpha, asked, knows)
        done = _students(floor, run, recipe, method, found, knows, baseline)
        version, made = _registered(floor, run, recipe, found, done, began, softly)
        run.note(made.to_json(), snapshot=floor.snapshot.number, version=version.name)
    return version, made


def _students(
    floor: ground.Ground, run: track.Run, recipe: Recipe, method: Any, teachers: Sequence[Teacher],
    knows: NDArray[np.bool_], baseline: bool,
) -> tuple[str, str | None]:  # fmt: skip
    """Runs of the student with its teacher, and alone."""
    from everlearn.augment.training import augmenter
    from everlearn.learn.network.distilling import told

    def taught(child: track.Run) -> training.Training:
        said = _said(floor, teachers, knows)
        return floor.train(
            child, recipe, method=method, changed=lambda data: told(data, said), augmenters=method.watching(augmenter)
        )

    floor.progress.say("The student with its teacher.")
    student = ground.part(floor.workspace, run, {"student": "distilled"}, taught)
    if not baseline:
        return student, None
    floor.progress.say("The same student alone.")
    return student, ground.part(floor.workspace, run, {"student": "alone"}, partial(floor.train, recipe=recipe))


def _said(floor: ground.Ground, teachers: Sequence[Teacher], knows: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(N, C) what the teachers say of the training images as they are: their mean, once for each image."""
    import torch

    from everlearn.learn.network.distilling import known

    ids = [one.id for one in floor.divided.train]
    mean = np.mean([one.answer(ids) for one in teachers], axis=0).astype(np.float32)
    shares = np.eye(len(floor.classes), dtype=np.float32)[floor.targets[0]]
    asked = (torch.from_numpy(one) for one in (mean, shares, knows.astype(np.float32)))
    found: NDArray[np.float32] = known(*asked).numpy()
    return found


def _torch(floor: ground.Ground, recipe: Recipe, teachers: Sequence[Teacher]) -> Networks | None:
    """The teachers as networks that can look at the student's own pixels; None where one of them cannot."""
    from everlearn.learn.network.distilling import Networks

    student = floor.network(recipe)
    each = []
    for one in teachers:
        trained = one.network
        if trained is None or student.rows or trained.network.rows or trained.network.size != student.size:
            return None
        each.append((trained.network, trained.temperature, _places(trained.classes, floor.classes)))
    return Networks(each)


def _how(recipe: Recipe, asked: Networks | None) -> dict[str, str]:
    from everlearn.augment.training import augmenter

    once = "the teacher's answers to the images as they are, computed once"
    anew = "the teacher is asked about each image as it was augmented"
    return {one.name: anew if asked and augmenter(one.augmentation) is not None else once for one in recipe.stages}


def _registered(
    floor: ground.Ground, run: track.Run, recipe: Recipe, teachers: Sequence[Teacher], done: tuple[str, str | None],
    began: float, softly: dict[str, str],
) -> tuple[Version, Distilled]:  # fmt: skip
    workspace, progress = floor.workspace, floor.progress
    result = _result(workspace, done[0], recipe)
    answers = best_of(workspace, floor.divided, result, progress)
    ids = [one.id for one in floor.divided.validation]
    wanted, groups = floor.targets[1], floor.groups_of(floor.divided.validation).tolist()

    def right(table: NDArray[Any]) -> NDArray[np.bool_]:
        return np.asarray(table.argmax(axis=1) == wanted)

    def of(trained: Trained) -> NDArray[np.bool_]:
        return right(trained.answered(inputs_of(workspace, trained.network, ids, progress)))

    mine = of(answers)
    alone = None if done[1] is None else ground.answering(workspace, done[1])
    before = None if alone is None else of(alone)
    honest = all(one.honest for one in teachers)
    theirs = right(np.mean([one.answer(ids) for one in teachers], axis=0)) if honest else None
    if not honest:
        progress.say("The teacher has learned the validation side too: its accuracy there would be no evidence. "
                     "Compare on the test side: everlearn compare TEACHER STUDENT")  # fmt: skip
    shown = _images(workspace, ids[:TIMED])
    name = " + ".join(one.name for one in teachers)
    took = _latency([one.model for one in teachers], shown)
    made = Distilled(
        run.name,
        Standing(name, _mean(theirs), sum(one.bytes for one in teachers), took),
        _standing("student, distilled", answers, mine, shown),
        None if alone is None or before is None else _standing("student alone", alone, before, shown),
        None if before is None else comparing.compare(before, mine, groups=groups),
        None if theirs is None else comparing.compare(theirs, mine, groups=groups),
        softly, len(ids),
    )  # fmt: skip
    kept = result.stages[result.kept - 1] if result.kept else None
    digest = hashlib.sha256(_packed(answers)).hexdigest()
    about = {"run": run.name, "recipe": recipe.name, "teachers": [one.name for one in teachers],
             "accuracy_validation": made.student.accuracy, "best_epoch": kept.best_epoch if kept else 0}  # fmt: skip
    taught = Taught(
        Moved(len(floor.divided.train), 0), len(floor.divided.train), answers, None, digest, None, about,
        {
            **about,
            "automatic_labels": None,
            "knows": "Every training image shaped these weights, and so did what shaped its teacher; none can be taken "
            "out. To forget, it is distilled again from a teacher that has forgotten.",
        },
    )  # fmt: skip
    report = teach.reported(f"{LEARNER}:{recipe.name}", taught, began, floor.snapshot)
    return teach.register(workspace, taught, floor.snapshot, report, f"distilled from {name}"), made


def _result(workspace: Workspace, run: str, recipe: Recipe) -> training.Training:
    """A student's training, as the catalog has it."""
    from everlearn.learn.network.staged import Trained as Stage
    from everlearn.workspace import CHECKPOINTS

    found = members.run_of(workspace, run)
    assert found is not None
    stages = tuple(Stage.from_json({"history": (), **_read(one)}) for one in found.result["stages"])
    return training.Training(run, workspace.root / CHECKPOINTS / run, recipe, stages, int(found.result["kept"]))


def _read(stage: dict[str, Any]) -> dict[str, Any]:
    """What was no number is None in the catalog."""
    return {key: float("nan") if value is None else value for key, value in stage.items()}


# --- teachers ---------------------------------------------------------------------------------------------------------


def _teacher(workspace: Workspace, name: str, classes: tuple[str, ...], progress: Progress) -> Teacher:
    """A version, an exported file, or a saved stage. Raises Missing, BadInput where it knows none of the classes."""
    try:
        found = answering.named(workspace, name)
    except Missing:
        try:
            return _stage(workspace, name, classes, progress)
        except Missing:
            pass
        raise
    answers = answering.answerer(workspace, found)
    known = answers.known
    places, columns = _places(known, classes), [answers.classes.index(one) for one in known]
    data = found.file.read_bytes() if found.file else registry.bundle_file(workspace, found.version, ".onnx")
    model = answers.model or answering.serving(workspace, found.version)

    def answer(ids: Sequence[SampleId]) -> NDArray[Any]:
        return answers.table(ids, progress)[:, columns] @ places

    network = None if found.file else _weights(workspace, found.version)
    return _checked(
        Teacher(found.name, answer, _known(places), _honest(workspace, found), model, len(data),
                hashlib.sha256(data).hexdigest(), network)
    )  # fmt: skip


def _stage(workspace: Workspace, name: str, classes: tuple[str, ...], progress: Progress) -> Teacher:
    from everlearn.model.bundle import OnnxModel

    path, trained = saved.stage_file(workspace, name), ground.answering(workspace, name)
    data, places = _packed(trained), _places(trained.classes, classes)
    run = members.run_of(workspace, path.parent.name)

    def answer(ids: Sequence[SampleId]) -> NDArray[Any]:
        return trained.answered(inputs_of(workspace, trained.network, list(ids), progress)) @ places

    return _checked(
        Teacher(f"{path.parent.name}/{path.stem}", answer, _known(places),
                run is None or run.kind != members.FOLD, OnnxModel(data), len(data),
                hashlib.sha256(data).hexdigest(), trained)
    )  # fmt: skip


def _checked(teacher: Teacher) -> Teacher:
    if not teacher.knows.any():
        raise BadInput(f"{teacher.name} knows none of this workspace's classes.", "Name another teacher.")
    return teacher


def _honest(workspace: Workspace, found: answering.Named) -> bool:
    """Whether it has not learned the validation side: a network has not, an exact memory has."""
    kind = found.version.learner.partition(":")[0]  # of a file, as its card says
    if found.file is not None:
        return kind not in (EXACT, RIVER, ENSEMBLE) or not answering.learned_here(workspace, found)
    if kind == ENSEMBLE:
        return not registry.card(workspace, found.version).get("memories", 1)
    return kind not in (EXACT, RIVER)


def _weights(workspace: Workspace, version: Version) -> Trained | None:
    from everlearn.model.network_bundle import WEIGHTS, load_weights

    try:
        data = registry.bundle_file(workspace, version, WEIGHTS)
    except Missing:
        return None
    trained = load_weights(data, base=workspace.root)
    return None if trained.several else trained


def _known(places: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(places.any(axis=0), np.bool_)


def _places(own: Sequence[str], classes: Sequence[str]) -> NDArray[np.float32]:
    """(own, C) one-hot: which of the student's classes is which of the teacher's own."""
    return (np.array(own, dtype=object)[:, None] == np.array(classes, dtype=object)[None]).astype(np.float32)


# --- size and speed ---------------------------------------------------------------------------------------------------


def _standing(name: str, trained: Trained, right: NDArray[np.bool_], shown: Sequence[Any]) -> Standing:
    from everlearn.model.bundle import OnnxModel

    data = _packed(trained)
    return Standing(name, _mean(right), len(data), _latency([OnnxModel(data)], shown))


def _packed(trained: Trained) -> bytes:
    from everlearn.model.network_bundle import packed

    return packed(trained, {})


def _images(workspace: Workspace, ids: Sequence[SampleId]) -> list[Any]:
    from everlearn.learn.features import images

    return list(images(workspace, ids))


def _latency(models: Sequence[OnnxModel], shown: Sequence[Any]) -> float | None:
    """Seconds for one image, all models one after another; the median. None of models that take no images."""
    if not shown or any(not one.size for one in models):
        return None
    prepared = [[model.prepare([image])[0] for image in shown] for model in models]
    for model, images in zip(models, prepared, strict=True):
        model.table(images[:1], workers=1)  # the first is slower
    times = []
    for number in range(len(shown)):
        began = time.perf_counter()
        for model, images in zip(models, prepared, strict=True):
            model.table(images[number : number + 1], workers=1)
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _mean(right: NDArray[np.bool_] | None) -> float | None:
    return None if right is None else float(right.mean())

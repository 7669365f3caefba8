"""A recipe's stages, one after another, each from the best weights so far; saved so that nothing is ever lost.

stage_1_baseline.pt        the stage's last weights, whatever they are worth
best_model_stage_1.pt      its best weights
last.pt                    all that a killed run needs to go on; gone when the run is done
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from everlearn import faults
from everlearn.errors import BadInput, Corrupt, StoreFault
from everlearn.learn.fit import QUIET, Epoch, Fit, Keep, Watch, Weights, fit
from everlearn.learn.network import checkpoint
from everlearn.learn.network.continual.method import Method
from everlearn.learn.network.judging import Judged, judge
from everlearn.learn.network.loading import Augmenter, Data, in_turn
from everlearn.learn.network.losses import criterion, plain
from everlearn.learn.network.recipe import Augmentation, Freeze, Recipe, Stage
from everlearn.learn.network.runtime import Runtime, runtime

LAST = "last.pt"
FEATURES = ".features-"
SAVE_SECONDS = 20.0
"""Between two states that a killed run can go on from; what lies between is trained again, to the same bits."""

ONE_PRESS = 1.0
"""Seconds in which a second signal is the same wish: a launcher passes on what the terminal has sent already."""


class Network(Protocol):
    """`model.trainable.Network` is one; also an `nn.Module` from inputs to outputs."""

    def set_dropout(self, rate: float) -> None: ...
    def freeze(self, part: Freeze) -> None: ...
    def features(self, images: Tensor) -> Tensor: ...


Augmenters = Callable[[Augmentation], Augmenter | None]


@dataclass(frozen=True)
class Trained:
    """What a stage came to. val_loss, val_accuracy: of its best epoch. improvement: in the accuracy of the weights
    kept, against before (of numbers in R²; nan for the first stage of a network that begins from nothing).

    kept: whether its weights are the best so far. kept_loss, kept_accuracy: of the best so far, after it.
    """

    number: int
    name: str
    description: str
    val_loss: float
    val_accuracy: float
    last_loss: float
    last_accuracy: float
    best_epoch: int
    seconds: float
    stopped: str
    kept: bool
    kept_loss: float
    kept_accuracy: float
    improvement: float
    history: tuple[Epoch, ...] = ()
    snapshots: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"epochs": len(self.history), "history": [asdict(one) for one in self.history]}

    @property
    def file(self) -> str:
        return f"stage_{self.number}_{self.name}.pt"

    @property
    def best_file(self) -> str:
        return f"best_model_stage_{self.number}.pt"

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Trained:
        known = {name: values[name] for name in cls.__dataclass_fields__}
        return cls(**{**known, "history": tuple(Epoch(**one) for one in values["history"])})


@dataclass(frozen=True, eq=False)
class Job:
    """What to train, and where its files go.

    about: goes into each stage's file, so that it can be used by itself: network, classes, size, task. fingerprint:
    what must be the same for a run to go on: the recipe and the data. warm: whether the network has learned before, so
    that its own weights are kept where no stage is better.
    """

    recipe: Recipe
    folder: Path
    about: Mapping[str, Any]
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    warm: bool = False
    keep_state: bool = False
    """Leave the state of a training that is done, for whoever has more to do with it that may be killed."""


def train(
    job: Job, network: nn.Module, data: Data, validation: Data, augmenters: Augmenters, *,
    run: Runtime | None = None, watch: Watch = QUIET, method: Method | None = None, force: bool = False,
    save_seconds: float | None = None,
) -> list[Trained]:  # fmt: skip
    """Train every stage that the recipe asks for; the network has the best weights of all stages at the end.

    A run whose folder holds a state goes on from it. Raises BadInput where that run was begun with other settings or
    data (unless force), KeyboardInterrupt after Ctrl-C, once the state is saved.
    """
    run = run or runtime(job.recipe.precision)
    if run.first:
        for half_written in (*job.folder.glob(".*.part"), *job.folder.glob(f"{FEATURES}*")):  # by one that was killed
            half_written.unlink(missing_ok=True)
    run.wait()
    drop = getattr(network, "drop", None)
    own = drop.p if isinstance(drop, nn.Dropout) else None
    state = _State.open(job, network, validation, run, force)
    if method is not None:  # sees the network as the last experience left it, also where a killed run goes on
        network.load_state_dict(state.start)
        method.before(network.to(run.device), data)
    with _interruptible() as asked:
        for number in range(len(state.done) + 1, len(job.recipe.stages) + 1):
            stage = job.recipe.stages[number - 1]
            if not _goes_on(job.recipe, state.done, watch):
                break
            network.load_state_dict(state.weights)
            keep = _Saver(state, run, asked, SAVE_SECONDS if save_seconds is None else save_seconds)
            if stage.dropout is not None or own is not None:  # not that of the stage before
                network.set_dropout(own if stage.dropout is None else stage.dropout)  # type: ignore[operator]
            found = _stage(job, network, data, validation, stage, number, augmenters, run, watch, method, state, keep)
            state.add(number, stage, found, run)
            faults.point("train.stage")
            watch.say(_told(state.done[-1], len(job.recipe.stages), "R²" if data.numbers else "accuracy"))
    network.load_state_dict(state.weights)
    if run.first and not job.keep_state:
        (job.folder / LAST).unlink(missing_ok=True)
    return state.done


def _stage(
    job: Job, network: nn.Module, data: Data, validation: Data, stage: Stage, number: int, augmenters: Augmenters,
    run: Runtime, watch: Watch, method: Method | None, state: _State, keep: Keep,
) -> Fit:  # fmt: skip
    """One stage. Where the backbone stays as it is and so do the images, it is gone through once."""
    seed = stage_seed(job.recipe, number)
    network.freeze(stage.freeze)  # type: ignore[operator]
    augment = augmenters(stage.augmentation) if data.images else None
    options: dict[str, Any] = {"seed": seed, "run": run, "watch": watch, "saved": state.training, "keep": keep}
    options["place"] = {"stage": number, "epochs_before": sum(len(one.history) for one in state.done)}
    if stage.freeze == "backbone" and data.images and augment is None and method is None:
        with _features(network, data, validation, run, job.folder) as (rows, held_out):
            return fit(_Head(network), rows, held_out, stage, **options)
    options |= {"augment": augment, "method": method, "workers": job.recipe.workers}
    return fit(network, data, validation, stage, **options)


def stage_seed(recipe: Recipe, number: int) -> int:
    """Of what is drawn in a stage. number: from 1."""
    return recipe.seed * 1000 + number


class _Head(nn.Module):
    """A network's last layers, on features; their names are those in the network."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.drop, self.head = network.drop, network.head

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.head(self.drop(features))
        return found


@contextmanager
def _features(
    network: Any, data: Data, validation: Data, run: Runtime, folder: Path
) -> Iterator[tuple[Data, Data]]:  # fmt: skip
    """Both sides as features (N, D) of the frozen backbone, on disk while the stage lasts."""
    network.to(run.device).eval()
    paths = [folder / f"{FEATURES}{side}-{run.process}.npy" for side in ("train", "validation")]
    try:
        yield tuple(_mapped(network, one, run, path) for one, path in zip((data, validation), paths, strict=True))  # type: ignore[misc]
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def _mapped(network: Any, data: Data, run: Runtime, path: Path) -> Data:
    made, at = None, 0
    with torch.inference_mode():
        for batch in in_turn(data):
            found = network.features(batch.to(run.device).inputs).float().cpu().numpy()
            if made is None:
                made = _room_for(path, (len(data), found.shape[1]))
            made[at : at + len(found)] = found
            at += len(found)
    assert made is not None
    return Data(made, data.targets, data.classes)


def _room_for(path: Path, shape: tuple[int, int]) -> Any:
    """A file of so many float32, mapped; its place on the disk is taken at once, since a disk that is found full while
    mapped memory is written kills the process. Raises StoreFault."""
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, 4 * shape[0] * shape[1]))
    except OSError as error:
        path.unlink(missing_ok=True)
        raise StoreFault(f"{path} cannot be written: {error.strerror}.", "Free the disk.") from None
    return np.memmap(path, np.float32, "r+", shape=shape)


def _goes_on(recipe: Recipe, done: list[Trained], watch: Watch) -> bool:
    if recipe.improvement_threshold < 0 or len(done) < 2:
        return True
    gained = done[-1].improvement
    if gained >= recipe.improvement_threshold or math.isnan(gained):  # nothing there was to be raised
        return True
    watch.say(
        f"Stage {done[-1].name} raised the best score by {gained:+.4f}, less than improvement_threshold "
        f"{recipe.improvement_threshold:g}: the stages after it are not trained."
    )
    return False


def _told(found: Trained, stages: int, score: str) -> str:
    if not found.best_epoch:
        return f"Stage {found.number}/{stages} {found.name}: no epoch was finished; what is kept stays as it was."
    said = f"Stage {found.number}/{stages} {found.name}: {score} {found.val_accuracy:.4f}, loss {found.val_loss:.4f}"
    said += f" (epoch {found.best_epoch} of {len(found.history)})"
    if not found.kept:
        said += f"; the weights kept stay those of before ({found.kept_accuracy:.4f})"
    return said + "."


@dataclass
class _State:
    """What a run has come to: the stages done, the best weights so far, and the stage in hand."""

    job: Job
    done: list[Trained]
    weights: Weights
    best: Judged
    start: Weights
    processes: int
    training: dict[str, Any] | None = None

    @classmethod
    def open(cls, job: Job, network: nn.Module, validation: Data, run: Runtime, force: bool) -> _State:
        """As it was saved, or the beginning."""
        path = job.folder / LAST
        if path.exists():
            return cls._saved(job, checkpoint.load(path), run, force)
        best = Judged(math.inf, -math.inf)
        if job.warm and len(validation):
            network.to(run.device)
            best = judge(network, validation, criterion(plain(job.recipe.stages[0].loss)), run)
        weights = {name: value.detach().to("cpu", copy=True) for name, value in network.state_dict().items()}
        return cls(job, [], weights, best, weights, run.processes)

    @classmethod
    def _saved(cls, job: Job, found: dict[str, Any], run: Runtime, force: bool) -> _State:
        try:
            changed = checkpoint.differences(found["fingerprint"], _plain(job.fingerprint))
            changed += checkpoint.differences(found["processes"], run.processes, "processes")
            if changed and not force:
                raise BadInput(
                    f"The run in {job.folder.name} was begun with something else: " + "; ".join(changed[:10]) + ".",
                    "Train as it was begun, or say which you want: --anew begins another run, --force goes on with "
                    "what is there now.",
                )
            best = Judged(found["best"]["loss"], found["best"]["accuracy"])
            done = [Trained.from_json(one) for one in found["done"]]
            return cls(job, done, found["weights"], best, found["start"], run.processes, found["training"])
        except (KeyError, TypeError, AttributeError) as error:
            raise Corrupt(
                f"The state of {job.folder.name} is damaged ({error}).", "Begin another run: everlearn train --anew"
            ) from None

    def save(self) -> None:
        checkpoint.save(
            self.job.folder / LAST,
            {
                "format": checkpoint.FORMAT, "fingerprint": _plain(self.job.fingerprint), "processes": self.processes,
                "done": [_plain(one.to_json()) for one in self.done], "weights": self.weights, "start": self.start,
                "best": {"loss": self.best.loss, "accuracy": self.best.accuracy}, "training": self.training,
            },
        )  # fmt: skip

    def add(self, number: int, stage: Stage, found: Fit, run: Runtime) -> None:
        """A stage is done: its files, whatever it was worth, and what is kept."""
        judged, before = Judged(found.val_loss, found.val_accuracy), self.best
        by = "loss" if stage.loss.name in ("mse", "mae", "huber") else stage.select
        kept = judged.better_than(before, by)
        best = {**self.weights, **found.best}
        if kept:
            self.best, self.weights = judged, best
        last = found.history[-1] if found.history else None
        self.done.append(
            Trained(
                number, stage.name, stage.description, found.val_loss, found.val_accuracy,
                last.val_loss if last else math.nan, last.val_accuracy if last else math.nan,
                found.best_epoch, found.seconds, found.stopped, kept, self.best.loss, self.best.accuracy,
                self.best.accuracy - before.accuracy if math.isfinite(before.accuracy) else math.nan,
                tuple(found.history), len(found.snapshots),
            )
        )  # fmt: skip
        self.training = None
        if run.first:
            self._files(stage, found, best)
            self.save()
        run.wait()

    def _files(self, stage: Stage, found: Fit, best: Weights) -> None:
        done = self.done[-1]
        common = {
            "format": checkpoint.FORMAT,
            "stage_idx": done.number,
            "stage_name": stage.name,
            "stage_description": stage.description,
            "stage_config": _plain(stage.model_dump()),
            "training_time": found.seconds,
            **_plain(dict(self.job.about)),
        }
        scores = {"val_loss": done.last_loss, "val_accuracy": done.last_accuracy}
        last = {**self.weights, **found.last}
        checkpoint.save(self.job.folder / done.file, {**common, **scores, "model_state_dict": last})
        scores = {"val_loss": done.val_loss, "val_accuracy": done.val_accuracy}
        checkpoint.save(self.job.folder / done.best_file, {**common, **scores, "model_state_dict": best})
        for cycle, weights in enumerate(found.snapshots, 1):
            path = self.job.folder / f"snapshot_{done.number}_{cycle}.pt"
            checkpoint.save(path, {**common, **scores, "model_state_dict": {**self.weights, **weights}})


class _Saver:
    """Saves the state now and then, and at once where somebody wants to stop."""

    def __init__(self, state: _State, run: Runtime, asked: threading.Event, seconds: float) -> None:
        self.state, self.run, self.asked, self.seconds = state, run, asked, seconds
        self.saved = time.monotonic()

    def __call__(self, state: Callable[[], dict[str, Any]], epoch_ended: bool) -> None:
        faults.point("train.step")
        stop = self.run.agree(self.asked.is_set()) if self.run.processes > 1 else self.asked.is_set()
        if not stop and time.monotonic() - self.saved < self.seconds:
            return
        if self.run.first:
            self.state.training = state()
            self.state.save()
            faults.point("train.saved")
        self.saved = time.monotonic()
        if stop:
            raise KeyboardInterrupt


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C, or a polite kill, waits for the step in hand to end; a second one does not."""
    asked, since = threading.Event(), 0.0
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, frame: object) -> None:
        nonlocal since
        if asked.is_set() and time.monotonic() - since > ONE_PRESS:
            raise KeyboardInterrupt
        since = since if asked.is_set() else time.monotonic()
        asked.set()

    before = {one: signal.signal(one, handle) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for one, handler in before.items():
            with suppress(TypeError):  # a handler that was not Python's
                signal.signal(one, handler)


def _plain(value: Any) -> Any:
    """As a stage's file can hold it: dictionaries, lists, numbers and text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)

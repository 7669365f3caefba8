"""Stages of a training, and runs, beside each other: from the catalog's numbers and the stage files on disk.

Stage files are read with `weights_only`: nothing in them is run. What was removed since (a fold's files, say) is left
out of the picture, and the numbers stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.catalog import runs, snapshots
from everlearn.errors import BadInput, EverlearnError, Missing
from everlearn.evaluate.curves import Fitting, fitting
from everlearn.evaluate.stage_analysis import Analysis, StageFacts, analysed, picture, summary, told
from everlearn.track import PLOTS
from everlearn.workspace import CHECKPOINTS, write_whole

if TYPE_CHECKING:
    from everlearn.catalog.runs import Run
    from everlearn.types import Progress
    from everlearn.workspace import Workspace

Series = Mapping[str, Sequence[tuple[int, float]]]
PICTURE = "stages.svg"
_NO_WEIGHTS = ("running_mean", "running_var", "num_batches_tracked")
"""Statistics that a norm keeps; nobody trained them. Nor what lies beside the layers: how pixels are prepared."""


@dataclass(frozen=True)
class Analysed:
    """A run's stages. picture: where it is."""

    run: Run
    found: Analysis
    picture: Path

    def to_json(self) -> dict[str, Any]:
        values = self.found.to_json()
        return {"run": self.run.name, "kind": self.run.kind, "status": self.run.status, "version": self.run.version,
                **values, "picture": str(self.picture)}  # fmt: skip

    @property
    def head(self) -> list[str]:
        score = "R²" if self.found.measure == "r2" else self.found.measure
        return [
            "",
            "stage",
            "loss",
            score,
            "loss by",
            f"{score} by",
            "weights moved",
            "best epoch",
            "time",
            "its curves",
        ]

    def rows(self) -> list[list[str]]:
        """A row for each stage, as people read them: scores, gains, weights, time, and what its curves show."""
        rows = []
        for number, one in enumerate(self.found.stages, 1):
            facts, (loss, accuracy) = one.facts, told(one.gain)
            if self.found.measure == "r2":  # no share of anything
                accuracy = "" if one.gain is None else f"{one.gain.points:+.3f}"
            moved = f"{_total(facts.weights):.3f}" if facts.weights else ""
            epochs = f"{facts.best_epoch}/{facts.epochs}" if facts.epochs else ""
            rows.append([
                str(number), facts.name, f"{facts.val_loss:.4f}", f"{facts.val_accuracy:.4f}", loss, accuracy, moved,
                epochs, f"{facts.seconds:.1f} s", facts.curves.kind if facts.curves else "",
            ])  # fmt: skip
        return rows

    def lines(self) -> list[str]:
        """What the table says in words: the total, and the classes that gained and lost most."""
        found = [summary(self.found)]
        for one in self.found.stages:
            if one.facts.curves is not None:
                found.append(f"{one.facts.name}: {one.facts.curves}")
            moved = [(name, value) for name, value in one.classes.items() if abs(value) >= 0.005][:3]
            if moved:
                named = ", ".join(f"{name} {100 * value:+.0f}" for name, value in moved)
                found.append(f"{one.facts.name}: most changed in recall, in points: {named}")
        return found


def analyze(workspace: Workspace, name: str | None, progress: Progress) -> Analysed:
    """Compare the stages of a run; without a name of the newest that trained. Raises Missing, BadInput where it has no
    stages."""
    run = _run(workspace, name)
    stages = run.result.get("stages") or []
    if not stages:
        raise BadInput(f"{run.name} ({run.kind}, {run.status}) has no stages.", "See: everlearn analyze --runs")
    folder = workspace.root / CHECKPOINTS / run.name
    files = [folder / str(one.get("best_file", "")) for one in stages]
    weights, recalls = _weights(files), _recalls(workspace, run, stages, files, progress)
    with workspace.catalog.read() as tx:
        series = runs.series(tx, run.name)
    facts = [
        StageFacts(
            str(one["name"]), str(one.get("description", "")), _number(one["val_loss"]), _number(one["val_accuracy"]),
            float(one.get("seconds") or 0), int(one.get("epochs") or 0), int(one.get("best_epoch") or 0),
            bool(one.get("kept", True)), weights.get(place, {}), recalls.get(str(one["number"]), {}),
            fitting_of(series, int(one["number"])),
        )
        for place, one in enumerate(stages)
    ]  # fmt: skip
    found = analysed(facts, "r2" if workspace.config.task == "regress" else "accuracy")
    path = workspace.root / PLOTS / run.name / PICTURE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, picture(found))
    return Analysed(run, found, path)


def listed(workspace: Workspace) -> list[dict[str, Any]]:
    """All runs that have no parent, oldest first: what they were, how they ended, what they scored."""
    with workspace.catalog.read() as tx:
        every = runs.every(tx)
    parts: dict[str, int] = {}
    for one in every:
        if one.parent is not None:
            parts[one.parent] = parts.get(one.parent, 0) + 1
    return [
        {"run": one.name, "kind": one.kind, "status": one.status, "at": one.at, "seconds": one.seconds,
         "parts": parts.get(one.name, 0), "score": _score(one.result), "version": one.version, "snapshot": one.snapshot}
        for one in every if one.parent is None
    ]  # fmt: skip


def fitting_of(series: Series, stage: int | None = None) -> Fitting | None:
    """What the curves of a training show: of one stage, or of the last that shows anything; None: there are none."""
    history = epochs(series)
    numbers = sorted({one["stage"] for one in history}) if stage is None else [stage]
    found = [fitting(own) for n in numbers if (own := [one for one in history if one["stage"] == n])]
    return next((one for one in reversed(found) if one.kind != "unclear"), found[-1] if found else None)


def epochs(series: Series) -> list[dict[str, Any]]:
    """A training's numbers epoch by epoch, as they were recorded; stage: from 1."""
    steps: dict[int, dict[str, Any]] = {}
    for name, values in series.items():
        for step, value in values:
            steps.setdefault(step, {})[name] = value
    found = [{**steps[step], "stage": int(steps[step].get("stage", 1))} for step in sorted(steps)]
    return [one for one in found if "val_loss" in one]


def _run(workspace: Workspace, name: str | None) -> Run:
    with workspace.catalog.read() as tx:
        if name is not None:
            return runs.get(tx, name)
        trained = [one for one in runs.every(tx) if one.result.get("stages") and one.parent is None]
    if not trained:
        raise Missing("No network has been trained yet.", "Train one: everlearn train")
    return trained[-1]


def _weights(files: Sequence[Path]) -> dict[int, dict[str, float]]:
    """Place of a stage -> group of layers -> ||w - w_before|| / ||w_before||; the first stage has nothing before it."""
    found: dict[int, dict[str, float]] = {}
    before: Mapping[str, Any] | None = None
    for place, path in enumerate(files):
        after = _state(path)
        if before is not None and after is not None:
            found[place] = _moved(before, after)
        before = after
    return found


def _state(path: Path) -> Mapping[str, Any] | None:
    """A stage's weights; None where its file is gone, or torch is not there to read it."""
    if not path.is_file():
        return None
    try:
        from everlearn.learn.network import checkpoint
    except ImportError:
        return None
    state: Mapping[str, Any] = checkpoint.load(path)["model_state_dict"]
    return state


def _moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
    names = [
        name for name, value in after.items()
        if name in before and before[name].shape == value.shape and value.is_floating_point()
        and "." in name and not name.endswith(_NO_WEIGHTS)
    ]  # fmt: skip
    sums: dict[str, tuple[float, float]] = {}
    for name, group in zip(names, groups(names), strict=True):
        old, new = before[name].double(), after[name].double()
        change, size = sums.get(group, (0.0, 0.0))
        sums[group] = change + float(((new - old) ** 2).sum()), size + float((old**2).sum())
    return {group: math.sqrt(change / size) if size else math.nan for group, (change, size) in sums.items()}


def groups(names: Sequence[str]) -> list[str]:
    """The group of layers that each weight belongs to: `backbone.layers.2.conv.weight` is of `layers.2`, a head's of
    `head`. What all but the heads begin with tells nothing, and is left out."""
    split = [name.split(".")[:-1] for name in names]
    body = [parts for parts in split if parts and parts[0] not in ("head", "drop")]
    shared = 0
    while body and all(len(parts) > shared + 1 for parts in body) and len({parts[shared] for parts in body}) == 1:
        shared += 1
    found = []
    for parts in split:
        own = parts[shared:] if parts in body else parts
        numbered = len(own) > 1 and own[1].isdecimal()
        group = ".".join(own[: 2 if numbered else 1])
        found.append(f"{parts[shared - 1]}.{group}" if group.isdecimal() and shared else group)
    return found


def _recalls(
    workspace: Workspace, run: Run, stages: Sequence[Mapping[str, Any]], files: Sequence[Path], progress: Progress
) -> dict[str, dict[str, float]]:
    """Number of a stage -> class -> recall on the validation side of the run's own data. Asked of the networks once,
    and then kept with the run; {} where there are no classes, or no files any more."""
    kept: dict[str, dict[str, float]] = run.result.get("recalls") or {}
    missing = [
        (str(one["number"]), path) for one, path in zip(stages, files, strict=True)
        if str(one["number"]) not in kept and path.is_file()
    ]  # fmt: skip
    if not missing or workspace.config.task == "regress" or run.snapshot is None:
        return kept
    try:
        found = {number: _recall(workspace, run.snapshot, path, progress) for number, path in missing}
    except EverlearnError as error:
        progress.say(f"Where the gains come from cannot be told: {error.message}")
        return kept
    kept = {**kept, **found}
    with workspace.catalog.write() as tx:
        runs.note(tx, run.name, {"recalls": kept})
    return kept


def _recall(workspace: Workspace, snapshot: int, path: Path, progress: Progress) -> dict[str, float]:
    from everlearn.learn.network import checkpoint
    from everlearn.learn.network.judging import answers
    from everlearn.learn.network.loading import Data
    from everlearn.learn.network.runtime import runtime
    from everlearn.model.trainable import from_stage_file
    from everlearn.stages import sides

    with workspace.catalog.read() as tx:
        held_out = sides.of(workspace, snapshots.get(tx, snapshot)).validation
    stage = checkpoint.load(path)
    classes = tuple(stage["classes"])
    asked = [one for one in held_out if one.label in classes]
    network = from_stage_file(stage, base=workspace.root)
    arrays = sides.arrays_of(workspace, network)
    rows = arrays.rows([one.id for one in asked], progress)
    targets = np.array([classes.index(one.label) for one in asked], np.int64)
    said = answers(network, Data(arrays.all(), targets, classes, rows), runtime()).numpy().argmax(axis=1)
    return {
        name: float((said[targets == column] == column).mean())
        for column, name in enumerate(classes) if (targets == column).any()
    }  # fmt: skip


def _total(weights: Mapping[str, float]) -> float:
    """One number for a table: the mean over the groups."""
    known = [value for value in weights.values() if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _score(result: Mapping[str, Any]) -> float | None:
    """What a run came to, in one number: a training's best accuracy, a cross-validation's mean, what a search found."""
    stages = result.get("stages") or []
    kept = result.get("kept") or 0
    if stages and 0 < kept <= len(stages):
        return stages[kept - 1].get("val_accuracy")
    for name in ("accuracy", "map50", "mean", "best", "value", "difference"):
        if isinstance(result.get(name), int | float):
            return float(result[name])
    return None

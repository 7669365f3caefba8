"""What is drawn of a training once it is over, and what it cost: plots in `training_logs/plots/RUN/`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.catalog import runs
from everlearn.evaluate.grids import Shown
from everlearn.evaluate.metrics import Answers
from everlearn.evaluate.training_plots import Numbers, plot_run

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from everlearn import track
    from everlearn.model.network_bundle import Trained as Answering
    from everlearn.stages.sides import Sides
    from everlearn.stages.training import Training
    from everlearn.types import Member, Progress
    from everlearn.workspace import Workspace

LOGGER = logging.getLogger("everlearn.stages.picturing")
IMAGES = 32
"""Validation images shown; of the first batches as many, from all stages together."""


def pictures(
    workspace: Workspace, divided: Sides, result: Training, following: track.Run, progress: Progress
) -> list[Path]:  # fmt: skip
    """Draw a run and give the pictures to it. Nothing that goes wrong here costs the run more than its pictures."""
    if not workspace.config.track.plots:
        return []
    try:
        written = _drawn(workspace, divided, result, following.plots, progress)
    except Exception as error:
        LOGGER.exception("the pictures of %s failed", result.run)
        progress.say(f"The pictures of {result.run} could not be drawn ({type(error).__name__}); the model is kept.")
        return []
    for path in written:
        following.artifact(path)
    progress.say(f"Pictures: {following.plots}")
    return written


def costs(workspace: Workspace, run: str) -> dict[str, Any]:
    """What gates want to know of a run's use of the machine: memory_bytes, and gpu_utilisation where there is one."""
    with workspace.catalog.read() as tx:
        system: Mapping[str, Any] = runs.get(tx, run).result.get("system") or {}
    found = {"memory_bytes": system.get("memory_peak"), "gpu_utilisation": system.get("gpu_utilisation")}
    return {name: value for name, value in found.items() if value is not None}


def _drawn(workspace: Workspace, divided: Sides, result: Training, folder: Path, progress: Progress) -> list[Path]:
    from everlearn.stages.trained import answering, inputs_of

    answers = answering(workspace, divided, result, progress)
    inputs = inputs_of(workspace, answers.network, [one.id for one in divided.validation], progress)
    table = answers.answered(inputs)
    images = not answers.network.rows
    history = [{**asdict(epoch), "stage": one.number} for one in result.stages for epoch in one.history]
    return plot_run(
        folder,
        history,
        _answers(divided, answers, table),
        stages=[stage.name for stage in result.recipe.stages],
        counts=None if divided.numbers else _counts(divided),
        first_batches=_first_batches(workspace, divided, result, answers, progress) if images else None,
        validation=_validation(divided, answers, inputs, table) if images else None,
    )


def _answers(divided: Sides, answers: Answering, table: NDArray[np.float32]) -> Answers | Numbers:
    if divided.numbers:
        return Numbers(np.array([float(one.label) for one in divided.validation]), table[:, 0].astype(np.float64))
    said = [answers.classes[column] for column in table.argmax(axis=1)]
    return Answers([one.label for one in divided.validation], said, table, answers.classes)


def _counts(divided: Sides) -> dict[str, dict[str, int]]:
    def of(members: Sequence[Member]) -> dict[str, int]:
        names, numbers = np.unique([one.label for one in members], return_counts=True)
        return dict(zip(names.tolist(), numbers.tolist(), strict=True))

    return {"training": of(divided.train), "validation": of(divided.validation)}


def _validation(divided: Sides, answers: Answering, inputs: NDArray[Any], table: NDArray[np.float32]) -> Shown:
    """The first validation images (their order is that of their digests: any), with what the network says."""
    images, labels = np.asarray(inputs[:IMAGES]), [one.label for one in divided.validation[:IMAGES]]
    part = table[:IMAGES]
    if divided.numbers:
        values = [float(row[0]) for row in part]
        wanted = np.array([float(label) for label in labels])
        spread = float(np.std([float(one.label) for one in divided.validation])) or 1.0
        close = np.abs(np.array(values) - wanted) <= 0.25 * spread
        return Shown(images, labels, [f"{value:.4g}" for value in values], right=close.tolist())
    said = [answers.classes[column] for column in part.argmax(axis=1)]
    return Shown(images, labels, said, part.max(axis=1).tolist())


def _first_batches(
    workspace: Workspace, divided: Sides, result: Training, answers: Answering, progress: Progress
) -> Shown:  # fmt: skip
    """The first images of each stage's first batch, as they were altered: drawn again from the same keys."""
    from everlearn.augment.training import augmenter
    from everlearn.learn.network.loading import Batches, Data
    from everlearn.learn.network.staged import stage_seed
    from everlearn.stages.sides import arrays_of

    arrays = arrays_of(workspace, answers.network)
    rows = arrays.rows([one.id for one in divided.train], progress)
    if divided.numbers:
        targets = np.array([float(one.label) for one in divided.train], np.float32)
    else:
        targets = np.array([answers.classes.index(one.label) for one in divided.train], np.int64)
    data = Data(arrays.all(), targets, answers.classes, rows)
    each = max(1, IMAGES // max(1, len(result.stages)))
    each = max(8, each // 8 * 8)  # whole lines
    images, labels = [], []
    for number, stage in enumerate(result.recipe.stages[: len(result.stages)], 1):
        seed = stage_seed(result.recipe, number)
        batch = Batches(data, stage, seed, 0, augmenter(stage.augmentation))[0]
        shown = batch.inputs[:each]
        pixels = shown.mul(255).round() if shown.is_floating_point() else shown
        images.append(pixels.clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy())
        of_stage = [_label(target, answers.classes) for target in batch.targets[:each]]
        labels += [f"{number}: {label}" for label in of_stage] if len(result.stages) > 1 else of_stage
    return Shown(np.concatenate(images), labels)


def _label(target: Any, classes: Sequence[str]) -> str:
    """A class, of mixed images the two that have most of it with their shares, or a number."""
    if target.ndim == 0:
        return f"{float(target):.4g}" if target.is_floating_point() else classes[int(target)]
    parts = sorted(enumerate(target.tolist()), key=lambda part: -part[1])[:2]
    shown = [(classes[place], share) for place, share in parts if share > 0.005]
    return shown[0][0] if len(shown) == 1 else " + ".join(f"{share:.1f} {name}" for name, share in shown)

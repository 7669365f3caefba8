"""From trained stages to a version: the best weights, calibrated on the validation side, as one graph."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.learn.live import Moved
from everlearn.stages import picturing, teach
from everlearn.stages.learners import Taught

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from everlearn.catalog.versions import Version
    from everlearn.model.network_bundle import Trained as Answering
    from everlearn.model.trainable import Network
    from everlearn.stages.sides import Sides
    from everlearn.stages.training import Training
    from everlearn.types import Progress, Snapshot
    from everlearn.workspace import Workspace


def enter(workspace: Workspace, snapshot: Snapshot, divided: Sides, result: Training, progress: Progress) -> Version:
    """Register what a training has come to."""
    began = time.monotonic() - result.seconds
    found = taught(workspace, divided, result, progress, Moved(len(divided.train), 0))
    report = teach.reported(f"staged:{result.recipe.name}", found, began, snapshot)
    return teach.register(workspace, found, snapshot, report, f"trained by {result.recipe.name}")


def taught(workspace: Workspace, divided: Sides, result: Training, progress: Progress, moved: Moved) -> Taught:
    """What a training has come to, ready to be registered."""
    answers = answering(workspace, divided, result, progress)
    kept = result.stages[result.kept - 1] if result.kept else None
    details: dict[str, Any] = {
        "run": result.run, "recipe": result.recipe.name, "best_epoch": kept.best_epoch if kept else 0,
        "accuracy_validation": kept.kept_accuracy if kept else None, **picturing.costs(workspace, result.run),
    }  # fmt: skip
    digest = hashlib.sha256(b"".join(_bytes(one) for one in answers.network.state_dict().values())).hexdigest()
    return Taught(
        moved, len(divided.train), answers, None, digest, None, details,
        {
            "accuracy_validation": details["accuracy_validation"],
            "automatic_labels": None,
            "run": result.run,
            "stages": [f"{one.number} {one.name}: {one.val_accuracy:.4f}" for one in result.stages],
            "knows": "Every training image shaped these weights; none can be taken out. To forget, it is trained again "
            "from what remains.",
        },
    )  # fmt: skip


def answering(workspace: Workspace, divided: Sides, result: Training, progress: Progress) -> Answering:
    """The best network of a run, its probabilities calibrated on the validation side."""
    from everlearn.learn.network import checkpoint
    from everlearn.model.network_bundle import Scale, Trained
    from everlearn.model.trainable import from_stage_file

    file = result.best_file or _begun_with(workspace, result)
    stage = checkpoint.load(file)
    network, classes = from_stage_file(stage, base=workspace.root), tuple(map(str, stage["classes"]))
    if not result.kept and classes:  # no stage was better than what it began with, which knows no new class
        classes = (*classes, *(name for name in divided.classes if name not in classes))
        network.grow(len(classes))
    if target := stage.get("target"):
        scale = Scale(target["mean"], target["deviation"], target["low"], target["high"])
        return Trained(network, (), scale)
    several = result.recipe.stages[0].loss.name == "bce"
    plain = Trained(network, classes, several=several)
    if several:
        return plain
    return Trained(network, classes, temperature=_temperature(workspace, divided, plain, progress))


def _begun_with(workspace: Workspace, result: Training) -> Path:
    """The stage file that a training began with: its own copy, or, where that is tidied away, the one it is of."""
    from everlearn.catalog import runs
    from everlearn.stages import saved
    from everlearn.stages.jobs import START

    copy = result.folder / START
    if copy.exists():
        return copy
    with workspace.catalog.read() as tx:
        return saved.stage_file(workspace, str(runs.get(tx, result.run).config["from"]))


def _temperature(workspace: Workspace, divided: Sides, plain: Answering, progress: Progress) -> float:
    table = plain.answered(inputs_of(workspace, plain.network, [one.id for one in divided.validation], progress))
    return temperature_of(table, [plain.classes.index(one.label) for one in divided.validation])


def temperature_of(table: NDArray[Any], labels: Sequence[int]) -> float:
    """What the scores behind (N, C) probabilities are divided by so that these labels are most probable (Guo et al.
    2017, arXiv:1706.04599)."""
    from scipy.optimize import minimize_scalar

    columns = np.asarray(labels)
    scores = np.log(np.maximum(table, 1e-30)).astype(np.float64)

    def loss(log_temperature: float) -> float:
        scaled = scores / np.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        logs = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        return float(-logs[np.arange(len(columns)), columns].mean())

    found = minimize_scalar(loss, bounds=(np.log(0.2), np.log(5.0)), method="bounded")
    return float(np.exp(found.x))


def inputs_of(workspace: Workspace, network: Network, ids: list[str], progress: Progress) -> NDArray[Any]:
    """What the network takes for these samples, in the order given."""
    from everlearn.stages.sides import arrays_of

    arrays = arrays_of(workspace, network)
    rows = arrays.rows(ids, progress)
    found: NDArray[Any] = arrays.all()[rows]
    return found


def _bytes(value: Any) -> bytes:
    found: bytes = value.detach().cpu().contiguous().numpy().tobytes()
    return found

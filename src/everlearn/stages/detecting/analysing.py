"""What a detector's training was worth, and what its curves show: `analyze` where the task is `detect`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.catalog import runs
from everlearn.errors import BadInput, Corrupt, Missing
from everlearn.evaluate.curves import Fitting, fitting
from everlearn.model.detecting.training import TrainedDetector
from everlearn.stages.detecting.learning import OUT
from everlearn.stages.saved import folder_of

if TYPE_CHECKING:
    from everlearn.catalog.runs import Run
    from everlearn.workspace import Workspace

RESULTS = "results.png"
LITTLE = 0.05
"""mAP50 below which a detector has learned next to nothing."""


@dataclass(frozen=True)
class Analysed:
    """A training of one stage. curves: what they show, by the losses of both sides. picture: Ultralytics' own, None
    where none was drawn."""

    run: Run
    result: TrainedDetector
    curves: Fitting
    picture: Path | None

    head = ("class", "mAP50", "mAP50-95")

    def rows(self) -> list[list[str]]:
        """A row for each class of the validation side, the worst first, then all of them."""
        found = sorted(self.result.per_class.items(), key=lambda pair: pair[1][1])
        rows = [[name, f"{map50:.4f}", f"{both:.4f}"] for name, (map50, both) in found]
        return [*rows, ["all", f"{self.result.map50:.4f}", f"{self.result.map50_95:.4f}"]]

    def lines(self) -> list[str]:
        result = self.result
        asked = result.history[-1].epoch if result.history else 0
        return [
            f"best epoch {result.best_epoch} of {asked}, ended by {result.stopped}, {result.seconds:.0f} s; precision "
            f"{result.precision:.4f}, recall {result.recall:.4f} on the validation side",
            str(self.curves),
        ]

    def to_json(self) -> dict[str, Any]:
        result = self.result
        stage = {
            "name": "detector", "map50": result.map50, "map50_95": result.map50_95, "precision": result.precision,
            "recall": result.recall, "best_epoch": result.best_epoch, "epochs": len(result.history),
            "seconds": result.seconds, "stopped": result.stopped, "curves": self.curves.to_json(),
            "classes": {name: {"map50": a, "map50_95": b} for name, (a, b) in result.per_class.items()},
        }  # fmt: skip
        picture = None if self.picture is None else str(self.picture)
        return {"run": self.run.name, "stages": [stage], "picture": picture}


def analyze(workspace: Workspace, name: str | None) -> Analysed:
    """A detector's training; without a name the newest. Raises Missing, BadInput where it is not finished."""
    with workspace.catalog.read() as tx:
        run = runs.get(tx, name) if name else runs.get(tx, kind="train")
    if run.status != "done":
        raise BadInput(f"{run.name} is {run.status}.", "Run again: it goes on. See: everlearn analyze --runs")
    folder = folder_of(workspace, run.name) / OUT
    result = result_of(folder)
    history = [
        {"epoch": one.epoch, "train_loss": sum(one.losses.values()), "val_loss": sum(one.val_losses.values())}
        for one in result.history
    ]
    curves = fitting(history)
    if result.map50 < LITTLE:  # whatever the losses do
        curves = Fitting(
            "underfitting", f"mAP50 is {result.map50:.4f}: it finds next to nothing yet. Train for longer."
        )
    picture = folder / RESULTS
    return Analysed(run, result, curves, picture if picture.is_file() else None)


def result_of(folder: Path) -> TrainedDetector:
    """What a finished training wrote down. Raises Missing, Corrupt."""
    try:
        said = json.loads((folder / "result.json").read_text("utf-8"))
        return TrainedDetector.from_json(said, folder / "weights")
    except FileNotFoundError:
        raise Missing(f"{folder} holds no finished training.", "It was removed, or never ended: train again.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{folder}/result.json cannot be read: {error!r:.100}.", "Train anew.") from None

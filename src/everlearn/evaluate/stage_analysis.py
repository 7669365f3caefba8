"""What each stage of a training was worth: losses and accuracies side by side, where the gains come from, how far the
weights moved, and whether it was too little or too much.

Gains are told against the stage before and in total, from the first stage to the last, as people report them: the loss
lower by a share of what it was, the accuracy higher by a share of what it was, and in points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from everlearn.evaluate.curves import Fitting
from everlearn.evaluate.figures import Result
from everlearn.evaluate.plots import BLUE, EN, FAINT, INK, ORANGE, Format, canvas_of, readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_GROUPS = 16
"""Groups of layers, and classes, that the picture shows: those that changed most."""


@dataclass(frozen=True, slots=True)
class Gain(Result):
    """From one stage to another. loss_reduction: share of the loss that is gone; accuracy_gain: by what share of itself
    the accuracy rose (0.102 to 0.252: 1.47); points: accuracy now - then, 0-1. None: there is none to divide by."""

    loss_reduction: float | None
    accuracy_gain: float | None
    points: float


@dataclass(frozen=True, slots=True)
class StageFacts(Result):
    """What is known of a stage. val_loss, val_accuracy (of numbers R²): of its best epoch; seconds: it took; epochs:
    that it trained; best_epoch: 0: none. kept: whether its weights were the best so far. weights: group of layers ->
    relative L2 change against the stage before; classes: class -> recall on the validation side. curves: overfitting,
    underfitting, good or unclear, and why; None where there are none."""

    name: str
    description: str
    val_loss: float
    val_accuracy: float
    seconds: float
    epochs: int = 0
    best_epoch: int = 0
    kept: bool = True
    weights: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[str, float] = field(default_factory=dict)
    curves: Fitting | None = None


@dataclass(frozen=True, slots=True)
class AnalysedStage(Result):
    """A stage, and what it gained. gain: against the stage before, None for the first. classes: class -> change of its
    recall since the stage before, the largest first."""

    facts: StageFacts
    gain: Gain | None
    classes: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        gain = {} if self.gain is None else self.gain.to_json()
        empty = {"loss_reduction": None, "accuracy_gain": None, "points": None}
        return {**self.facts.to_json(), **empty, **gain, "class_gains": dict(self.classes)}


@dataclass(frozen=True, slots=True)
class Analysis(Result):
    """All stages of a run, in order. total: from the first to the last; best: name of the stage with the best score;
    seconds: all together; measure: what val_accuracy is, accuracy or (of numbers) r2."""

    stages: tuple[AnalysedStage, ...]
    total: Gain | None
    best: str
    seconds: float
    measure: Literal["accuracy", "r2"] = "accuracy"


def analysed(stages: Sequence[StageFacts], measure: Literal["accuracy", "r2"] = "accuracy") -> Analysis:
    """Compare stages, in the order they were trained; one at least."""
    found = [
        AnalysedStage(one, gain(before, one) if before else None, _class_gains(before, one) if before else {})
        for before, one in zip([None, *stages], stages, strict=False)
    ]
    best = max(stages, key=lambda one: (_known(one.val_accuracy), -_known(one.val_loss)))
    total = gain(stages[0], stages[-1]) if len(stages) > 1 else None
    return Analysis(tuple(found), total, best.name, sum(one.seconds for one in stages), measure)


def gain(before: StageFacts, after: StageFacts) -> Gain:
    return Gain(
        _share(before.val_loss - after.val_loss, before.val_loss),
        _share(after.val_accuracy - before.val_accuracy, before.val_accuracy),
        after.val_accuracy - before.val_accuracy,
    )


def told(found: Gain | None) -> tuple[str, str]:
    """(loss, accuracy) for people: `-16.7 %`, `+147 %`."""
    if found is None:
        return "", ""
    loss = "" if found.loss_reduction is None else f"{-100 * found.loss_reduction:+.1f} %"
    accuracy = "" if found.accuracy_gain is None else f"{100 * found.accuracy_gain:+.1f} %"
    return loss, accuracy


def summary(found: Analysis) -> str:
    """One line: what all stages brought, and which was best."""
    if found.total is None:
        return f"One stage, {found.stages[0].facts.name}."
    loss, accuracy = told(found.total)
    if found.measure == "r2":
        gained = f"R² {found.total.points:+.3f}"
    else:
        gained = f"accuracy {accuracy or 'without change'} ({100 * found.total.points:+.1f} points)"
    return f"In total: loss {loss or 'without change'}, {gained}. Best stage: {found.best}."


def _share(change: float, of: float) -> float | None:
    return change / of if math.isfinite(change) and math.isfinite(of) and of > 0 else None


def _known(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _class_gains(before: StageFacts, after: StageFacts) -> dict[str, float]:
    gains = {name: after.classes[name] - before.classes[name] for name in after.classes if name in before.classes}
    return dict(sorted(gains.items(), key=lambda item: (-abs(item[1]), item[0])))


def picture(found: Analysis, words: Mapping[str, str] = EN, form: Format = "svg") -> bytes:
    """Accuracy and loss of every stage; beside them how far each group of layers moved, and the classes' gains."""
    weights = _ranked([one.facts.weights for one in found.stages[1:]])
    classes = _ranked([one.classes for one in found.stages[1:]])
    panels = 1 + bool(weights) + bool(classes)
    rows = max(len(weights), len(classes), 1)
    with canvas_of(5.2 * panels, max(3.6, 0.26 * rows + 1.6), form) as (canvas, done):
        places = canvas.subplots(1, panels, squeeze=False)[0]
        _scores(places[0], found, words)
        names = [one.facts.name for one in found.stages[1:]]
        if weights:
            table = [[one.facts.weights.get(name, math.nan) for one in found.stages[1:]] for name in weights]
            _table(places[1], table, weights, names, words["weights_change"], "Blues", "{:.2f}")
        if classes:
            table = [[100 * one.classes.get(name, math.nan) for one in found.stages[1:]] for name in classes]
            _table(places[-1], table, classes, names, words["class_gains"], "RdBu", "{:+.0f}")
    return done[0]


def _ranked(tables: Sequence[Mapping[str, float]]) -> list[str]:
    """The names with the largest changes, in their own order."""
    most: dict[str, float] = {}
    for table in tables:
        for name, value in table.items():
            most[name] = max(most.get(name, 0.0), abs(value))
    chosen = set(sorted(most, key=lambda name: -most[name])[:MOST_GROUPS])
    return [name for name in most if name in chosen]


def _scores(axes: Axes, found: Analysis, words: Mapping[str, str]) -> None:
    facts = [one.facts for one in found.stages]
    axes.spines[["top", "right"]].set_visible(False)
    place = range(len(facts))
    axes.bar(place, [one.val_accuracy for one in facts], color=BLUE, width=0.5, alpha=0.85)
    for x, one in zip(place, facts, strict=True):
        axes.text(x, one.val_accuracy, f"{one.val_accuracy:.3f}", ha="center", va="bottom", size=8)
    axes.set_xticks(place, [readable(one.name, 14) for one in facts], rotation=20, ha="right")
    axes.set_ylim(min(0.0, *(1.1 * one.val_accuracy for one in facts if math.isfinite(one.val_accuracy)), 0.0), 1.1)
    axes.set_ylabel(words[found.measure], color=BLUE)
    second = axes.twinx()
    second.plot(place, [one.val_loss for one in facts], color=ORANGE, marker="o", markersize=4)
    second.set_ylabel(words["loss"], color=ORANGE)
    second.set_ylim(0, None)
    second.spines["top"].set_visible(False)


def _table(
    axes: Axes, table: list[list[float]], rows: list[str], columns: list[str], title: str, colours: str, form: str
) -> None:
    """A grid of numbers, as dark as they are large."""
    most = max((abs(v) for row in table for v in row if math.isfinite(v)), default=1.0) or 1.0
    axes.imshow(table, cmap=colours, vmin=-1.4 * most if colours == "RdBu" else 0, vmax=1.4 * most, aspect="auto")
    for y, row in enumerate(table):
        for x, value in enumerate(row):
            if math.isfinite(value):
                dark = abs(value) > 0.7 * most
                axes.text(x, y, form.format(value), ha="center", va="center", size=8, color="white" if dark else INK)
    axes.set_xticks(range(len(columns)), [readable(name, 14) for name in columns], rotation=20, ha="right")
    axes.set_yticks(range(len(rows)), [readable(name, 18) for name in rows])
    axes.tick_params(length=0)
    axes.spines[:].set_color(FAINT)
    axes.set_title(title, size=9)

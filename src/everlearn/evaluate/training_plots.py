"""Pictures of a training, on disk after every run, with the numbers that they were drawn from.

curves.png              loss and accuracy over all epochs, the stages divided by lines
learning_rate.png
improvement.png         what each stage was worth
confusion.png           counts; confusion_normalised.png: shares of the true class
precision_recall.png    each class and the macro average; roc.png likewise
calibration.png         confidence against accuracy
class_bars.png          recall of each class, with its interval
answers.png             of numbers: what was answered against what is true
label_distribution.png  images of each class on each side
images_first_batches.png, images_validation.png    what the network saw, and what it said
history.csv, numbers.json

Names that begin with `images_` show people's images: mirrors elsewhere do not get them (`everlearn.track`).
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.errors import BadInput, StoreFault
from everlearn.evaluate import plots
from everlearn.evaluate.curves import Row, column
from everlearn.evaluate.figures import plain
from everlearn.evaluate.grids import MOST, Shown, picture_grid
from everlearn.evaluate.metrics import Answers, classification, regression
from everlearn.evaluate.plots import BLUE, EN, FAINT, INK, ORANGE, axes_of, canvas_of, readable
from everlearn.evaluate.ranking import Ranked, precision_recall, ranked, roc
from everlearn.evaluate.stage_analysis import StageFacts, analysed, picture
from everlearn.workspace import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from everlearn.evaluate.figures import Floats

FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds", "images_per_second")
MANY = 40
"""Classes that have a bar and a name of their own."""


@dataclass(frozen=True, eq=False)
class Several:
    """Answers with several labels at once. targets: (N, C) 0 or 1; probabilities: (N, C) of each label by itself."""

    targets: NDArray[Any]
    probabilities: NDArray[Any]
    classes: Sequence[str]


@dataclass(frozen=True, eq=False)
class Numbers:
    """Answers that are numbers. targets, predicted: (N,) in the target's unit."""

    targets: Floats
    predicted: Floats


def plot_run(
    folder: Path,
    history: Sequence[Row],
    answers: Answers | Several | Numbers | None = None,
    *,
    stages: Sequence[str] = (),
    counts: Mapping[str, Mapping[str, int]] | None = None,
    first_batches: Shown | None = None,
    validation: Shown | None = None,
    words: Mapping[str, str] = EN,
) -> list[Path]:
    """Draw a run into `folder` (made if need be) and return the files written, numbers last.

    history: epochs in order, each with `FIGURES` and `stage` (from 1; without it all are of the first). stages: their
    names. answers: to the validation side, by the weights that are kept. counts: side -> class -> images.
    Raises StoreFault where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreFault(f"{folder} cannot be made: {error.strerror}.", "Is the disk full or read-only?") from None
    numbers: dict[str, Any] = {}
    written: list[Path] = []
    for name, data in _drawn(history, answers, stages, counts, first_batches, validation, words, numbers):
        write_whole(folder / name, data)
        written.append(folder / name)
    write_whole(folder / "history.csv", _csv(history).encode())
    numbers["history"] = [_row(one) for one in history]
    text = json.dumps(plain(numbers), ensure_ascii=False, indent=1) + "\n"
    write_whole(folder / "numbers.json", text.encode("utf-8", "backslashreplace"))  # half a letter, as JSON writes it
    return [*written, folder / "history.csv", folder / "numbers.json"]


def _drawn(
    history: Sequence[Row], answers: Answers | Several | Numbers | None, stages: Sequence[str],
    counts: Mapping[str, Mapping[str, int]] | None, first_batches: Shown | None, validation: Shown | None,
    words: Mapping[str, str], numbers: dict[str, Any],
) -> Iterator[tuple[str, bytes]]:  # fmt: skip
    """(file name, PNG) of each picture; what it was drawn from goes into `numbers`."""
    if history:
        yield "curves.png", curves(history, stages, isinstance(answers, Numbers))
        yield "learning_rate.png", learning_rate(history, stages)
        facts = stage_facts(history, stages)
        numbers["stages"] = facts
        if len(facts) > 1:
            yield "improvement.png", picture(analysed(facts), words, "png")
    if isinstance(answers, Answers):
        yield from _of_classes(answers, words, numbers)
    elif isinstance(answers, Several):
        yield from _of_ranks(ranked(answers.targets, answers.probabilities, answers.classes), numbers)
    elif isinstance(answers, Numbers):
        numbers["metrics"] = regression(answers.targets, answers.predicted).to_json()
        yield "answers.png", answered(answers)
    if counts:
        numbers["labels"] = counts
        yield "label_distribution.png", label_distribution(counts)
    if first_batches is not None:
        yield "images_first_batches.png", picture_grid(first_batches, 2 * MOST)
    if validation is not None:
        yield "images_validation.png", picture_grid(validation)


def _of_classes(
    answers: Answers, words: Mapping[str, str], numbers: dict[str, Any]
) -> Iterator[tuple[str, bytes]]:  # fmt: skip
    metrics = classification(answers, shown=max(1, len({*answers.labels, *answers.classes})))
    numbers["metrics"] = {**metrics.to_json(), "mistakes": None}  # ids of samples stay in the catalog
    yield "confusion.png", plots.confusion_matrix(metrics.confusion, words, "png")
    yield "confusion_normalised.png", plots.confusion_matrix(metrics.confusion, words, "png", normalised=True)
    yield "class_bars.png", plots.class_bars(metrics.classes, words, "png", MANY)
    if metrics.reliability:
        yield "calibration.png", plots.reliability(metrics.reliability, words, "png")
    table = None if answers.probabilities is None else np.asarray(answers.probabilities)
    if table is not None and table.ndim == 2:
        place = {name: number for number, name in enumerate(answers.classes)}
        targets = np.zeros(table.shape)
        for row, label in enumerate(answers.labels):
            if label in place:
                targets[row, place[label]] = 1
        yield from _of_ranks(ranked(targets, table, answers.classes), numbers)


def _of_ranks(found: Ranked, numbers: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    numbers["ranking"] = found
    if found.classes:
        yield "precision_recall.png", precision_recall(found)
        yield "roc.png", roc(found)


# --- curves ---------------------------------------------------------------------------------------------------------


def curves(history: Sequence[Row], stages: Sequence[str] = (), of_numbers: bool = False) -> bytes:
    """Loss above, accuracy (of numbers R²) below, over all epochs. A ring marks the best validation score."""
    accuracy = [column(history, "train_accuracy"), column(history, "val_accuracy")]
    there = bool(np.isfinite(accuracy).any())
    with canvas_of(8.4, 6 if there else 3.6, "png") as (canvas, done):
        panels = canvas.subplots(1 + there, 1, sharex=True, squeeze=False)[:, 0]
        loss = [column(history, "train_loss"), column(history, "val_loss")]
        _panel(panels[0], loss, "Loss", history, best=np.nanargmin if np.isfinite(loss[1]).any() else None)
        _no_spikes(panels[0], loss)
        if there:
            name = "R²" if of_numbers else "Accuracy"
            _panel(panels[1], accuracy, name, history, best=np.nanargmax if np.isfinite(accuracy[1]).any() else None)
            low = float(np.nanmin(accuracy))
            panels[1].set_ylim(max(-0.05, low - 0.05) if low >= 0 else max(-1.0, low - 0.05), 1.02)
        _name_stages(panels[0], history, stages)
        panels[-1].set_xlabel("Epoch")
    return done[0]


def _panel(axes: Axes, lines: Sequence[Floats], name: str, history: Sequence[Row], best: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    x = np.arange(1, len(history) + 1)
    few = len(history) <= 40
    for values, colour, label in zip(lines, (ORANGE, BLUE), ("training (as augmented)", "validation"), strict=True):
        if np.isfinite(values).any():
            axes.plot(x, values, color=colour, label=label, linewidth=1.6, marker="o" if few else None, markersize=3)
    if best is not None:
        at = int(best(lines[1]))
        axes.scatter(x[at], lines[1][at], s=70, facecolors="none", edgecolors=INK, linewidths=1.2, zorder=4,
                     label=f"best: {lines[1][at]:.4g} in epoch {x[at]}")  # fmt: skip
    axes.set_ylabel(name)
    axes.set_xlim(0.5, len(history) + 0.5)
    axes.xaxis.set_major_locator(_whole())
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    for border in _borders(history):
        axes.axvline(border, color=FAINT, linewidth=1, zorder=0)


def _whole() -> Any:
    """Places for ticks at whole epochs."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True, steps=[1, 2, 5, 10])


def _no_spikes(axes: Axes, lines: Sequence[Floats]) -> None:
    """One epoch far off must not press the rest into a line: the axis ends above what 98 of 100 epochs need."""
    values = np.concatenate([line[np.isfinite(line)] for line in lines])
    if values.size and values.max() > 3 * (most := float(np.quantile(values, 0.98))) > 0:
        axes.set_ylim(0, 1.6 * most)


def learning_rate(history: Sequence[Row], stages: Sequence[str] = ()) -> bytes:
    """At the end of each epoch; on a logarithmic axis where it moves over more than a power of ten."""
    rate = column(history, "learning_rate")
    with canvas_of(8.4, 2.8, "png") as (canvas, done):
        axes = axes_of(canvas, "Epoch", "Learning rate")
        axes.plot(np.arange(1, len(rate) + 1), rate, color=BLUE, linewidth=1.6, drawstyle="steps-mid")
        above = rate[np.isfinite(rate) & (rate > 0)]
        if above.size and above.max() > 10 * above.min():
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # not as a formula
            axes.yaxis.set_minor_formatter(lambda value, _: "")
        axes.set_xlim(0.5, len(rate) + 0.5)
        axes.xaxis.set_major_locator(_whole())
        axes.grid(axis="y", color=FAINT, linewidth=0.5)
        for border in _borders(history):
            axes.axvline(border, color=FAINT, linewidth=1, zorder=0)
        _name_stages(axes, history, stages)
    return done[0]


def _stage_of(history: Sequence[Row]) -> NDArray[np.int64]:
    numbers = column(history, "stage")
    return np.where(np.isfinite(numbers), numbers, 1).astype(np.int64)


def _borders(history: Sequence[Row]) -> list[float]:
    """Where one stage ends and the next begins, between two epochs."""
    return [float(place) + 1.5 for place in np.flatnonzero(np.diff(_stage_of(history)))]


def _name_stages(axes: Axes, history: Sequence[Row], stages: Sequence[str]) -> None:
    """The stages' names above the axes, each over its own epochs; numbers where there is no room for names."""
    own = _stage_of(history)
    if len(set(own.tolist())) < 2:
        return
    for stage in sorted(set(own.tolist())):
        epochs = np.flatnonzero(own == stage) + 1
        name = readable(stages[stage - 1], 22) if stage <= len(stages) else f"stage {stage}"
        room = 100 * len(epochs) / len(history)  # letters that fit over it, about
        shown = name if len(name) <= room else str(stage)
        axes.text(float(epochs.mean()), 1.02, shown, transform=axes.get_xaxis_transform(), ha="center", va="bottom",
                  size=8, color=INK)  # fmt: skip


def stage_facts(history: Sequence[Row], stages: Sequence[str] = ()) -> list[StageFacts]:
    """What each stage was worth at its best epoch: the highest accuracy, of equal ones the lowest loss."""
    own, found = _stage_of(history), []
    for stage in sorted(set(own.tolist())):
        rows = [one for one, number in zip(history, own, strict=True) if number == stage]
        loss, accuracy = column(rows, "val_loss"), column(rows, "val_accuracy")
        keys = [(-a if math.isfinite(a) else math.inf, b) for a, b in zip(accuracy, loss, strict=True)]
        best = min(range(len(rows)), key=lambda place: keys[place])
        name = stages[stage - 1] if stage <= len(stages) else f"stage {stage}"
        seconds = float(np.nansum(column(rows, "seconds")))
        found.append(
            StageFacts(name, "", float(loss[best]), float(accuracy[best]), seconds, len(rows), best + 1)
        )  # fmt: skip
    return found


# --- answers and labels ---------------------------------------------------------------------------------------------


def answered(numbers: Numbers) -> bytes:
    """What was answered against what is true; on the diagonal they are the same."""
    targets, predicted = np.asarray(numbers.targets, np.float64), np.asarray(numbers.predicted, np.float64)
    if not targets.size or targets.shape != predicted.shape:
        raise BadInput(f"There are {targets.size} targets and {predicted.size} answers.", "There must be one for each.")
    with canvas_of(4.6, 4.4, "png") as (canvas, done):
        axes = axes_of(canvas, "True", "Answered")
        low, high = min(targets.min(), predicted.min()), max(targets.max(), predicted.max())
        axes.plot([low, high], [low, high], color=FAINT, dashes=(4, 3))
        axes.scatter(targets, predicted, s=14, color=BLUE, alpha=max(0.15, min(0.8, 100 / len(targets))), linewidths=0)
        axes.set_aspect("equal", adjustable="datalim")
    return done[0]


def label_distribution(counts: Mapping[str, Mapping[str, int]]) -> bytes:
    """Images of each class, the sides one upon another, the most frequent class on top. Of many classes one profile."""
    names = sorted({name for side in counts.values() for name in side}, key=lambda name: (_total(counts, name), name))
    many = len(names) > MANY
    colours = (BLUE, ORANGE, "#009E73", "#CC79A7")
    with canvas_of(7, 9 if many else max(2.2, 0.26 * len(names) + 1.1), "png") as (canvas, done):
        axes = axes_of(canvas, "Images", "")
        left = np.zeros(len(names))
        for number, (side, own) in enumerate(counts.items()):
            values = np.array([own.get(name, 0) for name in names])
            axes.barh(range(len(names)), values, left=left, height=1.0 if many else 0.7,
                      color=colours[number % len(colours)], label=f"{side} ({values.sum():,})")  # fmt: skip
            left += values
        step = -(-len(names) // 60) if many else 1
        axes.set_yticks(range(0, len(names), step), [readable(name, 22) for name in names[::step]],
                        size=6 if many else None)  # fmt: skip
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=FAINT, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, ncols=len(counts), loc="lower right", bbox_to_anchor=(1, 1.0))
    return done[0]


def _total(counts: Mapping[str, Mapping[str, int]], name: str) -> int:
    return sum(side.get(name, 0) for side in counts.values())


# --- numbers --------------------------------------------------------------------------------------------------------


def _row(one: Row) -> dict[str, Any]:
    values = {name: float(column([one], name)[0]) for name in ("stage", "epoch", *FIGURES)}
    return {name: int(value) if name in ("stage", "epoch") and math.isfinite(value) else value
            for name, value in values.items()}  # fmt: skip


def _csv(history: Sequence[Row]) -> str:
    """One line for each epoch; what is no number is empty."""
    kept = io.StringIO()
    writer = csv.writer(kept, lineterminator="\n")
    writer.writerow(["step", "stage", "epoch", *FIGURES])
    for step, one in enumerate(history, 1):
        writer.writerow(
            [step, *("" if isinstance(v, float) and not math.isfinite(v) else v for v in _row(one).values())]
        )
    return kept.getvalue()

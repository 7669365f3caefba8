"""Plots of a detector's scores, as `evaluate.plots` draws them: SVG or PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from everlearn.evaluate import plots
from everlearn.evaluate.detection.curves import CONFIDENCES
from everlearn.evaluate.detection.precision import RECALLS
from everlearn.evaluate.plots import BLUE, EN, FAINT, INK, ORANGE, Format, axes_of, canvas_of, readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from everlearn.evaluate.detection.curves import Curve
    from everlearn.evaluate.detection.metrics import ClassScore
    from everlearn.evaluate.metrics import Confusion

Line = Literal["precision", "recall", "f1"]
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#F0E442", "#000000")
DASHES: Sequence[Any] = ("-", "--", ":")
NAMED = 10
"""Classes above which the lines are not named."""


def precision_recall(curves: Sequence[Curve], words: Mapping[str, str] = EN, form: Format = "svg") -> bytes:
    """Precision against recall at an overlap of 0.5; the area below is AP50."""
    with canvas_of(5.2, 3.6, form) as (canvas, done):
        axes = axes_of(canvas, words["recall"].split(" (")[0], words["precision"].split(" (")[0])
        _lines(axes, RECALLS, [(curve.name, curve.over_recall) for curve in curves], words)
    return done[0]


def over_confidence(
    curves: Sequence[Curve],
    line: Line,
    at: float | None = None,
    words: Mapping[str, str] = EN,
    form: Format = "svg",
) -> bytes:
    """Precision, recall or F1 against the confidence from which on boxes count. at: the operating confidence."""
    with canvas_of(5.2, 3.6, form) as (canvas, done):
        axes = axes_of(canvas, words["confidence"], words[line].split(" (")[0])
        if at is not None:
            axes.axvline(at, color=INK, linewidth=1, dashes=(4, 3), label=words["operating"])
        _lines(axes, CONFIDENCES, [(curve.name, getattr(curve, line)) for curve in curves], words)
    return done[0]


def class_bars(
    classes: Sequence[ClassScore], words: Mapping[str, str] = EN, form: Format = "svg", most: int = 20
) -> bytes:
    """AP50 with its interval, and AP50-95 below it, of the lowest classes, the lowest on top."""
    tested = [(c.ap50, c) for c in classes if c.ap50 is not None]
    shown = [c for _, c in sorted(tested, key=lambda pair: (pair[0], pair[1].name))[:most]]
    with canvas_of(6, 0.34 * len(shown) + 1.2, form) as (canvas, done):
        axes = axes_of(canvas, "AP", "")
        rows = np.arange(len(shown))
        axes.barh(rows - 0.17, [c.ap50 or 0.0 for c in shown], 0.32, color=BLUE, label="AP50")
        axes.barh(rows + 0.17, [c.ap50_95 or 0.0 for c in shown], 0.32, color=ORANGE, label="AP50-95")
        for row, score in enumerate(shown):
            axes.plot(score.interval or (), [row - 0.17] * len(score.interval or ()), color="black", linewidth=1)
        axes.set_yticks(rows, [readable(c.name, 22) for c in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlim(0, 1.02)
        axes.grid(axis="x", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        canvas.legend(frameon=False, loc="outside upper right", ncols=2)
    return done[0]


def confusion_matrix(
    confusion: Confusion, words: Mapping[str, str] = EN, form: Format = "svg", *, normalised: bool = False
) -> bytes:
    """`evaluate.plots.confusion_matrix` with a row and a column for the background."""
    named = tuple(name or words["background"] for name in confusion.classes)
    return plots.confusion_matrix(replace(confusion, classes=named), words, form, normalised=normalised)


def _lines(axes: Axes, x: Any, lines: Sequence[tuple[str, Sequence[float]]], words: Mapping[str, str]) -> None:
    """The mean, which has no name, thick and on top."""
    single = [(name, y) for name, y in lines if name]
    for number, (name, y) in enumerate(single):
        axes.plot(
            x,
            y,
            color=COLOURS[number % len(COLOURS)],
            linestyle=DASHES[number // len(COLOURS) % len(DASHES)],
            linewidth=1.1,
            label=readable(name, 18) if len(single) <= NAMED else None,
        )
    for name, y in lines:
        if not name:
            axes.plot(x, y, color=BLUE, linewidth=2.6, label=words["mean"])
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid(color=FAINT, linewidth=0.4)
    if axes.lines:
        axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))

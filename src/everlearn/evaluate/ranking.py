"""Precision-recall and ROC curves: how well each class's score tells its images from all others.

Average precision is the mean precision over the recalls, not interpolated (as scikit-learn's); the ROC's area is the
probability that an image of the class scores higher than another (Fawcett 2006, "An introduction to ROC analysis").
Macro: the plain mean over the classes that have both images and non-images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.errors import BadInput
from everlearn.evaluate.figures import Result
from everlearn.evaluate.plots import BLUE, FAINT, INK, ORANGE, axes_of, canvas_of, readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from everlearn.evaluate.figures import Floats

POINTS = np.linspace(0, 1, 101)
"""Recalls, and false-positive rates, at which curves are kept and averaged."""
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D00", "#5D3A9B", "#B22222", "#3F7F5F")
NAMED = len(COLOURS)
"""Classes that have a colour and a name; of more, the worst few are named."""
WORST = 5


@dataclass(frozen=True, slots=True)
class RankedClass(Result):
    """One class. precision: (101,) at recalls `POINTS`; hits: (101,) true-positive rates at false ones `POINTS`."""

    name: str
    images: int
    average_precision: float
    area: float
    precision: tuple[float, ...]
    hits: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Ranked(Result):
    """Those classes that have images and others to be told from, and the means over them (None where there is none)."""

    classes: tuple[RankedClass, ...]
    average_precision: float | None
    area: float | None


def ranked(targets: NDArray[Any], scores: NDArray[Any], classes: Sequence[str]) -> Ranked:
    """targets: (N, C) 0 or 1; scores: (N, C), higher where the class is likelier. Raises BadInput."""
    targets, scores = np.asarray(targets), np.asarray(scores, np.float64)
    if targets.shape != scores.shape or targets.shape[1:] != (len(classes),):
        raise BadInput(
            f"targets is {targets.shape} and scores {scores.shape} where there are {len(classes)} classes.",
            "Both must have a row for each image and a column for each class.",
        )
    found = [
        _ranked(name, targets[:, place] > 0, scores[:, place])
        for place, name in enumerate(classes)
        if 0 < targets[:, place].sum() < len(targets)
    ]
    if not found:
        return Ranked((), None, None)
    means = [float(np.mean([getattr(one, name) for one in found])) for name in ("average_precision", "area")]
    return Ranked(tuple(found), means[0], means[1])


def _ranked(name: str, own: NDArray[np.bool_], scores: Floats) -> RankedClass:
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    precision, recall, _ = precision_recall_curve(own, scores)
    # the best precision at this recall or a higher one, so that the curve can be read at any recall
    best = np.maximum.accumulate(precision)[::-1]
    false, true, _ = roc_curve(own, scores)
    return RankedClass(
        name, int(own.sum()), float(average_precision_score(own, scores)), float(roc_auc_score(own, scores)),
        tuple(best[np.searchsorted(recall[::-1], POINTS, side="left")].round(6).tolist()),
        tuple(np.interp(POINTS, false, true).round(6).tolist()),
    )  # fmt: skip


def precision_recall(found: Ranked) -> bytes:
    """Precision against recall, of each class and on average."""
    with canvas_of(7.2, 4.6, "png") as (canvas, done):
        axes = axes_of(canvas, "Recall", "Precision")
        lines = [(one.name, one.average_precision, one.precision) for one in found.classes]
        _lines(axes, lines, f"macro: AP {found.average_precision or 0:.3f}", "AP")
    return done[0]


def roc(found: Ranked) -> bytes:
    """True-positive rate against false-positive rate, of each class and on average."""
    with canvas_of(7.2, 4.6, "png") as (canvas, done):
        axes = axes_of(canvas, "False-positive rate", "True-positive rate")
        axes.plot([0, 1], [0, 1], color=FAINT, dashes=(4, 3), zorder=0)
        lines = [(one.name, one.area, one.hits) for one in found.classes]
        _lines(axes, lines, f"macro: area {found.area or 0:.3f}", "area")
    return done[0]


def _lines(axes: Axes, lines: Sequence[tuple[str, float, Sequence[float]]], macro: str, word: str) -> None:
    """Few classes have a colour each; many are thin and grey, with the worst in colour."""
    few = len(lines) <= NAMED
    worst = sorted(range(len(lines)), key=lambda place: (lines[place][1], lines[place][0]))
    shown = list(range(len(lines))) if few else worst[:WORST]
    for place, (_, _, values) in enumerate(lines):
        if place not in shown:
            axes.plot(POINTS, values, color=FAINT, linewidth=0.6, alpha=0.8)
    for colour, place in zip(COLOURS, shown, strict=False):
        name, value, values = lines[place]
        axes.plot(POINTS, values, color=colour, linewidth=1.3, label=f"{readable(name, 18)}: {value:.3f}")
    mean = np.mean([values for _, _, values in lines], axis=0)
    axes.plot(POINTS, mean, color=INK, linewidth=2.4, label=macro)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.03)
    axes.set_aspect("equal")
    title = f"{word} of each class" if few else f"{word} of the lowest of {len(lines)} classes"
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5), title=title, alignment="left")

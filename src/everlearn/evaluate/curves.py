"""What the curves of a training show: too much, too little, or right.

The curves are of one stage, epoch by epoch: `train_loss` and `train_accuracy` of the steps, as augmented and
regularised, `val_loss` and `val_accuracy` of the validation side as it is. So the two losses are not measured with the
same yardstick, and are never subtracted here: what counts is which way each goes (Prechelt 1998, "Early stopping - but
when?"; Goodfellow et al. 2016, 5.2), and, of accuracies, a gap that augmentation could only make smaller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from everlearn.evaluate.figures import Result

if TYPE_CHECKING:
    from everlearn.evaluate.figures import Floats

Kind = Literal["overfitting", "underfitting", "good", "unclear"]
Row = Mapping[str, Any] | object
"""An epoch: a mapping, or anything with these attributes, such as `learn.fit.Epoch`."""

FEWEST = 4
"""Epochs below which curves show nothing."""
RISE = 0.10
"""The validation loss has risen when it ends so much above its lowest, as a share, and beyond its own noise:"""
NOISE = 4.0
"""deviations of an epoch from its neighbours. The lowest of many epochs lies some deviations too low."""
GAP = 0.15
"""More accuracy on the training side than on the validation side than this has been learned by heart."""
LOW, HIGH = 0.70, 0.95
"""An accuracy (or R²) below the first, on both sides, is low; one above the second is no underfitting in any case."""
STILL = 0.10
"""A loss that fell by so much of itself, and of its whole fall, over the last third of the epochs is still falling."""


@dataclass(frozen=True, slots=True)
class Fitting(Result):
    """kind: what the curves show; reason: why, in a sentence. As text, both."""

    kind: Kind
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


def fitting(history: Sequence[Row]) -> Fitting:
    """Judge the curves of one stage, its epochs in order. A figure that is not there, or NaN, is not used."""
    train, held = column(history, "train_loss"), column(history, "val_loss")
    if len(held) < FEWEST:
        return Fitting("unclear", f"{len(held)} epochs are too few to tell; {FEWEST} are the least.")
    if not (np.isfinite(train).all() and np.isfinite(held).all()):
        return Fitting("unclear", "a loss was no number: the training diverged.")
    found = _rising(train, held) or _by_heart(history, held) or _low(history, train, held)
    return found or _settled(history, train, held)


def column(history: Sequence[Row], name: str) -> Floats:
    """(E,) one figure of every epoch; NaN where it is not there."""
    cells = (one.get(name) if isinstance(one, Mapping) else getattr(one, name, None) for one in history)
    return np.array([math.nan if cell is None else float(cell) for cell in cells])


def _rising(train: Floats, held: Floats) -> Fitting | None:
    """Training loss falling while the validation loss rises."""
    smooth = _smooth(held)
    best = int(smooth.argmin())
    after = len(held) - 1 - best
    end, low = float(smooth[-1]), float(smooth[best])
    if after < 2 or end - low <= max(RISE * abs(low), NOISE * _noise(held)):
        return None
    before, now = float(_smooth(train)[best]), float(_smooth(train)[-1])
    if now >= before:
        return Fitting(
            "unclear",
            f"the validation loss rose from {low:.3g} in epoch {best + 1} to {end:.3g}, and the training loss did not "
            f"fall ({before:.3g} to {now:.3g}): the learning rate may be too high.",
        )
    return Fitting(
        "overfitting",
        f"since epoch {best + 1} the training loss fell from {before:.3g} to {now:.3g} while the validation loss rose "
        f"from {low:.3g} to {end:.3g}.",
    )


def _by_heart(history: Sequence[Row], held: Floats) -> Fitting | None:
    """Nearly all training images right, and clearly fewer of the others."""
    learned, known = _end(history, "train_accuracy"), _end(history, "val_accuracy")
    if learned is None or known is None or learned - known <= GAP:
        return None
    return Fitting(
        "overfitting",
        f"{100 * learned:.0f} % of the training images are answered right and {100 * known:.0f} % of the validation "
        f"images: more data, augmentation or regularisation would help.",
    )


def _low(history: Sequence[Row], train: Floats, held: Floats) -> Fitting | None:
    """Little learned on both sides, or both losses still on their way down."""
    third = max(2, len(held) // 3)
    falling = min(_fallen(train, third), _fallen(held, third))
    known, learned = _end(history, "val_accuracy"), _end(history, "train_accuracy")
    if falling > STILL and (known is None or known < HIGH) and int(_smooth(held).argmin()) >= len(held) - 2:
        return Fitting(
            "underfitting",
            f"both losses still fall, by {100 * falling:.0f} % or more over the last {third} epochs: train longer.",
        )
    if known is not None and known < LOW and (learned is None or learned < LOW):
        both = "" if learned is None else f"{100 * learned:.0f} % of the training images and "
        what = f"{both}{100 * known:.0f} % of the validation images are right" if both else f"R² is {known:.2f}"
        return Fitting("underfitting", f"{what}, and the losses hardly fall any more: a larger network or more steps.")
    return None


def _settled(history: Sequence[Row], train: Floats, held: Floats) -> Fitting:
    low, end = float(_smooth(held).min()), float(_smooth(held)[-1])
    if _end(history, "val_accuracy") is None and float(_smooth(train)[-1]) >= float(train[0]):
        return Fitting("unclear", f"the training loss has not fallen ({train[0]:.3g} to {train[-1]:.3g}).")
    return Fitting("good", f"the validation loss ends at {end:.3g}, close to its lowest, {low:.3g}, and falls no more.")


def _smooth(values: Floats) -> Floats:
    """Medians of three: one odd epoch does not count, not at the ends either."""
    middle = np.median(np.stack([values[:-2], values[1:-1], values[2:]]), axis=0)
    return np.concatenate([middle[:1], middle, middle[-1:]])


def _noise(values: Floats) -> float:
    """The standard deviation of an epoch around its neighbours' mean, which has half its variance; by the median."""
    off = np.abs(values[1:-1] - (values[:-2] + values[2:]) / 2)
    return float(1.4826 * np.median(off) / math.sqrt(1.5))


def _fallen(values: Floats, epochs: int) -> float:
    """What a loss has lost over its last epochs: the share of itself or of its whole fall, whichever is less."""
    smooth = _smooth(values)
    first, before, end = float(smooth[0]), float(smooth[-1 - epochs]), float(smooth[-1])
    return min((before - end) / before, (before - end) / (first - end)) if before > 0 and first > end else 0.0


def _end(history: Sequence[Row], name: str) -> float | None:
    """The median of the last three epochs; None where that is no number."""
    value = float(np.median(column(history, name)[-3:]))
    return value if math.isfinite(value) else None

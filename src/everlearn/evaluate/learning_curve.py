"""Would more data help? The error at growing shares of the data, and the power law that it follows.

error(n) = a n^-b + c with a, c >= 0: the form that most learning curves follow (Hestness et al. 2017, arXiv:1712.00409;
Viering & Loog 2021, "The shape of learning curves: a review", arXiv:2103.10948, table 1: POW3). c is what no number of
images like these would mend.

The interval comes from resampling whole curves (one for each fold), refitting the law each time, and widening by
Student's t for the few curves that there are. It tells of the chance in the folds, not of the chance that the true
curve bends another way beyond the data.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.errors import BadInput, TooFew
from everlearn.evaluate.figures import LEVEL, Figure, Result
from everlearn.evaluate.plots import BLUE, EN, FAINT, ORANGE, Format, axes_of, canvas_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.evaluate.figures import Floats

    Rows = NDArray[np.intp]

SLOPES = np.geomspace(0.05, 2.0, 80)
"""Exponents b that are tried; a and c follow in closed form."""
RESAMPLES = 2000
LEAST_POINTS = 3
GROWTH = 1.25
"""Each size on a curve is at least so many times the one before."""
FEW_CURVES = 4
"""From so many curves on, their own spread gives the interval."""
FARTHEST = 1000
"""No law is followed further than to so many times the data."""


@dataclass(frozen=True, slots=True)
class PowerLaw(Result):
    """error(n) = scale n^-slope + floor, n: training samples."""

    scale: float
    slope: float
    floor: float

    def error(self, samples: float) -> float:
        return self.scale * samples**-self.slope + self.floor

    def samples(self, error: float) -> float | None:
        """Training samples at which the error is this; None where it never is."""
        if error <= self.floor or not self.scale:
            return None
        return float((self.scale / (error - self.floor)) ** (1 / self.slope))


@dataclass(frozen=True, slots=True)
class Point(Result):
    """samples: learned from; score: mean over the curves, accuracy or mean absolute error; deviation: between them."""

    samples: int
    score: float
    deviation: float


@dataclass(frozen=True, slots=True)
class LearningCurve(Result):
    """points: ascending. samples: all there are now; gain: what twice as many would be worth (accuracy 0-1, or error in
    the target's unit; never below 0). needed: samples at which the target would be reached, None where the law
    never gets there; target: what was asked about, None: nothing."""

    measure: str
    points: tuple[Point, ...]
    law: PowerLaw
    samples: int
    gain: Figure
    target: float | None = None
    needed: int | None = None

    def __str__(self) -> str:
        points = self.measure == "accuracy"
        shown = [100 * (v or 0.0) for v in (self.gain.value, self.gain.low, self.gain.high)] if points else [
            v or 0.0 for v in (self.gain.value, self.gain.low, self.gain.high)
        ]  # fmt: skip
        value, low, high = (f"{v:.1f}" if points else f"{v:.3g}" for v in shown)
        worth = f"be worth about +{value} points" if points else f"take about {value} off the error"
        sure = (self.gain.low or 0.0) > (0.0005 if points else 0.01 * self.law.error(self.samples))
        head = "More images would help" if sure else "It is not shown that more images would help"
        line = f"{head}: twice the images ({self.samples:,} more) would {worth} ({low} to {high})."
        return line + self._target()

    def _target(self) -> str:
        if self.target is None:
            return ""
        of = f"{self.measure} {self.target:g}"
        if self.needed is None:
            return f" The curve does not reach {of}: better features or labels are what it lacks."
        if self.needed <= self.samples:
            return f" {of} is reached with the images there are."
        return f" About {self.needed:,} images would reach {of}."


def shares(samples: int, least: int, points: int = 6) -> list[float]:
    """Shares of the data to learn from, each twice the last, up to 1: as many as leave so many samples at least, and at
    most `points`. Raises TooFew where there are not three."""
    found = [2.0**-k for k in range(points) if samples * 2.0**-k >= least]
    if len(found) < LEAST_POINTS:
        raise TooFew(
            f"{samples} samples to learn from are too few for a learning curve.",
            f"It begins at {least * 2 ** (LEAST_POINTS - 1)}.",
        )
    return found[::-1]


def growing(sizes: Sequence[float]) -> list[int]:
    """Places of the sizes that are clearly larger than the one kept before them: where groups are large, two shares may
    come to nearly the same samples. The last, which is all there is, is kept. Raises TooFew where fewer than three are
    left."""
    kept: list[int] = []
    for place in range(len(sizes) - 1, -1, -1):
        if not kept or sizes[place] * GROWTH <= sizes[kept[-1]]:
            kept.append(place)
    if len(kept) < LEAST_POINTS:
        raise TooFew(
            f"The groups of images are so large that only {len(kept)} sizes of data can be told apart.",
            "A learning curve needs three: collect in more sessions.",
        )
    return kept[::-1]


def nested(
    labels: Sequence[Any] | NDArray[Any], groups: Sequence[Any] | NDArray[Any], rows: Rows, parts: Sequence[float],
    seed: int = 0,
) -> list[Rows]:  # fmt: skip
    """For each share the rows to learn from, ascending: whole groups, the same share of each class, each part holding
    the one before it. A group's place is a hash of its name: it depends on no other."""
    y, group = np.asarray(labels)[rows], np.asarray(groups)[rows]
    names, unit = np.unique(group, return_inverse=True)
    codes = np.unique(y, return_inverse=True)[1]
    counts = np.zeros((len(names), int(codes.max()) + 1), np.int64)
    np.add.at(counts, (unit, codes), 1)
    place = np.empty(len(names))  # 0-1, of each group among those of its class
    order = sorted(range(len(names)), key=lambda i: hashlib.sha256(f"{seed}\0{names[i]}".encode()).digest())
    for kind in range(counts.shape[1]):
        own = [i for i in order if counts[i].argmax() == kind]
        for rank, i in enumerate(own):
            place[i] = 0.0 if rank == 0 else (rank + 0.5) / len(own)  # one at least of each class
    return [np.sort(rows[place[unit] < part]) for part in parts]


def learning_curve(
    sizes: Floats | Sequence[float], errors: Floats | Sequence[Sequence[float]], *, samples: int, tested: int,
    measure: str = "accuracy", target: float | None = None, seed: int = 0,
) -> LearningCurve:  # fmt: skip
    """The curve and its law. sizes: (S,) training samples, ascending; errors: (U, S) of U curves, one for each fold:
    1 - accuracy, or the mean absolute error. samples: all there are; tested: samples that one curve was tested on;
    target: a score to be reached. Raises BadInput for fewer than three sizes or an error that is no number."""
    n, found = np.asarray(sizes, np.float64), np.atleast_2d(np.asarray(errors, np.float64))
    if n.size < LEAST_POINTS or found.shape[1:] != n.shape or not np.isfinite(found).all():
        raise BadInput(
            f"{found.shape} errors at {n.size} sizes, or one that is no number.", "Give 3 sizes or more, an error each."
        )
    mean = found.mean(axis=0)
    law = _fit(n, mean[None], measure)[0]
    best = PowerLaw(*(float(v) for v in law))
    value = best.error(samples) - best.error(2 * samples)
    drawn, widen = _resampled(found, tested, measure, seed)
    a, b, _ = _fit(n, drawn, measure).T
    gains = a * (float(samples) ** -b - float(2 * samples) ** -b)
    low, high = np.quantile(gains, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    gain = Figure(value, max(0.0, value - widen * max(0.0, value - low)), value + widen * max(0.0, high - value))
    accurate = measure == "accuracy"
    deviation = found.std(axis=0, ddof=1) if len(found) > 1 else np.zeros(n.size)
    points = tuple(
        Point(round(size), float(1 - e if accurate else e), float(d)) for size, e, d in zip(n, mean, deviation)
    )
    needed = None
    if target is not None:
        reached = best.samples(1 - target if accurate else target)
        needed = None if reached is None or reached > FARTHEST * samples else math.ceil(reached)
    return LearningCurve(measure, points, best, samples, gain, target, needed)


def _fit(n: Floats, errors: Floats, measure: str) -> Floats:
    """(B, S) errors -> (B, 3) a, b, c: weighted least squares, a and c not below 0, b the best of `SLOPES`.

    An accuracy's error varies by e (1 - e), a mean absolute error by its square: the weights are their inverses.
    """
    spread = errors * (1 - errors) if measure == "accuracy" else errors**2
    w = 1 / np.maximum(spread, 1e-4 if measure == "accuracy" else 1e-12)  # (B, S)
    w /= w.sum(axis=1, keepdims=True)
    x = n[None] ** -SLOPES[:, None]  # (K, S)
    x /= x[:, :1]  # from 1 downwards: well scaled
    sx, sxx = w @ x.T, w @ (x**2).T  # (B, K)
    se, sxe = (w * errors).sum(axis=1)[:, None], (w * errors) @ x.T
    spread_x = np.maximum(sxx - sx**2, 1e-15)
    a = (sxe - sx * se) / spread_x
    c = se - a * sx
    a, c = np.where(c < 0, sxe / sxx, a), np.maximum(c, 0)
    flat = a <= 0
    a, c = np.where(flat, 0, a), np.where(flat, se, c)
    loss = a**2 * sxx + c**2 + 2 * a * c * sx - 2 * a * sxe - 2 * c * se  # less a constant: sum w e^2
    best = loss.argmin(axis=1)
    row = np.arange(len(errors))
    slope = SLOPES[best]
    return np.column_stack([a[row, best] * n[0] ** slope, slope, c[row, best]])


def _resampled(errors: Floats, tested: int, measure: str, seed: int) -> tuple[Floats, float]:
    """(B, S) mean errors as they might have come out, and how much wider than their spread an interval must be.

    Of four curves or more, whole curves are drawn. Of fewer, the noise is that of counting (an error e on n samples
    varies by e (1 - e) / n), times what the curves show beyond it, pooled over all sizes (McCullagh & Nelder 1989,
    4.5).
    """
    from scipy.stats import norm, t

    rng = np.random.default_rng(seed)
    units, sizes = errors.shape
    level = (1 + LEVEL) / 2
    if units >= FEW_CURVES:
        drawn = errors[rng.integers(units, size=(RESAMPLES, units))].mean(axis=1)
        return drawn, float(t.ppf(level, units - 1) / norm.ppf(level)) * math.sqrt(units / (units - 1))
    mean = errors.mean(axis=0)
    counted = (mean * (1 - mean) if measure == "accuracy" else mean**2) / max(1, tested)  # of one curve
    beyond, widen = 1.0, 1.0
    if units > 1:
        beyond = max(1.0, float(np.mean(errors.var(axis=0, ddof=1) / np.maximum(counted, 1e-12))))
        widen = float(t.ppf(level, (units - 1) * sizes) / norm.ppf(level))
    noise = rng.standard_normal((RESAMPLES, sizes)) * np.sqrt(counted * beyond / units)
    return np.clip(mean + noise, 0, 1 if measure == "accuracy" else None), widen


def picture(curve: LearningCurve, words: Mapping[str, str] = EN, form: Format = "svg") -> bytes:
    """Score against training samples: the points with their deviation, the law, and where twice the data would be."""
    accurate = curve.measure == "accuracy"
    sizes = np.array([point.samples for point in curve.points], np.float64)
    scores = np.array([point.score for point in curve.points])
    along = np.geomspace(sizes[0], 4 * curve.samples, 200)
    law = np.array([curve.law.error(n) for n in along])
    law = 1 - law if accurate else law
    seen = along <= sizes[-1]
    with canvas_of(6.0, 3.6, form) as (canvas, done):
        axes = axes_of(canvas, words["curve_samples"], words["accuracy" if accurate else "mae"])
        axes.plot(along[seen], law[seen], color=BLUE, linewidth=1.6)
        axes.plot(along[~seen], law[~seen], color=BLUE, linewidth=1.6, dashes=(4, 3), label=words["curve_law"])
        axes.errorbar(
            sizes, scores, [point.deviation for point in curve.points], fmt="o", color=BLUE, markersize=5,
            elinewidth=1, label=words["curve_measured"],
        )  # fmt: skip
        now, sign = curve.law.error(curve.samples), 1 if accurate else -1
        start = 1 - now if accurate else now
        low, high = (start + sign * (v or 0.0) for v in (curve.gain.low, curve.gain.high))
        twice = 2 * curve.samples
        axes.plot([twice, twice], [low, high], color=ORANGE, linewidth=4, alpha=0.6, solid_capstyle="round")
        axes.scatter(twice, start + sign * curve.gain.value, color=ORANGE, s=28, zorder=3, label=words["curve_twice"])
        axes.axvline(curve.samples, color=FAINT, dashes=(4, 3))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        axes.legend(frameon=False, loc="lower right" if accurate else "upper right")
    return done[0]

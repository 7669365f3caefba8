"""Is one detector better than another, on the same images?

The definitions of better, equivalent, worse and undecided are those of `evaluate.compare`; the difference is that of
mAP50 (or mAP50-95), which is no mean over images, so that its spread comes from a paired bootstrap: images, or whole
groups, are drawn with replacement, both detectors' mAP is computed on the draw, and the matching is never repeated.
- *test*: Student's t of the difference and its bootstrap standard error, with n - 1 degrees of freedom. n is how many
  images (groups) stand behind the mean over classes, after Kish (1965, 8.2): 1 / sum a_u^2, where a_u is the share of
  the weight that unit u has through its true boxes. It is the number of images where all classes are alike, and about
  that of the rarest class where there is a rare one.
- *interval*: the widest of the bootstrap's percentiles, that t interval, and what n images that show no difference
  leave open (Tango's score interval, `compare.tango`), which is all that speaks where the two never differ.
- *harm* to a class (its AP50) or a camera (its mAP50): the same test, one-sided, and never surer than a sign test
  could be of as many images as changed for better or worse; with Holm's correction over those where that is enough to
  show harm at all (Tarone 1990), as `compare.vetoes` has it.
lost, gained: images in which the candidate errs (a true box not found, or one found that is wrong) more often, less
often than the champion, each at its own operating confidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from everlearn.errors import BadInput
from everlearn.evaluate.compare import (
    ALPHA,
    MARGIN,
    POWER,
    Comparison,
    Veto,
    alpha_at,
    holm,
    images_needed,
    tango,
    verdict_of,
)
from everlearn.evaluate.detection.matching import Matched, Seen, matched
from everlearn.evaluate.detection.metrics import Counts, operating, resampled, units
from everlearn.evaluate.detection.precision import mean_over_classes, rankings

if TYPE_CHECKING:
    from everlearn.evaluate.detection.matching import Bools
    from everlearn.evaluate.figures import Floats, Ints

Measure = Literal["map50", "map50_95"]
Confidence = float | Mapping[str, float] | None
LEVELS: Mapping[str, int] = {"map50": 1, "map50_95": 10}
"""How many of the overlaps a measure averages over."""
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Pair:
    """Both detectors on the same images. unit: (I,) what is drawn together; truth: sparse (C, I) true boxes; errors:
    sparse (C, I) how many errors more the candidate makes."""

    champion: Matched
    candidate: Matched
    unit: Ints
    truth: Any
    errors: Any


def compare_detection(
    champion: Sequence[Seen],
    candidate: Sequence[Seen],
    classes: Sequence[str],
    *,
    margin: float = MARGIN,
    alpha: float = ALPHA,
    look: int = 1,
    measure: Measure = "map50",
    confidence: tuple[Confidence, Confidence] = (None, None),
    seed: int = 0,
) -> Comparison:
    """Compare two detectors. champion, candidate: what each found on the same images with the same truth.

    margin: of the measure, 0-1. confidence: at which the champion and the candidate are used, as in `detection`; it
    only counts errors. Raises BadInput.
    """
    from scipy.stats import norm, t

    pair, spend = _paired(champion, candidate, classes, margin, confidence), alpha_at(alpha, look)
    n = effective(pair.truth, pair.unit)
    values, drawn = _averages(pair, LEVELS[measure], seed)
    before, after = (float(value) for value in mean_over_classes(values.T))
    change, resamples = after - before, np.diff(mean_over_classes(drawn.swapaxes(0, 1)), axis=0)[0]
    error = _spread(resamples)
    half = float(t.ppf(1 - spend / 2, n - 1)) * error if n > 1 else 2.0
    booted = np.quantile(resamples[np.isfinite(resamples)], [spend / 2, 1 - spend / 2])
    half = max(half, tango(0, 0, n, spend)[1])
    interval = max(-1.0, min(change - half, float(booted[0]))), min(1.0, max(change + half, float(booted[1])))
    p_value = 2 * _tail(abs(change), error, n)
    verdict = verdict_of(p_value, interval, margin, spend)
    images, z = len(pair.unit), float(norm.ppf(1 - spend / 2) + norm.ppf(POWER))

    def decided(total: int) -> bool:
        more = total / images
        reach = max(z * error / math.sqrt(more), tango(0, 0, n * more, spend, POWER)[1])
        return change - reach > -margin or change + reach < 0

    changed = np.asarray(pair.errors.sum(axis=0))[0]
    return Comparison(
        verdict=verdict,
        difference=change,
        interval=interval,
        p_value=p_value,
        n=images,
        needed=0 if verdict != "undecided" else images_needed(decided, images),
        vetoes=_harmed(pair, alpha, seed),
        champion=before,
        candidate=after,
        lost=int((changed > 0).sum()),
        gained=int((changed < 0).sum()),
        margin=margin,
        alpha=spend,
        look=look,
        task="detect",
        measure=measure,
    )


def effective(truth: Any, unit: Ints) -> float:
    """Kish's number of units behind a mean over classes. truth: sparse (C, I) true boxes; unit: (I,)."""
    boxes = np.asarray(truth.sum(axis=1))[:, 0]
    there = boxes > 0
    weight = np.divide(1.0, boxes * there.sum(), out=np.zeros(len(boxes)), where=there)
    shares = np.bincount(unit, truth.T @ weight)
    return 1 / float(shares @ shares)


def _harmed(pair: Pair, alpha: float, seed: int) -> tuple[Veto, ...]:
    """The classes, by AP50, and the cameras, by mAP50, that are shown to be harmed."""
    values, drawn = _averages(pair, 1, seed)
    found: list[tuple[Veto, float, int]] = []
    for number, name in enumerate(pair.champion.classes):
        truth = pair.truth[number]
        if truth.nnz:
            change = float(values[1, number] - values[0, number]), _spread(drawn[1, number] - drawn[0, number])
            images = np.ones(len(pair.unit), bool)
            found.append(_veto("class", name, pair, truth, pair.errors[number], images, change))
    cameras = np.array([one.camera or "" for one in pair.champion.images])
    named = any(one.camera is not None for one in pair.champion.images)
    for name in np.unique(cameras) if named else ():
        images = cameras == name
        truth = pair.truth.multiply(images).tocsr()
        if truth.nnz:
            own_values, own_drawn = (mean_over_classes(a.swapaxes(0, 1)) for a in _averages(pair, 1, seed, images))
            change = float(own_values[1] - own_values[0]), _spread(own_drawn[1] - own_drawn[0])
            found.append(_veto("camera", str(name), pair, truth, pair.errors.multiply(images), images, change))
    return holm([v for v, _, _ in found], [p for _, p, _ in found], [n for _, _, n in found], alpha)


def _veto(
    kind: Literal["class", "camera"],
    name: str,
    pair: Pair,
    truth: Any,
    errors: Any,
    images: Bools,
    change: tuple[float, float],
) -> tuple[Veto, float, int]:
    """A class or camera, its p-value by itself, and how many units changed. change: its value and standard error."""
    net = np.asarray(errors.sum(axis=0))[0]
    changed = int(np.count_nonzero(np.bincount(pair.unit, net)))
    there = int(images.sum()) if kind == "camera" else truth.count_nonzero()
    p_value = _tail(-change[0], change[1], effective(truth, pair.unit))
    veto = Veto(kind, name, there, int((net > 0).sum()), int((net < 0).sum()), change[0], p_value)
    return veto, max(p_value, 0.5**changed), changed


def _averages(pair: Pair, levels: int, seed: int, images: Bools | None = None) -> tuple[Floats, Floats]:
    """AP of both detectors in each class, averaged over the first overlaps: measured (2, C), and drawn (2, C, R) on the
    same images for both. images: (I,) those to look at."""
    both = [rankings(one, images, levels) for one in (pair.champion, pair.candidate)]
    unit = pair.unit if images is None else np.where(images, pair.unit, -1)
    unit = np.unique(unit, return_inverse=True)[1] - (0 if images is None or images.all() else 1)

    def averages(weights: Floats) -> Floats:
        return np.array([[one.average_precision(weights).mean(axis=0) for one in each] for each in both])

    drawn = [averages(weights) for weights in resampled([*both[0], *both[1]], unit, seed, RESAMPLES)]
    return averages((unit >= 0).astype(np.float64)[:, None])[:, :, 0], np.concatenate(drawn, axis=2)


def _paired(
    champion: Sequence[Seen],
    candidate: Sequence[Seen],
    classes: Sequence[str],
    margin: float,
    confidence: tuple[Confidence, Confidence],
) -> Pair:
    if not 0 < margin < 1:
        raise BadInput(f"margin is {margin}.", "It lies between 0 and 1, for example 0.02.")
    before, after = matched(champion, classes), matched(candidate, classes)
    if [_given(one) for one in before.images] != [_given(one) for one in after.images]:
        raise BadInput(
            f"The detectors have looked at {len(before.images)} and {len(after.images)} images, or at other boxes.",
            "Both must have looked at the same test images.",
        )
    if not len(before.truth):
        raise BadInput("There is no true box to compare on.", "Draw and label boxes on the test images.")
    was, now = (Counts.of(one, operating(one, at)) for one, at in zip((before, after), confidence, strict=True))
    errors = (now.found - 2 * now.right) - (was.found - 2 * was.right)
    return Pair(before, after, units(before.images), was.truth, errors.tocsr())


def _given(one: Seen) -> tuple[object, ...]:
    return one.id, one.truth, one.width, one.height, one.camera, one.group, one.about


def _spread(resamples: Floats) -> float:
    """The bootstrap's standard error."""
    resamples = resamples[np.isfinite(resamples)]
    return float(resamples.std(ddof=1)) if len(resamples) > 1 else math.inf


def _tail(change: float, error: float, n: float) -> float:
    """How often Student's t is at or above change / error, with n - 1 degrees of freedom."""
    from scipy.stats import t

    if error == 0:
        return 0.0 if change > 0 else 1.0 if change < 0 else 0.5
    return float(t.sf(change / error, n - 1)) if n > 1 else 0.5

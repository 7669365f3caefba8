"""How good a detector is: mAP as COCO has it, precision and recall where it is used, by class, size and camera.

Definitions. AP of a class: `precision.py`; mAP50 is its mean, with an overlap of at least 0.5, over the classes that
occur in the truth; mAP50-95 is the mean of that over ten overlaps from 0.5 to 0.95. Both equal pycocotools'. Precision,
recall and F1 are those of the boxes at or above the *operating confidence*, with an overlap of 0.5, and macro as
`evaluate.metrics` has it: plain means over the classes that occur in the truth, 0 for a class that is never found. The
operating confidence is given, for all or class by class, or else the one with the best macro F1, the highest of equal
ones; it is then chosen on the images it is judged on, so that these three are a little too good.

Intervals hold 95 % and are bootstrapped over images, or over groups where there are any, at the same confidence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.errors import BadInput
from everlearn.evaluate.detection.curves import Curve, curves
from everlearn.evaluate.detection.errors import Case, Errors, errors
from everlearn.evaluate.detection.matching import IOUS, Matched, Seen, matched, of_size
from everlearn.evaluate.detection.precision import CELLS, Ranking, mean_over_classes, ranked, ranking, rankings, truths
from everlearn.evaluate.figures import Figure, Result, bias_corrected, exact_share, resampled_weights, units_of
from everlearn.evaluate.metrics import Confusion

if TYPE_CHECKING:
    from everlearn.evaluate.detection.matching import Bools
    from everlearn.evaluate.figures import Floats, Ints

SIZES: Mapping[str, tuple[float, float]] = {
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""Areas in px², both ends included, as COCO has them."""
HEADLINE = ("map50", "map50_95", "precision", "recall", "f1")
RESAMPLES = 1000
WORK = 1_500_000_000
"""Numbers that the bootstrap may go through; with very many boxes it draws fewer resamples, never below `FEWEST`."""
FEWEST = 200


@dataclass(frozen=True, slots=True)
class ClassScore(Result):
    """One class. images: those that it occurs in; boxes: true ones; found: at or above `confidence`, and right of them.
    None: there is no such value. interval: 95 %, of AP50."""

    name: str
    images: int
    boxes: int
    found: int
    right: int
    confidence: float
    ap50: float | None
    ap50_95: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class SizeScore(Result):
    """Boxes of one size: small, medium, large. None without a true one."""

    name: str
    boxes: int
    map50: float | None
    map50_95: float | None


@dataclass(frozen=True, slots=True)
class CameraScore(Result):
    """One camera ("" where it is not known), over the classes that occur there. interval: 95 %, of map50."""

    name: str
    images: int
    boxes: int
    map50: float | None
    map50_95: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class DetectionMetrics(Result):
    """The scores of a detector. boxes: true ones. confidence: the operating confidence, None where each class has its
    own. confusion: true by found at the operating confidence, with a class "" for the background."""

    n: int
    boxes: int
    map50: Figure
    map50_95: Figure
    precision: Figure
    recall: Figure
    f1: Figure
    confidence: float | None
    classes: tuple[ClassScore, ...]
    sizes: tuple[SizeScore, ...]
    cameras: tuple[CameraScore, ...]
    errors: Errors
    confusion: Confusion
    curves: tuple[Curve, ...]

    @property
    def mistakes(self) -> tuple[Case, ...]:
        """The worst errors, kind by kind."""
        return self.errors.worst

    def headline(self) -> dict[str, Figure]:
        return {name: getattr(self, name) for name in HEADLINE}


def detection(
    images: Sequence[Seen],
    classes: Sequence[str],
    *,
    confidence: float | Mapping[str, float] | None = None,
    seed: int = 0,
) -> DetectionMetrics:
    """All scores of a detector.

    classes: those to evaluate; boxes of others are left out. confidence: at which it is used, for all classes or class
    by class (one that is not named: the best of those left); None: the best. Raises BadInput.
    """
    found = matched(images, classes)
    used = operating(found, confidence)
    counts = Counts.of(found, used)
    each = rankings(found)
    unit = units(found.images)
    values, average = _scores(counts, each, np.ones((len(unit), 1)))
    drawn = [_scores(counts, each, weights) for weights in resampled(each, unit, seed, RESAMPLES)]
    wrong, confused = errors(found, used)
    several = len(set(used.tolist())) > 1
    return DetectionMetrics(
        n=len(found.images),
        boxes=len(found.truth),
        **_figures(values[:, 0], np.concatenate([figures for figures, _ in drawn], axis=1), unit),
        confidence=None if several else float(used[0]),
        classes=_class_table(found, counts, used, average[:, :, 0], np.concatenate([a[0] for _, a in drawn], axis=1)),
        sizes=map_by_size(found),
        cameras=_camera_table(found, counts, each, seed),
        errors=wrong,
        confusion=confused,
        curves=curves(found),
    )


def average_precisions(images: Sequence[Seen], classes: Sequence[str]) -> dict[str, float]:
    """AP50 of each class that occurs in the truth: all that a history of versions needs."""
    found = matched(images, classes)
    ones = np.ones((len(found.images), 1))
    values = [one.average_precision(ones)[0, 0] for one in rankings(found, levels=1)]
    return {name: float(value) for name, value in zip(classes, values, strict=True) if np.isfinite(value)}


def operating(found: Matched, confidence: float | Mapping[str, float] | None = None) -> Floats:
    """The confidence from which on a box counts, for each class: as given, or the best. -> (C,)"""
    given = dict.fromkeys(found.classes, confidence) if isinstance(confidence, int | float) else dict(confidence or {})
    wrong = {name: value for name, value in given.items() if not 0 <= value <= 1}
    if wrong:
        raise BadInput(f"The confidence is {wrong}.", "It lies between 0 and 1.")
    left = np.array([name not in given for name in found.classes])
    best = best_confidence(found, left) if left.any() else 0.0
    return np.array([given.get(name, best) for name in found.classes])


def best_confidence(found: Matched, among: Bools | None = None) -> float:
    """The confidence with the best macro F1 at an overlap of 0.5, over the classes of the truth that are `among` (C,).

    Each found box, surest first, changes the F1 of its class by a little: their running sum is the curve. 0.5 where
    nothing right was found.
    """
    boxes, label = np.bincount(found.truth.label, minlength=len(found.classes)), found.found.label
    counted = boxes > 0 if among is None else (boxes > 0) & among
    rows = ranked(found)
    rows = rows[counted[label[rows]]]
    label, sure, hit = label[rows], found.found.confidence[rows], found.hit[0, rows]
    begin = np.searchsorted(label, label, "left")  # rows are sorted by class
    right = np.cumsum(hit)
    right = right - (right - hit)[begin] if len(rows) else right  # within its class
    f1 = 2 * right / (np.arange(len(rows)) - begin + 1 + boxes[label])
    change = np.diff(f1, prepend=0.0)
    change[begin == np.arange(len(rows))] = f1[begin == np.arange(len(rows))]
    order = np.argsort(-sure, kind="stable")
    curve = np.cumsum(change[order])
    last = np.append(np.diff(sure[order]) != 0, True)[: len(rows)]  # equally sure boxes come together
    curve, sure = curve[last], sure[order][last]
    return float(sure[np.argmax(np.round(curve, 12))]) if len(curve) and curve.max() > 0 else 0.5


@dataclass(frozen=True, slots=True)
class Counts:
    """What happens at the operating confidences, sparse (C, I): boxes found, found right, and true ones."""

    found: Any
    right: Any
    truth: Any

    @classmethod
    def of(cls, matching: Matched, confidence: Floats) -> Counts:
        from scipy.sparse import csr_matrix

        boxes = matching.found
        used = boxes.confidence >= confidence[boxes.label]
        shape = (len(matching.classes), len(matching.images))
        found, right = (
            csr_matrix((rows.astype(np.float64), (boxes.label, boxes.image)), shape=shape)
            for rows in (used, used & matching.hit[0])
        )
        return cls(found, right, truths(matching))

    def macro(self, weights: Floats) -> Floats:
        """Macro precision, recall and F1; weights: (I, R) -> (3, R), NaN without a true box."""
        right, found, boxes = (part @ weights for part in (self.right, self.found, self.truth))  # (C, R)
        with np.errstate(invalid="ignore", divide="ignore"):
            there = boxes > 0
            precision = np.where(found > 0, right / found, 0.0)
            each = np.stack([precision, right / boxes, 2 * right / (boxes + found)])
            return np.where(there, each, 0.0).sum(axis=1) / there.sum(axis=0)


def units(images: Sequence[Seen]) -> Ints:
    """What is resampled together: the group of each image, or the image by itself. -> (I,)"""
    return units_of([one.group for one in images], len(images))


def _scores(counts: Counts, each: Sequence[Ranking], weights: Floats) -> tuple[Floats, Floats]:
    """weights: (I, R) -> the five headline figures (5, R), and AP50 and AP50-95 of each class (2, C, R)."""
    average = np.array([one.average_precision(weights) for one in each])  # (C, T, R)
    average = np.stack([average[:, 0], average.mean(axis=1)])
    return np.concatenate([mean_over_classes(average.swapaxes(0, 1)), counts.macro(weights)]), average


def resampled(each: Sequence[Ranking], unit: Ints, seed: int, most: int) -> Iterator[Floats]:
    """How often each image is drawn, R resamples in blocks: (I, r) each. R is `most`, or less with many boxes.

    unit: (I,) what each image is drawn with, -1 for one that is never drawn.
    """
    work = sum(one.among.nnz + 4 * int(one.hit.sum()) for one in each) + len(unit)
    count = int(np.clip(WORK // work, min(FEWEST, most), most))
    rows = np.flatnonzero(unit >= 0)
    drawn = resampled_weights(unit[rows], count, seed)
    block = max(1, CELLS // len(unit))
    for begin in range(0, count, block):
        weights = np.zeros((len(unit), min(block, count - begin)))
        for column, one in enumerate(islice(drawn, weights.shape[1])):
            weights[rows, column] = one
        yield weights


def _figures(values: Floats, drawn: Floats, unit: Ints) -> dict[str, Figure]:
    """values: (5,), drawn: (5, R). Where no resample differs (all is right, or nothing) the exact binomial interval of
    the images, or groups, stands in."""
    count = int(unit.max()) + 1
    figures = {}
    for name, value, resamples in zip(HEADLINE, values.tolist(), drawn, strict=True):
        if not math.isfinite(value):
            figures[name] = Figure(value)
            continue
        same = np.ptp(resamples[np.isfinite(resamples)]) < 1e-12
        reach = exact_share(round(value * count), count) if same else bias_corrected(value, resamples)
        figures[name] = Figure(value, min(reach[0], value), max(reach[1], value))
    return figures


def _class_table(
    found: Matched, counts: Counts, used: Floats, average: Floats, drawn: Floats
) -> tuple[ClassScore, ...]:
    """average: (2, C) AP50 and AP50-95; drawn: (C, R) AP50."""
    rows = []
    for number, name in enumerate(found.classes):
        boxes, said, right = (int(part[number].sum()) for part in (counts.truth, counts.found, counts.right))
        ap50, ap50_95 = average[:, number].tolist() if boxes else (None, None)
        rows.append(
            ClassScore(
                name=name,
                images=int(counts.truth[number].count_nonzero()),
                boxes=boxes,
                found=said,
                right=right,
                confidence=float(used[number]),
                ap50=ap50,
                ap50_95=ap50_95,
                precision=right / said if said else (0.0 if boxes else None),
                recall=right / boxes if boxes else None,
                f1=2 * right / (boxes + said) if boxes else None,
                interval=bias_corrected(ap50, drawn[number]) if ap50 is not None else None,
            )
        )
    return tuple(rows)


def map_by_size(found: Matched) -> tuple[SizeScore, ...]:
    return tuple(_size(name, found, *limits) for name, limits in SIZES.items())


def _size(name: str, found: Matched, least: float, most: float) -> SizeScore:
    """Which found boxes count depends on the overlap here, so each of them has a ranking of its own."""
    taken, counted, wanted = of_size(found, least, most)
    total = truths(found, wanted)
    hit, rows, images = (taken >= 0) & counted, ranked(found), len(found.images)
    ones = np.ones((images, 1))
    average = np.full((len(IOUS), len(found.classes)), np.nan)
    for level in range(len(IOUS)):
        kept = rows[counted[level, rows]]
        ends = np.searchsorted(found.found.label[kept], np.arange(len(found.classes) + 1))
        for number in np.flatnonzero(np.asarray(total.sum(axis=1))[:, 0]):
            own = kept[ends[number] : ends[number + 1]]
            one = ranking(hit[level : level + 1, own], found.found.image[own], total[number], images)
            average[level, number] = one.average_precision(ones)[0, 0]
    if not wanted.any():
        return SizeScore(name, 0, None, None)
    means = mean_over_classes(average.T)  # (T,)
    return SizeScore(name, int(wanted.sum()), float(means[0]), float(means.mean()))


def _camera_table(found: Matched, counts: Counts, each: Sequence[Ranking], seed: int) -> tuple[CameraScore, ...]:
    if all(one.camera is None for one in found.images):
        return ()
    names, camera = np.unique([one.camera or "" for one in found.images], return_inverse=True)
    of_camera = (camera[:, None] == np.arange(len(names))).astype(np.float64)  # (I, cameras)
    values, _ = _scores(counts, each, of_camera)
    boxes = (counts.truth @ of_camera).sum(axis=0)
    unit = units(found.images)
    rows = []
    for number, name in enumerate(names):
        images = camera == number
        own = np.full(len(unit), -1)
        own[images] = np.unique(unit[images], return_inverse=True)[1]
        part = rankings(found, images, levels=1)
        drawn = [
            mean_over_classes(np.array([one.average_precision(weights)[0] for one in part]))
            for weights in resampled(part, own, seed, RESAMPLES)
        ]
        there, scores = bool(boxes[number]), values[:, number].tolist()
        reach = bias_corrected(scores[0], np.concatenate(drawn)) if there else None
        map50, map50_95, precision, recall, f1 = scores if there else [None] * 5
        count = int(images.sum()), int(boxes[number])
        rows.append(CameraScore(str(name), *count, map50, map50_95, precision, recall, f1, reach))
    return tuple(rows)

"""How good the answers are: headline figures with intervals, tables per class and camera, confusion, calibration.

Definitions. Macro precision, recall and F1 are the plain means over the classes that occur among the test labels. A
class absent from the test has no recall and is left out of the means; answering it is still an error of the true
class. A class that is in the test but never answered has precision 0. This is scikit-learn's
`precision_recall_fscore_support(y, p, labels=np.unique(y), average="macro", zero_division=0)`.
Nothing depends on the order of the rows.

Intervals hold 95 % and are bootstrapped over images, or over groups where there are any. By simulation they cover as
often as they say down to about ten test images per class; with three per class, macro F1 is itself about 3 points too
low and its interval with it, so that the gate is then the stricter one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.errors import BadInput
from everlearn.evaluate.figures import (
    Figure,
    Result,
    bias_corrected,
    exact_share,
    reflected,
    resampled_weights,
    units_of,
    wilson,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.evaluate.figures import Floats, Ints

BINS = 15
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model said of N test images.

    labels: (N,) true class names. predicted: (N,) class names, None where the answer was "unknown".
    probabilities: (N, C) over `classes`, or (N,) the confidence of the answer alone; None: no calibration figures.
    classes: those the model knows; a label may lie outside them (an old model, a new class) and is then answered wrong.
    cameras, groups: (N,) or None; images of one group are resampled together. ids: (N,) sample ids.
    """

    labels: Sequence[str]
    predicted: Sequence[str | None]
    probabilities: NDArray[np.floating] | None = None
    classes: Sequence[str] = ()
    cameras: Sequence[str | None] | None = None
    ids: Sequence[str] | None = None
    groups: Sequence[str | None] | None = None

    def __post_init__(self) -> None:
        rows = len(self.labels)
        if not rows:
            raise BadInput("There is no test image to evaluate on.", "Collect and label more images.")
        for name in ("predicted", "probabilities", "cameras", "ids", "groups"):
            column = getattr(self, name)
            if column is not None and len(column) != rows:
                raise BadInput(f"{name} has {len(column)} rows where labels has {rows}.")

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N,) whether each answer is the label."""
        return np.array([label == answer for label, answer in zip(self.labels, self.predicted, strict=True)])

    @property
    def confidence(self) -> Floats | None:
        """(N,) the probability given to the answer."""
        if self.probabilities is None:
            return None
        table = np.asarray(self.probabilities)
        return (table.max(axis=1) if table.ndim == 2 else table).astype(np.float64)


@dataclass(frozen=True, slots=True)
class ClassScore(Result):
    """One class. images: test images of it; answers: how often it was answered. None: there is no such value.

    interval: 95 %, of the recall (Wilson)."""

    name: str
    images: int
    answers: int
    right: int
    precision: float | None
    recall: float | None
    f1: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class CameraScore(Result):
    """One camera ("" where it is not known). accuracy for `classify`, mean absolute error for `regress`."""

    name: str
    images: int
    accuracy: float | None
    interval: tuple[float, float] | None
    mae: float | None = None


@dataclass(frozen=True, slots=True)
class Confused(Result):
    """How often `predicted` ("" for unknown) was answered where `label` was true; share: of the label's images."""

    label: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Confusion(Result):
    """pairs: every confusion, most frequent first. matrix: counts, true by predicted, of the `classes` shown."""

    classes: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]
    pairs: tuple[Confused, ...]


@dataclass(frozen=True, slots=True)
class Bin(Result):
    """A calibration bin of `count` answers: their mean confidence and the share of them that was right."""

    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True, slots=True)
class Mistake(Result):
    """A wrong answer. For `regress`, label and predicted are the numbers as text and error their distance."""

    id: str
    label: str
    predicted: str
    confidence: float | None
    error: float | None = None


@dataclass(frozen=True, slots=True)
class Metrics(Result):
    """The scores of a classifier. Macro figures as the module says; ece: expected calibration error, None without
    probabilities; mistakes: the most confident first."""

    n: int
    accuracy: Figure
    precision: Figure
    recall: Figure
    f1: Figure
    ece: Figure | None
    classes: tuple[ClassScore, ...]
    cameras: tuple[CameraScore, ...]
    confusion: Confusion
    reliability: tuple[Bin, ...]
    mistakes: tuple[Mistake, ...]

    def headline(self) -> dict[str, Figure]:
        figures = {"accuracy": self.accuracy, "precision": self.precision, "recall": self.recall, "f1": self.f1}
        return figures if self.ece is None else figures | {"ece": self.ece}


@dataclass(frozen=True, slots=True)
class RegressionMetrics(Result):
    """The scores of a regressor: mae and rmse in the target's unit, mse in its square, r2 without unit (None where
    all targets are equal)."""

    n: int
    mae: Figure
    mse: Figure
    rmse: Figure
    r2: Figure | None
    cameras: tuple[CameraScore, ...]
    mistakes: tuple[Mistake, ...]

    def headline(self) -> dict[str, Figure]:
        figures = {"mae": self.mae, "mse": self.mse, "rmse": self.rmse}
        return figures if self.r2 is None else figures | {"r2": self.r2}


def classification(answers: Answers, *, shown: int = 20, worst: int = 50, seed: int = 0) -> Metrics:
    """All scores of a classifier. shown: classes in the confusion matrix; worst: mistakes listed."""
    names = sorted({*answers.labels, *answers.classes, *(p for p in answers.predicted if p is not None)})
    code = {name: number for number, name in enumerate(names)}
    true = np.array([code[label] for label in answers.labels])
    said = np.array([len(names) if p is None else code[p] for p in answers.predicted])  # (N,) the last: unknown
    confidence = answers.confidence
    figures = _headline(true, said, confidence, answers.groups, seed)
    return Metrics(
        n=len(true),
        accuracy=figures[0],
        precision=figures[1],
        recall=figures[2],
        f1=figures[3],
        ece=figures[4] if confidence is not None else None,
        classes=_class_table(true, said, names),
        cameras=_camera_table(answers),
        confusion=confusion(true, said, names, shown),
        reliability=() if confidence is None else _reliability(confidence, true == said),
        mistakes=_mistakes(answers, worst),
    )


def macro(right: NDArray[Any], images: NDArray[Any], answers: NDArray[Any]) -> tuple[float, float, float]:
    """Macro precision, recall and F1 from the counts per class: (C,) each. Classes without images are left out."""
    there = images > 0
    right, images, answers = right[there], images[there], answers[there]
    precision = np.divide(right, answers, out=np.zeros(len(right)), where=answers > 0)
    return float(precision.mean()), float((right / images).mean()), float((2 * right / (images + answers)).mean())


def equal_mass_bins(confidence: Floats, bins: int = BINS) -> Ints:
    """(N,) -> (N,) bin numbers; about as many answers in each, equal confidences always together."""
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.searchsorted(edges, confidence, side="left")


def calibration_error(confidence: Floats, right: Floats, bins: Ints, weights: Floats) -> float:
    """Expected calibration error: the mean over answers of |confidence - accuracy| of their bin (Naeini et al. 2015,
    with the equal-mass bins of Nguyen & O'Connor 2015, `BINS` of them)."""
    return float(np.abs(np.bincount(bins, weights * (confidence - right))).sum() / weights.sum())


def _headline(
    true: Ints, said: Ints, confidence: Floats | None, groups: Sequence[str | None] | None, seed: int
) -> list[Figure]:
    """Accuracy, macro precision, recall, F1 and, with confidences, ECE; with bootstrap intervals.

    Where all answers are right (or all wrong) no resample differs, and the exact binomial interval stands in.
    """
    present, true = np.unique(true, return_inverse=True)
    where = np.minimum(np.searchsorted(present, said), len(present) - 1)
    said = np.where(present[where] == said, where, len(present))  # classes absent from the test share one column
    sure = np.zeros(len(true)) if confidence is None else confidence
    bins = equal_mass_bins(sure)

    # rows in an order of their own, so that the intervals do not depend on the order they came in
    _, group = np.unique([g or "" for g in groups or [""] * len(true)], return_inverse=True)
    order = np.lexsort((sure, said, true, group))
    units = units_of(None if groups is None else [groups[i] for i in order], len(true))
    true, said, sure, bins = true[order], said[order], sure[order], bins[order]
    right = (true == said).astype(np.float64)

    def scores(weights: Floats) -> list[float]:
        images = np.bincount(true, weights, len(present))
        answers = np.bincount(said, weights, len(present) + 1)[:-1]
        hits = np.bincount(true, weights * right, len(present))
        found = [float(hits.sum() / weights.sum()), *macro(hits, images, answers)]
        return found if confidence is None else [*found, calibration_error(sure, right, bins, weights)]

    values = scores(np.ones(len(true)))
    drawn = np.array([scores(weights) for weights in resampled_weights(units, RESAMPLES, seed)])
    figures = [Figure(v, *bias_corrected(v, drawn[:, i])) for i, v in enumerate(values[:4])]
    figures += [Figure(v, *reflected(v, drawn[:, 4])) for v in values[4:]]
    if right.all() or not right.any():
        count = int(units.max()) + 1
        figures[:4] = [Figure(value, *exact_share(int(right[0]) * count, count)) for value in values[:4]]
    return figures


def _class_table(true: Ints, said: Ints, names: Sequence[str]) -> tuple[ClassScore, ...]:
    images = np.bincount(true, minlength=len(names))
    answers = np.bincount(said, minlength=len(names) + 1)[:-1]
    right = np.bincount(true[true == said], minlength=len(names))
    low, high = wilson(right, images)
    return tuple(
        ClassScore(
            name=name,
            images=int(n),
            answers=int(a),
            right=int(r),
            precision=float(r / a) if a else (0.0 if n else None),
            recall=float(r / n) if n else None,
            f1=float(2 * r / (n + a)) if n else None,
            interval=(float(low[i]), float(high[i])) if n else None,
        )
        for i, (name, n, a, r) in enumerate(zip(names, images, answers, right, strict=True))
    )


def _camera_table(answers: Answers) -> tuple[CameraScore, ...]:
    if answers.cameras is None:
        return ()
    names, camera = np.unique([c or "" for c in answers.cameras], return_inverse=True)
    images = np.bincount(camera)
    right = np.bincount(camera, answers.right)
    low, high = wilson(right, images)
    return tuple(
        CameraScore(str(name), int(images[i]), float(right[i] / images[i]), (float(low[i]), float(high[i])))
        for i, name in enumerate(names)
    )


def confusion(true: Ints, said: Ints, names: Sequence[str], shown: int = 20) -> Confusion:
    """Every confused pair, and the matrix of all classes or, where there are more, of the `shown` most confused."""
    images = np.bincount(true, minlength=len(names))
    wrong = true != said
    cells, counts = np.unique(np.stack([true[wrong], said[wrong]]), axis=1, return_counts=True)  # (2, P), (P,)
    pairs = sorted(zip(counts.tolist(), *cells.tolist(), strict=True), key=lambda cell: (-cell[0], *cell[1:]))
    kept: dict[int, None] = {}
    for _, label, answer in pairs:
        kept.update(dict.fromkeys((label, answer)) if answer < len(names) and len(kept) <= shown - 2 else {})
    in_test = [int(i) for i in np.unique(np.concatenate([true, said[said < len(names)]]))]
    rows = in_test if len(in_test) <= shown else sorted(kept)
    place = np.full(len(names) + 1, -1)
    place[rows] = np.arange(len(rows))
    inside = (place[true] >= 0) & (place[said] >= 0)
    matrix = np.bincount(place[true][inside] * len(rows) + place[said][inside], minlength=len(rows) ** 2)
    everyone = [*names, ""]
    return Confusion(
        classes=tuple(names[i] for i in rows),
        matrix=tuple(tuple(row) for row in matrix.reshape(len(rows), len(rows)).tolist()),
        pairs=tuple(Confused(everyone[t], everyone[p], n, n / int(images[t])) for n, t, p in pairs),
    )


def _reliability(confidence: Floats, right: NDArray[np.bool_]) -> tuple[Bin, ...]:
    bins = equal_mass_bins(confidence)
    return tuple(
        Bin(float(confidence[bins == b].mean()), float(right[bins == b].mean()), int((bins == b).sum()))
        for b in np.unique(bins)
    )


def _mistakes(answers: Answers, worst: int) -> tuple[Mistake, ...]:
    confidence = answers.confidence
    ids = answers.ids if answers.ids is not None else [str(row) for row in range(len(answers.labels))]
    sure = np.zeros(len(ids)) if confidence is None else confidence
    wrong = sorted(np.flatnonzero(~answers.right).tolist(), key=lambda row: (-sure[row], ids[row]))[:worst]
    return tuple(
        Mistake(
            ids[row],
            answers.labels[row],
            answers.predicted[row] or "",
            None if confidence is None else float(sure[row]),
        )
        for row in wrong
    )


def regression(
    targets: Sequence[float] | Floats,
    predicted: Sequence[float] | Floats,
    *,
    cameras: Sequence[str | None] | None = None,
    ids: Sequence[str] | None = None,
    groups: Sequence[str | None] | None = None,
    worst: int = 50,
    seed: int = 0,
) -> RegressionMetrics:
    """All scores of a regressor. targets, predicted: (N,) in the target's unit, finite."""
    target, said = np.asarray(targets, np.float64), np.asarray(predicted, np.float64)
    if not target.size or target.shape != said.shape:
        raise BadInput(f"There are {target.size} targets and {said.size} predictions.", "There must be one for each.")
    if not (np.isfinite(target).all() and np.isfinite(said).all()):
        raise BadInput("A target or a prediction is not a finite number.", "Find it with `everlearn data`.")
    _, group = np.unique([g or "" for g in groups or [""] * len(target)], return_inverse=True)
    order = np.lexsort((said, target, group))
    units = units_of(None if groups is None else [groups[i] for i in order], len(target))
    y, error = target[order], (said - target)[order]

    def scores(w: Floats) -> tuple[float, float, float, float]:
        total = w.sum()
        mse = float(w @ error**2 / total)
        spread = float(w @ (y - w @ y / total) ** 2 / total)
        return float(w @ abs(error) / total), mse, math.sqrt(mse), 1 - mse / spread if spread else math.nan

    values = scores(np.ones(len(y)))
    drawn = np.array([scores(weights) for weights in resampled_weights(units, RESAMPLES, seed)])
    mae, mse, rmse, r2 = (Figure(v, *bias_corrected(v, drawn[:, i])) for i, v in enumerate(values))
    names = ids if ids is not None else [str(row) for row in range(len(target))]
    size = np.abs(said - target)
    last = sorted(range(len(names)), key=lambda row: (-size[row], names[row]))[:worst]
    return RegressionMetrics(
        n=len(target),
        mae=mae,
        mse=mse,
        rmse=rmse,
        r2=r2 if math.isfinite(r2.value) else None,
        cameras=_camera_errors(size, cameras),
        mistakes=tuple(
            Mistake(names[row], f"{target[row]:g}", f"{said[row]:g}", None, float(size[row]))
            for row in last
            if size[row]
        ),
    )


def _camera_errors(size: Floats, cameras: Sequence[str | None] | None) -> tuple[CameraScore, ...]:
    if cameras is None:
        return ()
    names, camera = np.unique([c or "" for c in cameras], return_inverse=True)
    images = np.bincount(camera)
    mae = np.bincount(camera, size) / images
    return tuple(CameraScore(str(n), int(images[i]), None, None, float(mae[i])) for i, n in enumerate(names))

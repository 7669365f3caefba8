"""From a memory (and the cached features of its samples) to a head that answers: solve, choose, calibrate."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import TooFew
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.calibrate import (
    Answers,
    OutOfFold,
    Threshold,
    Weights,
    model_digest,
    precision_threshold,
    residual_quantiles,
    stride,
    temperature,
)
from everlearn.learn.exact.fit_unknown import OpenSet, classes_of, open_set
from everlearn.learn.exact.head import KINDS, Head, Kind, ranked
from everlearn.learn.exact.memory import ExactMemory
from everlearn.learn.exact.openset import Rate
from everlearn.learn.exact.solve import Floats, Ridge, lda, means, moments, plain, ridge
from everlearn.learn.exact.threads import in_threads

AUTO_LABEL = "auto_label"
_CHOOSING_SCORES = 2**27
"""Scores that fit the choice of a head; of more, every k-th row is taken."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A head and how it came about.

    accuracies: head kind to out-of-fold accuracy, {} without a cache. held_out: the chosen head's out-of-fold view (for
    confident learning), answers: its answers in canonical order; both None without a cache or for regression.
    thresholds: name to Threshold, or None where no threshold keeps the promise. residuals: (N,) out of fold, values,
    regression only. unknown: how `unknown` came to be an answer, None where none was asked for. digest: the model
    digest.
    """

    head: Head
    alpha: float
    digest: str
    errors: dict[float, float]
    accuracies: dict[str, float] = field(default_factory=dict)
    held_out: OutOfFold | None = None
    answers: Answers | None = None
    thresholds: dict[str, Threshold | None] = field(default_factory=dict)
    residuals: NDArray[np.float64] | None = None
    unknown: OpenSet | None = None


def fit(
    memory: ExactMemory, cached: Cached | None = None, precision: float = 0.95, delta: float = 0.05,
    false_accept: Rate | None = None,
) -> Fitted:  # fmt: skip
    """The best head that the memory gives. Without `cached` it is the ridge, uncalibrated.

    cached must hold exactly the memory's samples. precision, delta: automatic labels are to be right this often, with
    probability 1 - delta. false_accept: at most this share of strangers is to be answered with a class, and the label
    `unknown` is that of negatives; "equal": as many as of the known are refused; None: every answer is a class. Raises
    BadInput where the memory is empty, holds no class, or the cache is of other samples.
    """
    if cached is not None:
        cached.check(memory)
    classes = classes_of(memory, false_accept is not None)
    if memory.target is None and not classes and memory.samples:
        raise TooFew("there is no class to learn, only negatives.", "Label samples with what they are.")
    solved = ridge(memory, cached)
    if memory.target is not None:
        return _fit_regression(memory, solved, cached)
    if cached is None or len(memory.columns) < 2 or not any(part is not None for part in solved.held_out):
        return _uncalibrated(memory, solved, classes)
    found = _fit_classifier(memory, solved, cached.of(classes), classes)
    folds = [fold for fold, part in enumerate(solved.held_out) if part is not None]
    unknown = None if false_accept is None else open_set(memory, classes, cached, folds, false_accept)
    return _promised(memory, found, unknown, precision, delta)


def _fit_classifier(memory: ExactMemory, solved: Ridge, cached: Cached, classes: tuple[str, ...]) -> Fitted:
    """The head, chosen and calibrated out of fold. cached: the samples of the classes."""
    views = {kind: view for kind in KINDS if (view := _held_out(memory, solved, cached, kind, classes)) is not None}
    every = stride(len(cached.order), len(classes), _CHOOSING_SCORES)
    scored = sum(len(cached.rows(fold, every)) for fold, part in enumerate(solved.held_out) if part is not None)
    right = {kind: view.correct(every) for kind, view in views.items()}
    shares: dict[Kind, float] = {kind: count / max(1, scored) for kind, count in right.items()}
    kind, weights, bias = _best(memory, solved, shares, classes)
    warmth = temperature(views[kind])
    view = replace(views[kind], temperature=warmth or 1.0)
    head = Head(kind, classes, weights, bias, temperature=view.temperature, calibrated=warmth is not None)
    accuracies: dict[str, float] = dict(shares.items())
    return Fitted(head, solved.alpha, "", solved.errors, accuracies, view, view.answers())


def _promised(memory: ExactMemory, found: Fitted, unknown: OpenSet | None, precision: float, delta: float) -> Fitted:
    """With what is promised of the answers: thresholds for `unknown` and for automatic labels."""
    assert found.answers is not None
    rejection = None if unknown is None else unknown.rejection
    confidence, correct = found.answers.confidence, found.answers.correct
    if unknown is not None and rejection is not None:
        confidence, correct = _accepted(found.answers, unknown.margins, rejection.width)
    threshold = precision_threshold(confidence, correct, precision, delta)
    thresholds = {AUTO_LABEL: threshold.threshold if threshold else None}
    decides = [] if unknown is None else [unknown.cut.asked, unknown.cut.threshold, rejection.width if rejection else 0]
    head = replace(found.head, unknown=rejection)
    digest = model_digest(memory.digest(), head.kind, found.alpha, head.temperature, thresholds, decides)
    return replace(found, head=head, digest=digest, thresholds={AUTO_LABEL: threshold}, unknown=unknown)


def _accepted(
    answers: Answers, margins: Floats, width: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:  # fmt: skip
    """Confidence and correctness of the answers that are not `unknown`, beside which the others are less likely."""
    margin = margins[answers.rows]
    kept = margin > 0  # NaN where it was not scored
    confidence = 1 / (1 / answers.confidence[kept] + np.exp(-margin[kept] / width))
    return confidence.astype(np.float32), answers.correct[kept]


def _best(
    memory: ExactMemory, solved: Ridge, shares: dict[Kind, float], classes: tuple[str, ...]
) -> tuple[Kind, NDArray[np.float32], NDArray[np.float32]]:
    """The best head that can be built from all folds."""
    for kind in ranked(shares, [int(memory.counts[name].sum()) for name in classes]):
        built = _head(memory, kind, solved.weights, None, classes)
        if built is not None:
            return kind, *built
    raise AssertionError("the ridge can always be built")


def _uncalibrated(memory: ExactMemory, solved: Ridge, classes: tuple[str, ...]) -> Fitted:
    built = _head(memory, "ridge", solved.weights, None, classes)
    assert built is not None
    head = Head("ridge", classes, *built)
    digest = model_digest(memory.digest(), "ridge", solved.alpha, 1.0, {AUTO_LABEL: None})
    return Fitted(head, solved.alpha, digest, solved.errors, thresholds={AUTO_LABEL: None})


def _fit_regression(memory: ExactMemory, solved: Ridge, cached: Cached | None) -> Fitted:
    target = memory.target
    assert target is not None
    residuals = None
    quantiles: dict[float, float] = {}
    if cached is not None:
        wanted, found = target.value(target.fixed(cached.labels)), np.full(len(cached.ids), np.nan)
        for fold, weights in enumerate(solved.held_out):
            if weights is None:
                continue
            centre = moments(memory, fold).centre
            for rows, phi in cached.blocks(cached.rows(fold)):
                found[rows] = target.value(phi @ weights[:, 0] + centre)
        residuals = found - wanted
        quantiles = residual_quantiles(residuals[np.isfinite(residuals)])
    head = Head(
        "regress",
        (),
        solved.weights.astype(np.float32),
        np.array([moments(memory).centre], np.float32),
        calibrated=bool(quantiles),
        target=target,
        quantiles=quantiles,
    )
    digest = model_digest(memory.digest(), "regress", solved.alpha, 1.0, {})
    return Fitted(head, solved.alpha, digest, solved.errors, residuals=residuals)


def _head(
    memory: ExactMemory, kind: Kind, weights: Floats, fold: int | None, classes: tuple[str, ...]
) -> Weights | None:
    """(D, C) weights and (C,) bias of a head, from all folds but one; None where it cannot be. Negatives are groups of
    their own to every head, of which no class comes."""
    found = moments(memory, fold)
    if kind == "lda":
        both = lda(weights, found)
    elif kind == "mean":
        both = means(memory, found, fold)
    else:
        both = plain(weights, found)
    if both is None:
        return None
    built, bias = both[0].astype(np.float32), both[1].astype(np.float32)
    named = [memory.columns.index(name) for name in classes] if len(classes) < len(bias) else []
    return (built, bias) if not named else (np.ascontiguousarray(built[:, named]), bias[named])


def _held_out(
    memory: ExactMemory, solved: Ridge, cached: Cached, kind: Kind, classes: tuple[str, ...]
) -> OutOfFold | None:
    """The head's out-of-fold view; None where it cannot be built for a fold that is held out."""
    parts: list[Weights | None] = [None] * memory.folds
    filled = [fold for fold, weights in enumerate(solved.held_out) if weights is not None]

    def build(fold: int) -> Weights | None:
        weights = solved.held_out[fold]
        return None if weights is None else _head(memory, kind, weights, fold, classes)

    for fold, part in zip(filled, in_threads(build, filled)):
        if part is None:
            return None
        parts[fold] = part
    return OutOfFold(classes, tuple(parts), cached)

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import binom

from everlearn.errors import BadInput
from everlearn.learn.exact.calibrate import (
    TEMPERATURES,
    OutOfFold,
    model_digest,
    precision_threshold,
    residual_quantiles,
    temperature,
)
from everlearn.learn.exact.head import softmax
from tests.learn.exact.make import blobs, cache


def view(phi, labels, folds, weights, classes):
    part = (weights.astype(np.float32), np.zeros(len(classes), np.float32))
    return OutOfFold(classes, (part,) * 5, cache(phi, labels, folds))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_temperature_is_the_best_of_the_grid(scale):
    phi, labels, folds = blobs(2000, 6, 3, noise=50)
    weights = scale * np.stack([phi[np.array(labels) == f"c{c}"].mean(axis=0) for c in range(3)], axis=1)
    found = temperature(view(phi, labels, folds, weights, ("c0", "c1", "c2")))
    scores, column = phi @ weights, np.array([int(name[1]) for name in labels])

    def loss(log_t):
        return -log_softmax(scores / np.exp(log_t), axis=1)[np.arange(2000), column].mean()

    best = minimize_scalar(loss, bounds=(-9, 16), method="bounded").x
    assert abs(np.log(found) - best) < 0.04
    assert found in TEMPERATURES


def test_probabilities_are_calibrated():
    """Labels drawn from known probabilities: the temperature that made them is found again."""
    rng = np.random.default_rng(0)
    phi = rng.integers(-127, 128, (20_000, 4), dtype=np.int8)
    weights = rng.normal(0, 1, (4, 5))
    truth = softmax((phi @ weights).astype(np.float32), 80.0)
    column = (truth.cumsum(axis=1) > rng.random((20_000, 1))).argmax(axis=1)
    labels = [f"c{i}" for i in column]
    found = temperature(view(phi, labels, rng.integers(0, 5, 20_000), weights, tuple(f"c{i}" for i in range(5))))
    assert found == pytest.approx(80, rel=0.08)


def test_answers_all_right_do_not_freeze_the_temperature():
    phi = np.repeat(np.array([[127, -127], [-127, 127]], np.int8), 20, axis=0)
    labels = ["a"] * 20 + ["b"] * 20
    found = temperature(view(phi, labels, np.arange(40) % 5, np.eye(2), ("a", "b")))
    confidence = softmax(np.array([[127, -127]], np.float32), found).max()
    assert 0.95 < confidence < 1 - 1e-3


def test_nothing_held_out_means_no_temperature():
    phi, labels, folds = blobs(20, 3, 2)
    empty = OutOfFold(("c0", "c1"), (None,) * 5, cache(phi, labels, folds))
    assert temperature(empty) is None
    assert np.isnan(empty.probabilities()).all()
    assert not len(empty.answers().rows)


def test_rows_come_back_where_they_were():
    phi, labels, folds = blobs(300, 6, 3)
    weights = np.random.default_rng(0).normal(size=(6, 3))
    order = np.random.default_rng(1).permutation(300)
    ordered = view(phi, labels, folds, weights, ("c0", "c1", "c2"))
    shuffled = view(phi[order], [labels[i] for i in order], folds[order], weights, ("c0", "c1", "c2"))
    shuffled = OutOfFold(shuffled.classes, shuffled.parts, type(shuffled.cached)(
        [ordered.cached.ids[i] for i in order], phi[order], [labels[i] for i in order], folds[order]))  # fmt: skip
    assert np.array_equal(shuffled.probabilities(), ordered.probabilities()[order])
    assert np.array_equal(shuffled.answers().confidence, ordered.answers().confidence)
    assert np.array_equal(shuffled.answers().correct, ordered.answers().correct)
    assert temperature(shuffled) == temperature(ordered)
    assert ordered.answers().accuracy == ordered.correct() / 300


def test_threshold_keeps_its_promise_in_repeated_trials():
    """Precision falls with confidence; in 300 draws the chosen threshold's true precision is below target in few."""
    rng = np.random.default_rng(0)
    grid = np.linspace(0, 1, 20_001)
    chance = np.clip(0.6 + 0.42 * grid, 0, 1)  # of being right, by confidence
    true_precision = np.cumsum(chance[::-1])[::-1] / np.arange(len(grid), 0, -1)
    broken, none, coverage = 0, 0, []
    for _ in range(300):
        confidence = rng.random(800)
        correct = rng.random(800) < np.clip(0.6 + 0.42 * confidence, 0, 1)
        found = precision_threshold(confidence, correct, 0.9, 0.1)
        if found is None:
            none += 1
            continue
        coverage.append(found.coverage)
        broken += true_precision[min(len(grid) - 1, int(found.threshold * 20_000))] < 0.9
    assert broken <= binom.ppf(0.999, 300, 0.1)
    assert none < 250
    best = 1 - np.argmax(true_precision >= 0.9) / 20_000
    assert max(coverage) > 0.7 * best


def test_threshold_reports_what_it_covers():
    confidence = np.linspace(0, 1, 2000)
    correct = confidence > 0.4
    found = precision_threshold(confidence, correct)
    clears = confidence >= found.threshold
    assert found.samples == clears.sum()
    assert found.coverage == clears.mean()
    assert found.precision == pytest.approx(correct[clears].mean())
    assert found.bound >= 0.95
    assert 0.35 < found.threshold < 0.45


@pytest.mark.parametrize(("n", "share"), [(0, 1.0), (50, 1.0), (2000, 0.9)])
def test_no_threshold_where_none_can_be_promised(n, share):
    correct = np.arange(n) % 10 < share * 10
    assert precision_threshold(np.linspace(0, 1, n), correct) is None


def test_equal_confidences_stand_or_fall_together():
    for kind, cut in ((np.float64, 0.7), (np.float32, 0.6999)):  # float32 has no 0.7: the next below clears it surely
        found = precision_threshold(np.full(500, 0.7, kind), np.ones(500, bool))
        assert (found.coverage, found.threshold) == (1.0, cut)
    assert precision_threshold(np.full(500, 0.7), np.arange(500) < 450) is None


def test_promises_that_cannot_be():
    with pytest.raises(BadInput):
        precision_threshold(np.ones(5), np.ones(5, bool), target=1.0)


def test_residual_quantiles_cover_new_samples():
    rng = np.random.default_rng(0)
    found = residual_quantiles(rng.normal(size=5000))
    fresh = np.abs(rng.normal(size=20_000))
    for share, value in found.items():
        assert (fresh <= value).mean() == pytest.approx(share, abs=0.02)
    assert residual_quantiles(np.array([1.0, -2.0])) == {0.5: 2.0}


def test_model_digest_hears_every_choice_and_no_noise():
    base = ("m" * 64, "lda", 0.1, 2.0, {"auto_label": 0.9})
    others = [
        ("n" * 64, *base[1:]), (base[0], "ridge", *base[2:]), (*base[:2], 0.2, *base[3:]),
        (*base[:3], 2.1, base[4]), (*base[:4], {"auto_label": 0.9001}), (*base[:4], {"auto_label": None}),
    ]  # fmt: skip
    assert len({model_digest(*choice) for choice in [base, *others]}) == 7
    assert model_digest(*base[:2], 0.1 * (1 + 1e-12), 2.0 * (1 - 1e-12), base[4]) == model_digest(*base)

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits

from everlearn.errors import BadInput
from everlearn.learn.exact import fit as fitting
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.fit import AUTO_LABEL, fit
from everlearn.learn.exact.target import RegressionTarget
from tests.learn.exact.make import blobs, cache, taught


@pytest.fixture(scope="module")
def digits():
    """Random cosine features of real digits: (train, test) of phi, labels, folds."""
    rng = np.random.default_rng(0)
    pixels, names = load_digits(return_X_y=True)
    phi = np.cos((pixels - 8) @ rng.normal(0, 0.03, (64, 512)) + rng.uniform(0, 2 * np.pi, 512))
    phi, labels, folds = np.rint(127 * phi).astype(np.int8), names.astype(str).tolist(), rng.integers(0, 5, len(names))
    return (phi[:1200], labels[:1200], folds[:1200]), (phi[1200:], np.array(labels[1200:]))


def test_digits_are_learned_calibrated_and_promised(digits):
    train, (phi, truth) = digits
    found = fit(taught(*train), cache(*train))
    p = found.head.probabilities(phi)
    right = np.array(found.head.classes)[p.argmax(axis=1)] == truth
    assert right.mean() > 0.93
    assert abs(p.max(axis=1).mean() - right.mean()) < 0.05
    assert found.head.calibrated
    assert found.accuracies[found.head.kind] == max(found.accuracies.values()) == found.answers.accuracy
    assert set(found.accuracies) == {"ridge", "lda", "mean"}
    sure = p.max(axis=1) >= found.thresholds[AUTO_LABEL].threshold
    assert right[sure].mean() >= 0.93
    held = found.held_out.probabilities()
    assert held.shape == (1200, 10)
    assert np.isfinite(held).all()


def test_the_order_of_the_cache_changes_nothing(digits):
    phi, labels, folds = digits[0]
    ids = [f"{i:05}" for i in range(1200)]
    order = np.random.default_rng(0).permutation(1200)
    one = fit(taught(phi, labels, folds), Cached(ids, phi, labels, folds))
    mixed = Cached([ids[i] for i in order], phi[order], [labels[i] for i in order], folds[order])
    other = fit(taught(phi[order], mixed.labels, folds[order]), mixed)
    assert one.digest == other.digest
    assert np.array_equal(one.head.weights, other.head.weights)
    assert one.thresholds == other.thresholds
    assert one.head.temperature == other.head.temperature


def test_forgetting_gives_the_model_that_never_knew(digits):
    phi, labels, folds = digits[0]
    memory, keep = taught(phi, labels, folds), np.flatnonzero(np.array(labels) != "7")
    gone = np.flatnonzero(np.array(labels) == "7")
    memory.subtract(phi[gone], ["7"] * len(gone), folds[gone])
    rest = (phi[keep], [labels[i] for i in keep], folds[keep])
    forgot, never = fit(memory, cache(*rest)), fit(taught(*rest), cache(*rest))
    assert forgot.digest == never.digest
    assert "7" not in forgot.head.classes
    assert np.array_equal(forgot.head.weights, never.head.weights)


def test_every_choice_of_head_can_win(digits, monkeypatch):
    train, (phi, truth) = digits
    memory, data = taught(*train), cache(*train)
    for kind in ("ridge", "lda", "mean"):
        monkeypatch.setattr(fitting, "KINDS", (kind,))
        found = fit(memory, data)
        assert found.head.kind == kind
        best = np.array(found.head.classes)[found.head.scores(phi).argmax(axis=1)]
        assert (best == truth).mean() > 0.8


def test_lda_serves_the_rare_class_better():
    """One class in a hundred: the balanced head finds more of it than the ridge."""
    phi, labels, folds = blobs(3000, 40, 2, noise=70)
    rare = np.flatnonzero(np.array(labels) == "c1")[25:]
    keep = np.setdiff1d(np.arange(3000), rare)
    train = (phi[keep], [labels[i] for i in keep], folds[keep])
    memory, data = taught(*train), cache(*train)
    recall = {}
    for kind in ("ridge", "lda"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fitting, "KINDS", (kind,))
            scores = fit(memory, data).head.scores(phi[rare])
        recall[kind] = (scores.argmax(axis=1) == 1).mean()
    assert recall["lda"] > recall["ridge"] + 0.2


def test_without_a_cache_it_is_uncalibrated_and_says_so(digits):
    train, _ = digits
    found = fit(taught(*train))
    assert (found.head.calibrated, found.head.kind, found.held_out) == (False, "ridge", None)
    assert found.thresholds == {AUTO_LABEL: None}
    assert len(found.digest) == 64


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("classes", [1, 2, 8])
@pytest.mark.parametrize("d", [1, 40])
def test_the_smallest_workspaces(n, classes, d):
    phi, _, folds = blobs(n, d, 1)
    labels = [f"c{i % classes}" for i in range(n)]
    found = fit(taught(phi, labels, folds), cache(phi, labels, folds))
    p = found.head.probabilities(phi)
    assert found.head.classes == tuple(sorted(set(labels)))
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    assert found.thresholds == {AUTO_LABEL: None}


@pytest.mark.parametrize("folds", [np.zeros(60, int), np.arange(60) % 2 * 3, np.array([0] * 59 + [4])])
def test_empty_and_lopsided_folds(folds):
    phi, labels, _ = blobs(60, 30, 3, noise=20)
    found = fit(taught(phi, labels, folds), cache(phi, labels, folds))
    best = np.array(found.head.classes)[found.head.scores(phi).argmax(axis=1)]
    assert (best == np.array(labels)).mean() > 0.9
    assert found.head.calibrated == (len(set(folds.tolist())) > 1)


def test_a_class_all_in_one_fold_does_not_spoil_the_rest():
    phi, labels, folds = blobs(200, 30, 3, noise=20)
    folds[np.array(labels) == "c1"] = 2
    found = fit(taught(phi, labels, folds), cache(phi, labels, folds))
    held = found.held_out.probabilities()
    assert (held[np.array(labels) == "c1", 1] == 0).all()
    assert np.isfinite(held).all()
    assert found.answers.accuracy < 0.8
    best = np.array(found.head.classes)[found.head.scores(phi).argmax(axis=1)]
    assert (best == np.array(labels)).mean() > 0.95


@pytest.mark.parametrize("value", [0, 127])
def test_constant_features(value):
    _, labels, folds = blobs(80, 1, 3)
    phi = np.full((80, 20), value, np.int8)
    p = fit(taught(phi, labels, folds), cache(phi, labels, folds)).head.probabilities(phi)
    assert np.isfinite(p).all()


def test_many_classes_of_few_samples():
    phi, _, _ = blobs(2000, 64, 1000, noise=5)
    phi[1::2] = phi[::2]
    labels, folds = [f"person {i // 2}" for i in range(2000)], np.arange(2000) % 2
    found = fit(taught(phi, labels, folds), cache(phi, labels, folds))
    best = np.array(found.head.classes)[found.head.scores(phi).argmax(axis=1)]
    assert (best == np.array(labels)).mean() > 0.98
    assert found.head.kind != "ridge"


def test_a_cache_of_other_samples_is_refused():
    phi, labels, folds = blobs(50, 10, 3)
    memory, whole = taught(phi, labels, folds), cache(phi, labels, folds)
    wrong = [
        cache(phi[1:], labels[1:], folds[1:]),
        replace(whole, labels=["new", *labels[1:]]),
        replace(whole, folds=np.array([(folds[0] + 1) % 5, *folds[1:]])),
        replace(whole, folds=np.array([5, *folds[1:]])),
        replace(whole, phi=phi[:, 1:]),
    ]
    for other in wrong:
        with pytest.raises(BadInput):
            fit(memory, other)
    with pytest.raises(BadInput, match="twice"):
        replace(whole, ids=["same"] * 50)
    with pytest.raises(BadInput, match="length"):
        replace(whole, labels=labels[1:])


@pytest.mark.parametrize("d", [64, 1024])
def test_regression_learns_from_sums(d):
    rng = np.random.default_rng(0)
    x, y = load_diabetes(return_X_y=True)
    phi = np.rint(127 * np.cos(x @ rng.normal(0, 8, (10, d)) + rng.uniform(0, 6.28, d))).astype(np.int8)
    labels, folds = [str(value) for value in y], rng.integers(0, 5, len(y))
    target = RegressionTarget(0, 400, 0.1)
    train, test = slice(0, 340), slice(340, None)
    memory = taught(phi[train], labels[train], folds[train], target=target)
    found = fit(memory, cache(phi[train], labels[train], folds[train]))
    error = np.abs(found.head.values(phi[test]) - y[test])
    assert 1 - (error**2).mean() / y[test].var() > 0.4
    assert (error <= found.head.quantiles[0.9]).mean() == pytest.approx(0.9, abs=0.1)
    np.testing.assert_allclose(np.abs(found.residuals).mean(), error.mean(), rtol=0.2)
    bare = fit(memory)
    assert bare.head.quantiles == {}
    np.testing.assert_allclose(bare.head.values(phi[test]), found.head.values(phi[test]), rtol=1e-3)

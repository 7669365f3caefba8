"""Heads from the same sums: what they are by definition, also after corrections, and which one is chosen."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid

from everlearn import ExactClassifier
from everlearn.learn.estimators import learned as learned_module
from everlearn.learn.estimators.balanced import Answering, linear
from everlearn.learn.estimators.centred import Corrected, Moments, Settings, solve
from everlearn.learn.exact.head import ranked

ALPHA = 0.01


def some(n: int, classes: int, d: int = 6, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return rng.normal(size=(classes, d))[y] * 2 + rng.normal(size=(n, d)), y


def moments(x, y, classes: int) -> Moments:
    hot = np.eye(classes)[y]
    return Moments(len(x), x.sum(0), x.T @ x, x.T @ hot, hot.sum(0), float(len(x)))


def by_definition(z, y, classes: int, penalty: float):
    """LDA's log-likelihoods at z, from the within-class scatter itself."""
    counts = np.bincount(y, minlength=classes)
    means = np.stack([z[y == c].mean(0) for c in range(classes)], axis=1)
    scatter = (z - means.T[y]).T @ (z - means.T[y]) + penalty * np.eye(z.shape[1])
    v = np.linalg.solve(scatter, means) * (len(z) - classes)
    used = z.shape[1] - penalty * np.trace(np.linalg.inv(scatter))
    return z @ v - 0.5 * np.einsum("dc,dc->c", means, v), used, counts


def apart(a, b) -> float:
    """Largest difference of two scores, a constant per row aside, relative to their spread."""
    a, b = (s - s.mean(axis=1, keepdims=True) for s in (a, b))
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("classes", [4, 9])  # also more classes than features
def test_lda_is_lda(intercept, classes):
    x, y = some(300, classes)
    settings = Settings(intercept=intercept)
    solution = solve(moments(x, y, classes), ALPHA, settings)
    z = solution.scaling(x)
    wanted, used, counts = by_definition(z, y, classes, solution.penalty)
    weights, bias = linear(solution, "lda")
    answering = Answering(Corrected(solution.lean(), tuple("abcdefghi"[:classes])), "lda")
    turned = answering.scores(x, answering.corrected.names)
    np.testing.assert_allclose(apart(turned, z @ weights + bias), 0, atol=1e-9)
    more = turned - wanted
    more -= more.mean(axis=1, keepdims=True)  # what few rows are given back
    allowed = 0.5 * max(0, used) / (counts + 1)
    assert np.abs(more - more[0]).max() < 1e-6 * np.abs(wanted).max()
    assert np.abs(more[0] - (allowed - allowed.mean())).max() < 0.05 * np.ptp(allowed)  # `used` is nearly that


@pytest.mark.parametrize("kind", ["lda", "mean"])
@pytest.mark.parametrize("intercept", [True, False])
def test_a_corrected_head_is_that_of_the_changed_rows(kind, intercept):
    """Rows come, of old and of new classes, and go; a class goes altogether. Scaling and penalty stay."""
    x, y = some(300, 5)
    first, gone = np.flatnonzero(y != 4), np.flatnonzero(y == 3)
    solution = solve(moments(x[first], y[first], 4), ALPHA, Settings(intercept=intercept))
    corrected = Corrected(solution.lean(), tuple("abcd"))
    come = np.concatenate([np.flatnonzero(y == 4)[:3], first[:5]])
    corrected.change(x[come], [("abcde"[c], 1.0) for c in y[come]], [1.0] * len(come))
    corrected.change(x[gone], [("d", 1.0)] * len(gone), [-1.0] * len(gone))
    left = np.concatenate([np.setdiff1d(first, gone), come])
    left = left[y[left] != 3]
    corrected_y = {0: 0, 1: 1, 2: 2, 4: 3}
    if (y[come] == 3).any():
        corrected.change(x[come[y[come] == 3]], [("d", 1.0)] * int((y[come] == 3).sum()),
                         [-1.0] * int((y[come] == 3).sum()))  # fmt: skip
    names = tuple("abce")
    answering = Answering(corrected, kind)
    z = solution.scaling(x)
    label = np.array([corrected_y[c] for c in y[left]])
    if kind == "lda":
        found = answering.scores(x, names)
        wanted, _, counts = by_definition(z[left], label, 4, solution.penalty)
        means = np.stack([z[left][label == c].mean(0) for c in range(4)], axis=1)
        scatter = (z[left] - means.T[label]).T @ (z[left] - means.T[label]) + solution.penalty * np.eye(6)
        v = np.linalg.solve(scatter, means) * (len(left) - 4)
        wanted = z @ v - 0.5 * np.einsum("dc,dc->c", means, v)
        wanted += 0.5 * answering._allowed / (counts + 1)
        assert apart(found, wanted) < 1e-8
    else:
        nearest = NearestCentroid().fit(z[left], label).predict(z)
        np.testing.assert_array_equal(answering.scores(x, names).argmax(axis=1), nearest)


def test_the_estimator_agrees_with_scikit_learn():
    x, y = some(3000, 5)
    lda = ExactClassifier(head="lda", alpha=1e-5).fit(x, y)
    peer = LinearDiscriminantAnalysis(priors=np.full(5, 0.2)).fit(x, y)
    assert (lda.predict(x) == peer.predict(x)).mean() > 0.998
    assert lda.head_ == "lda"
    mean = ExactClassifier(head="mean").fit(x, y)
    assert (mean.predict(x) == NearestCentroid().fit((x - x.mean(0)) / x.std(0), y).predict((x - x.mean(0)) / x.std(0))
            ).mean() > 0.999  # fmt: skip


def test_the_better_head_is_chosen_by_the_folds():
    rng = np.random.default_rng(1)
    y = np.repeat([0, 1, 2], 400)
    masked = np.stack([y - 1.0, np.zeros(1200)], axis=1) + 0.15 * rng.normal(size=(1200, 2))
    model = ExactClassifier().fit(masked, y)  # the middle of three in a row is hidden from a ridge, not from LDA
    assert model.head_ == "lda"
    assert model.score(masked, y) > 0.98 > 0.8 > ExactClassifier(head="ridge").fit(masked, y).score(masked, y)
    few = np.concatenate([np.arange(400), [400, 401, 402], np.arange(800, 803)])
    order = rng.permutation(len(few))
    again = ExactClassifier().fit(masked[few], y[few])
    turned = ExactClassifier().partial_fit(masked[few][order[:200]], y[few][order[:200]])
    turned.partial_fit(masked[few][order[200:]], y[few][order[200:]])
    assert again.head_ == turned.head_
    np.testing.assert_array_equal(again.predict_proba(masked), turned.predict_proba(masked))


def test_a_new_class_asks_for_a_balanced_head():
    accuracy = {"ridge": 0.9, "lda": 0.9, "mean": 0.8}
    assert ranked(accuracy, [100, 100]) == ["ridge", "lda", "mean"]
    assert ranked(accuracy | {"ridge": 0.94}, [100, 90, 1]) == ["lda", "ridge", "mean"]
    assert ranked(accuracy | {"ridge": 0.96}, [100, 90, 1])[0] == "ridge"  # the others would be far worse
    assert ranked(accuracy, [6, 5, 4]) == ranked(accuracy, [100, 6]) == ["ridge", "lda", "mean"]


@pytest.mark.parametrize("cheap", [True, False])
def test_one_row_makes_a_class(cheap, monkeypatch: pytest.MonkeyPatch):
    """After thousands of others: at once, solved anew or corrected, and kept when settled."""
    if not cheap:
        monkeypatch.setattr(learned_module, "_CHEAP", 0)
    x, y = some(4000, 6, d=12, seed=3)
    old, new = np.flatnonzero(y != 5), np.flatnonzero(y == 5)
    model = ExactClassifier().fit(x[old], y[old])
    before = (model.predict(x[old]) == y[old]).mean()
    ridge = ExactClassifier(head="ridge").fit(x[old], y[old])
    for shots, least in ((1, 0.8), (5, 0.9)):
        for one in (model, ridge):
            one.partial_fit(x[new[:shots]], y[new[:shots]], ids=new[:shots])
        for _ in range(2):
            assert model.head_ != "ridge"
            assert (model.predict(x[new]) == 5).mean() > least
            assert (model.predict(x[old]) == y[old]).mean() > before - 0.03
            assert model.calibrated_
            model.settle()
    assert (ridge.predict(x[new]) == 5).mean() < 0.2
    if not cheap:
        model.forget(ids=new[:5])
        assert 5 not in model.predict(x)

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as SklearnRidge

from everlearn.errors import BadInput
from everlearn.learn.exact import solve
from everlearn.learn.exact.memory import ExactMemory
from everlearn.learn.exact.solve import ALPHAS, lda, lowest, means, moments, plain, ridge
from everlearn.learn.exact.target import RegressionTarget
from tests.learn.exact.make import BASIS, blobs, cache, taught


def one_hot(labels, classes):
    return (np.array(labels)[:, None] == np.array(classes)).astype(np.float64)


@given(st.integers(1, 400), st.data())
def test_the_search_finds_the_least_of_any_valley(count, data):
    bottom = data.draw(st.integers(0, count - 1))
    left, right = data.draw(st.floats(0.01, 100)), data.draw(st.floats(0.01, 100))
    looked = []

    def error(index):
        looked.append(index)
        return 1 + (left if index < bottom else right) * abs(index - bottom)

    assert lowest(count, error) == bottom
    assert len(looked) == len(set(looked)) <= 14


def test_ties_go_to_the_larger():
    assert lowest(20, lambda index: 3.0) == 19
    assert lowest(20, lambda index: max(0.0, 5.0 - index)) == 19
    assert lowest(20, lambda index: 1.0 + 1e-13 * index) == 19  # float noise is a tie


@pytest.mark.parametrize("n", [60, 400])
def test_ridge_agrees_with_scikit_learn(n):
    phi, labels, folds = blobs(n, 90, 4)
    memory = taught(phi, labels, folds)
    found = ridge(memory)
    x, y = phi.astype(np.float64), one_hot(labels, memory.classes)

    def peer(rows):
        strength = found.alpha * (x[rows] ** 2).sum() / 90
        return SklearnRidge(alpha=strength, fit_intercept=False).fit(x[rows], y[rows]).coef_.T

    np.testing.assert_allclose(found.weights, peer(folds >= 0), rtol=1e-8, atol=1e-12)
    for fold in range(5):
        np.testing.assert_allclose(found.held_out[fold], peer(folds != fold), rtol=1e-8, atol=1e-12)
    held = sum(((y[folds == k] - x[folds == k] @ found.held_out[k]) ** 2).sum() for k in range(5))
    assert found.errors[found.alpha] == pytest.approx(held, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("regression", [False, True])
def test_the_kernel_gives_what_the_sums_give(seed, regression):
    phi, labels, folds = blobs(70, 200, 6, seed)
    target = RegressionTarget(0, 10, 0.5) if regression else None
    labels = [name[1:] for name in labels] if regression else labels
    memory = taught(phi, labels, folds, target=target)
    primal, dual = ridge(memory), ridge(memory, cache(phi, labels, folds))
    assert primal.alpha == dual.alpha
    assert primal.errors == pytest.approx(dual.errors, rel=1e-9)
    for one, other in zip((primal.weights, *primal.held_out), (dual.weights, *dual.held_out)):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-12)


def test_the_kernel_is_used_where_it_is_cheaper(monkeypatch):
    phi, labels, folds = blobs(70, 200, 3)
    monkeypatch.setattr(solve, "_Primal", None)
    ridge(taught(phi, labels, folds), cache(phi, labels, folds))  # 70 < 200 / 2
    with pytest.raises(TypeError):
        ridge(taught(phi[:, :100], labels, folds), cache(phi[:, :100], labels, folds))


def test_alpha_is_the_best_of_the_grid():
    phi, labels, folds = blobs(300, 60, 5, noise=90)
    memory = taught(phi, labels, folds)
    x, y = phi.astype(np.float64), one_hot(labels, memory.classes)

    def error(alpha):
        total = 0.0
        for k in range(5):
            a, b = x[folds != k], y[folds != k]
            w = np.linalg.solve(a.T @ a + alpha * (a**2).sum() / 60 * np.eye(60), a.T @ b)
            total += ((y[folds == k] - x[folds == k] @ w) ** 2).sum()
        return total

    assert ridge(memory).alpha == min(ALPHAS, key=error)


@given(st.permutations(range(60)))
def test_lambda_is_the_same_in_any_order(order):
    phi, labels, folds = blobs(60, 12, 3)
    wanted = ridge(taught(phi, labels, folds))
    rows = np.array(order)
    found = ridge(taught(phi[rows], [labels[i] for i in rows], folds[rows]))
    assert found.alpha == wanted.alpha
    assert np.array_equal(found.weights, wanted.weights)


def test_two_folds_choose_lambda_where_solving_is_dear(monkeypatch):
    phi, labels, folds = blobs(200, 40, 3)
    monkeypatch.setattr(solve, "_SEARCH_FLOPS", 0)
    monkeypatch.setattr(solve, "_KEPT", 0)
    found = ridge(taught(phi, labels, folds))
    assert all(part is not None for part in found.held_out)
    x, y = phi.astype(np.float64), one_hot(labels, ("c0", "c1", "c2"))
    held = sum(((y[folds == k] - x[folds == k] @ found.held_out[k]) ** 2).sum() for k in range(2))
    assert found.errors[found.alpha] == pytest.approx(held, rel=1e-9)


@pytest.mark.parametrize(("d", "c"), [(30, 4), (300, 4), (6, 9)])
def test_lda_from_the_ridge_is_lda(d, c):
    """The shortcut of C x C (or D x D, where classes are more) equals solving with the within-class scatter."""
    phi, labels, folds = blobs(120, d, c)
    memory = taught(phi, labels, folds)
    found, q = ridge(memory), moments(memory)
    weights, bias = lda(found.weights, q)
    mu = q.q / q.counts
    scatter = memory.total().dense() - mu @ q.q.T
    strength = found.alpha * np.trace(memory.total().dense()) / d
    direct = np.linalg.solve(scatter + strength * np.eye(d), mu) * (120 - c)
    x = phi.astype(np.float64)
    wanted = x @ direct - 0.5 * (mu * direct).sum(axis=0)
    wanted -= wanted.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(x @ weights + bias, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())


def test_means_answer_with_the_nearest():
    phi, labels, folds = blobs(200, 25, 5)
    memory = taught(phi, labels, folds)
    q = moments(memory)
    weights, bias = means(memory, q)
    x = phi.astype(np.float64)
    distance = ((x[:, :, None] - q.q / q.counts) ** 2).sum(axis=1)
    assert np.array_equal((x @ weights + bias).argmax(axis=1), distance.argmin(axis=1))


def test_a_class_held_out_whole_is_out_of_reach():
    phi, labels, folds = blobs(100, 8, 2)
    labels[0] = "single"
    memory = taught(phi, labels, folds)
    q, fold = moments(memory, int(folds[0])), int(folds[0])
    found = ridge(memory)
    assert q.counts.tolist()[memory.classes.index("single")] == 0
    for weights, bias in (lda(found.held_out[fold], q), means(memory, q, fold), plain(found.held_out[fold], q)):
        assert np.isneginf(bias[memory.classes.index("single")])
        assert np.isfinite(weights).all()
        assert np.isfinite(np.delete(bias, memory.classes.index("single"))).all()


@pytest.mark.parametrize("value", [0, 127])
@pytest.mark.parametrize("cached", [False, True])
def test_constant_features(value, cached):
    phi, (_, labels, folds) = np.full((40, 100), value, np.int8), blobs(40, 1, 3)
    found = ridge(taught(phi, labels, folds), cache(phi, labels, folds) if cached else None)
    assert np.isfinite(found.weights).all()
    share = np.array([labels.count(name) for name in ("c0", "c1", "c2")]) / 40
    np.testing.assert_allclose(phi[:1] @ found.weights, [share * (value > 0)], atol=0.15)


def test_nothing_to_solve_or_to_hold_out():
    with pytest.raises(BadInput, match="empty"):
        ridge(ExactMemory(BASIS, 3))
    phi, labels, _ = blobs(30, 5, 2)
    found = ridge(taught(phi, labels, np.full(30, 3)))
    assert (found.held_out, found.errors) == ((None,) * 5, {})
    two = ridge(taught(phi, labels, np.arange(30) % 2 + 1))
    assert [part is None for part in two.held_out] == [True, False, False, True, True]

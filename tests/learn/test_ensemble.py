"""Members combined: by average, by vote, by competence near the sample."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.errors import BadInput
from everlearn.learn import ensemble
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.memory import ExactMemory
from everlearn.learn.exact.solve import further


def one_hot(labels, classes, sure=0.9):
    found = np.full((len(labels), classes), (1 - sure) / (classes - 1), np.float32)
    found[np.arange(len(labels)), labels] = sure
    return found


def world(rows=600, seed=0):
    """phi tells left from right by its first feature; one member is right on the left, the other on the right."""
    rng = np.random.default_rng(seed)
    phi = rng.integers(-20, 21, (rows, 24)).astype(np.int8)
    left = rng.random(rows) < 0.5
    phi[:, 0], phi[:, 1] = np.where(left, 100, -100), 100
    labels, folds = rng.integers(0, 3, rows), rng.integers(0, 5, rows)
    memory = ExactMemory("basis", 24)
    names = [f"c{label}" for label in labels]
    memory.add(phi, names, folds)
    wrong = (labels + 1) % 3
    tables = [one_hot(np.where(left, labels, wrong), 3), one_hot(np.where(left, wrong, labels), 3)]
    return memory, Cached([f"{n:04d}" for n in range(rows)], phi, names, folds), tables, labels


CLASSES = ("c0", "c1", "c2")


def test_the_competent_one_answers():
    memory, cached, tables, labels = world()
    found = ensemble.fit(memory, cached, CLASSES, tables, alpha=0.01)
    assert found.method == "dynamic"
    assert found.methods["dynamic"].mean() == 1.0 and max(right.mean() for right in found.members) < 0.6
    answers = found.table(tables, cached.phi)
    assert (answers.argmax(axis=1) == labels).all()
    assert np.allclose(answers.sum(axis=1), 1, atol=1e-5)
    _, other, fresh, truth = world(seed=1)  # samples that nobody saw
    assert (found.table(fresh, other.phi).argmax(axis=1) == truth).mean() == 1.0


def test_competence_is_judged_on_what_it_did_not_see():
    """Right answers by chance, with nothing to go by: choosing by competence must not seem to help."""
    memory, cached, _, labels = world()
    rng = np.random.default_rng(5)
    tables = [one_hot(np.where(rng.random(len(labels)) < 0.7, labels, (labels + 1) % 3), 3) for _ in range(2)]
    found = ensemble.fit(memory, cached, CLASSES, tables, alpha=0.01)
    assert found.methods["dynamic"].mean() < 0.78


def test_average_and_vote_are_what_they_say():
    tables = [np.array([[0.6, 0.4, 0.0]]), np.array([[0.1, 0.5, 0.4]]), np.array([[0.0, 0.45, 0.55]])]
    assert ensemble.combine("average", tables)[0] == pytest.approx([0.7 / 3, 1.35 / 3, 0.95 / 3], abs=1e-6)
    vote = ensemble.combine("vote", tables)[0]
    assert vote == pytest.approx(np.array([0.6, 0.5, 0.55]) / 1.65, abs=1e-4)
    chosen = ensemble.combine("dynamic", tables, np.array([[0.2, 0.1, 0.9]]))[0]
    assert chosen == pytest.approx([0, 0.45, 0.55], abs=1e-5)
    near = ensemble.combine("dynamic", tables, np.array([[0.2, 0.85, 0.9]]))[0]
    assert near == pytest.approx([0.05, 0.475, 0.475], abs=1e-5)
    with pytest.raises(BadInput, match="'best' is no way"):
        ensemble.combine("best", tables)


def test_the_order_of_the_rows_does_not_matter():
    memory, cached, tables, _ = world()
    order = np.random.default_rng(1).permutation(len(cached.ids))
    moved = Cached([cached.ids[i] for i in order], cached.phi[order], [cached.labels[i] for i in order],
                   cached.folds[order])  # fmt: skip
    first = ensemble.fit(memory, cached, CLASSES, tables, alpha=0.01, method="vote")
    second = ensemble.fit(memory, moved, CLASSES, [table[order] for table in tables], alpha=0.01, method="vote")
    assert first.temperature == second.temperature
    assert (first.methods["dynamic"] == second.methods["dynamic"]).all()


def test_only_rows_that_all_members_were_asked_count():
    memory, cached, tables, _ = world()
    tables[1][100:] = np.nan
    found = ensemble.fit(memory, cached, CLASSES, tables, alpha=0.01)
    assert len(found.rows) == 100
    tables[1][:] = np.nan
    with pytest.raises(BadInput, match="no sample was held out"):
        ensemble.fit(memory, cached, CLASSES, tables, alpha=0.01)
    with pytest.raises(BadInput, match="two members"):
        ensemble.fit(memory, cached, CLASSES, tables[:1], alpha=0.01)


def test_further_targets_are_a_ridge_on_the_same_features():
    memory, cached, _, _ = world(rows=200)
    targets = np.random.default_rng(0).normal(size=(200, 2))
    whole, parts = further(memory, cached, targets, 0.1)
    x = cached.phi.astype(float)
    for fold, found in [(None, whole), *enumerate(parts)]:
        keep = np.ones(200, bool) if fold is None else cached.folds != fold
        system = x[keep].T @ x[keep]
        system += 0.1 * np.trace(system) / 24 * np.eye(24)
        assert np.allclose(found, np.linalg.solve(system, x[keep].T @ targets[keep]), atol=1e-6)


def test_majority_and_weights_are_what_they_say():
    tables = [np.array([[0.6, 0.4, 0.0]]), np.array([[0.1, 0.5, 0.4]]), np.array([[0.0, 0.55, 0.45]])]
    assert ensemble.combine("majority", tables)[0] == pytest.approx([1 / 3, 2 / 3, 0], abs=2e-3)
    tied = ensemble.combine("majority", tables[:2])[0]
    assert tied[1] > tied[0]  # one vote each: the average settles it
    weighted = ensemble.combine("weighted", tables, weights=np.array([0.5, 0.5, 0.0]))[0]
    assert weighted == pytest.approx([0.35, 0.45, 0.2], abs=1e-4)
    boosted = ensemble.combine("boosted", tables, weights=np.array([0.7, 0.2, 0.1]))[0]
    assert boosted == pytest.approx([0.7, 0.3, 0], abs=2e-3)


def alone(labels, folds, classes=3):
    """The rows' names, where there is no memory."""
    ids, names = [f"{n:04d}" for n in range(len(labels))], [f"c{label}" for label in labels]
    return Cached(ids, np.zeros((len(labels), 0), np.int8), names, folds), tuple(f"c{n}" for n in range(classes))


def test_the_better_member_weighs_more_and_a_worthless_one_nothing():
    rng = np.random.default_rng(0)
    labels, folds = rng.integers(0, 3, 900), rng.integers(0, 5, 900)
    good, fair = (one_hot(np.where(rng.random(900) < share, labels, (labels + 1) % 3), 3) for share in (0.9, 0.8))
    noise = rng.dirichlet(np.ones(3), 900).astype(np.float32)
    cached, classes = alone(labels, folds)
    found = ensemble.fit(None, cached, classes, [good, fair, noise], method="weighted")
    assert found.weights.sum() == pytest.approx(1) and (found.weights >= 0).all()
    assert found.weights[0] > found.weights[1] > found.weights[2] and found.weights[2] < 0.1
    assert "dynamic" not in found.methods
    with pytest.raises(BadInput, match="dynamic needs a memory"):
        ensemble.fit(None, cached, classes, [good, fair], method="dynamic")


def test_stacking_learns_what_each_member_is_good_at_and_is_judged_on_what_it_did_not_see():
    """One member knows class 0 alone, the other tells 1 from 2: stacking finds out, the average does not."""
    rng = np.random.default_rng(1)
    labels, folds = rng.integers(0, 3, 900), rng.integers(0, 5, 900)
    first = np.where((labels == 0)[:, None], [0.5, 0.25, 0.25], [0.3, 0.35, 0.35]).astype(np.float32)
    second = np.where((labels == 2)[:, None], [0.45, 0.2, 0.35], [0.45, 0.35, 0.2]).astype(np.float32)
    cached, classes = alone(labels, folds)
    found = ensemble.fit(None, cached, classes, [first, second], method="stacking")
    assert found.methods["stacking"].mean() == 1.0 > found.methods["average"].mean()
    assert (found.table([first, second]).argmax(1) == labels).all()
    noise = [rng.dirichlet(np.ones(3), 900).astype(np.float32) for _ in range(4)]
    found = ensemble.fit(None, cached, classes, noise, method="stacking")
    assert found.methods["stacking"].mean() < 0.39  # nothing to learn: no gain by having seen the labels


def test_what_is_fitted_needs_two_folds():
    labels = np.arange(60) % 3
    cached, classes = alone(labels, np.zeros(60, np.int64))
    tables = [one_hot(labels, 3), one_hot(labels, 3)]
    assert set(ensemble.fit(None, cached, classes, tables).methods) == {"average", "vote", "majority"}
    with pytest.raises(BadInput, match="stacking is fitted, and needs samples in two folds"):
        ensemble.fit(None, cached, classes, tables, method="stacking")

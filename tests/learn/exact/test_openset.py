"""The unknown: what a threshold promises, what the distance is, and that both are exact in an estimator."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, norm
from sklearn.metrics import roc_auc_score

from everlearn import ExactClassifier
from everlearn.errors import BadInput
from everlearn.learn.estimators import learned as learned_module
from everlearn.learn.estimators.encode import BadArray
from everlearn.learn.exact import openset
from everlearn.learn.exact.openset import SHRINKAGE, curve, cut, distance, equal, separation

SCORES = st.lists(st.integers(-5, 5).map(float), min_size=0, max_size=30)


@pytest.mark.parametrize(("asked", "count"), [(0.01, 299), (0.01, 600), (0.05, 200)])
def test_the_promise_is_kept_so_often(asked, count):
    """Over draws of impostors from one law, the true false-accept rate is above what was promised in about 5 %."""
    rng = np.random.default_rng(0)
    cuts = [cut(np.zeros(3), rng.normal(size=count), asked) for _ in range(300)]
    true = norm.sf([one.threshold for one in cuts])
    assert all(one.kept for one in cuts)
    assert (true > asked).mean() < 0.08
    assert (true > [one.promised for one in cuts]).mean() == pytest.approx(0.05, abs=0.04)
    assert true.mean() > 0.25 * asked  # and it is not won by refusing all


def test_too_few_impostors_are_told():
    scores = np.linspace(0, 1, 298)
    few, enough = cut(scores, scores, 0.01), cut(scores, np.linspace(0, 1, few_needed := 299), 0.01)
    assert few.needed == few_needed
    assert not few.kept
    assert few.threshold == 1
    assert few.promised == pytest.approx(beta.ppf(0.95, 1, 298))
    assert enough.kept
    none = cut(scores, np.zeros(0), 0.01)
    assert (none.threshold, none.promised, none.false_reject) == (-np.inf, 1, 0)
    for wrong in (0, 1, -1, np.nan):
        with pytest.raises(BadInput, match="cannot be kept"):
            cut(scores, scores, wrong)
    with pytest.raises(BadInput, match="not a number"):
        cut(scores, np.array([np.nan]), 0.1)


@given(SCORES, SCORES, st.floats(0.01, 0.9), st.randoms())
@settings(max_examples=40, deadline=None)
def test_thresholds_and_curves_count(known, impostors, asked, random):
    known, impostors = np.array(known), np.array(impostors)
    found, line = cut(known, impostors, asked), curve(known, impostors)
    shuffled = np.array(random.sample(list(impostors), len(impostors)))
    assert repr(cut(known[::-1], shuffled, asked)) == repr(found)
    if len(impostors):
        assert found.false_accept == (impostors > found.threshold).mean() <= found.promised
    if len(known):
        assert found.false_reject == (known <= found.threshold).mean()
    for t, accept, reject in zip(line.thresholds[1:], line.false_accept[1:], line.false_reject[1:]):
        assert not len(impostors) or accept == pytest.approx((impostors > t).mean())
        assert not len(known) or reject == pytest.approx((known <= t).mean())
    if len(known) and len(impostors):
        assert (line.false_accept[0], line.false_reject[0]) == (1, 0)
        assert (line.false_accept[-1], line.false_reject[-1]) == (0, 1)
        labels = np.repeat([1, 0], [len(known), len(impostors)])
        assert separation(known, impostors) == pytest.approx(roc_auc_score(labels, np.concatenate([known, impostors])))
        assert line.at(0.0) == pytest.approx((known <= impostors.max()).mean())


def people(count: int, each: int, d: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(count), each)
    return rng.normal(size=(count, d))[y] * 2 + rng.normal(size=(len(y), d)) * np.linspace(0.3, 2, d), y


def by_definition(x, y, classes, origin, covariance):
    means = np.stack([x[y == c].mean(0) for c in classes]) - origin
    root = np.linalg.cholesky(np.linalg.inv(covariance))
    rows, columns = (x - origin) @ root, means @ root
    return rows @ columns.T / np.linalg.norm(rows, axis=1)[:, None] / np.linalg.norm(columns, axis=1)


def test_equal_errors_where_they_are_small_else_few_of_the_known_are_refused():
    rng = np.random.default_rng(0)
    known, strange = rng.normal(1, 0.5, 400), rng.normal(-1, 0.5, 900)  # 2.3 % of either beyond the middle
    found = equal(known, strange)
    assert found.threshold == pytest.approx(0, abs=0.06)
    assert found.false_reject == pytest.approx(found.false_accept, abs=0.01) and found.false_accept < 0.04
    assert found.promised == pytest.approx(beta.ppf(0.95, found.impostors * found.false_accept + 1, found.impostors
                                                    * (1 - found.false_accept)))  # fmt: skip
    apart = equal(np.array([0.8, 0.9, 1.0]), np.array([-0.2, 0.0]))
    assert (apart.false_accept, apart.false_reject, apart.kept) == (0.0, 0.0, True)
    assert apart.threshold == pytest.approx(0.6, abs=1e-3)  # in the gap, nearer to the known
    hard = equal(rng.normal(0, 0.5, 200), rng.normal(0, 0.5, 200))
    assert hard.false_reject <= 0.1 and hard.false_accept > 0.8
    alone = equal(np.array([0.5]), np.empty(0))
    assert alone.threshold == -np.inf and alone.kept and alone.promised == 1.0
    assert equal(np.empty(0), np.array([0.5])).threshold == 0.5  # where nobody is known, all impostors are refused


def test_the_distance_is_an_angle_where_classes_are_round():
    x, y = people(5, 40, 8)
    hot = np.eye(5)[y]
    found = distance(x.T @ x, x.T @ hot, hot.sum(0))
    means = np.stack([x[y == c].mean(0) for c in range(5)])
    within = (x - means[y]).T @ (x - means[y]) / (len(x) - 5)
    within += SHRINKAGE * np.trace(within) / 8 * np.eye(8)
    np.testing.assert_allclose(found.scores(x), by_definition(x, y, range(5), means.mean(0), within), atol=1e-9)
    z = x - found.origin
    np.testing.assert_allclose(found.length(z) ** 2, np.einsum("nd,de,ne->n", z, np.linalg.inv(within), z))
    strange = found.impostor_scores(x, y)
    for c in range(5):  # as if the class had never been there: its mean is in neither side
        others = [o for o in range(5) if o != c]
        wanted = by_definition(x, y, others, means[others].mean(0), within)[y == c]
        np.testing.assert_allclose(strange[y == c][:, others], wanted, atol=1e-9)
        assert (strange[y == c, c] == -np.inf).all()


def test_many_dimensions_keep_the_leading_ones(monkeypatch: pytest.MonkeyPatch):
    x, y = people(4, 100, 60)
    x[:, :5] *= 20
    hot = np.eye(4)[y]
    sums = x.T @ x, x.T @ hot, hot.sum(0)
    exact = distance(*sums).scores(x)
    monkeypatch.setattr(openset, "RANK", 20)
    dense = distance(*sums)
    monkeypatch.setattr(openset, "_DENSE", 1)
    iterated = distance(*sums)
    assert dense.damp.shape == iterated.damp.shape == (60, 20)
    np.testing.assert_allclose(iterated.scores(x), dense.scores(x), atol=0.02)
    assert np.corrcoef(dense.scores(x).ravel(), exact.ravel())[0, 1] > 0.98


def test_strangers_are_unknown():
    x, y = people(40, 40, 24)
    held, strange = y < 25, y >= 25
    train = held & (np.arange(len(y)) % 2 == 0)
    names = np.array([f"person {n}" for n in y])
    model = ExactClassifier(unknown=0.05).fit(x[train], names[train])
    assert model.unknown_.kept
    assert (model.predict(x[strange]) == "unknown").mean() > 0.9
    test = held & ~train
    assert (model.predict(x[test]) == names[test]).mean() > 0.9
    line = model.false_accept_curve()
    at = np.searchsorted(line.thresholds, model.unknown_.threshold, side="right") - 1
    assert line.false_accept[at] == pytest.approx(model.unknown_.false_accept)
    assert (np.diff(line.false_accept) <= 0).all()
    assert (np.diff(line.false_reject) >= 0).all()
    never = ExactClassifier().fit(x[train], names[train])
    assert "unknown" not in never.predict(x[strange])
    with pytest.raises(BadArray, match="no false-accept rate"):
        never.false_accept_curve()


@pytest.mark.parametrize(
    ("labels", "answer"), [(np.arange(6) + 10, -1), (np.arange(6.0), -1.0), (list("abcdef"), "unknown")]
)
def test_the_answer_fits_the_labels(labels, answer):
    x, y = people(6, 60, 8)
    known, stranger = np.array(labels)[y], x.mean(axis=0, keepdims=True)  # the middle of all
    model = ExactClassifier(unknown=0.05).fit(x, known)
    found = model.predict(np.concatenate([stranger, x[:1]]))
    assert found[0] == answer
    assert found.dtype.kind == known.dtype.kind
    other = type(answer)("nobody") if isinstance(answer, str) else type(answer)(-7)
    assert model.set_params(unknown_label=other).predict(stranger)[0] == other
    for wrong in (known[0].item(), b"?", [] if isinstance(answer, str) else "unknown"):
        with pytest.raises(BadArray, match="cannot stand for the unknown"):
            model.set_params(unknown_label=wrong).predict(stranger)
    with pytest.raises(BadArray, match="cannot stand"):
        ExactClassifier(unknown=0.05).fit(x, y > 2).predict(stranger)
    for wrong in ({"unknown": 0}, {"unknown": 1.0}, {"head": "best"}):
        with pytest.raises(BadArray):
            ExactClassifier(**wrong).fit(x, y)


def test_a_rate_that_cannot_be_promised_is_said():
    x, y = people(4, 10, 8)
    model = ExactClassifier(unknown=0.01).fit(x, y)
    with pytest.warns(UserWarning, match="40 rows can stand for strangers, 299 are needed"):
        model.predict(x)
    assert not model.unknown_.kept
    assert model.unknown_.promised > 0.01


def test_negatives_show_what_strangers_look_like():
    """Strangers right beside a class pass, until they are shown; then neither they nor their like do."""
    x, y = people(5, 80, 8)
    rng = np.random.default_rng(5)
    near = x[y == 2].mean(axis=0) * 1.3 + rng.normal(size=(400, 8)) * 0.2
    model = ExactClassifier(unknown=0.05).fit(x, y)
    before = (model.predict(near[200:]) != -1).mean()
    model.partial_fit(near[:200], negative=True)
    assert before > 0.5 > 0.15 > (model.predict(near[200:]) != -1).mean()
    np.testing.assert_array_equal(model.classes_, np.arange(5))
    assert model.predict_proba(x).shape == (400, 5)
    assert model.unknown_.impostors == 600


@pytest.mark.parametrize("cheap", [True, False])
def test_negatives_are_exact(cheap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if not cheap:
        monkeypatch.setattr(learned_module, "_CHEAP", 0)
    warnings.simplefilter("ignore", UserWarning)
    x, y = people(4, 40, 6)
    strange, _ = people(2, 20, 6, seed=9)
    plain = ExactClassifier(unknown=0.1).fit(x, y)
    model = copy.deepcopy(plain).partial_fit(strange[:20], negative=True)
    model.partial_fit(strange[20:], y[20:40], negative=True, ids=[f"not {n}" for n in range(20)])
    other = ExactClassifier(unknown=0.1).partial_fit(
        strange[20:], y[20:40], negative=True, ids=[f"not {n}" for n in range(20)]
    )
    assert other.samples_ == 20
    with pytest.raises(BadArray, match="nothing is held"):
        other.predict(x)
    other += ExactClassifier(unknown=0.1).partial_fit(strange[:20], negative=True).partial_fit(x[::-1], y[::-1])
    assert other.digest() == model.digest() != plain.digest()
    model.save(tmp_path / "model")
    again = ExactClassifier.load(tmp_path / "model")
    for one in (other, again):
        np.testing.assert_array_equal(one.predict(x), model.predict(x))
        assert one.unknown_ == model.unknown_
    with pytest.raises(BadArray, match="row 0"):
        model.forget(strange[:1], y[:1])  # it was not learned as that
    with pytest.raises(BadArray, match="row 0"):
        model.forget(x[:1], negative=True)
    model.forget(strange[:20], negative=True).forget(ids=[f"not {n}" for n in range(20)])
    assert model.digest() == plain.digest()
    model.settle()
    assert model.unknown_ == plain.unknown_
    with pytest.raises(BadArray, match="requires y"):
        model.partial_fit(x)


def test_a_new_class_is_known_between_solves(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learned_module, "_CHEAP", 0)
    x, y = people(9, 100, 12)
    old = y < 8
    model = ExactClassifier(unknown=0.05).fit(x[old], y[old])
    assert (model.predict(x[~old]) == -1).mean() > 0.8
    solution = model._learned.model.corrected.solution
    model.partial_fit(x[~old][:5], y[~old][:5])
    assert (model.predict(x[~old][5:]) == 8).mean() > 0.8
    assert model._learned.model.corrected.solution is solution
    model.forget(x[~old][:5], y[~old][:5])
    assert (model.predict(x[~old]) == -1).mean() > 0.8

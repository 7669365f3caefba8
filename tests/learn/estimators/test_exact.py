"""The estimators are scikit-learn's in every way, and exact: any order, portions, merges and deletions, one digest."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine, make_moons
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from everlearn import ExactClassifier, ExactRegressor, ExactTasks
from everlearn.errors import BadInput, Corrupt, Missing
from everlearn.learn.estimators import learned as learned_module
from everlearn.learn.estimators import saved
from everlearn.learn.estimators.centred import Corrected
from everlearn.learn.estimators.encode import BadArray, Encoder, digits, numbers, top
from everlearn.model.cosines import Cosines
from everlearn.model.graph import Graph, session

FAST = settings(max_examples=40, deadline=None)
CLASSIFIERS = [{}, {"features": "cosine", "dimensions": 16}, {"planes": 2, "scale": 3.0}, {"keep": 0.0}]


@parametrize_with_checks([ExactClassifier(), ExactRegressor(), ExactClassifier(features="cosine", dimensions=64)])
def test_scikit_learn_accepts_them(estimator, check):
    check(estimator)


def some(n: int, d: int = 4, classes: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return rng.normal(size=(classes, d))[y] * 3 + rng.normal(size=(n, d)), y


@st.composite
def tables(draw):
    """Rows of wild scales: repeats, constant features, classes with one sample; cut anywhere, in any order."""
    n, d = draw(st.integers(1, 16)), draw(st.integers(1, 4))
    value = st.sampled_from([0.0, -0.0, 1.0, -3.5, 1e-9, 1e12, -255.0, 0.1])
    x = np.array(draw(st.lists(st.lists(value, min_size=d, max_size=d), min_size=n, max_size=n)))
    if draw(st.booleans()):
        x[:, 0] = 7.0
    y = np.array(draw(st.lists(st.integers(-2, 3), min_size=n, max_size=n)))
    order = np.array(draw(st.permutations(range(n))))
    return x, y, np.split(order, sorted(draw(st.lists(st.integers(0, n), max_size=4))))


@pytest.mark.parametrize("options", [*CLASSIFIERS, None])
@given(tables(), st.booleans())
@FAST
def test_orders_portions_and_merges_are_one(options, table, named):
    x, y, parts = table
    made = ExactRegressor() if options is None else ExactClassifier(**options)
    ids = np.array([f"row {n}" for n in range(len(x))])

    def give(rows):
        return {"ids": ids[rows]} if named else {}

    whole = clone(made).fit(x, y, **give(slice(None)))
    by_turns, merged = clone(made), clone(made)
    for rows in parts:
        by_turns.partial_fit(x[rows], y[rows], **give(rows))
        merged = merged + clone(made).partial_fit(x[rows], y[rows], **give(rows))
    assert whole.digest() == by_turns.digest() == merged.digest()
    np.testing.assert_array_equal(whole.predict(x), by_turns.predict(x))
    np.testing.assert_array_equal(whole.predict(x), merged.predict(x))
    if options is not None:
        np.testing.assert_array_equal(whole.predict_proba(x), merged.predict_proba(x))


@pytest.mark.parametrize("options", [*CLASSIFIERS, None])
@given(tables(), st.booleans())
@FAST
def test_forgotten_is_never_seen(options, table, named):
    x, y, parts = table
    made = ExactRegressor() if options is None else ExactClassifier(**options)
    ids = np.array([f"row {n}" for n in range(len(x))])
    gone, stay = parts[0], np.concatenate(parts[1:]) if len(parts) > 1 else np.zeros(0, np.intp)
    whole, never = clone(made), clone(made).partial_fit(x[stay], y[stay], **({"ids": ids[stay]} if named else {}))
    whole.partial_fit(x, y, **({"ids": ids} if named else {}))
    if named and made.keep:
        whole.forget(ids=ids[gone])
    else:
        whole.forget(x[gone], y[gone], ids=ids[gone] if named else None)
    assert whole.digest() == never.digest()
    assert whole.samples_ == len(stay)
    if options is not None:
        np.testing.assert_array_equal(whole.classes_, never.classes_)
    if len(stay):
        np.testing.assert_array_equal(whole.predict(x), never.predict(x))
    else:
        with pytest.raises(BadArray, match="nothing is held"):
            whole.predict(x)


@pytest.mark.parametrize("count", [1, 2, 40, 2000])
def test_any_number_of_classes(count):
    rng = np.random.default_rng(count)
    y = np.concatenate([np.arange(count), rng.integers(0, count, 200)])
    x = rng.normal(size=(count, 8))[y] * 5 + rng.normal(size=(len(y), 8)) / 10
    model = ExactClassifier().fit(x, y)
    turned = ExactClassifier()
    for rows in np.array_split(rng.permutation(len(y)), 5):
        turned.partial_fit(x[rows], y[rows])
    assert model.digest() == turned.digest()
    np.testing.assert_array_equal(model.classes_, np.arange(count))
    chances = model.predict_proba(x[:50])
    assert chances.shape == (50, count)
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    np.testing.assert_array_equal(model.classes_[chances.argmax(axis=1)], turned.predict(x[:50]))


def test_what_is_not_held_is_refused_and_nothing_changes():
    x, y = some(30)
    model = ExactClassifier().fit(x, y)
    before, answers = model.digest(), model.predict_proba(x)
    for rows, labels, row in (
        (x[:3], (y[:3] + 1) % 3, 0),
        (np.concatenate([x[:2], x[:1] + 1]), y[[0, 1, 0]], 2),
        (x[[4, 4]], y[[4, 4]], 1),  # held once
    ):
        with pytest.raises(BadArray, match=f"row {row}: this row with this label is not held"):
            model.forget(rows, labels)
        assert model.digest() == before
    with pytest.raises(BadArray, match="row 0: id '3' is not held"):
        model.forget(ids=[3])
    with pytest.raises(BadArray, match="nothing is named"):
        model.forget()
    np.testing.assert_array_equal(model.predict_proba(x), answers)


def test_ids_are_held_once():
    x, y = some(20)
    ids = [f"id {n}" for n in range(20)]
    model = ExactClassifier().fit(x, y, ids=ids)
    before = model.digest()
    assert model.partial_fit(x[:5], y[:5], ids=ids[:5]).digest() == before  # what comes again is not learned again
    with pytest.raises(BadArray, match="row 1: id 'id 3' is held with other content"):
        model.partial_fit(x[[2, 4]], y[[2, 4]], ids=ids[2:4])
    with pytest.raises(BadArray, match="row 1: id 'id 2' is not held"):
        model.forget(ids=["id 2", "id 2"])
    with pytest.raises(BadArray, match="both hold id"):
        model.merge(ExactClassifier().fit(x[:1], y[:1], ids=ids[:1]))
    with pytest.raises(BadArray, match="row 0"):
        model.forget(x[:1], y[:1])  # it was learned by its id
    assert model.digest() == before
    lean = ExactClassifier(keep=0).fit(x, y, ids=ids)
    with pytest.raises(BadArray, match="are not kept"):
        lean.forget(ids=ids[:1])
    with pytest.raises(BadArray, match="other content"):
        lean.forget(x[:1], y[:1], ids=ids[1:2])
    assert lean.forget(x[:1], y[:1], ids=ids[:1]).digest() == model.forget(ids=ids[:1]).digest()


def test_groups_decide_the_fold():
    x, y = some(40)
    apart, together = ExactClassifier().fit(x, y), ExactClassifier().fit(x, y, groups=["one"] * 40)
    assert np.count_nonzero(apart._learned.memory.fold_counts) > 1
    assert np.count_nonzero(together._learned.memory.fold_counts) == 1
    with pytest.raises(BadArray, match="not held"):
        together.forget(x[:1], y[:1])
    assert together.forget(x, y, groups=["one"] * 40).samples_ == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_gaps_are_refused_by_their_row(bad):
    x, y = some(10)
    model = ExactClassifier().fit(x, y)
    before = model.digest()
    x[7, 1] = bad
    for call in (lambda: model.partial_fit(x, y), lambda: model.predict(x), lambda: model.forget(x, y)):
        with pytest.raises(BadArray, match="X row 7 holds"):
            call()
    assert model.digest() == before
    with pytest.raises(BadArray, match="y row 2 holds"):
        ExactRegressor().fit(np.ones((4, 1)), [1, 2, bad, 3])
    assert issubclass(BadArray, (BadInput, ValueError))


def test_classes_that_come_later():
    x, y = some(90)
    first = y < 2
    model = ExactClassifier().partial_fit(x[first], y[first], classes=[0, 1, 2])
    assert model.predict_proba(x).shape == (90, 3)
    assert (model.predict_proba(x)[:, 2] == 0).all()
    assert np.isfinite(model.decision_function(x)).all()
    assert (model.predict(x) < 2).all()
    model.partial_fit(x[~first], y[~first]).partial_fit(x[:0], y[:0])
    undeclared = ExactClassifier().partial_fit(x[first], y[first]).partial_fit(x[~first], y[~first])
    joint = ExactClassifier().fit(x, y)
    assert joint.digest() == model.digest() == undeclared.digest()
    np.testing.assert_array_equal(model.predict_proba(x), joint.predict_proba(x))
    with pytest.raises(BadArray, match="cannot be learned here"):
        model.partial_fit(x[:1], ["two"])
    assert model.digest() == joint.digest()


@pytest.mark.parametrize("labels", [["b", "a", "ü"], [True, False, True], [10, 9, -1], [0.5 * 2, 2.0, 3.0]])
def test_labels_of_any_kind(labels):
    x, y = some(60)
    named = np.array(labels)[y]
    model = ExactClassifier().fit(x, named)
    np.testing.assert_array_equal(model.classes_, np.unique(named))
    assert (model.predict(x) == named).mean() > 0.9


@pytest.mark.parametrize("made", [ExactClassifier(), ExactClassifier(scale=[1, 2, 3, 4], keep=0.5), ExactRegressor()])
def test_a_file_holds_it_all(made, tmp_path: Path):
    x, y = some(50)
    ids = np.array([f"n{n}" for n in range(50)])
    model = clone(made).fit(x[:30], y[:30]).partial_fit(x[30:], y[30:], ids=ids[30:])
    if isinstance(model, ExactClassifier):
        model.partial_fit(x[:0], y[:0], classes=[9])
    path = tmp_path / "model"
    model.save(path)
    again = type(model).load(path)
    assert again.digest() == model.digest()
    assert [*tmp_path.iterdir()] == [path]
    left = copy.deepcopy(model).forget(x[:5], y[:5]).forget(x[30:33], y[30:33], ids=ids[30:33])
    for other in (again, pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_allclose(other.predict(x), model.predict(x), rtol=1e-9)
        other.forget(x[:5], y[:5]).forget(x[30:33], y[30:33], ids=ids[30:33])
        assert other.digest() == left.digest()
        if isinstance(other, ExactClassifier):
            np.testing.assert_array_equal(other.classes_, [0, 1, 2, 9])
    with pytest.raises(Missing):
        type(model).load(tmp_path / "none")
    with pytest.raises(Corrupt):
        (ExactRegressor if isinstance(model, ExactClassifier) else ExactClassifier).load(path)
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), max(1, len(data) // 40)):
        bad = tmp_path / "bad"
        bad.write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
        try:
            found = type(model).load(bad)
        except Corrupt:
            continue
        assert found.digest() == model.digest()  # a byte of the archive's own that decides nothing
    bad.write_bytes(data[: len(data) // 2])
    with pytest.raises(Corrupt):
        type(model).load(bad)


def test_merging_two_kinds_changes_nothing():
    x, y = some(20)
    model = ExactClassifier().fit(x, y)
    other = ExactClassifier(planes=1).partial_fit(x, y, classes=[7])
    before = model.digest()
    for wrong in (other, ExactClassifier().fit(x, y.astype(str)), ExactClassifier(folds=3).fit(x, y)):
        with pytest.raises(BadInput):
            model.merge(wrong)
        assert model.digest() == before
        np.testing.assert_array_equal(model.classes_, [0, 1, 2])
    twice = model + model  # rows without names are counted
    assert twice.samples_ == 40
    assert twice.forget(x, y).digest() == before
    empty = ExactClassifier()
    assert (empty + model).digest() == (model + empty).digest() == before
    assert not hasattr(empty, "_learned")


def test_merging_into_what_is_empty_keeps_its_settings():
    x, y = some(40)
    model = ExactClassifier().fit(x, y)
    for wrong in (ExactClassifier(planes=1), ExactClassifier(features="cosine"), ExactClassifier(folds=3)):
        with pytest.raises(BadArray, match=r"planes|features|folds"):
            wrong.merge(model)
        assert not hasattr(wrong, "_learned")
    mine = ExactClassifier(alpha=1e-3).merge(model)
    assert mine.alpha_ == 1e-3
    assert mine.digest() == model.digest()


def test_columns_of_other_names_are_not_merged():
    x, y = some(40)
    there = [ExactClassifier().fit(pd.DataFrame(x, columns=list(names)), y) for names in ("abcd", "abdc")]
    before = there[0].digest()
    with pytest.raises(BadArray, match="column 2 is 'd' in one, 'c' in the other"):
        there[0].merge(there[1])
    assert there[0].digest() == before
    assert there[0].merge(ExactClassifier().fit(x, y)).samples_ == 80
    tasks = [ExactTasks().fit(pd.DataFrame(x, columns=list(names)), {"t": y}) for names in ("abcd", "abdc")]
    with pytest.raises(BadArray, match="column 2"):
        tasks[0].merge(tasks[1])


def test_settings_may_be_numpys_numbers(tmp_path: Path):
    x, y = some(40)
    made = ExactClassifier(features="cosine", dimensions=np.int64(32), seed=np.int64(3), width=np.float32(2),
                           folds=np.int64(3), alpha=np.float64(0.01))  # fmt: skip
    model = made.fit(x, y)
    model.save(tmp_path / "model")
    again = ExactClassifier.load(tmp_path / "model")
    assert again.digest() == model.digest()
    np.testing.assert_allclose(again.predict_proba(x), model.predict_proba(x), rtol=1e-9)


def test_the_name_of_a_forgotten_class_stays_nowhere(tmp_path: Path):
    x, y = some(40)
    names = np.array(["Ada", "Bob", "Cyd"])[y]
    model = ExactClassifier().fit(x, names).forget(x[y == 1], names[y == 1])
    model.save(tmp_path / "model")
    assert b"Bob" not in (tmp_path / "model").read_bytes()
    assert b"Bob" not in pickle.dumps(model)
    assert b"Ada" in pickle.dumps(model)
    again = ExactClassifier.load(tmp_path / "model").partial_fit(x[y == 1], names[y == 1])
    model.partial_fit(x[y == 1], names[y == 1])
    assert again.digest() == model.digest() == ExactClassifier().fit(x, names).digest()
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    assert again.forget(x[y == 0], names[y == 0]).samples_ == 40 - (y == 0).sum()


def test_no_curve_of_the_forgotten_is_copied(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learned_module, "_CHEAP", 0)
    monkeypatch.setattr(learned_module, "MOST_CORRECTIONS", 1)
    x, y = some(200)
    model = ExactClassifier(unknown=0.2, head="ridge").fit(x, y)
    model.predict(x)
    model.forget(x[:2], y[:2]).predict(x)  # solved again with the line that was chosen before
    assert model._learned.model is not None
    assert not model._learned.model.corrected.signs
    assert copy.deepcopy(model)._learned.model is None


def test_an_interrupted_correction_is_made_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learned_module, "_CHEAP", 0)
    x, y = some(200)
    model = ExactClassifier(head="ridge", alpha=1e-3).fit(x, y)
    model.predict(x)
    model.forget(x[:5], y[:5])
    with monkeypatch.context() as patched:
        patched.setattr(Corrected, "change", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            model.predict(x)
    wanted = ExactClassifier(head="ridge", alpha=1e-3).fit(x[5:], y[5:])
    np.testing.assert_allclose(model.decision_function(x), wanted.decision_function(x), atol=1e-9)


def test_the_type_of_labels_is_forgotten_with_them():
    x, y = some(30)
    model = ExactClassifier().fit(x, y).forget(x, y)
    np.testing.assert_array_equal(model.partial_fit(x, y.astype(str)).classes_, ["0", "1", "2"])
    model = ExactClassifier().partial_fit(x[:5], negative=True)
    for negative in (False, True):
        with pytest.raises(BadArray, match="not held"):
            model.forget(x[:5], ["Ada"] * 5, negative=negative)
    np.testing.assert_array_equal(model.partial_fit(x, y).classes_, [0, 1, 2])


@pytest.mark.parametrize("about", [{"labels": None}, {"labels": {"kind": "i", "declared": [3]}}, {"labels": {}}])
def test_a_file_that_says_nonsense_of_itself_is_damaged(tmp_path: Path, about):
    x, y = some(30)
    model = ExactClassifier().fit(x, y)
    saved.save(tmp_path / "model", "ExactClassifier", model.get_params(), about | {"inputs": 4}, model._learned)
    with pytest.raises(Corrupt):
        ExactClassifier.load(tmp_path / "model")


def test_settings_that_cannot_be():
    x, y = some(10)
    for options in ({"scale": 0}, {"scale": [1, 2]}, {"planes": 5}, {"features": "x"}, {"alpha": -1}, {"keep": 2},
                    {"width": 0}, {"folds": 0}):  # fmt: skip
        with pytest.raises(BadInput):
            ExactClassifier(**options).fit(x, y)
    with pytest.raises(NotFittedError):
        ExactClassifier().digest()
    with pytest.raises(BadInput):
        ExactClassifier().fit(x, y).merge(ExactClassifier(planes=1).fit(x, y))
    with pytest.raises(BadInput):
        ExactClassifier().fit(x, y).merge(ExactRegressor().fit(x, y))
    with pytest.raises(BadArray, match="y row 1"):
        ExactRegressor().fit(x[:2], [1, 1e10])


@given(st.integers(1, 8), st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=5))
@FAST
def test_digits_are_the_number(planes, values):
    wanted = np.array(values) % top(planes) * np.sign(values)
    written = digits(wanted[:, None], planes)
    assert written.min() >= -127
    np.testing.assert_array_equal(numbers(written, planes)[:, 0], wanted)


@pytest.mark.parametrize("planes", [1, 2, 3, 4])
def test_steps_grow_with_the_value(planes):
    x = np.concatenate([-np.geomspace(1e9, 1e-9, 300), np.geomspace(1e-9, 1e9, 300)])[:, None]
    encoder = Encoder(1, planes)
    found = encoder.values(encoder.phi(x))[:, 0]
    assert (np.diff(found) >= 0).all()
    np.testing.assert_array_equal(found, -found[::-1])


def test_the_cosines_are_those_of_a_workspace():
    rng = np.random.default_rng(0)
    encoder = Encoder(40, 1, scale=(1.0,), features="cosine", dimensions=64, width=0.5)
    steps = rng.integers(-2000, 2000, (6, 40))
    twin = Cosines(40, top(2) * 40**0.5, 64, 0.5)
    graph = Graph()
    graph.output("phi", twin.build(graph, graph.input("x", np.float32, ["N", 40])), np.int8, ["N", 64])
    wanted = session(graph.model()).run(None, {"x": steps.astype(np.float32)})[0]
    found = encoder.phi(steps / top(2))
    off = np.abs(found.astype(int) - wanted)[:, :-1]  # the last of a workspace's is a constant
    assert off.max() <= 1  # it works in float32
    assert (off == 0).mean() > 0.98


def test_moments_lose_nothing_to_cancellation():
    """Features far from zero and a target of nine digits: the ridge is that of float64 on centred data."""
    rng = np.random.default_rng(3)
    x = 9000 + rng.normal(size=(200, 3))
    y = 1e6 + x @ [1.0, -2.0, 0.5] + 1e-3 * rng.normal(size=200)
    model = ExactRegressor(alpha=1e-6, intercept=True).fit(x, y)
    assert model.score(x, y) > 0.999
    np.testing.assert_allclose(model.predict(x), y, atol=0.05)


@pytest.mark.parametrize("load", [load_digits, load_breast_cancer, load_wine])
def test_quantising_costs_little(load):
    x, y = load(return_X_y=True)
    model = ExactClassifier()
    found = model.quantisation_loss(x, y)
    assert found == model.quantisation_loss_
    assert abs(found["loss"]) <= 0.002
    assert found["float64"] > 0.9
    assert not hasattr(model, "_learned")


@pytest.mark.parametrize("scaled", [True, False])
def test_quantising_costs_little_in_regression(scaled):
    x, y = load_diabetes(return_X_y=True, scaled=scaled)
    found = ExactRegressor().quantisation_loss(x, y)
    assert abs(found["loss"]) <= 0.002
    assert found["float64"] > 0.45


def test_a_single_plane_shows_its_loss():
    x, y = load_wine(return_X_y=True)
    assert ExactClassifier(planes=1, scale=1e5).quantisation_loss(x, y)["loss"] > 0.05


def test_cosines_learn_what_no_line_parts():
    x, y = make_moons(600, noise=0.1, random_state=0)
    straight = ExactClassifier(scale=2.0).fit(x[:400], y[:400]).score(x[400:], y[400:])
    curved = ExactClassifier(features="cosine", scale=2.0, width=0.2, dimensions=256).fit(x[:400], y[:400])
    assert curved.score(x[400:], y[400:]) > max(0.97, straight + 0.05)


def test_probabilities_are_calibrated():
    """On new rows, the mean confidence is the accuracy, where the ridge scores themselves are far off."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 3000)
    x = rng.normal(size=(3, 5))[y] + rng.normal(size=(3000, 5)) * 1.5
    model = ExactClassifier().fit(x[:1500], y[:1500])
    chances = model.predict_proba(x[1500:])
    assert model.calibrated_
    assert abs(chances.max(axis=1).mean() - model.score(x[1500:], y[1500:])) < 0.03


@pytest.mark.parametrize("made", [ExactClassifier(), ExactClassifier(intercept=False), ExactRegressor()])
def test_corrections_are_the_full_solve(made, monkeypatch: pytest.MonkeyPatch):
    """A few changed rows between solves: the answers of a full solve at the same penalty."""
    monkeypatch.setattr(learned_module, "_CHEAP", 0)
    x, y = some(400, d=6, classes=4)
    late = y == 3
    late[:60] = True  # the last class comes late
    model = clone(made).set_params(alpha=0.01).fit(x[~late], y[~late])
    model.predict(x)
    solution = model._learned.model.corrected.solution
    new = np.flatnonzero(late)[:30]
    for row in new:
        model.partial_fit(x[[row]], y[[row]]).predict(x[:1])
    old = np.flatnonzero(~late)[:10]
    model.forget(x[old], y[old])
    answers = (model.predict if isinstance(model, ExactRegressor) else model.decision_function)(x)
    assert model._learned.model.corrected.solution is solution
    assert len(model._learned.model.corrected.signs) == 40
    assert pickle.loads(pickle.dumps(model))._learned.model is None  # it would take along what was forgotten
    model.settle()
    again = (model.predict if isinstance(model, ExactRegressor) else model.decision_function)(x)
    assert np.abs(answers - again).max() < 0.01 * np.abs(again).max()  # spreads have moved a little
    held = np.setdiff1d(np.concatenate([np.flatnonzero(~late), new]), old)
    fresh = clone(model).fit(x[held], y[held])
    assert fresh.digest() == model.digest()
    np.testing.assert_array_equal(fresh.predict(x), model.predict(x))


def test_more_rows_are_solved_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learned_module, "_CHEAP", 0)
    x, y = some(1200)
    model = ExactClassifier().fit(x[:1000], y[:1000])
    model.predict(x)
    before = model._learned.model
    model.partial_fit(x[1000:1100], y[1000:1100]).predict(x)  # too many for a correction
    assert model._learned.model is before
    assert not before.corrected.signs
    assert before.corrected.solution.n == 1100
    model.partial_fit(x[1100:], y[1100:]).partial_fit(x[:1], y[:1]).predict(x)  # a fifth more than when it was chosen
    assert model._learned.model is not before


def test_features_of_length_one_lose_nothing_and_what_is_lost_is_said():
    """Networks' features are often brought to length 1: 1,280 numbers of about 0.03."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 400)
    x = rng.normal(size=(4, 1280))[y] + 4 * rng.normal(size=(400, 1280))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert abs(ExactClassifier().quantisation_loss(x, y)["loss"]) < 0.03
    with pytest.warns(UserWarning, match=r"9\d% of the features other than 0 round to 0. Give scale"):
        ExactClassifier(planes=1).fit(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ExactClassifier(planes=1, scale=0.2).fit(x, y)


def test_of_many_kept_rows_some_calibrate(monkeypatch):
    """Every k-th in the order of their keys: the same ones whatever the order they came in."""
    x, y = load_digits(return_X_y=True)
    monkeypatch.setattr("everlearn.learn.estimators.learned._CALIBRATED", 64 * 500)
    order = np.random.default_rng(1).permutation(len(x))
    first, second = ExactClassifier().fit(x, y), ExactClassifier().fit(x[order], y[order])
    assert first.temperature_ == second.temperature_ and first.head_ == second.head_
    assert min(first._learned.ready().accuracies.values()) > 0.8
    monkeypatch.undo()
    whole = ExactClassifier().fit(x, y)
    assert whole.digest() == first.digest()
    assert abs(whole.score(x, y) - first.score(x, y)) < 0.02


def test_rows_that_could_not_be_summed_are_not_held(monkeypatch):
    x, y = load_digits(return_X_y=True)
    model = ExactClassifier().fit(x[:600], y[:600])
    before = model.digest()
    monkeypatch.setattr(learned_module.ExactMemory, "add", lambda *a: (_ for _ in ()).throw(MemoryError("none left")))
    with pytest.raises(MemoryError):
        model.partial_fit(x[600:1500], y[600:1500])
    monkeypatch.undo()
    with pytest.raises(BadInput, match="not held"):
        model.forget(x[700:701], y[700:701])
    assert model.digest() == before
    assert model.partial_fit(x[600:], y[600:]).digest() == ExactClassifier().fit(x, y).digest()

"""The exact memory is a River estimator: by River's own checks, and by what River's estimators cannot do."""

from __future__ import annotations

import math
import pickle
import random
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import checks, datasets, evaluate, metrics, preprocessing, stream
from sklearn.datasets import load_digits

from everlearn import ExactClassifier, ExactRegressor
from everlearn.integrations.river import ExactRiverClassifier, ExactRiverRegressor
from everlearn.learn.estimators.encode import BadArray

NAMES = [f"word{n}" for n in range(40)]
ROWS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(NAMES), st.integers(-3, 3), max_size=12),
        st.sampled_from(["bird", "cat", "fish"]),
    ),
    min_size=1,
    max_size=30,
)


def taught(rows: Any, **settings: Any) -> ExactRiverClassifier:
    model = ExactRiverClassifier(**settings)
    for x, y in rows:
        model.learn_one(x, y)
    return model


@pytest.mark.parametrize(
    "model", [ExactRiverClassifier(folds=2), ExactRiverRegressor(folds=2)], ids=lambda one: type(one).__name__
)
def test_passes_river_s_own_checks_without_exclusions(model: Any) -> None:
    assert not model._unit_test_skips()
    checks.check_estimator(model)


@settings(max_examples=25, deadline=None)
@given(ROWS, st.randoms(use_true_random=False), st.data())
def test_any_order_portions_and_forgetting_give_the_same_digest(
    rows: list[Any], chance: random.Random, data: Any
) -> None:
    """Features that come and go, rows one by one or in tables, asked in between or not."""
    gone = data.draw(st.lists(st.sampled_from(range(len(rows))), unique=True))
    shuffled = list(range(len(rows)))
    chance.shuffle(shuffled)
    model = ExactRiverClassifier()
    for at in shuffled:
        x, y = rows[at]
        named = list(x)
        chance.shuffle(named)
        if chance.random() < 0.5:
            model.learn_one({name: x[name] for name in named}, y)
        else:
            model.learn_many(pd.DataFrame([x], columns=named), pd.Series([y]))
        if chance.random() < 0.3:
            model.predict_one(x)
    assert model.digest() == taught(rows).digest()
    for at in gone:
        model.forget_one(*rows[at])
    rest = [row for at, row in enumerate(rows) if at not in gone]
    assert model.samples == len(rest)
    assert model.digest() == taught(rest).digest()
    held = {name for x, _ in rest for name, value in x.items() if value}
    if gone:
        assert {name for at in gone for name, v in rows[at][0].items() if v and name in model._names} <= held


def test_answers_are_those_of_the_scikit_learn_estimator() -> None:
    x, y = load_digits(return_X_y=True)
    model, same = ExactRiverClassifier(alpha=1e-2), ExactClassifier(planes=2, alpha=1e-2)
    table = pd.DataFrame(x, columns=[f"p{n}" for n in range(64)])
    for start in range(0, 1200, 300):
        model.learn_many(table[start : start + 300], pd.Series(y[start : start + 300]))
    same.fit(x[:1200], y[:1200])
    answers = model.predict_many(table[1200:])
    assert list(answers.index) == list(range(1200, len(x)))
    assert (answers.to_numpy() == same.predict(x[1200:])).mean() > 0.995
    assert (answers.to_numpy() == y[1200:]).mean() > 0.86
    probabilities = model.predict_proba_many(table[1200:])
    assert list(probabilities.columns) == list(range(10))
    assert np.allclose(probabilities.sum(axis=1), 1)

    target = x @ np.arange(64.0)
    number, sklearn = ExactRiverRegressor(alpha=1e-2), ExactRegressor(planes=2, alpha=1e-2)
    number.learn_many(table[:300], pd.Series(target[:300]))
    sklearn.fit(x[:300], target[:300])
    assert np.allclose(number.predict_many(table[300:]), sklearn.predict(x[300:]), rtol=1e-4)


def test_a_class_and_a_feature_that_come_late_count_at_once() -> None:
    rows = [({"legs": 2 + 2 * (n % 2), "noise": math.sin(n)}, ("bird", "cat")[n % 2]) for n in range(300)]
    model = taught(rows)
    assert model.predict_one({"legs": 4}) == "cat"
    for n in range(5):
        model.learn_one({"fins": 2.0, "noise": math.cos(n)}, "fish")
    assert set(model.predict_proba_one({})) == {"bird", "cat", "fish"}
    model.settle()
    assert model.predict_one({"fins": 2}) == "fish"
    for n in range(5):
        model.forget_one({"fins": 2.0, "noise": math.cos(n)}, "fish")
    assert set(model.predict_proba_one({})) == {"bird", "cat"}
    assert model.digest() == taught(reversed(rows)).digest()


def test_learns_a_stream_in_a_pipeline_and_survives_a_pickle() -> None:
    pipeline = preprocessing.StandardScaler() | ExactRiverClassifier()
    scored = evaluate.progressive_val_score(datasets.Phishing().take(600), pipeline, metrics.Accuracy())
    assert scored.get() > 0.85
    pipeline["ExactRiverClassifier"].settle()  # a pickle holds no corrections, so what is read is solved anew
    again = pickle.loads(pickle.dumps(pipeline))
    x, y = next(iter(datasets.Phishing()))
    assert again.predict_proba_one(x) == pytest.approx(pipeline.predict_proba_one(x))
    again.learn_one(x, y)
    assert again["ExactRiverClassifier"].samples == 601
    late = evaluate.progressive_val_score(
        datasets.Phishing().take(300), ExactRiverClassifier(), metrics.Accuracy(), delay=20
    )
    assert late.get() > 0.8


def test_one_key_of_a_dictionary_is_one_class() -> None:
    model = taught([({"a": 1}, 1), ({"a": 2}, True), ({"a": 3}, np.int64(1)), ({"a": 4}, "1")])
    assert list(model.predict_proba_one({"a": 1})) == [1, "1"]


def test_a_row_that_repeats_is_held_as_often() -> None:
    model = taught([({"a": 1}, "x")] * 3 + [({"a": 2}, "y")])
    model.forget_one({"a": 1.0, "b": 0}, "x")  # what is 0 is not there
    assert model.digest() == taught([({"a": 1}, "x"), ({"a": 2}, "y"), ({"a": 1}, "x")]).digest()
    for x, y in [({"a": 2}, "x"), ({"a": 3}, "y"), ({"z": 1}, "y"), ({"a": 2}, "never")]:
        with pytest.raises(BadArray, match="not held"):
            model.forget_one(x, y)
    assert model.samples == 3


def test_a_target_of_minus_zero_is_zero() -> None:
    model = ExactRiverRegressor()
    model.learn_one({"a": 1}, -0.0)
    model.forget_one({"a": 1}, 0.0)
    assert model.samples == 0


@pytest.mark.parametrize("planes", [1, 2])
def test_what_rounds_to_0_is_forgotten_as_often_as_it_was_learned(planes: int) -> None:
    small = {"a": 0.0004, "b": 1}
    model = taught([(small, "x")] * 3 + [({"b": 2}, "y")], planes=planes)
    for _ in range(3):
        model.forget_one(small, "x")
    assert model.digest() == taught([({"b": 2}, "y")], planes=planes).digest()
    with pytest.raises(BadArray, match="not held"):
        model.forget_one(small, "x")
    with pytest.raises(BadArray, match="not held"):
        model.forget_one({"z": 0.5, "b": 2}, "y")


@pytest.mark.parametrize("value", [math.nan, math.inf, "red", None, [1]])
def test_what_is_no_number_is_refused_by_name(value: Any) -> None:
    model = taught([({"a": 1}, "x")])
    before = model.digest()
    for call in (lambda x: model.learn_one(x, "y"), model.predict_one, lambda x: model.forget_one(x, "x")):
        with pytest.raises(BadArray, match="'colour'"):
            call({"a": 1, "colour": value})
    with pytest.raises(BadArray):
        model.learn_many(pd.DataFrame({"a": [1.0, 2.0], "colour": [0, value]}), pd.Series(["x", "y"]))
    with pytest.raises(BadArray, match="no label"):
        model.learn_one({"a": 1}, [value])
    assert model.digest() == before
    assert set(model.predict_proba_one({"a": 1})) == {"x"}


@pytest.mark.parametrize("target", [math.nan, math.inf, 1e10, "1", None])
def test_a_target_that_cannot_be_held_is_refused(target: Any) -> None:
    model = ExactRiverRegressor()
    model.learn_one({"a": 1}, 1.5)
    with pytest.raises(BadArray):
        model.learn_one({"a": 1}, target)
    assert model.samples == 1
    assert model.predict_one({"a": 1}) == pytest.approx(1.5)


def test_memory_stays_bounded_while_rows_pass() -> None:
    model = ExactRiverClassifier(calibration=100)
    sizes = []
    for n, (x, y) in enumerate(stream.iter_sklearn_dataset(load_digits())):
        model.learn_one(x, y)
        if n in (800, 1600):
            model.digest()
            sizes.append(len(pickle.dumps(model)))
    assert sizes[1] - sizes[0] < 800 * 60  # bytes for each row beyond the first ones: its digest and a count

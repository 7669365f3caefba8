"""Agreement with scikit-learn, the stated definitions, and what must not matter."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as peer

from everlearn.errors import BadInput
from everlearn.evaluate import metrics
from everlearn.evaluate.figures import bias_corrected, units_of, wilson
from everlearn.evaluate.metrics import Answers, classification, regression

NAMES = ["ant", "bee", "cat", "dog", "지수"]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 60)


def some(rows: int = 200, seed: int = 0, unknown: bool = True) -> Answers:
    rng = np.random.default_rng(seed)
    labels = rng.choice(NAMES[:4], rows)  # the last class is never in the test
    answers = [str(a) if rng.random() < 0.7 else str(rng.choice(NAMES)) for a in labels]
    return Answers(
        labels=[str(label) for label in labels],
        predicted=[None if unknown and rng.random() < 0.1 else a for a in answers],
        probabilities=rng.random(rows),
        classes=NAMES,
        cameras=[str(c) if c != "none" else None for c in rng.choice(["door", "gate", "none"], rows)],
        ids=[f"{i:04d}" for i in range(rows)],
    )


@pytest.mark.parametrize("seed", range(5))
def test_headline_agrees_with_scikit_learn(seed: int) -> None:
    answers = some(seed=seed, unknown=seed % 2 == 0)
    found = classification(answers)
    said = [p or "?" for p in answers.predicted]
    there = np.unique(answers.labels)
    precision, recall, f1, _ = peer.precision_recall_fscore_support(
        answers.labels, said, labels=there, average="macro", zero_division=0
    )
    assert found.accuracy.value == pytest.approx(peer.accuracy_score(answers.labels, said))
    assert (found.precision.value, found.recall.value, found.f1.value) == pytest.approx((precision, recall, f1))
    for figure in found.headline().values():
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low <= figure.value <= figure.high


def test_class_table_and_matrix_agree_with_scikit_learn() -> None:
    answers = some(unknown=False)
    found = classification(answers)
    table = peer.precision_recall_fscore_support(answers.labels, answers.predicted, labels=NAMES, zero_division=0)
    for i, row in enumerate(found.classes):
        assert row.name == NAMES[i]
        assert row.images == table[3][i]
        if row.images:
            assert (row.precision, row.recall, row.f1) == pytest.approx(tuple(t[i] for t in table[:3]))
    assert found.confusion.classes == tuple(NAMES)
    assert np.array_equal(
        found.confusion.matrix, peer.confusion_matrix(answers.labels, answers.predicted, labels=NAMES)
    )


def test_a_class_absent_from_the_test_has_no_recall_and_is_not_averaged() -> None:
    found = classification(Answers(["a", "a", "b"], ["a", "c", "b"], classes=["a", "b", "c", "d"]))
    scores = {row.name: row for row in found.classes}
    assert scores["c"].recall is None
    assert scores["c"].precision == 0
    assert scores["c"].answers == 1
    assert scores["d"].recall is None
    assert scores["d"].precision is None
    assert scores["d"].f1 is None
    assert found.recall.value == pytest.approx((0.5 + 1) / 2)
    assert found.precision.value == 1


def test_a_class_the_model_does_not_know_is_answered_wrong() -> None:
    found = classification(Answers(["new", "old"], ["old", "old"], classes=["old"]))
    assert found.accuracy.value == 0.5
    assert [row.name for row in found.classes] == ["new", "old"]


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(40)), grouped=st.booleans())
def test_the_order_of_the_rows_does_not_matter(order: list[int], grouped: bool) -> None:
    one = some(40)
    groups = [f"video{i % 7}" if i % 3 else None for i in range(40)] if grouped else None
    columns = (one.labels, one.predicted, one.probabilities, one.cameras, one.ids, groups)
    mixed = [None if column is None else [column[i] for i in order] for column in columns]
    a = classification(Answers(one.labels, one.predicted, one.probabilities, NAMES, one.cameras, one.ids, groups))
    b = classification(Answers(mixed[0], mixed[1], np.array(mixed[2]), NAMES, *mixed[3:]))
    for name, figure in a.headline().items():
        other = b.headline()[name]
        assert (figure.value, figure.low, figure.high) == pytest.approx((other.value, other.low, other.high))
    assert a.classes == b.classes
    assert a.cameras == b.cameras
    assert a.confusion == b.confusion
    assert a.mistakes == b.mistakes


def test_images_of_one_video_are_not_independent() -> None:
    """Ten frames of each of 20 scenes, all right or all wrong together, say no more than 20 images."""
    right = np.repeat(np.arange(20) % 4 > 0, 10)
    answers = ["a" if r else "b" for r in right]
    alone = classification(Answers(["a"] * 200, answers)).accuracy
    together = classification(Answers(["a"] * 200, answers, groups=[f"v{i // 10}" for i in range(200)])).accuracy
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_all_right_is_not_certainty() -> None:
    found = classification(Answers(["a", "b"] * 15, ["a", "b"] * 15))
    assert found.accuracy.value == 1
    assert found.accuracy.low == pytest.approx(0.8843, abs=1e-4)  # Clopper-Pearson, 30 of 30


def test_calibration_error_of_a_calibrated_and_of_a_boasting_model() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 1, 6000)
    answers = ["a" if r else "b" for r in rng.random(6000) < sure]
    honest = classification(Answers(["a"] * 6000, answers, sure))
    boasting = classification(Answers(["a"] * 6000, answers, np.full(6000, 0.99)))
    assert honest.ece is not None
    assert honest.ece.value < 0.03
    assert boasting.ece is not None
    assert boasting.ece.value == pytest.approx(0.99 - honest.accuracy.value)
    assert sum(b.count for b in honest.reliability) == 6000
    assert len(honest.reliability) == 15
    assert len(boasting.reliability) == 1  # equal confidences stay in one bin


def test_full_probabilities_and_their_largest_are_the_same() -> None:
    table = np.random.default_rng(1).dirichlet(np.ones(3), 50)
    said = [NAMES[i] for i in table.argmax(axis=1)]
    full = classification(Answers([NAMES[0]] * 50, said, table, NAMES[:3]))
    assert full == classification(Answers([NAMES[0]] * 50, said, table.max(axis=1), NAMES[:3]))


def test_cameras_and_mistakes() -> None:
    found = classification(some())
    assert [c.name for c in found.cameras] == ["", "door", "gate"]
    assert sum(c.images for c in found.cameras) == found.n
    sure = [m.confidence or 0 for m in found.mistakes]
    assert sure == sorted(sure, reverse=True)
    assert all(m.label != m.predicted for m in found.mistakes)


def test_with_many_classes_only_the_most_confused_are_in_the_matrix() -> None:
    names = [f"c{i:03d}" for i in range(300)]
    said = list(names)
    said[7], said[9], said[200] = "c008", "c008", "c010"
    found = classification(Answers(names * 3, said * 3, classes=names), shown=4)
    assert found.confusion.classes == ("c007", "c008", "c009")
    assert found.confusion.matrix == ((0, 3, 0), (0, 3, 0), (0, 3, 0))
    assert [(p.label, p.predicted, p.count) for p in found.confusion.pairs] == [
        ("c007", "c008", 3),
        ("c009", "c008", 3),
        ("c200", "c010", 3),
    ]


def test_regression_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(30, 10, 150)
    said = target + rng.normal(1, 4, 150)
    found = regression(target, said, cameras=["door"] * 100 + [None] * 50)
    assert found.mae.value == pytest.approx(peer.mean_absolute_error(target, said))
    assert found.mse.value == pytest.approx(peer.mean_squared_error(target, said))
    assert found.rmse.value == pytest.approx(peer.root_mean_squared_error(target, said))
    assert found.r2 is not None
    assert found.r2.value == pytest.approx(peer.r2_score(target, said))
    assert {c.name: c.images for c in found.cameras} == {"": 50, "door": 100}
    assert found.mistakes[0].error == pytest.approx(np.abs(target - said).max())


def test_regression_in_any_order_and_without_spread() -> None:
    rng = np.random.default_rng(0)
    target, said, order = rng.normal(size=90), rng.normal(size=90), rng.permutation(90)
    one, other = regression(target, said), regression(target[order], said[order])
    assert (one.mae.value, one.mae.low, one.mae.high) == pytest.approx((other.mae.value, other.mae.low, other.mae.high))
    assert regression([5.0, 5.0], [5.0, 6.0]).r2 is None
    assert regression([5.0, 6.0], [5.0, 6.0]).mistakes == ()


def test_everything_becomes_json() -> None:
    for found in (classification(some()), regression([1.0, 2.0, 4.0], [1.0, 2.5, 3.0])):
        kept = json.loads(json.dumps(found.to_json(), allow_nan=False))
        assert set(kept) >= {"n", "cameras", "mistakes"}
    assert set(classification(some()).to_json()["accuracy"]) == {"value", "interval"}


def test_nothing_to_evaluate_is_said() -> None:
    with pytest.raises(BadInput, match="no test image"):
        Answers([], [])
    with pytest.raises(BadInput, match="cameras has 1 rows"):
        Answers(["a", "b"], ["a", "b"], cameras=["door"])
    with pytest.raises(BadInput, match="finite"):
        regression([1.0], [float("nan")])


def test_units_keep_groups_together_and_strangers_apart() -> None:
    assert units_of(["b", None, "a", "b", None], 5).tolist() == [1, 2, 0, 1, 3]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.data())
def test_intervals_hold_their_value(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    low, high = wilson(np.array([right]), np.array([n]))
    assert 0 <= low[0] <= right / n <= high[0] <= 1
    drawn = np.random.default_rng(n).binomial(n, right / n, 500) / n
    low_, high_ = bias_corrected(right / n, drawn)
    assert low_ <= right / n <= high_


def test_bootstrap_intervals_cover_the_truth_about_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 balanced classes, 200 images, confidence uniform in 0.6-1 and right 0.05 less often: all is known."""
    monkeypatch.setattr(metrics, "RESAMPLES", 300)
    truth = {"accuracy": 0.75, "precision": 0.75, "recall": 0.75, "f1": 0.75, "ece": 0.05}
    held = dict.fromkeys(truth, 0)
    for seed in range(100):
        rng = np.random.default_rng(seed)
        true, sure = rng.integers(10, size=200), rng.uniform(0.6, 1, 200)
        said = np.where(rng.random(200) < sure - 0.05, true, (true + rng.integers(1, 10, 200)) % 10)
        found = classification(Answers([str(t) for t in true], [str(s) for s in said], sure)).headline()
        for name, value in truth.items():
            held[name] += found[name].low <= value <= found[name].high  # type: ignore[operator]
    assert min(held.values()) >= 87, held

"""Progressive validation agrees with River's own, and never asks what it has told."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from river import compat, evaluate, metrics, stream
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.naive_bayes import MultinomialNB

import everlearn
from everlearn import ExactClassifier, progressive
from everlearn.errors import BadInput
from everlearn.learn.river import RiverArrays, build

X, Y = load_digits(return_X_y=True)
X, Y = X[:400] / 16, Y[:400]


def rows(x: Any, y: Any, *t: Any) -> Any:
    return [tuple(part[n : n + 1] for part in (x, y, *t)) for n in range(len(y))]


def warm() -> SGDClassifier:
    return SGDClassifier(loss="log_loss", random_state=0).partial_fit(X[:20], Y[:20], classes=np.arange(10))


FEW = slice(20, 120)
"""The checks of scikit-learn take a millisecond a row."""


@pytest.mark.parametrize("delay", [0, 1, 7, 1000])
def test_agrees_with_river_on_the_same_model_and_rows(delay: int) -> None:
    theirs = evaluate.progressive_val_score(
        stream.iter_array(X[FEW], Y[FEW]),
        compat.convert_sklearn_to_river(warm(), classes=list(range(10))),
        metrics.Accuracy(),
        delay=delay or None,
    )
    *_, ours = progressive(warm(), rows(X[FEW], Y[FEW]), delay=delay)
    assert (ours.rows, ours.unanswered) == (100, 0)
    assert ours.score == pytest.approx(theirs.get(), abs=1e-12)


def test_agrees_with_river_by_the_clock() -> None:
    rng = np.random.default_rng(0)
    minutes = np.cumsum(rng.integers(0, 40, 100))
    times = np.datetime64("2026-01-01T00:00") + minutes.astype("timedelta64[m]")
    wait = dt.timedelta(hours=3)
    theirs_rows = [
        ({**dict(enumerate(x.tolist())), "at": t}, int(y)) for x, y, t in zip(X[FEW], Y[FEW], times.tolist())
    ]
    from river import compose

    model = compose.Discard("at") | compat.convert_sklearn_to_river(warm(), classes=list(range(10)))
    theirs = evaluate.progressive_val_score(theirs_rows, model, metrics.Accuracy(), moment="at", delay=wait)
    *_, ours = progressive(warm(), rows(X[FEW], Y[FEW], times), delay=np.timedelta64(3, "h"))
    assert ours.score == pytest.approx(theirs.get(), abs=1e-12)


def test_a_river_estimator_on_arrays_is_scored_as_river_scores_it() -> None:
    name = "preprocessing.StandardScaler|linear_model.SoftmaxRegression"
    theirs = evaluate.progressive_val_score(
        ((dict(enumerate(x.tolist())), str(y)) for x, y in zip(X, Y)), build(name), metrics.Accuracy(), delay=30
    )
    labels = Y.astype(str)
    *_, ours = progressive(RiverArrays(build(name)), rows(X, labels), delay=30)
    assert (ours.rows, ours.unanswered) == (370, 30)
    assert ours.score == pytest.approx(theirs.get(), abs=1e-12)


def test_portions_of_any_size_learn_the_same_rows_in_the_same_order() -> None:
    class Witness:
        def __init__(self) -> None:
            self.asked: list[Any] = []
            self.told: list[Any] = []

        def predict(self, x: Any) -> Any:
            self.asked += x[:, 0].tolist()
            assert not set(x[:, 0]) & set(self.told), "a row was asked after its label was told"
            return np.zeros(len(x))

        def partial_fit(self, x: Any, y: Any) -> None:
            assert np.array_equal(x[:, 0], y)
            self.told += y.tolist()

    numbers = np.arange(100.0)
    for cuts in ([1] * 100, [7] * 15, [100], [0, 60, 0, 40]):
        for delay in (0, 5, 33, 500):
            witness, at = Witness(), 0
            portions = []
            for cut in cuts:
                portions.append((numbers[at : at + cut, None], numbers[at : at + cut]))
                at += cut
            *_, last = progressive(witness, portions, delay=delay)
            assert witness.asked == witness.told == numbers.tolist()
            assert last.rows == 100


def test_points_tell_score_window_and_what_was_not_answered() -> None:
    model = ExactClassifier()
    points = list(progressive(model, (X, Y), size=20, every=100, window=50))
    assert [point.rows for point in points] == [100, 200, 300, 380]
    assert {point.unanswered for point in points} == {20}  # the first portion is asked of nothing
    assert points[-1].score > 0.85 and points[0].score != points[0].recent
    assert points[-1].memory > 10_000_000 and 0 < points[0].seconds < points[-1].seconds
    assert model.digest() == ExactClassifier().fit(X, Y).digest()


def test_scores_numbers_sparse_rows_and_what_one_likes(tmp_path: Path) -> None:
    *_, last = progressive(SGDRegressor(random_state=0), (X, X @ np.arange(64.0) / 100), size=10, window=100)
    assert 0 < last.recent < last.score < 100
    counts = sp.csr_matrix(X)
    *_, last = progressive(
        MultinomialNB(), [(counts[n : n + 50], Y[n : n + 50]) for n in range(0, 400, 50)],
        classes=np.arange(10), delay=75, score=lambda y, said: (y == said) * 100.0,
    )  # fmt: skip
    assert 50 < last.score < 100
    table = tmp_path / "rows.csv"
    table.write_text("a,b,label\n" + "\n".join(f"{n % 3},{n % 2},{'xy'[n % 2]}" for n in range(200)))
    *_, last = everlearn.progressive(ExactClassifier(), str(table), size=10)
    assert last.score == 1


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ([1, 2], {}),
        (3, {}),
        ([(X[:3], Y[:2])], {}),
        ([(X[:3], Y[:3], [1, 2])], {}),
        ([(X[:3], Y[:3], np.array([1, 3, 2]))], {}),
        ([(X[:1], Y[:1], np.array([5])), (X[:1], Y[:1], np.array([4]))], {}),
        ((X, Y), {"delay": -1}),
        ((X, Y), {"delay": dt.timedelta(-1)}),
        ((X, Y), {"delay": dt.timedelta(1)}),  # the rows carry no times
        ((X, Y), {"every": 0}),
    ],
)
def test_what_is_no_stream_is_refused(source: Any, options: Any) -> None:
    with pytest.raises(BadInput):
        list(progressive(ExactClassifier(), source, **options))

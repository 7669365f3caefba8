"""Whatever happens to an estimator, it holds what a fresh one would, with the sums of plain int64 arithmetic."""

from __future__ import annotations

import copy
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn import ExactClassifier
from everlearn.learn.estimators.encode import BadArray
from everlearn.learn.exact import sums

ROWS, WIDTH = 14, 3
VALUES = [0.0, -0.0, 1.0, -3.5, 1e-9, 1e12, -255.0, 0.1]
SETTINGS = [{}, {"planes": 1}, {"planes": 1, "scale": [1.0, 300.0, 1e6], "keep": 0.5},
            {"features": "cosine", "dimensions": 8, "keep": 0.0}]  # fmt: skip

some_rows = st.lists(st.integers(0, ROWS - 1), max_size=5)
events = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["learn", "merge", "forget", "forget what is not held"]), some_rows),
        st.tuples(st.just("gap"), st.integers(0, 4)),
        st.tuples(st.sampled_from(["copy", "pickle"]), st.none()),
    ),
    max_size=12,
)


@st.composite
def pools(draw):
    """Rows to learn from, each with its one label: repeats, a constant feature, a class with one sample."""
    x = np.array(draw(st.lists(st.lists(st.sampled_from(VALUES), min_size=WIDTH, max_size=WIDTH),
                               min_size=ROWS, max_size=ROWS)))  # fmt: skip
    x[:, 0] = draw(st.sampled_from(VALUES))
    x[5] = x[6]
    y = np.array(draw(st.lists(st.sampled_from(["a", "b", "c"]), min_size=ROWS, max_size=ROWS)), dtype="U4")
    y[:1] = "once"
    return x.astype(draw(st.sampled_from([np.float32, np.float64]))), y


class Told:
    """What an estimator was told to hold. Rows without ids that are equal, with equal labels, are one."""

    def __init__(self, x, y, options):
        self.x, self.y, self.options = x, y, options
        self.model = ExactClassifier(**options).partial_fit(x[:0], y[:0])
        self.held = Counter()

    def name(self, row):
        phi = self.model._learned.encoder.phi(self.x[row : row + 1])
        return phi.tobytes(), self.y[row]

    def apply(self, what, rows):
        x, y, model = self.x, self.y, self.model
        if what == "copy":
            self.model = copy.deepcopy(model)
        elif what == "pickle":
            self.model = pickle.loads(pickle.dumps(model))
        elif what == "gap":
            bad = x[: rows + 2].copy()
            bad[rows, 1] = (np.nan, np.inf, -np.inf)[rows % 3]
            self.refused(f"X row {rows} holds", lambda: model.partial_fit(bad, y[: rows + 2]))
        elif what == "learn":
            model.partial_fit(x[rows], y[rows])
            self.held.update(rows)
        elif what == "merge":
            model.merge(ExactClassifier(**self.options).partial_fit(x[rows], y[rows]))
            self.held.update(rows)
        else:
            self.forget([row for row in rows if self.held[row]] if what == "forget" else rows)

    def forget(self, rows):
        wanted, have = Counter(map(self.name, rows)), Counter()
        for row, times in self.held.items():
            have[self.name(row)] += times
        if wanted <= have:
            self.model.forget(self.x[rows], self.y[rows])
            for row in rows:
                twin = next(other for other in self.held.elements() if self.name(other) == self.name(row))
                self.held[twin] -= 1
        else:
            seen = Counter()
            first = next(n for n, row in enumerate(rows) if seen.update([self.name(row)]) or not seen <= have)
            self.refused(f"row {first}: this row", lambda: self.model.forget(self.x[rows], self.y[rows]))

    def refused(self, found, call):
        before = self.model.digest()
        with pytest.raises(BadArray, match=found):
            call()
        self.model._learned.memory._digest = None
        assert self.model.digest() == before


def check_sums(model, x, y):
    """G, Q and n of all folds together, by a loop over the rows."""
    memory, encoder = model._learned.memory, model._learned.encoder
    names = sorted({f"s{label}" for label in y})
    g = np.zeros((memory.dimensions, memory.dimensions), np.int64)
    q, n = np.zeros((memory.dimensions, len(names)), np.int64), np.zeros(len(names), np.int64)
    for row, label in zip(x, y):
        phi = encoder.phi(row[None])[0].astype(np.int64)
        g += np.outer(phi, phi)
        q[:, names.index(f"s{label}")] += phi
        n[names.index(f"s{label}")] += 1
    assert memory.columns == tuple(names)
    np.testing.assert_array_equal(memory.total().dense(), g)
    np.testing.assert_array_equal(memory.column_sums(), q)
    np.testing.assert_array_equal(memory.column_counts().sum(axis=0), n)


@pytest.mark.parametrize("options", SETTINGS)
@given(pools(), events, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_any_history_is_a_fresh_fit(options, pool, history, random):
    told = Told(*pool, options)
    for what, rows in history:
        told.apply(what, rows)
    rows = list(told.held.elements())
    random.shuffle(rows)
    fresh = ExactClassifier(**options).partial_fit(told.x[rows], told.y[rows])
    assert told.model.digest() == fresh.digest()
    assert told.model.samples_ == len(rows)
    check_sums(told.model, told.x[rows], told.y[rows])
    held, wanted = told.model._learned.held, fresh._learned.held
    assert dict(zip(held.keys, held.counts)) == dict(zip(wanted.keys, wanted.counts))
    kept = [dict(zip(one.cached().ids, one.cached().phi.tolist())) for one in (held, wanted)]
    assert kept[0] == kept[1]
    assert not held.phi[len(held.owners) :].any()  # nothing that was forgotten is left behind


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_portions_of_thousands_are_one_fit_by_floats_or_integers(dtype, monkeypatch):
    """Beyond one slice, one block and one panel; with an int8 product and without."""
    import torch  # noqa: F401  its product is looked for only where it is loaded

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6000, 530)).astype(dtype), rng.integers(0, 7, 6000)
    x[3000:3400] = x[:400]
    whole = ExactClassifier(planes=1).fit(x, y)
    order = rng.permutation(len(x))
    turns, other = ExactClassifier(planes=1), ExactClassifier(planes=1)
    monkeypatch.setattr(sums, "int8_product", lambda dimensions: None)
    for rows in np.split(order, [1, 1, 1700, 4900]):
        turns.partial_fit(x[rows], y[rows])
    assert turns.digest() == whole.digest()
    turns.forget(x[order[:2500]], y[order[:2500]])
    monkeypatch.undo()
    other.partial_fit(x[order[2500:]].astype(np.float32), y[order[2500:]])
    if dtype == np.float32:
        assert turns.digest() == other.digest()
    assert turns.merge(ExactClassifier(planes=1).fit(x[order[:2500]], y[order[:2500]])).digest() == whole.digest()


def test_ten_thousand_classes():
    rng = np.random.default_rng(0)
    count = 10_000
    y = rng.permutation(np.concatenate([np.arange(count), np.arange(200)]))  # most have one sample
    x = rng.normal(size=(count, 4))[y] + rng.normal(size=(len(y), 4)) / 1000
    model = ExactClassifier(planes=1, keep=0)
    for rows in np.array_split(rng.permutation(len(y)), 3):
        model.partial_fit(x[rows], y[rows])
    assert model.digest() == ExactClassifier(planes=1, keep=0).fit(x, y).digest()
    np.testing.assert_array_equal(model.classes_, np.arange(count))
    few = y < 3
    assert model.predict(x[few]).shape == (few.sum(),)
    model.forget(x[~few], y[~few])
    np.testing.assert_array_equal(model.classes_, [0, 1, 2])
    assert model.digest() == ExactClassifier(planes=1, keep=0).fit(x[few], y[few]).digest()

"""Several tasks in one memory: each answers as an estimator of its own rows, and all are exact together."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from everlearn import ExactClassifier, ExactTasks
from everlearn.errors import BadInput, Corrupt, Missing
from everlearn.learn.estimators.encode import BadArray

FAST = settings(max_examples=40, deadline=None)
COLOURS = np.array(["red", "green", "blue"])


def things(n: int = 60, seed: int = 0):
    """Features that say colour (3), kind (2) and defect (2); each task is unlabelled for some rows."""
    rng = np.random.default_rng(seed)
    colour, kind, defect = rng.integers(0, 3, n), rng.integers(0, 2, n), rng.integers(0, 2, n) > 0
    x = rng.normal(size=(n, 6)) * 0.3 + np.stack([colour == 0, colour == 1, kind, defect, colour, kind], axis=1) * 2.0
    known = rng.random((3, n)) < [[0.9], [0.6], [0.3]]
    known[:, :4] = True
    return x, {
        name: [value if k else None for value, k in zip(values, row)]
        for name, values, row in zip(("colour", "kind", "defect"), (COLOURS[colour], kind, defect), known)
    }


def take(y, rows):
    return {task: [labels[row] for row in rows] for task, labels in y.items()}


@st.composite
def sayings(draw):
    """What is said of rows: (row, task) in any order and portions, some of it twice; and what is forgotten."""
    n = draw(st.integers(2, 8))
    said = [(row, task) for row in range(n) for task in range(3) if draw(st.booleans())] or [(0, 0)]
    said += draw(st.lists(st.sampled_from(said), max_size=3))
    order = draw(st.permutations(said))
    cuts = sorted(draw(st.lists(st.integers(0, len(said)), max_size=3)))
    gone = draw(st.sets(st.sampled_from(sorted({row for row, _ in said}))))
    return n, [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(said)])], sorted(gone)


@given(sayings(), st.sampled_from([ExactClassifier(), ExactClassifier(planes=1, keep=0.5), None]))
@FAST
def test_what_is_said_of_a_row_may_come_in_any_order(plan, estimator):
    n, portions, gone = plan
    x, y = things(8)
    tasks = tuple(y)
    made = ExactTasks(estimator)

    def teach(model, portion):
        rows = [row for row, _ in portion]
        labels = {name: [y[name][row] if tasks[task] == name else None for row, task in portion] for name in tasks}
        return model.partial_fit(x[rows], labels, ids=rows)

    def known(row, task):
        return any((row, tasks.index(task)) in portion for portion in portions)

    by_turns, merged = clone(made), clone(made)
    for portion in portions:
        teach(by_turns, portion)
        if estimator is None or estimator.keep == 1:
            merged = merged + teach(clone(made), portion)
    at_once = clone(made).partial_fit(
        x[:n], {task: [y[task][row] if known(row, task) else None for row in range(n)] for task in tasks}, ids=range(n)
    )
    assert by_turns.digest() == at_once.digest()
    if hasattr(merged, "_rows"):
        assert merged.digest() == at_once.digest()
    for task in at_once.tasks_:
        rows = [row for row in range(n) if known(row, task) and y[task][row] is not None]
        alone = clone(estimator or ExactClassifier()).fit(x[rows], [y[task][row] for row in rows], ids=rows)
        assert at_once.head(task).digest() == alone.digest()
        np.testing.assert_array_equal(at_once.predict(x)[task], alone.predict(x))
    if estimator is None or estimator.keep == 1:
        stay = [row for row in range(n) if row not in gone]
        never = clone(made)
        for portion in portions:
            teach(never, [one for one in portion if one[0] in stay])
        held = [row for row in gone if any(y[task][row] is not None and known(row, task) for task in tasks)]
        assert by_turns.forget(ids=held).digest() == never.digest()


def test_a_task_is_an_estimator_of_the_rows_labelled_for_it():
    x, y = things()
    model = ExactTasks().fit(x[:40], take(y, range(40)))
    assert model.tasks_ == ("colour", "defect", "kind")
    for task, labels in y.items():
        rows = [row for row in range(40) if labels[row] is not None]
        alone = ExactClassifier().fit(x[rows], [labels[row] for row in rows])
        assert model.head(task).digest() == alone.digest()
        np.testing.assert_array_equal(model.classes_[task], alone.classes_)
        np.testing.assert_array_equal(model.predict(x)[task], alone.predict(x))
        np.testing.assert_allclose(model.predict_proba(x)[task], alone.predict_proba(x))
    assert min(model.score(x[40:], take(y, range(40, 60))).values()) > 0.8
    assert model.predict(x)["defect"].dtype == bool


def test_one_g_where_every_row_carries_every_task():
    x, _y = things(30)
    full = {"colour": [*COLOURS, *COLOURS] * 5, "number": list(range(10)) * 3}
    model = ExactTasks().fit(x, full)
    [(_, learned)] = model._rows
    for task in model.tasks_:
        for theirs, own in zip(model.head(task)._learned.memory.gram, learned.memory.gram, strict=True):
            np.testing.assert_array_equal(theirs.dense(), own.dense())


def test_a_task_that_comes_later_leaves_the_others_as_they_were():
    x, y = things()
    ids = range(60)
    model = ExactTasks().partial_fit(x, {"colour": y["colour"]}, ids=ids)
    answers, colours = model.predict_proba(x)["colour"], model.head("colour")
    before, digest = colours.digest(), model.digest()
    model.partial_fit(x, {"kind": y["kind"]}, ids=ids)
    assert model.head("colour") is colours  # nothing of it has changed
    model._after()
    assert model.head("colour").digest() == before
    np.testing.assert_array_equal(model.predict_proba(x)["colour"], answers)
    model.forget(ids=[n for n in ids if y["kind"][n] is not None], tasks=["kind"])
    assert model.digest() == digest
    assert model.tasks_ == ("colour",)


def test_a_head_that_was_only_asked_for_its_classes_keeps_its_own_sums():
    x, y = things()
    ids = [str(row) for row in range(len(x))]
    tasks = ExactTasks().fit(x, {"colour": y["colour"]}, ids=ids)
    given = tasks.head("colour")  # not solved yet
    wanted = ExactTasks().fit(x, {"colour": y["colour"]}, ids=ids).head("colour")
    tasks.partial_fit(x, {"kind": y["kind"]}, ids=ids)  # rows move to another pattern
    for head in (given, tasks.head("colour")):
        assert head.digest() == wanted.digest()
        np.testing.assert_allclose(head.predict_proba(x), wanted.predict_proba(x), atol=1e-9)


def test_rows_without_ids_that_say_less_can_still_be_forgotten():
    x, y = things()
    gone, stay = range(20), range(20, 60)
    tasks = ExactTasks().fit(x, y)
    tasks.forget(x[gone], take(y, gone), tasks=["colour"])
    tasks.forget(x[gone], {task: labels for task, labels in take(y, gone).items() if task != "colour"})
    assert tasks.digest() == ExactTasks().fit(x[stay], take(y, stay)).digest()


def test_relabelling_is_forgetting_a_task_and_saying_it_anew():
    x, y = things(20)
    model = ExactTasks().fit(x, y, ids=range(20))
    wrong = {**y, "colour": ["red", *y["colour"][1:]]}
    right = ExactTasks().fit(x, wrong, ids=range(20))
    model.forget(ids=[0], tasks=["colour"]).partial_fit(x[:1], {"colour": ["red"]}, ids=[0])
    assert model.digest() == right.digest()
    assert model.samples_ == right.samples_


def test_rows_without_ids_are_forgotten_as_they_were_learned():
    x, y = things(20)
    model = ExactTasks().fit(x, y)
    left = ExactTasks().fit(x[5:], take(y, range(5, 20)))
    assert model.forget(x[:5], take(y, range(5))).digest() == left.digest()
    with pytest.raises(BadArray, match="row 0: this row with this label is not held"):
        model.forget(x[:1], take(y, [0]))
    grouped = ExactTasks().fit(x, y, groups=["one"] * 20)
    assert grouped.forget(x, y, groups=["one"] * 20).samples_ == 0
    assert grouped.tasks_ == ()


def test_a_refused_portion_changes_nothing():
    x, y = things(20)
    model = ExactTasks().fit(x, y, ids=range(20))
    before = model.digest()
    bad = x.copy()
    bad[3, 2] = np.nan
    other = "red" if y["colour"][2] != "red" else "blue"
    for call, said in (
        (lambda: model.partial_fit(x[:3], {"colour": [*y["colour"][:2], other]}, ids=[0, 1, 2]), "row 2: id '2'"),
        (lambda: model.partial_fit(x[:2], {"size": ["s", "l"]}, ids=[0, 2]), "row 1: id '2' is held with other"),
        (lambda: model.partial_fit(x[:2] + 9, {"size": ["s", "l"]}, ids=[77, 77]), "row 1: id '77'"),
        (lambda: model.partial_fit(bad, y, ids=range(20)), "X row 3 holds NaN"),
        (lambda: model.partial_fit(x, {"kind": ["text"] * 20}, ids=range(20, 40)), "cannot be learned here"),
        (lambda: model.partial_fit(x, {"kind": [1]}), "1 labels for 20 rows"),
        (lambda: model.partial_fit(x, [1] * 20), "name no task"),
        (lambda: model.forget(ids=[1, 2, 99]), "row 2: id '99' is not held"),
        (lambda: model.forget(ids=[1, 1]), "row 1: id '1' is not held"),
        (lambda: model.forget(), "nothing is named"),
        (lambda: model.head("size"), "no row is labelled for task 'size'"),
        (lambda: model.merge(ExactTasks().fit(x[:1], {"colour": [other]}, ids=[2])), "held with other content"),
        (lambda: model.merge(ExactTasks().fit(x, {"kind": ["a"] * 20})), "two types"),
        (lambda: model.merge(ExactClassifier().fit(x, [0] * 20)), "cannot be merged"),
        (lambda: model.merge(ExactTasks(ExactClassifier(folds=3)).fit(x, y)), "cannot be merged"),
    ):
        with pytest.raises(BadInput, match=said):
            call()
        assert model.digest() == before
        assert model.classes_["kind"].tolist() == [0, 1]
    with pytest.raises(NotFittedError):
        ExactTasks().predict(x)


def test_merging_with_itself_counts_rows_without_ids_twice():
    x, y = things(10)
    named, plain = ExactTasks().fit(x, y, ids=range(10)), ExactTasks().fit(x, y)
    assert (named + named).digest() == named.digest()
    assert (plain + plain).samples_ == 2 * plain.samples_
    assert (plain + plain).forget(x, y).digest() == plain.digest()
    assert (ExactTasks() + plain).digest() == (plain + ExactTasks()).digest() == plain.digest()


def test_a_file_holds_it_all(tmp_path: Path):
    x, y = things()
    model = ExactTasks(ExactClassifier(scale=3.0, keep=0.5)).fit(x[:30], take(y, range(30)))
    model.partial_fit(x[30:], take(y, range(30, 60)), ids=range(30))
    path = tmp_path / "things"
    model.save(path)
    assert [*tmp_path.iterdir()] == [path]
    for other in (ExactTasks.load(path), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert other.digest() == model.digest()
        for task, found in model.predict(x).items():
            np.testing.assert_array_equal(other.predict(x)[task], found)
        assert other.forget(x[:30], take(y, range(30))).samples_ == model.samples_ - len(
            [row for row in range(30) if any(labels[row] is not None for labels in y.values())]
        )
    with pytest.raises(Missing):
        ExactTasks.load(tmp_path / "none")
    with pytest.raises(Corrupt):
        ExactClassifier.load(path)
    ExactClassifier().fit(x, [0] * 60).save(tmp_path / "other")
    with pytest.raises(Corrupt):
        ExactTasks.load(tmp_path / "other")
    data = path.read_bytes()
    for at in range(0, len(data), len(data) // 25):
        (tmp_path / "bad").write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
        try:
            found = ExactTasks.load(tmp_path / "bad")
        except Corrupt:
            continue
        assert found.digest() == model.digest()  # a byte of the archive's own that decides nothing

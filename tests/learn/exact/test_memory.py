from __future__ import annotations

import copy
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from everlearn.errors import BadConfig, BadInput, Corrupt, Missing, StoreFault
from everlearn.learn.exact.memory import ExactMemory
from everlearn.learn.exact.target import RegressionTarget
from tests.learn.exact.make import BASIS, blobs, taught

TARGET = RegressionTarget(-1.0, 1.0, 0.001)


@st.composite
def samples(draw, regression=False):
    n, d = draw(st.integers(0, 14)), draw(st.integers(1, 6))
    phi = draw(arrays.arrays(np.int8, (n, d), elements=st.integers(-127, 127)))
    label = st.floats(-1, 1).map(str) if regression else st.sampled_from(["a", "b", "β", "a b\n", "\ud800"])
    labels = draw(st.lists(label, min_size=n, max_size=n))
    folds = np.array(draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), np.int64)
    return phi, labels, folds


def pick(data, rows):
    phi, labels, folds = data
    return phi[rows], [labels[i] for i in rows], folds[rows]


def portions(draw, n):
    """Any order, cut anywhere, empty portions among them."""
    order = np.array(draw(st.permutations(range(n))), np.intp)
    return np.split(order, sorted(draw(st.lists(st.integers(0, n), max_size=4))))


def same(a: ExactMemory, b: ExactMemory) -> bool:
    return a.digest() == b.digest() and all(np.array_equal(x.dense(), y.dense()) for x, y in zip(a.gram, b.gram))


@pytest.mark.parametrize("target", [None, TARGET])
@given(st.data())
@settings(max_examples=120, deadline=None)
def test_any_order_partition_and_merge_give_the_joint_sums(target, data):
    joint = data.draw(samples(regression=target is not None))
    whole = taught(*joint, target=target)
    by_turns, merged = (ExactMemory(BASIS, joint[0].shape[1], target=target) for _ in range(2))
    for rows in portions(data.draw, len(joint[1])):
        by_turns.add(*pick(joint, rows))
        merged.merge(taught(*pick(joint, rows), target=target))
    assert same(whole, by_turns)
    assert same(whole, merged)


@pytest.mark.parametrize("target", [None, TARGET])
@given(st.data())
@settings(max_examples=120, deadline=None)
def test_what_was_removed_was_never_there(target, data):
    joint = data.draw(samples(regression=target is not None))
    n = len(joint[1])
    memory = taught(*joint, target=target)
    gone = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1)))) if n else [], np.intp)
    for rows in np.array_split(gone, 2):
        memory.subtract(*pick(joint, rows))
    left = np.setdiff1d(np.arange(n), gone)
    assert same(memory, taught(*pick(joint, left), target=target))
    assert memory.classes == (() if target else tuple(sorted({joint[1][i] for i in left})))
    again = data.draw(st.integers(0, 2))
    for _ in range(again):  # learned and removed again
        memory.add(*pick(joint, gone))
        memory.subtract(*pick(joint, gone))
    assert same(memory, taught(*pick(joint, left), target=target))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_one_change_changes_the_digest(data):
    phi, labels, folds = data.draw(samples().filter(lambda s: len(s[1]) > 0))
    before = taught(phi, labels, folds).digest()
    row, column = data.draw(st.integers(0, len(phi) - 1)), data.draw(st.integers(0, phi.shape[1] - 1))
    touched = phi.copy()
    touched[row, column] += -1 if touched[row, column] == 127 else 1
    assert taught(touched, labels, folds).digest() != before
    assert taught(phi, [*labels[:row], "other", *labels[row + 1 :]], folds).digest() != before
    moved = folds.copy()
    moved[row] = (moved[row] + 1) % 5
    assert taught(phi, labels, moved).digest() != before
    assert taught(np.delete(phi, row, 0), [*labels[:row], *labels[row + 1 :]], np.delete(folds, row)).digest() != before
    counted = taught(phi, labels, folds)
    counted.counts[labels[row]][folds[row]] += 1
    assert counted.digest() != before


def test_digest_depends_on_basis_dimensions_folds_and_target():
    made = [
        ExactMemory("a", 3), ExactMemory("b", 3), ExactMemory("a", 4), ExactMemory("a", 3, 4),
        ExactMemory("a", 3, target=TARGET), ExactMemory("a", 3, target=RegressionTarget(-1, 1, 0.002)),
    ]  # fmt: skip
    assert len({memory.digest() for memory in made}) == len(made)


def test_digest_is_the_documented_bytes():
    phi = np.array([[1, -2], [3, 4], [-5, 6]], np.int8)
    memory = ExactMemory("basis", 2, folds=2)
    memory.add(phi, ["b", "a", "b"], np.array([0, 1, 1]))

    def text(value):
        return len(value.encode()).to_bytes(8, "little") + value.encode()

    wanted = (
        text("everlearn exact memory 1") + text("basis") + np.array([2, 2, 2], "<i8").tobytes() + text("a") + text("b")
    )
    wanted += np.array([1, -2, 4, 0, 0, 1, -2, 0, 1], "<i8").tobytes()  # fold 0: G, q_a, q_b, n
    wanted += np.array([9 + 25, 12 - 30, 16 + 36, 3, 4, -5, 6, 1, 1], "<i8").tobytes()
    assert memory.digest() == hashlib.sha256(wanted).hexdigest()


def test_ten_thousand_classes_come_and_go():
    n = 10_000
    phi = np.random.default_rng(0).integers(-127, 128, (n, 3), dtype=np.int8)
    labels, folds = [f"class {i}" for i in range(n)], np.arange(n) % 5
    memory = taught(phi, labels, folds)
    assert len(memory.classes) == n
    memory.subtract(phi[1:], labels[1:], folds[1:])
    assert memory.classes == ("class 0",)
    assert same(memory, taught(phi[:1], labels[:1], folds[:1]))


def test_classes_by_turns_equal_all_at_once_in_wide_memories():
    phi, labels, folds = blobs(3000, 600, 5)
    turns = ExactMemory(BASIS, 600)
    for name in ("c3", "c0", "c4", "c1", "c2"):
        rows = np.flatnonzero(np.array(labels) == name)
        turns.add(phi[rows], [name] * len(rows), folds[rows])
        assert name in turns.classes
    assert same(turns, taught(phi, labels, folds))


IMPOSSIBLE = [
    ("class 'c' is not held", [[1, 2]], ["c"], [0]),
    ("class 'a' holds 1 in fold 0, not 2", [[1, 2], [1, 2]], ["a", "a"], [0, 0]),
    ("class 'a' holds 0 in fold 1", [[1, 2]], ["a"], [1]),
    ("would keep a sum", [[1, 3]], ["a"], [0]),
    ("would keep sums of squares", [[100, 0]], ["b"], [0]),
]


@pytest.mark.parametrize(("found", "phi", "labels", "folds"), IMPOSSIBLE)
def test_impossible_subtractions_are_refused_and_change_nothing(found, phi, labels, folds):
    memory = taught(np.array([[1, 2], [5, 5], [-5, 5]], np.int8), ["a", "b", "b"], np.array([0, 0, 0]))
    before = memory.digest()
    with pytest.raises(BadInput, match=found):
        memory.subtract(np.array(phi, np.int8), labels, np.array(folds))
    memory._digest = None
    assert memory.digest() == before


@pytest.mark.parametrize(
    ("found", "phi", "labels", "folds"),
    [
        ("row 1 holds NaN", np.array([[1.0, 2], [np.nan, 0]]), ["a", "a"], [0, 0]),
        ("1 labels", np.zeros((2, 2), np.int8), ["a"], [0, 0]),
        ("row 1: ''", np.zeros((2, 2), np.int8), ["a", ""], [0, 0]),
        ("row 0: None", np.zeros((1, 2), np.int8), [None], [0]),
        ("row 1: fold 5", np.zeros((2, 2), np.int8), ["a", "a"], [0, 5]),
        ("row 0: fold -1", np.zeros((2, 2), np.int8), ["a", "a"], [-1, 5]),
        ("row 0: a fold of type float", np.zeros((1, 2), np.int8), ["a"], [0.5]),
    ],
)
def test_bad_rows_are_refused_and_change_nothing(found, phi, labels, folds):
    memory = taught(np.array([[1, 2]], np.int8), ["a"], np.array([0]))
    before = memory.digest()
    with pytest.raises(BadInput, match=found):
        memory.add(phi, labels, np.array(folds))
    memory._digest = None
    assert memory.digest() == before


def test_memories_of_another_basis_never_mix():
    for other in (
        ExactMemory("x", 2),
        ExactMemory(BASIS, 3),
        ExactMemory(BASIS, 2, 4),
        ExactMemory(BASIS, 2, target=TARGET),
    ):
        with pytest.raises(BadInput, match="cannot be merged"):
            ExactMemory(BASIS, 2).merge(other)


def test_merging_leaves_the_other_as_it_was():
    data = blobs(50, 8, 3)
    mine, other = ExactMemory(BASIS, 8), taught(*data)
    before = other.digest()
    mine.merge(other)
    mine.add(*data)
    other._digest = None
    assert other.digest() == before


@pytest.mark.parametrize(
    ("low", "high", "step"), [(1, 1, 0.1), (0, 1, 0), (0, 1, -1), (0, 1, 1e-9), (0, float("nan"), 1)]
)
def test_targets_that_cannot_be(low, high, step):
    with pytest.raises(BadConfig):
        RegressionTarget(low, high, step)


@pytest.mark.parametrize(
    ("labels", "found"), [(["0", "x"], "row 1: 'x'"), (["0", "2"], "row 1: 2"), (["nan", "0"], "row 0: nan")]
)
def test_regression_labels_are_numbers_in_range(labels, found):
    with pytest.raises(BadInput, match=found):
        taught(np.zeros((2, 2), np.int8), labels, np.array([0, 0]), target=TARGET)


def test_regression_refuses_what_it_never_learned():
    phi, labels, folds = np.array([[1, 2], [3, 4]], np.int8), ["0.5", "-0.5"], np.array([0, 1])
    memory = taught(phi, labels, folds, target=TARGET)
    for wrong in (["0.9", "-0.5"], ["0.5", "0.5"]):
        with pytest.raises(BadInput):
            memory.subtract(phi, wrong, folds)
    assert same(memory, taught(phi, labels, folds, target=TARGET))


@pytest.mark.parametrize("target", [None, TARGET])
@pytest.mark.parametrize("n", [0, 1, 400])
def test_saved_and_loaded_is_the_same(tmp_path, target, n):
    phi, labels, folds = blobs(n, 530, 4)
    data = (phi, [str(len(name) / 10) for name in labels] if target else labels, folds)
    memory = taught(*data, target=target)
    memory.save(tmp_path / "memory", {"snapshot": "äö", "n": 1})
    back, metadata = ExactMemory.load(tmp_path / "memory")
    assert same(back, memory)
    assert metadata == {"snapshot": "äö", "n": 1}
    assert (back.samples, back.classes, back.target) == (memory.samples, memory.classes, memory.target)
    back.add(*data)
    memory.add(*data)
    assert same(back, memory)
    assert [p.name for p in tmp_path.iterdir()] == ["memory"]


def test_wide_sums_survive_storage(tmp_path):
    phi = np.full((140_000, 2), 127, np.int8)
    memory = taught(phi, ["a"] * len(phi), np.zeros(len(phi), np.int64))
    memory.save(tmp_path / "memory")
    assert same(ExactMemory.load(tmp_path / "memory")[0], memory)


def test_damage_is_found(tmp_path):
    memory, path = taught(*blobs(30, 20, 3)), tmp_path / "memory"
    memory.save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    cuts = [whole[:size] for size in (0, 1, 7, 8, 15, 16, 40, len(whole) // 2, len(whole) - 32, len(whole) - 1)]
    flips = []
    for place in [*range(24), *rng.integers(0, len(whole), 60).tolist(), len(whole) - 1]:
        data = bytearray(whole)
        data[place] ^= 1 << int(rng.integers(8))
        flips.append(bytes(data))
    for data in [*cuts, *flips, whole + b"x", whole.replace(b'"dimensions": 20', b'"dimensions": 99')]:
        path.write_bytes(data)
        with pytest.raises(Corrupt, match="damaged"):
            ExactMemory.load(path)
    path.write_bytes(whole)
    assert same(ExactMemory.load(path)[0], memory)


def test_files_that_are_not_there_or_cannot_be_written(tmp_path):
    with pytest.raises(Missing):
        ExactMemory.load(tmp_path / "none")
    with pytest.raises(StoreFault):
        taught(*blobs(3, 2, 1)).save(tmp_path / "no" / "folder")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreFault):
        taught(*blobs(3, 2, 1)).save(tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_failed_save_leaves_the_old_file(tmp_path):
    memory, path = taught(*blobs(30, 20, 3)), tmp_path / "memory"
    memory.save(path)
    with pytest.raises(TypeError):
        memory.save(path, {"not": {1, 2}})
    assert same(ExactMemory.load(path)[0], memory)
    assert [p.name for p in tmp_path.iterdir()] == ["memory"]


def test_copies_are_independent():
    memory = taught(*blobs(30, 20, 3))
    other = copy.deepcopy(memory)
    other.add(*blobs(5, 20, 3, seed=1))
    assert memory.samples == 30
    assert not same(memory, other)

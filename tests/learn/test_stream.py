"""Rows from files, maps and iterators: one pass, the bits of one fit, and no row twice after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

from everlearn import ExactClassifier, ExactRegressor
from everlearn.dataset.table import About
from everlearn.dataset.table import table as table_to
from everlearn.errors import BadInput, Missing
from everlearn.learn.rows import open_rows
from everlearn.learn.stream import learn_stream


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x[:900], np.array([f"class {n}" for n in y[:900]])


@pytest.fixture
def table(digits):
    x, y = digits
    columns = {f"f{n}": x[:, n] for n in range(x.shape[1])}
    return pa.table({**columns, "label": y, "name": [f"row {n}" for n in range(len(x))]})


def plain(x, y, **more):
    return ExactClassifier().fit(x, y, **more).digest()


def test_csv(tmp_path, table, digits):
    csv.write_csv(table.drop(["name"]), tmp_path / "rows.csv")
    model = learn_stream(ExactClassifier(), tmp_path / "rows.csv", size=128)
    assert model.digest() == plain(*digits)
    assert list(model.classes_[:2]) == ["class 0", "class 1"]


@pytest.mark.parametrize("lists", [False, True])
def test_parquet_with_ids(tmp_path, table, digits, lists):
    if lists:
        features = pa.FixedSizeListArray.from_arrays(pa.array(digits[0].ravel()), digits[0].shape[1])
        table = pa.table({"features": features, "label": table["label"], "name": table["name"]})
    parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=100)
    model = learn_stream(ExactClassifier(), tmp_path / "rows.parquet", id="name", size=64)
    names = [f"row {n}" for n in range(len(digits[0]))]
    assert model.digest() == plain(*digits, ids=names)
    model.forget(ids=["row 5"])
    assert model.samples_ == 899


def test_memory_maps_and_iterables(tmp_path, digits):
    x, y = digits
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    from_maps = learn_stream(ExactClassifier(), (tmp_path / "x.npy", tmp_path / "y.npy"), size=100)
    halves = ((x[part], y[part]) for part in (slice(0, 333), slice(333, 333), slice(333, None)))
    assert from_maps.digest() == learn_stream(ExactClassifier(), halves, size=50).digest() == plain(x, y)


def test_numbers_are_the_labels_of_a_regression(tmp_path):
    x = np.arange(300.0).reshape(100, 3)
    with_target = pa.table({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": x.sum(axis=1)})
    csv.write_csv(with_target, tmp_path / "rows.csv")
    model = learn_stream(ExactRegressor(), tmp_path / "rows.csv", label="y")
    assert model.predict(x[:1]) == pytest.approx(3.0, abs=0.1)


def test_other_estimators_learn_too(digits):
    first = SGDClassifier(random_state=0).partial_fit(digits[0][:100], digits[1][:100], classes=np.unique(digits[1]))
    model = learn_stream(first, digits, size=100)
    assert model.score(*digits) > 0.8


# checkpoints


def killed_after(rows):
    """Portions of which reading the one after `rows` rows kills the process."""
    x, y = load_digits(return_X_y=True)
    for start in range(0, len(x), 100):
        if start == rows:
            os.kill(os.getpid(), signal.SIGKILL)
        yield x[start : start + 100], y[start : start + 100]


@pytest.mark.parametrize("rows", [100, 700, 1700])
def test_a_killed_pass_goes_on_where_it_stopped(tmp_path, rows):
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.learn.test_stream import killed_after
from everlearn import ExactClassifier
from everlearn.learn.stream import learn_stream
learn_stream(ExactClassifier(), killed_after({rows}), checkpoint={str(tmp_path / "kept")!r}, every=300)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    kept = [int(file.stem[5:]) for file in (tmp_path / "kept").glob("rows-*.exact")]
    assert kept == ([] if rows < 300 else [rows // 300 * 300])

    x, y = load_digits(return_X_y=True)
    seen = []

    def again():
        for portion in killed_after(None):
            seen.append(len(portion[0]))
            yield portion

    model = learn_stream(ExactClassifier(), again(), checkpoint=tmp_path / "kept", every=300)
    assert model.digest() == plain(x, y)
    assert model.samples_ == len(x) == sum(seen)


def test_only_rows_that_are_new_are_learned_again(tmp_path, table, digits):
    path = tmp_path / "rows.csv"
    csv.write_csv(table.drop(["name"]).slice(0, 500), path)
    first = learn_stream(ExactClassifier(), path, checkpoint=tmp_path / "kept")
    assert first.samples_ == 500
    again = learn_stream(ExactClassifier(), path, checkpoint=tmp_path / "kept")
    assert again.digest() == first.digest()
    csv.write_csv(table.drop(["name"]), path)  # 400 more
    grown = learn_stream(ExactClassifier(), path, checkpoint=tmp_path / "kept")
    assert grown.digest() == plain(*digits)
    assert len(list((tmp_path / "kept").glob("*.exact"))) == 1


def test_a_checkpoint_is_of_one_source_and_one_estimator(tmp_path, table, digits):
    learn_stream(ExactClassifier(), digits, checkpoint=tmp_path / "kept")
    other = digits[0] + 1, digits[1]
    with pytest.raises(BadInput, match="another source"):
        learn_stream(ExactClassifier(), other, checkpoint=tmp_path / "kept")
    with pytest.raises(BadInput, match="planes='auto', not 1"):
        learn_stream(ExactClassifier(planes=1), digits, checkpoint=tmp_path / "kept")
    with pytest.raises(BadInput, match="SGDClassifier cannot be saved"):
        learn_stream(SGDClassifier(), digits, checkpoint=tmp_path / "other")


@pytest.mark.parametrize("scale", [(16.0,) * 64, np.full(64, 16.0)])
def test_a_checkpoint_knows_its_settings_again(tmp_path, digits, scale):
    x, y = digits
    learn_stream(ExactClassifier(scale=scale), (x[:500], y[:500]), checkpoint=tmp_path)
    assert learn_stream(ExactClassifier(scale=scale), digits, checkpoint=tmp_path).samples_ == 900
    with pytest.raises(BadInput, match="scale="):
        learn_stream(ExactClassifier(scale=[15.0] * 64), digits, checkpoint=tmp_path)


def test_what_a_kill_left_unfinished_is_removed(tmp_path, digits):
    learn_stream(ExactClassifier(), digits, checkpoint=tmp_path)
    left = tmp_path / ".rows-000000000900.exact.abc"
    left.mkdir()
    (left / "memory").write_bytes(b"sums of somebody")
    learn_stream(ExactClassifier(), digits, checkpoint=tmp_path)
    assert not left.exists()


@pytest.mark.parametrize("size", [7, 100, 1500])
def test_portions_of_a_file_are_of_the_size_asked_for(tmp_path, table, size):
    parquet.write_table(table.drop(["name"]), tmp_path / "rows.parquet", row_group_size=130)
    found = list(open_rows(tmp_path / "rows.parquet").portions(5, size))
    assert {len(one) for one in found[:-1]} <= {size}
    assert 0 < len(found[-1]) <= size
    assert [one.start for one in found] == list(range(5, 900, size))
    assert sum(map(len, found)) == 895


# what cannot be learned


@pytest.mark.parametrize(
    ("first", "then", "said"), [(2, 3, "row 2048 has 3 features, those before it 2"), (0, 0, "row 0 has no features")]
)
def test_lists_that_are_no_rows(tmp_path, first, then, said):
    lists = pa.array([[1.0] * first] * 2048 + [[1.0] * then] * 10, pa.list_(pa.float64()))
    parquet.write_table(pa.table({"f": lists, "label": ["a", "b"] * 1029}), tmp_path / "rows.parquet")
    with pytest.raises(BadInput, match=said):
        learn_stream(ExactClassifier(), tmp_path / "rows.parquet")


def test_a_row_without_its_id_is_named(tmp_path, table):
    names = table["name"].to_pylist()
    names[7] = None
    holed = table.set_column(table.schema.get_field_index("name"), "name", pa.array(names))
    parquet.write_table(holed, tmp_path / "rows.parquet")
    for role in ("id", "group"):
        with pytest.raises(BadInput, match="row 7 has no name"):
            learn_stream(ExactClassifier(), tmp_path / "rows.parquet", **{role: "name"})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gap_is_named_by_its_row_and_what_came_before_is_kept(tmp_path, digits, bad):
    x, y = digits[0].copy(), digits[1]
    x[777, 3] = bad
    with pytest.raises(BadInput, match="row 777 holds NaN or infinity"):
        learn_stream(ExactClassifier(), (x, y), checkpoint=tmp_path / "kept", size=100, every=100)
    x[777, 3] = digits[0][777, 3]
    assert learn_stream(ExactClassifier(), (x, y), checkpoint=tmp_path / "kept").digest() == plain(*digits)


def test_files_that_are_no_tables(tmp_path, table):
    (tmp_path / "rows.txt").write_text("a")
    (tmp_path / "rows.parquet").write_text("a")
    (tmp_path / "text.csv").write_text("a,label\n1,x\ntwo,y\n")
    (tmp_path / "gap.csv").write_text("a,label\n1,x\n,y\n")
    (tmp_path / "unlabelled.csv").write_text("a,label\n1,x\n2,\n")
    (tmp_path / "alone.csv").write_text("label\nx\n")
    for name, said in {
        "rows.txt": "no table", "rows.parquet": "cannot be read", "alone.csv": "no column of features",
    }.items():  # fmt: skip
        with pytest.raises(BadInput, match=said):
            open_rows(tmp_path / name)
    for name, said in {
        "text.csv": "cannot be read after row 0.*two", "gap.csv": "row 1 holds NaN", "unlabelled.csv": "row 1 has no",
    }.items():  # fmt: skip
        with pytest.raises(BadInput, match=said):
            learn_stream(ExactClassifier(), tmp_path / name)
    with pytest.raises(BadInput, match="no column 'kind'"):
        open_rows(tmp_path / "gap.csv", label="kind")
    with pytest.raises(Missing):
        open_rows(tmp_path / "none.csv")
    with pytest.raises(BadInput, match="do not match"):
        open_rows((np.zeros((3, 2)), np.zeros(4)))


def test_objects_in_numpy_files_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(BadInput, match="no NumPy file"):
        open_rows((tmp_path / "x.npy", tmp_path / "x.npy"))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_columns_that_say_something_of_a_row_are_no_features(tmp_path, digits, ending):
    """As `everlearn features` writes them; an id counts where it is named."""
    x, y = digits
    said = [About(f"row {n}", label, camera="door") for n, label in enumerate(y)]
    with table_to(tmp_path / f"rows.{ending}", x.shape[1], np.float32) as file:
        file.add(said, x.astype(np.float32))
    assert learn_stream(ExactClassifier(), tmp_path / f"rows.{ending}").digest() == plain(x, y)
    named = learn_stream(ExactClassifier(), tmp_path / f"rows.{ending}", id="id")
    assert named.digest() == plain(x, y, ids=[one.id for one in said])

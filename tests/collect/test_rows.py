"""Tables of features as sources of samples."""

import io
import tracemalloc
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.collect.options import SourceOptions
from everlearn.collect.rows import npy
from everlearn.collect.sources import open_source
from everlearn.errors import BadInput
from everlearn.types import Found, Refused


def read(path: Path, **options: object) -> tuple[list[Found], dict[str, str]]:
    """Found, and the reasons of what was refused by its row."""
    items = list(open_source(str(path), SourceOptions(**options)).items())  # type: ignore[arg-type]
    found = [item for item in items if isinstance(item, Found)]
    return found, {item.path.rpartition("#")[2]: item.reason for item in items if isinstance(item, Refused)}


def features(item: Found) -> list[float]:
    array = np.load(io.BytesIO(item.read()), allow_pickle=False)
    assert array.dtype == np.dtype("<f4")
    assert array.ndim == 1
    return [float(value) for value in array]


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "features.csv"
    path.write_text(
        "id,a,label,b,time,camera,group,split\n"
        "x1,1,고양이,-2.5,2025-07-04 13:30:22,door,s1,train\n"
        "x2,3e-1,,0,,,,test\n",
        encoding="utf-8",
    )
    for labels_from in (None, "none", "csv"):
        found, refused = read(path, labels_from=labels_from)
        assert refused == {}
        assert [item.name for item in found] == ["row_000001.npy", "row_000002.npy"]
        assert [item.uri for item in found] == [f"{path}#row=1&id=x1", f"{path}#row=2&id=x2"]
        assert features(found[0]) == [1.0, -2.5]
        assert features(found[1]) == [pytest.approx(0.3), 0.0]
        first = found[0]
        assert (first.label, first.label_by, first.camera, first.group) == ("고양이", "csv", "door", "s1")
        assert (first.captured_at, first.time_from) == (datetime(2025, 7, 4, 13, 30, 22), "name")
        assert (found[1].label, found[1].captured_at, found[1].group) == (None, None, None)
        assert open_source(str(path)).estimate() == 2


def test_csv_rows_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "features.csv"
    rows = ["1,2,a", "nan,2,a", "1,inf,a", "1e39,2,a", "1,,a", "1,x,a", "1,2", "1,2,a,b", '1,2,"a\nb"', "5,6,a"]
    path.write_text("f0;f1;label\n".replace(";", ",") + "\n".join(rows))
    found, refused = read(path)
    assert [features(item) for item in found] == [[1, 2], [5, 6]]
    assert list(refused) == [f"row={number}" for number in range(2, 10)]
    assert refused["row=5"] == "a feature is missing"
    assert refused["row=6"] == "'x' is no number"
    assert refused["row=7"] == "2 cells where the header has 3"
    assert "line break" in refused["row=9"]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    rows = 600  # more than two batches
    table = pa.table(
        {
            "f0": pa.array(np.arange(rows), pa.int32()),
            "wide": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(rows * 3), pa.float64()), 3),
            "flag": pa.array([True] * rows),
            "Label": pa.array(["a", "b", None] * (rows // 3)).dictionary_encode(),
            "time": pa.array([datetime(2025, 7, 4)] * rows, pa.timestamp("us", "UTC")),
            "id": pa.array(range(rows)),
        }
    )
    pq.write_table(table, path, row_group_size=250)
    found, refused = read(path)
    assert refused == {}
    assert open_source(str(path)).estimate() == rows == len(found)
    assert features(found[599]) == [599, 1797, 1798, 1799, 1]
    assert [item.label for item in found[:3]] == ["a", "b", None]
    assert found[0].captured_at == datetime(2025, 7, 4)
    assert found[599].uri == f"{path}#row=600&id=599"


def test_parquet_rows_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    lists = pa.array([[1.0, 2.0], [1.0], None, [1.0, None], [3.0, 4.0], [1.0, 2.0]])
    pq.write_table(pa.table({"v": lists, "f": pa.array([1, 2, 3, 4, 5, None]), "y": ["a"] * 6}), path)
    found, refused = read(path, label_column="y")
    assert [features(item) for item in found] == [[1, 2, 1], [3, 4, 5]]
    assert list(refused) == ["row=2", "row=3", "row=4", "row=6"]
    assert refused["row=2"] == "2 features where the first row has 3"


def test_tables_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    for table in (pa.table({"a": ["x"], "label": ["y"]}), pa.table({"label": ["y"]})):
        pq.write_table(table, path)
        with pytest.raises(BadInput):
            open_source(str(path))
    for data in (b"", b"PAR1 no table PAR1", b"x" * 100):
        path.write_bytes(data)
        with pytest.raises(BadInput) as error:
            open_source(str(path))
        assert error.value.message.isprintable()
    (tmp_path / "t.csv").write_text("label,id\na,1\n")
    with pytest.raises(BadInput):
        open_source(str(tmp_path / "t.csv"))


def test_a_damaged_parquet_gives_its_good_rows_and_says_where_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    rng = np.random.default_rng(0)
    pq.write_table(
        pa.table({"f": rng.random(4000), "label": ["a"] * 4000}), path, row_group_size=1000, compression="zstd"
    )
    place = pq.ParquetFile(path).metadata.row_group(3).column(0)
    data = bytearray(path.read_bytes())
    start = place.dictionary_page_offset or place.data_page_offset
    data[start : start + 200] = b"\xff" * 200
    path.write_bytes(data)
    found, refused = read(path)
    assert 2700 <= len(found) <= 3000
    assert list(refused) == [f"row={len(found) + 1}"]
    assert "cannot be read from here on" in next(iter(refused.values()))


def test_the_same_numbers_are_the_same_bytes_from_csv_and_parquet(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    pq.write_table(pa.table({f"f{i}": numbers[:, i] for i in range(4)}), tmp_path / "t.parquet")
    lines = [",".join(repr(float(value)) for value in row) for row in numbers]
    (tmp_path / "t.csv").write_text("f0,f1,f2,f3\n" + "\n".join(lines))
    bytes_of = [[item.read() for item in read(tmp_path / name)[0]] for name in ("t.parquet", "t.csv")]
    assert bytes_of[0] == bytes_of[1] == [npy(row) for row in numbers]


def test_a_row_is_a_plain_numpy_file_of_fixed_bytes() -> None:
    data = npy(np.array([1.0, -0.5], np.float32))
    assert data[:8] == b"\x93NUMPY\x01\x00"
    assert len(data) == 128 + 8
    assert data[128:] == b"\x00\x00\x80?\x00\x00\x00\xbf"
    assert b"'descr': '<f4'" in data


def test_a_long_table_streams_in_flat_memory(tmp_path: Path) -> None:
    def peak(name: str, rows: int) -> int:
        path = tmp_path / name
        if path.suffix == ".csv":
            path.write_text("f0,f1,label\n" + "1,2,a\n" * rows)
        else:
            pq.write_table(pa.table({"f0": np.zeros(rows), "f1": np.ones(rows), "label": ["a"] * rows}), path)
        read(path)  # imports and caches
        source = open_source(str(path))
        tracemalloc.start()
        assert sum(isinstance(item, Found) for item in source.items()) == rows
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    for kind in ("csv", "parquet"):
        small = peak(f"small.{kind}", 600)
        assert peak(f"large.{kind}", 12_000) < 2 * small


@settings(max_examples=80)
@given(st.text(max_size=200), st.sampled_from(["", "a,label\n", "a;b\n1;2\n"]))
def test_any_csv_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str, head: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text(head + text, encoding="utf-8", errors="replace")
    try:
        found, refused = read(path)
    except BadInput:
        return
    assert all(features(item) for item in found)
    assert all(reason.isprintable() for reason in refused.values())

"""`everlearn features`: a backbone's features as a table, whole or not at all, in constant memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper

from everlearn.dataset.table import About, table
from everlearn.model.backbone import load_backbone
from everlearn.model.basis import Basis
from everlearn.stages import standing
from everlearn.workspace import Workspace
from tests.cli.command import Everlearn, ever, folders, picture, pixels

__all__ = ["ever"]

SAID = ["id", "label", "split", "camera", "time"]


@pytest.fixture
def labelled(ever: Everlearn, tmp_path: Path) -> Everlearn:
    ever.init()
    ever("collect", folders(tmp_path / "images", "ab", 5), "--labels-from", "folder", "--camera", "door")
    ever("validate")
    return ever


@pytest.fixture
def grey(tmp_path: Path) -> str:
    """A backbone: the mean of each channel of an 8 x 8 square."""
    x, f = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["N", 3, 8, 8]), ("f", ["N", 3])))
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["f"])]
    model = helper.make_model(helper.make_graph(nodes, "grey", [x], [f]), opset_imports=[helper.make_opsetid("", 13)])
    onnx.save(model, tmp_path / "grey.onnx")
    return f"onnx:{tmp_path / 'grey.onnx'}?mean=0&std=255"


def own(basis: Basis, seed: int) -> np.ndarray:
    """The features of the picture that `folders` writes for this seed; OpenCV writes blue first."""
    return basis.raw([pixels(seed)[..., ::-1]])[0]


def test_of_a_workspace(labelled: Everlearn, tmp_path: Path) -> None:
    said = labelled("features", "--out", tmp_path / "f.parquet")
    basis = standing.basis(Workspace.open(labelled.workspace))
    assert (said["rows"], said["dimensions"]) == (10, basis.backbone.dimensions)
    assert said["backbone"] == "patches" and "Apache" in said["licence"]
    found = pq.read_table(tmp_path / "f.parquet")
    assert found.column_names == [*SAID, "features"]
    rows = found.to_pandas()
    assert sorted(rows["label"]) == list("aaaaabbbbb") and set(rows["camera"]) == {"door"}
    assert list(rows["id"]) == sorted(rows["id"])
    assert set(rows["split"]) <= {"train", "validation", "test"}
    wanted = {label: {own(basis, first + n).tobytes() for n in range(5)} for label, first in (("a", 0), ("b", 1000))}
    for label, row in zip(rows["label"], rows["features"], strict=True):
        assert row.tobytes() in wanted[label] and np.linalg.norm(row) == pytest.approx(1, abs=0.05)


def test_phi_is_what_is_learned_on(labelled: Everlearn, tmp_path: Path) -> None:
    labelled("features", "--out", tmp_path / "f.parquet", "--phi")
    rows = pq.read_table(tmp_path / "f.parquet").to_pandas()
    workspace = Workspace.open(labelled.workspace)
    from everlearn.learn.features import Features
    from everlearn.types import SILENT

    learned = Features(workspace, standing.basis(workspace)).all(list(rows["id"]), SILENT)
    np.testing.assert_array_equal(np.stack(rows["features"]), learned)
    assert np.stack(rows["features"]).dtype == np.int8


@pytest.mark.parametrize("ending", ["parquet", "csv", "npy"])
def test_of_any_folder_without_a_workspace(ever: Everlearn, tmp_path: Path, grey: str, ending: str) -> None:
    images = folders(tmp_path / "images", "ab", 3)
    (images / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff no")
    from everlearn.cli.main import run

    out = tmp_path / f"f.{ending}"
    assert run(["features", str(images), "--backbone", grey, "--labels-from", "folder", "--out", str(out), "-q"]) == 0
    basis = Basis(load_backbone(grey))
    wanted = np.stack([own(basis, first + n) for first in (0, 1000) for n in range(3)])
    if ending == "npy":
        found = np.load(out, mmap_mode="r")
        rows = pd.read_csv(tmp_path / "f.rows.csv")
    else:
        rows = pd.read_csv(out) if ending == "csv" else pd.read_parquet(out)
        found = rows[["f0", "f1", "f2"]].to_numpy(np.float32) if ending == "csv" else np.stack(rows["features"])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted)  # in CSV as well: in full
    assert list(rows["label"]) == list("aaabbb") and list(rows.columns[:5]) == SAID
    assert not list(tmp_path.glob(".*.part"))


def test_what_is_no_image_is_named(ever: Everlearn, tmp_path: Path, grey: str) -> None:
    images = folders(tmp_path / "images", "a", 2)
    (images / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff no")
    ever.init()
    said = ever("features", images, "--backbone", grey, "--out", tmp_path / "f.csv")
    assert (said["rows"], said["dimensions"], said["refused"]) == (2, 3, 1)
    assert said["rejected"][0]["path"].endswith("broken.jpg") and said["rejected"][0]["reason"]


def test_nothing_is_written_of_nothing(ever: Everlearn, tmp_path: Path, grey: str) -> None:
    ever.init()
    (tmp_path / "images").mkdir()
    (tmp_path / "table.csv").write_text("x,y\n1,2\n")
    for source in ("images", "table.csv"):
        said = ever("features", tmp_path / source, "--backbone", grey, "--out", tmp_path / "f.csv", code=2)
        assert source in said["error"]["message"]
        assert not (tmp_path / "f.csv").exists()


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_table_comes_back_as_rows_to_learn_on(labelled: Everlearn, tmp_path: Path, grey: str, ending: str) -> None:
    labelled("features", "--out", tmp_path / f"f.{ending}", "--backbone", grey)
    again = Everlearn(tmp_path / "again").init("--backbone", "features", settings="backbone: features\n")
    assert again("collect", tmp_path / f"f.{ending}")["collected"] == 10
    listed = again("data", "--status", "new")["samples"]
    assert sorted(one["label"] for one in listed) == list("aaaaabbbbb") and {one["camera"] for one in listed} == {
        "door"
    }
    again("validate")
    said = again("features", "--out", tmp_path / "again.parquet")
    assert said["dimensions"] == 3 and said["rows"] > 0
    before = np.stack(pq.read_table(tmp_path / "f.parquet").to_pandas()["features"]) if ending == "parquet" else None
    after = np.stack(pq.read_table(tmp_path / "again.parquet").to_pandas()["features"])
    if before is not None:
        assert {row.tobytes() for row in after} <= {row.tobytes() for row in before}


@pytest.mark.parametrize("ending", ["parquet", "csv", "npy"])
def test_whole_or_not_at_all(tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"f.{ending}"
    with table(out, 2, np.int8) as file:
        file.add([About("1")], np.ones((1, 2), np.int8))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def broken_off() -> None:
        with table(out, 2, np.int8) as file:
            file.add([About("2")], np.ones((1, 2), np.int8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_killed_run_leaves_no_half_file(tmp_path: Path) -> None:
    script = f"""
import os, numpy as np
from pathlib import Path
from everlearn.dataset.table import About, table
with table(Path({str(tmp_path / "f.csv")!r}), 2, np.int8) as file:
    file.add([About("1")] * 1000, np.ones((1000, 2), np.int8))
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert not (tmp_path / "f.csv").exists()
    with table(tmp_path / "f.csv", 2, np.int8) as file:
        file.add([About("1")], np.ones((1, 2), np.int8))
    assert [path.name for path in tmp_path.iterdir()] == ["f.csv"]  # and what was left of it is gone


def test_odd_words_and_no_rows(tmp_path: Path) -> None:
    words = '=1+1, "quoted"\n한국어'
    with table(tmp_path / "f.csv", 1, np.float32) as file:
        file.add([About("1", words)], np.float32([[1 / 3]]))
    assert pd.read_csv(tmp_path / "f.csv")["label"][0] == words
    for ending in ("parquet", "csv", "npy"):
        with table(tmp_path / f"none.{ending}", 4, np.float32):
            pass
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0
    assert np.load(tmp_path / "none.npy").shape == (0, 4)


PEAK = """
def peak():  # of this program alone; ru_maxrss begins with what the process had that started it
    from pathlib import Path
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
"""


@pytest.mark.parametrize("ending", ["parquet", "npy"])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, ending: str) -> None:
    """400 MB of features pass through; some 100 MB of them, two row groups and pyarrow's own buffers, may be held."""
    script = f"""{PEAK}
import numpy as np
from pathlib import Path
from everlearn.dataset.table import About, table
block, about = np.random.default_rng(0).random((256, 2048), np.float32), [About("x" * 32, "a")] * 256
with table(Path({str(tmp_path / f"f.{ending}")!r}), 2048, np.float32) as file:
    for n in range(20): file.add(about, block)
    before = peak()
    for n in range(180): file.add(about, block)
    print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60, done.stdout


def test_memory_does_not_grow_with_the_images(tmp_path: Path, grey: str) -> None:
    """260 pictures of 3 MB each as pixels: 780 MB, were a batch of them held."""
    big = picture(tmp_path / "one.jpg", 1, side=1000).read_bytes()
    (tmp_path / "images").mkdir()
    for number in range(260):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(big)
    words = ["features", str(tmp_path / "images"), "--backbone", grey, "--out", str(tmp_path / "f.npy"), "-q"]
    script = f"""{PEAK}
from everlearn.cli.main import run
assert run({words!r}) == 0
print(peak())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert np.load(tmp_path / "f.npy").shape == (260, 3)
    assert float(done.stdout.splitlines()[-1]) < 500, done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "f.txt"], "ends in none of"),
        (["--out", "."], "ends in none of"),
        (["nowhere", "--out", "f.csv"], "nothing at"),
        (["--out", "f.csv", "--backbone", "patchs"], "Choose patches"),
        ([".", "--out", "f.csv", "--backbone", "features"], "rows of numbers"),
    ],
)
def test_what_cannot_be(ever: Everlearn, tmp_path: Path, monkeypatch, words: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    ever.init()
    error = ever("features", *words, code=2)["error"]
    assert message in error["message"] + error["remedy"]

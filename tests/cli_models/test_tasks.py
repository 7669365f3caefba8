"""The whole wheel for numbers (`regress`), for tables of features, and with a backbone from a file."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from tests.cli_models.conftest import SETTINGS, Everlearn, scans

Make = Callable[..., Everlearn]
DIALS = """\
learn: {dimensions: 1024, target: {low: -1, high: 1, step: 0.01}}
gates: {r2: 0.5, mae: 0.2, quality: null, diversity: null, margin: 0.5, alpha: 0.5}
validate: {near_duplicates: false}
"""


def dial(path: Path, value: float, seed: int) -> Path:
    """A hand that points left (-1) to right (1), on a noisy ground."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 50, (48, 48, 3), dtype=np.uint8)
    angle = value * np.pi / 2
    tip = (int(24 + 20 * np.sin(angle)), int(40 - 30 * np.cos(angle)))
    cv2.line(pixels, (24, 40), tip, tuple(int(c) for c in rng.integers(180, 255, 3)), 4)
    assert cv2.imwrite(str(path), pixels)
    return path


def dials(folder: Path, count: int, first: int = 0) -> dict[str, float]:
    """Pictures named `value_number.png`; their values by path."""
    rng = np.random.default_rng(first)
    values = rng.uniform(-1, 1, count).round(2)
    return {str(dial(folder / f"{v:.2f}_{first + n}.png", v, first + n)): float(v) for n, v in enumerate(values)}


def test_numbers_from_file_names_are_learned_proven_and_corrected(make: Make, tmp_path: Path) -> None:
    ever = make("--task", "regress", settings=DIALS + "collect: {pattern: '{label}_{n}.png'}\n")
    dials(tmp_path / "in", 200)
    turn = ever("run", tmp_path / "in", "--labels-from", "filename")
    assert (turn["decision"], turn["accuracy"], turn["forgetting"]) == ("promoted", None, None)
    found = ever("evaluate")
    assert found["accuracy"] is None
    assert set(found["gates"]) == {"mae", "r2", "training_seconds", "memory_bytes"}

    fresh = dials(tmp_path / "new", 60, first=1000)
    told = {one["path"]: one for one in ever("predict", tmp_path / "new", "--record")["predictions"]}
    said, true = np.array([told[path]["value"] for path in fresh]), np.array(list(fresh.values()))
    assert mean_absolute_error(true, said) < 0.2
    assert all(one["label"] is None and one["scores"] == {} for one in told.values())
    assert f"{said[0]:.3g}"[:4] in ever.people("predict", next(iter(fresh)))

    # the figures are those of the answers to the test side
    from everlearn.stages import answering, prove
    from everlearn.types import SILENT
    from everlearn.workspace import Workspace

    workspace = Workspace.open(ever.workspace)
    members = prove.test_side(workspace)
    wanted = [float(one.label) for one in members]
    model = answering.answerer(workspace, answering.named(workspace, None))
    answers = model.table([one.id for one in members], SILENT)[:, 0]
    expected = (mean_absolute_error(wanted, answers), mean_squared_error(wanted, answers), r2_score(wanted, answers))
    assert (found["mae"], found["mse"], found["r2"]) == pytest.approx(expected)

    near, far = (next(iter(told.values())), list(told.values())[1])
    shown = round(min(max(near["value"], -1), 1), 2)
    assert ever("feedback", near["id"], "--label", shown)["case"] is False  # as good as right
    opposite = -0.9 if far["value"] > 0 else 0.9
    assert ever("feedback", far["id"], "--label", opposite)["case"] is True
    assert ever.error("feedback", list(told.values())[2]["id"], "--label", "left")["code"] == "bad_input"
    assert ever.error("feedback", list(told.values())[2]["id"], "--label", "7")["code"] == "bad_input"
    assert ever("feedback", list(told.values())[2]["id"], "--right")["case"] is False
    assert ever("evaluate", code=None)["regressions"] == {ever("regressions")["cases"][0]["sample_id"]: False}

    dials(tmp_path / "more", 100, first=2000)
    turn = ever("run", tmp_path / "more", "--labels-from", "filename", code=None)
    compared = ever("compare", "v1.0", turn["model"])
    assert set(compared) >= {"verdict", "difference", "interval", "p_value", "n"}
    assert compared["candidate"] < 0.2
    assert Path(ever("evaluate", code=None)["report"]).read_text().count("Mean absolute error") >= 1


def test_numbers_from_a_csv_in_any_order_make_the_same_memory(make: Make, tmp_path: Path) -> None:
    values = list(dials(tmp_path / "in", 60).items())
    digests = set()
    for turns in ([values], [values[40:], values[20:40], values[:20]], [random.Random(0).sample(values, 60)]):
        ever = Everlearn(tmp_path / f"w{len(turns)}{turns[0][0][0][-6]}").init("--task", "regress", settings=DIALS)
        for part in turns:
            folder = ever.workspace.parent / f"{ever.workspace.name}-labels"
            folder.mkdir(exist_ok=True)
            for path, _ in part:
                (folder / Path(path).name).write_bytes(Path(path).read_bytes())
            with (folder / "labels.csv").open("w") as file:
                csv.writer(file).writerows([("path", "label"), *((Path(path).name, value) for path, value in part)])
            ever("collect", folder, "--labels-from", "csv")
            ever("validate")
            digests.add(ever("learn")["memory_digest"]) if part is turns[-1] else ever("learn")
    assert len(digests) == 1


def _table(path: Path, rows: list[int], kind: str) -> Path:
    """Scans as rows of 64 numbers with their label."""
    images, labels = scans()
    flat = images.reshape(len(images), -1)[rows]
    names = [f"p{n}" for n in range(64)]
    if kind == "csv":
        with path.open("w") as file:
            writer = csv.writer(file)
            writer.writerow([*names, "label"])
            writer.writerows([*row, f"digit {label}"] for row, label in zip(flat, labels[rows], strict=True))
        return path
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.array([f"digit {label}" for label in labels[rows]])
    pq.write_table(pa.table({"features": pa.array(flat.tolist()), "label": column}), path)
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_of_features_turn_the_wheel(make: Make, tmp_path: Path, kind: str) -> None:
    settings = SETTINGS.replace("dimensions: 64", "dimensions: 512")
    ever = make("--backbone", "features", settings=settings + "validate: {near_duplicates: false}\n")
    table = _table(tmp_path / f"a.{kind}", list(range(300)), kind)
    turn = ever("run", table)
    assert (turn["decision"], turn["collected"]) == ("promoted", 300), turn
    fresh = _table(tmp_path / f"b.{kind}", list(range(400, 500)), kind)
    told = ever("predict", fresh, "--record")["predictions"]
    right = [one["label"] == f"digit {label}" for one, label in zip(told, scans()[1][400:500], strict=True)]
    assert np.mean(right) > 0.7  # where a ridge on the plain pixels has 0.71
    wrong = next(n for n, good in enumerate(right) if not good)
    told_of = ever("feedback", told[wrong]["id"], "--label", f"digit {scans()[1][400 + wrong]}")
    assert told_of["case"] is True
    turn = ever("run", fresh, code=None)
    assert turn["collected"] == 99  # the row that came by feedback is there already
    assert ever("evaluate", code=None)["accuracy"] > 0.7
    alone = next((ever.workspace / "model_updates/versions").glob("model_v1.0_*.onnx"))
    assert [one["label"] for one in ever("predict", fresh, "--model", alone)["predictions"]] == [
        one["label"] for one in told
    ]
    assert ever("doctor", "--deep")["lost"] == []


def test_a_backbone_from_a_file(make: Make, tmp_path: Path, shared: Path) -> None:
    weights = shared / "weights/mobilenet_v2_1.0_224_float.onnx"
    ever = make("--backbone", f"onnx:{weights}", settings=SETTINGS)
    for label in "057":
        for path in sorted((shared / "data/sign_digits" / label).iterdir())[:14]:
            target = tmp_path / "in" / label / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    turn: dict[str, Any] = ever("run", tmp_path / "in", "--labels-from", "folder", code=None)
    assert turn["model"] == "v1.0", turn
    alone = next((ever.workspace / "model_updates/versions").glob("model_v1.0_*.onnx"))
    told = ever("predict", tmp_path / "in/0", "--model", alone)["predictions"]
    assert [one["label"] for one in told].count("0") >= 10
    assert ever("models", "show")["models"][0]["licence"]

"""`models export --half --int8` of a detector, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from everlearn.cli.main import run
from everlearn.model.detecting.onnx import OnnxDetector
from tests.model.detecting.test_optimise import network
from tests.scenes import write


def test_a_version_in_float16_and_int8_with_what_it_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in", 30, ("circle", "square"), side=64)
    assert run(["init", "w", "--task", "detect"]) == 0
    (tmp_path / "w/small.onnx").write_bytes(network())
    (tmp_path / "w/small.yaml").write_text("kind: yolo\nclasses: [circle, square]\nsize: 64\nlicence: MIT\n")
    (tmp_path / "w/everlearn.yaml").write_text("task: detect\nlearn:\n  learner: onnx:small.onnx\n")
    for words in (["collect", "in"], ["validate"], ["learn"]):
        assert run(["-w", "w", *words]) == 0
    capsys.readouterr()
    assert run(["-w", "w", "models", "export", "out", "--half", "--int8", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    whole, half, int8 = said["forms"]
    assert [one["form"] for one in said["forms"]] == ["float32", "half", "int8"]
    assert half["bytes"] < whole["bytes"] > int8["bytes"]
    assert abs(half["map50"] - whole["map50"]) < 0.02
    for form, done in (("half", "float16"), ("int8", "int8, ranges from")):
        (path,) = [Path(one) for one in said["files"] if one.endswith(f".{form}.onnx")]
        detector = OnnxDetector(path)
        assert detector.card["optimised"].startswith(done) and detector.licence == "MIT"
        assert path.stat().st_size == next(one["bytes"] for one in said["forms"] if one["form"] == form)
    assert run(["-w", "w", "models", "export", "out", "--half"]) == 0
    assert "on disk" in capsys.readouterr().out
    assert run(["-w", "w", "models", "export", "other", "--half", "--format", "pt"]) == 2
    assert not (tmp_path / "other").exists()


def test_half_is_for_detectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["init", "w"]) == 0
    assert run(["-w", "w", "models", "export", "out", "--half"]) == 2
    assert "--half is for detectors" in capsys.readouterr().err

"""Answers, what people say of them, and the mistakes that every candidate must then answer."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from everlearn.cli.main import run
from tests.cli_models.conftest import Everlearn, digits, scans, write


def _bundle(ever: Everlearn, version: str) -> Path:
    return next((ever.workspace / "model_updates/versions").glob(f"model_{version}_*.onnx"))


def test_a_broken_image_spoils_nothing_for_the_others(taught: Everlearn, tmp_path: Path) -> None:
    folder = digits(tmp_path / "in", (1, 8), 3, first=100, flat=True)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "words.txt").write_text("no image")
    single = write(tmp_path / "사진 1.png", scans()[0][0])
    found = taught("predict", folder, tmp_path / "nowhere", single)["predictions"]
    assert len(found) == 11
    good, bad = [p for p in found if "error" not in p], [p for p in found if "error" in p]
    assert len(good) == 7
    assert {Path(p["path"]).name for p in bad} == {"broken.png", "empty.jpg", "words.txt", "nowhere"}
    for one in good:
        assert set(one) == {"path", "label", "confidence", "scores", "value"}
        assert one["label"] == next(iter(one["scores"]))
        assert one["confidence"] == pytest.approx(max(one["scores"].values()), abs=1e-6)
        assert sum(one["scores"].values()) == pytest.approx(1, abs=1e-4)
    assert all(one["label"] is None and one["confidence"] is None and one["error"] for one in bad)
    assert str(single) in [one["path"] for one in good]
    shown = taught.people("predict", folder)
    assert "broken.png" in shown
    assert "error:" in shown


def test_nothing_readable_exits_2_and_no_image_is_no_error(taught: Everlearn, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"x")
    (tmp_path / "void").mkdir()
    assert taught("predict", tmp_path / "bad.png", code=2)["predictions"][0]["error"]
    assert taught("predict", tmp_path / "void")["predictions"] == []
    assert "no image" in taught.people("predict", tmp_path / "void")


def test_a_bundle_answers_alone_and_alike(
    taught: Everlearn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = digits(tmp_path / "in", (1, 4, 7, 8, 9), 30, first=60)
    inside = taught("predict", folder)["predictions"]
    monkeypatch.chdir(tmp_path)  # no workspace here
    assert run(["predict", str(folder), "--model", str(_bundle(taught, "v1.1")), "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)["predictions"]
    assert alone == inside
    assert len(alone) == 150  # more than a batch


def test_the_size_of_a_batch_changes_no_answer(taught: Everlearn, tmp_path: Path) -> None:
    from everlearn.image import decode
    from everlearn.model.bundle import OnnxModel

    folder = digits(tmp_path / "in", (1, 9), 35, first=60, flat=True)
    images = [decode(path.read_bytes()).pixels for path in sorted(folder.iterdir())]
    images += [cv2.resize(images[0], (200, 90))]
    model = OnnxModel(_bundle(taught, "v1.1"))
    together = model.table(images)
    one_by_one = np.concatenate([model.table([image]) for image in images])
    np.testing.assert_allclose(one_by_one, together, atol=1e-6)
    np.testing.assert_array_equal(model.table(images[::-1])[::-1].argmax(1), together.argmax(1))


def _wrong(ever: Everlearn, folder: Path) -> list[dict[str, str]]:
    """Recorded answers about scans named `digit_n.png` that are wrong."""
    found = ever("predict", folder, "--record", "--camera", "hall")["predictions"]
    assert len({one["id"] for one in found}) == len(found)
    return [one for one in found if Path(one["path"]).name[0] != one["label"]]


def test_a_reported_mistake_becomes_a_sample_and_a_case_that_candidates_must_answer(
    taught: Everlearn, tmp_path: Path
) -> None:
    (first, *_) = _wrong(taught, digits(tmp_path / "in", (1, 4, 7, 8, 9), 40, first=60, flat=True))
    digit = Path(first["path"]).name[0]
    told = taught("feedback", first["id"], "--label", digit)
    assert told["case"] is True
    (case,) = taught("regressions")["cases"]
    assert (case["sample_id"], case["wrong"], case["right"]) == (told["sample"], first["label"], digit)
    assert case["version"] == "v1.1"
    (row,) = taught("data", "--status", "new")["samples"]
    assert (row["sample"], row["label"], row["camera"]) == (told["sample"], digit, "hall")
    history = taught("label", "--history", told["sample"])["history"]
    assert [(event["label"], event["by"]) for event in history] == [(digit, "feedback")]
    assert taught("evaluate")["regressions"] == {told["sample"]: False}  # the champion's own mistake


def test_a_candidate_that_repeats_a_reported_mistake_is_held(taught: Everlearn, tmp_path: Path) -> None:
    wrong = _wrong(taught, digits(tmp_path / "in", (1, 4, 7, 8, 9), 40, first=60, flat=True))
    reported = [taught("feedback", one["id"], "--label", Path(one["path"]).name[0])["sample"] for one in wrong]
    turn = taught("run", code=None)
    found = taught("evaluate", "--model", turn["model"], code=None)
    assert set(found["regressions"]) <= set(reported)
    repeated = [sample for sample, answered in found["regressions"].items() if not answered]
    if repeated:
        assert turn["decision"] == "held"
        assert f"{len(repeated)} of {len(found['regressions'])} reported mistakes" in turn["reason"]
    else:
        assert turn["decision"] == "promoted"
    # a case that contradicts what the candidate learned cannot be answered, so the candidate is held
    sure = taught("predict", write(tmp_path / "again.png", scans()[0][np.flatnonzero(scans()[1] == 1)[0]]), "--record")
    taught("feedback", sure["predictions"][0]["id"], "--wrong")
    digits(tmp_path / "more", (1, 7), 20, first=110)
    turn = taught("run", tmp_path / "more", "--labels-from", "folder", code=1)
    assert turn["decision"] == "held"
    assert "reported mistakes are still made" in turn["reason"]


def test_right_confirms_and_takes_a_mistaken_report_back(taught: Everlearn, tmp_path: Path) -> None:
    one = taught("predict", write(tmp_path / "a.png", scans()[0][700]), "--record")["predictions"][0]
    told = taught("feedback", one["id"], "--wrong")
    assert told["case"] is True
    assert taught("regressions")["cases"][0]["right"] is None
    assert taught("feedback", one["id"], "--right") == {"sample": told["sample"], "case": False}
    assert taught("regressions")["cases"] == []
    assert taught("feedback", one["id"], "--label", one["label"])["case"] is False
    assert taught("data", "--status", "new")["samples"][0]["label"] == one["label"]


def test_feedback_says_what_it_needs(taught: Everlearn, tmp_path: Path) -> None:
    one = taught("predict", write(tmp_path / "a.png", scans()[0][701]), "--record")["predictions"][0]
    assert taught.error("feedback", one["id"])["code"] == "bad_input"
    assert taught.error("feedback", one["id"], "--right", "--wrong")["code"] == "bad_input"
    assert taught.error("feedback", "0123456789abcdef", "--right")["code"] == "missing"
    assert taught.error("feedback", one["id"], "--label", " ")["code"] == "bad_input"
    assert taught("data")["counts"]["new"] == 0  # nothing half done


def test_a_forgotten_image_is_answered_but_not_kept(taught: Everlearn, tmp_path: Path) -> None:
    photo = write(tmp_path / "me.png", scans()[0][702])
    taught("feedback", taught("predict", photo, "--record")["predictions"][0]["id"], "--label", "9")
    sample = taught("data", "--status", "new")["samples"][0]["sample"]
    taught("forget", "--sample", sample)
    one = taught("predict", photo, "--record")["predictions"][0]
    assert one["label"] is not None
    kept = [path for path in taught.workspace.rglob("*") if path.is_file() and path.read_bytes() == photo.read_bytes()]
    assert kept == []
    assert taught.error("feedback", one["id"], "--right")["code"] == "missing"
    assert taught("regressions")["cases"] == []


def test_answers_of_a_file_are_recorded_where_it_is_a_version(taught: Everlearn, tmp_path: Path) -> None:
    photo = write(tmp_path / "a.png", scans()[0][703])
    one = taught("predict", photo, "--record", "--model", _bundle(taught, "v1.0"))["predictions"][0]
    taught("feedback", one["id"], "--wrong")
    assert taught("regressions")["cases"][0]["version"] == "v1.0"

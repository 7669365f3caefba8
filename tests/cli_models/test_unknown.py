"""An open set through the command line: `unknown` as an answer, what strangers and wrong answers teach."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from everlearn.model.bundle import OnnxModel
from everlearn.naming import denial
from tests.cli_models.conftest import SETTINGS, Everlearn, digits, scans, write

OPEN = SETTINGS.replace("dimensions: 64", "dimensions: 128, unknown: 0.1").replace("0.6", "0.3")


@pytest.fixture(scope="module")
def _opened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("opened")
    ever = Everlearn(folder / "workspace").init(settings=OPEN)
    digits(folder / "day", (1, 4, 7, 8), 40)
    digits(folder / "strangers", (3,), 25, flat=True)
    ever("collect", folder / "day", "--labels-from", "folder")
    ever("collect", folder / "strangers", "--label", "unknown")
    ever("validate")
    ever("learn")
    return folder / "workspace"


@pytest.fixture
def opened(_opened: Path, tmp_path: Path) -> Everlearn:
    """Knows 1, 4, 7 and 8; has seen some 3, of which it was told that they are nobody."""
    shutil.copytree(_opened, tmp_path / "workspace")
    return Everlearn(tmp_path / "workspace")


def test_strangers_are_answered_unknown_also_by_the_exported_file(opened: Everlearn, tmp_path: Path) -> None:
    assert opened("data")["negatives"] == 25
    card = opened("models", "show")["models"][0]["card"]
    assert card["classes"] == ["1", "4", "7", "8"]
    promise = card["unknown"]
    assert promise["false_accept"]["asked"] == 0.1
    assert promise["negatives"] > 0
    assert len(promise["curve"]) > 10
    folder = digits(tmp_path / "fresh", (0, 5, 6, 9), 15, flat=True)
    said = opened("predict", folder)["predictions"]
    strange = [one["label"] == "unknown" for one in said]
    assert np.mean(strange) > 0.6
    assert all(max(one["scores"], key=one["scores"].get) == one["label"] for one in said)
    (file,) = [path for path in opened("models", "export", tmp_path / "out")["files"] if path.endswith(".onnx")]
    alone = opened("predict", folder, "--model", file)["predictions"]
    assert [one["label"] for one in alone] == [one["label"] for one in said]
    model = OnnxModel(Path(file))
    assert model.open_set
    assert model.classes[-1] == "unknown"


def test_the_report_counts_both_mistakes_on_the_test_side(opened: Everlearn) -> None:
    found = opened("evaluate", code=None)
    unknown = found["unknown"]
    assert unknown["known"] == found["images"]  # negatives are no test images of a class
    assert unknown["impostors"] == unknown["known"] + unknown["strangers"]["images"]
    assert unknown["false_accept"]["asked"] == 0.1
    assert unknown["false_accept"]["seen"] <= unknown["false_accept"]["upper"]
    assert 0 <= unknown["false_reject"] < 0.6
    assert found["accuracy"] <= 1 - unknown["false_reject"]  # a known image that is refused counts as wrong
    assert "unknown" not in found["classes"]
    at = [p for p in unknown["curve"] if p["threshold"] <= unknown["threshold"]]
    assert abs(at[-1]["false_reject"] - unknown["false_reject"]) < 0.15
    for language, words in (("", "Known refused"), (".ko", "아는 대상을 거부함")):
        page = Path(found["report"].removesuffix(".html") + language + ".html").read_text()
        assert words in page
        assert 'id="open_set"' in page
    assert "false_reject" in opened.people("evaluate")


def test_what_is_unknown_is_not_labelled_but_queued_with_that_reason(opened: Everlearn, tmp_path: Path) -> None:
    opened("collect", digits(tmp_path / "more", (0, 6), 12, flat=True), "--labels-from", "none")
    opened("validate")
    opened("label", "--auto")
    waiting = opened("review", "--limit", 100)["items"]
    reasons = [one["reason"] for one in waiting]
    said = {one["path"]: one["label"] for one in opened("predict", *[one["path"] for one in waiting])["predictions"]}
    assert "unknown" in reasons
    assert all((one["reason"] == "unknown") == (said[one["path"]] == "unknown") for one in waiting)


def test_a_wrong_answer_is_learned_as_a_negative_until_a_person_says_what_it_is(
    opened: Everlearn, tmp_path: Path
) -> None:
    images, truth = scans()
    folder = tmp_path / "wrong"
    for n in np.flatnonzero(truth == 9)[:30]:
        write(folder / f"{n}.png", images[n])
    answers = opened("predict", folder, "--record")["predictions"]
    mistaken = [one for one in answers if one["label"] != "unknown"]
    assert mistaken, "no nine was taken for another digit; choose other images"
    before = opened("models", "show")["models"][0]["memory_digest"]
    told = [opened("feedback", one["id"], "--wrong")["sample"] for one in mistaken]
    opened("validate")
    rows = {one["sample"]: one for one in opened("data", "--status", "queued", "--limit", 99)["samples"]}
    assert {rows[id]["label"] for id in told if id in rows} <= {denial(one["label"]) for one in mistaken}
    assert opened("data")["negatives"] == 25 + len(told)
    learned = opened("learn")
    assert learned["memory_digest"] != before
    taught = [one for one, id in zip(mistaken, told, strict=True) if id in rows]
    held = opened("dataset", "build")
    assert held["classes"] == ["1", "4", "7", "8", "unknown"]
    again = opened("predict", *[one["path"] for one in taught])["predictions"]
    assert sum(one["label"] == old["label"] for one, old in zip(again, taught, strict=True)) < len(taught)
    for one, old in zip(again, taught, strict=True):
        assert one["label"] != old["label"] or one["scores"][old["label"]] < old["scores"][old["label"]] + 0.05
    checked = opened("doctor", "--deep")
    assert checked["mended"] == checked["lost"] == []
    # what it is makes it a sample like any other
    opened("label", told[0], "9")
    assert opened("data")["negatives"] == 24 + len(told)
    # and what is left of them is forgotten with the label that they name, in every bit
    label = mistaken[-1]["label"]
    certificate = opened("forget", "--label", label)["certificate"]
    assert opened("verify", certificate)["verified"] is True
    assert denial(label) not in {one["label"] for one in opened("data", "--status", "queued")["samples"]}


def test_by_hand(opened: Everlearn, tmp_path: Path) -> None:
    (row, *_) = opened("data", "--status", "learned")["samples"]
    assert opened("label", row["sample"], "--not", row["label"])["labelled"] == 1
    (event,) = [one for one in opened("label", "--history", row["sample"])["history"] if one["by"] == "person"]
    assert event["label"] == denial(row["label"])
    assert opened("data")["negatives"] == 26
    assert opened.error("label", row["sample"], "--not", " ")["message"] == "A label is empty."
    opened.error("label", "--not", "1")
    assert opened("learn")["samples"] in (0, 1)


def test_an_open_set_needs_classes_and_the_exact_memory(make) -> None:
    ever = make("--task", "regress", settings="learn: {unknown: 0.1}\n")
    assert "learn.unknown 0.1 is for classes" in ever.error("status")["message"]

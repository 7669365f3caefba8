"""Pictures of a training: they are there, they show what is so, and they can be drawn of next to nothing."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from everlearn.errors import BadInput
from everlearn.evaluate import plots
from everlearn.evaluate.grids import Shown, picture_grid
from everlearn.evaluate.metrics import Answers, classification
from everlearn.evaluate.ranking import POINTS, ranked
from everlearn.evaluate.training_plots import (
    Numbers,
    Several,
    answered,
    curves,
    label_distribution,
    learning_rate,
    plot_run,
    stage_facts,
)

STAGES = ("baseline", "polishing")
NAN = math.nan


def epochs(*lengths: int, numbers: bool = False) -> list[dict[str, float]]:
    found = []
    for stage, length in enumerate(lengths, 1):
        for epoch in range(1, length + 1):
            step = len(found) + 1
            found.append({
                "stage": stage, "epoch": epoch, "train_loss": 2 / step, "val_loss": 3 / step, "seconds": 2.0,
                "train_accuracy": NAN if numbers else 1 - 1 / step, "val_accuracy": 1 - 1 / step,
                "learning_rate": 0.1 / 4**epoch, "images_per_second": 100.0,
            })  # fmt: skip
    return found


def said(classes: int, images: int = 60, name: str = "c") -> Answers:
    rng = np.random.default_rng(0)
    names = [f"{name}{number}" for number in range(classes)]
    true = np.arange(images) % classes
    table = rng.dirichlet(np.ones(classes), images) + 2 * np.eye(classes)[true] * rng.random((images, 1))
    table /= table.sum(axis=1, keepdims=True)
    return Answers([names[i] for i in true], [names[i] for i in table.argmax(axis=1)], table, names)


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    picture = Image.open(io.BytesIO(data))
    assert picture.format == "PNG"
    return np.asarray(picture.convert("RGB"))


def ink(data: bytes) -> float:
    """Share of the picture that is not white."""
    return float((pixels(data).min(axis=2) < 250).mean())


def test_a_run_has_all_its_pictures_and_numbers(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (9, 16, 16, 3)).astype(np.uint8)
    answers = said(3)
    written = plot_run(
        tmp_path / "plots" / "run",
        epochs(4, 3),
        answers,
        stages=STAGES,
        counts={"train": {"c0": 5, "c1": 3}, "validation": {"c0": 1, "c2": 1}},
        first_batches=Shown(images, ["c0"] * 9),
        validation=Shown(images, ["c0"] * 9, ["c1"] * 9, [0.5] * 9),
    )
    names = [path.name for path in written]
    assert names == [
        "curves.png", "learning_rate.png", "improvement.png", "confusion.png", "confusion_normalised.png",
        "class_bars.png", "calibration.png", "precision_recall.png", "roc.png", "label_distribution.png",
        "images_first_batches.png", "images_validation.png", "history.csv", "numbers.json",
    ]  # fmt: skip
    for path in written[:-2]:
        assert 0.005 < ink(path.read_bytes()) < 0.95, path.name
        assert max(pixels(path.read_bytes()).shape) < 2200, path.name
    rows = list(csv.DictReader((tmp_path / "plots/run/history.csv").open()))
    assert [(row["step"], row["stage"], row["epoch"]) for row in rows][3:5] == [("4", "1", "4"), ("5", "2", "1")]
    kept = json.loads((tmp_path / "plots/run/numbers.json").read_text())
    assert kept["history"][0]["val_loss"] == 3.0
    assert [stage["name"] for stage in kept["stages"]] == list(STAGES)
    assert kept["metrics"]["accuracy"]["value"] == classification(answers).accuracy.value
    assert kept["labels"]["train"] == {"c0": 5, "c1": 3}
    assert len(kept["ranking"]["classes"]) == 3
    assert kept["metrics"]["mistakes"] is None


def test_what_is_not_there_is_not_drawn(tmp_path: Path) -> None:
    assert [path.name for path in plot_run(tmp_path, [])] == ["history.csv", "numbers.json"]
    one = plot_run(tmp_path, epochs(1))
    assert [path.name for path in one if path.suffix == ".png"] == ["curves.png", "learning_rate.png"]
    lost = [{"train_loss": NAN, "val_loss": NAN}]  # a training that diverged at once
    drawn = [path.name for path in plot_run(tmp_path, lost) if path.suffix == ".png"]
    assert drawn == ["curves.png", "learning_rate.png"]
    assert json.loads((tmp_path / "numbers.json").read_text())["history"][0]["val_loss"] is None


def test_numbers_have_pictures_of_their_own(tmp_path: Path) -> None:
    said = Numbers(np.linspace(0, 10, 50), np.linspace(0, 10, 50) + 0.5)
    written = plot_run(tmp_path, epochs(3, numbers=True), said)
    assert "answers.png" in [path.name for path in written]
    assert json.loads((tmp_path / "numbers.json").read_text())["metrics"]["mae"]["value"] == pytest.approx(0.5)
    with pytest.raises(BadInput, match="3 targets and 2 answers"):
        answered(Numbers(np.zeros(3), np.zeros(2)))


def test_several_labels_at_once(tmp_path: Path) -> None:
    targets = np.array([[1, 1], [0, 1], [1, 0], [0, 0]])
    written = plot_run(tmp_path, epochs(2), Several(targets, targets * 0.5 + 0.2, ["a", "b"]))
    assert {"precision_recall.png", "roc.png"} < {path.name for path in written}
    assert json.loads((tmp_path / "numbers.json").read_text())["ranking"]["average_precision"] == 1.0


# --- curves ---------------------------------------------------------------------------------------------------------


def test_what_a_stage_was_worth_is_its_best_epoch() -> None:
    history = [
        {"stage": 1, "val_loss": 0.5, "val_accuracy": 0.8, "seconds": 1},
        {"stage": 1, "val_loss": 0.3, "val_accuracy": 0.9, "seconds": 2},
        {"stage": 1, "val_loss": 0.2, "val_accuracy": 0.9, "seconds": 2},
        {"stage": 3, "val_loss": 0.4, "val_accuracy": NAN, "seconds": 1},
        {"stage": 3, "val_loss": 0.1, "val_accuracy": NAN, "seconds": 1},
    ]
    first, third = stage_facts(history, STAGES)
    assert (first.name, first.best_epoch, first.val_loss, first.seconds, first.epochs) == ("baseline", 3, 0.2, 5.0, 3)
    assert (third.name, third.best_epoch, third.val_loss) == ("stage 3", 2, 0.1)


def test_one_odd_epoch_does_not_press_the_rest_into_a_line() -> None:
    history = epochs(60)
    plain = pixels(curves(history))
    history[30]["val_loss"] = 5000.0
    spiked = pixels(curves(history))
    assert plain.shape == spiked.shape
    # in the lower half of the loss panel, where most of the curve lies, there is still a curve
    band = slice(int(0.1 * len(spiked)), int(0.3 * len(spiked)))
    assert ((spiked[band].astype(int) @ [1, 0, -1]) > 100).sum() > 100


def test_the_rate_can_stand_still_and_move() -> None:
    still = learning_rate([{**one, "learning_rate": 0.1} for one in epochs(4)])
    moving = learning_rate(epochs(4, 3), STAGES)
    assert ink(moving) > 0.005 < ink(still)
    assert moving != learning_rate(epochs(4, 3))  # the stages have their names


# --- classes --------------------------------------------------------------------------------------------------------


def test_ranks_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    targets, scores = (rng.random((200, 3)) < 0.3).astype(int), rng.random((200, 3)).round(2)
    targets[:, 2] = 0
    found = ranked(targets, scores, ["a", "b", "none"])
    assert [one.name for one in found.classes] == ["a", "b"]  # of a class without images there is nothing to tell
    for place, one in enumerate(found.classes):
        assert one.average_precision == pytest.approx(average_precision_score(targets[:, place], scores[:, place]))
        assert one.area == pytest.approx(roc_auc_score(targets[:, place], scores[:, place]))
        assert one.images == targets[:, place].sum()
        assert one.precision[-1] == pytest.approx(one.images / 200, abs=0.05)  # all recalled: nearly all answered
        assert (np.diff(one.precision) <= 1e-9).all() and (np.diff(one.hits) >= -1e-9).all()
        assert np.trapezoid(one.hits, POINTS) == pytest.approx(one.area, abs=0.01)
    assert found.area == pytest.approx(np.mean([one.area for one in found.classes]))
    assert ranked(np.ones((3, 1)), np.ones((3, 1)), ["a"]).area is None
    with pytest.raises(BadInput, match="2 classes"):
        ranked(targets, scores, ["a", "b"])


@pytest.mark.parametrize("classes", [2, 100])
def test_few_and_many_classes_fit_on_a_picture(classes: int) -> None:
    confusion = classification(said(classes, 4 * classes), shown=classes).confusion
    raw = plots.confusion_matrix(confusion, form="png")
    shares = plots.confusion_matrix(confusion, form="png", normalised=True)
    assert raw != shares
    for data in (raw, shares, label_distribution({"train": {f"c{n}": n + 1 for n in range(classes)}})):
        assert max(pixels(data).shape) < 1600
        assert ink(data) > 0.01


def test_names_of_any_script_are_drawn(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert plots.romanised("한") + plots.romanised("글") == "hangeul"
    assert [plots.romanised(char) for char in "각없힣아中"] == ["gak", "eop", "hit", "a", "□"]
    assert plots.drawable("abc é 1") == "abc é 1"
    here = "가" if ord("가") in plots._drawable() else "ga"
    assert plots.drawable("가1") == f"{here}1"
    written = plot_run(tmp_path, [], said(3, name="$가\u202e나\n"), counts={"train": {"홍길동": 3, "\ud800": 1}})
    assert len([path for path in written if path.suffix == ".png"]) == 7
    assert not [one for one in recwarn if "Glyph" in str(one.message)]


def test_an_svg_keeps_the_letters_and_a_png_draws_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    confusion = classification(said(2, name="홍")).confusion
    assert "홍0" in plots.confusion_matrix(confusion).decode()
    plain = plots.confusion_matrix(confusion, form="png")
    monkeypatch.setattr(plots, "_drawable", lambda: frozenset(range(128)))
    drawn: list[str] = []
    monkeypatch.setattr(plots, "romanised", lambda char: drawn.append(char) or "hong")
    assert ink(plots.confusion_matrix(confusion, form="png")) > 0
    assert "홍" in drawn
    assert len(plain) > 1000


# --- images ---------------------------------------------------------------------------------------------------------


def test_right_and_wrong_answers_differ_to_the_eye() -> None:
    images = np.full((2, 20, 20, 3), 255, np.uint8)

    def colours(answers: list[str], right: list[bool] | None = None) -> tuple[int, int]:
        """Pixels that are rather blue, and rather orange."""
        red_less_blue = pixels(picture_grid(Shown(images, ["a", "b"], answers, right=right))).astype(int) @ [1, 0, -1]
        return int((red_less_blue < -60).sum()), int((red_less_blue > 60).sum())

    blue, orange = colours(["a", "b"])
    assert blue > 0 and orange == 0
    blue, orange = colours(["a", "a"])
    assert blue > 0 and orange > 0
    assert colours(["a", "a"], [True, True])[1] == 0


def test_a_grid_has_as_many_images_as_fit() -> None:
    images = np.zeros((100, 8, 8, 3), np.uint8)
    many, few = picture_grid(Shown(images, ["x"] * 100)), picture_grid(Shown(images[:3], ["x"] * 3))
    assert pixels(many).shape[0] > 3 * pixels(few).shape[0]
    assert pixels(few).shape[1] < 0.5 * pixels(many).shape[1]
    with pytest.raises(BadInput, match="no image"):
        picture_grid(Shown(images[:0], []))
    with pytest.raises(BadInput, match="labels has 2 entries"):
        Shown(images[:3], ["x"] * 2)

"""Against pycocotools on made-up scenes; figures at the operating confidence; what is left out."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.errors import BadInput
from everlearn.evaluate.detection import DetectionMetrics, Seen, detection, matching, metrics, precision
from everlearn.evaluate.detection.metrics import average_precisions, best_confidence
from everlearn.types import Box
from tests.evaluate.detection.made import CLASSES, images, reference


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 20)
    monkeypatch.setattr(metrics, "FEWEST", 10)


def figures(found: DetectionMetrics) -> list[float]:
    """In the order of pycocotools' stats 0, 1, 3, 4, 5, its -1 for what there is not."""
    values = [found.map50_95.value, found.map50.value, *(size.map50_95 for size in found.sizes)]
    return [-1.0 if value is None or np.isnan(value) else value for value in values]


def stats(seen: list[Seen], classes: list[str]) -> list[float]:
    return reference(seen, classes).stats[[0, 1, 3, 4, 5]].tolist()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 12),
    skill=st.sampled_from([0.0, 0.6, 1.0]),
    ghosts=st.sampled_from([0.0, 1.0, 8.0]),
    grid=st.sampled_from([0, 4, 10, 32]),
    levels=st.sampled_from([0, 1, 3]),
    absent=st.booleans(),
)
def test_agrees_with_pycocotools(
    seed: int, count: int, skill: float, ghosts: float, grid: int, levels: int, absent: bool
) -> None:
    """Images and classes without a true box, without a found one, with equal overlaps and equal confidences."""
    seen = images(seed, count, skill=skill, ghosts=ghosts, grid=grid, levels=levels)
    classes = [*CLASSES, "never"] if absent else list(CLASSES[:2])
    found = detection(seen, classes)
    judged = reference(seen, classes)
    assert figures(found) == pytest.approx(judged.stats[[0, 1, 3, 4, 5]], abs=1e-9)
    by_class = judged.eval["precision"][:, :, :, 0, 2].mean(axis=1)  # (T, C), -1 for none
    for number, one in enumerate(found.classes):
        assert (-1 if one.ap50 is None else one.ap50) == pytest.approx(by_class[0, number], abs=1e-9)
        assert (-1 if one.ap50_95 is None else one.ap50_95) == pytest.approx(by_class[:, number].mean(), abs=1e-9)


def test_more_than_a_hundred_boxes_and_crowds_of_true_ones() -> None:
    crowd = images(3, 2, ["cat"], ghosts=260, skill=1.0)
    many = [replace(one, truth=one.truth * 9, found=one.found + one.found[:40]) for one in crowd]
    assert figures(detection(many, ["cat"])) == pytest.approx(stats(many, ["cat"]), abs=1e-9)


def test_pairs_in_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "AT_ONCE", 3)
    monkeypatch.setattr(precision, "CELLS", 50)
    monkeypatch.setattr(metrics, "CELLS", 50)
    seen = images(5, 12)
    assert figures(detection(seen, CLASSES)) == pytest.approx(stats(seen, list(CLASSES)), abs=1e-9)


def test_weights_are_copies_of_images() -> None:
    """What the bootstrap relies on: an image that counts twice counts like two images."""
    seen = images(7, 15)
    times = np.random.default_rng(0).integers(0, 3, len(seen))
    copies = [replace(one, id=f"{one.id}-{k}") for one, n in zip(seen, times, strict=True) for k in range(n)]
    once = precision.rankings(matching.matched(seen, CLASSES))
    found = np.array([one.average_precision(times[:, None].astype(float))[:, 0] for one in once])
    assert found.mean() == pytest.approx(stats(copies, list(CLASSES))[0], abs=1e-9)


def test_nothing_depends_on_the_order_of_the_images() -> None:
    seen = images(11, 30, levels=5)
    mixed = random.Random(0).sample(seen, len(seen))
    assert detection(seen, CLASSES) == detection(mixed, CLASSES)


def test_by_camera() -> None:
    seen = images(13, 30)
    found = detection(seen, CLASSES, confidence=0.4)
    for camera in found.cameras:
        alone = detection([one for one in seen if one.camera == camera.name], CLASSES, confidence=0.4)
        own = (camera.map50, camera.map50_95, camera.precision, camera.recall, camera.f1)
        assert own == pytest.approx([figure.value for figure in alone.headline().values()], abs=1e-9)
        assert camera.interval is not None and camera.interval[0] <= camera.map50 <= camera.interval[1]  # type: ignore[operator]


def test_the_operating_confidence_has_the_best_macro_f1() -> None:
    for levels in (0, 4):
        matched = matching.matched(images(17, 25, levels=levels), CLASSES)
        scores = {}
        for confidence in np.unique(matched.found.confidence):
            at = np.full(len(CLASSES), confidence)
            scores[float(confidence)] = float(metrics.Counts.of(matched, at).macro(np.ones((25, 1)))[2, 0])
        best = best_confidence(matched)
        assert scores[best] == pytest.approx(max(scores.values()))
        assert best == max(c for c, f1 in scores.items() if f1 > max(scores.values()) - 1e-12)


def test_precision_and_recall_at_a_confidence() -> None:
    """Counted by hand: two true cats, one of them found surely; a sure ghost; a box below the confidence."""
    cat = Box("cat", 0.1, 0.1, 0.2, 0.2)
    other = Box("cat", 0.6, 0.6, 0.2, 0.2)
    found = (
        replace(cat, confidence=0.9),
        Box("cat", 0.1, 0.6, 0.1, 0.1, 0.8),
        replace(other, confidence=0.3),
        Box("parcel", 0.3, 0.1, 0.1, 0.1, 0.9),
    )
    seen = [Seen("a", (cat, other), found, 100, 100)]
    scores = detection(seen, ["cat", "parcel"], confidence=0.5)
    assert (scores.precision.value, scores.recall.value, scores.f1.value) == (0.5, 0.5, 0.5)
    assert [(one.boxes, one.found, one.right, one.precision, one.recall) for one in scores.classes] == [
        (2, 2, 1, 0.5, 0.5),
        (0, 1, 0, 0.0, None),
    ]
    low = detection(seen, ["cat", "parcel"], confidence={"cat": 0.2, "unheard": 0.1})
    assert low.recall.value == 1
    assert low.classes[0].confidence == 0.2


def test_what_was_not_looked_for_is_left_out() -> None:
    cat, parcel = Box("cat", 0.1, 0.1, 0.2, 0.2), Box("parcel", 0.5, 0.5, 0.3, 0.3)
    found = (replace(cat, confidence=0.9), replace(parcel, confidence=0.8))
    whole = Seen("a", (cat, parcel), found, 100, 100)
    part = Seen("b", (cat,), found, 100, 100, about=frozenset({"cat"}))
    asked = detection([whole, replace(part, about=None)], ["cat", "parcel"], confidence=0.5)
    assert asked.errors.counts["ghost"] == 1
    scores = detection([whole, part], ["cat", "parcel"], confidence=0.5)
    assert scores.errors.counts["ghost"] == 0
    assert (scores.precision.value, scores.recall.value, scores.map50.value) == pytest.approx((1, 1, 1))
    missing = replace(part, truth=(parcel,), found=(), about=frozenset({"cat"}))
    assert detection([whole, missing], ["cat", "parcel"]).classes[1].boxes == 1


def test_intervals_of_the_best_and_the_worst_are_not_points() -> None:
    cat = Box("cat", 0.1, 0.1, 0.2, 0.2)
    right = [Seen(f"{i}", (cat,), (replace(cat, confidence=0.9),), 100, 100) for i in range(10)]
    perfect = detection(right, ["cat"])
    assert perfect.map50.value == pytest.approx(1)
    assert perfect.map50.low is not None and 0.6 < perfect.map50.low < 0.75
    blind = detection([replace(one, found=()) for one in right], ["cat"])
    assert blind.f1.value == 0 and blind.map50.value == 0
    assert blind.map50.high is not None and 0.25 < blind.map50.high < 0.4


def test_groups_widen_the_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 300)
    seen = images(19, 20)
    copies = [replace(one, id=f"{one.id}-{k}", group=one.id) for one in seen for k in range(8)]
    grouped = detection(copies, CLASSES).map50
    alone = detection([replace(one, group=None) for one in copies], CLASSES).map50
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)  # type: ignore[operator]


def test_results_are_json_and_a_quick_look_gives_the_same() -> None:
    seen = images(23, 10)
    scores = detection(seen, [*CLASSES, "never"])
    assert json.loads(json.dumps(scores.to_json(), allow_nan=False))["map50"]["value"] == scores.map50.value
    quick = average_precisions(seen, [*CLASSES, "never"])
    assert quick == {one.name: one.ap50 for one in scores.classes if one.ap50 is not None}
    empty = detection([Seen("a", (), (), 10, 10)], ["cat"])
    json.dumps(empty.to_json(), allow_nan=False)


def test_bad_input_is_said() -> None:
    cat = Box("cat", 0.1, 0.1, 0.2, 0.2)
    one = Seen("a", (cat,), (), 100, 100)
    for seen, classes, message in (
        ([], ["cat"], "no test image"),
        ([one], [], "classes are"),
        ([one], ["cat", "cat"], "classes are"),
        ([one, one], ["cat"], "given twice"),
        ([replace(one, width=0)], ["cat"], "0 x 100"),
        ([replace(one, found=(cat,))], ["cat"], "no confidence"),
        ([replace(one, truth=(replace(cat, x=float("nan")),))], ["cat"], "not made of finite"),
    ):
        with pytest.raises(BadInput, match=message):
            detection(seen, classes)
    with pytest.raises(BadInput, match="confidence is"):
        detection([one], ["cat"], confidence=1.5)

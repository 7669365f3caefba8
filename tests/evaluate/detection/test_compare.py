"""Verdicts between two detectors, harm to a class or camera, and how often equals are told apart."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from everlearn.errors import BadInput
from everlearn.evaluate.detection import Seen, compare, compare_detection, detection
from everlearn.evaluate.detection.metrics import units
from everlearn.evaluate.detection.precision import truths
from everlearn.evaluate.gates import decide, judge
from tests.evaluate.detection.made import CLASSES, images


def pair(count: int, seed: int = 1, **better: float) -> tuple[list[Seen], list[Seen]]:
    """Two detectors on the same images; the second may be better."""
    return images(10 * seed, count, truth_seed=seed), images(10 * seed + 5, count, truth_seed=seed, **better)  # type: ignore[arg-type]


def without(seen: Sequence[Seen], label: str, share: float, camera: str | None = None) -> list[Seen]:
    """The same detector, blind to a share of what it found of one class, or at one camera."""
    rng = random.Random(0)
    return [
        replace(
            one,
            found=tuple(
                box
                for box in one.found
                if (camera or one.camera) != one.camera or (label or box.label) != box.label or rng.random() >= share
            ),
        )
        for one in seen
    ]


def test_better_and_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "RESAMPLES", 500)
    champion, candidate = pair(120, skill=0.98, ghosts=0.2)
    found = compare_detection(champion, candidate, CLASSES)
    assert found.verdict == "better" and found.needed == 0 and found.vetoes == ()
    assert found.champion == pytest.approx(detection(champion, CLASSES).map50.value)
    assert found.candidate == pytest.approx(detection(candidate, CLASSES).map50.value)
    assert found.difference == pytest.approx(found.candidate - found.champion)
    assert found.gained > found.lost
    assert "mAP" not in decide({}, found, {}, first=False).reason
    assert decide({}, found, {}, first=False).reason.endswith(f"by {100 * found.difference:.2f} points.")
    back = compare_detection(candidate, champion, CLASSES)
    assert back.verdict == "worse" and back.p_value == pytest.approx(found.p_value)
    assert back.interval == pytest.approx((-found.interval[1], -found.interval[0]))
    fine = compare_detection(champion, candidate, CLASSES, measure="map50_95")
    assert fine.champion == pytest.approx(detection(champion, CLASSES).map50_95.value)
    assert fine.measure == "map50_95" and fine.verdict == "better"


def test_a_detector_against_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    few, _ = pair(40)
    same = compare_detection(few, few, CLASSES)
    assert (same.difference, same.p_value, same.verdict, same.vetoes) == (0, 1, "undecided", ())
    assert same.needed
    assert same.lost == same.gained == 0
    many, _ = pair(40 + same.needed + 60)
    monkeypatch.setattr(compare, "RESAMPLES", 200)
    assert compare_detection(many, many, CLASSES).verdict == "equivalent"


def test_the_order_of_the_images_does_not_matter() -> None:
    champion, candidate = pair(30)
    mixed = random.Random(1).sample(candidate, len(candidate))
    assert compare_detection(champion, candidate, CLASSES) == compare_detection(champion[::-1], mixed, CLASSES)


def test_a_harmed_class_is_named_and_holds_the_candidate() -> None:
    champion, candidate = pair(150, skill=0.99, ghosts=0.1)
    candidate = without(candidate, "parcel", 0.9)
    found = compare_detection(champion, candidate, CLASSES)
    assert [(veto.kind, veto.name) for veto in found.vetoes] == [("class", "parcel")]
    veto = found.vetoes[0]
    assert veto.difference < -0.1 and veto.lost > veto.gained and veto.images <= 150
    decision = decide(judge({"map50": found.candidate}, {"map50": 0.1}), found, {}, first=False)
    assert (decision.outcome, decision.code) == ("hold", "harm")
    assert "parcel" in decision.reason


def test_a_harmed_camera_is_named() -> None:
    champion, _ = pair(150)
    found = compare_detection(champion, without(champion, "", 0.7, "door 1"), CLASSES)
    assert ("camera", "door 1") in [(veto.kind, veto.name) for veto in found.vetoes]
    assert not {"door 0", "door 2"} & {veto.name for veto in found.vetoes}


def test_three_boxes_lost_are_no_proof() -> None:
    """A class with three boxes: no test of signs could be surer than 1/8, whatever the bootstrap says."""
    champion, _ = pair(60)
    rare = [
        replace(one, truth=(*one.truth, replace(box, label="rare")), found=(*one.found, replace(box, label="rare")))
        if number < 3 and (box := replace(images(99, 1)[0].found[0], confidence=0.9))
        else one
        for number, one in enumerate(champion)
    ]
    blind = without(rare, "rare", 1.0)
    assert compare_detection(rare, blind, [*CLASSES, "rare"]).vetoes == ()


def test_the_number_of_images_behind_a_mean_over_classes() -> None:
    seen = images(1, 40, ["cat"])
    matched = compare.matched([replace(one, truth=one.truth[:1]) for one in seen], ["cat"])
    there = sum(bool(one.truth) for one in seen)
    assert compare.effective(truths(matched), units(matched.images)) == pytest.approx(there)
    together = units([replace(one, group=str(number % 5)) for number, one in enumerate(matched.images)])
    assert compare.effective(truths(matched), together) <= 5 + 1e-9


def test_groups_are_drawn_together() -> None:
    champion, candidate = pair(25, skill=0.9, ghosts=0.6)
    many = [
        [replace(one, id=f"{one.id}-{k}", group=one.id) for one in seen for k in range(6)]
        for seen in (champion, candidate)
    ]
    alone = [[replace(one, group=None) for one in seen] for seen in many]
    grouped, single = compare_detection(*many, CLASSES), compare_detection(*alone, CLASSES)
    assert grouped.p_value > single.p_value
    assert grouped.interval[1] - grouped.interval[0] > 2 * (single.interval[1] - single.interval[0])


def test_equals_are_seldom_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 pairs of detectors with the same skill; `benchmarks/detection_metrics.py` has more, on more images."""
    monkeypatch.setattr(compare, "RESAMPLES", 100)
    p_values, harmed = [], 0
    for seed in range(80):
        found = compare_detection(*pair(20, seed), CLASSES[:2], alpha=0.05)
        p_values.append(found.p_value)
        harmed += bool(found.vetoes)
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05 + 0.06
    assert harmed / 80 <= 0.05 + 0.06
    assert np.mean(np.array(p_values) <= 0.5) > 0.3


def test_bad_input_is_said() -> None:
    champion, candidate = pair(5)
    with pytest.raises(BadInput, match="same test images"):
        compare_detection(champion, candidate[1:], CLASSES)
    with pytest.raises(BadInput, match="same test images"):
        compare_detection(champion, [replace(one, truth=()) for one in candidate], CLASSES)
    with pytest.raises(BadInput, match=r"margin is 2"):
        compare_detection(champion, candidate, CLASSES, margin=2)
    with pytest.raises(BadInput, match="no true box"):
        compare_detection(champion, candidate, ["never"])

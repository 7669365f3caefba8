"""Each kind of error, what it costs, the confusion matrix, and the curves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from everlearn.evaluate.detection import Seen, detection, metrics
from everlearn.evaluate.detection.errors import KINDS, NONE, errors, judge
from everlearn.evaluate.detection.matching import matched
from everlearn.types import Box
from tests.evaluate.detection.made import CLASSES, images


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 20)
    monkeypatch.setattr(metrics, "FEWEST", 10)


CAT, DOG = Box("cat", 0.1, 0.1, 0.2, 0.2), Box("dog", 0.6, 0.6, 0.2, 0.2)


def one(truth: tuple[Box, ...], *found: Box, id: str = "a") -> Seen:
    return Seen(id, truth, tuple(replace(box, confidence=box.confidence or 0.9) for box in found), 100, 100)


def shifted(box: Box, by: float, label: str = "") -> Box:
    return replace(box, x=box.x + by, label=label or box.label)


@pytest.mark.parametrize(
    ("found", "kinds"),
    [
        ((CAT, DOG), {}),
        ((CAT,), {"missed": 1}),
        ((CAT, DOG, Box("dog", 0.1, 0.6, 0.1, 0.1)), {"ghost": 1}),
        ((CAT, DOG, shifted(CAT, 0.01)), {"duplicate": 1}),
        ((CAT, shifted(DOG, 0.1)), {"localisation": 1}),
        ((CAT, shifted(DOG, 0.0, "cat")), {"confusion": 1}),
        ((CAT, shifted(DOG, 0.1, "cat")), {"both": 1, "missed": 1}),
        ((CAT, DOG, shifted(DOG, 0.15, "cat")), {"both": 1}),
        ((CAT, DOG, shifted(DOG, 0.199)), {"ghost": 1}),
        ((shifted(CAT, 0.0, "dog"), shifted(DOG, 0.0, "cat")), {"confusion": 2}),
    ],
)
def test_each_kind(found: tuple[Box, ...], kinds: dict[str, int]) -> None:
    seen = [one((CAT, DOG), *found)]
    scores = detection(seen, ["cat", "dog"], confidence=0.5)
    assert {kind: n for kind, n in scores.errors.counts.items() if n} == kinds
    by_class = sum((Counter(c.counts) for c in scores.errors.classes), Counter())
    assert dict(+by_class) == kinds
    assert Counter(case.kind for case in scores.mistakes) == kinds
    matrix = np.array(scores.confusion.matrix)
    names = list(scores.confusion.classes)
    assert matrix[[names.index(c) for c in ("cat", "dog")]].sum() == 2  # each true box once
    assert matrix[:, [i for i, name in enumerate(names) if name]].sum() == len(found)  # each found box once


def test_cases_name_both_boxes() -> None:
    scores = detection([one((CAT, DOG), CAT, shifted(DOG, 0.1))], ["cat", "dog"], confidence=0.5)
    (case,) = scores.mistakes
    assert (case.id, case.kind, case.truth) == ("a", "localisation", DOG)
    assert case.found is not None and case.found.confidence == 0.9
    assert case.iou == pytest.approx(1 / 3)
    keys = [case.key for case in detection(images(1, 30), CLASSES).mistakes]
    assert len(keys) == len(set(keys)) > 20


def test_the_worst_come_first() -> None:
    scores = detection(images(1, 40), CLASSES, confidence=0.3)
    for kind in KINDS:
        own = [case for case in scores.mistakes if case.kind == kind]
        assert len(own) <= 12
        sure = [case.found.confidence or 0 for case in own if case.found]
        assert sure == sorted(sure, reverse=True)
        assert all(value >= 0.3 for value in sure)


def test_costs_are_what_mending_gains() -> None:
    """Against the boxes truly mended: ghosts removed, wrong classes put right."""
    seen = images(3, 40, skill=1.0)
    found = matched(seen, CLASSES)
    kinds = judge(found).kind
    cost = errors(found, np.zeros(len(CLASSES)))[0].cost
    now = metrics.average_precisions(seen, CLASSES)
    for kind in ("ghost", "duplicate", "both"):
        bad = {(int(found.found.image[f]), int(found.found.row[f])) for f in np.flatnonzero(kinds == KINDS.index(kind))}
        assert bad
        mended = [
            replace(one, found=tuple(box for row, box in enumerate(one.found) if (number, row) not in bad))
            for number, one in enumerate(seen)
        ]
        gain = np.mean(list(metrics.average_precisions(mended, CLASSES).values())) - np.mean(list(now.values()))
        assert cost[kind] == pytest.approx(gain)  # type: ignore[index]
    assert all(value is not None and value > -1e-9 for value in cost.values())
    plain = [one((CAT, DOG), CAT, shifted(DOG, 0.0, "cat"))]
    wrong = detection(plain, ["cat", "dog"], confidence=0.5)
    assert wrong.map50.value == pytest.approx(0.5)
    assert wrong.errors.cost["confusion"] == pytest.approx(0.5)
    drawn = detection([one((CAT, DOG), CAT, shifted(DOG, 0.1))], ["cat", "dog"], confidence=0.5)
    assert drawn.errors.cost["localisation"] == pytest.approx(0.5)
    missed = detection([one((CAT, CAT), CAT)], ["cat"], confidence=0.5)
    assert missed.errors.cost["missed"] == pytest.approx(1 - 51 / 101)


def test_right_boxes_have_no_kind() -> None:
    found = matched(images(5, 20), CLASSES)
    assert ((judge(found).kind == NONE) == found.hit[0]).all()


def test_curves() -> None:
    scores = detection(images(7, 60), CLASSES)
    mean, *single = scores.curves
    assert mean.name == "" and [curve.name for curve in single] == list(CLASSES)
    for curve, one_class in zip(single, scores.classes, strict=True):
        assert np.mean(curve.over_recall) == pytest.approx(one_class.ap50, abs=1e-4)
        assert list(curve.recall) == sorted(curve.recall, reverse=True)
    at = 0.3
    here = detection(images(7, 60), CLASSES, confidence=at)
    assert (mean.precision[30], mean.recall[30], mean.f1[30]) == pytest.approx(
        (here.precision.value, here.recall.value, here.f1.value), abs=1e-4
    )
    assert len(detection(images(7, 40, [f"c{i}" for i in range(25)]), [f"c{i}" for i in range(25)]).curves) == 1
    assert detection([Seen("a", (), (), 10, 10)], ["cat"]).curves == ()

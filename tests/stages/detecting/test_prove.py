"""Evaluation of detectors: reported mistakes, thresholds, what was kept; with a detector that needs no training."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from everlearn import registry, stages
from everlearn.catalog import answers, scenes
from everlearn.label import person
from everlearn.model.detecting.onnx import OnnxDetector
from everlearn.stages.detecting import kept, prove, taught
from everlearn.stages.detecting.answering import detector_of
from everlearn.stages.prove import test_side as held_out
from everlearn.types import Box, Scene
from tests.stages.detecting import made
from tests.stages.detecting.made import RED, Quiet

A, B = Box(RED, 0.1, 0.1, 0.3, 0.3), Box(RED, 0.5, 0.5, 0.3, 0.3)
NEAR = Box(RED, 0.11, 0.11, 0.3, 0.3, 0.9)


@pytest.mark.parametrize(
    ("found", "truth", "about", "parts", "right"),
    [
        ([NEAR], [A], (RED,), False, True),
        ([], [A], (RED,), False, False),
        ([NEAR, Box(RED, 0.7, 0.1, 0.1, 0.1, 0.9)], [A], (RED,), False, False),
        ([NEAR, NEAR], [A], (RED,), False, False),  # found twice
        ([NEAR, Box("cat", 0.7, 0.1, 0.1, 0.1, 0.9)], [A], (RED,), False, True),  # nobody looked for cats
        ([NEAR, Box("cat", 0.7, 0.1, 0.1, 0.1, 0.9)], [A], None, False, False),
        ([NEAR], [Box(f"{RED}/big", 0.1, 0.1, 0.3, 0.3)], (RED,), False, True),  # one that tells no kinds apart
        ([NEAR], [Box(f"{RED}/big", 0.1, 0.1, 0.3, 0.3)], (RED,), True, False),
        ([Box(RED, 0.2, 0.1, 0.3, 0.3, 0.9), NEAR], [A, Box(RED, 0.22, 0.1, 0.3, 0.3)], (RED,), False, True),
        ([], [], (RED,), False, True),
    ],
)
def test_a_reported_mistake_is_mended_where_the_same_is_told(
    found: list[Box], truth: list[Box], about: tuple[str, ...] | None, parts: bool, right: bool
) -> None:
    assert prove.same(found, Scene(tuple(truth), about), parts) is right


def test_a_detector_that_is_exact_is_so_at_its_thresholds(tmp_path: Path) -> None:
    """The box that a threshold was chosen at is told: 0.9 in single precision lies below 0.9."""
    here = made.workspace(tmp_path)
    made.filled(here)
    version = made.learned(here)
    done = stages.evaluate(here, version.name, Quiet())
    assert done.passed
    assert [done.values[name] for name in ("map50", "precision", "recall")] == [1, 1, 1]
    assert registry.card(here, version)["thresholds"][RED] < 0.9

    # a mistake that was reported counts once a person has drawn what is there
    id = held_out(here)[0].id
    detector = detector_of(here, version)
    with here.catalog.write() as tx:
        answers.report(tx, id, wrong="nothing", right=None, version=version.name)
    assert prove._cases(here, detector, Quiet()) == {}
    with here.catalog.read() as tx:
        own = scenes.of(tx, [id])[id]
    person.draw(here, id, own)
    assert prove._cases(here, detector, Quiet()) == {id: True}
    person.draw(here, id, Scene((*own.boxes, Box(RED, 0.01, 0.01, 0.02, 0.02)), own.about))
    assert prove._cases(here, detector, Quiet()) == {id: False}


def test_old_versions_answer_from_what_was_kept_and_are_forgotten_with_it(tmp_path: Path) -> None:
    here = made.workspace(tmp_path)
    made.filled(here)
    first = made.learned(here)
    registry.promote(here, first.name, force=True, reason="for a test")
    made.show(here, 60)
    second = made.learned(here)
    done = stages.evaluate(here, second.name, Quiet())
    assert done.values["forgetting"] == 0
    assert done.values["comparison"]["verdict"] != "worse"
    ids = [one.id for one in held_out(here)]
    assert set(kept.there(here, str(first.model_digest), ids)) == set(ids)
    kept.forget(here, ids[:1])
    assert set(kept.there(here, str(first.model_digest), ids)) == set(ids[1:])
    kept.drop(here, [str(first.model_digest)])
    assert kept.there(here, str(first.model_digest), ids) == {}
    kept.drop(here, [])
    here.private(kept.FILE).write_bytes(b"no database at all, but as long as one is said to be" * 40)
    assert kept.there(here, str(second.model_digest), ids) == {}
    for _ in range(2):  # a damaged one goes, and the next is whole
        kept.keep(here, str(second.model_digest), {ids[0]: ([], (64, 64))})
    assert kept.there(here, str(second.model_digest), ids) == {ids[0]: ([], (64, 64))}


def test_a_graph_that_means_something_else_is_another_detector(tmp_path: Path) -> None:
    """Else what was found under the old names would be taken for what the new one finds."""
    made.workspace(tmp_path)
    model = tmp_path / "teacher.onnx"
    before = taught.digest_of(OnnxDetector(model))
    assert taught.digest_of(OnnxDetector(model)) == before
    said = yaml.safe_load(model.with_suffix(".yaml").read_text())
    model.with_suffix(".yaml").write_text(yaml.safe_dump({**said, "licence": "MIT"}))
    assert taught.digest_of(OnnxDetector(model)) == before
    model.with_suffix(".yaml").write_text(yaml.safe_dump({**said, "classes": ["box"]}))
    assert taught.digest_of(OnnxDetector(model)) != before

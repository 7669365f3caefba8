"""What people say of a recorded answer that is boxes."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlearn import registry, stages
from everlearn.catalog import answers, samples, scenes
from everlearn.catalog.versions import Version
from everlearn.errors import BadInput
from everlearn.image import encode_png
from everlearn.workspace import Workspace
from tests import doorway
from tests.stages.detecting import made
from tests.stages.detecting.made import RED, Quiet


@pytest.fixture
def here(tmp_path: Path) -> Workspace:
    found = made.workspace(tmp_path)
    made.filled(found)
    return found


def answered(here: Workspace, seed: int) -> str:
    """The id of a recorded answer for a new image."""
    path = here.root.parent / f"{seed}.png"
    path.write_bytes(encode_png(doorway.snapshot(seed)[0]))
    (said,) = stages.predict(here, [path], None, Quiet(), record=True)
    return str(said["id"])


def scene_of(here: Workspace, id: str) -> scenes.Scene:
    with here.catalog.read() as tx:
        return scenes.of(tx, [id])[id]


def test_right_and_wrong(here: Workspace) -> None:
    version = made.learned(here)
    right, mistake = stages.feedback(here, answered(here, 80), right=True, label=None)
    assert not mistake
    told = scene_of(here, right)
    assert told.about == (RED,)
    (box,) = told.boxes
    assert scenes.overlap(box, doorway.snapshot(80)[1]) > 0.95

    id = answered(here, 81)
    with pytest.raises(BadInput, match="'cat' is a class, and this answer is boxes"):
        stages.feedback(here, id, right=False, label="cat")
    wrong, mistake = stages.feedback(here, id, right=False, label=None)
    assert mistake
    with here.catalog.read() as tx:
        one = samples.some(tx, [wrong])[wrong]
        (case,) = answers.cases(tx)
        shown = scenes.proposals(tx, [wrong])[wrong]
    assert (one.label, one.queued, one.queue_reason) == (None, True, "reported")  # a person is asked, with the boxes
    assert (case["sample_id"], case["right"], shown.by) == (wrong, None, version.name)
    assert [box.label for box in shown.boxes] == [RED]
    with here.catalog.write() as tx:
        scenes.clear(tx)
        assert scenes.words(tx, [case["wrong"]]) == {case["wrong"]: RED}


def test_of_a_version_that_is_gone_no_more_is_known_than_its_boxes(here: Workspace) -> None:
    version: Version = made.learned(here)
    id = answered(here, 82)
    with here.catalog.write() as tx:
        registry.retire(tx, version.name, "for a test")
    for key in list(here.store.keys(version.key.removesuffix(".onnx"))):
        here.store.remove(key)
    sample, _ = stages.feedback(here, id, right=True, label=None)
    assert scene_of(here, sample).about == (RED,)

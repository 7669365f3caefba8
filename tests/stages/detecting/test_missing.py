"""Missing labels: what the champion is sure of is filled in for a training, and stays out of the catalog."""

from __future__ import annotations

from pathlib import Path

from everlearn.catalog import scenes
from everlearn.dataset.build import build
from everlearn.stages.detecting import missing, sides
from everlearn.stages.detecting.learning import Base
from everlearn.types import Box
from tests.stages.detecting import made
from tests.stages.detecting.made import RED, Quiet

CAT = Box("cat", 0.02, 0.02, 0.1, 0.1)


def test_the_champion_fills_in_what_nobody_looked_for(tmp_path: Path) -> None:
    here = made.workspace(tmp_path)
    made.filled(here)
    version = made.learned(here)
    said = made.show(here, 30)
    silent = made.show(here, 31, boxes=[CAT], about=["cat"])
    given = [one for one in sides.of(here, build(here)).train if one.id in (said, silent)]

    plain = missing.filled(here, given, (RED, "cat"), None, Quiet())
    assert plain.count == 0
    assert plain.about == {said: {RED}, silent: {"cat"}}  # the rest is masked, it is not background

    found = missing.filled(here, given, (RED, "cat"), Base(version, {}), Quiet())
    assert found.count == 1
    assert found.about == {said: {RED}, silent: {RED, "cat"}}  # nobody knows cats yet
    assert [box.label for box in found.boxes[said]] == [RED]
    cat, red = found.boxes[silent]
    assert (cat.label, red.label, red.confidence) == ("cat", RED, None)
    truth = made._drawn(31)[1]
    assert scenes.overlap(truth, red) > 0.95
    with here.catalog.read() as tx:
        assert [box.label for box in scenes.of(tx, [silent])[silent].boxes] == ["cat"]


def test_classes_that_are_not_learned_are_left_out(tmp_path: Path) -> None:
    here = made.workspace(tmp_path)
    made.filled(here)
    id = made.show(here, 31, boxes=[CAT], about=["cat", "dog"])
    given = [one for one in sides.of(here, build(here)).train if one.id == id]
    found = missing.filled(here, given, (RED,), None, Quiet())
    assert (found.boxes, found.about) == ({id: []}, {id: frozenset()})

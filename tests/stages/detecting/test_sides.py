"""Sides of a detect workspace: what is learned, what an epoch is chosen by, and what an image is complete for."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlearn.dataset.build import build
from everlearn.errors import TooFew
from everlearn.stages import prove
from everlearn.stages.detecting import sides
from everlearn.types import Box
from tests.stages.detecting import made
from tests.stages.detecting.made import RED

CAT = Box("cat", 0.1, 0.1, 0.2, 0.2)


def test_each_image_is_on_one_side_and_second_parts_are_no_classes(tmp_path: Path) -> None:
    here = made.workspace(tmp_path)
    made.filled(here, 3, 2, 2)
    made.show(here, 50, label=f"{RED}/courier")
    made.show(here, 51, "test", boxes=[CAT], about=["cat"])
    found = sides.of(here, build(here))
    ids = [[one.id for one in side] for side in (found.train, found.validation, found.test)]
    assert [len(side) for side in ids] == [4, 2, 3]
    assert len({id for side in ids for id in side}) == 9
    assert found.classes == (RED,)  # what only the test side shows is not learned


def test_the_digest_is_of_what_a_detector_learns(tmp_path: Path) -> None:
    here = made.workspace(tmp_path)
    made.filled(here, 3, 2, 2)
    named = made.show(here, 50)
    before = sides.of(here, build(here))
    made.show(here, 60, "test")
    assert sides.of(here, build(here)).digest() == before.digest()
    _again(here, named, f"{RED}/courier")
    assert sides.of(here, build(here)).digest() == before.digest()
    made.show(here, 61)
    after = sides.of(here, build(here))
    assert after.digest() != before.digest()
    assert sides.digest_of(reversed(after.learned)) == after.digest()


def _again(here: made.Workspace, id: str, label: str) -> None:
    from everlearn.catalog import scenes
    from everlearn.label import person
    from everlearn.types import Scene

    with here.catalog.read() as tx:
        scene = scenes.of(tx, [id])[id]
    person.draw(here, id, Scene(tuple(Box(label, b.x, b.y, b.width, b.height) for b in scene.boxes), scene.about))


def test_the_first_fold_stands_in_for_a_validation_side(tmp_path: Path) -> None:
    here = made.workspace(tmp_path)
    made.filled(here, 30, 0, 2)
    found = sides.of(here, build(here))
    assert {one.member.fold for one in found.validation} == {0}
    assert 0 not in {one.member.fold for one in found.train}
    assert len(found.train) + len(found.validation) == 30
    made.show(here, 70, "validation")
    assert len(sides.of(here, build(here)).train) == 30


def test_too_little_says_what_to_do(tmp_path: Path) -> None:
    here = made.workspace(tmp_path)
    made.show(here, 0, "validation")
    with pytest.raises(TooFew, match="0 of 1 labelled images to train on, 1 to choose"):
        sides.of(here, build(here))
    other = made.workspace(tmp_path / "other")
    for seed, side in enumerate(["train", "validation"]):
        made.show(other, seed, side, boxes=[])
    with pytest.raises(TooFew, match="no box on 2 labelled images"):
        sides.of(other, build(other))


def test_what_nobody_said_follows_from_the_source_whoever_is_asked_beside(tmp_path: Path) -> None:
    here = made.workspace(tmp_path)
    made.filled(here, 2, 1, 0)
    made.show(here, 10, "train", boxes=[CAT], about=None, source="silent")
    alone = made.show(here, 11, "test", about=None, source="silent")
    other = made.show(here, 12, "test", about=None, source="another")
    said = made.show(here, 13, "test", about=[RED, "dog"], source="silent")
    every = sides.of(here, build(here))
    whole = {one.id: one.about for one in (*every.learned, *every.test)}
    assert whole[alone] == {RED, "cat"}
    assert whole[other] == {RED}
    assert whole[said] == {RED, "dog"}
    _, test = prove.sides(here)
    assert {one.id: one.about for one in sides.labelled(here, test)} == {id: whole[id] for id in (alone, other, said)}
    assert [one.about for one in sides.labelled(here, [one for one in test if one.id == alone])] == [{RED, "cat"}]

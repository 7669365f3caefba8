"""Sides and folds are a hash of the sample's own group; a snapshot holds what is labelled now, and suspects are judged
on what does not depend on what was held before."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.catalog import labels, samples
from everlearn.config import Dataset
from everlearn.dataset.build import SUSPECT, build, current, fold_of, side_of
from everlearn.errors import BadInput
from everlearn.image import encode_png
from everlearn.workspace import Workspace
from tests.make import START, add_image, make_workspace, picture

SIDES = {"r": "train", "t": "test", "v": "validation"}
KNOWN_SIDES = [SIDES[side] for side in "rrtvrrrvrrrr"]
KNOWN_FOLDS = [3, 0, 4, 1, 4, 1, 4, 2, 3, 2, 2, 0]


@given(st.text(), st.sampled_from(["a", "b"]))
def test_a_larger_test_side_takes_from_the_others_alone(group: str, split: str) -> None:
    """Who is on the test side stays there as its share grows."""
    smaller = side_of(group, Dataset(split=split, test=0.1, validation=0.1))
    larger = side_of(group, Dataset(split=split, test=0.3, validation=0.1))
    assert smaller != "test" or larger == "test"


def test_sides_and_folds_have_their_shares() -> None:
    sides = [side_of(f"group {n}", Dataset(test=0.2, validation=0.1)) for n in range(10_000)]
    assert sides.count("test") == pytest.approx(2000, abs=150)
    assert sides.count("validation") == pytest.approx(1000, abs=120)
    folds = [fold_of(f"group {n}", 5) for n in range(10_000) if sides[n] == "train"]
    for fold in range(5):
        assert folds.count(fold) == pytest.approx(len(folds) / 5, rel=0.1), "folds do not follow sides"


def test_known_sides() -> None:
    """They must never change: samples would change sides in workspaces that exist."""
    assert [side_of(f"group {n}", Dataset()) for n in range(12)] == KNOWN_SIDES
    assert [fold_of(f"group {n}", 5) for n in range(12)] == KNOWN_FOLDS


def test_nothing_changes_sides_as_data_grows(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, 4)
    with workspace.catalog.read() as tx:
        before = {one.id: (one.split, one.fold) for one in current(tx, workspace.config)}
    for n in range(100, 110):
        add_image(workspace, encode_png(picture(n)), "c")
    with workspace.catalog.read() as tx:
        after = {one.id: (one.split, one.fold) for one in current(tx, workspace.config)}
    assert len(after) == len(before) + 10
    assert {id: after[id] for id in before} == before


def test_one_group_stands_together(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, 2)
    for n in range(100, 120):
        add_image(workspace, encode_png(picture(n)), "a", group_key="visit", captured_at=START + timedelta(hours=n))
    with workspace.catalog.read() as tx:
        together = [one for one in current(tx, workspace.config) if samples.get(tx, one.id).group_key == "visit"]
    assert len({(one.split, one.fold) for one in together}) == 1
    assert len(together) == 20


def test_nothing_labelled_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No sample is labelled"):
        build(make_workspace(tmp_path, 0))


def test_the_same_data_is_the_same_snapshot(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, 3)
    first = build(workspace)
    assert build(workspace) == first
    (id, *_) = _ids(workspace)
    with workspace.catalog.write() as tx:
        labels.say(tx, [labels.Said(id, "other", "person")])
    second = build(workspace)
    assert second.digest != first.digest
    with workspace.catalog.write() as tx:
        labels.undo(tx, id)
    assert build(workspace).digest == first.digest


def _ids(workspace: Workspace) -> list[str]:
    with workspace.catalog.read() as tx:
        return [one.id for one in current(tx, workspace.config)]


def _add_copy(workspace: Workspace, parent: str, label: str = "a") -> str:
    """A copy of a parent that stands on the training side, as `augment` writes it."""
    return add_image(workspace, encode_png(picture(500)), label, parent_id=parent).id


def _on(workspace: Workspace, side: str, label: str = "a") -> str:
    with workspace.catalog.read() as tx:
        return next(o.id for o in current(tx, workspace.config) if (o.split, o.label) == (side, label))


def test_a_copy_stands_and_falls_with_its_parent(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, 20)
    parent = _on(workspace, "train")
    copy = _add_copy(workspace, parent)
    assert copy in _ids(workspace)
    with workspace.catalog.write() as tx:
        labels.say(tx, [labels.Said(parent, "b", "person")])
    assert copy not in _ids(workspace), "its label is no longer its parent's"


def test_a_copy_of_a_test_image_is_left_out(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, 20)
    assert _add_copy(workspace, _on(workspace, "test")) not in _ids(workspace)


def test_suspects_are_judged_on_originals_and_on_those_that_are_held(tmp_path: Path) -> None:
    """Copies are left out: which there are depends on what was held when. So is what is set aside."""
    workspace = make_workspace(tmp_path, 20)
    everything = _ids(workspace)
    copy = _add_copy(workspace, _on(workspace, "train"))
    held, aside = everything[0], everything[1]
    with workspace.catalog.write() as tx:
        for id, refusal in ((held, None), (aside, "near_duplicate")):
            samples.change(
                tx, [{"id": id, "queued": True, "queue_reason": SUSPECT, "suspect": "b", "refusal": refusal}]
            )
        samples.restate(tx, [held, aside])
    with workspace.catalog.read() as tx:
        judged = [one.id for one in current(tx, workspace.config, suspects=True)]
    assert judged == sorted(set(everything) - {aside})
    assert copy not in judged
    assert held not in _ids(workspace)

"""What a detector's training goes on from, what it learns, and by which it is known again. Nothing is trained here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from everlearn import registry
from everlearn.catalog import runs, turns
from everlearn.config import check
from everlearn.dataset.build import build
from everlearn.errors import BadConfig, BadInput, Missing
from everlearn.model.detecting.training import DetectionJob
from everlearn.stages.detecting import learning, sides, taught, training
from everlearn.stages.saved import folder_of
from everlearn.workspace import Workspace
from tests.stages.detecting import made
from tests.stages.detecting.made import Quiet

pytest.importorskip("ultralytics", reason="training YOLO needs ultralytics")


def changed(here: Workspace, **settings: Any) -> Workspace:
    """The same workspace by other settings: sections are given whole."""
    said = here.config.model_dump(by_alias=True) | settings
    here.config = check(said, here.root / "everlearn.yaml")
    return here


@pytest.fixture
def here(tmp_path: Path) -> Workspace:
    found = made.workspace(tmp_path, "yolo")
    made.filled(found, 6, 2, 2)
    return found


def divided(here: Workspace) -> sides.Sides:
    return sides.of(here, build(here))


def test_it_goes_on_from_the_champion_with_what_is_new_and_some_of_the_old(here: Workspace) -> None:
    assert learning.base_of(here, divided(here), Quiet()) is None
    made.registered(here)
    registry.promote(here, "v1.0", force=True, reason="for a test")
    made.registered(here, "v1.1")
    new = {made.show(here, 20), made.show(here, 21)}
    found = divided(here)
    base = learning.base_of(here, found, Quiet())
    assert base is not None and base.version.name == "v1.0"
    given = learning.lesson(here, found, base)
    assert {one.id for one in given.new} == new
    assert len(given.again) == 6
    assert {one.id for one in given.validation}.isdisjoint({one.id for one in given.train} | set(new))
    assert (learning.moved(base, found).added, learning.moved(base, found).removed) == (2, 0)
    tight = changed(here, learn={**here.config.learn.model_dump(), "replay_bytes": given.again[0].bytes * 2})
    few = learning.lesson(tight, found, base)
    assert 1 <= len(few.again) < 6
    assert sum(one.bytes for one in few.again) <= tight.config.learn.replay_bytes


def test_where_only_a_memory_moved_the_old_is_what_the_training_had(here: Workspace) -> None:
    """A version that was taught crops has a newer snapshot than its detector."""
    first = build(here)
    with here.catalog.write() as tx:
        run = runs.begin(tx, "train", snapshot=first.number, config={})
    new = made.show(here, 20)
    made.registered(here, metrics={"run": run})
    base = learning.base_of(here, divided(here), Quiet())
    assert base is not None and new not in base.held
    assert [one.id for one in learning.lesson(here, divided(here), base).new] == [new]


@pytest.mark.parametrize("why", ["learner", "size", "weights", "forgetting", "retired"])
def test_it_begins_from_nothing_where_weights_cannot_be_gone_on_from(here: Workspace, why: str) -> None:
    version = made.registered(here)
    assert learning.base_of(here, divided(here), Quiet()) is not None
    if why == "learner":
        changed(here, learn={**here.config.learn.model_dump(), "learner": "yolo:yolo11s.yaml"})
    elif why == "size":
        changed(here, detect={"size": 64})
    elif why == "weights":
        here.store.remove(version.key.removesuffix(".onnx") + "/weights.pt")
    with here.catalog.write() as tx:
        if why == "forgetting":
            turns.set_to(tx, turns.FORGETTING, ["v1.0"])
        elif why == "retired":
            registry.retire(tx, "v1.0", "for a test")
    assert learning.base_of(here, divided(here), Quiet()) is None
    if why in ("weights", "forgetting", "retired"):
        with pytest.raises(BadInput, match="no weights to go on from"):
            training.train(here, Quiet(), begin="v1.0")


def test_weights_that_know_what_is_held_out_now_are_not_gone_on_from(here: Workspace) -> None:
    made.registered(here)
    changed(here, dataset={"validation": 0.3, "test": 0.4})
    moved = {one.id for one in (*divided(here).validation, *divided(here).test)}
    said = Quiet()
    assert learning.base_of(here, divided(here), said) is None
    assert "held out now" in said.said[-1]
    with pytest.raises(BadInput, match="held out now"):
        training.train(here, Quiet(), begin="v1.0")
    assert moved


def test_a_training_is_known_by_what_decides_it(here: Workspace, tmp_path: Path) -> None:
    def mark(changes: dict[str, Any] | None = None) -> str:
        return learning._fingerprint(here, learning.lesson(here, divided(here), None), changes or {})

    before = mark()
    changed(here, detect={"trust": 0.7, "audit": 0.3, "frames": 1.0, "noise": 0.1, "teachers": ["onnx:x.onnx"]})
    assert mark() == before
    assert mark({"epochs": 3}) != before
    changed(here, detect={"epochs": 3})
    assert mark() != before
    weights = here.root / "own.pt"
    weights.write_bytes(b"one")
    changed(here, learn={**here.config.learn.model_dump(), "learner": "yolo:own.pt"})
    one = mark()
    weights.write_bytes(b"another")
    assert mark() != one


def test_of_several_trainings_of_one_lesson_the_newest_goes_on(here: Workspace) -> None:
    with here.catalog.write() as tx:
        names = [runs.begin(tx, "train", config={"fingerprint": mark}) for mark in ("same", "same", "same", "other")]
    assert learning._to_go_on(here, "same") is None  # nothing of them is left
    for name in (names[0], names[1], names[3]):
        (folder_of(here, name) / learning.OUT).mkdir(parents=True)
    assert learning._to_go_on(here, "same") == names[1]


def test_settings_of_labels_do_not_train_a_detector_again(here: Workspace) -> None:
    version = made.registered(here, metrics={"scenes": divided(here).digest()})
    assert taught.same_detector(here, version, divided(here).digest())
    changed(here, detect={"trust": 0.7, "wanted": ["parcel"], "noise": 0.1, "frames": 0})
    assert taught.same_detector(here, version, divided(here).digest())
    changed(here, detect={"epochs": 7})
    assert not taught.same_detector(here, version, divided(here).digest())
    quick = made.registered(here, "v1.1", config={**version.config, "changes": {"epochs": 1}})
    assert not taught.same_settings(changed(here, detect={}), quick)


def test_what_no_training_can_be_told_is_said_before_a_run_begins(here: Workspace) -> None:
    with pytest.raises(BadConfig, match="lrr0 is no setting of Ultralytics"):
        training.train(here, Quiet(), changes=training.assigned(["lrr0=1"]))
    for unread in ("mosaic=[", "lr0", "lr0=", "=3"):
        with pytest.raises(BadConfig, match="has no value that can be read"):
            training.assigned([unread])
    for field, value in (("lr0", "fast"), ("lr0", True), ("distil", "much"), ("epochs", 0)):
        with pytest.raises(BadConfig, match=f"{field} is "):
            DetectionJob("yolo11n.yaml", ("parcel",), data="data.yaml", folder="out", **{field: value})
    with pytest.raises(Missing, match=r"no other\.pt"):
        training.train(here, Quiet(), changes={"spec": "other.pt"})
    with pytest.raises(Missing, match="no architecture yolo99n"):
        training.train(here, Quiet(), changes={"spec": "yolo99n.yaml"})
    changed(here, learn={**here.config.learn.model_dump(), "learner": "onnx:a.onnx"})
    with pytest.raises(BadInput, match="used as it is"):
        training.train(here, Quiet())
    with here.catalog.read() as tx:
        assert not runs.every(tx)

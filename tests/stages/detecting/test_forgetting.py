"""Forgetting where boxes are learned: a detector is trained from nothing, and nothing that knew an image stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from everlearn import erasure, faults, registry
from everlearn.catalog import labels, runs, samples, scenes, snapshots, turns, versions
from everlearn.dataset.build import build
from everlearn.model.detecting.bundle import export_detector
from everlearn.model.detecting.outputs import Outputs
from everlearn.stages.detecting import certifying, kept, proposing
from everlearn.track import PLOTS
from everlearn.types import Scene
from everlearn.workspace import CHECKPOINTS, Workspace
from tests import doorway
from tests.stages.detecting import made
from tests.stages.detecting.made import Quiet


def forgotten(here: Workspace, *ids: str) -> erasure.Forgotten:
    return erasure.forget(here, erasure.Selection(samples=ids), Quiet())


def alive(here: Workspace) -> list[str]:
    with here.catalog.read() as tx:
        return [one.name for one in versions.every(tx) if not one.retired]


def spread(root: Path, id: str) -> list[Path]:
    """Files whose name or content has this id."""
    return [
        path for path in root.rglob("*")
        if id in path.name or (path.is_file() and id.encode() in path.read_bytes())
    ]  # fmt: skip


def test_a_detector_is_trained_again_from_nothing_and_can_be_once_more(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics", reason="training YOLO needs ultralytics")
    here = made.workspace(
        tmp_path, "yolo", detect={"size": 64, "epochs": 1, "batch": 8},
        gates={"map50": 0.0, "precision": None, "recall": None, "f1": None},
    )  # fmt: skip
    ids = made.filled(here, 4, 2, 1)
    before = build(here)
    with here.catalog.write() as tx:
        name = runs.begin(tx, "train", snapshot=before.number, config={})
        run = runs.get(tx, name)
    graph = export_detector(doorway.teacher(tmp_path / "red.onnx").read_bytes(), Outputs.read(tmp_path / "red.yaml"))
    made.registered(here, graph=graph, metrics={"run": name})
    registry.promote(here, "v1.0", force=True, reason="for a test")
    folder = here.root / CHECKPOINTS / run.name
    drawn = [folder / "detector/train_batch0.jpg", here.root / PLOTS / run.name / "results.png"]
    for path in drawn:  # as with track.plots
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"the images of a batch")

    done = forgotten(here, ids[0])
    assert alive(here) == ["v1.1"]
    with here.catalog.read() as tx:
        (again,) = [one for one in runs.every(tx, kind="train") if one.name != run.name]
        assert versions.champion(tx).name == "v1.1"  # type: ignore[union-attr]
        assert turns.setting_of(tx, turns.FORGETTING) == []
    assert again.config["from"] is None  # not from weights that knew it
    assert not folder.exists()
    assert not any(path.exists() for path in drawn)
    assert spread(here.root, ids[0]) == []
    found = erasure.verify(here, done.certificate, Quiet(), from_images=True)
    assert found.verified, found.to_json()
    assert {"detector", "again"} <= {name for name, _, _ in found.checks}
    with here.catalog.read() as tx:
        left = {one.name for one in runs.every(tx)}
    assert {one.name for one in (here.root / CHECKPOINTS).iterdir()} <= left - {run.name}

    # another file in its place is found; what was not trained from nothing is not trained once more
    made.registered(here, "v1.2")
    assert [(name, passed) for name, passed, _ in certifying.checks(here, True, Quiet())] == [("detector", False)]


def test_what_remains_can_teach_no_detector(tmp_path: Path) -> None:
    """The forgetting comes to its end all the same."""
    here = made.workspace(tmp_path)
    only = made.show(here, 0)
    made.show(here, 1, boxes=[])
    made.show(here, 2, "validation", boxes=[])
    made.show(here, 3, "test", boxes=[])
    version = made.learned(here)
    registry.promote(here, version.name, force=True, reason="for a test")
    done = forgotten(here, only)
    assert any(note.startswith("there is no model any more: There is no box on 2") for note in done.notes)
    assert alive(here) == []
    assert erasure.resume(here, Quiet()) is None
    assert erasure.verify(here, done.certificate, Quiet()).verified


def test_nothing_that_a_model_said_stays_which_knew_it(tmp_path: Path) -> None:
    here = made.workspace(tmp_path)
    ids = made.filled(here)
    version = made.learned(here)
    labelled, proposed = made.show(here, 20, None), made.show(here, 21, None)
    other = made.show(here, 22, None)
    with here.catalog.read() as tx:
        own = scenes.of(tx, [ids[1]])[ids[1]]
    with here.catalog.write() as tx:
        (name,) = scenes.keep(tx, [Scene(own.boxes, own.about)])
        together = f"onnx:a.onnx + {version.name}, proved"  # the newer version of two is the one on record
        labels.say(tx, [labels.Said(labelled, name, "auto", together, 0.9, "v9.0")])
        labels.say(tx, [labels.Said(other, name, "auto", f"{version.name}1, proved", 0.9, "v9.0")])
        for id, by in ((proposed, f"{version.name} + v9.0"), (other, "v9.0")):
            scenes.propose(tx, {id: scenes.Proposal(own.boxes, by)})
    digest = str(version.model_digest)
    for key in (digest, proposing.kept_as(digest)):
        kept.keep(here, key, {proposed: ([], (64, 64))})
    kept.keep(here, "another", {proposed: ([], (64, 64)), ids[0]: ([], (64, 64))})
    forgotten(here, ids[0])
    with here.catalog.read() as tx:
        assert samples.some(tx, [labelled])[labelled].label is None
        assert samples.some(tx, [other])[other].label == name
        assert set(scenes.proposals(tx, [proposed, other])) == {other}
    assert kept.there(here, proposing.kept_as(digest), [proposed]) == {}
    assert set(kept.there(here, "another", [proposed, ids[0]])) == {proposed}


def test_a_version_whose_base_knew_it_is_not_taken_for_the_new_one(tmp_path: Path) -> None:
    """Its own snapshot does not hold the image, and nothing else has changed."""
    here = made.workspace(tmp_path)
    ids = made.filled(here)
    first = made.learned(here)
    with here.catalog.write() as tx:
        samples.change(tx, [{"id": ids[0], "refusal": "blurred"}])
        samples.restate(tx, [ids[0]])
    second = made.learned(here)
    with here.catalog.write() as tx:
        held = [one.id for one in snapshots.members(tx, int(second.snapshot or 0))]
        run = runs.begin(tx, "train", snapshot=second.snapshot, config={"from": first.name})
        versions.change(tx, second.name, metrics={**(second.metrics or {}), "run": run})  # killed before it was noted
    assert ids[0] not in held
    done = forgotten(here, ids[0])
    assert alive(here) == ["v1.2"]
    assert json.loads(done.certificate.read_text())["retired"] == [first.name, second.name]


def test_what_others_learn_while_a_forgetting_waits_goes_too(tmp_path: Path) -> None:
    here = made.workspace(tmp_path)
    ids = made.filled(here)
    made.learned(here)

    class Killed(BaseException):
        pass

    def stop(name: str) -> None:
        if name == "forget.journal":
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faults, "point", stop)
        with pytest.raises(Killed):
            forgotten(here, ids[0])
    made.show(here, 50)
    late = made.learned(here)
    assert erasure.resume(here, Quiet()) is not None
    assert late.name not in alive(here)
    assert len(alive(here)) == 1
    with here.catalog.read() as tx:
        assert not samples.some(tx, [ids[0]])
        assert versions.newest(tx).name == alive(here)[0]  # type: ignore[union-attr]

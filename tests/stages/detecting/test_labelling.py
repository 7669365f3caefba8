"""Automatic labels for detection: what is proposed, what is proved, what people are asked, and that a killed run is
finished by the next one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from everlearn import faults, stages
from everlearn.catalog import labels, leases, samples, scenes, snapshots, turns, versions
from everlearn.catalog.samples import Sample
from everlearn.catalog.scenes import overlap
from everlearn.catalog.tables import now
from everlearn.config import Config
from everlearn.errors import BadInput
from everlearn.image import encode_png
from everlearn.label import person
from everlearn.label.boxes import MATCHED, trust
from everlearn.label.thresholds import audited, draw
from everlearn.model.detecting import detector as detectors
from everlearn.stages.detecting import proposing, reviewed
from everlearn.stages.detecting.labelling import PROOF
from everlearn.turn import Turn
from everlearn.types import Box, Member, Scene
from everlearn.workspace import Workspace
from tests.make import Quiet, add_image
from tests.model.detecting.graphs import COCO
from tests.scenes import scene

START = datetime(2025, 7, 4, 12)
CLASSES = ("circle", "square")


def _mark(image: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


class Known:
    """A detector of known opinions: what it says of an image was written down beforehand."""

    spec, licence, size, classes = "known:opinions", "none", 48, CLASSES

    def __init__(self, opinions: dict[str, list[Box]]) -> None:
        self.opinions, self.looked = opinions, 0

    def detect(
        self, images: Sequence[np.ndarray], *, least: float = 0.001, overlap: float = 0.7
    ) -> list[list[Box]]:  # fmt: skip
        self.looked += len(images)
        return [self.opinions[_mark(image)] for image in images]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Known:
    made = Known({})
    monkeypatch.setitem(detectors.DETECTORS, "known", lambda name, base: made)
    monkeypatch.setattr(proposing, "DETECTORS", detectors.DETECTORS)
    return made


def make(tmp_path: Path, **detect: object) -> Workspace:
    (tmp_path / "opinions").write_text("1")
    settings = {"teachers": [f"known:{tmp_path / 'opinions'}"], "audit": 0.0, **detect}
    return Workspace.create(tmp_path / "workspace", Config.model_validate({"task": "detect", "detect": settings}))


def show(
    workspace: Workspace, known: Known, seed: int, *, says: Sequence[Box] | None = None, labelled: bool = False,
    right: float = 1.0, camera: str = "door", group: str | None = None, seconds: float | None = None,
    classes: Sequence[str] = CLASSES,
) -> Sample:  # fmt: skip
    """One image. says: what the detector says of it; else its own boxes, with errors where it is not sure: its trust is
    above a half where it is right, and below where it is not."""
    image, boxes = scene(seed, classes, 48, most=2)
    rng = np.random.default_rng(seed)
    said = []
    for box in boxes:
        if rng.random() < right:
            said.append(replace(box, confidence=float(rng.uniform(0.5, 0.99))))
        else:
            said.append(replace(box, width=box.width / 3, confidence=float(rng.uniform(0.25, 0.6))))
    known.opinions[_mark(image)] = sorted(said if says is None else says, key=lambda box: -trust(box))
    at = START + (timedelta(hours=seed) if seconds is None else timedelta(seconds=seconds))
    one = add_image(workspace, encode_png(image), None, camera=camera, captured_at=at,
                    **({"group_key": group} if group else {}))  # fmt: skip
    if labelled:
        with workspace.catalog.write() as tx:
            (name,) = scenes.keep(tx, [Scene(boxes, CLASSES)])
            labels.say(tx, [labels.Said(one.id, name, "yolo")])
    return one


def rows(workspace: Workspace) -> dict[str, Sample]:
    with workspace.catalog.read() as tx:
        return {one.id: one for batch in samples.batches(tx) for one in batch}


def truth(seed: int, classes: Sequence[str] = CLASSES) -> tuple[Box, ...]:
    return scene(seed, classes, 48, most=2)[1]


def set_to(workspace: Workspace, **detect: object) -> None:
    config = workspace.config
    workspace.config = config.model_copy(update={"detect": config.detect.model_copy(update=detect)})


# --- without a proof ------------------------------------------------------------------------------------------------


def test_without_a_model_everything_waits(tmp_path: Path, known: Known) -> None:
    workspace = make(tmp_path, teachers=[])
    one = show(workspace, known, 1)
    done = stages.label(workspace, Quiet())
    assert (done.labelled, done.queued, done.share, done.proof) == (0, 1, 1.0, None)
    assert rows(workspace)[one.id].queue_reason == "no_model"


def test_with_neither_trust_nor_proof_all_waits_with_its_proposals(tmp_path: Path, known: Known) -> None:
    workspace = make(tmp_path)
    ids = [show(workspace, known, seed).id for seed in range(4)]
    empty = show(workspace, known, 9, says=[]).id
    told = Quiet()
    done = stages.label(workspace, told)
    assert (done.labelled, done.queued, done.share) == (0, 5, 1.0)
    assert any("at least 59 boxes of a class" in line for line in told.said)
    with workspace.catalog.read() as tx:
        drawn = scenes.proposals(tx, [*ids, empty])
    for seed, id in enumerate(ids):
        assert len(drawn[id].boxes) == len(truth(seed))
        assert drawn[id].by == "known:opinions"
    assert drawn[empty].boxes == ()
    assert rows(workspace)[empty].queue_reason == "unproved"
    assert {rows(workspace)[id].queue_reason for id in ids} == {"unsure"}
    queue = [one.id for one in person.waiting(workspace, 9)]
    assert queue[-1] == empty, "what teaches least comes last"


def test_a_declared_trust_labels_and_says_so(tmp_path: Path, known: Known) -> None:
    workspace = make(tmp_path, trust=0.6)
    sure = show(workspace, known, 1, says=[replace(one, confidence=0.8) for one in truth(1)])
    unsure = show(workspace, known, 2, says=[replace(one, confidence=0.5) for one in truth(2)])
    noise = show(workspace, known, 3, says=[replace(one, confidence=0.1) for one in truth(3)])
    told = Quiet()
    done = stages.label(workspace, told)
    assert (done.labelled, done.queued, done.share) == (2, 1, pytest.approx(1 / 3))
    assert any("unproved" in line and "circle (0 of 59)" in line for line in told.said)
    with workspace.catalog.read() as tx:
        (event,) = labels.history(tx, sure.id)
        found = scenes.of(tx, [sure.id, noise.id])
    assert (event["by"], event["who"], event["version"]) == ("auto", "known:opinions, trusted from 0.6", None)
    assert event["confidence"] == pytest.approx(0.8)
    assert found[sure.id].about == CLASSES
    assert [box.label for box in found[sure.id].boxes] == sorted(box.label for box in truth(1))
    assert found[noise.id] == Scene((), CLASSES)
    assert rows(workspace)[unsure.id].status == "queued"


def test_only_classes_that_are_wanted_are_taken(tmp_path: Path, known: Known) -> None:
    workspace = make(tmp_path, trust=0.3, wanted=["circle"])
    one = show(
        workspace, known, 1, says=[Box("square", 0.1, 0.1, 0.2, 0.2, 0.9), Box("circle", 0.5, 0.5, 0.2, 0.2, 0.9)]
    )
    stages.label(workspace, Quiet())
    with workspace.catalog.read() as tx:
        found = scenes.of(tx, [one.id])[one.id]
    assert ([box.label for box in found.boxes], found.about) == (["circle"], ("circle",))


def test_the_second_run_does_nothing_and_looks_at_nothing(tmp_path: Path, known: Known) -> None:
    workspace = make(tmp_path, trust=0.6)
    for seed in range(5):
        show(workspace, known, seed, right=0.5)
    first = stages.label(workspace, Quiet())
    before, looked = rows(workspace), known.looked
    with workspace.catalog.read() as tx:
        drawn = scenes.proposals(tx, list(before))
    again = stages.label(workspace, Quiet())
    assert (again.labelled, again.queued, again.share) == (0, first.queued, None)
    assert (rows(workspace), known.looked) == (before, looked)
    with workspace.catalog.read() as tx:
        assert scenes.proposals(tx, list(before)) == drawn


def test_another_model_proposes_anew(tmp_path: Path, known: Known) -> None:
    workspace = make(tmp_path)
    one = show(workspace, known, 1)
    stages.label(workspace, Quiet())
    (tmp_path / "opinions").write_text("2")
    better = [replace(box, confidence=0.42) for box in truth(1)]
    known.opinions = dict.fromkeys(known.opinions, better)
    stages.label(workspace, Quiet())
    with workspace.catalog.read() as tx:
        assert {box.confidence for box in scenes.proposals(tx, [one.id])[one.id].boxes} == {0.42}


@pytest.mark.parametrize("point", ["detections.kept", "label.committed"])
def test_a_killed_run_is_finished_by_the_next(
    tmp_path: Path, known: Known, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    class Killed(BaseException):
        pass

    def die(name: str) -> None:
        if name == point:
            raise Killed

    monkeypatch.setattr("everlearn.stages.detecting.labelling.BATCH", 3)
    workspace = make(tmp_path, trust=0.6)
    for seed in range(8):
        show(workspace, known, seed, right=0.7)
    with monkeypatch.context() as patch:
        patch.setattr(faults, "point", die)
        with pytest.raises(Killed):
            stages.label(workspace, Quiet())
    stages.label(workspace, Quiet())
    assert known.looked == 8, "nothing is looked at twice"
    killed = {one.id: (one.status, one.label, one.urgency, one.queue_reason) for one in rows(workspace).values()}
    (tmp_path / "other").mkdir()
    whole = make(tmp_path / "other", trust=0.6)
    for seed in range(8):
        show(whole, known, seed, right=0.7)
    stages.label(whole, Quiet())
    assert {one.id: (one.status, one.label, one.urgency, one.queue_reason) for one in rows(whole).values()} == killed


def test_what_people_look_at_or_have_put_back_is_theirs(tmp_path: Path, known: Known) -> None:
    workspace = make(tmp_path)
    looked, back = show(workspace, known, 1), show(workspace, known, 2)
    stages.label(workspace, Quiet())
    person.draw(workspace, back.id, Scene(truth(2), CLASSES), "kim")
    person.ask_again(workspace, back.id, "kim")
    with workspace.catalog.write() as tx:
        assert leases.claim(tx, looked.id, "kim")
    set_to(workspace, trust=0.3)
    stages.label(workspace, Quiet())
    assert {rows(workspace)[one.id].status for one in (looked, back)} == {"queued"}
    with workspace.catalog.write() as tx:
        leases.give_back(tx, "kim", [looked.id])
    stages.label(workspace, Quiet())
    assert rows(workspace)[looked.id].status == "labelled"
    assert rows(workspace)[back.id].status == "queued"


def test_a_thing_that_both_neighbours_show_is_asked_about(tmp_path: Path, known: Known) -> None:
    workspace = make(tmp_path, trust=0.6)
    (box, *_) = [replace(one, confidence=0.9) for one in truth(1)]
    frames = [show(workspace, known, seed, says=[] if seed == 2 else [box], seconds=seed) for seed in (1, 2, 3)]
    alone = show(workspace, known, 5, says=[], seconds=60)
    stages.label(workspace, Quiet())
    found = rows(workspace)
    assert [found[one.id].status for one in (*frames, alone)] == ["labelled", "queued", "labelled", "labelled"]
    with workspace.catalog.read() as tx:
        (drawn,) = scenes.proposals(tx, [frames[1].id])[frames[1].id].boxes
    assert overlap(drawn, box) > 0.99


def test_a_teacher_that_is_not_there_is_named(tmp_path: Path, known: Known) -> None:
    workspace = make(tmp_path, teachers=["nothing:x"])
    show(workspace, known, 1)
    with pytest.raises(Exception, match="nothing:x"):
        stages.label(workspace, Quiet())
    set_to(workspace, teachers=[f"onnx:{tmp_path / 'opinions'}"])
    with pytest.raises(BadInput, match="opinions"):
        stages.label(workspace, Quiet())


def test_the_share_for_people_is_told_turn_by_turn(tmp_path: Path, known: Known) -> None:
    workspace = make(tmp_path, trust=0.6)
    for seed, confidence in enumerate((0.9, 0.5, 0.9, 0.9)):
        show(workspace, known, seed, says=[replace(one, confidence=confidence) for one in truth(seed)])
    done = Turn(1, labelling=stages.label(workspace, Quiet()))
    assert done.to_json()["share_for_people"] == 0.25
    assert any("of the new ones 25.0% need a person" in line for line in done.lines())
    again = Turn(2, labelling=stages.label(workspace, Quiet()))
    with workspace.catalog.write() as tx:
        turns.end(tx, turns.begin(tx), "held", done.to_json())
        turns.end(tx, turns.begin(tx), "nothing new", again.to_json())
    assert stages.status(workspace)["share_for_people"] == {"1": 0.25}


# --- with a proof ---------------------------------------------------------------------------------------------------


CIRCLES, NEW = ("circle",), range(1000, 1040)


@pytest.fixture
def proved(tmp_path: Path, known: Known) -> Workspace:
    """110 images that files labelled, and 40 that nobody did, of one camera; all of circles."""
    workspace = make(tmp_path, audit=0.15)
    for seed in range(110):
        show(workspace, known, seed, labelled=True, right=0.9, classes=CIRCLES)
    for seed in NEW:
        show(workspace, known, seed, right=0.9, classes=CIRCLES)
    return workspace


def test_files_prove_thresholds_and_the_rest_waits(proved: Workspace, known: Known) -> None:
    elsewhere = show(proved, known, 2001, camera="gate", says=[])
    told = Quiet()
    done = stages.label(proved, told)
    assert done.proof is not None
    circle, square = (done.proof["classes"][name] for name in CLASSES)
    assert 0.4 < circle["threshold"] < 0.8
    assert circle["bound"] >= 0.95
    assert (square["threshold"], square["too_few"]) == (None, True)
    assert sum("circle: labelled by itself from" in line for line in told.said) == 1
    with proved.catalog.read() as tx:
        assert turns.setting_of(tx, PROOF) == json.loads(json.dumps(done.proof))
        found = {one.id: one for one in rows(proved).values() if one.label_by == "auto"}
        said = scenes.of(tx, list(found))
        waiting = samples.queue(tx, 100)
    seeds = {samples.id_of(encode_png(scene(seed, CIRCLES, 48, most=2)[0])): seed for seed in NEW}
    right = [
        any(box.label == one.label and overlap(box, one) >= MATCHED for one in truth(seeds[id], CIRCLES))
        for id, shown in said.items() for box in shown.boxes
    ]  # fmt: skip
    assert len(found) == done.labelled > 10
    assert {one.about for one in said.values()} == {CIRCLES}, "whether there is a square is not known"
    assert np.mean(right) >= 0.95
    assert done.share == pytest.approx(1 - done.labelled / (len(NEW) + 1))
    assert not any(audited(id, 0.15) for id in found)
    assert rows(proved)[elsewhere.id].queue_reason == "unproved", "nothing was reviewed of that camera"
    waiting = [one for one in waiting if one.id != elsewhere.id]
    reasons = [one.queue_reason for one in waiting]
    drawn = sum(audited(id, 0.15) for id in seeds)
    assert reasons == ["audit"] * drawn + ["unsure"] * (len(waiting) - drawn), "the audit is asked first"


def test_only_fair_samples_prove_anything(tmp_path: Path, known: Known) -> None:
    """While every image goes to people, what they have answered without a gap is one; later only the audit is."""
    workspace = make(tmp_path, audit=0.3)
    early = [show(workspace, known, seed).id for seed in range(20)]
    seeds = dict(zip(early, range(20), strict=True))
    stages.label(workspace, Quiet())
    models = proposing.proposers(workspace)

    def counted() -> int:
        return len(reviewed.reviewed(workspace, models, Quiet()).images)

    assert counted() == 0
    *others, last = sorted(early, key=draw, reverse=True)
    for id in others:
        person.draw(workspace, id, Scene(truth(seeds[id]), CLASSES), "kim")
    assert audited(last, 0.3)
    assert counted() == sum(audited(id, 0.3) for id in others), "the first of the draw is not answered: there is a gap"
    person.draw(workspace, last, Scene(truth(seeds[last]), CLASSES), "kim")
    assert counted() == 20
    set_to(workspace, trust=0.9)
    for seed in range(100, 130):
        one = show(workspace, known, seed, says=[])
        seeds[one.id] = seed
    with workspace.catalog.write() as tx:
        samples.change(tx, [{"id": id, "collected_at": now() + timedelta(hours=1)} for id in seeds if id not in early])
    stages.label(workspace, Quiet())
    queued = {id: one for id, one in rows(workspace).items() if one.status == "queued"}
    for id in queued:
        person.draw(workspace, id, Scene(truth(seeds[id]), CLASSES), "kim")
    assert {one.queue_reason for one in queued.values()} == {"audit"}
    assert counted() == 20 + len(queued)
    doubtful = show(workspace, known, 200, says=[replace(one, confidence=0.5) for one in truth(200)])
    with workspace.catalog.write() as tx:
        samples.change(tx, [{"id": doubtful.id, "collected_at": now() + timedelta(hours=1)}])
    assert not audited(doubtful.id, 0.3)
    stages.label(workspace, Quiet())
    person.draw(workspace, doubtful.id, Scene(truth(200), CLASSES), "kim")
    assert counted() == 20 + len(queued), "what was asked about for doubt is no fair sample"


def test_what_a_model_has_learned_does_not_judge_it(tmp_path: Path, known: Known) -> None:
    """Nor does what lies in a group with it; the test side and what came later does."""
    workspace = make(tmp_path)
    ones = [show(workspace, known, seed, labelled=True, group=f"burst{seed // 2}") for seed in range(8)]
    show(workspace, known, 100)
    sides = {0: "train", 2: "validation", 4: "test"}  # the other of each pair, and the last pair, came later
    with workspace.catalog.write() as tx:
        members = [Member(ones[n].id, ones[n].label or "", side, 0) for n, side in sides.items()]  # type: ignore[arg-type]
        number = snapshots.build(tx, sorted(members, key=lambda one: one.id)).number
        version = versions.add(tx, {
            "name": "v1.0", "parent": None, "snapshot": number, "learner": "yolo", "backbone": "-", "licence": "-",
            "config": {}, "code_version": "-", "memory_digest": None, "model_digest": "d", "metrics": None, "key": "k",
        })  # fmt: skip
    (teacher,) = proposing.proposers(workspace).models
    fresh = reviewed.reviewed(workspace, proposing.Proposers(workspace, [teacher]), Quiet())
    assert len(fresh.images) == 8
    own = replace(teacher, version=version)
    ground = reviewed.reviewed(workspace, proposing.Proposers(workspace, [teacher, own]), Quiet())
    assert sorted(one.group for one in ground.images) == ["burst2", "burst2", "burst3", "burst3"]


def test_a_class_that_is_shown_to_be_wrong_is_trusted_nowhere(tmp_path: Path, known: Known) -> None:
    workspace = make(tmp_path, trust=0.2)
    for seed in range(80):
        show(workspace, known, seed, labelled=True, right=0.0, classes=CIRCLES)
    sure = [replace(one, confidence=0.97) for one in truth(300)]
    here, there = (show(workspace, known, 300 + n, says=sure, camera=name) for n, name in enumerate(("door", "gate")))
    done = stages.label(workspace, Quiet())
    assert done.proof is not None
    assert not done.proof["classes"]["circle"]["too_few"]
    assert any(box.label == "circle" for box in sure)
    assert {rows(workspace)[one.id].queue_reason for one in (here, there)} == {"unsure"}


def test_labels_of_files_from_elsewhere_prove_nothing_here(tmp_path: Path, known: Known) -> None:
    workspace = make(tmp_path)
    for seed in range(5):
        show(workspace, known, seed, labelled=True, camera="web")
    show(workspace, known, 9)
    assert reviewed.reviewed(workspace, proposing.proposers(workspace), Quiet()).images == []


# --- a real detector ------------------------------------------------------------------------------------------------


def test_fastestdet_proposes_on_photos(tmp_path: Path, shared: Path) -> None:
    path = tmp_path / "FastestDet.onnx"
    path.write_bytes((shared / "weights/FastestDet.onnx").read_bytes())
    said = {"kind": "fastestdet", "classes": COCO, "size": 352, "colours": "BGR", "fit": "stretch"}
    path.with_name("FastestDet.onnx.yaml").write_text(json.dumps(said))
    detect = {"teachers": [f"onnx:{path}"], "wanted": ["person", "dog"], "trust": 0.5, "audit": 0.0}
    workspace = Workspace.create(tmp_path / "w", Config.model_validate({"task": "detect", "detect": detect}))
    photos = sorted((shared / "data/lfw_10x10/images").rglob("*.jpg"))[:8]
    for photo in photos:
        add_image(workspace, photo.read_bytes(), None, "jpg")
    done = stages.label(workspace, Quiet())
    assert done.labelled + done.queued == 8
    assert done.labelled > 0
    with workspace.catalog.read() as tx:
        found = scenes.of(tx, [one.id for one in rows(workspace).values()])
    assert {scene.about for scene in found.values()} == {("dog", "person")}
    boxes = [box for scene in found.values() for box in scene.boxes]
    assert {box.label for box in boxes} == {"person"}
    assert all(box.width * box.height > 0.1 for box in boxes)

"""A new kind of what a detector finds, by one command; relabelled, forgotten, exported."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from everlearn import faults
from everlearn.catalog import samples, scenes, snapshots, versions
from everlearn.image import encode_png
from everlearn.label import person
from everlearn.learn.crops import names
from everlearn.stages.detecting import crops
from everlearn.types import Box, Scene
from everlearn.workspace import Workspace
from tests import things
from tests.cli.command import Everlearn

SETTINGS = """
task: detect
learn: {learner: "onnx:things.onnx"}
"""


@pytest.fixture
def ever(tmp_path: Path) -> Everlearn:
    return Everlearn(tmp_path / "workspace")


@pytest.fixture(scope="module")
def _taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    made = Everlearn(folder / "workspace").init("--task", "detect", settings=SETTINGS)
    things.detector(made.workspace / "things.onnx")
    for kind in ("star", "ring"):
        made("teach", f"thing/{kind}", *things.write(folder / "taught", kind, 5))
    return made.workspace


@pytest.fixture
def taught(_taught: Path, tmp_path: Path) -> Everlearn:
    """A workspace whose detector finds things, of which stars and rings are known."""
    shutil.copytree(_taught, tmp_path / "workspace")
    return Everlearn(tmp_path / "workspace")


def answers(ever: Everlearn, images: list[Path]) -> list[str | None]:
    found = ever("predict", *images, "--model", "newest")["predictions"]
    return [one["label"] for one in found]


def graph(workspace: Workspace, name: str) -> bytes:
    from everlearn import registry

    with workspace.catalog.read() as tx:
        model = onnx.load_model_from_string(registry.bundle_file(workspace, versions.get(tx, name), ".onnx"))
    del model.metadata_props[:]
    return model.SerializeToString(deterministic=True)


def test_five_examples_are_recognised_after_one_command(taught: Everlearn, tmp_path: Path):
    found = taught("teach", "thing/triangle", *things.write(tmp_path / "taught", "triangle", 5))
    assert (found["model"], found["label"], found["taught"], found["recognised"]) == ("v1.2", "thing/triangle", 5, 5)
    assert found["refused"] == [] and found["strangers_known"] and found["left_out"] > 0 and found["seconds"] > 0
    image = found["images"][0]
    assert (image["answer"], image["side"] != "test", 0 < image["confidence"] <= 1) == ("thing/triangle", True, True)
    for kind in ("star", "ring", "triangle"):
        labels = answers(taught, things.write(tmp_path / "new", kind, 8, first=100))
        assert set(labels) <= {f"thing/{kind}", "thing"} and labels.count(f"thing/{kind}") >= 4
    assert answers(taught, things.write(tmp_path / "new", "square", 8, first=100)).count("thing") >= 6
    workspace = Workspace.open(taught.workspace)
    assert graph(workspace, "v1.0") == graph(workspace, "v1.2")  # the detector is as it was
    with workspace.catalog.read() as tx:
        card_of = versions.get(tx, "v1.2")
        assert samples.get(tx, image["id"]).label_by == "person"
    assert card_of.metrics is not None and card_of.metrics["taught"] == "thing/triangle"
    shown = taught("models", "show", "v1.2")["models"][0]
    assert "thing/triangle" in str(shown)


def test_a_pipeline_is_exported_whole_and_answers_without_a_workspace(taught: Everlearn, tmp_path: Path):
    out = tmp_path / "out"
    taught("models", "export", out, "--model", "newest")
    (model,) = out.glob("*.onnx")
    assert (out / model.stem / "crops.onnx").is_file()
    images = [
        *things.write(tmp_path / "new", "star", 3, first=200),
        *things.write(tmp_path / "new", "ring", 3, first=200),
    ]
    alone = Everlearn(tmp_path)("predict", *images, "--model", model)["predictions"]
    inside = taught("predict", *images, "--model", "newest")["predictions"]
    assert [one["boxes"] for one in alone] == [one["boxes"] for one in inside]
    assert [one["label"] for one in alone] == ["thing/star"] * 3 + ["thing/ring"] * 3


def test_what_cannot_be_taught_is_said_image_by_image(taught: Everlearn, tmp_path: Path):
    blank = tmp_path / "blank.png"
    blank.write_bytes(encode_png(np.full((96, 96, 3), 50, np.uint8)))
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    good = things.write(tmp_path / "more", "triangle", 2)
    found = taught("teach", "thing/triangle", *good, blank, text, tmp_path / "missing.png")
    assert found["taught"] == 2
    told = {Path(one["path"]).name: one["reason"] for one in found["refused"]}
    assert set(told) == {"blank.png", "notes.txt", "missing.png"}
    assert "no thing is found" in told["blank.png"] and "--whole" in told["blank.png"]
    assert "empty" in taught("teach", "thing/triangle", "", code=2)["error"]["message"]
    refused = taught("teach", "thing/triangle", blank, code=2)["error"]
    assert "blank.png" in refused["message"]
    for label, word in (("thing/", "two parts"), ("/cross", "two parts"), ("dog/rex", "dog"), ("dog", "two parts")):
        assert word in taught("teach", label, *good, code=2)["error"]["message"]


def test_strangers_are_taught_by_the_first_part_alone(ever: Everlearn, tmp_path: Path):
    ever.init("--task", "detect", settings=SETTINGS)
    things.detector(ever.workspace / "things.onnx")
    squares = things.write(tmp_path / "taught", "square", 6)
    ever("teach", "thing", *squares, code=2)  # no kind of it is known yet
    assert not ever("teach", "thing/star", *things.write(tmp_path / "taught", "star", 5))["strangers_known"]
    new = [
        *things.write(tmp_path / "new", "square", 5, first=100),
        *things.write(tmp_path / "new", "star", 5, first=100),
    ]
    assert answers(ever, new) == ["thing/star"] * 10
    found = ever("teach", "thing", *squares)
    assert found["strangers_known"] and found["recognised"] >= 5
    labels = answers(ever, new)
    assert labels[:5].count("thing") >= 4 and labels[5:].count("thing/star") >= 4


def test_a_whole_image_is_the_crop(taught: Everlearn, tmp_path: Path):
    paths = []
    for seed in range(5):
        pixels, box = things.draw("triangle", seed)
        paths.append(tmp_path / f"cut{seed}.png")
        paths[-1].write_bytes(encode_png(np.ascontiguousarray(_cut(pixels, box))))
    found = taught("teach", "thing/triangle", *paths, "--whole")
    assert found["taught"] == 5 and found["images"][0]["box"] == {"x": 0, "y": 0, "width": 1, "height": 1}
    labels = answers(taught, things.write(tmp_path / "new", "triangle", 8, first=100))
    assert labels.count("thing/triangle") >= 4


def _cut(pixels: np.ndarray, box: Box) -> np.ndarray:
    side = len(pixels)
    top, left = round(box.y * side), round(box.x * side)
    return pixels[top : top + round(box.height * side), left : left + round(box.width * side)]


def test_an_image_that_is_known_is_relabelled_and_the_rest_of_it_stays(taught: Everlearn, tmp_path: Path):
    workspace = Workspace.open(taught.workspace)
    (path,) = things.write(tmp_path / "more", "circle", 1)
    taught("collect", path)
    with workspace.catalog.read() as tx:
        (id,) = (one.id for batch in samples.batches(tx) for one in batch if one.status == "new")
    _, box = things.draw("circle", 0)
    other = Box("dog", 0.0, 0.0, 0.1, 0.1)
    person.draw(workspace, id, Scene((box, other), ("dog", "thing")))
    found = taught("teach", "thing/circle", path)
    assert found["images"][0]["id"] == id
    with workspace.catalog.read() as tx:
        scene = scenes.of(tx, [id])[id]
    assert sorted(one.label for one in scene.boxes) == ["dog", "thing/circle"] and scene.about == ("dog", "thing")
    assert found["images"][0]["box"]["x"] == pytest.approx(box.x, abs=1e-6)


def test_relabelling_and_learning_comes_to_the_same_memory(taught: Everlearn):
    workspace = Workspace.open(taught.workspace)
    with workspace.catalog.read() as tx:
        snapshot = snapshots.latest(tx)
        assert snapshot is not None
        members = list(snapshots.members(tx, snapshot.number))
        known = scenes.some(tx, [one.label for one in members])
    before = crops.digest(workspace)
    for one in members:  # every star is a comet now, and then a star again
        (box,) = known[one.label].boxes
        if box.label == "thing/star":
            moved = Box("thing/comet", box.x, box.y, box.width, box.height)
            person.draw(workspace, one.id, Scene((moved,), ("thing",)))
    first = taught("learn")
    assert first["model"] != "v1.1" and first["memory_digest"] == crops.digest(workspace) != before
    for one in members:
        if known[one.label].boxes[0].label == "thing/star":
            person.undo(workspace, one.id)
    assert taught("learn")["memory_digest"] == before


def test_forgetting_a_kind_leaves_what_never_saw_it(taught: Everlearn, tmp_path: Path):
    workspace = Workspace.open(taught.workspace)
    with workspace.catalog.read() as tx:
        stars = [one.id for batch in samples.batches(tx) for one in batch if _is(tx, one.id, "thing/star")]
    assert len(stars) == 5
    found = taught("forget", "--label", "thing/star")
    assert found["forgotten"] == 5 and found["before"] and found["after"]
    other = Everlearn(tmp_path / "other").init("--task", "detect", settings=SETTINGS)
    things.detector(other.workspace / "things.onnx")
    other("teach", "thing/ring", *things.write(tmp_path / "taught", "ring", 5))
    assert crops.digest(workspace) == crops.digest(Workspace.open(other.workspace)) == found["after"]
    for path in (taught.workspace / ".everlearn").glob("features-*.db"):
        with sqlite3.connect(path) as file:
            assert not [row[0] for row in file.execute("SELECT id FROM phi") if row[0][:32] in stars]
    assert taught("verify", found["certificate"])["verified"]
    taught("forget", "--label", "thing")
    assert names(workspace) == []


def _is(tx: Any, id: str, label: str) -> bool:
    return any(box.label == label for box in scenes.of(tx, [id])[id].boxes)


def test_the_champion_knows_it_at_once_where_that_is_said(taught: Everlearn, tmp_path: Path):
    new = things.write(tmp_path / "new", "triangle", 4, first=100)
    taught("promote", "v1.1", "--force", "--reason", "it is there first")
    five = things.write(tmp_path / "taught", "triangle", 5)
    assert taught("teach", "thing/triangle", *five[:4])["promoted"] is False
    answers = [one["label"] for one in taught("predict", *new)["predictions"]]
    assert "thing/triangle" not in answers  # the champion has not learned it
    assert taught("teach", "thing/triangle", *five, "--promote")["promoted"] is True
    answers = [one["label"] for one in taught("predict", *new)["predictions"]]
    assert answers.count("thing/triangle") >= 2
    assert taught("status")["champion"] == "v1.3"


def test_killed_on_the_way_the_same_command_finishes(taught: Everlearn, tmp_path: Path, monkeypatch):
    paths = things.write(tmp_path / "taught", "triangle", 4)

    def die(name: str) -> None:
        if name == "teach.kept":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(faults, "point", die)
        assert taught("teach", "thing/triangle", *paths, code=130)["error"]["code"] == "interrupted"
    found = taught("teach", "thing/triangle", *paths)
    assert (found["taught"], found["recognised"]) == (4, 4)


def test_teach_is_for_detection(ever: Everlearn, tmp_path: Path):
    ever.init()
    paths = things.write(tmp_path, "star", 1)
    assert "task detect" in ever("teach", "thing/star", *paths, code=2)["error"]["message"]
    other = Everlearn(tmp_path / "yolo").init("--task", "detect", settings="task: detect\n")
    assert "no detector" in other("teach", "thing/star", *paths, code=2)["error"]["message"]

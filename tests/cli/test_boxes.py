"""Commands about data where boxes are learned: they speak of classes and boxes, and doubt what is odd."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from everlearn.catalog import samples
from everlearn.catalog.scenes import of
from everlearn.cli.main import run
from everlearn.dataset.build import side_of
from everlearn.image import encode_png
from everlearn.label import person
from everlearn.types import Scene
from everlearn.workspace import Workspace
from tests import scenes
from tests.cli.command import Everlearn, ever

__all__ = ["ever"]


def rows(ever: Everlearn) -> dict[str, samples.Sample]:
    workspace = Workspace.open(ever.workspace)
    with workspace.catalog.read() as tx:
        return {one.id: one for batch in samples.batches(tx) for one in batch}


def texts(ever: Everlearn, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert run(["-w", str(ever.workspace), *words]) == 0
    said = capsys.readouterr().out
    assert " scene " not in said
    return said


def test_a_detect_workspace_from_data_set_to_export(
    ever: Everlearn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ever.init("--task", "detect", settings="task: detect\n")
    data = tmp_path / "set"
    scenes.write(data, 40, side=64)
    said_by_them = (data / "data.yaml").read_text()
    (data / "data.yaml").write_text(said_by_them + "license: CC BY 4.0\nversion: 7\n")
    labels = sorted((data / "labels").iterdir())
    for label in labels[:8]:  # odd on both sides
        label.write_text(f"{label.read_text()}0 0.5 0.5 0.9 0.012\n")
    labels[-1].write_text("")
    labels[-2].write_text("0 0.95 0.5 0.11 0.2\n")
    assert ever("collect", data)["cut"] == 1

    said = ever("validate")
    boxes = said["boxes"]
    assert (boxes["images"], boxes["empty"]) == (40, 1)
    assert set(boxes["classes"]) == {"circle", "square"}
    assert boxes["reasons"] == {"aspect": 8}
    assert list(boxes["odd"].values()) == [["circle: aspect"]] * 8
    assert said["scores"]["label_accuracy"] == pytest.approx(0.8)
    assert set(said["gates"]) == {"quality", "label_accuracy"}  # a camera that stands still is neither diverse nor even
    assert said["culprits"]["label_accuracy"] == list(boxes["odd"])
    found = rows(ever)
    config = Workspace.open(ever.workspace).config
    sides = {id: side_of(found[id].group_key, config.dataset) for id in boxes["odd"]}
    assert {id for id, one in found.items() if one.queued} == {id for id, side in sides.items() if side != "test"}
    assert {one.queue_reason for one in found.values() if one.queued} == {"odd_box"}

    # a person looks at one, and finds it right
    workspace, first = Workspace.open(ever.workspace), min(id for id, one in found.items() if one.queued)
    with workspace.catalog.read() as tx:
        own = of(tx, [first])[first]
    person.draw(workspace, first, Scene(own.boxes, own.about))
    assert ever("validate")["scores"]["label_accuracy"] == pytest.approx(1 - 7 / 40)
    assert not rows(ever)[first].queued

    said = ever("data", "--status", "labelled", "--limit", 3)
    assert said["boxes"] == boxes["classes"]
    assert all(one["label"] is None and {"boxes", "about"} <= set(one) for one in said["samples"])
    [source] = ever("data", "--sources")["sources"]
    assert (source["source"], source["version"], source["licence"]) == (str(data), "7", "CC BY 4.0")
    built = ever("dataset", "build")
    assert built["classes"] == ["circle", "square"]
    assert sum(built["boxes"].values()) < sum(boxes["classes"].values())  # what waits is not in it
    assert ever("dataset", "list")["boxes"] == built["boxes"]
    person.draw(workspace, first, Scene((), own.about))
    assert ever("dataset", "build")["number"] == 2
    changed = ever("dataset", "diff", 1, 2)
    assert changed["relabelled"] == [first]
    assert sum(changed["boxes_before"].values()) - sum(changed["boxes"].values()) == len(own.boxes)

    for words in (["validate"], ["status"], ["data", "--status", "labelled"], ["data", "--sources"], ["review"],
                  ["dataset", "list"], ["dataset", "diff", "1", "2"], ["label", "--history", first]):  # fmt: skip
        texts(ever, capsys, *words)
    assert "boxes of circle: -" in texts(ever, capsys, "dataset", "diff", "1", "2")
    assert "The label is now" in texts(ever, capsys, "label", "--undo", first)

    done = ever("dataset", "export", tmp_path / "out")  # YOLO by itself
    assert (tmp_path / "out" / "data.yaml").is_file()
    again = Everlearn(tmp_path / "again").init("--task", "detect", settings="task: detect\n")
    assert again("collect", tmp_path / "out")["collected"] == done["samples"]
    assert again("data", "--sources")["sources"][0]["licence"] == "CC BY 4.0"


def test_frames_of_one_camera_stay_together_and_near_duplicates_do_not_cross_sides(
    ever: Everlearn, tmp_path: Path
) -> None:
    """A camera that stands still: what it sees within some minutes is one group, whatever data set tells of it."""
    ever.init("--task", "detect", settings="task: detect\n")
    data = tmp_path / "set"
    scenes.write(data, 1, side=64)  # for data.yaml
    for path in [*(data / "images").iterdir(), *(data / "labels").iterdir()]:
        path.unlink()
    for number in range(24):
        image, _ = scenes.scene(100 + number // 4, side=64)
        image[0, number % 4] ^= 3  # four frames in which next to nothing moves
        name = f"cam{number // 12}_20250704_13{5 * (number % 12):02d}{20 if number % 2 else 10}"
        (data / "images" / f"{name}.png").write_bytes(encode_png(image))
        (data / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    for second in range(6):
        image, _ = scenes.scene(50 + second, side=64)
        (data / "images" / f"cam0_20250705_0800{second:02d}.png").write_bytes(encode_png(image))
        (data / "labels" / f"cam0_20250705_0800{second:02d}.txt").write_text("")
    ever("collect", data, "--pattern", "{camera}_{date}_{time}.{ext}")
    found = rows(ever)
    assert {one.camera for one in found.values()} == {"cam0", "cam1"}
    groups = [one.group_key for one in found.values() if one.captured_at and one.captured_at.day == 5]
    assert groups == ["cam0@2025-07-05T08:00"] * 6
    assert len({one.group_key for one in found.values()}) == 25
    (ever.workspace / "everlearn.yaml").write_text("task: detect\ngates: {diversity: 0.7}\n")
    said = ever("validate")
    assert said["quarantined"] == {"near_duplicate": 18}
    assert set(said["gates"]) == {"quality", "label_accuracy", "diversity"}  # but where somebody asks for it
    kept = ever("dataset", "build")
    assert kept["samples"] == 12
    assert json.dumps(kept["boxes"]) == '{"circle": 6}'

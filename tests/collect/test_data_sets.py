"""What data sets say beside their boxes: the classes that were looked for, where they are from, what belongs to one."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from everlearn.catalog.origins import Origin
from everlearn.collect.sources import open_source
from everlearn.types import Found
from tests.collect.test_readers import picture, read, write

ROBOFLOW = """train: ../train/images
val: ../valid/images
test: ../test/images

nc: 2
names: ['person/courier', 'cat']

roboflow:
  workspace: doorway
  project: visitors-abc
  version: 3
  license: CC BY 4.0
  url: https://universe.roboflow.com/doorway/visitors-abc/dataset/3
"""
LINE = "0 0.5 0.5 0.2 0.4\n"


@pytest.fixture
def roboflow(tmp_path: Path) -> Path:
    """As Roboflow exports to YOLO: two augmented copies of one picture among it."""
    write(tmp_path / "data.yaml", ROBOFLOW)
    write(tmp_path / "README.roboflow.txt", "visitors")
    for side, names in {"train": "ab", "valid": "c", "test": "d"}.items():
        for name in names:
            stem = f"door_jpg.rf.{name * 32}" if side == "train" else f"{name}_20250704_133022_jpg.rf.{name * 32}"
            picture(tmp_path / side / "images" / f"{stem}.jpg")
            write(tmp_path / side / "labels" / f"{stem}.txt", LINE if name != "c" else "")
    return tmp_path


def test_a_roboflow_export_as_it_lies(roboflow: Path) -> None:
    for spec in (roboflow, roboflow / "data.yaml"):
        found, refused = read(spec)
        assert (len(found), refused) == (4, [])
        assert {one.about for one in found.values()} == {("cat", "person")}
        assert {one.group for one in found.values()} == {"roboflow:door_jpg", None}
        one = found[f"d_20250704_133022_jpg.rf.{'d' * 32}.jpg"]
        assert (one.captured_at, one.boxes[0].label) == (datetime(2025, 7, 4, 13, 30, 22), "person/courier")
        source = open_source(str(spec))
        assert source.origin == Origin(
            "doorway/visitors-abc", "3", "CC BY 4.0", "https://universe.roboflow.com/doorway/visitors-abc/dataset/3"
        )


def test_a_roboflow_export_to_coco_as_it_lies(tmp_path: Path) -> None:
    """With its root of the categories, which is no class, and an image that was looked at and shows nothing."""
    said = {
        "info": {"version": "2", "description": "Exported from roboflow.com", "url": "https://public.roboflow.com/x"},
        "licenses": [{"id": 1, "url": "https://creativecommons.org/licenses/by/4.0/", "name": "CC BY 4.0"}],
        "categories": [{"id": 0, "name": "animals", "supercategory": "none"},
                       {"id": 1, "name": "cat", "supercategory": "animals"},
                       {"id": 2, "name": "dog", "supercategory": "animals"}],
        "images": [{"id": 0, "file_name": "a.jpg", "width": 100, "height": 50}, {"id": 1, "file_name": "b.jpg"}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [10, 10, 50, 20]}],
    }  # fmt: skip
    for side in ("train", "valid"):
        for name in "ab":
            picture(tmp_path / side / f"{name}.jpg")
        write(tmp_path / side / "_annotations.coco.json", json.dumps(said))
    source = open_source(str(tmp_path))
    items = list(source.items())
    assert len(items) == 4
    assert all(isinstance(one, Found) and one.about == ("cat", "dog") for one in items)
    assert sorted(len(one.boxes) for one in items) == [0, 0, 1, 1]
    assert source.origin == Origin("Exported from roboflow.com", "2", "CC BY 4.0", "https://public.roboflow.com/x")


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    for place in ("a/images/1", "a/images/2", "b/images/3", "other/images/4"):
        picture(tmp_path / "set" / f"{place}.png")
        write(tmp_path / "set" / f"{place.replace('images', 'labels')}.txt", LINE)
    picture(tmp_path / "secret" / "images" / "5.png")
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("said", "names", "problem"),
    [
        ("train: a/images\nval: b/images", "123", None),
        ("path: .\ntrain: [a/images, b/images]\nval: a", "123", None),
        ("path: /nowhere\ntrain: a/images", "12", None),
        ("path: ../set\ntrain: b/images", "3", None),
        ("path: {root}/a\ntrain: images\nval: {root}/b/images", "123", None),
        ("train: list.txt", "13", "2.png"),
        ("train: a/images\nval: ../secret/images", "12", "val: ../secret/images"),
        ("train: a/images\nval: {root}/../secret/images", "12", "leads out"),
        ("train: a/images\nval: missing", "12", "not there"),
        ("train: 5\nval: [a/images, 7]", "12", "train: 5"),
        ("train: link\nval: a/images", "12", "train: link"),
        ("nc: 1", "1234", None),
    ],
)
def test_a_data_yaml_tells_what_belongs_to_it(nested: Path, said: str, names: str, problem: str | None) -> None:
    (nested / "link").symlink_to(nested.parent / "secret")
    write(nested / "list.txt", f"./a/images/1.png\n{nested}/b/images/3.png\n../set/../secret/images/2.png\n")
    path = write(nested / "own.yaml", said.format(root=nested) + "\nnames: [cat]\n")
    found, refused = read(path)
    refused = [one for one in refused if not one.path.endswith("/link")]
    assert sorted(found) == [f"{name}.png" for name in names]
    assert all(one.boxes and one.boxes[0].label == "cat" for one in found.values())
    assert (problem is None) == (refused == [])
    assert (problem or "") in " ".join(f"{one.path}: {one.reason}" for one in refused)
    assert open_source(str(path)).estimate() == len(names)


def test_names_tell_camera_and_group_by_a_pattern(nested: Path) -> None:
    picture(nested / "images" / "door_20250704_133022.png")
    write(nested / "labels" / "door_20250704_133022.txt", "")
    write(nested / "data.yaml", "names: [cat]")
    found, _ = read(nested, pattern="{camera}_{date}_{time}.{ext}")
    one = found["door_20250704_133022.png"]
    assert (one.camera, one.captured_at, one.boxes) == ("door", datetime(2025, 7, 4, 13, 30, 22), ())
    assert found["1.png"].camera is None


def test_names_of_our_own_form_tell_the_camera(nested: Path) -> None:
    name = f"scene_20250704_133022_front=20door_{'0a' * 16}.png"
    picture(nested / "images" / name)
    found, _ = read(nested, labels_from="yolo")
    assert found[name].camera == "front door"

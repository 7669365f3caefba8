"""Label Studio's exports, whole, broken and hostile."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from everlearn.collect.options import SourceOptions
from everlearn.collect.sources import detect
from everlearn.errors import BadInput
from everlearn.types import Box
from tests.collect.test_readers import ANYTHING, JSON, picture, read, reasons, write


def region(x=10, y=20, width=30, height=40, labels=("cat",), kind="rectanglelabels", rotation=0, **more):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation, kind: list(labels)}
    return {"type": kind, "from_name": "label", "to_name": "image", "value": value, "original_width": 100,
            "original_height": 50, "image_rotation": 0, **more}  # fmt: skip


def task(image="a.png", *regions, **more):
    annotations = [{"id": 1, "was_cancelled": False, "updated_at": "2025-01-02T00:00:00Z", "result": list(regions)}]
    return {"id": 7, "data": {"image": image}, "annotations": annotations, **more}


def export(root: Path, *tasks: object) -> Path:
    return write(root / "project-1.json", json.dumps(list(tasks)))


CAT = Box("cat", 0.1, 0.2, pytest.approx(0.3), pytest.approx(0.4))


@pytest.mark.parametrize(
    ("said", "lies"),
    [
        ("/data/upload/3/0a1b2c3d-door%201.png", "0a1b2c3d-door 1.png"),
        ("/data/upload/3/0a1b2c3d-door.png", "images/deep/door.png"),
        ("/data/local-files/?d=set/day%201/a.png", "day 1/a.png"),
        ("/data/local-files/?d=C%3A%5Cset%5Ca.png", "a.png"),
        ("s3://bucket/door/a.png", "door/a.png"),
        ("images/한글.png", "images/한글.png"),
        ("/home/kim/a.png", "images/a.png"),
    ],
)
def test_images_are_found_by_the_end_of_their_path(tmp_path, said, lies):
    picture(tmp_path / lies)
    path = export(tmp_path, task(said, region()))
    for spec in (tmp_path, path):
        found, refused = read(spec)
        assert refused == []
        [one] = found.values()
        assert (one.uri, one.boxes, one.label, one.label_by) == (str(tmp_path / lies), (CAT,), "cat", "labelstudio")
        assert one.about is None
    assert detect(tmp_path, SourceOptions()) == "labelstudio"


def test_the_newest_annotation_that_was_not_cancelled_holds(tmp_path):
    for name in "abcd":
        picture(tmp_path / f"{name}.png")
    old = {"id": 9, "updated_at": "2025-01-01T00:00:00Z", "result": [region(labels=["old"])]}
    new = {"id": 3, "updated_at": "2025-02-01T00:00:00Z", "result": [region(labels=["cat", "tom"])]}
    cancelled = {"id": 4, "was_cancelled": True, "updated_at": "2025-03-01T00:00:00Z", "result": [region()]}
    export(
        tmp_path,
        {"data": {"image": "a.png"}, "annotations": [new, cancelled, old]},
        {"data": {"image": "b.png"}, "annotations": [cancelled]},
        {"data": {"image": "c.png"}, "annotations": []},
        task("d.png"),
    )
    found, refused = read(tmp_path)
    assert refused == []
    assert [box.label for box in found["a.png"].boxes] == ["cat", "tom"]
    assert (found["b.png"].boxes, found["c.png"].boxes, found["d.png"].boxes) == (None, None, ())


def test_the_short_form(tmp_path):
    picture(tmp_path / "a.png")
    one = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["cat"]}
    export(tmp_path, {"image": "/data/upload/1/00000000-a.png", "id": 1, "label": [one], "annotator": 1})
    assert read(tmp_path)[0]["a.png"].boxes == (CAT,)


def test_what_is_no_upright_rectangle_becomes_the_box_around_it(tmp_path):
    picture(tmp_path / "a.png")
    polygon = {"value": {"points": [[10, 20], [40, 30], [20, 60]], "polygonlabels": ["cat"]}}
    quarter = region(40, 20, 20, 20, rotation=90)  # 20 px wide and 10 px high, about (40, 10) px
    choice = {"type": "choices", "value": {"choices": ["night"]}}
    export(tmp_path, task("a.png", polygon, quarter, choice))
    around, turned = read(tmp_path)[0]["a.png"].boxes
    assert around == CAT
    assert (turned.x, turned.y) == (pytest.approx(0.3), pytest.approx(0.2))  # 10 px wide and 20 px high
    assert (turned.width, turned.height) == (pytest.approx(0.1), pytest.approx(0.4))


@pytest.mark.parametrize(
    ("image", "given", "reason"),
    [
        ("https://example.org/a.png", region(), "nothing is fetched"),
        ("data:image/png;base64,xx", region(), "nothing is fetched"),
        ("../secret.png", region(), "is not there"),
        ("/etc/passwd", region(), "is not there"),
        ("twice.png", region(), "2 images are called"),
        ("a.png", region(x=90), "outside"),
        ("a.png", region(width=0), "no area"),
        ("a.png", region(x="a"), "is no number"),
        ("a.png", region(labels=[]), "without a label"),
        ("a.png", region(kind="brushlabels"), "no boxes"),
        ("a.png", region(kind="keypointlabels"), "no boxes"),
        ("a.png", region(image_rotation=90), "turned"),
        ("a.png", region(rotation=10, original_width=0), "without the size"),
        ("a.png", {"value": {"x": 1, "y": 1, "width": 2, "height": 2}}, "without a label"),
        ("a.png", {"value": {"points": [1], "polygonlabels": ["a"]}}, "a polygon that is none"),
        ("a.png", 5, "without a value"),
    ],
)
def test_a_task_that_cannot_be_refuses_its_image_alone(tmp_path, image, given, reason):
    picture(tmp_path / "secret.png")
    root = tmp_path / "set"
    for name in ("a.png", "fine.png", "x/twice.png", "y/twice.png"):
        picture(root / name)
    export(root, task(image, given), task("fine.png", region()), 5)
    found, refused = read(root)
    assert set(found) == {"fine.png"}
    assert reason in reasons(refused)
    assert "no task" in reasons(refused)
    assert len(refused) == 2


def test_an_endless_path_is_not_walked(tmp_path):
    picture(tmp_path / "b/a.png")
    picture(tmp_path / "c.png")
    export(tmp_path, task("x/" * 200_000 + "b/a.png", region()), task("x/" * 200_000 + "none.png", region()))
    found, refused = read(tmp_path)
    assert set(found) == {"a.png"} and "is not there" in reasons(refused)


def test_a_folder_without_an_export(tmp_path):
    write(tmp_path / "a.json", "{}")
    with pytest.raises(BadInput, match="no Label Studio export"):
        read(tmp_path, labels_from="labelstudio")


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    ANYTHING
    | JSON.map(lambda one: json.dumps([{"data": {"image": "a.png"}, "annotations": [{"result": [one]}]}]))
    | JSON.map(lambda one: json.dumps([{"image": "a.png", "label": [one], "annotations": one}]))
)
def test_any_json_is_read_or_refused(tmp_path, text):
    picture(tmp_path / "a.png")
    with contextlib.suppress(BadInput):
        read(write(tmp_path / "any.json", text), labels_from="labelstudio")

"""Labelled data sets as they lie: CSV, YOLO, COCO and VOC, whole, broken and hostile."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from everlearn.collect.annotations import box
from everlearn.collect.options import SourceOptions
from everlearn.collect.sources import open_source
from everlearn.collect.voc import parse_xml
from everlearn.errors import BadInput
from everlearn.types import Box, Found, Refused

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def picture(path: Path, size: tuple[int, int] = (100, 50)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path


def read(spec: Path, **options: object) -> tuple[dict[str, Found], list[Refused]]:
    items = list(open_source(str(spec), SourceOptions(**options)).items())  # type: ignore[arg-type]
    found = {item.name: item for item in items if isinstance(item, Found)}
    refused = [item for item in items if isinstance(item, Refused)]
    assert len(found) + len(refused) == len(items)
    assert all(one.path.isprintable() and one.reason.isprintable() and one.reason for one in refused)
    return found, refused


def reasons(refused: list[Refused]) -> str:
    return " | ".join(f"{one.path.rpartition('/')[2]}: {one.reason}" for one in refused)


# Boxes


def test_boxes_over_the_edge_by_rounding_are_cut_and_others_refused() -> None:
    assert box("a", -0.01, 0.5, 1.01, 0.75) == Box("a", 0.0, 0.5, 1.0, 0.25)
    for corners in ((0, 0, 1.2, 1), (-0.1, 0, 1, 1), (0.5, 0.5, 0.5, 0.6), (0.6, 0, 0.5, 1), (float("nan"), 0, 1, 1)):
        with pytest.raises(BadInput):
            box("a", *corners)


# CSV


def test_csv(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "홍.png")
    picture(tmp_path / "b_20250704_133022.png")
    picture(tmp_path / "unlabelled.png")
    write(
        tmp_path / "labels.csv",
        "﻿path,label,camera,group,time,split\n"
        'images/홍.png,"Hong, Gil-dong",door,s1,2025-07-04 13:30:22,train\n\n'
        "b_20250704_133022.png,b,,,,test\nunlabelled.png,,,,,\n",
    )
    for spec in (tmp_path, tmp_path / "labels.csv"):
        found, refused = read(spec)
        assert refused == []
        one = found["홍.png"]
        assert (one.label, one.label_by, one.camera, one.group) == ("Hong, Gil-dong", "csv", "door", "s1")
        assert (one.captured_at, one.time_from) == (datetime(2025, 7, 4, 13, 30, 22), "name")
        assert one.read() == (tmp_path / "images" / "홍.png").read_bytes()
        assert found["b_20250704_133022.png"].captured_at == datetime(2025, 7, 4, 13, 30, 22)
        assert found["unlabelled.png"].label is None
        assert open_source(str(spec)).estimate() == 4  # it counts lines, the blank one too


def test_csv_rows_that_cannot_be(tmp_path: Path) -> None:
    picture(tmp_path / "set" / "fine.png")
    picture(tmp_path / "secret.png")
    rows = [
        "fine.png;a",
        "../secret.png;a",
        f"{tmp_path}/secret.png;a",
        "/etc/passwd;a",
        "none.png;a",
        "fine.png",
        "fine.png;a;b",
    ]
    write(tmp_path / "set" / "labels.csv", "\n".join(["path;label", *rows, "fine.png;x\x07y", "labels.csv;a", ".;a"]))
    found, refused = read(tmp_path / "set")
    assert list(found) == ["fine.png"]
    lines = [one.path.rpartition(":")[2] for one in refused if "labels.csv:" in one.path]
    assert lines == ["3", "4", "5", "6", "7", "8", "9", "11"]
    assert reasons(refused).count("leads outside") == 3
    assert "neither an image nor a video" in reasons(refused)


def test_csv_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        read(tmp_path, labels_from="csv")
    write(tmp_path / "a.csv", "")
    with pytest.raises(BadInput):
        read(tmp_path, labels_from="csv")
    write(tmp_path / "a.csv", "path,name\n")
    with pytest.raises(BadInput):
        read(tmp_path, labels_from="csv")
    write(tmp_path / "a.csv", "path,label\n" + "x" * 3_000_000 + "\n")
    assert "cannot be read" in reasons(read(tmp_path, labels_from="csv")[1])


# YOLO


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    write(
        tmp_path / "data.yaml",
        "path: /somewhere/else\ntrain: ../images/train\nval: images/val\nnames:\n  0: cat\n  1: 강아지\n",
    )
    picture(tmp_path / "images" / "train" / "a.png")
    write(tmp_path / "labels" / "train" / "a.txt", "0 0.5 0.5 0.2 0.4\n\n0 0.1 0.1 0.1 0.1 0.9\n")
    picture(tmp_path / "images" / "val" / "two.png")
    write(tmp_path / "labels" / "val" / "two.txt", "0 0.5 0.5 0.2 0.4\n1 0.1 0.1 0.2 0.1 0.2 0.3 0.15 0.2\n")
    picture(tmp_path / "images" / "val" / "nothing.png")
    write(tmp_path / "labels" / "val" / "nothing.txt", "")
    picture(tmp_path / "images" / "val" / "unknown.png")
    return tmp_path


def test_yolo(yolo: Path) -> None:
    for spec in (yolo, yolo / "data.yaml"):
        found, refused = read(spec)
        assert refused == []
        first, second = found["a.png"].boxes or ()
        assert first == Box("cat", 0.4, pytest.approx(0.3), pytest.approx(0.2), pytest.approx(0.4))
        assert second.width == pytest.approx(0.1)
        assert (found["a.png"].label, found["a.png"].label_by) == ("cat", "yolo")
        polygon = (found["two.png"].boxes or ())[1]
        assert (polygon.label, polygon.x, polygon.y) == ("강아지", 0.1, 0.1)
        assert (polygon.width, polygon.height) == (pytest.approx(0.1), pytest.approx(0.2))
        assert found["two.png"].label is None
        assert found["nothing.png"].boxes == ()
        assert found["unknown.png"].boxes is None
        assert open_source(str(spec)).estimate() == 4


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("7 0.5 0.5 0.1 0.1", "line 1: the class 7 has no name"),
        ("-1 0.5 0.5 0.1 0.1", "no whole number"),
        ("0.5 0.5 0.5 0.1 0.1", "no whole number"),
        ("1e300 0.5 0.5 0.1 0.1", "has no name"),
        ("0 0.9 0.5 0.9 0.1", "outside"),
        ("0 0.5 0.5 0 0.1", "no area"),
        ("0 0.5 0.5", "3 numbers"),
        ("0 a b c d", "is no number"),
        ("0 nan 0.5 0.1 0.1", "no number"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.3 0.3", "half a point"),
        ("\udcff\udcfe", "not text"),
    ],
)
def test_yolo_lines_that_cannot_be_refuse_their_image_alone(yolo: Path, line: str, reason: str) -> None:
    write(yolo / "labels" / "train" / "a.txt", line)
    found, refused = read(yolo)
    assert set(found) == {"two.png", "nothing.png", "unknown.png"}
    assert [one for one in refused if "a.png" in one.path and reason in one.reason]


def test_yolo_labels_stay_inside_and_need_an_image(yolo: Path) -> None:
    write(yolo.parent / f"{yolo.name}_outside.txt", "0 0.5 0.5 0.1 0.1")
    (yolo / "labels" / "val" / "unknown.txt").symlink_to(yolo.parent / f"{yolo.name}_outside.txt")
    write(yolo / "labels" / "train" / "lost.txt", "0 0.5 0.5 0.1 0.1")
    found, refused = read(yolo)
    assert "unknown.png" not in found
    assert "leads outside" in reasons(refused)
    assert "lost.txt: there is no image to this annotation" in reasons(refused)


def test_yolo_without_names_and_with_key_points(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    write(tmp_path / "labels" / "a.txt", "3 0.5 0.5 0.2 0.2 0.9 0.9 1 0.1 0.1 1\n")
    write(tmp_path / "data.yaml", "kpt_shape: [2, 3]")
    assert read(tmp_path)[0]["a.png"].boxes == (Box("3", 0.4, 0.4, pytest.approx(0.2), pytest.approx(0.2)),)
    (tmp_path / "data.yaml").unlink()
    write(tmp_path / "classes.txt", "a\nb\nc\nd\n")
    assert read(tmp_path)[0]["a.png"].label == "d"


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\n",
        "a: &a {k: v}\nb: {<<: [*a, *a]}\n",
        "names: !!python/object/apply:os.system [id]",
        "[" * 5000,
        "names: {a: b}",
        "names: [[1]]",
        "names: [cat, '']",
        "- cat",
        "names: 2025-99-99",
        "names: [\x00]",
        "x" * 1_100_000,
        "names: {0: 0x" + "f" * 6000 + "}",
        "names: [a]\nversion: 0x" + "f" * 6000,
        "names: [a]\nversion: " + "1:" * 400_000 + "1",
        "names: [a]\nversion: " + "1:" * 300 + "1.5",
    ],
)
def test_yaml_bombs_and_nonsense(tmp_path: Path, text: str) -> None:
    write(tmp_path / "data.yaml", text)
    with pytest.raises(BadInput) as error:
        read(tmp_path)
    assert "data.yaml" in error.value.message
    assert error.value.message.isprintable()


def test_endless_paths_are_not_walked(tmp_path: Path) -> None:
    """Each step of a path is looked up: these would take minutes."""
    picture(tmp_path / "a.png")
    names = write(tmp_path / "data.yaml", "names: [cat]\ntrain: " + "../" * 300_000)
    assert "leads out" in reasons(read(names)[1])
    said = {"images": [{"id": 1, "file_name": "a/" * 500_000 + "a.png"}], "annotations": []}
    assert "longer than the system" in reasons(read(write(tmp_path / "a.json", json.dumps(said)))[1])


# COCO


def coco(root: Path, **changes: object) -> Path:
    said = {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 100, "height": 50},
            {"id": 2, "file_name": "b.png"},
            {"id": 3, "file_name": "none.png", "width": 100, "height": 50},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 5, "bbox": [10, 10, 20, 10]},
            {"id": 2, "image_id": 2, "category_id": 5, "segmentation": [[50, 10, 60, 10, 60, 30]]},
            {"id": 3, "image_id": 2, "category_id": 6, "bbox": [0, 0, 100.5, 50]},
            {"id": 4, "image_id": 1, "category_id": 6, "iscrowd": 1, "segmentation": {"counts": "x", "size": [1, 1]}},
        ],
        "categories": [{"id": 5, "name": "cat"}, {"id": 6, "name": "개"}],
    }
    return write(root / "annotations" / "instances_val2017.json", json.dumps(said | changes))


def test_coco(tmp_path: Path) -> None:
    picture(tmp_path / "val2017" / "a.png")
    picture(tmp_path / "images" / "b.png")
    file = coco(tmp_path)
    write(tmp_path / "annotations" / "captions_val2017.json", '{"images":[{"id":1,"file_name":"a.png"}]}')
    found, refused = read(tmp_path)
    assert found["a.png"].boxes == (Box("cat", 0.1, 0.2, pytest.approx(0.2), pytest.approx(0.2)),)
    assert (found["a.png"].label, found["a.png"].label_by) == ("cat", "coco")
    assert [(one.label, one.x, one.width) for one in found["b.png"].boxes or ()] == [
        ("cat", 0.5, pytest.approx(0.1)),
        ("개", 0.0, 1.0),
    ]
    assert found["b.png"].label is None
    assert reasons(refused) == "instances_val2017.json: none.png: it is not there, or a link that leads nowhere"
    assert set(read(file)[0]) == {"a.png", "b.png"}


def test_several_coco_files(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        picture(tmp_path / split / f"{split}.png")
        said = {"images": [{"id": 1, "file_name": f"{split}.png"}], "annotations": [], "categories": []}
        write(tmp_path / split / "_annotations.coco.json", json.dumps(said))
    found, refused = read(tmp_path)
    assert set(found) == {"train.png", "valid.png"}
    assert found["train.png"].boxes == ()
    assert refused == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"categories": []}, "the category 5 is not listed"),
        ({"categories": [{"id": 5, "name": "a\nb"}, {"id": 6, "name": "x"}]}, "category 5: The label"),
        ({"annotations": [{"image_id": 1, "category_id": 5, "bbox": [90, 10, 50, 10]}]}, "outside"),
        ({"annotations": [{"image_id": 1, "category_id": 5, "bbox": [1, 1, "x", 10]}]}, "is no number"),
        ({"annotations": [{"image_id": 1, "category_id": 5, "bbox": [1, 1, 1e999, 10]}]}, "no number"),
        ({"annotations": [{"image_id": 1, "category_id": 5}]}, "has no box"),
        ({"annotations": [{"image_id": 99, "category_id": 5, "bbox": [1, 1, 1, 1]}]}, "which is not listed"),
        ({"images": [{"id": 1, "file_name": "../secret.png"}]}, "leads outside"),
        ({"images": [{"id": 1, "file_name": "/etc/passwd"}]}, "leads outside"),
        ({"images": [{"id": 1, "file_name": ["x"]}]}, "no file_name"),
        ({"images": [{"id": 1, "file_name": "a\u0000b"}]}, "is no path"),
        ({"images": [{"id": 1, "file_name": "x" * 5000}]}, "longer than the system allows"),
        ({"images": "many"}, "no list of images"),
    ],
)
def test_coco_that_cannot_be(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    picture(tmp_path / "secret.png")
    root = tmp_path / "set"
    picture(root / "images" / "a.png")
    picture(root / "images" / "b.png")
    coco(root, **changes)
    found, refused = read(root, labels_from="coco")
    assert reason in reasons(refused)
    assert set(found) <= {"a.png", "b.png"}


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, '{"images": [', '{"images": [1, null, []], "annotations": 5}', "1" * 5000]
)
def test_json_nonsense(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.json", text)
    assert read(path)[0] == {}
    with pytest.raises(BadInput):
        read(tmp_path, labels_from="coco")


# VOC


def voc(
    name: str = "cat", corners: str = "10 20 60 40", size: str = "<size><width>100</width><height>50</height></size>"
) -> str:
    xmin, ymin, xmax, ymax = corners.split()
    return (
        f"<annotation><filename>a.png</filename><path>/etc/passwd</path>{size}<object><name>{name}</name><bndbox>"
        f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object></annotation>"
    )


@pytest.mark.parametrize(("xmls", "images"), [("Annotations", "JPEGImages"), ("annotations", "images"), (".", ".")])
def test_voc(tmp_path: Path, xmls: str, images: str) -> None:
    picture(tmp_path / images / "a.png")
    picture(tmp_path / images / "unknown.png")
    picture(tmp_path / images / "other.PNG", size=(200, 100))
    write(tmp_path / xmls / "a.xml", voc())
    write(tmp_path / xmls / "other.xml", voc("강아지", size="<size><width>0</width><height>0</height></size>"))
    found, refused = read(tmp_path)
    assert refused == []
    assert found["a.png"].boxes == (Box("cat", 0.1, 0.4, 0.5, 0.4),)
    assert (found["a.png"].label, found["a.png"].label_by) == ("cat", "voc")
    assert found["other.PNG"].boxes == (Box("강아지", 0.05, 0.2, pytest.approx(0.25), pytest.approx(0.2)),)
    assert found["unknown.png"].boxes is None
    assert set(read(tmp_path / xmls / "a.xml")[0]) == {"a.png"}


BILLION_LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>' + voc("&b;")
OUTSIDE_FILE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + voc("&x;")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BILLION_LAUGHS, "document type"),
        (OUTSIDE_FILE, "document type"),
        ('<!DOCTYPE annotation SYSTEM "http://example.org/x.dtd">' + voc(), "document type"),
        (voc("&undefined;"), "no XML"),
        ("<annotation><object>", "no XML"),
        ("", "empty file"),
        ("<svg/>", "no Pascal VOC annotation"),
        (voc(""), "A label is empty"),
        (voc(corners="10 20 600 40"), "outside"),
        (voc(corners="60 20 10 40"), "no area"),
        (voc(corners="a 20 10 40"), "is no number"),
        ("<annotation><object><name>a</name></object></annotation>", "is no number"),
        ("<annotation>" + "<a>" * 200_000, "no XML"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "no XML"),
    ],
)
def test_voc_that_cannot_be(tmp_path: Path, text: str, reason: str) -> None:
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "fine.png")
    write(tmp_path / "annotations" / "fine.xml", voc())
    write(tmp_path / "annotations" / "a.xml", text)
    found, refused = read(tmp_path)
    assert set(found) == {"fine.png"}
    assert len(refused) == 1
    assert reason in refused[0].reason


def test_voc_never_leaves_its_folder(tmp_path: Path) -> None:
    picture(tmp_path / "secret.png")
    write(tmp_path / "set" / "annotations" / "b.xml", voc().replace("a.png", "../../secret.png"))
    write(tmp_path / "set" / "annotations" / "c.xml", voc().replace("a.png", "none.png"))
    found, refused = read(tmp_path / "set")
    assert found == {}
    assert "b.xml: '../../secret.png' leads outside" in reasons(refused)
    assert "c.xml: there is no image to this annotation" in reasons(refused)


def test_deep_xml_is_read_and_let_go_without_recursion() -> None:
    assert parse_xml(b"<a>" * 100_000 + b"</a>" * 100_000).tag == "a"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are absent")
def test_a_real_voc_data_set() -> None:
    found, refused = read(SHARED / "raccoon_voc")
    assert (len(found), len(refused)) == (200, 0)
    assert sum(len(item.boxes or ()) for item in found.values()) == 217
    assert {item.label for item in found.values()} == {"raccoon"}


# How a source is laid out


def test_image_folder_with_sides_is_recognised_and_a_folder_of_folders_is_not(tmp_path: Path) -> None:
    for place in ("train/cat/1", "train/dog/2", "val/cat/3"):
        picture(tmp_path / f"{place}.png")
    assert {name: item.label for name, item in read(tmp_path)[0].items()} == {
        "1.png": "cat",
        "2.png": "dog",
        "3.png": "cat",
    }
    assert {item.label for item in read(tmp_path / "train")[0].values()} == {None}


# Anything at all


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        picture(Path(folder) / "a.png")
        yield Path(folder)


ANYTHING = st.text(max_size=300)
NUMBERS = st.sampled_from(["0", "1", "0.5", "-1", "1e400", "nan", "x", "0.1", "", "\0", "9" * 400])
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5)
    | st.sampled_from(["a.png", "../a.png", 1]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["images", "annotations", "categories", "id", "image_id", "category_id", "file_name", "bbox",
                         "segmentation", "width", "height", "name"]), inner, max_size=6),
    max_leaves=30,
)  # fmt: skip


@settings(max_examples=80)
@given(ANYTHING | st.lists(NUMBERS, max_size=12).map(" ".join))
def test_any_yolo_text_is_read_or_refused(sandbox: Path, text: str) -> None:
    write(sandbox / "a.txt", text)
    found, refused = read(sandbox, labels_from="yolo")
    assert len(found) + len(refused) == 1


@settings(max_examples=80)
@given(ANYTHING, st.sampled_from(["", "path,label\n", "path;label;time\n", "path\tlabel\tgroup\n"]))
def test_any_csv_is_read_or_refused(sandbox: Path, text: str, head: str) -> None:
    path = write(sandbox / "any.csv", head + text)
    with contextlib.suppress(BadInput):
        read(path)


@settings(max_examples=80)
@given(ANYTHING | JSON.map(json.dumps))
def test_any_json_is_read_or_refused(sandbox: Path, text: str) -> None:
    items = list(open_source(str(write(sandbox / "any.json", text))).items())
    assert all(isinstance(item, Refused) or item.name == "a.png" for item in items)


@settings(max_examples=80)
@given(
    ANYTHING
    | st.tuples(ANYTHING, st.lists(NUMBERS.filter(bool), min_size=4, max_size=4)).map(
        lambda said: voc(said[0], " ".join(said[1]))
    )
)
def test_any_xml_is_read_or_refused(sandbox: Path, text: str) -> None:
    found, refused = read(write(sandbox / "any.xml", text))
    assert len(found) + len(refused) == 1


@settings(max_examples=80)
@given(ANYTHING | JSON.map(json.dumps))
def test_any_yaml_is_read_or_refused(sandbox: Path, text: str) -> None:
    path = write(sandbox / "any.yaml", text)
    with contextlib.suppress(BadInput):
        read(path)

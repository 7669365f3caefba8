"""From a graph's numbers to boxes, beside what the detectors' own authors do with the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.errors import BadInput
from everlearn.model.detecting.outputs import UNKNOWN, Outputs
from everlearn.model.detecting.placing import Placed, letterbox, shrunk, surest

NAMES = ("a", "b", "c")
SIZE = (96, 128)


def how(kind: str, classes: tuple[str, ...] = NAMES, **said: object) -> Outputs:
    return Outputs.parse({"kind": kind, "classes": list(classes), "size": list(SIZE), **said})


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """(rows, 4 + C): middles and sides in px that overlap a lot, and scores."""
    rng = np.random.default_rng(seed)
    rows, width = shape
    middles = np.repeat(rng.uniform(5, 90, (rows // 6 + 1, 4)), 6, axis=0)[:rows] + rng.normal(0, 2, (rows, 4))
    return np.concatenate([middles, rng.random((rows, width - 4)) ** 3], axis=1).astype(np.float32)


def as_rows(boxes, names: tuple[str, ...] = NAMES) -> np.ndarray:
    return np.array([(b.x, b.y, b.x + b.width, b.y + b.height, b.confidence, names.index(b.label)) for b in boxes])


@pytest.fixture(scope="module")
def ultralytics():
    pytest.importorskip("ultralytics")
    from everlearn.model.detecting import quiet

    with quiet.importing():
        from ultralytics.data.augment import LetterBox
        from ultralytics.utils.nms import non_max_suppression
        from ultralytics.utils.ops import scale_boxes
    return LetterBox, non_max_suppression, scale_boxes


@pytest.mark.parametrize(
    "shape", [(96, 128), (40, 300), (301, 77), (1, 500), (500, 1), (97, 129), (480, 640), (31, 17)]
)
def test_the_letterbox_is_ultralytics_own(ultralytics, shape):
    image = picture(*shape)
    np.testing.assert_array_equal(letterbox(image, SIZE), ultralytics[0](SIZE)(image=image))
    stretched = ultralytics[0](SIZE, scale_fill=True)(image=image)
    np.testing.assert_array_equal(letterbox(image, SIZE, "stretch"), stretched)
    corner = ultralytics[0](SIZE, center=False)(image=image)
    np.testing.assert_array_equal(letterbox(image, SIZE, "corner"), corner)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from(["letterbox", "corner", "stretch"]))
def test_what_was_shrunk_is_seen_alike_and_never_larger(height, width, fit):
    image = picture(height, width)
    small = shrunk(image, SIZE, fit)
    assert small.shape[0] * small.shape[1] <= height * width
    assert max(small.shape[0] / SIZE[0], small.shape[1] / SIZE[1]) <= 1 or small.size <= SIZE[0] * SIZE[1] * 3
    np.testing.assert_array_equal(letterbox(small, SIZE, fit), letterbox(image, SIZE, fit))
    assert Placed.of(small, SIZE, fit) == Placed.of(image, SIZE, fit)


def test_a_box_finds_its_place_again():
    """What is drawn on the image lies, in the letterbox, where its box leads back to."""
    image = np.zeros((200, 500, 3), np.uint8)
    image[50:150, 100:300] = 255
    seen = letterbox(image, SIZE, pad=(0, 0, 0))[..., 0] > 127
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    corners = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]])
    np.testing.assert_allclose(Placed.of(image, SIZE, "letterbox").shares(corners), [[0.2, 0.25, 0.6, 0.75]], atol=0.02)


@pytest.mark.parametrize(("count", "overlap"), [(5, 0.5), (400, 0.3), (400, 0.7), (3000, 0.7), (9000, 0.95)])
def test_suppression_is_torchvisions(count, overlap):
    rows = numbers(count, 5, seed=count)
    corners = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], axis=1)
    classes = np.random.default_rng(1).integers(0, 4, count)
    expected = torchvision.ops.batched_nms(
        torch.from_numpy(corners).double(), torch.from_numpy(rows[:, 4]).double(), torch.from_numpy(classes), overlap
    )
    found = surest(corners, rows[:, 4], classes, overlap, 300)
    np.testing.assert_array_equal(found, expected.numpy()[:300])


@pytest.mark.parametrize("least", [0.001, 0.25])
def test_yolo_is_decoded_as_ultralytics_decodes_it(ultralytics, least):
    _, suppress, scale = ultralytics
    image, rows = picture(77, 211), numbers(900, 7)
    expected = suppress(torch.from_numpy(rows.T[None]), least, 0.7, max_det=300)[0]
    corners = scale(SIZE, expected[:, :4].clone(), image.shape) / torch.tensor([211.0, 77, 211, 77])
    what = how("yolo")
    boxes = what.boxes(what.candidates([rows.T], least), Placed.of(image, SIZE, "letterbox"), 0.7)
    thick = ((corners[:, 2:] - corners[:, :2]).amin(1) > 1e-6).numpy()  # some lie beside the image
    expected = torch.cat([corners, expected[:, 4:]], 1).numpy()[thick]
    assert len(boxes) > 50
    np.testing.assert_allclose(as_rows(boxes), expected, atol=1e-5)


def test_chosen_boxes_are_taken_as_they_are(ultralytics):
    _, suppress, scale = ultralytics
    image, rows = picture(77, 211), numbers(300, 5, seed=3)
    rows[:, 2:4] += rows[:, :2]
    table = np.concatenate([rows, np.arange(300)[:, None] % 3], axis=1).astype(np.float32)
    table = table[np.argsort(-table[:, 4])]
    table[200:, 4] = 0  # rows that are not used
    expected = suppress(torch.from_numpy(table[None]), 0.01, 0.7)[0]
    corners = scale(SIZE, expected[:, :4].clone(), image.shape) / torch.tensor([211.0, 77, 211, 77])
    what = how("nms")
    boxes = what.boxes(what.candidates([table], 0.01), Placed.of(image, SIZE, "letterbox"), 0.01)
    thick = ((corners[:, 2:] - corners[:, :2]).amin(1) > 1e-6).numpy()
    np.testing.assert_allclose(as_rows(boxes), torch.cat([corners, expected[:, 4:]], 1).numpy()[thick], atol=1e-5)


def official_fastestdet(maps: torch.Tensor, least: float, overlap: float) -> np.ndarray:
    """What FastestDet's own handle_preds does, said again: (K, 6) x1 y1 x2 y2 in shares, score, class."""
    pred = maps.permute(1, 2, 0)
    height, width = pred.shape[:2]
    score = (pred[..., 0] ** 0.6) * (pred[..., 5:].max(-1)[0] ** 0.4)
    gy, gx = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = (pred[..., 1].tanh() + gx) / width, (pred[..., 2].tanh() + gy) / height
    w, h = pred[..., 3].sigmoid(), pred[..., 4].sigmoid()
    boxes = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1).reshape(-1, 4)
    score, label = score.reshape(-1), pred[..., 5:].argmax(-1).reshape(-1)
    sure = score > least
    boxes, score, label = boxes[sure], score[sure], label[sure]
    kept = torchvision.ops.batched_nms(boxes, score, label, overlap)
    return torch.cat([boxes[kept].clip(0, 1), score[kept, None], label[kept, None]], 1).numpy()


def test_fastestdet_is_decoded_as_its_author_decodes_it():
    rng = np.random.default_rng(0)
    maps = np.concatenate([rng.random((1, 6, 8)), rng.normal(0, 1, (4, 6, 8)), rng.random((3, 6, 8))]).astype(
        np.float32
    )
    what = how("fastestdet", fit="stretch")
    boxes = what.boxes(what.candidates([maps], 0.2), Placed.of(picture(50, 70), SIZE, "stretch"), 0.45)
    expected = official_fastestdet(torch.from_numpy(maps), 0.2, 0.45)
    assert len(boxes) > 10
    np.testing.assert_allclose(as_rows(boxes), expected, atol=1e-5)


def test_objectness_weighs_the_classes():
    rows = numbers(40, 8)
    told = how("yolov5").candidates([rows], 0.1)
    both = rows[:, 4] * rows[:, 5:].max(1)
    assert len(told.scores) == (both >= 0.1).sum() > 3
    np.testing.assert_allclose(told.scores, both[both >= 0.1], rtol=1e-6)
    np.testing.assert_array_equal(told.classes, rows[both >= 0.1, 5:].argmax(1))


def test_transformers_give_shares_in_one_table_or_in_two():
    rows = numbers(30, 7)
    rows[:, :4] /= 100
    one = how("detr").candidates([rows], 0.2)
    with np.errstate(divide="ignore"):
        logits = np.log(rows[:, 4:] / (1 - rows[:, 4:]))
    two = how("detr", logits=True).candidates([rows[:, :4], logits], 0.2)
    kept = rows[:, 4:].max(1) >= 0.2
    left = (rows[kept, 0] - rows[kept, 2] / 2) * SIZE[1]
    np.testing.assert_allclose(one.corners[:, 0], left, rtol=1e-5)
    for first, second in zip(one, two, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-4)


def test_the_input_is_what_the_description_says():
    image = picture(*SIZE)
    x = how("yolo", colours="BGR", mean=[0.1, 0.2, 0.3], std=2).input([image], np.float32)
    assert x.shape == (1, 3, *SIZE) and x.dtype == np.float32 and x.flags.c_contiguous
    np.testing.assert_allclose(x[0, 0], (image[..., 2] / 255 - 0.1) / 2, atol=1e-6)
    np.testing.assert_allclose(x[0, 2], (image[..., 0] / 255 - 0.3) / 2, atol=1e-6)
    assert how("yolo", layout="NHWC", scale=1).input([image], np.float16)[0, 3, 5, 1] == image[3, 5, 1]
    np.testing.assert_array_equal(how("yolo", layout="NHWC").input([image], np.uint8)[0], image)


def test_what_is_no_number_is_no_box():
    rows = numbers(60, 7)
    rows[:, 4] = 0.9
    clean = how("yolo").candidates([rows[3:].T], 0.5)
    rows[0, 0], rows[1, 4], rows[2, 3] = np.nan, np.nan, np.inf
    found = how("yolo").candidates([rows.T], 0.5)
    np.testing.assert_array_equal(found.corners, clean.corners)
    far = numbers(4, 7)
    far[:, 4], far[:, 2:4] = 0.9, 1e37
    boxes = how("yolo").boxes(how("yolo").candidates([far.T], 0.1), Placed.of(picture(9, 9), SIZE, "letterbox"), 0.7)
    assert all(0 <= b.x <= b.x + b.width <= 1 and 0 <= b.y <= b.y + b.height <= 1 for b in boxes)
    table = np.zeros((3, 6), np.float32)
    table[0] = np.nan
    assert len(how("nms").candidates([table], 0.0).scores) == 0


def test_numbers_that_are_not_what_was_said():
    rows = numbers(60, 7)
    with pytest.raises(BadInput, match="logits: true"):
        how("yolo").candidates([rows.T * 20], 0.1)
    with pytest.raises(BadInput, match="found class 2; the description names 2"):
        how("nms", NAMES[:2]).candidates([np.array([[1, 1, 5, 5, 0.9, 2]], np.float32)], 0.1)


def test_at_most_300_boxes():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 5000, (2000, 2))
    rows = np.concatenate([corners, np.full((2000, 2), 3), rng.random((2000, 3))], axis=1).astype(np.float32)
    what = Outputs.parse({"kind": "yolo", "classes": list(NAMES), "size": [5000, 5000]})
    boxes = what.boxes(what.candidates([rows.T], 0.001), Placed.of(picture(50, 50), what.size, "letterbox"), 0.7)
    assert len(boxes) == 300
    assert [b.confidence for b in boxes] == sorted((b.confidence for b in boxes), reverse=True)
    assert boxes[0].confidence == pytest.approx(rows[:, 4:].max())


def test_a_description_comes_back_as_it_was():
    what = how("nms", colours="BGR", pad=[1, 2, 3], mean=0.5, shares=True, licence="MIT", outputs=["x"], overlap=0.45)
    assert Outputs.parse(what.to_json()) == what
    named = {"kind": "yolo", "classes": {0: "a", 1: "b", 2: "c"}, "size": list(SIZE)}
    assert Outputs.parse(named) == how("yolo")
    assert how("yolo").licence == UNKNOWN


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"colour": "RGB"}, "unknown key 'colour'.*Known: kind"),
        ({"kind": "yolo9000"}, "kind 'yolo9000' cannot be: one of yolo, yolov5"),
        ({"size": 4}, "size '4' cannot be"),
        ({"size": True}, "size 'True' cannot be"),
        ({"size": [64, 64, 64]}, "size"),
        ({"classes": []}, "a list of names"),
        ({"classes": ["a", "a"]}, "a stands twice"),
        ({"classes": {1: "a"}}, "numbers of the classes"),
        ({"classes": "abc"}, "a list of names"),
        ({"classes": ["a\n"] * 2}, "stands twice"),
        ({"classes": ["a\x1b[31m"]}, "not printable"),
        ({"confidence": 2}, "number of 0 to 1"),
        ({"confidence": float("nan")}, "number of 0 to 1"),
        ({"std": 0}, "std '0' cannot be"),
        ({"mean": [1, 2]}, "one number or three"),
        ({"mean": {"r": 1}}, "mean"),
        ({"pad": 300}, "pad"),
        ({"logits": "yes"}, "true or false"),
        ({"layout": "CHW"}, "one of NCHW, NHWC"),
        ({"outputs": "x"}, "a list of one name"),
    ],
)  # fmt: skip
def test_a_description_that_cannot_be(said, says):
    with pytest.raises(BadInput, match=says):
        Outputs.parse({"kind": "yolo", "classes": ["a"], "size": 64, **said}, "d.yaml")


def test_files_that_are_no_description(tmp_path: Path):
    path = tmp_path / "d.yaml"
    for text, says in [
        ("- a", "not a list of keys"), ("kind: yolo", "does not say classes"), ("a: [", "cannot be read"),
        ("!!python/object/apply:os.system ['true']", "cannot be read"), ("[" * 1500, "cannot be read"),
        ("x" * (2 << 20), "too large"),
    ]:  # fmt: skip
        path.write_text(text)
        with pytest.raises(BadInput, match=says):
            Outputs.read(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read"):
        Outputs.read(path)
    path.write_text('{"kind": "yolo", "classes": ["a"], "size": 64}')  # JSON is YAML
    assert Outputs.read(path).classes == ("a",)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("yolo", [(1, 7, 525)], [(1, 525, 7)]), ("yolov5", [(None, 25200, 8)], [(1, 7, 525)]),
        ("nms", [(1, None, 6)], [(1, 300, 7)]), ("fastestdet", [(1, 8, 22, 22)], [(1, 85, 22, 22)]),
        ("detr", [(1, 300, 4), (1, 300, 3)], [(1, 300, 4), (1, 300, 4)]), ("detr", [(1, 300, 7)], [(1, 300)]),
        ("yolo", [(None, None, None)], []), ("yolo", [(1, 7, 9)], [(1, 7, 9), (1, 7, 9)]),
    ],
)  # fmt: skip
def test_shapes_are_compared_with_what_is_said(kind, good, bad):
    how(kind).expect(good, "x.onnx")
    with pytest.raises(BadInput, match=rf"x.onnx gives .*; a {kind} of 3 classes gives \("):
        how(kind).expect(bad, "x.onnx")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nclasses: [*a, *a]\nkind: yolo\nsize: 64",  # billions, with a few lines more
        "kind: yolo\nclasses: [a]\nsize: 2020-99-99",
        "kind: yolo\nclasses: [a]\nsize: 0x" + "f" * 6000,
    ],
)
def test_a_description_that_is_a_bomb(tmp_path: Path, text):
    (tmp_path / "d.yaml").write_text(text)
    with pytest.raises(BadInput, match=r"d\.yaml cannot be read"):
        Outputs.read(tmp_path / "d.yaml")


def test_an_endless_number_is_no_size():
    with pytest.raises(BadInput, match="size 'an endless number' cannot be"):
        Outputs.parse({"kind": "yolo", "classes": ["a"], "size": 16**6000}, "d.yaml")

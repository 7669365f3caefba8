"""Detectors as ONNX files: ours, Ultralytics', FastestDet, and files that are none or mean harm."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from everlearn.cli.main import run
from everlearn.errors import BadInput, Corrupt, Missing
from everlearn.model.bundle import OnnxModel
from everlearn.model.detecting.bundle import export_detector
from everlearn.model.detecting.detector import load_detector
from everlearn.model.detecting.onnx import OnnxDetector
from everlearn.model.detecting.outputs import Outputs
from everlearn.model.detecting.parity import check
from everlearn.model.detecting.placing import Placed, letterbox
from everlearn.model.serving import serving_of
from tests.model.detecting.graphs import COCO, constant, poisoned, yolo
from tests.model.detecting.test_outputs import official_fastestdet
from tests.scenes import scene

ROWS = [[8, 8, 8, 8, 0.9, 0], [9, 8, 8, 8, 0.6, 0], [24, 24, 8, 4, 0.3, 0], [16, 16, 30, 30, 0.1, 0]]
"""Two of one thing, another, and one that is `light` in light images."""
WHAT = Outputs("yolo", ("thing", "light"), (32, 32))


def light(value: int, height: int = 40, width: int = 40) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def found(detector: OnnxDetector, image: np.ndarray, **how) -> list[tuple]:
    return [(b.label, round(b.confidence, 3), round(b.x, 3), round(b.y, 3), round(b.width, 3), round(b.height, 3))
            for b in detector.detect([image], **how)[0]]  # fmt: skip


def test_boxes_of_an_image_are_shares_of_its_sides():
    detector = OnnxDetector(yolo(ROWS), WHAT)
    dark = [("thing", 0.9, 0.125, 0.125, 0.25, 0.25), ("thing", 0.3, 0.625, 0.688, 0.25, 0.125)]
    assert found(detector, light(0), least=0.2) == dark
    assert found(detector, light(0), least=0.2, overlap=0.9)[1][:2] == ("thing", 0.6)
    assert found(detector, light(255), least=0.95)[0] == ("light", 1, 0.125, 0.125, 0.25, 0.25)
    wide = found(detector, light(0, 20, 40), least=0.5)  # a letterbox: 16 px high, from the 8th on
    assert wide == [("thing", 0.9, 0.125, 0, 0.25, 0.25)]
    assert detector.detect([]) == []
    assert detector.size == 32 and detector.classes == ("thing", "light")
    grey = np.zeros((40, 40), np.uint8)
    assert found(detector, grey, least=0.2) == dark
    with pytest.raises(BadInput, match="uint8; this is"):
        detector.detect([np.zeros((4, 4, 4), np.uint8)])


@pytest.mark.parametrize("batch", [1, 3, "N"])
def test_a_batch_is_as_wide_as_the_graph_takes_it(batch):
    detector = OnnxDetector(yolo(ROWS, batch=batch), WHAT)
    images = [light(value) for value in range(0, 250, 25)]
    many = detector.detect(images)
    assert len(many) == 10 and many == [detector.detect([image])[0] for image in images]
    assert [boxes[0].label for boxes in many] == ["thing"] * 10
    lights = [max((b.confidence for b in boxes if b.label == "light"), default=0) for boxes in many]
    assert lights[-1] == 0 or lights == sorted(lights)


def test_float16_and_pixels_as_they_are_go_in():
    half = OnnxDetector(yolo(ROWS, dtype=TensorProto.FLOAT16), WHAT)
    assert half.detect([light(0)]) == OnnxDetector(yolo(ROWS), WHAT).detect([light(0)])
    bytes_ = OnnxDetector(yolo(ROWS, dtype=TensorProto.UINT8), WHAT)
    assert found(bytes_, light(0), least=0.5) == found(half, light(0), least=0.5)


def test_the_description_lies_beside_the_file(tmp_path: Path):
    path = tmp_path / "door.onnx"
    path.write_bytes(yolo(ROWS))
    with pytest.raises(BadInput, match=r"does not say what its outputs mean. Write .*door.yaml; kinds: yolo"):
        OnnxDetector(path)
    (tmp_path / "door.yaml").write_text("kind: yolo\nclasses: [thing, light]\nsize: 32\nlicence: MIT\n")
    detector = load_detector("onnx:door.onnx", tmp_path)
    assert detector.licence == "MIT" and detector.spec == f"onnx:{path}"
    assert detector.detect([light(9)]) == OnnxDetector(yolo(ROWS), WHAT).detect([light(9)])
    assert OnnxDetector(yolo(ROWS), WHAT).licence == "unknown: ask where it came from"
    (tmp_path / "door.yaml").write_text("kind: yolo\nclasses: [thing, light]\nsize: 64\n")
    with pytest.raises(BadInput, match=r"takes \[None, 3, 32, 32\]; the description says NCHW, 64 x 64"):
        OnnxDetector(path)
    with pytest.raises(Missing):
        load_detector("onnx:nothing.onnx", tmp_path)


def test_a_bundle_says_all_by_itself(tmp_path: Path, monkeypatch, capsys):
    card = {"name": "v1.2", "learner": "yolo", "weights": [1, 2]}
    data = export_detector(yolo(ROWS, metadata={"stride": "8"}), WHAT, card=card, thresholds={"thing": 0.5})
    detector = serving_of(data)
    assert isinstance(detector, OnnxDetector) and detector.card == card
    assert detector.description == WHAT and detector.metadata["task"] == "detect" and detector.metadata["stride"] == "8"
    assert detector.thresholds == {"thing": 0.5, "light": 0.25}
    said = detector.predict([light(0), light(250)])
    assert [one.label for one in said] == ["thing", "light"]
    assert [(b.label, round(b.confidence, 2)) for b in said[0].boxes] == [("thing", 0.9)]
    assert said[1].confidence == pytest.approx(max(said[1].scores.values())) and next(iter(said[1].scores)) == "light"
    assert OnnxDetector(yolo([[4, 4, 2, 2, 0.1, 0]]), WHAT).predict([light(0)])[0] == type(said[0])(
        None, 0.0, {}, boxes=()
    )
    assert export_detector(data, card=card, thresholds={"thing": 0.5}) == data  # a bundle of a bundle is the same
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(data)
    cv2.imwrite("dark.png", light(0))
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert run(["predict", "dark.png", "bad.png", "--model", "m.onnx", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["predictions"]
    assert first["label"] == "thing" and first["confidence"] == 0.9 and second["error"] and "boxes" not in second
    box = {"label": "thing", "confidence": 0.9, "x": 0.125, "y": 0.125, "width": 0.25, "height": 0.25}
    assert first["boxes"] == [box]
    assert run(["predict", "dark.png", "--model", "m.onnx"]) == 0
    assert "thing 0.90" in capsys.readouterr().out


def test_photos_are_kept_no_larger_than_needed():
    detector = OnnxDetector(yolo(ROWS), WHAT)
    photo = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)
    small = detector.prepare([photo])[0]
    assert small.shape == (24, 32, 3)
    assert detector.detect([small]) == detector.detect([photo])


def test_fastestdet_finds_what_its_author_finds(shared: Path, tmp_path: Path):
    path = tmp_path / "FastestDet.onnx"
    path.write_bytes((shared / "weights/FastestDet.onnx").read_bytes())
    said = {"kind": "fastestdet", "classes": COCO, "size": 352, "colours": "BGR", "fit": "stretch"}
    (tmp_path / "FastestDet.onnx.yaml").write_text(json.dumps(said))
    detector = OnnxDetector(path)
    files = sorted((shared / "data/lfw_10x10/images").rglob("*.jpg"))[:3]
    files += sorted((shared / "data/raccoon_voc/images").iterdir())[:2]
    images = [cv2.imread(str(one)) for one in files]
    mine = detector.detect([image[..., ::-1] for image in images], least=0.2, overlap=0.45)
    network = onnx.load(path)
    for image, boxes in zip(images, mine, strict=True):
        x = cv2.resize(image, (352, 352)).transpose(2, 0, 1)[None].astype(np.float32) / 255
        maps = OnnxDetector(network.SerializeToString(), detector.description)._session.run(None, {"input.1": x})[0][0]
        expected = official_fastestdet(torch.from_numpy(maps), 0.2, 0.45)
        rows = [(b.x, b.y, b.x + b.width, b.y + b.height, b.confidence, COCO.index(b.label)) for b in boxes]
        np.testing.assert_allclose(rows, expected, atol=1e-5)
    assert [one.label for one in detector.predict([image[..., ::-1] for image in images[:3]])] == ["person"] * 3
    with pytest.raises(BadInput, match="is not a model that Everlearn exported"):
        OnnxModel(path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory):
    """(a network of Ultralytics, its own ONNX export); opinions instead of training."""
    pytest.importorskip("ultralytics")
    from everlearn.model.detecting import quiet

    with quiet.importing():
        from ultralytics import YOLO
    folder, before = tmp_path_factory.mktemp("yolo"), Path.cwd()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = YOLO("yolov8n.yaml")
    for module in model.model.modules():  # what it sees reaches its head, as after training
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(module.running_var, 0.16)
    for level in model.model.model[-1].cv3:  # and that has opinions
        torch.nn.init.normal_(level[-1].weight, std=0.6)
        torch.nn.init.constant_(level[-1].bias, -3)
    try:
        os.chdir(folder)
        path = folder / model.export(format="onnx", imgsz=96, simplify=False, verbose=False)
    finally:
        os.chdir(before)
    return YOLO(str(path), task="detect"), path, model.model


def test_an_export_of_ultralytics_needs_no_description(exported):
    theirs, path, _ = exported
    detector = serving_of(path)
    assert isinstance(detector, OnnxDetector)
    assert detector.description.kind == "yolo" and detector.size == 96 and len(detector.classes) == 80
    assert detector.licence.startswith("AGPL-3.0")
    images = [scene(seed, side=120)[0][: 120 - 9 * seed] for seed in range(4)]
    boxes = agreed = 0
    for image, mine in zip(images, detector.detect(images, least=0.05, overlap=0.5), strict=True):
        said = theirs.predict(image[..., ::-1], imgsz=96, conf=0.05, iou=0.5, verbose=False, save=False)[0].boxes
        expected = np.column_stack([said.xyxyn.numpy(), said.conf.numpy(), said.cls.numpy()])
        names = list(detector.classes)
        rows = [(b.x, b.y, b.x + b.width, b.y + b.height, b.confidence, names.index(b.label)) for b in mine]
        apart = np.abs(np.array(rows)[:, None] - expected[None]).max(2)
        boxes += len(rows) + len(expected)
        agreed += (apart.min(1) < 5e-4).sum() + (apart.min(0) < 5e-4).sum()
    assert boxes > 100 and agreed >= 0.98 * boxes  # an overlap of 0.5 is 0.4999999 with other threads
    bundle = export_detector(path.read_bytes(), card={"name": "v1.1"})
    (path.parent / "bundle.onnx").write_bytes(bundle)
    assert OnnxDetector(bundle).detect(images) == detector.detect(images)
    from ultralytics import YOLO  # opens our bundle as it opens its own export

    again = YOLO(str(path.parent / "bundle.onnx"), task="detect")
    other = again.predict(images[0][..., ::-1], imgsz=96, conf=0.05, verbose=False, save=False)[0]
    same = theirs.predict(images[0][..., ::-1], imgsz=96, conf=0.05, verbose=False, save=False)[0]
    assert torch.equal(other.boxes.data, same.boxes.data) and other.names == same.names


class Torch:
    """The network itself, as a detector."""

    spec, licence, size, classes = "torch", "", 96, ()

    def __init__(self, network: torch.nn.Module, classes: tuple[str, ...]) -> None:
        self.network, self.classes, self.how = network.eval(), classes, Outputs("yolo", classes, (96, 96))

    def detect(self, images, *, least=0.001, overlap=0.7):
        x = self.how.input([letterbox(image, (96, 96)) for image in images], np.float32)
        with torch.no_grad():
            raw = self.network(torch.from_numpy(x))[0].numpy()
        return [
            self.how.boxes(self.how.candidates([one], least), Placed.of(image, (96, 96), "letterbox"), overlap)
            for one, image in zip(raw, images, strict=True)
        ]


def test_torch_and_onnx_are_held_side_by_side(exported):
    _, path, network = exported
    detector = OnnxDetector(path)
    first, images = Torch(network, detector.classes), [scene(seed, side=80)[0] for seed in range(3)]
    assert 0 < check(first, detector, images) < 1e-4
    for other, says in [
        (Outputs("yolo", ("other", *detector.classes[1:]), (96, 96)), "names other classes"),
        (Outputs("yolo", detector.classes, (96, 96), colours="BGR"), "differs from torch in a box by"),
    ]:
        with pytest.raises(Corrupt, match=says):
            check(first, OnnxDetector(path, other), images)


def test_parity_sees_each_way_to_differ():
    first = OnnxDetector(yolo(ROWS), WHAT)
    images = [light(0), light(100)]
    assert check(first, OnnxDetector(yolo(ROWS), WHAT), images) == 0
    near = [[8.01, *ROWS[0][1:]], *ROWS[1:]]
    assert check(first, OnnxDetector(yolo(near), WHAT), images) == pytest.approx(0.01 / 32, rel=0.01)
    surer = [[*ROWS[0][:4], 0.95, 0], *ROWS[1:]]
    gone, added = ROWS[1:], [*ROWS, [20, 9, 5, 5, 0.4, 0]]
    for other in ([[8.1, *ROWS[0][1:]], *ROWS[1:]], surer, gone, added):
        with pytest.raises(Corrupt, match="a box by"):
            check(first, OnnxDetector(yolo(other), WHAT), images)
    turned = [[*row[:4], row[5], row[4]] for row in ROWS]
    with pytest.raises(Corrupt, match=r"a box by|the class of"):
        check(first, OnnxDetector(yolo(turned), WHAT), [light(0)])
    nothing = OnnxDetector(yolo([[8, 8, 8, 8, 0, 0]]), WHAT)
    with pytest.raises(Corrupt, match="a box by inf"):
        check(first, nothing, [light(0)])


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "weights.bin"])
def test_weights_in_other_files_are_never_read(tmp_path: Path, location, monkeypatch):
    data = poisoned(yolo(ROWS), location)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(np.zeros(24, np.float32).tobytes())
    (tmp_path / "x.onnx").write_bytes(data)
    for source in (data, tmp_path / "x.onnx"):
        with pytest.raises(BadInput, match=r"keeps its weights in other files|not an ONNX model"):
            OnnxDetector(source, WHAT)
    model = onnx.load_model_from_string(yolo(ROWS))
    tensor = onnx.load_model_from_string(data).graph.initializer[2]
    node = helper.make_node("Constant", [], ["out"], value=tensor)
    opset = [helper.make_opsetid("", 13)]
    model.functions.append(helper.make_function("mine", "F", [], ["out"], [node], opset))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    with pytest.raises(BadInput, match=r"keeps its weights in other files|not an ONNX model"):
        OnnxDetector(model.SerializeToString(), WHAT)


def two_inputs() -> bytes:
    model = onnx.load_model_from_string(yolo(ROWS))
    model.graph.input.append(helper.make_tensor_value_info("sizes", TensorProto.INT64, ["N", 2]))
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"nothing", "not an ONNX model"),
        (yolo(ROWS, batch=10**9), "takes 1000000000 images at once"),
        (yolo(ROWS, batch=65), "takes 65 images at once"),
        (yolo(ROWS, batch=64, side="S"), "takes 64 images of 4096 x 4096 px at once"),
        (yolo(ROWS, side=64), r"takes \[None, 3, 64, 64\]; the description says NCHW, 32 x 32"),
        (yolo([row[:5] for row in ROWS]), r"gives \(\*, 5, 4\); a yolo of 2 classes gives \(\*, 6, \*\)"),
        (constant(np.zeros((6, 2, 2))), r"gives \(\*, 6, 2, 2\)"),
        (two_inputs(), r"takes images .*, sizes .*; a detector takes one tensor of images"),
        (yolo(ROWS, dtype=TensorProto.DOUBLE), "a detector takes one tensor of images"),
    ],
)  # fmt: skip
def test_graphs_that_are_no_such_detector(data, says):
    large = replace(WHAT, size=(4096, 4096))
    with pytest.raises(BadInput, match=says):
        OnnxDetector(data, large if "4096" in says else WHAT)


def open_shape(data: bytes, repeated: str = "", axis: int = 0) -> bytes:
    """The same, its output through an operator that onnxruntime cannot see through; a weight repeated five times."""
    model = onnx.load_model_from_string(data)
    for tensor in model.graph.initializer:
        if tensor.name == repeated:
            tensor.CopyFrom(numpy_helper.from_array(np.repeat(numpy_helper.to_array(tensor), 5, axis), repeated))
    model.graph.node[-1].output[0] = "hidden"
    shape = helper.make_node("Shape", ["hidden"], ["shape"])
    model.graph.node.extend([shape, helper.make_node("Reshape", ["hidden", "shape"], ["found"])])
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("found", TensorProto.FLOAT, ["N", "C", "A"]))
    return model.SerializeToString()


def test_outputs_that_turn_out_otherwise():
    """Shapes that a graph leaves open are looked at when it runs."""
    lies = OnnxDetector(open_shape(yolo([row[:5] for row in ROWS])), WHAT)
    with pytest.raises(BadInput, match=r"gives \(1, 5, 4\); a yolo of 2 classes gives"):
        lies.detect([light(0)])
    crowd = OnnxDetector(open_shape(yolo(ROWS), "table", 0), WHAT)
    with pytest.raises(BadInput, match=r"gives \(5, 6, 4\) for 1 images"):
        crowd.detect([light(0)])
    free = OnnxDetector(yolo(ROWS, side="S"), Outputs("yolo", WHAT.classes, (48, 64)))
    assert free.detect([light(0)])
    wrong = [[*ROWS[0][:4], 7, 0]]
    with pytest.raises(BadInput, match="a score of 7, above 1"):
        OnnxDetector(yolo(wrong), WHAT).detect([light(0)])
    nan = [[np.nan, *ROWS[0][1:]], [*ROWS[0][:2], np.inf, *ROWS[0][3:]], *ROWS[1:]]
    assert [b.confidence for b in OnnxDetector(yolo(nan), WHAT).detect([light(0)], least=0.2)[0]] == pytest.approx(
        [0.6, 0.3]
    )
    with pytest.raises(BadInput, match=r"has no output boxes\. It has: found"):
        OnnxDetector(yolo(ROWS), Outputs("yolo", WHAT.classes, (32, 32), outputs=("boxes",)))


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"names": "{0: 'a', 1: 'b'}", "imgsz": "[32, 32]", "task": "segment"}, "a model for segment"),
        ({"names": "__import__('os').system('true')", "imgsz": "[32, 32]"}, "cannot be read"),
        ({"names": "{0: 'a', 1: 'b'}", "imgsz": "(" * 9000}, "cannot be read"),
        ({"names": "[" * (1 << 21), "imgsz": "[32, 32]"}, "cannot be read"),
        ({"names": "['a', 'a']", "imgsz": "[32, 32]"}, "a stands twice"),
        ({"names": "['a']", "imgsz": "[32, 32]"}, "of 1 classes"),
        ({"names": "['a', 'b']", "imgsz": "10**9"}, "cannot be read"),
        ({"everlearn.format": "everlearn 1", "everlearn.task": "classify"}, "a model for classify"),
        ({"everlearn.format": "everlearn 1", "everlearn.outputs": "{"}, "outputs cannot be read"),
        ({"everlearn.format": "everlearn 1", "everlearn.outputs": "{}"}, "does not say kind"),
    ],
)  # fmt: skip
def test_what_files_say_of_themselves_is_checked(said, says):
    with pytest.raises((BadInput, Corrupt), match=says):
        OnnxDetector(yolo(ROWS, metadata=said))


def test_bundles_with_thresholds_that_cannot_be():
    with pytest.raises(BadInput, match=r"threshold of 0.5 for .dog."):
        export_detector(yolo(ROWS), WHAT, thresholds={"dog": 0.5})
    with pytest.raises(BadInput, match=r"threshold of 1.5"):
        export_detector(yolo(ROWS), WHAT, thresholds={"thing": 1.5})
    model = onnx.load_model_from_string(export_detector(yolo(ROWS), WHAT))
    said = {one.key: one.value for one in model.metadata_props} | {"everlearn.thresholds": '{"dog": 1}'}
    del model.metadata_props[:]
    helper.set_model_props(model, said)
    with pytest.raises(Corrupt, match="thresholds cannot be read"):
        OnnxDetector(model.SerializeToString())


def test_a_model_of_classes_is_served_as_before(tmp_path: Path):
    (tmp_path / "x.onnx").write_bytes(yolo(ROWS))
    for source in (b"nothing", tmp_path / "x.onnx"):
        with pytest.raises(BadInput, match=r"not an ONNX model|not a model that Everlearn exported"):
            serving_of(source)

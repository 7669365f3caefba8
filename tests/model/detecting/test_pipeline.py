"""A detector whose boxes are told apart: one more detector to everything else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from everlearn.errors import BadInput, Corrupt
from everlearn.image.crop import crop
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.fit import fit
from everlearn.learn.exact.head import Head
from everlearn.learn.exact.memory import ExactMemory
from everlearn.model.backbone import load_backbone
from everlearn.model.bundle import KEY, OnnxModel, export_head
from everlearn.model.detecting.bundle import export_detector
from everlearn.model.detecting.crops import CropBasis, columns, export_crops, open_crops, table
from everlearn.model.detecting.onnx import OnnxDetector
from everlearn.model.detecting.pipeline import NAMED_FROM, Pipeline, ServedPipeline, beside, with_crops
from everlearn.model.serving import serving_of
from everlearn.naming import UNKNOWN
from everlearn.types import Box
from tests import things

BASIS = CropBasis(load_backbone("patches:small"), dimensions=64)


def head(name: str, kinds: Sequence[str], strangers: int = 8) -> Head:
    """Of crops of drawn things."""
    labels = [f"{name}/{kind}" for kind in kinds for _ in range(6)] + [UNKNOWN] * strangers
    drawn = [(kind, seed) for kind in kinds for seed in range(6)] + [("square", seed) for seed in range(strangers)]
    phi = BASIS.phi([crop(*things.draw(kind, seed)) for kind, seed in drawn])
    memory, folds = ExactMemory(BASIS.digest, 64), np.arange(len(labels)) % 5
    memory.add(phi, labels, folds)
    return fit(memory, Cached([str(n) for n in range(len(labels))], phi, labels, folds), false_accept="equal").head


class Given:
    """A detector that answers what it was given."""

    classes, spec, licence, size = ("cat", "thing"), "given", "none", 96

    def __init__(self, boxes: Sequence[Box]) -> None:
        self.boxes = list(boxes)

    def detect(self, images, *, least: float = 0.0, overlap: float = 1.0) -> list[list[Box]]:
        return [self.boxes for _ in images]


@pytest.fixture(scope="module")
def heads() -> dict[str, Head]:
    return {"thing": head("thing", ("star", "ring")), "cat": head("cat", ("cross",), 0)}


@pytest.fixture(scope="module")
def crops(heads, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("crops") / "crops.onnx"
    assert export_crops(BASIS, heads, path, card={"note": "사과"}) < 1e-3
    return path


def test_the_file_answers_as_python_does_and_says_what_its_columns_are(crops, heads):
    assert columns(heads) == ("cat/cross", "thing/ring", "thing/star", "thing")
    found = open_crops(crops)
    assert found.classes == columns(heads) and found.card == {"note": "사과"}
    assert found.basis_digest == BASIS.digest
    images = [things.draw(kind, seed)[0] for kind in things.KINDS for seed in range(20, 23)]
    np.testing.assert_allclose(found.table(images), table(BASIS, heads, images), atol=1e-4)
    np.testing.assert_allclose(found.table(images)[:, 1:].sum(axis=1), 1, atol=1e-5)


def test_how_a_crop_is_cut_is_a_part_of_its_basis():
    from everlearn.model.basis import Basis

    assert Basis(BASIS.backbone, dimensions=64).digest != BASIS.digest


def test_boxes_are_told_apart_within_their_class_with_joint_confidence(crops):
    image, box = things.draw("star", 50)
    at = (box.x, box.y, box.width, box.height)
    given = [Box("thing", *at, 0.8), Box("cat", *at, 0.7), Box("thing", *at, NAMED_FROM / 2)]
    pipeline = Pipeline(Given(given), open_crops(crops))
    assert pipeline.classes == ("cat", "thing", "cat/cross", "thing/ring", "thing/star")
    first, second, third = sorted(pipeline.detect([image])[0], key=lambda one: (one.label, -(one.confidence or 0)))
    assert first.label == "cat/cross" and first.confidence == pytest.approx(0.7)  # it knows no other cat
    row = open_crops(crops).table([crop(image, box)])[0]
    assert {second.label, third.label} == {"thing", "thing/star"}
    star = third if third.label == "thing/star" else second
    assert star.confidence == pytest.approx(0.8 * row[2], abs=1e-6) and star.x == box.x
    plain = second if star is third else third
    assert plain.confidence == NAMED_FROM / 2  # not worth a look
    assert pipeline.told([image], [[]]) == [[]]


def test_boxes_come_the_surest_first(crops):
    image, box = things.draw("square", 51)
    given = [Box("thing", box.x, box.y, box.width, box.height, 0.9), Box("thing", 0.0, 0.0, 0.2, 0.2, 0.8)]
    found = Pipeline(Given(given), open_crops(crops)).detect([image, image])
    for boxes in found:
        confidences = [one.confidence for one in boxes]
        assert confidences == sorted(confidences, reverse=True)


def test_a_memory_of_another_detector_is_refused(tmp_path, crops):
    class Dogs(Given):
        classes = ("dog",)

    with pytest.raises(Corrupt, match="cat"):
        Pipeline(Dogs([]), open_crops(crops))
    path = tmp_path / "model.onnx"
    export_head(BASIS, Head("ridge", ("a", "b"), np.zeros((64, 2), np.float32), np.zeros(2, np.float32)), path)
    with pytest.raises(Corrupt, match="two parts"):
        open_crops(path)
    with pytest.raises(BadInput):
        export_crops(CropBasis(BASIS.backbone, dimensions=32), {"a": head("a", ("star", "ring"))}, tmp_path / "x.onnx")


@pytest.mark.parametrize("wrong", [np.full((1, 4), np.nan), np.zeros((1, 3)), np.zeros((2, 4))])
def test_answers_that_are_none_are_refused(crops, wrong, monkeypatch):
    monkeypatch.setattr(OnnxModel, "table", lambda self, images: wrong)
    image, box = things.draw("star", 30)
    with pytest.raises(Corrupt, match="The model answers"):
        Pipeline(Given([Box("thing", box.x, box.y, box.width, box.height, 0.9)]), open_crops(crops)).detect([image])
    with pytest.raises(Corrupt, match="The model answers"):
        open_crops(crops).predict([image])


@pytest.mark.parametrize(
    ("key", "value"), [("card", "[" * 5000), ("card", "[]"), ("batch", "x"), ("squares", '[[1e999, "bicubic"]]')]
)
def test_a_memory_whose_description_is_nonsense(crops, key, value):
    model = onnx.load_model_from_string(crops.read_bytes())
    for one in model.metadata_props:
        if one.key == KEY + key:
            one.value = value
    with pytest.raises(Corrupt, match="its description cannot be read"):
        open_crops(model.SerializeToString())


def test_a_memory_reads_no_other_files(crops, tmp_path, monkeypatch):
    model = onnx.load_model_from_string(crops.read_bytes())
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    (tmp_path / "w.bin").write_bytes(tensor.raw_data)
    monkeypatch.chdir(tmp_path)
    for key, value in (("location", "w.bin"), ("offset", "0"), ("length", str(len(tensor.raw_data)))):
        tensor.external_data.add(key=key, value=value)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(BadInput, match="not an ONNX model that can be run"):
        open_crops(model.SerializeToString())


def test_a_bundle_is_opened_with_the_memory_that_lies_beside_it(tmp_path, heads):
    mine = {"thing": heads["thing"]}
    path = tmp_path / "model_v1.0.onnx"
    plain = OnnxDetector(things.detector(tmp_path / "things.onnx"))
    path.write_bytes(export_detector(plain.data, plain.description, card={"name": "v1.0"}, thresholds={"thing": 0.5}))
    assert beside(path) is None and isinstance(serving_of(path), OnnxDetector)
    (tmp_path / "model_v1.0").mkdir()
    export_crops(BASIS, mine, tmp_path / "model_v1.0" / "crops.onnx")
    found = serving_of(path)
    assert isinstance(found, ServedPipeline) and found.card == {"name": "v1.0"}
    images = [things.draw(kind, 60)[0] for kind in ("star", "ring", "square")]
    images.append(np.full((2500, 2500, 3), 40, np.uint8))
    prepared = found.prepare(images)
    assert [one.shape for one in prepared] == [(96, 96, 3)] * 3 + [(2048, 2048, 3)]
    told = found.predict(prepared)
    assert [one.label for one in told[:3]] == ["thing/star", "thing/ring", "thing"]
    assert told[3].label is None and told[3].boxes == ()
    for one in told[:3]:
        assert one.boxes and one.boxes[0].label == one.label and 0 < one.confidence <= 0.9
        assert one.scores == {one.label: one.confidence}
    assert with_crops(plain, None) is plain
    assert isinstance(found.crops, OnnxModel)

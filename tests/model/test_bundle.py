"""One ONNX file that answers as Python does, and is served without any workspace."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from everlearn.errors import BadInput, Corrupt, Missing, StoreFault
from everlearn.learn.exact.head import Head
from everlearn.learn.exact.target import RegressionTarget
from everlearn.model.backbone import Rows, load_backbone
from everlearn.model.basis import Basis
from everlearn.model.bundle import OnnxModel, check_bundle, export_head, probes

CLASSES = ("cat", "개", "line\nbreak, comma")


@pytest.fixture(scope="module", params=["patches", "features"])
def basis(request) -> Basis:
    return Basis(load_backbone(request.param), dimensions=128)


def head(basis: Basis, classes: tuple[str, ...] = CLASSES) -> Head:
    rng = np.random.default_rng(0)
    weights = rng.normal(scale=0.01, size=(basis.dimensions, len(classes))).astype(np.float32)
    return Head("ridge", classes, weights, rng.normal(size=len(classes)).astype(np.float32), 0.7)


def regression(basis: Basis) -> Head:
    weights = np.random.default_rng(1).normal(size=(basis.dimensions, 1)).astype(np.float32)
    return Head("regress", (), weights, np.array([500], np.float32), target=RegressionTarget(-1.0, 1.0, 0.002))


def test_a_classifier_answers_as_python_does(basis, tmp_path):
    path = tmp_path / "model.onnx"
    export_head(basis, head(basis), path, card={"name": "v1", "note": "사과"})
    onnx.checker.check_model(str(path))
    model = OnnxModel(path)
    images = probes(basis)
    wanted = head(basis).probabilities(basis.phi(images))
    np.testing.assert_allclose(model.table(images), wanted, atol=1e-5)
    first = model.predict(images)[0]
    assert first.label == CLASSES[wanted[0].argmax()]
    assert list(first.scores.values()) == sorted(first.scores.values(), reverse=True)
    assert model.classes == CLASSES
    assert model.card == {"name": "v1", "note": "사과"}
    assert (model.basis_digest, model.licence) == (basis.digest, basis.licence)


def test_a_regressor_answers_as_python_does_and_stays_in_its_range(basis, tmp_path):
    path = tmp_path / "model.onnx"
    export_head(basis, regression(basis), path)
    model = OnnxModel(path.read_bytes())
    images = probes(basis)
    wanted = regression(basis).values(basis.phi(images))
    np.testing.assert_allclose(model.table(images)[:, 0], wanted, atol=1e-5)
    assert {abs(one.value) <= 1 for one in model.predict(images)} == {True}
    assert {one.label for one in model.predict(images)} == {None}


def test_the_file_runs_without_us(tmp_path):
    """Any ONNX runtime: the input is a tensor of pixels."""
    basis = Basis(load_backbone("patches"), dimensions=64)
    path = tmp_path / "model.onnx"
    export_head(basis, head(basis), path)
    pixels = basis.prepare(probes(basis))
    found = onnxruntime.InferenceSession(str(path)).run(None, {"images": pixels})[0]
    np.testing.assert_allclose(found, OnnxModel(path).table(list(pixels)), atol=1e-6)


def test_a_file_that_answers_otherwise_is_found_out(basis, tmp_path):
    path = tmp_path / "model.onnx"
    export_head(basis, head(basis), path)
    other = replace(head(basis), bias=np.array([0, 3, 0], np.float32))
    with pytest.raises(Corrupt, match="differs"):
        check_bundle(OnnxModel(path), basis, other)


def test_a_head_of_another_width_is_refused(basis, tmp_path):
    with pytest.raises(BadInput, match="128"):
        export_head(basis, head(Basis(Rows(), dimensions=64)), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(basis, tmp_path):
    with pytest.raises(StoreFault, match=r"model\.onnx"):
        export_head(basis, head(basis), tmp_path / "none" / "model.onnx")


@pytest.mark.parametrize("data", [b"", b"nothing", b"\x08\x07" * 40])
def test_bytes_that_are_no_model(data):
    with pytest.raises(BadInput, match="ONNX"):
        OnnxModel(data)


def test_files_that_are_no_bundle(tmp_path):
    with pytest.raises(Missing):
        OnnxModel(tmp_path / "none.onnx")
    with pytest.raises(BadInput, match="Everlearn"):
        OnnxModel(Basis(Rows(), dimensions=64).graph().SerializeToString())


def test_a_damaged_description(tmp_path):
    basis = Basis(Rows(), dimensions=64)
    path = tmp_path / "model.onnx"
    export_head(basis, head(basis), path)
    model = onnx.load(path)
    next(one for one in model.metadata_props if one.key == "everlearn.classes").value = "{"
    with pytest.raises(Corrupt, match="description"):
        OnnxModel(model.SerializeToString())


def test_no_images(tmp_path):
    basis = Basis(Rows(), dimensions=64)
    export_head(basis, head(basis), tmp_path / "model.onnx")
    assert OnnxModel(tmp_path / "model.onnx").predict([]) == []

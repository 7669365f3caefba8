"""A trained network as a bundle and as a backbone: the files answer as torch does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from everlearn.errors import BadInput, Corrupt
from everlearn.learn.exact.memory import ExactMemory
from everlearn.model.backbone import load_backbone
from everlearn.model.basis import Basis
from everlearn.model.bundle import OnnxModel
from everlearn.model.network_bundle import (
    WEIGHTS,
    Scale,
    Trained,
    check,
    export,
    export_features,
    load_weights,
    packed,
    probes,
    weights,
)
from everlearn.model.trainable import Network, build
from tests.model.networks import lively

CNN = "cnn:depth=2,width=8"
NAMES = ("cat", "개", "line\nbreak, comma")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(spec: str = CNN, classes: int = 3, size: int = 32) -> Network:
    return lively(build(spec, classes=classes, size=size))


@pytest.fixture(scope="module")
def plain() -> tuple[Trained, OnnxModel]:
    trained = Trained(network(), NAMES)
    return trained, OnnxModel(packed(trained, {}))


@pytest.mark.parametrize(
    "spec",
    ["cnn:depth=1,width=4,norm=group,head=cosine", "patches:small?hidden=8", "features"],
)
def test_a_bundle_answers_as_torch_does(spec, tmp_path):
    trained = Trained(network(spec), NAMES, temperature=1.7)
    export(trained, tmp_path / "model.onnx", card={"name": "v1", "note": "사과"})
    onnx.checker.check_model(str(tmp_path / "model.onnx"))
    model = OnnxModel(tmp_path / "model.onnx")
    images = probes(trained.network)
    found = model.table(images)
    np.testing.assert_allclose(found, trained.table(images), atol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert found.std(0).max() > 0.001  # different images have different answers
    assert model.classes == NAMES and model.card["note"] == "사과" and model.licence == trained.licence
    assert model.metadata["backbone"] == spec and model.size == trained.network.size
    assert trained.network.training  # as it was before


def test_any_number_of_images_at_once(plain):
    trained, model = plain
    squares = model.prepare(probes(trained.network))
    assert squares.dtype == np.uint8 and squares.shape == (7, 32, 32, 3)
    whole = model._session.run(None, {"images": squares})[0]
    np.testing.assert_allclose(whole, np.concatenate([model.table([one]) for one in squares]), atol=1e-6)


def test_several_labels_have_probabilities_of_their_own():
    trained = Trained(network("patches:small"), NAMES, several=True)
    model = OnnxModel(packed(trained, {}))
    assert check(model, trained) < 1e-5
    assert np.abs(model.table(probes(trained.network)).sum(1) - 1).max() > 0.01


def test_numbers_are_back_on_their_scale_and_in_their_range():
    one = network("patches:small", classes=1)
    images = probes(one)
    plain = Trained(one, (), Scale(0, 1, -1e6, 1e6)).table(images)
    trained = Trained(one, (), Scale(50, 20, 49, 60))
    model = OnnxModel(packed(trained, {}))
    assert model.metadata["task"] == "regress" and model.classes == ()
    np.testing.assert_allclose(model.table(images), np.clip(50 + 20 * plain, 49, 60), atol=1e-3)
    assert check(model, trained) < 1e-5
    assert model.predict(images[:1])[0].value == pytest.approx(float(model.table(images[:1])[0, 0]))


def test_a_file_that_answers_otherwise_is_not_written(plain):
    _, model = plain
    other = lively(build(CNN, classes=3, size=32, seed=1), seed=2)
    with pytest.raises(Corrupt, match="differs from torch"):
        check(model, Trained(other, NAMES))


def test_columns_must_be_named():
    for classes, scale in (((), None), (("a", "b"), None), (NAMES, Scale(0, 1, 0, 1))):
        with pytest.raises(BadInput, match="columns"):
            Trained(network(), classes, scale)


def test_the_weights_come_back(tmp_path):
    for trained in (
        Trained(network(), NAMES, several=True),
        Trained(network("cnn:width=4,depth=1,head=cosine"), NAMES, temperature=0.5),
        Trained(network("patches:small", 1), (), Scale(1, 2, 0, 5)),
    ):
        back = load_weights(weights(trained))
        images = probes(trained.network)
        assert np.array_equal(back.table(images), trained.table(images))
        assert (back.classes, back.scale, back.several, back.temperature) == (
            trained.classes, trained.scale, trained.several, trained.temperature,
        )  # fmt: skip
    for broken in (b"", b"no file of torch", weights(trained)[:-300]):
        with pytest.raises(Corrupt):
            load_weights(broken)


def test_a_version_s_files(tmp_path):
    trained = Trained(network(), NAMES, facts={"recipe": "five-stage"})
    files, card = trained.write(tmp_path, {"name": "v2.0", **trained.about()})
    assert set(files) == {".onnx", WEIGHTS} and card["recipe"] == "five-stage"
    assert OnnxModel(files[".onnx"]).card["dimensions"] == trained.network.dimensions
    assert trained.answers == NAMES and trained.backbone == CNN


@pytest.mark.parametrize("spec", [CNN, "patches:small?hidden=20"])
def test_the_exact_memory_on_what_a_network_has_learned_to_see(spec, tmp_path):
    """The network becomes an `onnx:` backbone without a word of options, and the memory learns on it."""
    one = network(spec)
    found = export_features(one, tmp_path / "seen.onnx")
    backbone = load_backbone(found)
    assert backbone.size == one.size and backbone.dimensions == one.dimensions and backbone.licence == one.licence
    basis = Basis(backbone, dimensions=64)
    rng = np.random.default_rng(0)
    images = [np.clip(rng.normal(60 + 120 * (n % 2), 30, (30, 26, 3)), 0, 255).astype(np.uint8) for n in range(24)]
    with torch.no_grad():
        prepared = torch.from_numpy(one.prepared(images))
        rows = prepared if one.rows else prepared.permute(0, 3, 1, 2) / 255
        own = one.eval().features(rows).numpy()
    np.testing.assert_allclose(basis.raw(images), own, rtol=1e-3, atol=1e-4)
    memory = ExactMemory(basis.digest, basis.dimensions)
    memory.add(basis.phi(images), ["ab"[n % 2] for n in range(24)], np.arange(24) % 5)
    assert memory.samples == 24
    with pytest.raises(BadInput, match="rows of numbers"):
        export_features(network("features"), tmp_path / "rows.onnx")


def test_what_a_file_says_of_itself_can_be_overruled(tmp_path):
    export_features(network(), tmp_path / "seen.onnx")
    first = (tmp_path / "seen.onnx").read_bytes()
    export_features(network(), tmp_path / "seen.onnx")
    assert (tmp_path / "seen.onnx").read_bytes() == first  # the same weights are the same basis
    other = load_backbone("onnx:seen.onnx?licence=MIT&fit=bilinear", base=tmp_path)
    assert other.licence == "MIT" and other.fit.filter == "bilinear" and other.size == 32

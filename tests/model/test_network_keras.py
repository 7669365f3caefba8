"""The same network in Keras: the file, loaded by Keras alone, answers as torch does."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from everlearn.errors import BadInput, NotInstalled, StoreFault
from everlearn.model.network_bundle import Scale, Trained, probes
from everlearn.model.network_keras import FACTS, _scaled, export_h5
from everlearn.model.networks_keras import keras_itself
from everlearn.model.trainable import build
from tests.model.networks import lively

h5py = pytest.importorskip("h5py")
try:
    keras = keras_itself("This file")  # with torch below it, where nobody chose
except NotInstalled as missing:
    pytest.skip(str(missing), allow_module_level=True)
NAMES = ("a", "b", "c")


def answers(path, trained):
    model = keras.models.load_model(path, compile=False)
    network, images = trained.network, probes(trained.network)
    squares = network.prepared(images) if network.frozen is None else network.frozen.prepare(images)
    return model.predict(squares.astype(np.float32), verbose=0), trained.table(images)


@pytest.mark.parametrize(
    ("spec", "size"),
    [("cnn:depth=3,width=8", 64), ("cnn:depth=3,width=8,norm=group,head=cosine", 45), ("cnn:norm=none,width=4", 28)],
)
def test_a_cnn(spec, size, tmp_path):
    torch.set_num_threads(1)
    trained = Trained(lively(build(spec, classes=3, size=size)), NAMES, temperature=1.5)
    export_h5(trained, tmp_path / "net.h5", card={"name": "v1"})
    found, own = answers(tmp_path / "net.h5", trained)
    np.testing.assert_allclose(found, own, atol=1e-4)
    assert own.std(0).max() > 1e-4
    with h5py.File(tmp_path / "net.h5") as file:
        facts = json.loads(file.attrs[FACTS])
    assert json.loads(facts["everlearn.classes"]) == list(NAMES) and "bicubic" in facts["everlearn.preprocessing"]


def test_numbers_and_several_labels(tmp_path):
    for trained in (
        Trained(lively(build("cnn:depth=1,width=4", classes=1, size=16)), (), Scale(50, 20, 49, 60)),
        Trained(lively(build("cnn:depth=1,width=4", classes=3, size=16)), NAMES, several=True),
    ):
        export_h5(trained, tmp_path / "net.h5")
        found, own = answers(tmp_path / "net.h5", trained)
        np.testing.assert_allclose(found, own, atol=1e-3)


def test_a_head_on_keras_own_network(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = "keras:MobileNetV2?weights=none&alpha=0.35&size=32&hidden=8"
    trained = Trained(lively(build(spec, classes=3)), NAMES)
    export_h5(trained, tmp_path / "net.h5")
    found, own = answers(tmp_path / "net.h5", trained)
    np.testing.assert_allclose(found, own, atol=1e-3)


@pytest.mark.parametrize("bgr", [False, True])
def test_pixels_are_scaled_as_the_backbone_wants_them(bgr):
    """VGG and ResNet take their channels turned round."""
    mean, std = np.array([123.0, 117.0, 104.0]), np.array([1.0, 2.0, 4.0])
    images = keras.Input((2, 2, 3))
    model = keras.Model(images, _scaled(keras.layers, images, mean, std, bgr=bgr))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2, 2, 3)).astype(np.float32)
    wanted = (pixels - mean) / std
    np.testing.assert_allclose(model.predict(pixels, verbose=0), wanted[..., ::-1] if bgr else wanted, atol=1e-3)


def test_what_has_no_equal_in_keras(tmp_path):
    with pytest.raises(BadInput, match="no equal in Keras"):
        export_h5(Trained(build("timm:test_resnet?pretrained=no", classes=3, size=32), NAMES), tmp_path / "net.h5")
    with pytest.raises(StoreFault):
        export_h5(Trained(build("cnn:depth=1,width=4", classes=3, size=16), NAMES), tmp_path / "no" / "net.h5")
    assert not list(tmp_path.iterdir())

"""Networks of timm, torchvision and Keras: what the converted graph gives is what the library itself gives."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image as Pillow

from everlearn.errors import BadConfig, BadInput, Corrupt, Missing, StoreFault
from everlearn.model import library
from everlearn.model.backbone import load_backbone
from everlearn.model.basis import Basis
from everlearn.model.bundle import OnnxModel, check_bundle, export_head

TIMM = "timm:mobilenetv3_small_050?weights=none&size=48"
TORCHVISION = "torchvision:resnet18?weights=none&size=48"
KERAS = "keras:MobileNetV2?weights=none&size=48&alpha=0.35"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory) -> Path:
    """The folder of converted networks, each converted once for this file."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.delenv("EVERLEARN_WEIGHTS", raising=False)
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder / "everlearn"


def pictures() -> list[np.ndarray]:
    """Smooth, of several shapes: what resizing does to them shows."""
    rng = np.random.default_rng(3)
    small = [rng.integers(0, 256, (9, 12, 3), dtype=np.uint8), rng.integers(0, 256, (17, 8, 3), dtype=np.uint8)]
    return [np.asarray(Pillow.fromarray(one).resize((one.shape[1] * 9, one.shape[0] * 9))) for one in small]


def drawn_again(network) -> None:
    import torch

    from everlearn.model.networks_torch import _draw

    with torch.no_grad():
        _draw(network.eval())


def test_timm(cache):
    import timm
    import torch

    backbone = load_backbone(TIMM)
    network = timm.create_model("mobilenetv3_small_050", num_classes=0)
    drawn_again(network)
    config = timm.data.resolve_model_data_config(network) | {"input_size": (3, 48, 48)}
    transform = timm.data.create_transform(**config)
    with torch.inference_mode():
        own = network(torch.stack([transform(Pillow.fromarray(one)) for one in pictures()])).numpy()
    assert own.std() > 0.01
    np.testing.assert_allclose(Basis(backbone).raw(pictures()), own, rtol=1e-3, atol=1e-4)
    assert backbone.dimensions == own.shape[1]
    assert backbone.licence == library.UNTRAINED


def test_torchvision(cache):
    import torch
    from torchvision import models

    backbone = load_backbone(TORCHVISION)
    network = models.resnet18()
    network.fc = torch.nn.Identity()
    drawn_again(network)
    own_way = models.ResNet18_Weights.DEFAULT.transforms(crop_size=48, resize_size=round(48 * 256 / 224))
    with torch.inference_mode():
        own = network(torch.stack([own_way(Pillow.fromarray(one)) for one in pictures()])).numpy()
    found = Basis(backbone).raw(pictures())  # a pixel may be rounded the other way
    assert 0 < np.abs(found - own).max() < 0.03 * own.std()
    squashed = Basis(load_backbone(TORCHVISION + "&fit=bilinear")).raw(pictures())
    assert np.abs(squashed - own).max() > 0.1 * own.std()
    assert str(backbone.fit) == "bilinear 55"


def test_keras(cache):
    backbone = load_backbone(KERAS)
    import keras

    from everlearn.model.networks_keras import _draw

    network = keras.applications.MobileNetV2(
        include_top=False, pooling="avg", weights=None, input_shape=(48, 48, 3), alpha=0.35
    )
    _draw(network)
    ready = [np.asarray(Pillow.fromarray(one).resize((48, 48), Pillow.Resampling.BICUBIC)) for one in pictures()]
    x = keras.applications.mobilenet_v2.preprocess_input(np.stack(ready).astype(np.float32))
    own = network.predict(x, verbose=0)
    assert own.std() > 0.01
    np.testing.assert_allclose(Basis(backbone).raw(pictures()), own, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("module", ["mobilenet_v2", "resnet50", "densenet", "efficientnet", "vgg16"])
def test_each_way_of_keras_to_prepare_pixels_is_found_out(module):
    """`tf`, `caffe` (with the channels turned round), `torch`, and networks that prepare them themselves."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    from everlearn.model.networks_keras import _preparation

    preprocess = getattr(keras.applications, module).preprocess_input
    found = _preparation(224, preprocess)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 5, 5, 3)).astype(np.float32)
    ours = (pixels - np.array(found.mean)) / np.array(found.std)
    np.testing.assert_allclose(ours[..., ::-1] if found.bgr else ours, preprocess(pixels.copy()), atol=1e-3)


def test_a_network_is_converted_once_and_then_needs_no_library(cache, monkeypatch, tmp_path):
    before = load_backbone(TIMM)
    (path,) = cache.glob("timm-mobilenetv3_small_050-*.onnx")
    for name in ("timm", "torch", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    assert load_backbone(TIMM).digest == before.digest
    elsewhere = tmp_path / "weights"  # another machine, which is given the file
    elsewhere.mkdir()
    (elsewhere / path.name).write_bytes(path.read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("EVERLEARN_WEIGHTS", str(elsewhere))
    assert load_backbone(TIMM).digest == before.digest
    squashed = load_backbone(TIMM + "&fit=bicubic&licence=mine")
    assert squashed.digest != before.digest and squashed.licence == "mine"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # a bit flips in the weights
    (elsewhere / path.name).write_bytes(bytes(data))
    with pytest.raises(Corrupt, match="not what was written"):
        load_backbone(TIMM)


def test_the_digest_is_of_the_weights_not_of_the_file_that_was_written(cache, tmp_path, monkeypatch):
    first = load_backbone(TIMM)
    (path,) = cache.glob("timm-mobilenetv3_small_050-*.onnx")
    model = onnx.load(path)
    model.producer_version = "another version of torch"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library.folders()[0].mkdir(parents=True)
    library._keep(path.name.split(".")[0], model.SerializeToString())
    second = load_backbone(TIMM)
    assert next(library.folders()[0].glob("*.onnx")).name != path.name
    assert Basis(second).digest == Basis(first).digest


def test_its_bundle_prepares_images_as_learning_did(cache, tmp_path):
    from everlearn.learn.exact.head import Head

    basis = Basis(load_backbone(TORCHVISION), dimensions=64)
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(64, 2)).astype(np.float32) / 100
    head = Head("ridge", ("a", "b"), weights, np.zeros(2, np.float32), 0.7)
    export_head(basis, head, tmp_path / "model.onnx")
    model = OnnxModel(tmp_path / "model.onnx")
    assert check_bundle(model, basis, head, pictures()) < 1e-3
    assert "bilinear" in model.metadata["preprocessing"] and "55 px" in model.metadata["preprocessing"]
    assert model.licence == library.UNTRAINED


def test_own_weights_are_looked_for_first(cache, tmp_path, monkeypatch):
    import torch
    from safetensors.torch import save_file
    from torchvision import models

    monkeypatch.setenv("EVERLEARN_WEIGHTS", str(tmp_path))
    network = models.resnet18()
    save_file(network.state_dict(), tmp_path / "resnet18.safetensors")
    backbone = load_backbone("torchvision:resnet18?size=32&fit=bicubic")
    assert "resnet18.safetensors" in backbone.licence and "untrained" not in backbone.licence
    assert next(tmp_path.glob("torchvision-resnet18-*.onnx"))  # it is kept beside them
    network.eval().fc = torch.nn.Identity()
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    x = ((image - np.array(backbone.preparation.mean)) / backbone.preparation.std).astype(np.float32)
    with torch.inference_mode():
        own = network(torch.from_numpy(x.transpose(2, 0, 1)[None])).numpy()
    np.testing.assert_allclose(Basis(backbone).raw([image]), own, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "data"), [("resnet18.pth", b"\x80\x04no"), ("resnet18.safetensors", b"no")])
def test_files_that_hold_no_tensors(tmp_path, monkeypatch, name, data):
    monkeypatch.setenv("EVERLEARN_WEIGHTS", str(tmp_path))
    (tmp_path / name).write_bytes(data)
    for kind in ("torchvision", "timm"):
        with pytest.raises(BadInput, match="no file of tensors"):
            load_backbone(f"{kind}:resnet18?size=40")


def test_what_a_pickle_would_run_is_not_run(tmp_path, monkeypatch):
    import torch

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"state_dict": Trap()}, tmp_path / "resnet18.pth")
    monkeypatch.setenv("EVERLEARN_WEIGHTS", str(tmp_path))
    with pytest.raises(BadInput, match="no file of tensors"):
        load_backbone("torchvision:resnet18")
    assert not (tmp_path / "sprung").exists()


def test_weights_of_another_network(tmp_path, monkeypatch):
    import torch
    from safetensors.torch import save_file

    monkeypatch.setenv("EVERLEARN_WEIGHTS", str(tmp_path))
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "resnet18.safetensors")
    for kind in ("torchvision", "timm"):
        with pytest.raises(BadInput, match=r"resnet18\.safetensors does not fit"):
            load_backbone(f"{kind}:resnet18")


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "timm:resnet18", "keras:MobileNetV2?size=64"])
def test_without_the_internet_the_error_says_what_to_do(spec, monkeypatch, tmp_path, capsys):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "KERAS_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(Missing, match=r"could not fetch them.*Put .* EVERLEARN_WEIGHTS"):
        load_backbone(spec)
    assert capsys.readouterr().out == ""  # stdout is for answers


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:resnet", "Near: resnet"),
        ("torchvision:resnet19", "Near: resnet18"),
        ("torchvision:fasterrcnn_resnet50_fpn", "has no network"),
        ("keras:MobilNetV2", "Near: MobileNetV2"),
        ("torchvision:resnet18?weights=best", "Known: IMAGENET1K_V1, DEFAULT, none"),
        ("keras:MobileNetV2?weights=best", "weights=imagenet"),
        ("timm:resnet18?alpha=1", "unknown option alpha"),
        ("timm:resnet18?size=0", "size must be"),
        ("timm:resnet18?fit=soft", "no way to fit"),
        ("timm:../../etc/passwd", "no name of a network"),
        ("keras:MobileNetV2?alpha=wide", "alpha is no number"),
    ],
)
def test_specs_that_cannot_be(spec, message):
    with pytest.raises(BadConfig, match=message):
        load_backbone(spec)


def test_networks_that_cannot_be_cut():
    with pytest.raises(BadInput, match="no linear classifier"):
        load_backbone("torchvision:squeezenet1_1?weights=none")


def test_nowhere_to_keep_it(monkeypatch, tmp_path):
    (tmp_path / "everlearn").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(StoreFault, match="EVERLEARN_WEIGHTS"):
        library._keep("timm-x-0", b"x")

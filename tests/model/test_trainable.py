"""Networks that can be trained: weights from the seed alone, frozen parts that stay, classes that are added."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from everlearn.errors import BadConfig, BadInput, Corrupt, Missing
from everlearn.model.backbone import load_backbone
from everlearn.model.basis import Basis
from everlearn.model.bundle import probes
from everlearn.model.trainable import SCRATCH, Cosine, Network, build, from_stage_file

SMALL = "cnn:depth=2,width=8"
EVERY = (
    SMALL, "cnn:depth=3,width=4,norm=group,head=cosine", "cnn:norm=none,width=4,dropout=0", "patches:small?hidden=8",
    "timm:test_resnet?pretrained=no", "timm:test_vit?pretrained=no&head=cosine",
    "torchvision:shufflenet_v2_x0_5?pretrained=no&dropout=0.1",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def given(network: Network, count: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (network.frozen.dimensions,) if network.frozen else (3, network.size, network.size)
    return torch.rand(count, *shape, generator=generator)


def same(one: Network, other: Network) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("spec", EVERY)
def test_weights_follow_from_the_seed_alone(spec):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = build(spec, classes=3, size=32, seed=5)
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's draws are moved
    torch.rand(7)
    assert same(first, build(spec, classes=3, size=32, seed=5))
    assert not same(first, build(spec, classes=3, size=32, seed=6))


@pytest.mark.parametrize("spec", EVERY)
def test_scores_are_the_head_on_the_features_and_everything_learns(spec):
    network = build(spec, classes=3, size=32)
    x = given(network)
    network.eval()
    features = network.features(x)
    assert features.shape == (4, network.dimensions)
    assert torch.equal(network(x), network.head(features))
    network.train()
    functional.cross_entropy(network(x), torch.tensor([0, 1, 2, 0])).backward()
    assert all(one.grad is not None and torch.isfinite(one.grad).all() for one in network.parameters())


@pytest.mark.parametrize("size", [8, 10, 28, 45, 64, 96, 161])
def test_a_cnn_takes_squares_of_any_size(size):
    network = build(SMALL, classes=2, size=size).eval()
    assert network(given(network)).shape == (4, 2)


def test_a_cnn_learns_digits_it_has_not_seen():
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images[:600], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    x, y = functional.interpolate(x, size=16).expand(-1, 3, -1, -1), torch.tensor(labels[:600])
    network = build("cnn:depth=3,width=16", classes=10, size=16)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(8):
        network.train()
        for rows in torch.arange(500).split(25):
            optimizer.zero_grad()
            functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        assert (network.eval()(x[500:]).argmax(1) == y[500:]).float().mean() > 0.8


def test_what_pixels_are_scaled_by_is_inside():
    timm = pytest.importorskip("timm")
    network = build("timm:test_resnet?pretrained=no", classes=2, size=32).eval()
    config = timm.create_model("test_resnet").pretrained_cfg
    np.testing.assert_allclose(network.mean.flatten(), config["mean"], atol=1e-6)
    np.testing.assert_allclose(network.std.flatten(), config["std"], atol=1e-6)
    x = given(network)
    own = network.backbone((x - network.mean) / network.std)
    torch.testing.assert_close(network.features(x), own, rtol=1e-4, atol=1e-5)
    assert {"mean", "std"} <= set(network.state_dict())


@pytest.mark.parametrize("part", ["none", "half", "backbone"])
@pytest.mark.parametrize("spec", [SMALL, "timm:test_resnet?pretrained=no"])
def test_what_is_frozen_stays_and_what_is_not_learns(spec, part):
    network = build(spec, classes=3, size=32)
    network.freeze(part)
    network.train()
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.SGD([one for one in network.parameters() if one.requires_grad], 0.5)
    for _ in range(2):
        optimizer.zero_grad()
        functional.cross_entropy(network(given(network)), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    learned = {name for name, one in network.named_parameters() if one.requires_grad}
    norms = {name for name in before if "running" in name}
    if part == "none":
        assert norms <= moved and learned == {name for name, _ in network.named_parameters()}
    if part == "backbone":
        assert moved == learned == {"head.weight", "head.bias"}
    if part == "half":
        first = next(name for name, _ in network.named_parameters())
        assert first not in learned and "head.weight" in moved
        assert moved & norms and norms - moved  # the second half's follow the images, the first half's stay
    network.freeze("none")
    assert all(one.requires_grad for one in network.parameters())


def test_a_frozen_backbone_gives_the_same_features_in_training():
    network = build("torchvision:mobilenet_v3_small?pretrained=no", classes=2, size=32)  # has a dropout of its own
    network.freeze("backbone")
    x = given(network)
    assert torch.equal(network.train().features(x), network.eval().features(x))


def test_dropout_is_of_the_features():
    network = build(SMALL, classes=3, size=32, dropout=0.0).train()
    network.freeze("backbone")
    x = given(network)
    assert torch.equal(network(x), network(x))
    network.set_dropout(0.9)
    assert not torch.equal(network(x), network(x))
    assert torch.equal(network.eval()(x), network(x))
    with pytest.raises(BadConfig, match="dropout is 1"):
        network.set_dropout(1)
    assert build("cnn:dropout=0.4", classes=2).drop.p == 0.4
    assert build("cnn:dropout=0.4", classes=2, dropout=0.1).drop.p == 0.1


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_classes_are_added_and_the_old_ones_answer_as_before(head):
    network = build(f"{SMALL},head={head}", classes=3, size=32).eval()
    x = given(network)
    before, weights = network(x), network.head.weight.clone()
    network.grow(5)
    assert network.classes == 5
    assert torch.equal(network.head.weight[:3], weights)
    torch.testing.assert_close(network(x)[:, :3], before)
    assert 0 < network.head.weight[3:].abs().max() < 0.1 * weights.abs().max()
    assert network(x).argmax(1).max() < 3 or head == "cosine"
    network.grow(5)
    with pytest.raises(BadConfig, match="5 classes cannot become 4"):
        network.grow(4)


def test_a_cosine_head_does_not_look_at_lengths():
    head = Cosine(4, 2)
    x = torch.rand(3, 4)
    torch.testing.assert_close(head(x), head(100 * x))
    assert head(x).abs().max() <= head.scale


def test_over_a_frozen_backbone_rows_are_learned_from():
    network = build("patches:small?hidden=16&dropout=0.3", classes=3)
    assert network.rows and network.size == load_backbone("patches:small").size
    images = probes()
    rows = network.prepared(images)
    np.testing.assert_allclose(rows, Basis(load_backbone("patches:small")).raw(images), rtol=1e-6)
    assert network.prepared([]).shape == (0, rows.shape[1])
    x = torch.from_numpy(rows)
    network.train()(x)
    assert network.features(x[:1]).shape == (1, 16)  # one row alone is no distribution
    assert network.licence == load_backbone("patches:small").licence
    assert build("cnn", classes=2, size=20).prepared(images).shape == (6, 20, 20, 3)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("cnn:depht=3", "depht=3"), ("cnn:depth=0", "depth is '0'"), ("cnn:width=1e9", "width"),
        ("cnn:norm=layer", "layer"),
        ("cnn:depth=2,depth=3", "twice"), ("cnn:dropout=1", "dropout"), ("cnn:dropout=nan", "dropout"), ("cnn?x", "x"),
        ("cnn:head=round", "round"), ("resnet", "resnet"), ("", "''"), ("timm:no_such_net", "no network"),
        ("torchvision:resnet19?pretrained=no", "resnet19"), ("timm:test_resnet?pretrained=maybe", "maybe"),
        ("timm:test_resnet?size=8", "size=8"), ("timm:../x", "no name"), ("patches?hidden=-1", "hidden"),
    ],
)  # fmt: skip
def test_what_is_asked_for_wrongly_is_named(spec, said):
    with pytest.raises(BadConfig) as caught:
        build(spec, classes=2, size=32)
    assert said in caught.value.message and caught.value.remedy


def test_odd_sizes_and_numbers_of_classes():
    for size in (7, 1025):
        with pytest.raises(BadConfig, match=f"size is {size}"):
            build("cnn", classes=2, size=size)
    with pytest.raises(BadConfig, match="0 classes"):
        build("cnn", classes=0)
    with pytest.raises(BadConfig, match="squares of 9 px"):
        build("torchvision:alexnet?pretrained=no", classes=2, size=9)


def test_pretrained_weights_are_found_in_the_folder(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    torch.manual_seed(3)
    own = timm.create_model("test_resnet")
    torch.save(own.state_dict(), tmp_path / "test_resnet.pth")
    monkeypatch.setenv("EVERLEARN_WEIGHTS", str(tmp_path))
    network = build("timm:test_resnet", classes=4, size=32)
    assert all(torch.equal(own.state_dict()[name], value) for name, value in network.backbone.state_dict().items())
    assert "apache" in network.licence.lower()
    stage = {"model_state_dict": network.state_dict(), "network": network.spec, "classes": list("abcd"), "size": 32}
    (tmp_path / "test_resnet.pth").unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert same(from_stage_file(stage), network.eval())  # its weights are in the file: nothing is fetched
    with pytest.raises(Missing) as caught:
        build("timm:test_resnet", classes=4, size=32)
    assert "pretrained=no" in caught.value.remedy


def test_from_scratch_is_said_in_the_licence():
    assert build("cnn", classes=2).licence == SCRATCH
    assert SCRATCH in build("timm:test_resnet?pretrained=no", classes=2, size=32).licence


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil_was_here"),))


def test_a_stage_file_gives_the_network_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = build(SMALL, classes=3, size=32, seed=9).eval()
    stage = {
        "stage_idx": 1, "model_state_dict": network.state_dict(), "network": SMALL, "classes": ["a", "b", "c"],
        "size": 32, "task": "classify", "stage_config": {"dropout": 0.3},
    }  # fmt: skip
    torch.save(stage, "stage.pt")
    for found in (from_stage_file("stage.pt"), from_stage_file(stage), from_stage_file(Path("stage.pt"))):
        assert same(found, network) and not found.training and found.drop.p == 0.3
    for broken, said in (
        ({**stage, "classes": ["a"]}, "does not fit"),
        ({key: value for key, value in stage.items() if key != "network"}, "network"),
        ({**stage, "network": "cnn:depth=3"}, "does not fit"),
    ):
        with pytest.raises(Corrupt, match=said):
            from_stage_file(broken)
    with pytest.raises(Missing):
        from_stage_file("nowhere.pt")
    Path("evil.pt").write_bytes(pickle.dumps({**stage, "more": Evil()}))
    torch.save({"model_state_dict": Evil()}, "evil2.pt")
    for evil in ("evil.pt", "evil2.pt"):
        with pytest.raises(Corrupt):
            from_stage_file(evil)
    assert not Path("evil_was_here").exists()


def test_a_file_of_anything_else_is_no_backbone(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(BadInput, match="no"):
        build("onnx:x.onnx", classes=2, base=tmp_path)
    with pytest.raises(Missing):
        build("onnx:y.onnx?hidden=3", classes=2, base=tmp_path)

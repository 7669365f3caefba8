"""Bundles in int8: smaller, and nearly the same answers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from everlearn.errors import BadInput
from everlearn.model.bundle import OnnxModel
from everlearn.model.network_bundle import Trained, packed
from everlearn.model.quantised import cost, quantise
from everlearn.model.trainable import build
from tests.model.networks import lively

NAMES = ("a", "b", "c")


def pictures(count: int, first: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(first)
    return [np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((9, 9, 1))).astype(np.uint8) for _ in range(count)]


@pytest.fixture(scope="module")
def both() -> tuple[bytes, bytes]:
    torch.set_num_threads(1)
    before = packed(Trained(lively(build("cnn:depth=3,width=16", classes=3, size=32)), NAMES), {"name": "v1"})
    return before, quantise(before, pictures(30))


def test_it_is_a_bundle_like_any_other_and_much_smaller(both):
    before, after = both
    model = OnnxModel(after)
    assert model.classes == NAMES and model.squares == OnnxModel(before).squares
    assert model.card == {"name": "v1", "quantised": "int8, ranges from 30 images"}
    assert len(after) < 0.5 * len(before)
    types = {one.data_type for one in model.proto().graph.initializer if len(one.dims) == 4 and one.dims[0] > 1}
    assert types == {onnx.TensorProto.INT8}  # every convolution's weights


def test_what_it_costs_is_measured_on_other_images(both):
    images = pictures(40, first=1)
    table = OnnxModel(both[0]).table(images)
    labels = [NAMES[at] for at in table.argmax(1)]
    labels[0] = NAMES[(int(table[0].argmax()) + 1) % 3]
    found = cost(*both, images, labels)
    assert found.images == 40 and found.accuracy == pytest.approx(39 / 40)
    assert found.agreement >= 0.9 and abs(found.loss or 0) <= 0.1
    assert 0 < found.difference < 0.25
    assert found.bytes == len(both[0]) and found.bytes_int8 == len(both[1])
    assert found.to_json()["speed"] == pytest.approx(found.milliseconds / found.milliseconds_int8)
    assert cost(*both, images).loss is None
    same = cost(both[0], both[0], images, labels)
    assert same.agreement == 1 and same.difference == 0 and same.loss == 0


def test_what_cannot_be_quantised(both):
    with pytest.raises(BadInput, match="no image"):
        quantise(both[0], [])
    with pytest.raises(BadInput, match="no image"):
        cost(*both, [])
    with pytest.raises(BadInput, match="not an ONNX model"):
        quantise(b"nothing", pictures(1))

"""A detector in float16 and in int8: smaller, finding the same, its head left as it is."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from everlearn.errors import BadInput
from everlearn.model.detecting import optimise
from everlearn.model.detecting.bundle import export_detector
from everlearn.model.detecting.onnx import OnnxDetector
from everlearn.model.detecting.outputs import Outputs
from tests.model.detecting.graphs import COCO, yolo

NAMES = ("bright", "dark")
WHAT = Outputs("yolo", NAMES, (64, 64))


def network(channels: int = 24) -> bytes:
    """A small convolutional detector: boxes of 16 px on a grid of 8 x 8, whose scores follow the light of their cell.
    What it has of a real one: convolutions and sigmoids, a residual, a branch each for boxes and scores, and at the
    end pixels beside probabilities in one tensor."""
    rng = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto] = []

    def conv(
        x: str, name: str, into: int, out: int, side: int, stride: int = 1, weight: np.ndarray | None = None
    ) -> str:
        drawn = rng.normal(0, (1 / (into * side * side)) ** 0.5, (out, into, side, side))
        weights[f"{name}_w"] = (drawn if weight is None else weight).astype(np.float32)
        weights[f"{name}_b"] = rng.normal(0, 0.1, out).astype(np.float32)
        pads = [side // 2] * 4
        nodes.append(helper.make_node("Conv", [x, f"{name}_w", f"{name}_b"], [name], strides=[stride] * 2, pads=pads))
        return name

    def node(op: str, *inputs: str, out: str, **how) -> str:
        nodes.append(helper.make_node(op, list(inputs), [out], **how))
        return out

    def silu(x: str) -> str:
        return node("Mul", x, node("Sigmoid", x, out=f"{x}_s"), out=f"{x}_a")

    x = node("AveragePool", "images", out="light", kernel_shape=[8, 8], strides=[8, 8])
    body = silu(conv(x, "stem", 3, channels, 3))
    for turn in range(3):
        body = node("Add", body, silu(conv(body, f"c{turn}", channels, channels, 3)), out=f"r{turn}")
    mixed = node("Concat", x, body, out="mixed", axis=1)
    scores = np.zeros((2, 3 + channels, 1, 1))
    scores[0, :3], scores[1, :3] = 4, -4
    logits = conv(mixed, "logits", 3 + channels, 2, 1, weight=scores + rng.normal(0, 0.01, scores.shape))
    sides = silu(conv(mixed, "sides", 3 + channels, 2, 1, weight=rng.normal(0, 0.05, (2, 3 + channels, 1, 1))))
    y, column = np.mgrid[:8, :8] * 8.0 + 4
    weights["grid"] = np.stack([column, y])[None].astype(np.float32)
    weights["sixteen"], weights["six"] = np.float32(16).reshape(1), np.float32(6).reshape(1)
    weights["shape"] = np.array([0, 4 + 2, 64])
    x = node("Mul", sides, "sixteen", out="scaled")
    wide = node("Add", x, "sixteen", out="wide")
    chosen = node("Sigmoid", node("Sub", logits, "six", out="less"), out="scores")
    both = node("Concat", "grid", wide, chosen, out="both", axis=1)
    node("Reshape", both, "shape", out="found")
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, [1, 6, 64])],
        [numpy_helper.from_array(np.asarray(one), name) for name, one in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)
    return model.SerializeToString()


def pictures(count: int, first: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(first)
    return [cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (80, 64)) for _ in range(count)]


def types(data: bytes) -> dict[str, int]:
    return {one.name: one.data_type for one in onnx.load_model_from_string(data).graph.initializer}


@pytest.fixture(scope="module")
def forms() -> dict[str, bytes]:
    before = export_detector(network(), WHAT, card={"name": "v1.1"}, thresholds={"dark": 0.4})
    return {"float32": before, "half": optimise.half(before), "int8": optimise.int8(before, pictures(20))}


def raw(data: bytes, image: np.ndarray) -> np.ndarray:
    return OnnxDetector(data).raw([image])[0][0]


@pytest.mark.parametrize(("form", "pixels", "score"), [("half", 0.1, 0.01), ("int8", 2.5, 0.15)])
def test_they_find_nearly_the_same(forms, form, pixels, score):
    for image in pictures(10, first=1):
        before, after = raw(forms["float32"], image), raw(forms[form], image)
        assert before[4:].max() > 0.5 and before[4:].min() < 0.05 and np.ptp(before[2]) > 2
        assert 0 < np.abs(after[:4] - before[:4]).max() < pixels
        assert np.abs(after[4:] - before[4:]).max() < score
        np.testing.assert_array_equal(after[:2], before[:2])  # the head is float32: a grid is a grid


def test_they_are_bundles_like_any_other_and_smaller(forms):
    before = OnnxDetector(forms["float32"])
    for form, share in (("half", 0.62), ("int8", 0.55)):
        after = OnnxDetector(forms[form])
        assert after.description == before.description and after.thresholds == before.thresholds
        assert after.card["name"] == "v1.1" and after.card["optimised"].startswith(
            {"half": "float16"}.get(form, "int8")
        )
        assert len(forms[form]) < share * len(forms["float32"]), form
        assert after.input([pictures(1)[0]]).dtype == np.float32
        assert after.run(after.input([pictures(1)[0]]))[0].dtype == np.float32
    named = types(forms["half"])
    assert {kind for name, kind in named.items() if "c1_w" in name} == {TensorProto.FLOAT16}
    assert named["logits_w"] == TensorProto.FLOAT  # the last convolution is the head's


def test_a_head_in_integers_would_find_nothing(forms, monkeypatch):
    """Why it stays in float32: one scale for pixels and probabilities."""
    monkeypatch.setattr(optimise, "head", lambda *_: set())
    whole = optimise.int8(forms["float32"], pictures(20))
    image = pictures(1, first=1)[0]
    kept, lost = raw(forms["int8"], image)[4:], raw(whole, image)[4:]
    truth = raw(forms["float32"], image)[4:]
    assert np.abs(lost - truth).max() > 3 * np.abs(kept - truth).max()


def test_the_head_is_what_comes_after_the_last_convolutions():
    model = onnx.load_model_from_string(network())
    for node in model.graph.node:
        node.name = node.output[0]
    after = {"found", "both", "wide", "scaled", "scores", "less", "sides_a", "sides_s"}
    assert optimise.head(model.graph) == after | {"logits", "sides"}


def test_what_it_costs_is_measured_and_told(forms):
    images = pictures(6, first=2)
    asked = []

    def judge(one) -> float:
        found = one.detect(images, least=0.25)
        asked.append(sum(map(len, found)))
        return asked[-1] / 1000

    found = optimise.measured(forms, images[0], judge)
    assert [one.name for one in found] == ["float32", "half", "int8"]
    assert [one.bytes for one in found] == [len(data) for data in forms.values()]
    assert [one.map50 for one in found] == [count / 1000 for count in asked] and min(asked) > 5
    assert all(one.milliseconds > 0 for one in found)
    told = optimise.lines(found)
    assert len(told) >= 5 and "mAP50" in told[0] and f"{found[2].map50:.4f}" in "\n".join(told)
    slow = optimise.Measured("half", 10, 20.0, 0.5)
    fast = optimise.Measured("float32", 20, 10.0, 0.5)
    assert optimise.lines([fast, slow])[-1] == "half is slower here: it saves space, not time."
    assert "no faster here" in optimise.lines([fast, optimise.Measured("half", 10, 9.9)])[-1]
    assert "here" not in optimise.lines([fast, optimise.Measured("int8", 10, 5.0)])[-1]
    assert found[0].to_json()["map50"] == found[0].map50


def test_real_weights(shared: Path):
    """FastestDet, from an older operator set, with a softmax at its end."""
    data = (shared / "weights/FastestDet.onnx").read_bytes()
    what = Outputs("fastestdet", tuple(COCO), (352, 352), colours="BGR", fit="stretch")
    images = [cv2.imread(str(one))[..., ::-1] for one in sorted((shared / "data/lfw_10x10/images").rglob("*.jpg"))[:12]]
    half, int8 = optimise.half(data, what), optimise.int8(data, images[6:], what)
    assert len(half) < 0.6 * len(data) and len(int8) < 0.55 * len(data)
    first = OnnxDetector(data, what).predict(images[:6])
    for form, close in ((half, 0.01), (int8, 0.12)):
        for before, after in zip(first, OnnxDetector(form, what).predict(images[:6]), strict=True):
            people = [max(b.confidence for b in one.boxes if b.label == "person") for one in (before, after)]
            assert abs(people[0] - people[1]) < close


def test_what_cannot_be_made_smaller(forms):
    with pytest.raises(BadInput, match="no image"):
        optimise.int8(forms["float32"], [])
    with pytest.raises(BadInput, match="not an ONNX model"):
        optimise.half(b"nothing")
    with pytest.raises(BadInput, match="does not say what its outputs mean"):
        optimise.half(network())
    model = onnx.load_model_from_string(yolo([[8, 8, 8, 8, 0.9, 0]]))
    body = helper.make_graph(
        [helper.make_node("Identity", ["found"], ["y"])], "b", [], [helper.make_tensor_value_info("y", 1, None)]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["again"], then_branch=body, else_branch=body))
    model.graph.output[0].name = "again"
    with pytest.raises(BadInput, match="branches or loops"):
        optimise.half(model.SerializeToString(), Outputs("yolo", NAMES, (32, 32)))
    card = json.loads(
        {p.key: p.value for p in onnx.load_model_from_string(forms["int8"]).metadata_props}["everlearn.card"]
    )
    assert card["optimised"] == "int8, ranges from 20 images, the head in float32"

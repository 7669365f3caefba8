"""A doorway in miniature: snapshots with red squares on them, and a detector of red squares as an ONNX graph, exact and
quick, so that what happens around a detector can be tested without minutes of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from everlearn.image import encode_png
from everlearn.types import Box
from tests.scenes import scene

RED = "parcel"
SIDE = 64


def snapshot(seed: int, side: int = SIDE) -> tuple[np.ndarray, Box]:
    """A ground without red, (side, side, 3) uint8 RGB, and one red square on it."""
    rng = np.random.default_rng([7, seed])
    ground = scene(seed, ("circle",), side)[0].astype(np.float32)
    ground[..., 0] = np.minimum(ground[..., 0], ground[..., 1:].max(axis=2))  # nothing redder than green or blue
    size = int(rng.integers(side // 5, side // 3))
    x, y = rng.integers(1, side - size - 1, 2)
    ground[y : y + size, x : x + size] = (235, 20, 25)
    return ground.astype(np.uint8), Box(RED, x / side, y / side, size / side, size / side)


def snapshots(folder: Path, number: int, first: int = 0, side: int = SIDE) -> dict[str, Box]:
    """Unlabelled images, ten minutes apart; by name what is on them."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for seed in range(first, first + number):
        image, box = snapshot(seed, side)
        hours, minutes = divmod(seed * 10, 60)
        name = f"door_202507{1 + hours // 24:02d}_{hours % 24:02d}{minutes:02d}00.png"
        (folder / name).write_bytes(encode_png(image))
        made[name] = box
    return made


def teacher(path: Path, side: int = SIDE, confidence: float = 0.9) -> Path:
    """A graph that finds the red square: images (N, 3, S, S) in 0..1 -> (N, 1, 6) x1 y1 x2 y2 score class, with its
    description beside it."""

    def constant(name: str, value: np.ndarray) -> onnx.TensorProto:
        return numpy_helper.from_array(value, name)

    nodes = [
        helper.make_node("Split", ["images"], ["r", "g", "b"], axis=1, num_outputs=3),
        helper.make_node("Max", ["g", "b"], ["other"]),
        helper.make_node("Sub", ["r", "other"], ["redness"]),
        helper.make_node("Greater", ["redness", "limit"], ["is_red"]),
        helper.make_node("Cast", ["is_red"], ["mask"], to=TensorProto.FLOAT),  # (N, 1, S, S)
        helper.make_node("ReduceMax", ["mask", "rows"], ["columns"], keepdims=0),  # (N, 1, S): which columns have red
        helper.make_node("ReduceMax", ["mask", "cols"], ["lines"], keepdims=0),
        helper.make_node("ReduceMax", ["columns", "last"], ["there"], keepdims=1),  # (N, 1, 1)
    ]
    sides = []
    for name, source in (("x", "columns"), ("y", "lines")):
        for end, last in (("1", 0), ("2", 1)):
            nodes += [
                helper.make_node("ArgMax", [source], [f"i{name}{end}"], axis=2, keepdims=1, select_last_index=last),
                helper.make_node("Cast", [f"i{name}{end}"], [f"f{name}{end}"], to=TensorProto.FLOAT),
            ]
            if last:
                nodes.append(helper.make_node("Add", [f"f{name}2", "one"], [f"e{name}2"]))
            sides.append(f"e{name}2" if last else f"f{name}1")
    x1, x2, y1, y2 = sides
    nodes += [
        helper.make_node("Mul", ["there", "confidence"], ["score"]),
        helper.make_node("Mul", ["there", "zero"], ["class"]),
        helper.make_node("Concat", [x1, y1, x2, y2, "score", "class"], ["boxes"], axis=2),
    ]
    values = [
        constant("limit", np.float32([0.3])), constant("rows", np.int64([2])), constant("cols", np.int64([3])),
        constant("last", np.int64([2])), constant("one", np.float32([1])), constant("zero", np.float32([0])),
        constant("confidence", np.float32([confidence])),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "red squares",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, side, side])],
        [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["N", 1, 6])], values,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    text = f"kind: nms\nclasses: [{RED}]\nsize: [{side}, {side}]\nlicence: Apache-2.0\n"
    path.with_suffix(".yaml").write_text(text)
    return path

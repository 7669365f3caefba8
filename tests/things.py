"""A real detector that needs no training, and pictures for it: it finds the one thing that lies on a plain ground."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from everlearn.image import encode_png
from everlearn.types import Box
from tests.scenes import _mask

SIDE = 96
KINDS = ("star", "ring", "cross", "square", "triangle", "circle")


def detector(path: Path) -> Path:
    """An ONNX file with its description beside it: images (N, 3, 96, 96) -> one row x1 y1 x2 y2 score class each. What
    differs from the pixel in the corner is the thing."""
    nodes = [
        helper.make_node("Slice", ["images", "zero", "one", "sides"], ["corner"]),
        helper.make_node("Sub", ["images", "corner"], ["apart"]),
        helper.make_node("Abs", ["apart"], ["far"]),
        helper.make_node("ReduceMax", ["far"], ["most"], axes=[1], keepdims=0),
        helper.make_node("Greater", ["most", "least"], ["is"]),
        helper.make_node("Cast", ["is"], ["mask"], to=TensorProto.FLOAT),
    ]
    for name, over in (("x", 1), ("y", 2)):
        nodes += [
            helper.make_node("ReduceMax", ["mask"], [f"line_{name}"], axes=[over], keepdims=0),
            helper.make_node("ArgMax", [f"line_{name}"], [f"first_{name}"], axis=1, keepdims=1),
            helper.make_node("ArgMax", [f"line_{name}"], [f"end_{name}"], axis=1, keepdims=1, select_last_index=1),
            helper.make_node("Cast", [f"first_{name}"], [f"{name}1"], to=TensorProto.FLOAT),
            helper.make_node("Cast", [f"end_{name}"], [f"last_{name}"], to=TensorProto.FLOAT),
            helper.make_node("Add", [f"last_{name}", "pixel"], [f"{name}2"]),
        ]
    nodes += [
        helper.make_node("ReduceMax", ["line_x"], ["any"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["any", "sure"], ["score"]),
        helper.make_node("Mul", ["any", "nothing"], ["class"]),
        helper.make_node("Concat", ["x1", "y1", "x2", "y2", "score", "class"], ["row"], axis=1),
        helper.make_node("Unsqueeze", ["row", "middle"], ["found"]),
    ]
    constants = {
        "zero": np.array([0, 0]), "one": np.array([1, 1]), "sides": np.array([2, 3]), "middle": np.array([1]),
        "least": np.float32(0.15), "pixel": np.float32(1), "sure": np.float32(0.9), "nothing": np.float32(0),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "things",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, ["N", 1, 6])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    said = {"kind": "nms", "classes": ["thing"], "size": SIDE, "licence": "Apache-2.0"}
    path.with_suffix(".yaml").write_text(json.dumps(said))
    return path


def draw(kind: str, seed: int, side: int = SIDE) -> tuple[np.ndarray, Box]:
    """(side, side, 3) uint8 with one thing of a kind, and its box; on plain grey, so that little is of one colour."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    radius = float(rng.uniform(0.2, 0.32) * side)
    x, y = rng.uniform(radius + 3, side - radius - 3, 2)
    mask = _mask(kind, side, x, y, radius, rng)
    image = np.full((side, side, 3), int(rng.integers(20, 70)), np.uint8)
    image[mask] = rng.integers(150, 256, 3)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return image, Box("thing", left / side, top / side, (right - left) / side, (bottom - top) / side)


def write(folder: Path, kind: str, number: int, first: int = 0) -> list[Path]:
    """PNG files of one kind."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in range(first, first + number):
        paths.append(folder / f"{kind}_{seed}.png")
        paths[-1].write_bytes(encode_png(draw(kind, seed)[0]))
    return paths

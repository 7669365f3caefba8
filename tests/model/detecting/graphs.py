"""Small graphs that find boxes, without any network in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

COCO = (  # noqa: SIM905
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, "
    "teddy bear, hair drier, toothbrush"
).split(", ")


def constant(
    table: np.ndarray, *, batch: int | str = "N", side: int | str = 32, dtype: int = TensorProto.FLOAT,
    shape: Sequence[int | str] | None = None, metadata: dict[str, str] | None = None,
) -> bytes:  # fmt: skip
    """images (batch, 3, side, side) -> `found` (batch, …): for every image the table, its last score column times the
    image's mean. shape: of the output as it is declared."""
    table = table.astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Reshape", ["mean", "flat"], ["light"]),
        helper.make_node("Mul", ["light", "weight"], ["part"]),
        helper.make_node("Add", ["part", "table"], ["found"]),
    ]
    weight = np.zeros((1, *table.shape), np.float32)
    weight[..., -1, :] = 1
    fixed = numpy_helper.from_array(np.array([-1, *[1] * table.ndim]), "flat")
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("images", dtype, [batch, 3, side, side])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, shape or [batch, *table.shape])],
        [fixed, numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(table[None], "table")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    return model.SerializeToString()


def yolo(rows: Sequence[Sequence[float]], **said) -> bytes:
    """Rows of x, y, width, height, scores, for `yolo` (4 + C, A). The last class's score grows with the light."""
    return constant(np.array(rows, np.float32).T, **said)


def poisoned(data: bytes, location: str) -> bytes:
    """The same, one of its weights said to lie in another file."""
    model = onnx.load_model_from_string(data)
    tensor = next(one for one in model.graph.initializer if one.name == "table")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return model.SerializeToString()

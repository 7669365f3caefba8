"""A graph in float16: half the size. Its inputs and outputs stay as they are, and so does its head.

A box at 600 px has steps of half a pixel in float16, so what makes boxes of numbers stays in float32. What
onnxruntime's own converter does at these borders (boxes through float16 after all, two nodes of one name) is why this
is a pass of ours.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from everlearn.errors import BadInput

_HALVED = frozenset({
    "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "ConvTranspose", "Div", "Elu", "Erf", "Exp",
    "Expand", "Flatten", "Gather", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish",
    "Identity", "InstanceNormalization", "LayerNormalization", "LeakyRelu", "MatMul", "MaxPool", "Mul", "Neg", "Pad",
    "PRelu", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Softmax", "Softplus", "Split", "Squeeze", "Sub", "Tanh",
    "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators that may compute in float16; what else there is stays as it is."""
_FIRST_ALONE = frozenset({"Resize"})  # of these the first input alone may be float16
_LARGEST = 65504.0


def halved(model: onnx.ModelProto, kept: Collection[str]) -> onnx.ModelProto:
    """The model with float16 where that is safe. kept: names of nodes that stay as they are. Raises BadInput."""
    found = onnx.shape_inference.infer_shapes(model)
    _with_constants_as_weights(found.graph)
    work = _Halving(found)
    for node in [*found.graph.node]:
        work.add(node, half=node.op_type in _HALVED and node.name not in kept)
    work.finish()
    return found


def _with_constants_as_weights(graph: onnx.GraphProto) -> None:
    nodes = []
    for node in graph.node:
        if any(one.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for one in node.attribute):
            raise BadInput("A graph with branches or loops cannot be made float16.", "Keep it in float32.")
        value = [one.t for one in node.attribute if one.name == "value"] if node.op_type == "Constant" else []
        if not value:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
            continue
        weight = onnx.TensorProto.FromString(value[0].SerializeToString())
        weight.name = node.output[0]
        graph.initializer.append(weight)
    del graph.node[:]
    graph.node.extend(nodes)


class _Halving:
    """The nodes written so far, and in which forms each number exists."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = graph = model.graph
        self.nodes: list[onnx.NodeProto] = []
        values = (*graph.input, *graph.output, *graph.value_info)
        self.floats = {one.name for one in values if one.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.floats |= {one.name for one in graph.initializer if one.data_type == TensorProto.FLOAT}
        self.weights = {one.name: one for one in graph.initializer}
        self.ends = {one.name for one in graph.output}
        self.half: dict[str, str] = {}
        """A number's name -> its name in float16, where that was made."""
        self.only_half: set[str] = set()
        """Numbers that exist in float16 alone, under their own name."""
        self.names = 0

    def add(self, node: onnx.NodeProto, *, half: bool) -> None:
        for at, name in enumerate(node.input):
            if half and name in self.floats and not (at and node.op_type in _FIRST_ALONE):
                node.input[at] = self._halved(name)
            elif name in self.only_half:
                node.input[at] = self._whole(name)
        self._written(node)
        if not half:
            return
        for at, name in enumerate(node.output):
            if name not in self.floats:
                continue
            if name in self.ends:  # what goes out stays float32
                node.output[at] = self.half[name] = name + "_half"
                self._cast(node.output[at], name, TensorProto.FLOAT)
            else:
                self.only_half.add(name)

    def finish(self) -> None:
        used = {name for node in self.nodes for name in node.input} | self.ends
        weights = [one for one in self.graph.initializer if one.name in used]
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(weights)

    def _halved(self, name: str) -> str:
        if name in self.only_half:
            return name
        if name not in self.half:
            self.half[name] = name + "_half"
            if name in self.weights:
                small = numpy_helper.to_array(self.weights[name]).clip(-_LARGEST, _LARGEST).astype(np.float16)
                self.graph.initializer.append(numpy_helper.from_array(small, self.half[name]))
            else:
                self._cast(name, self.half[name], TensorProto.FLOAT16)
        return self.half[name]

    def _whole(self, name: str) -> str:
        whole = name + "_whole"
        if whole not in self.half:
            self.half[whole] = name
            self._cast(name, whole, TensorProto.FLOAT)
        return whole

    def _cast(self, source: str, target: str, to: int) -> None:
        self._written(helper.make_node("Cast", [source], [target], to=to))

    def _written(self, node: onnx.NodeProto) -> None:
        node.name = f"n{self.names}"  # two nodes of one name are an error to onnxruntime
        self.names += 1
        self.nodes.append(node)

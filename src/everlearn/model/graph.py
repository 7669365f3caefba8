"""Writing ONNX graphs, and running them the same way everywhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import compose, helper, numpy_helper, version_converter

from everlearn.errors import BadInput

OPSET = 13  # the first with today's ReduceSum, Softmax and Mod: the widest range of runtimes takes it
IR_VERSION = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


class Graph:
    """A graph in the making: every method adds nodes and gives the name of their result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.opset = OPSET
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def input(self, name: str, dtype: type[np.generic], shape: Sequence[int | str]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, _code(dtype), list(shape)))
        return name

    def output(self, name: str, value: str, dtype: type[np.generic], shape: Sequence[int | str]) -> None:
        self.nodes.append(helper.make_node("Identity", [value], [name], name=name))
        self.outputs.append(helper.make_tensor_value_info(name, _code(dtype), list(shape)))

    def constant(self, value: NDArray[Any] | np.generic) -> str:
        """The same array twice is stored once."""
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"c{len(self._known)}"
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def add(self, op: str, *operands: str | NDArray[Any] | np.generic, **attributes: Any) -> str:
        """One node with one result. Arrays among the operands become constants of the graph."""
        names = [value if isinstance(value, str) else self.constant(value) for value in operands]
        result = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [result], name=result, **attributes))
        return result

    def cast(self, value: str, dtype: type[np.generic]) -> str:
        return self.add("Cast", value, to=_code(dtype))

    def reshape(self, value: str, *shape: int) -> str:
        return self.add("Reshape", value, np.array(shape, np.int64))

    def include(self, model: onnx.ModelProto, value: str, output: str) -> str:
        """A model of one input becomes a part of this graph, fed with `value`: its `output`. Raises BadInput where it
        cannot be brought to this graph's operators."""
        prefix = f"part{len(self.nodes)}_"
        model = compose.add_prefix(raised(model, self.opset), prefix)
        self.opset = max(self.opset, opset(model))
        self.nodes.append(helper.make_node("Identity", [value], [model.graph.input[0].name]))
        self.nodes.extend(model.graph.node)
        self.constants.extend(model.graph.initializer)
        return prefix + output

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "everlearn", self.inputs, self.outputs, self.constants)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=IR_VERSION,
            producer_name="everlearn",
        )


def opset(model: onnx.ModelProto) -> int:
    """The version of the operators that a model is of."""
    return max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)


def raised(model: onnx.ModelProto, least: int) -> onnx.ModelProto:
    """The model with operators of this version or a newer one. Raises BadInput where it cannot be brought there."""
    if opset(model) >= least:
        return model
    try:
        return version_converter.convert_version(model, least)
    except Exception as error:  # the converter's errors share no base class
        reason = (str(error).splitlines() or ["?"])[0][:200]
        raise BadInput(f"A network cannot be brought to operator set {least}: {reason}", "Export it again.") from None


def _code(dtype: type[np.generic]) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def session(model: onnx.ModelProto | bytes, name: str = "model") -> onnxruntime.InferenceSession:
    """One thread per call: images are spread over threads instead, which scales better and never changes a sum's order.

    Raises BadInput where it is no model or one that this onnxruntime cannot run.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # else a model may name files below the folder we are in as its weights; below this there are none
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    data = model if isinstance(model, bytes) else model.SerializeToString()
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        reason = str(error).splitlines()[0][:200]
        raise BadInput(f"{name} is not an ONNX model that can be run: {reason}", "Export it again.") from None


def threads() -> int:
    """EVERLEARN_THREADS, else OMP_NUM_THREADS, else every core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for variable in ("EVERLEARN_THREADS", "OMP_NUM_THREADS"):
        wanted = os.environ.get(variable, "")
        if wanted.isdigit() and int(wanted):
            return min(cores, int(wanted))
    return cores


def in_batches(
    work: Callable[[Sequence[Item]], Result], items: Sequence[Item], size: int, workers: int
) -> Iterator[Result]:
    """work(items[0:size]), work(items[size:2 size]), …: side by side, results in order."""
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    if len(parts) < 2 or workers < 2:
        yield from map(work, parts)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(work, parts)

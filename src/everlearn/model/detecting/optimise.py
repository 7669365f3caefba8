"""A detector's file in float16 or int8, and what that costs: bytes on disk, milliseconds, mAP50.

    half   float16 weights and activations; the head in float32. Half the size; on a CPU it is no faster.
    int8   static quantisation (`model.quantised` says how and why): ranges from images of the kind that it will see;
           the head in float32.

The head is everything from the outputs back to the first convolution on each way, that one among it. It must stay: one
scale for a tensor that holds pixels (0-640) beside probabilities (0-1) leaves the latter nothing, and a YOLO quantised
to its end finds nothing at all. Between the convolutions all is in integers, also the sigmoids: where these alone stay
in float32, it takes longer and finds less. mAP50 of a YOLO11n at 160 px on drawn shapes, 0.8027 in float32: 0.7938 with
the ranges' extremes over all images, 0.8033 with the mean of the images' ranges, which is what is done; 0.7775 with
convolutions and sums alone; 0.0000 with the head.

A file whose graph is changed is still the detector that it was: the same description, classes and thresholds, and in a
bundle's card a line that says what was done to it.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from everlearn.errors import BadInput
from everlearn.model.bundle import KEY
from everlearn.model.detecting.halving import halved
from everlearn.model.detecting.onnx import OnnxDetector
from everlearn.model.graph import OPSET, raised
from everlearn.model.quantised import quiet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.model.detecting.detector import Detector
    from everlearn.model.detecting.outputs import Outputs
    from everlearn.types import Image

WHOLE, HALF, INT8 = "float32", "half", "int8"
CALIBRATION = 100  # images; more change no range that matters
_INTEGERS = (
    "Conv", "Gemm", "MatMul", "Add", "Mul", "Sigmoid", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat",
    "Resize", "Split", "Slice", "Transpose", "Reshape",
)  # fmt: skip
_ROUNDS, _RUNS = 9, 3
_FASTER = 1.05  # times, from which on it is more than chance


def half(data: bytes, description: Outputs | None = None) -> bytes:
    """A detector's file -> the same in float16. description: where the file does not say what its outputs mean.

    Raises BadInput where the graph cannot be converted.
    """
    source = OnnxDetector(data, description)
    model = onnx.load_model_from_string(data)
    _named(model)
    try:
        after = halved(model, head(model.graph))
        onnx.checker.check_model(after)
    except BadInput:
        raise
    except Exception as error:  # onnx's errors share no base class
        raise _refused(error, "float16") from None
    return _finished(after, source, "float16, the head in float32")


def int8(data: bytes, images: Sequence[Image], description: Outputs | None = None) -> bytes:
    """A detector's file -> the same in int8, its ranges from these images, of the kind that it will see.

    Raises BadInput without images, or where the graph cannot be quantised.
    """
    if not len(images):
        raise BadInput("There is no image to measure the network's ranges on.", "Give some of its training images.")
    source = OnnxDetector(data, description)
    chosen = [images[at] for at in np.linspace(0, len(images) - 1, min(len(images), CALIBRATION)).astype(int)]
    try:
        with tempfile.TemporaryDirectory() as folder, quiet():
            after = _static(raised(onnx.load_model_from_string(data), OPSET), source, chosen, Path(folder))
    except Exception as error:  # whatever onnxruntime's tools stumble over
        raise _refused(error, "quantised") from None
    return _finished(after, source, f"int8, ranges from {len(chosen)} images, the head in float32")


def head(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes from the outputs back to the first convolution on each way, that one among them. One with a
    single channel is arithmetic, such as the mean over a distribution that YOLO's boxes are, and is gone through."""
    makes = {name: node for node in graph.node for name in node.output}
    channels = {one.name: one.dims[0] for one in graph.initializer if one.dims}
    found: set[str] = set()
    todo = [one.name for one in graph.output]
    while todo:
        node = makes.get(todo.pop())
        if node is None or node.name in found:
            continue
        found.add(node.name)
        if node.op_type != "Conv" or channels.get(node.input[1]) == 1:
            todo += node.input
    return found


@dataclass(frozen=True)
class Measured:
    """One form of a detector. milliseconds: the median for an image, in one thread, without preparing it; map50: on the
    images that it was judged on, None where there was nobody to judge."""

    name: str
    bytes: int
    milliseconds: float
    map50: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {"form": self.name, "bytes": self.bytes, "milliseconds": self.milliseconds, "map50": self.map50}


def measured(
    forms: Mapping[str, bytes], image: Image, judge: Callable[[Detector], float] | None = None,
    description: Outputs | None = None,
) -> list[Measured]:  # fmt: skip
    """Each form's size, time on this image, and worth; the first of them is what the others were made from. judge: a
    detector's mAP50, on images that are others than those that the ranges are from."""
    detectors = {name: OnnxDetector(data, description) for name, data in forms.items()}
    took = _milliseconds(detectors, image)
    worth = {name: None if judge is None else judge(one) for name, one in detectors.items()}
    return [Measured(name, len(forms[name]), took[name], worth[name]) for name in forms]


def lines(forms: Sequence[Measured]) -> list[str]:
    """What was measured, for people; and what follows from it on this machine."""
    from everlearn.text import table

    first, *others = forms
    rows = [
        [one.name, f"{one.bytes / 1e6:.2f} MB", f"{one.milliseconds:.1f} ms",
         f"{first.milliseconds / one.milliseconds:.2f} x", "" if one.map50 is None else f"{one.map50:.4f}",
         "" if one.map50 is None or first.map50 is None else f"{one.map50 - first.map50:+.4f}"] for one in forms
    ]  # fmt: skip
    told = table(rows, ["form", "on disk", "an image", "speed", "mAP50", "change"])
    for one in others:
        if one.milliseconds > first.milliseconds / _FASTER:
            slower = one.milliseconds > first.milliseconds * _FASTER
            told.append(f"{one.name} is {'slower' if slower else 'no faster'} here: it saves space, not time.")
    return told


def _milliseconds(detectors: Mapping[str, OnnxDetector], image: Image) -> dict[str, float]:
    """Of one run of each graph, the median of several, taken in turn: whatever else the machine does hits all."""
    found: dict[str, list[float]] = {name: [] for name in detectors}
    inputs = {name: one.input([image]) for name, one in detectors.items()}
    for turn in range(_ROUNDS + 1):
        for name, one in detectors.items():
            for _ in range(_RUNS):
                began = time.perf_counter()
                one.run(inputs[name])
                if turn:  # the first one warms up
                    found[name].append((time.perf_counter() - began) * 1000 / len(inputs[name]))
    return {name: statistics.median(values) for name, values in found.items()}


def _static(model: onnx.ModelProto, source: OnnxDetector, images: Sequence[Image], folder: Path) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(images)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            one = next(self._left, None)
            return None if one is None else {source.input_name: source.input([one])}

    before, clean, out = folder / "before.onnx", folder / "clean.onnx", folder / "int8.onnx"
    before.write_bytes(model.SerializeToString())
    quant_pre_process(str(before), str(clean), skip_symbolic_shape=True)  # batch norms become parts of convolutions
    named = onnx.load(clean)
    _named(named)
    onnx.save(named, clean)
    quantize_static(
        str(clean), str(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
        weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8, nodes_to_exclude=sorted(head(named.graph)),
        op_types_to_quantize=list(_INTEGERS),
        extra_options={"CalibMovingAverage": True},  # the mean of the images' ranges: one glaring image sets no scale
    )  # fmt: skip
    return onnx.load(out)


def _named(model: onnx.ModelProto) -> None:
    """Every node gets a name of its own, by which it can be left out."""
    known: set[str] = set()
    for at, node in enumerate(model.graph.node):
        if not node.name or node.name in known:
            node.name = f"{node.op_type}_{at}"
        known.add(node.name)


def _finished(after: onnx.ModelProto, source: OnnxDetector, done: str) -> bytes:
    """With the metadata that the file had, and in a bundle's card what was done to it."""
    facts = dict(source.facts)
    if KEY + "card" in facts:
        facts[KEY + "card"] = json.dumps(source.card | {"optimised": done}, default=str, ensure_ascii=False)
    del after.metadata_props[:]
    onnx.helper.set_model_props(after, facts)
    data = after.SerializeToString()
    OnnxDetector(data, source.description)  # that it runs
    return bytes(data)


def _refused(error: Exception, what: str) -> BadInput:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return BadInput(f"The detector cannot be {what}: {reason}", "Keep it in float32.")

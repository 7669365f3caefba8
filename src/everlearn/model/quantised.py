"""Bundles in int8: a quarter of the size, and faster where a network is made of ordinary convolutions.

    real ~ scale x (integer - zero)     weights per channel, activations per tensor (Jacob et al. 2018,
                                        arXiv:1712.05877)

The range of each activation is measured once, on real images (*static* quantisation). Measured on a CPU with VNNI, one
image at a time, beside float32:

| network | int8 here | dynamic |
| --- | --- | --- |
| cnn, 64 px; resnet18, 128 px | 1.7x; 2-3x faster | 5x slower: each convolution measures its input anew |
| mobilenetv3, 128 px | about the same: depthwise convolutions gain nothing | 6x slower |
| vit_tiny, 224 px | 1.6x faster | the same |

So only static quantisation is offered, and `cost` says what it came to on the machine at hand: a file that is not
faster there is best left in float32. Weights use seven bits of the eight: sums of 8-bit products overflow their 16 bits
on CPUs without VNNI, silently, and a file must answer alike everywhere. The head stays float.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from everlearn.errors import BadInput
from everlearn.model.basis import INPUT
from everlearn.model.bundle import OnnxModel
from everlearn.model.graph import session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.types import Image

CALIBRATION = 200  # images; more change no range that matters
_CONVOLVED = ("Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool")
_ATTENDING = ("Conv", "Gemm", "MatMul")  # sums between attention layers are better left as they are
_RUNS, _ROUNDS = 5, 5


def quantise(data: bytes, images: Sequence[Image]) -> bytes:
    """A bundle's bytes -> the same in int8, its ranges from these images, of the kind that it will see.

    Raises BadInput without images, for a bundle that gives features alone, or one that cannot be quantised.
    """
    if not len(images):
        raise BadInput("There is no image to measure the network's ranges on.", "Give some of its training images.")
    source = OnnxModel(data)
    if not source.squares:
        raise BadInput("A model of rows has nothing that int8 makes faster.", "Keep it in float32.")
    chosen = [images[at] for at in np.linspace(0, len(images) - 1, min(len(images), CALIBRATION)).astype(int)]
    before = source.proto()
    try:
        with tempfile.TemporaryDirectory() as folder, quiet():
            after = _static(before, source.prepare(chosen), Path(folder))
    except Exception as error:  # whatever onnxruntime's tools stumble over
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BadInput(f"The model cannot be quantised: {reason}", "Keep it in float32.") from None
    facts = {one.key: one.value for one in before.metadata_props}
    card = json.loads(facts["everlearn.card"]) | {"quantised": f"int8, ranges from {len(chosen)} images"}
    del after.metadata_props[:]
    onnx.helper.set_model_props(after, facts | {"everlearn.card": json.dumps(card, default=str, ensure_ascii=False)})
    return after.SerializeToString()


@dataclass(frozen=True)
class Cost:
    """What int8 costs and gives. images: it was judged on. agreement: share of them that are answered alike; accuracy
    and accuracy_int8: share answered right, None without labels. difference: the largest, of a probability.
    milliseconds: for one image in one thread. speed: how many times faster; below 1 it is slower here."""

    images: int
    agreement: float
    difference: float
    accuracy: float | None
    accuracy_int8: float | None
    bytes: int
    bytes_int8: int
    milliseconds: float
    milliseconds_int8: float

    @property
    def speed(self) -> float:
        return self.milliseconds / self.milliseconds_int8

    @property
    def loss(self) -> float | None:
        """Of accuracy; negative where int8 happens to be right more often."""
        if self.accuracy is None or self.accuracy_int8 is None:
            return None
        return self.accuracy - self.accuracy_int8

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "speed": self.speed, "loss": self.loss}


def cost(before: bytes, after: bytes, images: Sequence[Image], labels: Sequence[str] | None = None) -> Cost:
    """Both models on the same images, which must be others than those that the ranges are from. labels: right answers,
    by class; answers for numbers are compared by their difference alone. Raises BadInput without images."""
    if not len(images):
        raise BadInput("There is no image to judge int8 on.", "Give some that the network has not learned from.")
    models = OnnxModel(before), OnnxModel(after)
    first, second = (model.table(images) for model in models)
    best, quantised = first.argmax(1), second.argmax(1)
    right: list[float | None] = [None, None]
    if labels is not None and models[0].classes:
        names = np.array(models[0].classes)
        right = [float((names[answers] == np.array(labels)).mean()) for answers in (best, quantised)]
    inputs = models[0].prepare(images[:1])
    took = _milliseconds({"float": before, "int8": after}, inputs)
    return Cost(
        len(images), float((best == quantised).mean()), float(np.abs(first - second).max()), right[0], right[1],
        len(before), len(after), took["float"], took["int8"],
    )  # fmt: skip


def _milliseconds(models: Mapping[str, bytes], inputs: NDArray[Any]) -> dict[str, float]:
    """Of one run of each, the quickest round of several, taken in turn: whatever else the machine does hits both."""
    running = {name: session(data) for name, data in models.items()}
    found = dict.fromkeys(models, np.inf)
    for _ in range(_ROUNDS):
        for name, one in running.items():
            began = time.perf_counter()
            for _ in range(_RUNS):
                one.run(None, {INPUT: inputs})
            found[name] = min(found[name], (time.perf_counter() - began) / _RUNS * 1000)
    return found


def _static(model: onnx.ModelProto, inputs: NDArray[Any], folder: Path) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(inputs)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            one = next(self._left, None)
            return None if one is None else {INPUT: one[None]}

    clean, out = folder / "clean.onnx", folder / "int8.onnx"
    source = folder / "source.onnx"
    source.write_bytes(model.SerializeToString())
    quant_pre_process(str(source), str(clean), skip_symbolic_shape=True)  # batch norms become parts of convolutions
    nodes = onnx.load(clean).graph.node
    products = [one.name for one in nodes if one.op_type in ("Gemm", "MatMul")]
    attends = len(products) > sum(one.op_type == "Conv" for one in nodes)
    quantize_static(
        str(clean), str(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
        weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8, nodes_to_exclude=products[-1:],
        op_types_to_quantize=list(_ATTENDING if attends else _CONVOLVED),
    )  # fmt: skip
    return onnx.load(out)


@contextmanager
def quiet() -> Iterator[None]:
    """The quantiser gives advice that was followed."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)

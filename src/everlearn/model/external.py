"""`onnx:FILE` backbones: any image network whose graph gives a feature vector; `timm:`, `torchvision:` and `keras:`
networks are turned into such a graph (`model.library`) and run here.

`onnx:mobilenet.onnx?mean=127.5&std=127.5&output=features1280`: what the graph does not say stands behind the question
mark. mean, std: one number or three, on pixels of 0-255, so that x = (pixel - mean) / std (ImageNet's by default).
size: side in pixels, where the graph leaves it open (224). fit: Pillow's filter (`bicubic`); with a number behind it,
`bilinear 256`, the shorter side is brought to so many pixels and the square in the middle taken, without one the whole
image, whose aspect is not kept. output: the feature tensor's name (by default the last output that has two dimensions,
or four of which the last two are 1). bgr=1: channels in OpenCV's order. licence: the weights' licence, which is written
into every bundle. A file that Everlearn wrote says all of this itself, in its metadata.

Float features may differ between machines in the last bits; on one machine an image's features never depend on its
neighbours, because every image is run alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import numpy as np
import onnx
from onnx import compose

from everlearn.errors import BadConfig, BadInput, Missing
from everlearn.model import pixels
from everlearn.model.backbone import unit
from everlearn.model.graph import OPSET, Graph, opset, raised, session
from everlearn.model.pixels import Fit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.types import Image

WEIGHTS = "EVERLEARN_WEIGHTS"
SAYS = "everlearn.backbone"
"""Before a file's own options in its metadata, written as behind the question mark."""
OPTIONS = ("size", "mean", "std", "output", "bgr", "fit", "licence")
IMAGENET_MEAN, IMAGENET_STD = "123.675,116.28,103.53", "58.395,57.12,57.375"
MOST_BYTES = 1 << 31  # protobuf's own limit


@dataclass(frozen=True, slots=True)
class Preparation:
    """From pixels to a network's input: x = (pixel - mean) / std, each (3,) on pixels of 0-255. size: side in px."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False
    fit: Fit = pixels.WHOLE

    def __str__(self) -> str:
        return f"{self.size}|{self.mean}|{self.std}|{self.bgr}|{self.fit.rule}"


class Onnx:
    """A network as a graph, run one image at a time."""

    length = 8192.0
    batch = 1

    def __init__(
        self, spec: str, model: onnx.ModelProto, identity: str, output: str, preparation: Preparation, licence: str
    ) -> None:
        """identity: what the network is, such as its file's digest; with output and preparation it decides the features
        of an image.

        Raises BadInput where the graph is not one from an image to a vector.
        """
        self.spec, self.licence, self.output = spec, licence, output
        self.preparation, self.size, self.fit = preparation, preparation.size, preparation.fit
        self.digest = hashlib.sha256(f"onnx 1|{identity}|{output}|{preparation}".encode()).hexdigest()
        self._prefix = f"backbone_{self.digest[:12]}_"  # two networks may stand in one graph
        self._model = _prefixed(spec, model, output, self._prefix)
        self._input = self._model.graph.input[0].name
        self._channels_last = _channels_last(_shape(self._model.graph.input[0]))
        self.dimensions = self._width()

    @property
    def input(self) -> tuple[type[np.generic], tuple[int, ...]]:
        return np.uint8, (self.size, self.size, 3)

    def prepare(self, images: Sequence[Image]) -> NDArray[np.uint8]:
        """(N,) images -> (N, size, size, 3)."""
        return pixels.prepare(images, self.size, self.fit)

    def build(self, graph: Graph, images: str) -> str:
        """(N, size, size, 3) uint8 -> (N, dimensions) float32 of whole numbers, 8192 long."""
        return unit(graph, self.features(graph, images), self.length)

    def features(self, graph: Graph, images: str) -> str:
        """(N, size, size, 3) uint8 -> (N, dimensions) float32: the network's own numbers."""
        x, how = graph.cast(images, np.float32), self.preparation
        x = graph.add("Div", graph.add("Sub", x, np.array(how.mean, np.float32)), np.array(how.std, np.float32))
        if how.bgr:
            x = graph.add("Gather", x, np.array([2, 1, 0]), axis=3)
        if not self._channels_last:
            x = graph.add("Transpose", x, perm=[0, 3, 1, 2])
        model, prefix = self._model, ""
        if graph.opset > opset(model):  # what the converter adds has names of its own: all are marked once more
            model, prefix = compose.add_prefix(raised(model, graph.opset), self._prefix), self._prefix
        graph.opset = max(graph.opset, opset(model))
        graph.nodes.append(onnx.helper.make_node("Identity", [x], [prefix + self._input]))
        graph.nodes.extend(model.graph.node)
        graph.constants.extend(model.graph.initializer)
        return graph.reshape(prefix + self._prefix + self.output, 0, -1)

    def _width(self) -> int:
        """Numbers that the network gives for one image. Raises BadInput where it cannot run."""
        graph = Graph()
        dtype, shape = self.input
        found = self.features(graph, graph.input("images", dtype, ["N", *shape]))
        graph.output("features", found, np.float32, ["N", "D"])
        runs = session(graph.model(), self.spec)
        try:
            return int(runs.run(None, {"images": np.zeros((1, *shape), np.uint8)})[0].shape[1])
        except Exception as error:
            reason = str(error).splitlines()[0][:200]
            raise BadInput(f"{self.spec} does not run on one {self.size}x{self.size} image: {reason}", _HELP) from None


_HELP = "Name the feature tensor and the size: onnx:FILE?output=NAME&size=224"


def load_onnx(spec: str, base: Path | None = None) -> Onnx:
    """Raises Missing where the file is not there, BadConfig for an unknown option, BadInput where it is no model."""
    name, _, query = spec.removeprefix("onnx:").partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise BadConfig(f"backbone {spec}: unknown option {unknown[0]}.", f"Known: {', '.join(OPTIONS)}.")
    path = _find(name, base)
    data, model = read_model(path, name)
    options = _said(model) | options
    licence = options.get("licence", "not stated: see the weights' own licence")
    preparation = _preparation(spec, model, options)
    output = _output(spec, model, options.get("output"))
    return Onnx(spec, model, hashlib.sha256(data).hexdigest(), output, preparation, licence)


def _said(model: onnx.ModelProto) -> dict[str, str]:
    """What a file says of itself, in the words of a spec."""
    said = next((one.value for one in model.metadata_props if one.key == SAYS), "")
    return {key: value for key, value in parse_qsl(said) if key in OPTIONS}


def read_model(path: Path, name: str) -> tuple[bytes, onnx.ModelProto]:
    """A file's bytes and the model in them. Raises BadInput where it is none, or not whole in itself."""
    if path.stat().st_size > MOST_BYTES:
        raise BadInput(f"{name} is larger than an ONNX file can be.", "Check the file.")
    data = path.read_bytes()
    return data, whole_model(data, name)


def whole_model(data: bytes, name: str) -> onnx.ModelProto:
    """The model in a file's bytes. Raises BadInput where it is none, or not whole in itself."""
    try:
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and the checker's errors share no base class
        reason = (str(error).splitlines() or ["no protobuf"])[0][:200]
        raise BadInput(f"{name} is not an ONNX model: {reason}", "Export it again.") from None
    graphs = (model.graph, *model.functions)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for graph in graphs for tensor in _tensors(graph)):
        raise BadInput(
            f"{name} keeps its weights in other files.", "Save it as one file (onnx.save, no external data)."
        )
    return model


def _tensors(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.TensorProto]:
    """All weights and constants, also of the branches and loops in a graph or a function."""
    if isinstance(graph, onnx.GraphProto):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (
                attribute.t,
                *attribute.tensors,
                attribute.sparse_tensor.values,
                attribute.sparse_tensor.indices,
            )
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _find(name: str, base: Path | None) -> Path:
    folders = [Path(os.environ[WEIGHTS])] if os.environ.get(WEIGHTS) else []
    folders.append(base or Path())
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    looked = " and ".join(str(folder.resolve()) for folder in folders)
    raise Missing(
        f"The backbone's file {name} is not in {looked}.",
        f"Put it there, or set {WEIGHTS} to the folder that holds it.",
    )


def _preparation(spec: str, model: onnx.ModelProto, options: dict[str, str]) -> Preparation:
    """From the options and, where these are silent, the graph."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    shape = _shape(inputs[0]) if len(inputs) == 1 else []
    sides = shape[1:3] if _channels_last(shape) else shape[2:]
    channels = len(shape) == 4 and (_channels_last(shape) or shape[1] in (3, 0))
    if not channels or inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        given = ", ".join(f"{value.name} {_shape(value)}" for value in inputs)
        raise BadInput(
            f"{spec}: the graph's input must be N x 3 x H x W or N x H x W x 3 floats; it has {given}.", "Export it so."
        )
    try:
        size = int(options.get("size", 0)) or max(sides) or 224
        mean = _three(options.get("mean", IMAGENET_MEAN))
        std = _three(options.get("std", IMAGENET_STD))
        fit = Fit.parse(options.get("fit", "bicubic"))
        if not 8 <= size <= 2048 or min(std) <= 0:
            raise ValueError("size must be 8 to 2048, and std above 0")
    except ValueError as error:
        raise BadConfig(f"backbone {spec}: {error}.", "Example: onnx:FILE?size=224&mean=127.5&std=127.5") from None
    if any(side not in (0, size) for side in sides):
        raise BadInput(f"{spec}: the graph takes {sides[0]}x{sides[1]} pixels.", "Only squares of its own size.")
    return Preparation(size, mean, std, options.get("bgr", "0") == "1", fit)


def _channels_last(shape: list[int]) -> bool:
    return len(shape) == 4 and shape[3] == 3 and shape[1] != 3


def _output(spec: str, model: onnx.ModelProto, wanted: str | None) -> str:
    made = {name for node in model.graph.node for name in node.output}
    if wanted is not None:
        if wanted not in made:
            raise BadConfig(f"backbone {spec}: the graph has no tensor {wanted}.", "Look at it with Netron.")
        return wanted
    flat = [value.name for value in model.graph.output if _is_flat(_shape(value)) and value.name in made]
    if not flat:
        raise BadInput(f"{spec}: no output of the graph is a vector.", _HELP)
    return flat[-1]


def _is_flat(shape: list[int]) -> bool:
    return len(shape) == 2 or (len(shape) == 4 and shape[2:] == [1, 1])


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    """Sides, 0 where the graph leaves one open."""
    return [side.dim_value for side in value.type.tensor_type.shape.dim]


def _three(text: str) -> tuple[float, ...]:
    numbers = tuple(float(part) for part in text.split(","))
    if len(numbers) not in (1, 3) or not np.isfinite(numbers).all():
        raise ValueError(f"{text} must be one number or three")
    return numbers * (3 // len(numbers))


def _prefixed(spec: str, model: onnx.ModelProto, output: str, prefix: str) -> onnx.ModelProto:
    """The part of the graph that gives `output`, at our operator set or above, its names marked as the backbone's."""
    foreign = [one.domain for one in model.opset_import if one.domain not in ("", "ai.onnx")]
    used = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    if used & set(foreign):
        raise BadInput(f"{spec}: operators of {sorted(used)} are not supported.", "Export with plain ONNX operators.")
    try:
        found = compose.add_prefix(raised(model, OPSET), prefix)
    except Exception as error:
        reason = (str(error).splitlines() or ["?"])[0][:200]
        raise BadInput(f"{spec} cannot be used: {reason}", "Export it again.") from None
    return _pruned(found, prefix + output)


def _pruned(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """Without nodes and weights that `output` does not need."""
    needed, keep = {output}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            keep.append(node)
            needed |= _reads(node)
    weights = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    names = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in names]
    del model.graph.node[:], model.graph.initializer[:], model.graph.input[:], model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    model.graph.node.extend(reversed(keep))
    model.graph.initializer.extend(weights)
    model.graph.input.extend(inputs)
    return model


def _reads(node: Any) -> set[str]:
    found = set(node.input)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for one in inner.node:
                found |= _reads(one)
    return found

"""A trained network as a version's bundle: one ONNX file from uint8 squares to answers, and a file of its weights.

    images (N, S, S, 3) uint8  ->  probabilities (N, C)     softmax; sigmoid where an image may have several labels
                               ->  value (N, 1)             for numbers, back on their own scale

What an image must be brought to, and how, stands in the file's metadata, as in every other bundle, and
`bundle.OnnxModel` serves it without torch. `export_features` writes the network without its head, as an `onnx:`
backbone: an exact memory can then be built on what the network has learned to see.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from everlearn.errors import BadInput, Corrupt
from everlearn.model import bundle
from everlearn.model.basis import INPUT
from everlearn.model.external import SAYS
from everlearn.model.graph import Graph, opset
from everlearn.model.library import OUTPUT
from everlearn.model.networks_torch import converted
from everlearn.model.trainable import Network, from_stage_file, read_tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.types import Image

WEIGHTS = "/network.pt"
"""Ending of the file of weights, in a version's folder."""
_LOGITS = "logits"
_AT_A_TIME = 64


@dataclass(frozen=True)
class Scale:
    """What a network for numbers learned: value = mean + deviation x its output, within low and high."""

    mean: float
    deviation: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network and what its columns mean; `stages.learners.Answers`.

    classes: names of the columns, () for numbers, which have a scale. several: an image may have several labels, and
    each has a probability of its own. temperature: what the scores are divided by. facts: its own lines in the card.
    """

    network: Network
    classes: tuple[str, ...]
    scale: Scale | None = None
    several: bool = False
    temperature: float = 1.0
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.scale is None) != bool(self.classes) or self.network.classes != max(1, len(self.classes)):
            raise BadInput(
                f"A network of {self.network.classes} columns does not answer for {len(self.classes)} classes.",
                "Name each column; for numbers name none, and give their scale.",
            )

    @property
    def answers(self) -> tuple[str, ...]:
        return self.classes

    @property
    def task(self) -> str:
        return "classify" if self.classes else "regress"

    @property
    def backbone(self) -> str:
        return self.network.spec

    @property
    def licence(self) -> str:
        return self.network.licence

    def about(self) -> dict[str, Any]:
        return {
            "head": "cosine" if not isinstance(self.network.head, nn.Linear) else "linear",
            "answers": "as one graph, anywhere",
            "temperature": self.temperature,
            "calibrated": self.temperature != 1,
            "dimensions": self.network.dimensions,
            "parameters": sum(one.numel() for one in self.network.parameters()),
            **self.facts,
        }

    def write(self, folder: Path, card: dict[str, Any]) -> tuple[dict[str, bytes | Path], dict[str, Any]]:
        """The ONNX file, checked against torch, and the weights; and the card. Raises as `export`."""
        export(self, folder / "model.onnx", card=card)
        return {".onnx": folder / "model.onnx", WEIGHTS: weights(self)}, card

    def table(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(N,) images of any size -> (N, C) probabilities, or (N, 1) values, by torch."""
        return self.answered(self.network.prepared(images))

    @torch.no_grad()
    def answered(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """The same of what was prepared: (N, S, S, 3) uint8, or rows (N, D)."""
        with judging(self.network):
            found = np.zeros((len(inputs), self.network.classes), np.float32)
            for start in range(0, len(inputs), _AT_A_TIME):
                part = torch.from_numpy(np.asarray(inputs[start : start + _AT_A_TIME]))
                if not self.network.rows:
                    part = part.permute(0, 3, 1, 2).to(torch.float32) / 255
                found[start : start + len(part)] = self._meant(self.network(part)).numpy()
        return found

    def _meant(self, logits: Tensor) -> Tensor:
        if self.scale is not None:
            return (logits * self.scale.deviation + self.scale.mean).clamp(self.scale.low, self.scale.high)
        logits = logits / self.temperature
        return logits.sigmoid() if self.several else logits.softmax(1)


def export(trained: Trained, path: Path, *, card: Mapping[str, Any] | None = None) -> None:
    """Write the bundle's ONNX file, after checking it against torch on generated images.

    Raises BadInput where the network cannot be written as a graph, Corrupt where file and torch disagree, StoreFault.
    """
    data = packed(trained, card or {})
    check(bundle.OnnxModel(data), trained)
    bundle.write(Path(path), data)


def check(model: bundle.OnnxModel, trained: Trained, images: Sequence[Image] | None = None) -> float:
    """The largest difference between the file's answers and torch's, of values as a share of their range; images:
    generated ones by default. Raises Corrupt where it is beyond `bundle.TOLERANCE`."""
    images = probes(trained.network) if images is None else images
    worst = float(np.abs(model.table(images) - trained.table(images)).max(initial=0))
    if trained.scale is not None:
        worst /= trained.scale.high - trained.scale.low
    if not worst <= bundle.TOLERANCE:
        raise Corrupt(f"The exported network differs from torch by {worst:.2g}.", "Report this.")
    return worst


def packed(trained: Trained, card: Mapping[str, Any]) -> bytes:
    """The ONNX file's bytes."""
    network = trained.network
    graph, inputs, model = begun(network, network, _LOGITS)
    logits = graph.include(model, inputs, _LOGITS)
    if trained.scale is not None:
        scaled = graph.add("Mul", logits, np.float32(trained.scale.deviation))
        value = graph.add("Add", scaled, np.float32(trained.scale.mean))
        value = graph.add("Min", graph.add("Max", value, np.float32(trained.scale.low)), np.float32(trained.scale.high))
        graph.output(bundle.VALUE, value, np.float32, ["N", 1])
    else:
        scores = graph.add("Div", logits, np.float32(trained.temperature))
        found = graph.add("Sigmoid", scores) if trained.several else graph.add("Softmax", scores, axis=1)
        graph.output(bundle.PROBABILITIES, found, np.float32, ["N", len(trained.classes)])
    whole = graph.model()
    squares = [(network.size, network.fit)] if network.size else []
    facts = bundle.facts(
        task=trained.task, classes=trained.classes, squares=squares, batch=1, backbone=network.spec, basis_digest="",
        licence=network.licence, card=card,
    )  # fmt: skip
    onnx.helper.set_model_props(whole, facts)
    return whole.SerializeToString()


def export_features(network: Network, path: Path) -> str:
    """Write the network without its head as an `onnx:` backbone, and give its spec, `onnx:` and the path.

    The file says by itself how an image is prepared for it. The same weights give the same file, and so the same basis.

    Raises BadInput for a network on rows of numbers, which has no images to begin with, Corrupt where file and torch
    disagree, StoreFault.
    """
    from everlearn.model.backbone import runs
    from everlearn.model.external import load_onnx

    if not network.size:
        raise BadInput(f"{network.spec} takes rows of numbers, not images.", "Its rows are features already.")
    graph, inputs, model = begun(network, _Features(network), OUTPUT, pixels=np.float32)
    graph.output(OUTPUT, graph.include(model, inputs, OUTPUT), np.float32, ["N", network.dimensions])
    whole = graph.model()
    says = {"size": network.size, "mean": 0, "std": 1, "output": OUTPUT, "fit": network.fit, "licence": network.licence}
    onnx.helper.set_model_props(whole, {SAYS: urlencode(says)})
    path, data = Path(path), whole.SerializeToString()
    bundle.write(path, data)
    backbone = load_onnx(f"onnx:{path.name}", path.absolute().parent)
    images = backbone.prepare(probes(network))
    found = np.concatenate([runs(backbone).run(None, {INPUT: images[i : i + 1]})[0] for i in range(len(images))])
    with torch.no_grad(), judging(network):
        given = network.prepared(list(images))
        rows = torch.from_numpy(given) if network.rows else torch.from_numpy(given).permute(0, 3, 1, 2) / 255
        wanted = network.features(rows).numpy()
    worst = float(np.abs(found - wanted).max() / max(1e-6, np.abs(wanted).max()))
    if not worst <= bundle.TOLERANCE:
        path.unlink()
        raise Corrupt(f"The exported features differ from torch by {worst:.2g}.", "Report this.")
    return f"onnx:{path}"


class _Features(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.features(images)


def begun(
    network: Network, module: nn.Module, output: str, pixels: type[np.generic] = np.uint8
) -> tuple[Graph, str, onnx.ModelProto]:
    """A graph from images (N, S, S, 3) of 0-255 to what the network takes, and the converted module, to be included."""
    frozen = network.frozen
    with judging(network):
        shape = (frozen.dimensions,) if frozen is not None else (3, network.size, network.size)
        model = converted(module, torch.zeros(2, *shape), output, network.spec)
    graph = Graph()
    graph.opset = opset(model)
    if frozen is None:
        images = graph.input(INPUT, pixels, ["N", network.size, network.size, 3])
        shares = graph.add("Div", graph.cast(images, np.float32), np.float32(255))
        return graph, graph.add("Transpose", shares, perm=[0, 3, 1, 2]), model
    dtype, own = frozen.input
    images = graph.input(INPUT, pixels if dtype == np.uint8 else dtype, ["N", *own])
    return graph, frozen.features(graph, graph.cast(images, dtype)), model


def weights(trained: Trained) -> bytes:
    """A torch file of plain values and tensors alone: `torch.load(file, weights_only=True)` reads it, and so does
    `trainable.from_stage_file`. The keys are those of a stage file that name and hold a network."""
    scale = trained.scale
    file = io.BytesIO()
    with judging(trained.network):
        torch.save(
            {
                "network": trained.network.spec,
                "classes": list(trained.classes),
                "size": trained.network.size,
                "task": trained.task,
                "model_state_dict": trained.network.state_dict(),
                "scale": scale and [scale.mean, scale.deviation, scale.low, scale.high],
                "several": trained.several,
                "temperature": trained.temperature,
            },
            file,
        )
    return file.getvalue()


def load_weights(data: bytes, *, base: Path | None = None) -> Trained:
    """The reverse of `weights`. Nothing in it is run. Raises Corrupt, and as `trainable.build`."""
    found = read_tensors(io.BytesIO(data), "The network's weights")
    network = from_stage_file(found, base=base)
    try:
        scale = Scale(*map(float, found["scale"])) if found["scale"] else None
        classes, several = tuple(map(str, found["classes"])), bool(found["several"])
        return Trained(network, classes, scale, several, float(found["temperature"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"The network's weights are damaged: {error!r:.100}.", "Export it again.") from None


@contextmanager
def judging(network: Network) -> Iterator[None]:
    """In evaluation mode and on the CPU for a while."""
    before, device = network.training, next(network.parameters()).device
    network.eval().cpu()
    try:
        yield
    finally:
        network.to(device).train(before)


def probes(network: Network) -> list[Image]:
    """Images of several sizes and natures, or rows."""
    if not network.size:
        rng = np.random.default_rng(0)
        return [rng.normal(size=64).astype(np.float32) for _ in range(4)]  # type: ignore[misc]
    ramp = np.linspace(0, 255, network.size).astype(np.uint8)
    smooth = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], np.uint8(128)), axis=2)
    return [*bundle.probes(), cast("Image", np.ascontiguousarray(smooth))]

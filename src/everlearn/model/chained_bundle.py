"""Two chained tasks as one ONNX file.

    images (N, S, S, 3) uint8  ->  probabilities (N, C2), or value (N, 1)    the second task: what every bundle answers
                               ->  first (N, C1)                            probabilities of the first task

`bundle.OnnxModel` serves the second as of any other file; `ChainedModel` gives both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from everlearn.errors import BadInput, Corrupt
from everlearn.model import bundle
from everlearn.model.basis import INPUT
from everlearn.model.network_bundle import Scale, begun, judging, probes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.model.trainable import Network
    from everlearn.types import Image

FIRST = "first"
_BOTH = "both"


class Chain(Protocol):
    """`learn.network.chained.Chained` is one. network: with the first task's columns."""

    @property
    def network(self) -> Any: ...
    def both(self, images: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, eq=False)
class TrainedChain:
    """A trained chain and what its columns mean; `stages.learners.Answers`.

    first, classes: of the two tasks; classes is () for a number, which has a scale.
    """

    chain: Chain
    first: tuple[str, ...]
    classes: tuple[str, ...]
    scale: Scale | None = None

    def __post_init__(self) -> None:
        if (self.scale is None) != bool(self.classes) or self._network.classes != len(self.first):
            raise BadInput(
                f"A chain of {self._network.classes} columns does not answer for {len(self.first)} classes.",
                "Name each column; for numbers name none, and give their scale.",
            )

    @property
    def _network(self) -> Network:
        return self.chain.network  # type: ignore[no-any-return]

    @property
    def answers(self) -> tuple[str, ...]:
        return self.classes

    @property
    def backbone(self) -> str:
        return self._network.spec

    @property
    def licence(self) -> str:
        return self._network.licence

    def about(self) -> dict[str, Any]:
        return {"head": "chained", "answers": "as one graph, anywhere", "first": list(self.first)}

    def write(self, folder: Path, card: dict[str, Any]) -> tuple[dict[str, bytes | Path], dict[str, Any]]:
        export_chained(self, folder / "model.onnx", card=card)
        return {".onnx": folder / "model.onnx"}, card

    @torch.no_grad()
    def tables(self, images: Sequence[Image]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of both tasks, by torch."""
        network = self._network
        with judging(network):
            given = torch.from_numpy(np.asarray(network.prepared(images)))
            given = given if network.rows else given.permute(0, 3, 1, 2).float() / 255
            first, second = self.chain.both(given)
            if self.scale is None:
                return first.softmax(1).numpy(), second.softmax(1).numpy()
            value = (second * self.scale.deviation + self.scale.mean).clamp(self.scale.low, self.scale.high)
            return first.softmax(1).numpy(), value.numpy()


class ChainedModel(bundle.OnnxModel):
    """A chained bundle, served without torch. first: the classes of the first task."""

    def __init__(self, source: Path | bytes) -> None:
        """Raises BadInput where the file has one task alone, and as `OnnxModel`."""
        super().__init__(source)
        if FIRST not in [one.name for one in self._session.get_outputs()]:
            raise BadInput("The model answers one question alone.", "Give one that was chained.")
        self.first = tuple(map(str, self.card.get("first", ())))

    def both(self, images: Sequence[Image]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(N,) images -> probabilities of the first task (N, C1), and what the second answers."""
        names = [FIRST, bundle.PROBABILITIES if self.classes else bundle.VALUE]
        first, second = self._session.run(names, {INPUT: self.prepare(images)})
        return first, second


def export_chained(trained: TrainedChain, path: Path, *, card: Mapping[str, Any] | None = None) -> None:
    """Write the chain's ONNX file, after checking both its answers against torch on generated images.

    Raises BadInput where it cannot be written as a graph, Corrupt where file and torch disagree, StoreFault.
    """
    data = packed_chain(trained, card or {})
    model, images = ChainedModel(data), probes(trained.chain.network)
    for found, wanted in zip(model.both(images), trained.tables(images), strict=True):
        span = trained.scale.high - trained.scale.low if trained.scale and wanted.shape[1] == 1 else 1.0
        worst = float(np.abs(found - wanted).max(initial=0)) / span
        if not worst <= bundle.TOLERANCE:
            raise Corrupt(f"The exported chain differs from torch by {worst:.2g}.", "Report this.")
    bundle.write(Path(path), data)


def packed_chain(trained: TrainedChain, card: Mapping[str, Any]) -> bytes:
    """The ONNX file's bytes."""
    network, kinds, scale = trained.chain.network, len(trained.first), trained.scale
    columns = len(trained.classes) or 1
    graph, inputs, model = begun(network, _Side(trained.chain), _BOTH)
    both = graph.include(model, inputs, _BOTH)  # (N, C1 + C2) scores
    ends = (0, kinds), (kinds, kinds + columns)
    first, second = (graph.add("Slice", both, np.array([a]), np.array([b]), np.array([1])) for a, b in ends)
    if scale is None:
        graph.output(bundle.PROBABILITIES, graph.add("Softmax", second, axis=1), np.float32, ["N", columns])
    else:
        value = graph.add("Add", graph.add("Mul", second, np.float32(scale.deviation)), np.float32(scale.mean))
        value = graph.add("Min", graph.add("Max", value, np.float32(scale.low)), np.float32(scale.high))
        graph.output(bundle.VALUE, value, np.float32, ["N", 1])
    graph.output(FIRST, graph.add("Softmax", first, axis=1), np.float32, ["N", kinds])
    whole = graph.model()
    squares = [(network.size, network.fit)] if network.size else []
    facts = bundle.facts(
        task="classify" if trained.classes else "regress", classes=trained.classes, squares=squares, batch=1,
        backbone=network.spec, basis_digest="", licence=network.licence, card={**card, "first": list(trained.first)},
    )  # fmt: skip
    onnx.helper.set_model_props(whole, facts)
    return whole.SerializeToString()


class _Side(nn.Module):
    """Both tasks' scores side by side."""

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        self.chain = chain

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat(self.chain.both(images), dim=1)

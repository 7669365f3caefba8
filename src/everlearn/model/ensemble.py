"""An ensemble as one ONNX file: the graphs of its members side by side, and how their answers are combined.

Members that look at an image alike share its square. Where there are several kinds of squares, the file's input is one
row of bytes for each image: its squares one after another, as `OnnxModel.prepare` packs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx

from everlearn.errors import BadInput, Corrupt
from everlearn.model import bundle
from everlearn.model.basis import INPUT
from everlearn.model.graph import OPSET, Graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.model.basis import Basis
    from everlearn.model.bundle import Head, OnnxModel
    from everlearn.model.pixels import Fit
    from everlearn.types import Image


TOLERANCE = 5e-3
"""Of a probability. A network's float features may be rounded the other way in a larger graph."""


class Combined(Protocol):
    """How answers are combined; `learn.ensemble.Ensemble` is one. competence: of the members, on the first one's phi.
    weights: (M,), where they have weights. stack: a regression on their log probabilities. floor: share of the average
    in every answer. margin: members whose competence is so near the best are averaged."""

    @property
    def method(self) -> str: ...
    @property
    def temperature(self) -> float: ...
    @property
    def floor(self) -> float: ...
    @property
    def margin(self) -> float: ...
    @property
    def competence(self) -> Competence | None: ...
    @property
    def weights(self) -> NDArray[np.float32] | None: ...
    @property
    def stack(self) -> Stack | None: ...
    def table(self, tables: Sequence[NDArray[Any]], phi: NDArray[np.int8] | None = None) -> NDArray[Any]: ...


class Competence(Protocol):
    @property
    def weights(self) -> NDArray[np.float32]: ...
    @property
    def bias(self) -> NDArray[np.float32]: ...


class Stack(Protocol):
    """weights: (M, C); bias: (C,); least: probability that a logarithm is taken of."""

    @property
    def weights(self) -> NDArray[np.float32]: ...
    @property
    def bias(self) -> NDArray[np.float32]: ...
    @property
    def least(self) -> float: ...


@dataclass(frozen=True, eq=False)
class Memory:
    """A member that is a head on a basis."""

    basis: Basis
    head: Head

    @property
    def square(self) -> tuple[int, Fit]:
        return self.basis.input_size, self.basis.backbone.fit

    @property
    def licence(self) -> str:
        return self.basis.licence

    def table(self, images: Sequence[Image]) -> NDArray[Any]:
        return self.head.probabilities(self.basis.phi(images))

    def build(self, graph: Graph, images: str) -> tuple[str, str | None]:
        """Probabilities, and phi as float32."""
        phi = graph.cast(self.basis.extend(graph, images), np.float32)
        return bundle.probabilities(graph, phi, self.head), phi


@dataclass(frozen=True, eq=False)
class Network:
    """A member that is an exported model. classes: of the ensemble; those that it does not know have probability 0."""

    model: OnnxModel
    classes: tuple[str, ...]

    @property
    def square(self) -> tuple[int, Fit]:
        return self.model.squares[0]

    @property
    def licence(self) -> str:
        return self.model.licence

    def table(self, images: Sequence[Image]) -> NDArray[Any]:
        return self.model.table(images) @ self.places()

    def build(self, graph: Graph, images: str) -> tuple[str, str | None]:
        found = graph.include(self.model.proto(), images, bundle.PROBABILITIES)
        return graph.add("MatMul", found, self.places()), None

    def places(self) -> NDArray[np.float32]:
        """(its classes, C) one-hot: which of the ensemble's classes is which of its own."""
        return (np.array(self.model.classes)[:, None] == np.array(self.classes)[None]).astype(np.float32)


Member = Memory | Network


def export_ensemble(
    members: Sequence[Member], combined: Combined, classes: Sequence[str], path: Path, *, card: Mapping[str, Any]
) -> None:
    """Write the members and how they are combined as one ONNX file, after checking it against the Python result on
    generated images. Raises BadInput for members that take no images, Corrupt where file and Python disagree,
    StoreFault."""
    if any(not member.square[0] for member in members):
        raise BadInput("An ensemble's members take images.", "Rows of features have one backbone: `features`.")
    graph = _graph(members, combined, len(classes), OPSET)
    if graph.opset > OPSET:  # the newest of the members: the others' networks are brought to it
        graph = _graph(members, combined, len(classes), graph.opset)
    model = graph.model()
    facts = bundle.facts(
        classes=classes, squares=list(dict.fromkeys(member.square for member in members)), batch=1,
        backbone=names(members),
        basis_digest="", licence="; ".join(dict.fromkeys(member.licence for member in members)), card=card,
    )  # fmt: skip
    onnx.helper.set_model_props(model, facts)
    data = model.SerializeToString()
    check(bundle.OnnxModel(data), members, combined)
    bundle.write(Path(path), data)


def names(members: Sequence[Member]) -> str:
    """The members in words: `patches + onnx:FILE`."""
    return " + ".join(
        one.basis.spec if isinstance(one, Memory) else str(one.model.card.get("name", "a network")) for one in members
    )


def check(model: OnnxModel, members: Sequence[Member], combined: Combined) -> float:
    """The largest difference between the file's answers and Python's. Raises Corrupt where it is beyond TOLERANCE."""
    images = bundle.probes()
    first = members[0]
    phi = first.basis.phi(images) if isinstance(first, Memory) else None
    wanted = combined.table([member.table(images) for member in members], phi)
    worst = float(np.abs(model.table(images) - wanted).max(initial=0))
    if not worst <= TOLERANCE:
        raise Corrupt(f"The exported ensemble differs from the Python result by {worst:.2g}.", "Report this.")
    return worst


def _graph(members: Sequence[Member], combined: Combined, classes: int, least: int) -> Graph:
    """least: operator set that the graph is of, if no member needs a newer one."""
    graph = Graph()
    graph.opset = least
    squares = _inputs(graph, list(dict.fromkeys(member.square for member in members)))
    tables, phi = [], None
    for member in members:
        found, own = member.build(graph, squares[member.square])
        tables.append(found)
        phi = phi or own
    scores = graph.add("Log", graph.add("Max", _combine(graph, tables, phi, combined, classes), np.float32(1e-30)))
    scores = graph.add("Div", scores, np.float32(combined.temperature))
    graph.output(bundle.PROBABILITIES, graph.add("Softmax", scores, axis=1), np.float32, ["N", classes])
    return graph


def _inputs(graph: Graph, squares: Sequence[bundle.Square]) -> dict[bundle.Square, str]:
    """The graph's input, and the images (N, S, S, 3) of each kind of square in it."""
    if len(squares) == 1:
        size = squares[0][0]
        return {squares[0]: graph.input(INPUT, np.uint8, ["N", size, size, 3])}
    packed = graph.input(INPUT, np.uint8, ["N", sum(3 * size * size for size, _ in squares)])
    found, start = {}, 0
    for size, fit in squares:
        end = start + 3 * size * size
        row = graph.add("Slice", packed, np.array([start]), np.array([end]), np.array([1]))
        found[size, fit] = graph.reshape(row, -1, size, size, 3)
        start = end
    return found


def _combine(graph: Graph, tables: Sequence[str], phi: str | None, combined: Combined, classes: int) -> str:
    """What `learn.ensemble.combine` does, up to a factor."""
    average = graph.add("Div", _sum(graph, tables), np.float32(len(tables)))
    if combined.method == "average":
        return average
    if combined.method == "stacking":
        return _stacked(graph, tables, combined)
    if combined.method in ("vote", "majority", "boosted"):
        votes = [_best(graph, one, classes) for one in tables]
        if combined.method == "vote":
            sure = [bundle.highest(graph, one, 0, classes) for one in tables]
            votes = [graph.add("Mul", one, vote) for one, vote in zip(sure, votes, strict=True)]
        weights = combined.weights if combined.method == "boosted" else None
        found = _weighted(graph, votes, weights)
    elif combined.method == "weighted":
        found = _weighted(graph, tables, combined.weights)
    else:
        assert combined.competence is not None and phi is not None
        asked = graph.add("Add", graph.add("MatMul", phi, combined.competence.weights), combined.competence.bias)
        least = graph.add("Sub", bundle.highest(graph, asked, 0, len(tables)), np.float32(combined.margin))
        chosen = graph.cast(graph.add("Not", graph.add("Less", asked, least)), np.float32)
        parts = [graph.add("Mul", _column(graph, chosen, m), one) for m, one in enumerate(tables)]
        found = graph.add("Div", _sum(graph, parts), graph.add("ReduceSum", chosen, np.array([1]), keepdims=1))
    return graph.add("Add", found, graph.add("Mul", average, np.float32(combined.floor)))


def _weighted(graph: Graph, tables: Sequence[str], weights: NDArray[np.float32] | None) -> str:
    """Their sum by these weights; None: their mean."""
    shares = np.full(len(tables), 1 / len(tables), np.float32) if weights is None else weights
    return _sum(graph, [graph.add("Mul", one, np.float32(w)) for one, w in zip(tables, shares, strict=True)])


def _stacked(graph: Graph, tables: Sequence[str], combined: Combined) -> str:
    stack = combined.stack
    assert stack is not None
    logs = [graph.add("Log", graph.add("Max", one, np.float32(stack.least))) for one in tables]
    parts = [graph.add("Mul", one, row[None]) for one, row in zip(logs, stack.weights, strict=True)]
    return graph.add("Softmax", graph.add("Add", _sum(graph, parts), stack.bias[None]), axis=1)


def _best(graph: Graph, table: str, columns: int) -> str:
    """(N, columns) -> 1 at each row's largest, the first of equals, else 0."""
    best = graph.add("ArgMax", table, axis=1, keepdims=1)
    return graph.cast(graph.add("Equal", best, np.arange(columns, dtype=np.int64)[None]), np.float32)


def _column(graph: Graph, table: str, at: int) -> str:
    return graph.add("Slice", table, np.array([at]), np.array([at + 1]), np.array([1]))


def _sum(graph: Graph, values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else graph.add("Sum", *values)

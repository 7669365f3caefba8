"""An ensemble as one ONNX file: the graphs of its members side by side, and how their answers are combined.

Members look at an image at sizes of their own, so the file's input is one row of bytes for each image: its squares one
after another, as `OnnxModel.prepare` packs them.
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
    """How answers are combined; `learn.ensemble.Ensemble` is one. competence: of the members,
    on the first one's phi. floor: share of the average in every answer.
    margin: members whose competence is so near the best are averaged."""

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
    def table(self, tables: Sequence[NDArray[Any]], phi: NDArray[np.int8] | None = None) -> NDArray[Any]: ...


class Competence(Protocol):
    @property
    def weights(self) -> NDArray[np.float32]: ...
    @property
    def bias(self) -> NDArray[np.float32]: ...


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
        classes=classes, squares=[member.square for member in members], batch=1, backbone=names(members),
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
    sizes = [member.square[0] for member in members]
    packed = graph.input(INPUT, np.uint8, ["N", sum(3 * size * size for size in sizes)])
    tables, phi, start = [], None, 0
    for member, size in zip(members, sizes, strict=True):
        end = start + 3 * size * size
        row = graph.add("Slice", packed, np.array([start]), np.array([end]), np.array([1]))
        found, own = member.build(graph, graph.reshape(row, -1, size, size, 3))
        tables.append(found)
        phi, start = phi or own, end
    scores = graph.add("Log", graph.add("Max", _combine(graph, tables, phi, combined, classes), np.float32(1e-30)))
    scores = graph.add("Div", scores, np.float32(combined.temperature))
    graph.output(bundle.PROBABILITIES, graph.add("Softmax", scores, axis=1), np.float32, ["N", classes])
    return graph


def _combine(graph: Graph, tables: Sequence[str], phi: str | None, combined: Combined, classes: int) -> str:
    """What `learn.ensemble.combine` does, up to a factor."""
    average = graph.add("Div", _sum(graph, tables), np.float32(len(tables)))
    if combined.method == "average":
        return average
    if combined.method == "vote":
        votes = [graph.add("Mul", bundle.highest(graph, one, 0, classes), _best(graph, one, classes)) for one in tables]
        found = graph.add("Div", _sum(graph, votes), np.float32(len(tables)))
    else:
        assert combined.competence is not None and phi is not None
        asked = graph.add("Add", graph.add("MatMul", phi, combined.competence.weights), combined.competence.bias)
        least = graph.add("Sub", bundle.highest(graph, asked, 0, len(tables)), np.float32(combined.margin))
        chosen = graph.cast(graph.add("Not", graph.add("Less", asked, least)), np.float32)
        parts = [graph.add("Mul", _column(graph, chosen, m), one) for m, one in enumerate(tables)]
        found = graph.add("Div", _sum(graph, parts), graph.add("ReduceSum", chosen, np.array([1]), keepdims=1))
    return graph.add("Add", found, graph.add("Mul", average, np.float32(combined.floor)))


def _best(graph: Graph, table: str, columns: int) -> str:
    """(N, columns) -> 1 at each row's largest, the first of equals, else 0."""
    best = graph.add("ArgMax", table, axis=1, keepdims=1)
    return graph.cast(graph.add("Equal", best, np.arange(columns, dtype=np.int64)[None]), np.float32)


def _column(graph: Graph, table: str, at: int) -> str:
    return graph.add("Slice", table, np.array([at]), np.array([at + 1]), np.array([1]))


def _sum(graph: Graph, values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else graph.add("Sum", *values)

"""The bundle: one ONNX file from an image tensor to class probabilities, or to a number, and what serves it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import onnx

from everlearn.errors import BadInput, Corrupt, Missing, StoreFault
from everlearn.model import pixels
from everlearn.model.backbone import Rows
from everlearn.model.basis import INPUT
from everlearn.model.graph import Graph, in_batches, session, threads
from everlearn.model.pixels import Fit
from everlearn.types import Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.model.basis import Basis
    from everlearn.types import Image

Square = tuple[int, Fit]
"""Side in pixels, and how an image becomes that square."""
FORMAT = "everlearn 1"
PROBABILITIES, VALUE = "probabilities", "value"
TOLERANCE = 1e-3  # of a probability; of a value as a share of its range
MOST_NAMED = 10  # classes in an answer
KEY = "everlearn."  # before the names of our metadata


class Target(Protocol):
    """A regression's range and step."""

    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def step(self) -> float: ...


class Distance(Protocol):
    """Where scores of the classes are measured from, and the constant part of the squared length of a row."""

    @property
    def origin(self) -> NDArray[np.float64]: ...
    @property
    def flat(self) -> float: ...
    @property
    def damp(self) -> NDArray[np.float64]: ...


class Rejection(Protocol):
    """When the answer is `unknown`; `learn.exact.rejection.Rejection` is one."""

    @property
    def distance(self) -> Distance: ...
    @property
    def columns(self) -> NDArray[np.float32]: ...
    @property
    def classes(self) -> int: ...
    @property
    def threshold(self) -> float: ...
    @property
    def width(self) -> float: ...


class Head(Protocol):
    """scores = phi @ weights + bias; `learn.exact.head.Head` is one. weights (D, C), bias (C,), float32. answers: the
    classes, and `unknown` where that is an answer."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def weights(self) -> NDArray[np.float32]: ...
    @property
    def bias(self) -> NDArray[np.float32]: ...
    @property
    def temperature(self) -> float: ...
    @property
    def target(self) -> Target | None: ...
    @property
    def answers(self) -> tuple[str, ...]: ...
    @property
    def unknown(self) -> Rejection | None: ...
    def probabilities(self, phi: NDArray[Any]) -> NDArray[np.float32]: ...
    def table(self, phi: NDArray[Any]) -> NDArray[np.floating]: ...


def export_head(basis: Basis, head: Head, path: Path, *, card: Mapping[str, Any] | None = None) -> None:
    """Write basis and head as one ONNX file, after checking it against the Python result on generated images.

    Raises BadInput where the head is not of this basis, Corrupt where file and Python disagree, StoreFault.
    """
    if head.weights.shape[0] != basis.dimensions:
        raise BadInput(
            f"The head takes {head.weights.shape[0]} features, the basis gives {basis.dimensions}.", "Learn again."
        )
    model = _model(basis, head)
    onnx.helper.set_model_props(model, _metadata(basis, head, card or {}))
    data = model.SerializeToString()
    check_bundle(OnnxModel(data), basis, head)
    write(Path(path), data)


def check_bundle(model: OnnxModel, basis: Basis, head: Head, images: Sequence[Image] | None = None) -> float:
    """The largest difference between the file's answers and Python's; images: generated ones by default.

    Raises Corrupt where it is beyond TOLERANCE.
    """
    images = probes(basis) if images is None else images
    phi = basis.phi(images)
    found = model.table(images)
    worst = float(np.abs(found - head.table(phi)).max(initial=0))
    if head.target is not None:
        worst /= head.target.high - head.target.low
    if not worst <= TOLERANCE:
        raise Corrupt(f"The exported model differs from the Python result by {worst:.2g}.", "Report this.")
    return worst


def probes(basis: Basis | None = None) -> list[Image]:
    """Six generated images of several sizes, or rows."""
    rng = np.random.default_rng(0)
    if basis is not None and not basis.input_size:
        return [rng.normal(size=width).astype(np.float32) for width in (1, 7, 64, 1000)]  # type: ignore[misc]
    shapes = ((1, 1), (28, 28), (64, 64), (100, 37), (240, 320), (500, 500))
    return [
        np.kron(rng.integers(0, 256, (-(-h // 8), -(-w // 8), 3)), np.ones((8, 8, 1)))[:h, :w].astype(np.uint8)
        for h, w in shapes
    ]


def _model(basis: Basis, head: Head) -> onnx.ModelProto:
    graph, phi = basis.start()
    x = graph.cast(phi, np.float32)
    if head.target is None:
        graph.output(PROBABILITIES, answers(graph, x, head), np.float32, ["N", len(head.answers)])
    else:
        scores = graph.add("Add", graph.add("MatMul", x, head.weights.astype(np.float32)), head.bias.astype(np.float32))
        steps = graph.add("Mul", graph.cast(scores, np.float64), np.float64(head.target.step))
        value = graph.add("Add", steps, np.float64(head.target.low))
        value = graph.add("Max", graph.add("Min", value, np.float64(head.target.high)), np.float64(head.target.low))
        graph.output(VALUE, graph.cast(value, np.float32), np.float32, ["N", 1])
    return graph.model()


def answers(graph: Graph, phi: str, head: Head) -> str:
    """phi (N, D) float32 -> (N, A), as the head's own table of a classifier."""
    return probabilities(graph, phi, head) if head.unknown is None else _or_unknown(graph, phi, head, head.unknown)


def probabilities(graph: Graph, phi: str, head: Head) -> str:
    """phi (N, D) float32 -> (N, C), as the head's own, of its classes alone."""
    return graph.add("Softmax", _scores(graph, phi, head), axis=1)


def _scores(graph: Graph, phi: str, head: Head) -> str:
    scores = graph.add("Add", graph.add("MatMul", phi, head.weights.astype(np.float32)), head.bias.astype(np.float32))
    return graph.add("Div", scores, np.float32(head.temperature))


def _or_unknown(graph: Graph, phi: str, head: Head, rejection: Rejection) -> str:
    """phi (N, D) float32 -> (N, C + 1), the last of `unknown`."""
    scores = _scores(graph, phi, head)
    return graph.add("Softmax", graph.add("Concat", scores, _unknown(graph, phi, scores, rejection), axis=1), axis=1)


def _unknown(graph: Graph, x: str, scores: str, rejection: Rejection) -> str:
    """(N, 1) the score of `unknown`: the best class's, less by as many widths as that is nearer than it must be."""
    distance, flat = rejection.distance, np.float32(rejection.distance.flat)
    columns, rank = rejection.columns, distance.damp.shape[1]
    place = graph.add("Sub", x, distance.origin.astype(np.float32))
    near = graph.add("MatMul", place, np.ascontiguousarray(columns[:, : columns.shape[1] - rank]))
    inside = graph.add("MatMul", place, np.ascontiguousarray(columns[:, columns.shape[1] - rank :]))
    square = graph.add("Sub", graph.add("Mul", _energy(graph, place), flat), _energy(graph, inside))
    length = graph.add("Sqrt", graph.add("Max", square, np.float32(1e-30)))
    near = graph.add("Div", near, length)
    best = highest(graph, near, 0, rejection.classes)
    must = np.float32(rejection.threshold)
    others = columns.shape[1] - rank
    if others > rejection.classes:
        cleared = graph.add("Max", highest(graph, near, rejection.classes, others), must)
        margin = graph.add("Sub", best, cleared)
    else:
        margin = graph.add("Sub", best, must)
    margin = graph.add("Div", margin, np.float32(rejection.width))
    return graph.add("Sub", highest(graph, scores, 0, rejection.classes), margin)


def _energy(graph: Graph, rows: str) -> str:
    """(N, D) -> (N, 1) sums of squares."""
    return graph.add("ReduceSum", graph.add("Mul", rows, rows), np.array([1]), keepdims=1)


def highest(graph: Graph, scores: str, first: int, last: int) -> str:
    """(N, C) -> (N, 1) the greatest of these columns."""
    part = graph.add("Slice", scores, np.array([first]), np.array([last]), np.array([1]))
    row = graph.add("GlobalMaxPool", graph.add("Unsqueeze", part, np.array([1])))  # the same in every opset
    return graph.add("Squeeze", row, np.array([2]))


def _metadata(basis: Basis, head: Head, card: Mapping[str, Any]) -> dict[str, str]:
    return facts(
        task="classify" if head.target is None else "regress", classes=head.answers,
        squares=[(basis.input_size, basis.backbone.fit)] if basis.input_size else [], batch=basis.backbone.batch,
        open_set=head.unknown is not None, backbone=basis.spec, basis_digest=basis.digest, licence=basis.licence,
        card=card,
    )  # fmt: skip


def facts(
    *, classes: Sequence[str], squares: Sequence[Square], batch: int, backbone: str, basis_digest: str, licence: str,
    card: Mapping[str, Any], task: str = "classify", open_set: bool = False,
) -> dict[str, str]:  # fmt: skip
    """What a bundle says of itself. squares: side and fit of each square that the graph takes, one after another.
    open_set: the last class is the answer `unknown`."""
    if len(squares) == 1:
        shape = f"N x {squares[0][0]} x {squares[0][0]} x 3"
    else:
        shape = "one row of bytes: squares of " + ", ".join(f"{size} x {size} x 3" for size, _ in squares)
    rules = "; ".join(dict.fromkeys(fit.rule for _, fit in squares))
    rows = "rows of numbers, each divided by its largest absolute value, filled up with zeros"
    found = {
        "format": FORMAT,
        "task": task,
        "classes": json.dumps(list(classes)),
        "open_set": "yes" if open_set else "",
        "input_size": str(max((size for size, _ in squares), default=0)),
        "squares": json.dumps([[size, str(fit)] for size, fit in squares]),
        "preprocessing": f"RGB, uint8, {shape}: {rules}" if squares else rows,
        "batch": str(batch),
        "backbone": backbone,
        "basis_digest": basis_digest,
        "licence": licence,
        "card": json.dumps(dict(card), default=str, ensure_ascii=False),
    }
    return {KEY + name: value for name, value in found.items()}


def write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise StoreFault(f"{path} cannot be written: {error.strerror or error}.", "Free the disk.") from None


class OnnxModel:
    """A bundle, served without any workspace.

    classes: in the order of the columns, () for regression. open_set: whether the last of them is `unknown`. card: as
    it was exported. basis_digest, licence: its own.
    """

    outputs: ClassVar[tuple[str, ...]] = (PROBABILITIES, VALUE)

    def __init__(self, source: Path | bytes) -> None:
        """source: the file or its bytes. Raises Missing, StoreFault, BadInput where it is no bundle."""
        name = "The model" if isinstance(source, bytes) else str(source)
        self._data = source if isinstance(source, bytes) else read(Path(source))
        self._session = session(self._data, name)
        facts = self._session.get_modelmeta().custom_metadata_map
        if facts.get(KEY + "format") != FORMAT:
            raise BadInput(f"{name} is not a model that Everlearn exported.", "Give a file that `models export` wrote.")
        if facts.get(KEY + "task") == "detect":
            raise BadInput(f"{name} is a detector: it finds boxes.", "Use it where the task is detect.")
        if self._session.get_outputs()[0].name not in self.outputs:
            remedy = "Answer there: everlearn -w WORKSPACE predict --model VERSION"
            raise BadInput(f"{name} gives features alone: its learner answers inside its workspace.", remedy)
        try:
            self.classes = tuple(str(one) for one in json.loads(facts[KEY + "classes"]))
            self.open_set = bool(facts.get(KEY + "open_set"))
            self.card: dict[str, Any] = json.loads(facts[KEY + "card"])
            self.squares = [(int(size), Fit.parse(fit)) for size, fit in json.loads(facts[KEY + "squares"])]
            self.batch = max(1, int(facts[KEY + "batch"]))
            self.basis_digest, self.licence = facts[KEY + "basis_digest"], facts[KEY + "licence"]
            self.metadata = {key.removeprefix(KEY): value for key, value in facts.items()}
            if any(not 0 < size <= 4096 for size, _ in self.squares) or self._session.get_inputs()[0].name != INPUT:
                raise ValueError
            if not isinstance(self.card, dict):
                raise TypeError
        except (KeyError, ValueError, TypeError, OverflowError, RecursionError):
            raise Corrupt(f"{name} is damaged: its description cannot be read.", "Export it again.") from None

    def proto(self) -> onnx.ModelProto:
        """The graph, to be made a part of another."""
        return onnx.load_model_from_string(self._data)

    def prepare(self, images: Sequence[Image]) -> NDArray[Any]:
        """(N,) images of any size, or prepared ones, -> the graph's input."""
        if not self.squares:
            return Rows().prepare(images)
        if len(self.squares) == 1:
            return pixels.prepare(images, *self.squares[0])
        if len(images) and all(one.ndim == 1 for one in images):
            return np.stack(images)
        parts = [pixels.prepare(images, size, fit).reshape(len(images), -1) for size, fit in self.squares]
        return np.concatenate(parts, axis=1)

    @property
    def size(self) -> int:
        """Side of the largest square that it looks at, in pixels; 0 for rows of numbers."""
        return max((size for size, _ in self.squares), default=0)

    def table(self, images: Sequence[Image], *, workers: int | None = None) -> NDArray[np.float32]:
        """(N,) images -> (N, C) probabilities, or (N, 1) values for regression."""

        def work(part: Sequence[Image]) -> NDArray[np.float32]:
            x = self.prepare(part)
            try:
                return self._session.run(None, {INPUT: x})[0]
            except Exception as error:  # onnxruntime's errors share no base class
                reason = (str(error).splitlines() or ["?"])[0][:200]
                raise BadInput(f"The model does not run on {x.shape}: {reason}", "Export it again.") from None

        parts = list(in_batches(work, images, self.batch, workers or threads()))
        return np.concatenate(parts) if parts else np.zeros((0, max(1, len(self.classes))), np.float32)

    def predict(self, images: Sequence[Image]) -> list[Prediction]:
        """The most probable classes of each image, at most ten; or its value."""
        table = self.table(images)
        check_answers(table, len(images), self.classes)
        return [prediction(row, self.classes) for row in table]


def check_answers(table: NDArray[np.floating], images: int, classes: Sequence[str]) -> None:
    """Whether a file's answers are of its classes, and numbers. Raises Corrupt."""
    if table.shape != (images, max(1, len(classes))) or not np.isfinite(table).all():
        said = f"{images} images and {len(classes)} classes"
        raise Corrupt(f"The model answers {table.shape}, or no numbers, for {said}.", "Export it again.")


def prediction(row: NDArray[np.floating], classes: Sequence[str]) -> Prediction:
    """One row of an answer table in words: the most probable classes, or for regression (no classes) the value."""
    if not classes:
        return Prediction(None, 1.0, {}, float(row[0]))
    best = np.argsort(-row, kind="stable")[:MOST_NAMED]
    scores = {classes[column]: float(row[column]) for column in best}
    return Prediction(classes[best[0]], float(row[best[0]]), scores)


def read(path: Path) -> bytes:
    """Raises Missing, StoreFault."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise Missing(f"{path} is not there.", "Give the path of an exported model.") from None
    except OSError as error:
        raise StoreFault(f"{path} cannot be read: {error.strerror or error}.", "Check the file.") from None

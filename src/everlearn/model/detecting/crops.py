"""What tells crops apart, as one ONNX file: the basis once, and behind it a head for each coarse class.

A head knows the whole labels of its coarse class (`person/courier`, `person/neighbour`) and, where there was anybody to
tell strangers from, the plain one (`person`): its answer `unknown`. The file's columns are these, head after head, and
those of one head sum to 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from everlearn.errors import BadInput, Corrupt
from everlearn.image.crop import RULE
from everlearn.model.basis import Basis
from everlearn.model.bundle import PROBABILITIES, TOLERANCE, Head, OnnxModel, answers, facts, probes, write
from everlearn.naming import UNKNOWN, coarse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.model.backbone import GraphBackbone
    from everlearn.types import Image

DIMENSIONS = 1024
"""A class of five examples gains nothing from more, and the answer stays a matter of milliseconds."""


class CropBasis(Basis):
    """A basis of crops: how they are cut out is a part of what decides their features."""

    def __init__(self, backbone: GraphBackbone, *, dimensions: int = DIMENSIONS) -> None:
        super().__init__(backbone, dimensions=dimensions)
        self.digest = hashlib.sha256(f"{self.digest}|{RULE}".encode()).hexdigest()


def columns(heads: Mapping[str, Head]) -> tuple[str, ...]:
    """The names of the file's columns. heads: by coarse class."""
    return tuple(name if one == UNKNOWN else one for name in sorted(heads) for one in heads[name].answers)


def table(basis: Basis, heads: Mapping[str, Head], images: Sequence[Image]) -> NDArray[np.floating]:
    """(N,) crops -> (N, A), what the file answers, in Python."""
    phi = basis.phi(images)
    return np.concatenate([heads[name].table(phi) for name in sorted(heads)], axis=1)


def export_crops(
    basis: Basis, heads: Mapping[str, Head], path: Path, *, card: Mapping[str, Any] | None = None
) -> float:  # fmt: skip
    """Write basis and heads as one ONNX file; returns its largest difference from Python on generated crops.

    Raises BadInput where a head is of another basis, Corrupt where file and Python disagree, StoreFault.
    """
    if not heads or any(len(head.weights) != basis.dimensions for head in heads.values()):
        raise BadInput("The heads are not of this basis.", "Learn again.")
    graph, phi = basis.start()
    x = graph.cast(phi, np.float32)
    names = columns(heads)
    parts = [answers(graph, x, heads[name]) for name in sorted(heads)]
    found = parts[0] if len(parts) == 1 else graph.add("Concat", *parts, axis=1)
    graph.output(PROBABILITIES, found, np.float32, ["N", len(names)])
    model = graph.model()
    onnx.helper.set_model_props(model, facts(
        classes=names, squares=[(basis.input_size, basis.backbone.fit)], batch=basis.backbone.batch,
        backbone=basis.spec, basis_digest=basis.digest, licence=basis.licence, card=card or {},
    ))  # fmt: skip
    data = model.SerializeToString()
    crops = probes(basis)
    worst = float(np.abs(open_crops(data).table(crops) - table(basis, heads, crops)).max(initial=0))
    if not worst <= TOLERANCE:
        raise Corrupt(f"The exported memory of crops differs from the Python result by {worst:.2g}.", "Report this.")
    write(Path(path), data)
    return worst


def open_crops(source: Path | bytes) -> OnnxModel:
    """Raises Missing, StoreFault, BadInput, Corrupt where it tells no crops apart."""
    found = OnnxModel(source)
    if not any(name != coarse(name) for name in found.classes):
        raise Corrupt("The memory of crops names no class with two parts.", "Export the model again.")
    return found

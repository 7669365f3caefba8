"""Backbones by their spec: `patches`, `onnx:FILE`, `timm:NAME`, `torchvision:NAME`, `keras:NAME`, `features`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from everlearn.errors import BadConfig, BadInput, NotInstalled
from everlearn.model.graph import Graph, session
from everlearn.model.pixels import WHOLE, Fit

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

    from everlearn.types import Image

KINDS = "patches, patches:small, features, onnx:FILE, timm:NAME, torchvision:NAME or keras:NAME"


class GraphBackbone(Protocol):
    """A backbone that can be written into a graph; `patches.Patches` is one.

    size: side of its square input in pixels, 0 for rows of numbers. dimensions: width of a feature vector.
    length: Euclidean length of a feature vector as the graph gives it. batch: images at a time.
    fit: how an image becomes that square. input: dtype and shape of one prepared image.
    """

    spec: str
    licence: str
    size: int
    dimensions: int
    length: float
    batch: int
    fit: Fit

    @property
    def digest(self) -> str: ...
    @property
    def input(self) -> tuple[type[np.generic], tuple[int, ...]]: ...
    def prepare(self, images: Sequence[Image]) -> NDArray[Any]: ...
    def features(self, graph: Graph, images: str) -> str:
        """Prepared images -> (N, dimensions) float32 as they are, before they are brought to one length."""
        ...

    def build(self, graph: Graph, images: str) -> str:
        """Prepared images -> (N, dimensions) float32 of whole numbers."""
        ...


class Rows:
    """Feature vectors that were computed elsewhere: each is brought to length 1, missing columns are 0."""

    spec = "features"
    licence = "none: rows of numbers, no weights"
    size = 0
    dimensions = 16384
    length = 8192.0
    batch = 64
    fit = WHOLE
    digest = "rows 1, of length 8192, up to 16384 columns"

    @property
    def input(self) -> tuple[type[np.generic], tuple[int, ...]]:
        return np.float32, (self.dimensions,)

    def prepare(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(N,) vectors -> (N, 16384). Raises BadInput for images, for more columns and for numbers that are none."""
        found = np.zeros((len(images), self.dimensions), np.float32)
        for slot, given in zip(found, images, strict=True):
            row = np.asarray(given)
            if row.ndim != 1 or row.dtype.kind not in "iuf":
                raise BadInput("The backbone `features` takes rows of numbers.", "For images set backbone: patches")
            if len(row) > self.dimensions:
                raise BadInput(f"A row has {len(row)} columns.", f"At most {self.dimensions}.")
            if not np.isfinite(row).all():
                raise BadInput(
                    "A row holds a number that is none (NaN or infinite).", "Fill it in, or leave the row out."
                )
            largest = np.abs(row).max(initial=0)  # division first: a square of 1e30 is infinite in float32
            slot[: len(row)] = row / (largest or 1)
        return found

    def features(self, graph: Graph, images: str) -> str:
        return images

    def build(self, graph: Graph, images: str) -> str:
        return unit(graph, images, self.length)


def unit(graph: Graph, features: str, length: float) -> str:
    """(N, d) of any numbers -> whole numbers, every row about `length` long; a row of zeros stays so."""
    wide = graph.cast(features, np.float64)
    total = graph.add("ReduceSum", graph.add("Mul", wide, wide), np.array([1]), keepdims=1)
    scale = graph.add("Div", np.float64(length), graph.add("Sqrt", graph.add("Max", total, np.float64(1e-30))))
    return graph.add("Round", graph.cast(graph.add("Mul", wide, scale), np.float32))


def runs(backbone: GraphBackbone) -> InferenceSession:
    """`images` (N, …) as prepared -> `features` (N, dimensions): the backbone's own numbers."""
    graph = Graph()
    dtype, shape = backbone.input
    found = backbone.features(graph, graph.input("images", dtype, ["N", *shape]))
    graph.output("features", found, np.float32, ["N", backbone.dimensions])
    return session(graph.model(), backbone.spec)


def load_backbone(spec: str, *, base: Path | None = None) -> GraphBackbone:
    """The backbone that a spec names. base: the folder that a relative FILE is looked for in.

    Raises BadConfig for an unknown name, Missing where a file is not there, BadInput where it is no model,
    NotInstalled for names whose library is needed.
    """
    from everlearn.model.external import load_onnx
    from everlearn.model.library import LIBRARIES, load_network
    from everlearn.model.patches import VARIANTS, Patches

    kind, _, rest = spec.partition(":")
    if spec in VARIANTS:
        return Patches(spec, *VARIANTS[spec])
    if spec == "features":
        return Rows()
    if kind == "onnx" and rest:
        return load_onnx(spec, base)
    if kind in LIBRARIES and rest:
        return load_network(spec)
    if kind == "yolo":
        raise NotInstalled(
            f"backbone {spec} needs `yolo`, which this version of Everlearn does not call yet.",
            "Export the network to ONNX and set backbone: onnx:FILE",
        )
    raise BadConfig(f"backbone is {spec!r}.", f"Choose {KINDS}.")

"""The basis of a memory: a backbone and the fixed map to integers, as one graph from pixels to phi."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.errors import BadConfig
from everlearn.model.backbone import runs
from everlearn.model.cosines import Cosines
from everlearn.model.graph import Graph, in_batches, session, threads

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from everlearn.model.backbone import GraphBackbone
    from everlearn.types import Image

DIMENSIONS = 4096
WIDTH = 0.6  # of the Gaussian kernel on features of length 1
INPUT, OUTPUT = "images", "phi"


class Basis:
    """Images -> phi, integers in [-127, 127], a pure function of the pixels.

    digest: hex SHA-256 over everything that decides phi; not over where a file lies or which library runs it.
    """

    def __init__(
        self, backbone: GraphBackbone, *, dimensions: int = DIMENSIONS, seed: int = 0, width: float = WIDTH
    ) -> None:
        """dimensions: width of phi, the constant included. Raises BadConfig below 16 or above 16,384."""
        if not 16 <= dimensions <= 16384:
            raise BadConfig(f"learn.dimensions is {dimensions}.", "Choose 16 to 16384.")
        self.backbone = backbone
        self.spec = backbone.spec
        self.licence = backbone.licence
        self.dimensions = dimensions
        self.cosines = Cosines(backbone.dimensions, backbone.length, dimensions, width, seed)
        self.digest = hashlib.sha256(f"basis 1|{backbone.digest}|{self.cosines.digest()}".encode()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Without the running sessions, which cannot be copied: a copy starts its own."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    @property
    def input_size(self) -> int:
        """Side of the square that images are brought to, in pixels; 0 for rows of numbers."""
        return self.backbone.size

    def prepare(self, images: Sequence[Image]) -> NDArray[Any]:
        """(N,) images of any size -> the graph's input, (N, size, size, 3) uint8."""
        return self.backbone.prepare(images)

    def phi(self, images: Sequence[Image], *, workers: int | None = None) -> NDArray[np.int8]:
        """(N,) images -> (N, dimensions). workers: threads, EVERLEARN_THREADS where None. Raises BadInput."""
        return self._run(self._session, images, np.int8, workers)

    def features(self, images: Sequence[Image], *, workers: int | None = None) -> NDArray[np.float32]:
        """(N,) images -> (N, block) of length about 1, whose cosines are about those of the backbone's features."""
        found = self._run(self._projection, images, np.float32, workers)
        found /= np.float32(self.backbone.length)
        return found

    def raw(self, images: Sequence[Image], *, workers: int | None = None) -> NDArray[np.float32]:
        """(N,) images -> (N, backbone.dimensions): the backbone's own numbers, before they are quantised."""
        return self._run(self._backbone, images, np.float32, workers)

    def start(self) -> tuple[Graph, str]:
        """A graph from `images` to phi (N, dimensions) int8, to be continued, and phi's name in it."""
        graph = Graph()
        dtype, shape = self.backbone.input
        return graph, self.extend(graph, graph.input(INPUT, dtype, ["N", *shape]))

    def extend(self, graph: Graph, images: str) -> str:
        """Prepared images in a graph -> phi's name in it."""
        return self.cosines.build(graph, self.backbone.build(graph, images))

    def graph(self) -> onnx.ModelProto:
        """images -> phi, as a model of its own."""
        graph, phi = self.start()
        graph.output(OUTPUT, phi, np.int8, ["N", self.dimensions])
        return graph.model()

    def _features(self) -> tuple[Graph, str]:
        graph = Graph()
        dtype, shape = self.backbone.input
        return graph, self.backbone.build(graph, graph.input(INPUT, dtype, ["N", *shape]))

    @cached_property
    def _session(self) -> Any:
        return session(self.graph(), self.spec)

    @cached_property
    def _backbone(self) -> Any:
        return runs(self.backbone)

    @cached_property
    def _projection(self) -> Any:
        graph, features = self._features()
        projected = self.cosines.project(graph, features)
        graph.output("features", projected, np.float32, ["N", self.cosines.block])
        return session(graph.model(), self.spec)

    def _run(self, runs: Any, images: Sequence[Image], dtype: Any, workers: int | None) -> NDArray[Any]:
        def work(part: Sequence[Image]) -> NDArray[Any]:
            return runs.run(None, {INPUT: self.prepare(part)})[0]

        width = runs.get_outputs()[0].shape[1]
        found = np.empty((len(images), width), dtype)
        done = 0
        for part in in_batches(work, images, self.backbone.batch, workers or threads()):
            found[done : done + len(part)] = part
            done += len(part)
        return found

"""The `patches` backbone: k-means patch features with a dictionary from generated images, in exact arithmetic.

Coates, Lee & Ng 2011, "An analysis of single-layer networks in unsupervised feature learning": every patch is
normalised for contrast, whitened, compared with a dictionary; the responses of both signs are rectified and pooled.
Here at two scales, and with square roots of the pooled sums, so that one division
brings a scale's features to a fixed length.

Bits do not depend on the machine, the number of threads or the neighbours in a batch: every sum is one of integers that
float32 or int32 holds exactly, and between sums stand only element-wise operations that IEEE 754 fixes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from everlearn.model import pixels
from everlearn.model.graph import Graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.types import Image

DICTIONARY = Path(__file__).with_name("patches.npz")
PATCH = 6  # pixels
CONTRAST = 10.0  # added to a patch's variance, in squared grey levels
UNIT = 20.0  # steps of a whitened component that make 1.0; it saturates at 127 steps
THRESHOLD = 0.5  # of a response, below which it is nothing
RESPONSE = 1 / 32  # step of a rectified response; it saturates at 255 steps
LENGTH = 8192.0  # of a scale's feature vector
ALWAYS = 1e9  # a bias so large that the component saturates: the constant that carries the threshold


@dataclass(frozen=True)
class Scale:
    """One size of the image: its side in pixels, the step between patches, cells a side and patches a cell's side."""

    side: int
    stride: int
    cells: int
    window: int

    @property
    def positions(self) -> int:
        """Patches along one side."""
        return (self.side - PATCH) // self.stride + 1

    def pooling(self) -> NDArray[np.uint8]:
        """(cells², positions²) of 0 and 1: cells of one window each, spread evenly, overlapping where they must."""
        starts = np.rint(np.linspace(0, self.positions - self.window, self.cells)).astype(int)
        line = np.zeros((self.cells, self.positions), np.uint8)
        for row, start in zip(line, starts, strict=True):
            row[start : start + self.window] = 1
        return np.kron(line, line)


# A third scale of 64 pixels was tried: on sign language photos it took away half a point, on digits it gave nothing.
SCALES = (Scale(32, 1, 3, 9), Scale(16, 1, 2, 6))
SMALL = (Scale(24, 1, 3, 7), Scale(12, 1, 2, 4))
VARIANTS: dict[str, tuple[Sequence[Scale], int | None, bool]] = {
    "patches": (SCALES, None, False),
    "patches:small": (SMALL, 400, False),
    "patches:mirror": (SCALES, None, True),
}
"""Spec -> scales, filters, mirror. The small one is three times as fast, enough for digits and symbols. The one with
mirror gives an image and its mirror image the same features: better for things, wrong for signs, half as fast."""


class Patches:
    """The default backbone: no download, nobody's images."""

    licence = "Apache-2.0 (dictionary fit on generated images)"
    batch = 16
    fit = pixels.WHOLE

    def __init__(
        self,
        spec: str = "patches",
        scales: Sequence[Scale] = SCALES,
        filters: int | None = None,
        mirror: bool = False,
    ) -> None:
        """scales: from the largest to the smallest, each half the one before. filters: the first so many; all.

        mirror: the responses to an image and to its mirror image are added up.
        """
        self.spec = spec
        self.scales = tuple(scales)
        self.mirror = mirror
        with np.load(DICTIONARY, allow_pickle=False) as file:
            self._basis = file["basis"]
            self._basis_scale = float(file["basis_scale"])
            self._filters = file["filters"][:filters]
            self._filter_scale = file["filter_scale"][:filters]
        self.size = self.scales[0].side
        self.dimensions = sum(scale.cells**2 * 2 * len(self._filters) for scale in self.scales)
        self.length = LENGTH * len(self.scales) ** 0.5

    @cached_property
    def digest(self) -> str:
        found = hashlib.sha256(
            f"patches 1|{self.scales}|{PATCH}|{CONTRAST}|{UNIT}|{THRESHOLD}|{RESPONSE}|{LENGTH}".encode()
        )
        found.update(pixels.RULE.encode() + b"|mirror" * self.mirror)
        for array in (self._basis, np.float64(self._basis_scale), self._filters, self._filter_scale):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    @property
    def input(self) -> tuple[type[np.generic], tuple[int, ...]]:
        return np.uint8, (self.size, self.size, 3)

    def prepare(self, images: Sequence[Image]) -> NDArray[np.uint8]:
        """(N,) images -> (N, size, size, 3)."""
        return pixels.prepare(images, self.size)

    def features(self, graph: Graph, images: str) -> str:
        """(N, size, size, 3) uint8 -> (N, dimensions) float32 of length about 1."""
        return graph.add("Div", self.build(graph, images), np.float32(self.length))

    def build(self, graph: Graph, images: str) -> str:
        """(N, size, size, 3) uint8 -> (N, dimensions) float32 of whole numbers, of length about `length`."""
        x = graph.add("Transpose", graph.cast(images, np.float32), perm=[0, 3, 1, 2])
        found = []
        for number, scale in enumerate(self.scales):
            if number:  # the mean of 2x2 pixels, rounded half up: sums of four are exact
                x = graph.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
                x = graph.add("Floor", graph.add("Add", x, np.float32(0.5)))
            found.append(self._scale(graph, x, scale))
        return found[0] if len(found) == 1 else graph.add("Concat", *found, axis=1)

    def _scale(self, graph: Graph, x: str, scale: Scale) -> str:
        """x (N, 3, side, side) -> (N, cells² * 2K), of length LENGTH."""
        pooled = self._pooled(graph, x, scale)
        if self.mirror:
            turned = graph.add("Slice", x, np.array([-1]), np.array([-scale.side - 1]), np.array([3]), np.array([-1]))
            pooled = graph.add("Add", pooled, self._pooled(graph, turned, scale))
        total = graph.add("ReduceSum", pooled, np.array([1]), keepdims=1)
        share = graph.add("Div", graph.cast(pooled, np.float32), self._at_least_one(graph, total))
        return graph.add("Round", graph.add("Mul", graph.add("Sqrt", share), np.float32(LENGTH)))

    def _pooled(self, graph: Graph, x: str, scale: Scale) -> str:
        """x (N, 3, side, side) -> (N, cells² * 2K) int32: the rectified responses, summed over each cell."""
        components, filters = len(self._basis), len(self._filters)
        white = self._whitened(graph, x, scale.stride)
        white = graph.add("Transpose", white, perm=[0, 2, 3, 1])
        white = graph.reshape(white, 0, scale.positions**2, components + 1)
        responses = graph.add(
            "QLinearMatMul",
            white, np.float32(1 / UNIT), np.uint8(128),
            self._both_signs(), np.tile(self._filter_scale, 2).astype(np.float32), np.zeros(2 * filters, np.int8),
            np.float32(RESPONSE), np.uint8(0),
        )  # fmt: skip
        pooled = graph.add("MatMulInteger", scale.pooling(), responses)  # (N, cells², 2K) int32
        return graph.reshape(pooled, 0, scale.cells**2 * 2 * filters)

    @staticmethod
    def _at_least_one(graph: Graph, total: str) -> str:
        return graph.add("Max", graph.cast(total, np.float32), np.float32(1))

    def _whitened(self, graph: Graph, x: str, stride: int) -> str:
        """x (N, 3, S, S) -> (N, components + 1, P, P) uint8 around 128, the last one constant.

        The whitening's rows sum to 0, which takes the patch's mean away; its deviation is divided out after them.
        """
        components = len(self._basis)
        weights = np.zeros((components + 1, 3, PATCH, PATCH), np.float32)
        weights[:-1] = self._basis.transpose(0, 3, 1, 2)
        bias = np.zeros(components + 1, np.float32)
        bias[-1] = ALWAYS
        answers = graph.add("Conv", x, weights, bias, kernel_shape=[PATCH, PATCH], strides=[stride, stride])
        sums = self._window_sums(graph, x, stride)
        squares = self._window_sums(graph, graph.add("Mul", x, x), stride)
        count = np.float32(3 * PATCH * PATCH)
        mean = graph.add("Div", sums, count)
        variance = graph.add("Sub", graph.add("Div", squares, count), graph.add("Mul", mean, mean))
        variance = graph.add("Add", graph.add("Max", variance, np.float32(0)), np.float32(CONTRAST))
        inverse = graph.add("Div", np.float32(self._basis_scale * UNIT), graph.add("Sqrt", variance))
        return graph.add("QuantizeLinear", graph.add("Mul", answers, inverse), np.float32(1), np.uint8(128))

    @staticmethod
    def _window_sums(graph: Graph, x: str, stride: int) -> str:
        """(N, 3, S, S) of whole numbers -> (N, 1, P, P): sums over each patch, below 2**23."""
        ones = np.ones((1, 3, PATCH, PATCH), np.float32)
        return graph.add("Conv", x, ones, kernel_shape=[PATCH, PATCH], strides=[stride, stride])

    def _both_signs(self) -> NDArray[np.int8]:
        """(components + 1, 2K): the filters, their negatives, and the threshold against the constant component."""
        steps = THRESHOLD / self._filter_scale * UNIT / 127  # weight on a component of 127 steps
        threshold = -np.rint(np.minimum(steps, 127)).astype(np.int8)[None]
        positive = self._filters.T
        return np.ascontiguousarray(np.concatenate([np.r_[positive, threshold], np.r_[-positive, threshold]], axis=1))

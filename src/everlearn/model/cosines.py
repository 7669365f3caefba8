"""phi: a feature vector's random cosines, as integers in [-127, 127], by fixed steps that know no data.

Ridge on random cosines approximates the Gaussian kernel (Rahimi & Recht 2007). The random directions are structured:
three rounds of sign flips and Hadamard transforms (SORF: Yu et al. 2016, "Orthogonal random features",
arXiv:1610.09072), so no matrix is stored. A vector longer than D is first folded: blocks of D with random signs are
added up. All sums are of integers below 2**24, so they are exact in float32; after every round the values are rounded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from everlearn.model.graph import Graph

ROUNDS = 3
TURN = 1024  # steps of a full turn in the table of cosines


@dataclass(frozen=True)
class Cosines:
    """inputs: width of the feature vector; length: its Euclidean length; dimensions: of phi, one of them constant.

    width: of the Gaussian kernel, in units of that length.
    """

    inputs: int
    length: float
    dimensions: int
    width: float
    seed: int = 0

    @property
    def block(self) -> int:
        """The power of two that the transforms work on."""
        return max(16, 1 << (self.dimensions - 1).bit_length())

    @property
    def folds(self) -> int:
        return -(-self.inputs // self.block)

    def signs(self, name: str, count: int) -> NDArray[np.float32]:
        """Random +1 and -1 that are the same for ever: bits of SHAKE-256."""
        drawn = np.frombuffer(hashlib.shake_256(f"{name}|{self.seed}".encode()).digest(-(-count // 8)), np.uint8)
        return np.unpackbits(drawn)[:count].astype(np.float32) * 2 - 1

    def phases(self) -> NDArray[np.int32]:
        drawn = hashlib.shake_256(f"phases|{self.seed}".encode()).digest(2 * self.dimensions)
        found = np.frombuffer(drawn, "<u2").astype(np.int32) % TURN
        found[-1] = 0
        return found

    def digest(self) -> str:
        about = f"cosines 1|{self.inputs}|{self.length}|{self.dimensions}|{self.width}|{self.seed}|{ROUNDS}|{TURN}"
        return hashlib.sha256(about.encode() + self.phases().tobytes()).hexdigest()

    def project(self, graph: Graph, features: str) -> str:
        """(N, inputs) whole numbers -> (N, block) whole numbers; each about length / sqrt(block) * normal(0, 1)."""
        block, folds = self.block, self.folds
        rows = 1 << (block.bit_length() // 2)
        columns = block // rows
        x = features
        if self.inputs < block * folds:
            x = graph.add("Pad", x, np.array([0, 0, 0, block * folds - self.inputs], np.int64), np.float32(0))
        x = graph.add("Mul", x, self.signs("fold", block * folds))
        if folds > 1:
            x = graph.add("ReduceSum", graph.reshape(x, -1, folds, block), np.array([1]), keepdims=0)
        for number in range(ROUNDS):
            x = graph.reshape(graph.add("Mul", x, self.signs(f"round {number}", block)), -1, rows, columns)
            x = graph.add("Transpose", graph.add("MatMul", x, hadamard(columns)), perm=[0, 2, 1])
            x = graph.reshape(graph.add("MatMul", x, hadamard(rows)), -1, block)
            x = graph.add("Round", graph.add("Mul", x, np.float32(block**-0.5)))
        return x

    def build(self, graph: Graph, features: str) -> str:
        """(N, inputs) whole numbers -> (N, dimensions) int8; the last is always 127."""
        projected = self.project(graph, features)
        if self.block > self.dimensions:
            projected = graph.add("Slice", projected, np.array([0]), np.array([self.dimensions]), np.array([1]))
        step = TURN / (2 * np.pi * self.width) * self.block**0.5 / self.length
        steps = np.full(self.dimensions, step, np.float32)
        steps[-1] = 0
        turned = graph.cast(graph.add("Round", graph.add("Mul", projected, steps)), np.int32)
        index = graph.add("Mod", graph.add("Add", turned, self.phases()), np.int32(TURN))
        return graph.add("Gather", cosine_table(), index)


def hadamard(size: int) -> NDArray[np.float32]:
    """Sylvester's matrix of +1 and -1."""
    found = np.ones((1, 1), np.float32)
    while len(found) < size:
        found = np.block([[found, found], [found, -found]])
    return found


def cosine_table() -> NDArray[np.int8]:
    """127 cos of a full turn in TURN steps."""
    return np.rint(127 * np.cos(2 * np.pi * np.arange(TURN) / TURN)).astype(np.int8)

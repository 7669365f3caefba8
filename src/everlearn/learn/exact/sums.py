"""Exact integer sums of int8 features: G = sum of phi phi^T, whatever the order, the blocks or the machines.

Why floating point may be trusted here: a float32 holds every integer up to 2^24, and no partial sum of a product of
`EXACT_ROWS` rows of values in [-127, 127] exceeds 1,040 * 127^2 = 16,774,160 < 2^24. So every intermediate value is
an integer that float32 holds exactly, with or without fused multiply-add, in any order of summation.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import BadInput
from everlearn.learn.exact.threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 127
EXACT_ROWS = 1040
_BLOCKS = 4  # float32 blocks converted at a time: 4 * 1,040 rows
_INT8_ROWS = 65_536  # int32 holds 131,072 rows of extremes; half of it leaves room for kernels that shift int8 to uint8
_PANEL = 512
_INT32 = 2**31 - 1

IntArray = NDArray[np.signedinteger[Any]]


def check_phi(phi: NDArray[Any], dimensions: int) -> NDArray[np.int8]:
    """phi (N, D) as int8 in [-127, 127]. Raises BadInput that names the first row that is anything else."""
    phi = np.asarray(phi)
    if phi.ndim != 2 or phi.shape[1] != dimensions:
        raise BadInput(f"phi has shape {phi.shape}, not (rows, {dimensions}).", "Use features of this memory's basis.")
    if not len(phi):
        return np.zeros((0, dimensions), np.int8)
    if phi.dtype == np.int8:
        for start in range(0, len(phi), _INT8_ROWS):
            block = phi[start : start + _INT8_ROWS]
            if block.min(initial=0) < -LIMIT:
                row = start + int(np.argmax((block < -LIMIT).any(axis=1)))
                raise BadInput(f"phi row {row} holds -128.", f"Quantise to [-{LIMIT}, {LIMIT}].")
        return phi
    if phi.dtype.kind == "f":
        bad = ~np.isfinite(phi).all(axis=1)
        row = int(np.argmax(bad)) if bad.any() else 0
        found = "NaN or infinity" if bad.any() else f"{phi.dtype} values"
        raise BadInput(f"phi row {row} holds {found}, not integers.", f"Quantise to int8 in [-{LIMIT}, {LIMIT}].")
    if phi.dtype.kind not in "iu":
        raise BadInput(f"phi row 0 holds {phi.dtype} values, not integers.", f"Quantise to [-{LIMIT}, {LIMIT}].")
    bad = ((phi > LIMIT) | (phi < -LIMIT)).any(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        raise BadInput(f"phi row {row} is out of range.", f"Quantise to [-{LIMIT}, {LIMIT}].")
    return phi.astype(np.int8)


def smallest(low: int, high: int) -> np.dtype[Any]:
    """The smallest signed integer type that holds both."""
    for kind in (np.int8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.int64)


class GramSum:
    """The upper triangle of an exact integer (D, D) sum, as panels of up to 512 rows.

    Panel p holds rows [512 p, 512 (p + 1)) and columns [512 p, D): half the memory of the full matrix, and each panel
    is an independent product. Elements are int32 until the diagonal shows that they might not fit (|G_ij| never exceeds
    the largest G_ii), then int64. An empty sum holds nothing.
    """

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self.panels: list[IntArray] = []

    @property
    def starts(self) -> range:
        return range(0, self.dimensions, _PANEL)

    def diagonal(self) -> NDArray[np.int64]:
        """(D,) sums of squares, each >= 0."""
        if not self.panels:
            return np.zeros(self.dimensions, np.int64)
        return np.concatenate([np.diagonal(panel) for panel in self.panels]).astype(np.int64)

    def add(self, phi: NDArray[np.int8], sign: int = 1) -> None:
        """Add (or with sign -1 subtract) the outer products of the rows of phi (N, D), int8 in [-127, 127]."""
        product = int8_product() if len(phi) > EXACT_ROWS else None  # its proof is not worth it for a few rows
        step = _INT8_ROWS if product else _BLOCKS * EXACT_ROWS
        for start in range(0, len(phi), step):
            block = phi[start : start + step]
            self._reserve(int(self.diagonal().max(initial=0)) + len(block) * LIMIT**2)
            rows = np.ascontiguousarray(block) if product else block.astype(np.float32)

            def one(p: int, rows: NDArray[Any] = rows) -> None:
                a, b = rows[:, p * _PANEL : (p + 1) * _PANEL], rows[:, p * _PANEL :]
                found = product(a, b) if product else _float_product(a, b)
                panel = self.panels[p]
                (np.add if sign > 0 else np.subtract)(panel, found, out=panel, casting="unsafe")

            in_threads(one, range(len(self.starts)))

    def combine(self, other: GramSum, sign: int = 1) -> None:
        """Add (or subtract) another sum."""
        if not other.panels:
            return
        self._reserve(int(self.diagonal().max(initial=0)) + int(other.diagonal().max(initial=0)))
        for mine, theirs in zip(self.panels, other.panels, strict=True):
            (np.add if sign > 0 else np.subtract)(mine, theirs, out=mine, casting="unsafe")

    def clear(self) -> None:
        self.panels = []

    def _reserve(self, bound: int) -> None:
        kind = np.int32 if bound <= _INT32 else np.int64
        if not self.panels:
            d = self.dimensions
            self.panels = [np.zeros((min(_PANEL, d - start), d - start), kind) for start in self.starts]
        elif kind is np.int64 and self.panels[0].dtype == np.int32:
            self.panels = [panel.astype(np.int64) for panel in self.panels]

    def sizes(self) -> Iterator[int]:
        """How many numbers each piece of `upper` has."""
        for start in self.starts:
            rows = min(_PANEL, self.dimensions - start)
            yield rows * (self.dimensions - start) - rows * (rows - 1) // 2

    def upper(self) -> Iterator[IntArray]:
        """The upper triangle, row by row (G_00 G_01 .. G_0D G_11 ..), as flat pieces of one panel each."""
        if not self.panels:
            yield from (np.zeros(size, np.int32) for size in self.sizes())
        for size, panel in zip(self.sizes(), self.panels):
            rows, columns = panel.shape
            flat = np.empty(size, panel.dtype)
            at = 0
            for row in range(rows):
                flat[at : at + columns - row] = panel[row, row:]
                at += columns - row
            yield flat

    def fill_upper(self, pieces: Iterator[IntArray], kind: np.dtype[Any]) -> None:
        """The reverse of `upper`: take the panels from flat pieces."""
        self.panels = []
        for start, flat in zip(self.starts, pieces, strict=True):
            rows, columns = min(_PANEL, self.dimensions - start), self.dimensions - start
            panel = np.zeros((rows, columns), kind)
            at = 0
            for row in range(rows):
                panel[row, row:] = flat[at : at + columns - row]
                at += columns - row
            square = panel[:, :rows]
            square += np.triu(square, 1).T
            self.panels.append(panel)

    def triangle(self, minus: GramSum | None = None, out: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """(D, D) float64 whose upper triangle is this sum, less `minus`; what lies below the panels is not defined."""
        full = np.empty((self.dimensions, self.dimensions)) if out is None else out
        for p, start in enumerate(self.starts):
            stripe = full[start : start + _PANEL, start:]
            stripe[:] = self.panels[p] if self.panels else 0
            if minus is not None and minus.panels:
                stripe -= minus.panels[p]
        return full

    def dense(self) -> NDArray[np.int64]:
        """The whole symmetric (D, D) matrix in int64."""
        full = np.zeros((self.dimensions, self.dimensions), np.int64)
        for p, start in enumerate(self.starts):
            if self.panels:
                full[start : start + _PANEL, start:] = self.panels[p]
                full[start:, start : start + _PANEL] = self.panels[p].T
        return full


def _float_product(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
    """a^T b of integers, exactly: float32 within EXACT_ROWS rows, float64 (exact up to 2^53) across them."""
    first = a[:EXACT_ROWS].T @ b[:EXACT_ROWS]
    if len(a) <= EXACT_ROWS:
        return first
    total = first.astype(np.float64)
    for start in range(EXACT_ROWS, len(a), EXACT_ROWS):
        total += a[start : start + EXACT_ROWS].T @ b[start : start + EXACT_ROWS]
    return total


@cache
def int8_product() -> Callable[[NDArray[np.int8], NDArray[np.int8]], IntArray] | None:
    """a^T b by torch's int8 product, where torch is loaded already and proves on extreme values that it is exact here.

    The proof is needed: without VNNI the same call was seen to saturate silently. torch is never imported for this
    alone, since that takes seconds.
    """
    import sys

    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "_int_mm"):
        return None

    def product(a: NDArray[np.int8], b: NDArray[np.int8]) -> IntArray:
        left = torch.from_numpy(np.ascontiguousarray(a.T))
        result: IntArray = torch._int_mm(left, torch.from_numpy(np.ascontiguousarray(b))).numpy()
        return result

    try:
        return product if _proves_exact(product) else None
    except RuntimeError:  # this build has no kernel for this machine
        return None


def _proves_exact(product: Callable[[NDArray[np.int8], NDArray[np.int8]], IntArray]) -> bool:
    """Compare with int64 arithmetic on values that saturate or overflow whatever can."""
    rng = np.random.default_rng(0)
    for rows, columns in ((1, 64), (64, 32), (1040, _PANEL), (_INT8_ROWS, 32)):
        extremes = rng.choice(np.array([-127, 127], np.int8), (rows, columns))
        extremes[:, :4] = (127, -127, 127, -127)
        wanted = extremes.astype(np.float64).T @ extremes.astype(np.float64)
        if not np.array_equal(product(extremes, extremes), wanted):
            return False
    return True

"""Exact integer sums of int8 features: G = sum of phi phi^T, whatever the order, the blocks or the machines.

Why floating point may be trusted here: a float32 holds every integer up to 2^24, and no partial sum of a product of
`EXACT_ROWS` rows of values in [-127, 127] exceeds 1,040 * 127^2 = 16,774,160 < 2^24. So every intermediate value is
an integer that float32 holds exactly, with or without fused multiply-add, in any order of summation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from everlearn.errors import BadInput
from everlearn.learn.exact.threads import in_threads

LIMIT = 127
EXACT_ROWS = 1040
_BLOCKS = 4  # float32 blocks converted at a time: 4 * 1,040 rows
_INT8_ROWS = 65_536  # int32 holds 131,072 rows of extremes; half of it leaves room for kernels that shift int8 to uint8
_PANEL = 512
_PROOF_BYTES = 2**25
_INT32 = 2**31 - 1

IntArray = NDArray[np.signedinteger[Any]]
Product = Callable[[NDArray[np.int8], NDArray[np.int8]], IntArray]


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
        add_each([self], [phi], sign)

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


def add_each(sums: Sequence[GramSum], phis: Sequence[NDArray[np.int8]], sign: int = 1) -> None:
    """Add (or with sign -1 subtract) to each sum the rows of its own phi (N_i, D); all panels of all side by side."""
    rows = sum(map(len, phis))
    product = int8_product(sums[0].dimensions) if rows > EXACT_ROWS else None  # for a few rows its proof is too dear
    step = _INT8_ROWS if product else _BLOCKS * EXACT_ROWS
    change = np.add if sign > 0 else np.subtract

    def one(task: tuple[GramSum, NDArray[Any], int]) -> None:
        gram, block, p = task
        a, b = block[:, p * _PANEL : (p + 1) * _PANEL], block[:, p * _PANEL :]
        found = product(a, b) if product else _float_product(a, b)
        change(gram.panels[p], found, out=gram.panels[p], casting="unsafe")

    for start in range(0, max(map(len, phis), default=0), step):
        todo = []
        for gram, phi in zip(sums, phis, strict=True):
            block = phi[start : start + step]
            if len(block):
                gram._reserve(int(gram.diagonal().max(initial=0)) + len(block) * LIMIT**2)
                block = np.require(block, requirements=("C", "W")) if product else block.astype(np.float32)
                todo += [(gram, block, p) for p in range(len(gram.starts))]
        in_threads(one, todo)


def _float_product(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
    """a^T b of integers, exactly: float32 within EXACT_ROWS rows, float64 (exact up to 2^53) across them."""
    first = a[:EXACT_ROWS].T @ b[:EXACT_ROWS]
    if len(a) <= EXACT_ROWS:
        return first
    total = first.astype(np.float64)
    for start in range(EXACT_ROWS, len(a), EXACT_ROWS):
        total += a[start : start + EXACT_ROWS].T @ b[start : start + EXACT_ROWS]
    return total


def int8_product(dimensions: int) -> Product | None:
    """a^T b of panels of (N, `dimensions`) by torch's int8 product, where torch is loaded and proves to be exact.

    The proof is needed: without VNNI the same call was seen to saturate silently. torch is never imported for this
    alone, since that takes seconds: a program that wants it says `import torch`. Likewise a GPU does the work where
    torch uses it already.
    """
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "_int_mm"):
        return None
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return (_proved(_on_cuda, dimensions) if on_gpu else None) or _proved(_on_cpu, dimensions)


@cache
def _proved(kind: Callable[[Any], Product], dimensions: int) -> Product | None:
    product = kind(sys.modules["torch"])
    try:
        return product if _proves_exact(product, dimensions) else None
    except RuntimeError:  # this build has no kernel for this machine
        return None


def _on_cpu(torch: Any) -> Product:
    """Views of the rows go in as they are: the kernel transposes and packs its blocks itself.

    One thread per call, since the calls are side by side already; torch would start as many again for each.
    """
    threads = ThreadpoolController().select(user_api="openmp")

    def product(a: NDArray[np.int8], b: NDArray[np.int8]) -> IntArray:
        torch.get_num_threads()  # sets this thread's count on the first call, and so must come before the limit
        with threads.limit(limits=1):
            found: IntArray = torch._int_mm(torch.from_numpy(a).t(), torch.from_numpy(b)).numpy()
            return found

    return product


def _on_cuda(torch: Any) -> Product:
    """Padded with zeros to multiples of 8, at least 24 wide, and both operands row by row: what cuBLASLt asks for."""

    def there(x: NDArray[np.int8]) -> Any:
        rows, columns = x.shape
        padded = torch.zeros((max(24, -(-columns // 8) * 8), -(-rows // 8) * 8), dtype=torch.int8, device="cuda")
        padded[:columns, :rows] = torch.from_numpy(x).to("cuda").t()
        return padded

    def product(a: NDArray[np.int8], b: NDArray[np.int8]) -> IntArray:
        found: IntArray = torch._int_mm(there(a), there(b).t())[: a.shape[1], : b.shape[1]].cpu().numpy()
        return found

    return product


def _proves_exact(product: Product, dimensions: int) -> bool:
    """Compare with exact sums on values that saturate or overflow whatever can, on the shapes and strides in use.

    An odd number of rows, repeated, brings all neighbours together at every offset; its sums are known by counting.
    """
    rng = np.random.default_rng(0)
    few = rng.choice(np.array([-LIMIT, LIMIT], np.int8), (61, dimensions))
    few[:, :4] = (LIMIT, -LIMIT, LIMIT, -LIMIT)[:dimensions]
    starts = range(0, dimensions, _PANEL)
    many = max(1, min(67, _PROOF_BYTES // few.size))
    for times, columns in ((1, dimensions), (17, min(32, dimensions)), (many, dimensions), (1074, min(32, dimensions))):
        rows = np.tile(few[:, :columns], (times, 1))
        for start in {starts[0], starts[len(starts) // 2], starts[-1]} if columns == dimensions else {0}:
            one = few[:, start : start + _PANEL][:, : columns - start], few[:, start:columns]
            wanted = (one[0].astype(np.float32).T @ one[1].astype(np.float32)).astype(np.int64)
            if not np.array_equal(product(rows[:, start : start + _PANEL], rows[:, start:]), wanted * times):
                return False
    return True

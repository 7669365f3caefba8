"""Which of a million 64-bit hashes differ from this one in at most r bits? All of them, found without looking at most.

Multi-index hashing (Norouzi, Punjani & Fleet 2012, arXiv:1307.2982): cut each hash into m chunks. If two hashes differ
in at most r bits, then in at least one chunk they differ in at most floor(r / m): with m > r / 2 in at most one. So it
is enough to look up, chunk by chunk, the own value and those one bit away, and to count bits for what is found there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BITS = 64
_TAIL = 2048  # hashes added last are compared one by one until they are this many
_CANDIDATES = 1 << 21  # compared at a time: bounds the memory (about 100 MB)


class HashIndex:
    """Hashes by row number, in order of arrival; finds all within `distance` bits, exactly. Adding is cheap.

    Kept as sorted segments, each at least twice as large as the next (a log-structured merge), so that n additions cost
    O(n log n) in all. About 30 bytes a hash.
    """

    def __init__(self, distance: int) -> None:
        self.distance = distance
        self._segments: list[_Segment] = []
        self._tail: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._first = 0  # row number of the tail's first hash

    def __len__(self) -> int:
        return self._first + len(self._tail)

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """(n,) uint64; their row numbers follow those already there."""
        self._tail = np.concatenate([self._tail, np.asarray(hashes, dtype=np.uint64)])
        if len(self._tail) < _TAIL:
            return
        merged, first = self._tail, self._first
        while self._segments and len(self._segments[-1].hashes) < 2 * len(merged):
            last = self._segments.pop()
            merged, first = np.concatenate([last.hashes, merged]), last.first
        self._segments.append(_Segment(merged, first, _cuts(self.distance)))
        self._tail, self._first = np.empty(0, np.uint64), len(self)

    def find(self, hashes: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """(q,) uint64 -> pairs (index into `hashes`, row number) within the distance, in portions, each pair once."""
        hashes = np.asarray(hashes, dtype=np.uint64)
        for segment in self._segments:
            yield from segment.find(hashes, self.distance)
        step = max(1, _CANDIDATES // max(1, len(self._tail)))
        for at in range(0, len(hashes) if len(self._tail) else 0, step):
            near = np.bitwise_count(hashes[at : at + step, None] ^ self._tail[None]) <= self.distance
            queries, rows = np.nonzero(near)
            yield queries + at, rows + self._first


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One chunk of the hashes of a segment, as a table: rows with the same value stand together.

    order: rows by value; starts: (2^width + 1,) where in `order` each value begins.
    """

    shift: int
    width: int
    order: NDArray[np.int32]
    starts: NDArray[np.int32]

    def values(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        return ((hashes >> np.uint64(self.shift)) & np.uint64((1 << self.width) - 1)).astype(np.int64)


def _cuts(distance: int) -> list[tuple[int, int]]:
    """(shift, bits) of each chunk: enough of them that one differs in at most one bit, and none over 22 bits."""
    chunks = min(BITS, max(3, distance // 2 + 1))
    edges = np.linspace(0, BITS, chunks + 1).round().astype(int)
    return [(int(low), int(high - low)) for low, high in pairwise(edges)]


class _Segment:
    def __init__(self, hashes: NDArray[np.uint64], first: int, cuts: list[tuple[int, int]]) -> None:
        self.hashes, self.first = hashes, first
        fitting = max(1, len(hashes).bit_length())  # a table about as long as the segment; fewer bits miss nothing
        self.chunks = []
        for shift, bits in cuts:
            width = min(bits, fitting)
            empty = np.empty(0, np.int32)
            values = _Chunk(shift, width, empty, empty).values(hashes)
            order = np.argsort(values, kind="stable").astype(np.int32)
            starts = np.zeros((1 << width) + 1, np.int32)
            np.cumsum(np.bincount(values, minlength=1 << width), out=starts[1:])
            self.chunks.append(_Chunk(shift, width, order, starts))

    def find(self, hashes: NDArray[np.uint64], distance: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Portions of queries, chosen so that their candidates fit the bound; each pair once within its portion."""
        costs = sum(self._counts(chunk, hashes)[1].sum(1) for chunk in self.chunks)
        portion = np.cumsum(costs) // _CANDIDATES
        for number in np.unique(portion):
            at, end = np.searchsorted(portion, [number, number + 1])
            found = [self._within(chunk, hashes[at:end], distance) for chunk in self.chunks]
            pairs = np.unique(np.concatenate(found))
            queries, rows = np.divmod(pairs, len(self.hashes))
            yield queries + at, rows + self.first

    def _counts(self, chunk: _Chunk, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(q, 1 + width) twice: where the rows of each looked-up value begin in the chunk's order, and how many."""
        flips = np.concatenate([[0], 1 << np.arange(chunk.width)])
        values = chunk.values(hashes)[:, None] ^ flips
        begins = chunk.starts[values].astype(np.int64)
        return begins, chunk.starts[values + 1] - begins

    def _within(self, chunk: _Chunk, hashes: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
        """Pairs (query, row) as query * len(self.hashes) + row."""
        begins, counts = self._counts(chunk, hashes)
        queries = np.repeat(np.arange(len(hashes)), counts.sum(1))
        begins, counts = begins.ravel(), counts.ravel()
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = chunk.order[np.repeat(begins, counts) + offsets]
        near = np.bitwise_count(hashes[queries] ^ self.hashes[rows]) <= distance
        return queries[near] * len(self.hashes) + rows[near]

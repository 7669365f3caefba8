"""Near duplicates: a re-encoded, resized or brightened copy is one; another digit, face or visitor is not.

Two images are near duplicates when their 64-bit perceptual hashes differ in few bits *and* their 32 x 32 grey
thumbnails agree, as a whole and in every part. The hash makes the search fast, the thumbnails make it right. Sums over
thumbnails are exact (whole numbers below 2^53), so the answer is the same everywhere, and the relation is symmetric.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from everlearn.validate.hashes import HashIndex

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.types import SampleId

THUMB = 32
"""Side of the grey thumbnail, in pixels."""
_PARTS = 8  # the thumbnail is compared in 8 x 8 parts
_BLOCK = 1024  # images or pairs at a time: bounds the memory
_WALK = 128  # images at a time where each is compared with those kept: at most 8,128 pairs among them

Edge = tuple["SampleId", "SampleId"]
"""Two near duplicates, the lower id first."""
Thumbs = Callable[[Sequence["SampleId"]], "NDArray[np.uint8]"]
"""Ids -> their thumbnails, (n, 1024) uint8: from the catalog, so that a million of them need not lie in memory."""


@dataclass(frozen=True, slots=True)
class DuplicateLimits:
    """When two images are near duplicates.

    distance: bits (0-64) in which their hashes may differ; above 7 the search becomes slow.
    correlation: least correlation of their grey thumbnails; brightness and contrast do not count.
    difference: greatest difference in any one of 8 x 8 parts of the thumbnails, as root mean square in units of a
        thumbnail's own standard deviation; a visitor before a still background is more than that.
    """

    distance: int = 5
    correlation: float = 0.99
    difference: float = 0.45


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is kept of an image to recognise it. hash: 64 bits, unsigned; thumb: 1,024 bytes, 32 x 32 grey by rows."""

    hash: int
    thumb: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Prints:
    """Ids and hashes of many images. ids: (n,); hashes: (n,) uint64."""

    ids: Sequence[SampleId]
    hashes: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.ids)

    def blocks(self, size: int = _BLOCK) -> Iterator[Prints]:
        for at in range(0, len(self), size):
            yield Prints(self.ids[at : at + size], self.hashes[at : at + size])

    def only(self, rows: Sequence[int]) -> Prints:
        return Prints([self.ids[row] for row in rows], self.hashes[list(rows)])


class Known:
    """The images already there: hashes in memory (about 30 bytes an image), thumbnails fetched when one is needed."""

    def __init__(self, thumbs: Thumbs, limits: DuplicateLimits | None = None) -> None:
        self.limits = limits or DuplicateLimits()
        self.ids: list[SampleId] = []
        self._thumbs = thumbs
        self._index = HashIndex(self.limits.distance)

    def add(self, new: Prints) -> None:
        self.ids.extend(new.ids)
        self._index.add(new.hashes)

    def near(self, new: Prints) -> Iterator[tuple[int, int]]:
        """(row of `new`, row of `self.ids`) of near duplicates, in no particular order."""
        for queries, rows in self._index.find(new.hashes):
            for at in range(0, len(rows), _BLOCK):
                first, second = queries[at : at + _BLOCK].tolist(), rows[at : at + _BLOCK].tolist()
                same = self.alike([new.ids[row] for row in first], [self.ids[row] for row in second])
                yield from (pair for pair, agreed in zip(zip(first, second), same) if agreed)

    def alike(self, first: Sequence[SampleId], second: Sequence[SampleId]) -> list[bool]:
        """Pairwise, whether the thumbnails agree; each is fetched once."""
        ids = sorted({*first, *second})
        place = {id_: row for row, id_ in enumerate(ids)}
        rows = [np.array([place[id_] for id_ in side]) for side in (first, second)]
        agreed: list[bool] = alike(self._thumbs(ids), rows[0], rows[1], self.limits).tolist()
        return agreed


def fingerprint(grey: NDArray[np.uint8]) -> Fingerprint:
    """(h, w) grey picture (`quality.small_grey`) -> its fingerprint.

    The hash is the signs of the 64 lowest frequencies of the thumbnail's cosine transform, without the mean (a pHash:
    Zauner 2010), so brightness and contrast do not change it.
    """
    thumb = np.asarray(cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    waves = _COSINES @ _centred(thumb.reshape(1, -1)).reshape(THUMB, THUMB) @ _COSINES.T
    bits = waves[_ROWS, _COLUMNS] > 0
    return Fingerprint(int.from_bytes(np.packbits(bits).tobytes(), "big"), thumb.tobytes())


def thumbs_of(prints: Mapping[SampleId, Fingerprint]) -> Thumbs:
    """Thumbnails from memory, for few images."""

    def fetch(ids: Sequence[SampleId]) -> NDArray[np.uint8]:
        joined = b"".join(prints[id_].thumb for id_ in ids)
        return np.frombuffer(joined, dtype=np.uint8).reshape(-1, THUMB * THUMB)

    return fetch


def pairs(new: Prints, known: Known) -> Iterator[Edge]:
    """All near duplicates among `new`, and between `new` and `known`, each pair once; afterwards `new` is known too.

    Whatever the portions in which images arrive, the union of what is found is the same. Where thousands may be alike
    (a still camera), take `thin_out`: here every pair counts.
    """
    for block in new.blocks():
        for query, row in known.near(block):
            yield _edge(block.ids[query], known.ids[row])
        yield from _among(block, known)
        known.add(block)


def keepers(
    ids: Collection[SampleId], edges: Iterable[Edge], rank: Mapping[SampleId, int] | None = None
) -> dict[SampleId, SampleId]:
    """Which of the near duplicates go, and for which one each: {loser: keeper}.

    Walk the ids in ascending (rank, id); keep one unless it is linked to one already kept. So it depends on the set of
    images alone, never on the order in which they came, and no image goes for one that goes itself. `rank` puts some
    first (a person's label before a guessed one); ids without a rank have 0. Edges to ids that are not in `ids` are
    left out, so forgetting a keeper brings its duplicate back.
    """
    linked: dict[SampleId, list[SampleId]] = {id_: [] for id_ in ids}
    for first, second in edges:
        if first in linked and second in linked:
            linked[first].append(second)
            linked[second].append(first)
    ranks = rank or {}

    def order(id_: SampleId) -> tuple[int, SampleId]:
        return ranks.get(id_, 0), id_

    gone: dict[SampleId, SampleId] = {}
    kept: set[SampleId] = set()
    for id_ in sorted(linked, key=order):
        rivals = [other for other in linked[id_] if other in kept]
        if rivals:
            gone[id_] = min(rivals, key=order)
        else:
            kept.add(id_)
    return gone


def thin_out(ordered: Prints, known: Known) -> Iterator[Edge]:
    """`keepers` without the edges: yields (loser, keeper) of images given in ascending (rank, id) order.

    For still cameras: among 50,000 pictures of one empty doorway there are a billion pairs, and this compares each
    picture with those kept only. `known` holds the keepers afterwards; begin with an empty one.
    """
    for block in ordered.blocks(_WALK):
        keeper: dict[int, int] = {}  # row of the block -> row of known: the earliest kept
        for query, row in known.near(block):
            keeper[query] = min(row, keeper.get(query, row))
        yield from ((block.ids[row], known.ids[kept]) for row, kept in keeper.items())
        rest = block.only([row for row in range(len(block)) if row not in keeper])
        gone = keepers(rest.ids, _among(rest, known), {id_: place for place, id_ in enumerate(rest.ids)})
        yield from gone.items()
        known.add(rest.only([row for row, id_ in enumerate(rest.ids) if id_ not in gone]))


def alike(
    thumbs: NDArray[np.uint8], first: NDArray[np.int64], second: NDArray[np.int64], limits: DuplicateLimits
) -> NDArray[np.bool_]:
    """(n, 1024) thumbnails and two times (p,) of their rows -> (p,) whether they agree. The same bytes always do."""
    rough = thumbs.astype(np.float32) - thumbs.mean(1, dtype=np.float32, keepdims=True)
    norms = np.sqrt(np.einsum("ni,ni->n", rough, rough))
    flat = norms < THUMB  # less than one grey level of spread: there is nothing to correlate
    rough /= np.maximum(norms, THUMB)[:, None]
    same = np.zeros(len(first), dtype=bool)
    for at in range(0, len(first), _BLOCK):
        a, b = first[at : at + _BLOCK], second[at : at + _BLOCK]
        worth = np.einsum("pi,pi->p", rough[a], rough[b]) >= limits.correlation - 1e-3  # far beyond float32's error
        worth = np.flatnonzero(worth | (flat[a] & flat[b]))
        same[at + worth] = _agree(thumbs[a[worth]], thumbs[b[worth]], limits)
    return same


def _agree(first: NDArray[np.uint8], second: NDArray[np.uint8], limits: DuplicateLimits) -> NDArray[np.bool_]:
    """(p, 1024) twice -> (p,); exact sums, one rounding each."""
    a, b = _centred(first), _centred(second)
    least = float(THUMB * THUMB) ** 3  # the power of one grey level of spread
    power_a, power_b = np.maximum((a * a).sum(1), least)[:, None], np.maximum((b * b).sum(1), least)[:, None]
    scale = np.sqrt(power_a * power_b)
    correlation = (a * b).sum(1) / scale[:, 0]
    parts = _by_part(a * a) / power_a + _by_part(b * b) / power_b - 2 * _by_part(a * b) / scale
    difference = _PARTS * np.sqrt(np.maximum(parts.max(1), 0))
    agreed: NDArray[np.bool_] = (correlation >= limits.correlation) & (difference <= limits.difference)
    return agreed | (first == second).all(1)


def _among(block: Prints, known: Known) -> Iterator[Edge]:
    """All near duplicates within a block."""
    near = np.bitwise_count(block.hashes[:, None] ^ block.hashes[None]) <= known.limits.distance
    rows, columns = np.nonzero(np.triu(near, 1))
    for at in range(0, len(rows), _BLOCK):
        first = [block.ids[row] for row in rows[at : at + _BLOCK]]
        second = [block.ids[row] for row in columns[at : at + _BLOCK]]
        yield from (_edge(a, b) for a, b, agreed in zip(first, second, known.alike(first, second)) if agreed)


def _edge(first: SampleId, second: SampleId) -> Edge:
    return (first, second) if first < second else (second, first)


def _centred(thumbs: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(p, 1024) -> the same without its mean, times 1024: whole numbers below 2^18, so squares add up exactly."""
    return thumbs.astype(np.float64) * thumbs.shape[1] - thumbs.sum(1, dtype=np.float64, keepdims=True)


def _by_part(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(p, 1024) -> (p, 64): sums over the 8 x 8 parts of the thumbnail."""
    size = THUMB // _PARTS
    parts: NDArray[np.float64] = values.reshape(-1, _PARTS, size, _PARTS, size).sum((2, 4))
    return parts.reshape(len(values), _PARTS**2)


def _frequencies() -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Cosines (11, 32), rounded to whole 1024ths so that the transform is exact, and the 64 lowest (row, column).

    The order is shuffled: each chunk of bits that the index looks up holds frequencies of all heights.
    """
    lowest = sorted(((u, v) for u in range(11) for v in range(11) if u + v), key=lambda uv: (uv[0] + uv[1], uv[0]))[:64]
    shuffled = np.array([lowest[number * 37 % 64] for number in range(64)])
    waves = np.cos(np.pi * np.outer(np.arange(11), 2 * np.arange(THUMB) + 1) / (2 * THUMB))
    return np.round(waves * 1024), shuffled[:, 0], shuffled[:, 1]


_COSINES, _ROWS, _COLUMNS = _frequencies()

"""Which rows a memory holds: by the sample ids that were given, or else by a digest of the row itself.

A row is (phi, label, fold). Equal rows without ids are one entry with a count. A share of the rows, chosen by a hash of
the key and so the same in any order, keeps its phi: for calibration, and for forgetting by id alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.learn.estimators.encode import BadArray
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.threads import over_rows

_SIZE = 16  # bytes of a digest: 2^64 rows before two are likely to share one
_MARK = 32  # bytes of SHA-256
_PER_SLOT = ("labels", "folds", "counts", "contents", "places")
Key = bytes


@dataclass(frozen=True, eq=False)
class Batch:
    """phi: (N, W) int8; labels: N names of columns; folds: (N,); keys: N; by_id: whether the keys are ids."""

    phi: NDArray[np.int8]
    labels: Sequence[str]
    folds: NDArray[np.int64]
    keys: Sequence[Key]
    by_id: bool

    @cached_property
    def contents(self) -> list[bytes]:
        """Digests of the rows: features, label and fold."""
        if not self.by_id:
            return [key[1:] for key in self.keys]
        return [_content(*row) for row in zip(_marks(self.phi), self.labels, self.folds.tolist())]

    def take(self, rows: Sequence[int]) -> Batch:
        if len(rows) == len(self.keys):
            return self
        at = np.array(rows, np.intp)
        return Batch(self.phi[at], [self.labels[r] for r in rows], self.folds[at], [self.keys[r] for r in rows],
                     self.by_id)  # fmt: skip


def fold_of(content: bytes, folds: int) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, person=b"fold").digest(), "little") % folds


def _marks(phi: NDArray[np.int8]) -> list[bytes]:
    """SHA-256 of each row, side by side."""
    width = phi.shape[1]
    data = np.ascontiguousarray(phi).reshape(-1).view(np.uint8).data

    def some(part: slice) -> list[bytes]:
        starts = range(part.start * width, part.stop * width, width)
        return [hashlib.sha256(data[start : start + width]).digest() for start in starts]

    return list(chain.from_iterable(over_rows(some, len(phi))))


def _content(mark: bytes, label: str, fold: int) -> bytes:
    return hashlib.sha256(mark + f"{fold}|{label}".encode("utf-8", "surrogatepass")).digest()[:_SIZE]


def batch(
    phi: NDArray[np.int8], labels: Sequence[str], folds: int, ids: Sequence[str] | None, groups: Sequence[str] | None,
    features: int,
) -> Batch:  # fmt: skip
    """The fold of a row: by its group, else its id, else its first `features` columns (whatever its label)."""
    texts = groups if groups is not None else ids
    marks = _marks(phi[:, :features]) if texts is None else None
    if marks is None:
        where = np.array([fold_of(text.encode("utf-8", "surrogatepass"), folds) for text in texts or ()], np.int64)
    else:
        where = (np.frombuffer(b"".join(marks), "<u8")[:: _MARK // 8] % folds).astype(np.int64)
    if ids is not None:
        keys = [_id_key(id) for id in ids]
    else:
        marks = marks if marks is not None and features == phi.shape[1] else _marks(phi)
        keys = [b"r" + _content(*row) for row in zip(marks, labels, where.tolist())]
    return Batch(phi, list(labels), where, keys, ids is not None)


def _id_key(id: str) -> Key:
    return b"i" + id.encode("utf-8", "surrogatepass")


class Held:
    """Rows by key. width: of phi; keep: share of the rows whose phi is kept, 0 to 1."""

    def __init__(self, width: int, keep: float) -> None:
        self.keep = keep
        self.slots: dict[Key, int] = {}
        self.keys: list[Key] = []
        self.names: list[str] = []  # of columns, as first seen; the arrays hold their index
        self._code: dict[str, int] = {}
        self.labels = np.zeros(0, np.int32)
        self.folds = np.zeros(0, np.int32)
        self.counts = np.zeros(0, np.int32)
        self.contents = np.zeros((0, _SIZE), np.uint8)
        self.places = np.zeros(0, np.int32)  # of a slot's phi, -1 where it is not kept
        self.phi = np.zeros((0, width), np.int8)
        self.owners: list[int] = []  # the slot of each place

    def __len__(self) -> int:
        return len(self.keys)

    def new(self, rows: Batch) -> Batch:
        """The rows that are not held yet. A row learned again with its id is one row.

        Raises BadArray where an id is held, or given twice, with other features, label or fold.
        """
        if not rows.by_id:
            return rows
        fresh, seen = [], dict[Key, bytes]()
        for row, key in enumerate(rows.keys):
            content = rows.contents[row]
            known = seen.get(key) or (self.contents[self.slots[key]].tobytes() if key in self.slots else None)
            if known is None:
                seen[key] = content
                fresh.append(row)
            elif known != content:
                raise BadArray(f"row {row}: id {shown(key)} is held with other content.", "Forget it first.")
        return rows.take(fresh)

    def add(self, rows: Batch) -> None:
        """Rows from `new`."""
        n = len(rows.keys)
        places = np.where(self._drawn(rows.keys), np.arange(n), -1)
        contents = np.frombuffer(b"".join(rows.contents), np.uint8).reshape(n, _SIZE)
        self._enter(rows.keys, rows.labels, rows.folds, np.ones(n, np.int32), contents, places, rows.phi)

    def _enter(
        self, keys: Sequence[Key], labels: Sequence[str], folds: NDArray[Any], counts: NDArray[Any],
        contents: NDArray[np.uint8], places: NDArray[Any], phi: NDArray[np.int8],
    ) -> None:  # fmt: skip
        """counts: how often each comes; places: of each one's features in phi, -1 where they are not to be kept."""
        first, owned = len(self.keys), len(self.owners)
        self._grow(first + len(keys), owned + int((places >= 0).sum()))
        fresh, again, twins = list[int](), list[int](), list[int]()
        for row, key in enumerate(keys):
            slot = self.slots.setdefault(key, first + len(fresh))
            if slot == first + len(fresh):
                fresh.append(row)
            else:
                again.append(row)
                twins.append(slot)
        new, at = slice(first, first + len(fresh)), np.array(fresh, np.intp)
        self.keys += [keys[row] for row in fresh]
        self.labels[new] = [self.code(labels[row]) for row in fresh]
        self.folds[new], self.counts[new], self.contents[new] = folds[at], counts[at], contents[at]
        np.add.at(self.counts, twins, counts[again])
        slots = first + np.flatnonzero(places[at] >= 0)
        self.places[new] = -1
        self.places[slots] = np.arange(owned, owned + len(slots))
        self.phi[owned : owned + len(slots)] = phi[places[at[slots - first]]]
        self.owners += slots.tolist()

    def _grow(self, rows: int, kept: int) -> None:
        for name in _PER_SLOT:
            setattr(self, name, _grown(getattr(self, name), rows))
        if kept > len(self.phi):
            if not self.phi.flags.owndata:
                self.phi = self.phi.copy()
            # In place, since nobody holds a view of it: the pages move, and are not touched twice.
            self.phi.resize((max(kept, 2 * len(self.phi)), self.phi.shape[1]), refcheck=False)

    def check(self, rows: Batch) -> None:
        """Raises BadArray naming the first row that is not held (so often)."""
        wanted: Counter[Key] = Counter()
        for row, key in enumerate(rows.keys):
            wanted[key] += 1
            slot = self.slots.get(key)
            if slot is None or wanted[key] > self.counts[slot]:
                what = f"id {shown(key)}" if rows.by_id else "this row with this label"
                remedy = "Give only rows that were learned, and the ids or groups they were learned with."
                raise BadArray(f"row {row}: {what} is not held.", remedy)
            if rows.by_id and self.contents[slot].tobytes() != rows.contents[row]:
                raise BadArray(f"row {row}: id {shown(key)} is held with other content.", "Give the row as learned.")

    def is_same(self, rows: Batch, row: int, label: str | None = None) -> bool:
        """Whether what is held by this row's id has its features, its fold and its label, or the one given."""
        known = self.contents[self.slots[rows.keys[row]]].tobytes()
        label = rows.labels[row] if label is None else label
        (mark,) = _marks(rows.phi[row : row + 1])
        return known == _content(mark, label, int(rows.folds[row]))

    def has(self, id: str) -> bool:
        return _id_key(id) in self.slots

    def times(self, key: Key) -> int:
        """How often a row is held."""
        return int(self.counts[self.slots[key]]) if key in self.slots else 0

    def label(self, key: Key) -> str:
        return self.names[self.labels[self.slots[key]]]

    def find(self, ids: Sequence[str]) -> Batch:
        """The rows of these ids. Raises BadArray naming the first that is not held or whose phi was not kept."""
        keys = [_id_key(id) for id in ids]
        slots, seen = [], set[Key]()
        for row, key in enumerate(keys):
            slot = self.slots.get(key)
            if slot is None or key in seen:
                raise BadArray(f"row {row}: id {shown(key)} is not held.", "Give each id that was learned once.")
            if self.places[slot] < 0:
                remedy = "Give its X and y too, or learn with keep=1."
                raise BadArray(f"row {row}: the features of id {shown(key)} are not kept.", remedy)
            slots.append(slot)
            seen.add(key)
        at = np.array(slots, np.intp)
        names = [self.names[code] for code in self.labels[at]]
        return Batch(self.phi[self.places[at]], names, self.folds[at].astype(np.int64), keys, True)

    def remove(self, keys: Iterable[Key]) -> None:
        """Keys that `check` let pass."""
        for key in keys:
            slot = self.slots[key]
            self.counts[slot] -= 1
            if self.counts[slot] == 0:
                self._drop(key, slot)
        for code in np.flatnonzero(np.bincount(self.labels[: len(self.keys)], minlength=len(self.names)) == 0):
            self._code.pop(self.names[code], None)
            self.names[code] = ""  # nor does the name of a class

    def _drop(self, key: Key, slot: int) -> None:
        """The last slot, and the last place, move into the gap."""
        del self.slots[key]
        place = int(self.places[slot])
        if place >= 0:
            owner = self.owners.pop()
            if owner != slot:
                self.phi[place] = self.phi[len(self.owners)]
                self.owners[place], self.places[owner] = owner, place
            self.phi[len(self.owners)] = 0  # nothing forgotten stays behind
        last = len(self.keys) - 1
        moved = self.keys.pop()
        if slot != last:
            self.keys[slot] = moved
            self.slots[moved] = slot
            for name in _PER_SLOT:
                array = getattr(self, name)
                array[slot] = array[last]
            if self.places[slot] >= 0:
                self.owners[self.places[slot]] = slot
        self.contents[last] = 0

    def overlap(self, other: Held) -> Key | None:
        """An id that both hold."""
        small, large = sorted((self, other), key=len)
        return next((key for key in small.keys if key[:1] == b"i" and key in large.slots), None)

    def merge(self, other: Held) -> None:
        n = len(other)
        names = [other.names[code] for code in other.labels[:n]]
        self._enter(other.keys, names, other.folds[:n], other.counts[:n], other.contents[:n], other.places[:n],
                    other.phi)  # fmt: skip

    def cached(self) -> Cached:
        """The rows whose phi is kept, each as often as it was learned."""
        at = np.array(self.owners, np.intp)
        at = np.repeat(at, self.counts[at])
        keys = [self.keys[slot].decode("latin-1") for slot in at]
        if len(self.owners) < len(at):
            seen: Counter[str] = Counter()
            for row, key in enumerate(keys):
                keys[row] = f"{key}#{seen[key]}"
                seen[key] += 1
        labels = [self.names[code] for code in self.labels[at]]
        return Cached(keys, self.phi[self.places[at]], labels, self.folds[at])

    def code(self, label: str) -> int:
        if label not in self._code:
            self._code[label] = len(self.names)
            self.names.append(label)
        return self._code[label]

    def _drawn(self, keys: Sequence[Key]) -> NDArray[np.bool_]:
        """Of which keys the phi is kept."""
        if not 0 < self.keep < 1:
            return np.full(len(keys), self.keep >= 1)
        drawn = (hashlib.blake2b(key, digest_size=8, person=b"keep").digest() for key in keys)
        return np.array([int.from_bytes(one, "little") < self.keep * 2**64 for one in drawn], np.bool_)


def shown(key: Key) -> str:
    """An id as it was given."""
    return repr(key[1:].decode("utf-8", "replace"))


def _grown(array: NDArray[Any], size: int) -> NDArray[Any]:
    """The array with room for `size` rows, twice as large where it was too small."""
    if size <= len(array):
        return array
    found = np.zeros((max(size, 2 * len(array)), *array.shape[1:]), array.dtype)
    found[: len(array)] = array
    return found

"""The quantised features of samples, computed once: each image is decoded and sent through the backbone a single time.

They lie in a SQLite file of their own for each basis, below the workspace's private folder. It is a cache: what is
missing or damaged is computed again from the images. A forgotten sample's row is overwritten with zeros, not just
unlinked.
"""

from __future__ import annotations

import hashlib
import io
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from everlearn import faults, image
from everlearn.catalog import samples
from everlearn.errors import BadInput, Corrupt, Missing
from everlearn.workspace import PRIVATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.types import Image, Progress, SampleId
    from everlearn.workspace import Workspace

BATCH = 256
_THREADS = 4


class Basis(Protocol):
    """The fixed map from an image to int8 features; `model.basis.Basis` is one."""

    spec: str
    digest: str
    dimensions: int
    licence: str

    def prepare(self, images: Sequence[Image]) -> NDArray[Any]: ...
    def phi(self, images: Sequence[Image]) -> NDArray[np.int8]: ...


class Features:
    """phi of a workspace's samples, by id."""

    def __init__(self, workspace: Workspace, basis: Basis) -> None:
        self.workspace = workspace
        self.basis = basis
        self.path = workspace.private(f"features-{basis.digest[:16]}.db")
        with closing(self._open()) as file:
            _prepare(file)

    def batches(
        self, ids: Sequence[SampleId], progress: Progress, *, size: int = BATCH
    ) -> Iterator[tuple[Sequence[SampleId], NDArray[np.int8]]]:
        """(ids, phi (n, dimensions)) in the order given, a batch at a time. Raises Missing where an image is gone."""
        with progress.task("features", len(ids)) as task, closing(self._open()) as file:
            for start in range(0, len(ids), size):
                part = ids[start : start + size]
                there = self._cached(file, part)
                wanted = [id for id in part if id not in there]
                for first in range(0, len(wanted), BATCH):  # a kill costs no more than these
                    there.update(self._compute(file, wanted[first : first + BATCH]))
                yield part, np.stack([there[id] for id in part])
                task.advance(len(part))

    def all(self, ids: Sequence[SampleId], progress: Progress) -> NDArray[np.int8]:
        """phi of all these samples: (N, dimensions), in memory."""
        if not ids:
            return np.zeros((0, self.basis.dimensions), np.int8)
        return np.concatenate([phi for _, phi in self.batches(ids, progress)])

    def recomputed(self, ids: Sequence[SampleId], progress: Progress) -> int:
        """Compute the features of these samples again; returns how many of the cached ones differ."""
        wrong = 0
        for part, phi in self.batches(ids, progress):
            fresh = self.basis.phi(self._images(part))
            wrong += int((fresh != phi).any(axis=1).sum())
        return wrong

    def damaged(self) -> int:
        """How many rows of the cache are not what was written. They are not used: what they were is computed again."""
        with closing(self._open()) as file:
            return sum(mark != _mark(id, value) for id, value, mark in file.execute("SELECT id, value, mark FROM phi"))

    def forget(self, ids: Collection[SampleId]) -> None:
        """Take samples out of the cache, of this basis and of every other."""
        for path in sorted((self.workspace.root / PRIVATE).glob("features-*.db")):
            with closing(_connect(str(path))) as file, file:
                file.executemany("DELETE FROM phi WHERE id = ?", [(id,) for id in ids])
            with closing(_connect(str(path))) as file:
                file.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _images(self, ids: Sequence[SampleId]) -> list[Image]:
        return images(self.workspace, ids, lambda one: self.basis.prepare([one])[0])

    def _compute(self, file: sqlite3.Connection, ids: Sequence[SampleId]) -> dict[SampleId, NDArray[np.int8]]:
        phi = self.basis.phi(self._images(ids))
        faults.point("features.computed")
        with file:
            rows = [(id, value.tobytes(), _mark(id, value.tobytes())) for id, value in zip(ids, phi, strict=True)]
            file.executemany("INSERT OR REPLACE INTO phi VALUES (?, ?, ?)", rows)
        faults.point("features.kept")
        return dict(zip(ids, phi, strict=True))

    def _cached(self, file: sqlite3.Connection, ids: Sequence[SampleId]) -> dict[SampleId, NDArray[np.int8]]:
        marks = ",".join("?" * len(ids))
        found = {}
        query = f"SELECT id, value, mark FROM phi WHERE id IN ({marks})"  # noqa: S608
        for id, value, mark in file.execute(query, ids):
            if len(value) == self.basis.dimensions and mark == _mark(id, value):
                found[id] = np.frombuffer(value, np.int8)
        return found

    def _open(self) -> sqlite3.Connection:
        try:
            return _connect(str(self.path))
        except sqlite3.DatabaseError:
            with suppress(OSError):
                self.path.unlink()  # a damaged cache is no loss
            return _connect(str(self.path))


def _connect(path: str) -> sqlite3.Connection:
    file = sqlite3.connect(path, timeout=60)
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON"):
        file.execute(f"PRAGMA {pragma}")
    return file


def _prepare(file: sqlite3.Connection) -> None:
    columns = {row[1] for row in file.execute("PRAGMA table_info(phi)")}
    if columns and "mark" not in columns:
        file.execute("DROP TABLE phi")  # a cache of before rows had a mark
    table = "phi (id TEXT PRIMARY KEY, value BLOB NOT NULL, mark BLOB NOT NULL)"
    file.execute(f"CREATE TABLE IF NOT EXISTS {table} WITHOUT ROWID")


def _mark(id: SampleId, value: bytes) -> bytes:
    """Tells whether a row is still what was written."""
    return hashlib.blake2b(value, digest_size=8, key=id.encode()[:64]).digest()


def images(
    workspace: Workspace, ids: Sequence[SampleId], shrink: Callable[[Image], Image] | None = None
) -> list[Image]:
    """Decoded pixels of samples, in the order given; for rows the feature vector instead. Raises Missing, Corrupt.

    shrink: what is kept of each image. A camera's photo takes 36 MB, so hundreds of them are not held as they are.
    """
    with workspace.catalog.read() as tx:
        rows = samples.some(tx, ids)
    if len(rows) < len(set(ids)):
        raise Missing("A sample is no longer in the catalog.", "Run again; if it stays: everlearn doctor")

    def load(id: SampleId) -> Image:
        one = rows[id]
        with workspace.store.open(one.key) as file:
            data = file.read()
        try:
            if one.kind == "row":
                return np.load(io.BytesIO(data), allow_pickle=False)  # type: ignore[no-any-return]
            pixels = image.decode(data, max_pixels=int(workspace.config.collect.max_megapixels * 1e6)).pixels
        except (BadInput, ValueError, EOFError) as error:
            raise Corrupt(f"The file of sample {id} has changed: {error}", "See: everlearn doctor --deep") from None
        return pixels if shrink is None else shrink(pixels)

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(load, ids))

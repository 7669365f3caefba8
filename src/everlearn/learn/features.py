"""The quantised features of samples, computed once: each image is decoded and sent through the backbone a single time.

They lie in a SQLite file of their own for each basis, below the workspace's private folder. It is a cache: what is
missing or damaged is computed again from the images. A forgotten sample's row is overwritten with zeros, not just
unlinked.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from everlearn import engine, faults
from everlearn.catalog import crops, samples
from everlearn.errors import Corrupt, Missing, StoreFault
from everlearn.learn.extract import Basis as Basis
from everlearn.learn.extract import Extract, File, Kept, Labelled, read, together
from everlearn.workspace import PRIVATE

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from everlearn.engine import Engine
    from everlearn.learn.exact.memory import ExactMemory
    from everlearn.types import Image, Progress, SampleId
    from everlearn.workspace import Workspace

BATCH = 256
"""Images computed here before their features are kept."""

SENT = (64, 4096)
"""Fewest and most images of a part that is sent elsewhere: seconds of work, and no more is lost with a worker."""

WORTH_SUMS = 2048
"""For fewer new images, adding their rows here is less work than fetching sums."""


PATIENCE = 60.0
"""Seconds to wait for another process that writes."""


class Features:
    """phi of a workspace's samples, or of crops of them, by id."""

    def __init__(self, workspace: Workspace, basis: Basis) -> None:
        self.workspace = workspace
        self.basis = basis
        self._extract = Extract(basis, workspace.store, _most_pixels(workspace))
        self.path = workspace.private(f"features-{basis.digest[:16]}.db")
        with closing(self._open()) as file:
            _prepare(file)

    def batches(
        self, ids: Sequence[SampleId], progress: Progress, *, size: int = BATCH
    ) -> Iterator[tuple[Sequence[SampleId], NDArray[np.int8]]]:
        """(ids, phi (n, dimensions)) in the order given, a batch at a time. Raises Missing where an image is gone."""
        self._fill(ids, progress)
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
        runs = self._engine
        with progress.task("features again", len(ids)) as task, closing(self._open()) as file:
            for part, fresh in runs.map(self._extract, self._parts(ids, runs)):
                there = self._cached(file, [one.id for one in part])
                wrong += sum(one.id in there and bool((there[one.id] != row).any()) for one, row in zip(part, fresh))
                task.advance(len(part))
        return wrong

    def learned(
        self, held: Mapping[SampleId, tuple[str, int]], empty: ExactMemory, progress: Progress
    ) -> tuple[ExactMemory, set[SampleId]] | None:
        """The sums over those of these samples (id to label and fold) whose features are not cached yet, and which they
        are; their features are cached now. None where the engine has nothing to gain from it."""
        runs = self._engine
        if not runs.elsewhere or len(wanted := self._missing(sorted(held))) < WORTH_SUMS:
            return None
        with progress.task("sums", len(wanted)) as task, closing(self._open()) as file:

            def take(part: list[Labelled], phi: NDArray[np.int8]) -> None:
                self._keep(file, [one.file.id for one in part], phi)
                task.advance(len(part))

            parts = ([Labelled(one, *held[one.id]) for one in part] for part in self._parts(wanted, runs))
            found = runs.sum(Kept(self._extract, empty), parts, together, take)
        return None if found is None else (found, set(wanted))

    def damaged(self) -> int:
        """How many rows of the cache are not what was written. They are not used: what they were is computed again."""
        with closing(self._open()) as file:
            return sum(mark != _mark(id, value) for id, value, mark in file.execute("SELECT id, value, mark FROM phi"))

    def forget(self, ids: Collection[SampleId]) -> None:
        """Take samples and their crops out of the cache, of this basis and of every other; a cache that cannot be read
        goes whole.

        Raises StoreFault where another process holds on to one.
        """
        for path in sorted((self.workspace.root / PRIVATE).glob("features-*.db")):
            try:
                with closing(connect(str(path))) as file:
                    with file:
                        _prepare(file)
                        file.executemany("DELETE FROM phi WHERE id = ?", [(id,) for id in ids])
                        spans = [(id + crops.MARK, id + chr(ord(crops.MARK) + 1)) for id in ids]
                        file.executemany("DELETE FROM phi WHERE id >= ? AND id < ?", spans)
                    empty_log(file, path)
            except sqlite3.DatabaseError as error:
                remove_damaged(path, error)

    @property
    def _engine(self) -> Engine:
        return engine.opened(self.workspace.config.engine)

    def _fill(self, ids: Sequence[SampleId], progress: Progress) -> None:
        """Where the engine works elsewhere, it is given all that is missing at once."""
        runs = self._engine
        if not runs.elsewhere or not (wanted := self._missing(ids)):
            return
        with progress.task("features", len(wanted)) as task, closing(self._open()) as file:
            for part, phi in runs.map(self._extract, self._parts(wanted, runs)):
                self._keep(file, [one.id for one in part], phi)
                task.advance(len(part))

    def _missing(self, ids: Sequence[SampleId]) -> list[SampleId]:
        with closing(self._open()) as file:
            parts = (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))
            return [id for part in parts for there in [self._cached(file, part)] for id in part if id not in there]

    def _parts(self, ids: Sequence[SampleId], runs: Engine) -> Iterator[list[File]]:
        """The files of samples, as many at a time as keep all workers busy to the end."""
        fewest, most = SENT if runs.elsewhere else (BATCH, BATCH)
        size = min(most, max(fewest, -(-len(ids) // (4 * runs.workers))))
        for start in range(0, len(ids), size):
            yield _files(self.workspace, ids[start : start + size])

    def _compute(self, file: sqlite3.Connection, ids: Sequence[SampleId]) -> dict[SampleId, NDArray[np.int8]]:
        phi = self._extract(_files(self.workspace, ids))
        self._keep(file, ids, phi)
        return dict(zip(ids, phi, strict=True))

    def _keep(self, file: sqlite3.Connection, ids: Sequence[SampleId], phi: NDArray[np.int8]) -> None:
        faults.point("features.computed")
        with file:
            rows = [(id, value.tobytes(), _mark(id, value.tobytes())) for id, value in zip(ids, phi, strict=True)]
            file.executemany("INSERT OR REPLACE INTO phi VALUES (?, ?, ?)", rows)
        faults.point("features.kept")

    def _cached(self, file: sqlite3.Connection, ids: Sequence[SampleId]) -> dict[SampleId, NDArray[np.int8]]:
        marks = ",".join("?" * len(ids))
        found = {}
        query = f"SELECT id, value, mark FROM phi WHERE id IN ({marks})"  # noqa: S608
        try:
            for id, value, mark in file.execute(query, ids):
                if len(value) == self.basis.dimensions and mark == _mark(id, value):
                    found[id] = np.frombuffer(value, np.int8)
        except sqlite3.DatabaseError as error:  # damaged inside, which shows only where it is read
            remove_damaged(self.path, error)
            with closing(self._open()) as fresh:
                _prepare(fresh)
            raise Corrupt(
                f"{self.path} was damaged and has been removed.", "Run again: it is computed again."
            ) from None
        return found

    def _open(self) -> sqlite3.Connection:
        try:
            return connect(str(self.path))
        except sqlite3.DatabaseError as error:
            remove_damaged(self.path, error)
            return connect(str(self.path))


def empty_log(file: sqlite3.Connection, path: Path) -> None:
    """What was removed stands in the write-ahead log no longer. Raises StoreFault where another process holds on to
    it."""
    (busy, *_) = file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise StoreFault(f"{path} is in use by another process.", "Wait until it ends, then run again.")


def remove_damaged(path: Path, error: sqlite3.DatabaseError) -> None:
    """A damaged cache is no loss. Raises StoreFault where it is in use, or the disk refuses, and so not damaged."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        raise StoreFault(f"{path} cannot be used: {error}.", "Wait until no other process uses it; free the disk.")
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)


def connect(path: str) -> sqlite3.Connection:
    """A cache that is written by several processes, and keeps nothing of what is deleted."""
    file = sqlite3.connect(path, timeout=PATIENCE)
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

    shrink: what is kept of each image.
    """
    return read(workspace.store, _files(workspace, ids), _most_pixels(workspace), shrink)


def _files(workspace: Workspace, ids: Sequence[SampleId]) -> list[File]:
    """Where the images of samples and crops lie now, in the order given. Raises Missing."""
    of = [crops.sample_of(id) for id in ids]
    with workspace.catalog.read() as tx:
        rows = samples.some(tx, of)
    if len(rows) < len(set(of)):
        raise Missing("A sample is no longer in the catalog.", "Run again; if it stays: everlearn doctor")
    return [File(id, rows[whose].key, rows[whose].kind == "row", crops.box_of(id)) for id, whose in zip(ids, of)]


def _most_pixels(workspace: Workspace) -> int:
    return int(workspace.config.collect.max_megapixels * 1e6)

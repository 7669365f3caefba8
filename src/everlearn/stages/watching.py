"""When the wheel should turn by itself, and which files are whole enough to be taken in then."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from everlearn.catalog import samples
from everlearn.catalog.samples import Place
from everlearn.catalog.tables import sighting
from everlearn.collect.files import VIDEO_ENDINGS, Entry, ending, walk
from everlearn.stages import data, use

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from everlearn.types import Found
    from everlearn.workspace import Workspace

File = tuple[str, int, float]
"""(path, bytes, seconds since 1970): another size or time is another file."""
BATCH = 500
ANNOTATIONS = frozenset({"csv", "txt", "xml", "json", "yaml", "yml"})
"""Files that say something of images. What they said when the watch began is no news; what they say later is."""
MANY_IN_ONE = VIDEO_ENDINGS | {"csv", "parquet"}
"""Files that hold many samples, each seen at `path#…`."""


class Watcher:
    """Looks at `collect.sources` again and again. A file that is new, or has changed, counts once it was the same at
    two looks: one that is still being written is left alone. What a turn was offered and did not want is no news."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._turned_at = time.monotonic()
        self._first = True
        self._settled: set[File] = set()
        self._young: set[File] = set()
        self._offered: set[File] = set()

    def reason(self) -> str | None:
        """Why the wheel should turn now, or None."""
        settings = self.workspace.config.watch
        self._look()
        with self.workspace.catalog.read() as tx:
            new = len(self._settled) + samples.counts(tx)["new"]
        if new >= settings.min_new:
            return f"{new} new file{'s' if new > 1 else ''}"
        if settings.every_minutes is not None and time.monotonic() - self._turned_at >= settings.every_minutes * 60:
            return f"{settings.every_minutes:g} minutes have passed"
        return use.drifted(self.workspace) if settings.drift else None

    def ready(self, offered: Sequence[Found]) -> list[Found]:
        """Those of a source's things that are known, or were whole at the last two looks."""
        with self.workspace.catalog.read() as tx:
            known = samples.seen(tx, [Place(one.uri, one.size, one.modified, one.etag) for one in offered])
        settled = self._settled | self._offered
        return [one for one in offered if one.uri in known or not settled.isdisjoint(_files_of(one))]

    def turned(self) -> None:
        """A turn was made."""
        self._turned_at = time.monotonic()
        self._offered |= set(self._unknown(self._settled))
        self._settled = set()

    def _look(self) -> None:
        unknown = set(self._unknown(file for file in self._files() if file not in self._offered))
        if self._first:
            self._offered |= {file for file in unknown if ending(file[0]) in ANNOTATIONS}
            self._first = False
        self._settled, self._young = unknown & self._young, unknown - self._offered

    def _files(self) -> Iterator[File]:
        for source in data.own_sources(self.workspace):
            path = Path(source)
            if path.is_dir():
                for entry in walk(source, (str(self.workspace.root),)):
                    if isinstance(entry, Entry):
                        yield entry.path, entry.size, entry.modified
            elif path.is_file():
                status = path.stat()
                yield source, status.st_size, status.st_mtime

    def _unknown(self, files: Iterable[File]) -> Iterator[File]:
        stream = iter(files)
        while batch := list(islice(stream, BATCH)):
            with self.workspace.catalog.read() as tx:
                known = samples.seen(tx, [Place(*file) for file in batch])
                yield from (file for file in batch if file[0] not in known and not _holds_known(tx, file))


def _files_of(one: Found) -> tuple[File, File]:
    """The file of a thing, or where it is a part of one (`door.mp4#t=1.0`), of the whole."""
    return (one.uri, one.size, one.modified), (one.uri.rpartition("#")[0], one.size, one.modified)


def _holds_known(tx: Connection, file: File) -> bool:
    """Whether samples were taken from this very file, which holds many."""
    path, size, modified = file
    if ending(path) not in MANY_IN_ONE:
        return False
    part = sighting.c.uri.startswith(f"{path}#", autoescape=True)
    query = sa.select(sighting.c.uri).where(part, sighting.c.size == size, sighting.c.modified == modified).limit(1)
    return tx.execute(query).first() is not None

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
from everlearn.collect.bucket import BucketSource
from everlearn.collect.files import VIDEO_ENDINGS, Entry, ending, walk
from everlearn.collect.options import SourceOptions
from everlearn.s3 import OutOfReach
from everlearn.stages import data, use
from everlearn.types import Found

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from everlearn.workspace import Workspace

File = Place
"""Of another size, time or ETag it is another file."""
BATCH = 500
MOST_NEW = 10_000
"""New objects of a bucket that are counted before a turn; there may be more, and the turn takes them all."""
REST = 20.0
"""A bucket is listed again after so many times the time that listing it took: each listing costs requests."""
ANNOTATIONS = frozenset({"csv", "txt", "xml", "json", "yaml", "yml"})
"""Files that say something of images. What they said when the watch began is no news; what they say later is."""
MANY_IN_ONE = VIDEO_ENDINGS | {"csv", "parquet"}
"""Files that hold many samples, each seen at `path#…`."""


class Watcher:
    """Looks at `collect.sources` again and again. A file that is new, or has changed, counts once it was the same at
    two looks: one that is still being written is left alone. An object of a bucket is whole when it is listed. What a
    turn was offered and did not want is no news."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._turned_at = time.monotonic()
        self._first = True
        self._settled: set[File] = set()
        self._young: set[File] = set()
        self._offered: set[File] = set()
        self._listed: dict[str, tuple[float, set[File]]] = {}
        self._away: set[str] = set()

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
            known = samples.seen(tx, [_place(one) for one in offered])
        settled = self._settled | self._offered
        return [
            one for one in offered
            if one.uri in known or _in_bucket(one.uri) or not settled.isdisjoint(_files_of(one))
        ]  # fmt: skip

    def turned(self) -> None:
        """A turn was made."""
        self._turned_at = time.monotonic()
        self._offered |= set(self._unknown(self._settled))
        self._settled = set()
        self._listed = {}

    def _look(self) -> None:
        unknown = set(self._unknown(file for file in self._files() if file not in self._offered))
        if self._first:
            self._offered |= {file for file in unknown if ending(file[0]) in ANNOTATIONS}
            self._first = False
        self._settled, self._young = unknown & self._young, unknown - self._offered
        for source in filter(_in_bucket, data.own_sources(self.workspace)):
            self._settled |= self._objects(source) - self._offered

    def _objects(self, source: str) -> set[File]:
        """New objects of a bucket, at most `MOST_NEW`. One that is out of reach is told of once, and stops nothing."""
        began = time.monotonic()
        due, found = self._listed.get(source, (0.0, set()))
        if began < due:
            return found
        try:
            listed = BucketSource(source, SourceOptions())
            objects = (listed.offer(one) for one in listed.pictures())
            places = (_place(one) for one in objects if isinstance(one, Found))
            found = set(islice(self._unknown(one for one in places if one not in self._offered), MOST_NEW))
            self._away.discard(source)
        except OutOfReach as error:
            if source not in self._away:
                self.workspace.say(f"collect.sources: {error.message}")
            self._away.add(source)
        now = time.monotonic()
        self._listed[source] = (now + REST * (now - began), found)
        return found

    def _files(self) -> Iterator[File]:
        for source in data.own_sources(self.workspace):
            path = Path(source)
            if _in_bucket(source):
                continue
            if path.is_dir():
                for entry in walk(source, (str(self.workspace.root),)):
                    if isinstance(entry, Entry):
                        yield Place(entry.path, entry.size, entry.modified)
            elif path.is_file():
                status = path.stat()
                yield Place(source, status.st_size, status.st_mtime)

    def _unknown(self, files: Iterable[File]) -> Iterator[File]:
        stream = iter(files)
        while batch := list(islice(stream, BATCH)):
            with self.workspace.catalog.read() as tx:
                known = samples.seen(tx, batch)
                yield from (file for file in batch if file[0] not in known and not _holds_known(tx, file))


def _files_of(one: Found) -> tuple[File, File]:
    """The file of a thing, or where it is a part of one (`door.mp4#t=1.0`), of the whole."""
    place = _place(one)
    return place, place._replace(uri=one.uri.rpartition("#")[0])


def _place(one: Found) -> Place:
    return Place(one.uri, one.size, one.modified, one.etag)


def _in_bucket(source: str) -> bool:
    return source.lower().startswith("s3://")


def _holds_known(tx: Connection, file: File) -> bool:
    """Whether samples were taken from this very file, which holds many."""
    path, size, modified, _ = file
    if ending(path) not in MANY_IN_ONE:
        return False
    part = sighting.c.uri.startswith(f"{path}#", autoescape=True)
    query = sa.select(sighting.c.uri).where(part, sighting.c.size == size, sighting.c.modified == modified).limit(1)
    return tx.execute(query).first() is not None

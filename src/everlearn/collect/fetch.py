"""Fetching what lies elsewhere: several things at a time, handed on in order, and none of them twice."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from everlearn.errors import StoreFault
from everlearn.types import Found
from everlearn.workspace import SCRATCH

MOST_AHEAD = 64_000_000
"""Bytes fetched, or being fetched, before they are asked for; one thing may be larger."""
FOLDER = f"{SCRATCH}fetched"


def ahead(
    items: Iterable[Found], wanted: Callable[[Found], bool], threads: int
) -> Iterator[tuple[Found, Callable[[], bytes]]]:
    """Each thing in order, with what gives its bytes or raises what reading it raised. What is wanted and lies
    elsewhere (`://`) is fetched by threads, a few things ahead; a file on this machine is read when it is asked for."""
    stream, waiting, held = iter(items), deque[tuple[Found, Callable[[], bytes], int]](), 0
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fetch")
    try:
        more = True
        while more or waiting:
            while more and len(waiting) < 2 * threads and (held <= MOST_AHEAD or not waiting):
                one = next(stream, None)
                if one is None:
                    more = False
                elif "://" in one.uri and wanted(one):
                    waiting.append((one, pool.submit(one.read).result, max(one.size, 0)))
                    held += max(one.size, 0)
                else:
                    waiting.append((one, one.read, 0))
            if waiting:
                one, read, size = waiting.popleft()
                held -= size
                yield one, read
    finally:
        pool.shutdown(cancel_futures=True)


class Spool:
    """What was fetched and is not in the catalog yet: a process that is killed has not fetched it in vain. `doctor`
    and `forget` empty it like every other scratch folder.

    Images are appended to one file, because to make and remove one for each would cost more than to fetch it:
    (digest of what it is, its length, digest of its bytes, its bytes), until the batch is committed.
    """

    HEAD = struct.Struct("<32sQ32s")

    def __init__(self, private: Path) -> None:
        self.folder = private / FOLDER
        self._lock = Lock()
        self._left: dict[bytes, tuple[int, int, bytes]] | None = None

    def get(self, found: Found) -> bytes | None:
        """What a killed process had fetched of it, or None."""
        with self._lock:
            if self._left is None:
                self._left = self._take_over()
            at, size, digest = self._left.pop(_key(found), (0, 0, b""))
        if not size:
            return None
        with self._old.open("rb") as file:
            file.seek(at)
            data = file.read(size)
        return data if hashlib.sha256(data).digest() == digest else None

    def keep(self, found: Found, data: bytes) -> None:
        """It is a help: a disk that has no room for it is told of where the image itself is stored."""
        record = self.HEAD.pack(_key(found), len(data), hashlib.sha256(data).digest()) + data
        with self._lock, suppress(OSError):
            self.folder.mkdir(exist_ok=True)
            with self._new.open("ab", buffering=0) as file:
                file.write(record)

    def committed(self) -> None:
        """What was kept in this process is in the catalog now."""
        with suppress(FileNotFoundError):
            os.truncate(self._new, 0)

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def file(self, found: Found, write: Callable[[BinaryIO], None]) -> Path:
        """A file of its own for what is too large for the memory: written, unless it was before. Raises StoreFault."""
        path = self.folder / _key(found).hex()
        if path.is_file() and path.stat().st_size == found.size:
            return path
        part = path.with_suffix(".part")
        try:
            self.folder.mkdir(exist_ok=True)
            with part.open("w+b") as file:
                write(file)
            return part.replace(path)
        except OSError as error:
            raise StoreFault(f"{part} cannot be written: {error.strerror}.", "Is the disk full?") from error

    @property
    def _new(self) -> Path:
        return self.folder / "kept"

    @property
    def _old(self) -> Path:
        return self.folder / "left"

    def _take_over(self) -> dict[bytes, tuple[int, int, bytes]]:
        """Where in the file `left` the things are that killed processes had kept; one that was cut off is the last."""
        if self._new.is_file() and self._new.stat().st_size:
            with self._old.open("ab") as old, self._new.open("rb") as new:
                shutil.copyfileobj(new, old)
            self.committed()
        found: dict[bytes, tuple[int, int, bytes]] = {}
        with suppress(FileNotFoundError), self._old.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            at = file.seek(0)
            while len(head := file.read(self.HEAD.size)) == self.HEAD.size:
                key, size, digest = self.HEAD.unpack(head)
                at += self.HEAD.size
                if at + size > end:
                    break
                found[key] = (at, size, digest)
                at = file.seek(at + size)
        return found


def _key(found: Found) -> bytes:
    """Of this content: with another ETag, size or time it is another thing."""
    said = "\0".join(map(str, (found.uri, found.size, found.etag or found.modified)))
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest()

"""Fetching what lies elsewhere: several things at a time, handed on in order, and none of them twice."""

from __future__ import annotations

import hashlib
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
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
    and `forget` empty it like every other scratch folder."""

    def __init__(self, private: Path) -> None:
        self.folder = private / FOLDER

    def path(self, found: Found) -> Path:
        """Of this content: another ETag, size or time is another file."""
        said = "\0".join(map(str, (found.uri, found.size, found.etag or found.modified)))
        return self.folder / hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()

    def get(self, found: Found) -> bytes | None:
        try:
            data = self.path(found).read_bytes()
        except OSError:
            return None
        return data if len(data) == found.size else None

    def keep(self, found: Found, data: bytes) -> None:
        """It is a help: a disk that has no room for it is told of where the image itself is stored."""
        path = self.path(found)
        with suppress(OSError):
            self.folder.mkdir(exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(data)
            part.replace(path)

    def file(self, found: Found, write: Callable[[BinaryIO], None]) -> Path:
        """The same for what is too large for the memory: written to a file, unless it was before. Raises StoreFault."""
        path = self.path(found)
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

    def drop(self, found: Found) -> None:
        with suppress(OSError):
            self.path(found).unlink()

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

"""A file of plain arrays behind a JSON header, closed by a checksum; written whole or not at all, read without pickle.

Layout: 8 bytes "EVRLMEM1"; the header's length as little-endian int64; the header (UTF-8 JSON); the arrays' bytes, one
after another, little-endian; 32 bytes SHA-256 of all before. What the arrays are follows from the header.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from everlearn import faults
from everlearn.errors import BadConfig, BadInput, Corrupt, Missing, StoreFault

MAGIC = b"EVRLMEM1"
_CHECKSUM = 32
_KINDS = ("|i1", "<i2", "<i4", "<i8")


def write(path: Path, header: Mapping[str, Any], arrays: Iterable[NDArray[Any]]) -> None:
    """Temporary file beside the target, fsync, rename. Raises StoreFault where the disk refuses."""
    path = Path(path)
    text = json.dumps(header, ensure_ascii=True, sort_keys=True).encode("ascii")
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        ) as file:
            temporary = Path(file.name)
            sha = hashlib.sha256()
            for piece in (MAGIC, len(text).to_bytes(8, "little"), text):
                sha.update(piece)
                file.write(piece)
            for array in arrays:
                data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
                sha.update(data)
                file.write(data)
            file.write(sha.digest())
            file.flush()
            os.fsync(file.fileno())
        faults.point("memory.written")
        temporary.replace(path)
        faults.point("memory.renamed")
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise StoreFault(f"{path} cannot be written: {error.strerror or error}.", "Free the disk.") from None


class Reader:
    """An open file: its header, and its arrays in order."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path, self._file, self._sha = path, file, hashlib.sha256()
        self._left = size - _CHECKSUM
        if self._left < len(MAGIC) + 8 or self._take(len(MAGIC)) != MAGIC:
            raise self.corrupt()
        length = int.from_bytes(self._take(8), "little")
        self.header: dict[str, Any] = json.loads(self._take(length))

    def corrupt(self) -> Corrupt:
        return Corrupt(f"{self._path} is damaged.", "Run `everlearn doctor`.")

    def array(self, kind: str, count: int) -> NDArray[Any]:
        """The next `count` integers of type `kind` (`<i4`), read-only."""
        if kind not in _KINDS or count < 0:
            raise self.corrupt()
        return np.frombuffer(self._take(count * np.dtype(kind).itemsize), kind)

    def close(self) -> None:
        """All must be read, and be what was written."""
        if self._left or self._file.read() != self._sha.digest():
            raise self.corrupt()

    def _take(self, size: int) -> bytes:
        if size > self._left:  # checked before anything is allocated
            raise self.corrupt()
        data = self._file.read(size)
        if len(data) != size:
            raise self.corrupt()
        self._left -= size
        self._sha.update(data)
        return data


@contextmanager
def read(path: Path) -> Iterator[Reader]:
    """Raises Missing where there is no file; Corrupt, at the latest on leaving, where it is not what was written."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            reader = Reader(path, file, os.fstat(file.fileno()).st_size)
            yield reader
            reader.close()
    except FileNotFoundError:
        raise Missing(f"{path} is not there.", "Run `everlearn learn`.") from None
    except OSError as error:
        raise StoreFault(f"{path} cannot be read: {error.strerror or error}.", "Check the disk.") from None
    except (BadInput, BadConfig, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError):
        raise Corrupt(f"{path} is damaged.", "Run `everlearn doctor`.") from None

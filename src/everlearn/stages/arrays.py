"""What networks are trained on, ready to be read by row: images as squares of one size, or a backbone's features.

Each image is decoded, resized or gone through the backbone once; after that an epoch reads bytes from a file that is
mapped into memory, so that data may be larger than it. A cache: it may be deleted, and is made again. Forgotten samples
are overwritten in it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn import faults
from everlearn.errors import StoreFault
from everlearn.learn.features import images
from everlearn.workspace import PRIVATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.types import Image, Progress, SampleId
    from everlearn.workspace import Workspace

FOLDER = "arrays"
BATCH = 256
_GONE = b"-" * 32
_LINE = 33  # an id and a line's end


class Arrays:
    """Rows of one shape, by sample.

    name: says what they are; another name is another file. make: images of any size -> (N, *shape).
    """

    def __init__(
        self, workspace: Workspace, name: str, shape: tuple[int, ...], dtype: Any,
        make: Callable[[Sequence[Image]], NDArray[Any]],
    ) -> None:  # fmt: skip
        self.workspace, self.shape, self.dtype, self._make = workspace, shape, np.dtype(dtype), make
        self._bytes = int(np.prod(shape)) * self.dtype.itemsize
        stem = hashlib.sha256(name.encode()).hexdigest()[:16]
        self.path = workspace.private(f"{FOLDER}/{stem}-{self._bytes}.bin")
        self._ids = self.path.with_suffix(".ids")

    def rows(self, ids: Sequence[SampleId], progress: Progress) -> NDArray[np.int64]:
        """Where these samples stand in `all()`, in the order given; what is missing is made. Raises Missing, Corrupt,
        StoreFault."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        there = self._there()
        missing = [id for id in ids if id not in there]
        if missing:
            try:
                with (
                    progress.task("images", len(missing)) as task,
                    self.path.open("ab") as data,
                    self._ids.open("ab") as names,
                ):
                    for start in range(0, len(missing), BATCH):
                        part = missing[start : start + BATCH]
                        made = np.ascontiguousarray(self._make(images(self.workspace, part)), self.dtype)
                        _append(data, made.tobytes())
                        faults.point("arrays.data")
                        _append(names, b"".join(id.encode() + b"\n" for id in part))
                        task.advance(len(part))
            except OSError as error:
                raise StoreFault(f"{self.path} cannot be written: {error.strerror}.", "Is the disk full?") from None
            there = self._there()
        return np.array([there[id] for id in ids], np.int64)

    def all(self) -> NDArray[Any]:
        """(N, *shape), mapped from disk, read only."""
        count = self.path.stat().st_size // self._bytes if self.path.exists() else 0
        if not count:
            return np.zeros((0, *self.shape), self.dtype)
        return np.memmap(self.path, self.dtype, "r", shape=(count, *self.shape))

    def _there(self) -> dict[SampleId, int]:
        found = _whole(self._ids, self._bytes)
        return {name.decode("ascii", "replace"): row for row, name in enumerate(found) if name != _GONE}


def forget(workspace: Workspace, ids: Collection[SampleId]) -> None:
    """Overwrite these samples in every file. Raises StoreFault."""
    wanted = {id.encode() for id in ids}
    for names in sorted((workspace.root / PRIVATE / FOLDER).glob("*.ids")):
        _overwrite(names, wanted)


def _whole(names: Path, width: int) -> list[bytes]:
    """The id of each row that both files have whole; what a crash left half written is cut off. width: of a row, in
    bytes."""
    data = names.with_suffix(".bin")
    held = names.read_bytes() if names.exists() else b""
    size = data.stat().st_size if data.exists() else 0
    count = min(len(held) // _LINE, size // width)
    for path, length, now in ((names, count * _LINE, len(held)), (data, count * width, size)):
        if now > length:
            os.truncate(path, length)
    return [held[row * _LINE : row * _LINE + 32] for row in range(count)]


def _overwrite(names: Path, wanted: set[bytes]) -> None:
    width = int(names.stem.rpartition("-")[2])
    rows = [row for row, name in enumerate(_whole(names, width)) if name in wanted]
    data = names.with_suffix(".bin")
    if not rows:
        return
    try:
        with data.open("r+b") as file:
            for row in rows:
                file.seek(row * width)
                file.write(bytes(width))
            file.flush()
            os.fsync(file.fileno())
        with names.open("r+b") as file:
            for row in rows:
                file.seek(row * _LINE)
                file.write(_GONE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreFault(f"{data} cannot be changed: {error.strerror}.", "Delete it; it is made again.") from None


def _append(file: Any, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())

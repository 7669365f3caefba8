"""An estimator in one file: a zip archive, not compressed, of the memory's own file and of the rows held. No pickle."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import Corrupt, EverlearnError, Missing, StoreFault
from everlearn.learn.estimators.learned import Learned
from everlearn.learn.exact import storage
from everlearn.learn.exact.memory import ExactMemory

_FORMAT = "everlearn estimator 1"
_MEMORY, _ROWS = "memory", "rows"
_ARRAYS = ("labels", "folds", "counts", "places")


def save(path: Path, name: str, params: Mapping[str, Any], about: Mapping[str, Any], learned: Learned) -> None:
    """Raises StoreFault where the disk refuses."""
    held = learned.held
    n, kept = len(held), len(held.owners)
    codes, labels = np.unique(held.labels[:n], return_inverse=True)  # no name of a class that is forgotten
    header = {
        "format": _FORMAT, "estimator": name, "params": plain(params),
        "about": about, "names": [held.names[code] for code in codes], "rows": n, "kept": kept,
        "keys": sum(map(len, held.keys)),
    }  # fmt: skip

    def arrays() -> Iterator[NDArray[Any]]:
        yield np.array([len(key) for key in held.keys], "<i4")
        yield np.frombuffer(b"".join(held.keys), np.int8)
        yield labels.astype("<i4")
        for part in _ARRAYS[1:]:
            yield getattr(held, part)[:n].astype("<i4")
        yield held.contents[:n].view(np.int8)
        yield held.phi[:kept]

    with packing(path) as folder:
        learned.memory.save(folder / _MEMORY)
        storage.write(folder / _ROWS, header, arrays())


@contextmanager
def packing(path: Path) -> Iterator[Path]:
    """A folder whose files become one archive at `path`, whole or not at all. Raises StoreFault."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            yield Path(folder)
            parts = sorted(Path(folder).iterdir())
            temporary = Path(folder) / ".whole"
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as packed:
                for part in parts:
                    packed.write(part, part.name)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    except OSError as error:
        raise StoreFault(f"{path} cannot be written: {error.strerror or error}.", "Free the disk.") from None


@contextmanager
def unpacking(path: Path, name: str) -> Iterator[Callable[[str], Path]]:
    """What takes one file out of such an archive, of an estimator of this name.

    Raises Missing where there is no archive, Corrupt where anything inside goes wrong with it.
    """
    damaged = _damaged(path, name)
    try:
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as packed:

            def take(part: str) -> Path:
                if packed.getinfo(part).compress_type != zipfile.ZIP_STORED:
                    raise damaged  # never written so: a bomb
                return Path(packed.extract(part, folder))

            yield take
    except FileNotFoundError:
        raise Missing(f"{path} is not there.", "Save an estimator first.") from None
    except (Corrupt, StoreFault, Missing):
        raise damaged from None
    except OSError as error:
        raise StoreFault(f"{path} cannot be read: {error.strerror or error}.", "Check the disk.") from None
    except (ValueError, KeyError, TypeError, IndexError, EOFError, MemoryError, zipfile.BadZipFile, EverlearnError):
        raise damaged from None


def _damaged(path: Path, name: str) -> Corrupt:
    return Corrupt(f"{path} is damaged, or is no {name}.", "Take a copy of it, or learn again.")


@contextmanager
def sound(path: Path, name: str) -> Iterator[None]:
    """Raises Corrupt where what stands in the file is not what an estimator says of itself."""
    try:
        yield
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise _damaged(path, name) from None


def plain(values: Mapping[str, Any]) -> Any:
    """As JSON gives it back: arrays and tuples are lists, NumPy's numbers plain ones."""

    def told(value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic):
            return value.tolist()
        raise TypeError(f"{value!r} cannot be written without pickle")

    return json.loads(json.dumps(dict(values), default=told))


def load(
    path: Path, name: str, make: Callable[[dict[str, Any], int], Learned]
) -> tuple[dict[str, Any], dict[str, Any], Learned]:
    """(settings, what else there is to know, state); make: settings and width -> an empty state.

    Raises Missing where there is no file, Corrupt where it is not what was written.
    """
    with unpacking(path, name) as take:
        memory, _ = ExactMemory.load(take(_MEMORY))
        with storage.read(take(_ROWS)) as file:
            header = file.header
            if header["format"] != _FORMAT or header["estimator"] != name:
                raise file.corrupt()
            learned = make(header["params"], header["about"]["inputs"])
            _fill(learned, file)
        wanted = learned.memory
        same = (memory.basis_digest, memory.dimensions, memory.folds)
        if same != (wanted.basis_digest, wanted.dimensions, wanted.folds):
            raise file.corrupt()
        learned.memory = memory
        if int(learned.held.counts.sum()) != memory.samples:
            raise file.corrupt()
    return header["params"], header["about"], learned


def _fill(learned: Learned, file: storage.Reader) -> None:
    header, held = file.header, learned.held
    n, kept = header["rows"], header["kept"]
    lengths = file.array("<i4", n)
    text = file.array("|i1", header["keys"]).tobytes()
    ends = np.cumsum(lengths)
    if (lengths < 1).any() or (n and ends[-1] != len(text)):
        raise file.corrupt()
    held.keys = [text[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist())]
    held.slots = {key: slot for slot, key in enumerate(held.keys)}
    for part in _ARRAYS:
        setattr(held, part, file.array("<i4", n).astype(np.int32))
    held.contents = file.array("|i1", n * held.contents.shape[1]).reshape(n, -1).view(np.uint8).copy()
    held.phi = file.array("|i1", kept * held.phi.shape[1]).reshape(kept, held.phi.shape[1]).copy()
    for label in header["names"]:
        held.code(str(label))
    slots = np.flatnonzero(held.places >= 0)
    if len(held.slots) != n or not np.array_equal(np.sort(held.places[slots]), np.arange(kept)):
        raise file.corrupt()
    if n and (held.labels.min() < 0 or held.labels.max() >= len(held.names) or held.counts.min() < 1):
        raise file.corrupt()
    held.owners = slots[np.argsort(held.places[slots])].tolist()

"""Tables of features for other programs, written in constant memory, whole or not at all.

`.parquet`: columns id, label, split, camera, time, and `features`, a list of fixed length. `.csv`: the same, with a
column f0, f1, … for each number. `.npy`: the numbers alone, (rows, dimensions), which NumPy can map into memory; what
is said of each row stands in a `.rows.csv` beside it. Pandas, pyarrow, and `everlearn collect` read the first two.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from everlearn.errors import BadInput, StoreFault

if TYPE_CHECKING:
    from numpy.typing import NDArray

GROUP_BYTES = 16 << 20
"""Features of one row group; so much is held."""


class About(NamedTuple):
    """What is said of a row."""

    id: str
    label: str | None = None
    split: str | None = None
    camera: str | None = None
    time: datetime | None = None


class Writer(Protocol):
    def add(self, about: Sequence[About], features: NDArray[Any]) -> None:
        """(n,) rows and their features (n, dimensions)."""
        ...

    def close(self) -> None: ...


@contextmanager
def table(path: Path, dimensions: int, dtype: type[np.generic]) -> Iterator[Writer]:
    """A table to add rows to. It stands under its name when the block ends; where it fails, or is killed, an older file
    of that name is still the whole older one. dtype: float32 or int8. Raises BadInput, StoreFault."""
    if path.suffix not in WRITERS:
        raise BadInput(f"{path} ends in none of {', '.join(WRITERS)}.", "Give a name with one of these endings.")
    if path.is_dir():
        raise BadInput(f"{path} is a folder.", "Name a file.")
    part, beside = path.with_name(f".{path.name}.part"), path.with_suffix(".rows.csv")
    said = path.with_name(f".{beside.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as undo:
            undo.callback(part.unlink, missing_ok=True)
            undo.callback(said.unlink, missing_ok=True)
            writer = WRITERS[path.suffix](part, dimensions, dtype)
            try:
                yield writer
            finally:
                writer.close()
            if said.exists():
                said.replace(beside)
            part.replace(path)
    except OSError as error:
        raise StoreFault(f"{path} cannot be written: {error.strerror or error}.", "Is the disk full?") from None


class Parquet:
    """Row groups of about GROUP_BYTES."""

    def __init__(self, path: Path, dimensions: int, dtype: type[np.generic]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._list = pa.list_(pa.from_numpy_dtype(np.dtype(dtype)), dimensions)
        text = [pa.field(name, pa.string()) for name in About._fields[:-1]]
        self._schema = pa.schema([*text, pa.field("time", pa.timestamp("ms")), pa.field("features", self._list)])
        self._writer = pq.ParquetWriter(path, self._schema, use_dictionary=list(About._fields[1:-1]))
        self._rows = max(1, GROUP_BYTES // (dimensions * np.dtype(dtype).itemsize))
        self._about: list[About] = []
        self._features: list[NDArray[Any]] = []

    def add(self, about: Sequence[About], features: NDArray[Any]) -> None:
        self._about += about
        self._features.append(features)
        if len(self._about) >= self._rows:
            self._write()

    def close(self) -> None:
        self._write()
        self._writer.close()

    def _write(self) -> None:
        import pyarrow as pa

        if not self._about:
            return
        columns: list[Any] = [
            pa.array(values, kind) for values, kind in zip(zip(*self._about), self._schema.types, strict=False)
        ]
        flat = pa.array(np.concatenate(self._features).ravel())
        columns.append(pa.FixedSizeListArray.from_arrays(flat, self._list.list_size))
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema), row_group_size=len(self._about))
        self._about, self._features = [], []


class Csv:
    """float32 in the fewest digits that give it back."""

    def __init__(self, path: Path, dimensions: int, dtype: type[np.generic]) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._writer.writerow([*About._fields, *(f"f{number}" for number in range(dimensions))])

    def add(self, about: Sequence[About], features: NDArray[Any]) -> None:
        for one, numbers in zip(about, features.astype(str).tolist(), strict=True):
            self._writer.writerow([*_texts(one), *numbers])

    def close(self) -> None:
        self._file.close()


class Npy:
    """The header is written again at the end, when the number of rows is known; NumPy leaves it room to grow."""

    def __init__(self, path: Path, dimensions: int, dtype: type[np.generic]) -> None:
        self._dimensions, self._dtype, self._rows = dimensions, np.dtype(dtype), 0
        self._file = path.open("wb")
        self._about = Csv(path.with_name(path.name.removesuffix(".npy.part") + ".rows.csv.part"), 0, dtype)
        self._header()

    def add(self, about: Sequence[About], features: NDArray[Any]) -> None:
        self._about.add(about, np.empty((len(about), 0)))
        self._file.write(np.ascontiguousarray(features, self._dtype).tobytes())
        self._rows += len(about)

    def close(self) -> None:
        self._about.close()
        self._header()
        self._file.close()

    def _header(self) -> None:
        self._file.seek(0)
        shape = (self._rows, self._dimensions)
        descr = np.lib.format.dtype_to_descr(self._dtype)
        np.lib.format.write_array_header_1_0(self._file, {"descr": descr, "fortran_order": False, "shape": shape})


WRITERS: dict[str, Any] = {".parquet": Parquet, ".csv": Csv, ".npy": Npy}


def _texts(one: About) -> list[str]:
    return [one.id, one.label or "", one.split or "", one.camera or "", one.time.isoformat(" ") if one.time else ""]

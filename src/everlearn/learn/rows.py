"""Rows of numbers from CSV, Parquet, NumPy memory maps or an iterable, as a stream of portions from any row on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from everlearn.errors import BadInput, Missing

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_BLOCK = 8 << 20  # bytes of a CSV that are read at a time; a row must fit
_NUMBERS = ("int", "uint", "float", "double", "halffloat", "bool")
SAID = ("id", "label", "split", "camera", "group", "time")
"""Columns that say something of a row: no features by these names, here as in `everlearn collect`."""


@dataclass(frozen=True, eq=False)
class Portion:
    """Rows in a stream. x: (N, D) floats; y: (N,); ids, groups: N texts, or None; start: the first row's number."""

    x: NDArray[Any]
    y: NDArray[Any]
    ids: Sequence[str] | None = None
    groups: Sequence[str] | None = None
    start: int = 0

    def __len__(self) -> int:
        return len(self.x)


class Rows(Protocol):
    """A source of rows. mark: what it is recognised by when a pass is resumed; rows may have been added since."""

    @property
    def mark(self) -> str: ...
    def portions(self, start: int, size: int) -> Iterator[Portion]:
        """From row `start` on, in portions of at most `size` rows."""
        ...


def open_rows(
    source: Any, *, label: str = "label", id: str | None = None, group: str | None = None, number: bool = False
) -> Rows:
    """The rows that a source holds; see `learn.stream.learn_stream`. number: labels of a CSV are numbers, not texts."""
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        kinds: dict[str, Callable[..., Rows]] = {".csv": Csv, ".parquet": Parquet}
        kind = kinds.get(path.suffix.lower())
        if kind is None:
            raise BadInput(f"{path.name} is no table.", "Give a .csv or .parquet file, or a pair (X, y) of arrays.")
        if not path.is_file():
            raise Missing(f"{path} is not there.", "Check the path.")
        return kind(path, Roles(label, id, group), number)
    if isinstance(source, tuple) and len(source) == 2:
        return Arrays(*map(_mapped, source))
    if isinstance(source, Iterable):
        return Portions(source)
    raise BadInput(f"a {type(source).__name__} is no source of rows.", "Give a path, a pair (X, y) or an iterable.")


def _mapped(array: Any) -> NDArray[Any]:
    if not isinstance(array, str | Path):
        return array if isinstance(array, np.ndarray) else np.asarray(array)
    try:
        return np.load(array, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except FileNotFoundError:
        raise Missing(f"{array} is not there.", "Check the path.") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{array} is no NumPy file: {error}", "Write it with numpy.save, without objects.") from None


class Arrays:
    """X (N, D) and y (N,), memory maps among them. Raises BadInput where they do not match."""

    def __init__(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        if x.ndim != 2 or y.ndim != 1 or len(x) != len(y):
            raise BadInput(f"X of shape {x.shape} and y of shape {y.shape} do not match.", "Give (N, D) and (N,).")
        self.x, self.y = x, y

    @property
    def mark(self) -> str:
        return _mark("arrays", self.x.shape[1:], self.x[:1].tobytes())

    def portions(self, start: int, size: int) -> Iterator[Portion]:
        for at in range(start, len(self.x), size):
            yield Portion(np.asarray(self.x[at : at + size]), np.asarray(self.y[at : at + size]), start=at)


class Portions:
    """An iterable of (X, y), taken from its beginning. Portions that were learned before are passed over."""

    mark = "an iterable"

    def __init__(self, source: Iterable[tuple[Any, Any]]) -> None:
        self.source = source

    def portions(self, start: int, size: int) -> Iterator[Portion]:
        at = 0
        for x, y in self.source:
            found = Arrays(np.asarray(x), np.asarray(y))
            for portion in found.portions(min(len(found.x), max(0, start - at)), size):
                yield Portion(portion.x, portion.y, start=at + portion.start)
            at += len(found.x)


@dataclass(frozen=True)
class Roles:
    """Columns that are no features."""

    label: str
    id: str | None = None
    group: str | None = None

    @property
    def names(self) -> list[str]:
        return [name for name in (self.label, self.id, self.group) if name is not None]

    def tells(self, column: str) -> bool:
        """Whether a column says something of a row, and is no feature."""
        return column in self.names or column.lower() in SAID


class _Table:
    """Rows of a file through pyarrow: columns of numbers, or one of lists of numbers."""

    kind: str

    def __init__(self, path: Path, roles: Roles, number: bool) -> None:
        """Raises BadInput for a file that is no such table, or lacks a column."""
        import pyarrow as pa

        self.path, self.roles, self.number = path, roles, number
        self.width = 0  # of the rows, once one was read
        try:
            self.schema = self._schema()
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{path.name} cannot be read: {_first_line(error)}", "Check the file.") from None
        missing = [name for name in roles.names if name not in self.schema.names]
        if missing:
            shown = ", ".join(self.schema.names[:5])
            raise BadInput(f"{path.name} has no column {missing[0]!r}; it has {shown} …", "Name it: label='…'")
        self.features = [name for name in self.schema.names if not roles.tells(name)]
        for name in self.features:
            if not _is_numeric(self.schema.field(name).type):
                kind = self.schema.field(name).type
                raise BadInput(
                    f"{path.name}: column {name!r} holds {kind}, not numbers.",
                    "Encode it, leave it out of the file, or name it as id or group.",
                )
        if not self.features:
            raise BadInput(
                f"{path.name} has no column of features.", f"Features are all columns but {', '.join(SAID)}."
            )

    @property
    def mark(self) -> str:
        first = next(self.portions(0, 1), None)
        return _mark(self.kind, self.schema.names, b"" if first is None else first.x.tobytes())

    def portions(self, start: int, size: int) -> Iterator[Portion]:
        import pyarrow as pa

        at, waiting, room = start, list[Portion](), size
        try:
            for batch in self._batches(start):
                taken = 0
                while taken < batch.num_rows:
                    portion = self._portion(batch.slice(taken, room), at)
                    taken, at, room = taken + len(portion), at + len(portion), room - len(portion)
                    waiting.append(portion)
                    if not room:
                        yield _joined(waiting)
                        waiting, room = [], size
        except (pa.ArrowException, OSError) as error:
            remedy = "Mend the row; what came before the last checkpoint is kept."
            raise BadInput(f"{self.path.name} cannot be read after row {at}: {_first_line(error)}", remedy) from None
        if waiting:
            yield _joined(waiting)

    def _portion(self, batch: pa.RecordBatch, start: int) -> Portion:
        roles, column = self.roles, batch.column
        names = batch.schema.names
        x = np.concatenate([_numbers(column(names.index(name)), name) for name in self.features], axis=1)
        self.width = self.width or x.shape[1]
        if not self.width:
            raise BadInput(f"{self.path.name}: row {start} has no features.", "Its lists are empty.")
        if x.shape[1] != self.width:
            many = f"row {start} has {x.shape[1]} features, those before it {self.width}"
            raise BadInput(f"{self.path.name}: {many}.", "Make all lists of one length.")
        for role in roles.names:
            given = column(names.index(role))
            if given.null_count:
                row = start + int(np.argmax(np.asarray(given.is_null())))
                raise BadInput(f"{self.path.name}: row {row} has no {role}.", "Give it one, or leave the row out.")
        labels = column(names.index(roles.label))
        ids, groups = (
            None if name is None else [str(value) for value in column(names.index(name)).to_pylist()]
            for name in (roles.id, roles.group)
        )
        y = labels.to_numpy(zero_copy_only=False)
        return Portion(x, y.astype(str) if y.dtype.kind == "O" else y, ids, groups, start)

    def _schema(self) -> pa.Schema:
        raise NotImplementedError

    def _batches(self, start: int) -> Iterator[pa.RecordBatch]:
        """All batches of rows from `start` on."""
        raise NotImplementedError


class Csv(_Table):
    """A CSV with a header: every feature is read as float64; labels are texts, or numbers for a regressor."""

    kind = "csv"

    def _schema(self) -> pa.Schema:
        import pyarrow as pa

        with self._opened() as file:
            names = file.schema.names
        texts = {name: pa.string() for name in names if self.roles.tells(name)}
        if self.number:
            texts[self.roles.label] = pa.float64()
        return pa.schema([(name, texts.get(name, pa.float64())) for name in names])

    def _opened(self, types: pa.Schema | None = None) -> Any:
        from pyarrow import csv

        convert = csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=["", "NA", "nan", "NaN"])
        return csv.open_csv(self.path, csv.ReadOptions(block_size=_BLOCK), convert_options=convert)

    def _batches(self, start: int) -> Iterator[pa.RecordBatch]:
        left = start
        with self._opened(self.schema) as file:
            for batch in file:
                if batch.num_rows > left:
                    yield batch.slice(left)
                left = max(0, left - batch.num_rows)


class Parquet(_Table):
    """A Parquet file; labels are what their column holds."""

    kind = "parquet"

    def _schema(self) -> pa.Schema:
        from pyarrow import parquet

        with parquet.ParquetFile(self.path) as file:
            return file.schema_arrow

    def _batches(self, start: int) -> Iterator[pa.RecordBatch]:
        from pyarrow import parquet

        with parquet.ParquetFile(self.path) as file:
            left, groups = start, file.num_row_groups
            first = 0
            while first < groups and file.metadata.row_group(first).num_rows <= left:
                left -= file.metadata.row_group(first).num_rows
                first += 1
            for batch in file.iter_batches(1024, row_groups=range(first, groups)) if first < groups else ():
                if batch.num_rows > left:
                    yield batch.slice(left)
                left = max(0, left - batch.num_rows)


def _is_numeric(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return str(kind).startswith(_NUMBERS)


def _numbers(column: pa.Array, name: str) -> NDArray[Any]:
    """(N, 1), or for lists (N, width) with one width for all; a missing number is NaN. Raises BadInput."""
    import pyarrow as pa

    n, width = len(column), 1
    if not str(column.type).startswith(_NUMBERS):
        values = column.flatten()
        width = len(values) // max(1, n)
        if column.null_count or (not pa.types.is_fixed_size_list(column.type) and len(set(_lengths(column))) > 1):
            raise BadInput(f"lists of column {name!r} are missing or of several lengths.", "Make all of one length.")
        column = values
    found = column.to_numpy(zero_copy_only=False)
    found = found.astype(np.float32 if found.dtype in (np.float16, np.float32, np.int8, np.uint8) else np.float64)
    return found.reshape(n, width)  # type: ignore[no-any-return]


def _lengths(column: pa.Array) -> list[int]:
    return column.value_lengths().to_pylist()  # type: ignore[no-any-return]


def _joined(parts: list[Portion]) -> Portion:
    if len(parts) == 1:
        return parts[0]
    ids, groups = (
        None if getattr(parts[0], name) is None else list(chain.from_iterable(getattr(part, name) for part in parts))
        for name in ("ids", "groups")
    )
    x, y = np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts])
    return Portion(x, y, ids, groups, parts[0].start)


def _mark(*about: Any) -> str:
    return hashlib.sha256(repr(about).encode()).hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

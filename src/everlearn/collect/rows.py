"""Tables of features, CSV or Parquet: each row is a sample, read as a stream.

A row's bytes are a NumPy file of little-endian float32, (width,), which are the same for the same numbers: the same
features are the same sample.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.collect.files import ending, printable, refused
from everlearn.collect.options import SourceOptions
from everlearn.collect.table import count_lines, header, open_csv, rows
from everlearn.errors import BadInput
from everlearn.naming import clean_label
from everlearn.types import Found, Refused

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

BATCH_ROWS = 256
PASSED_OVER = "split"
"""A column that is no feature and is not used: which side a sample is on follows from its group."""

_Row = tuple[int, "NDArray[np.float32] | str", Mapping[str, Any]]
"""(number from 1, features or why not, what the named columns say)"""


class RowsSource:
    """The rows of a table. Columns named by the options say label, id, camera, group and time; all others are features:
    numbers, or in Parquet lists of numbers too.

    Raises BadInput for a table that cannot be read, has no features or too many, or text in a feature's column
    (Parquet).
    """

    def __init__(self, path: str, options: SourceOptions) -> None:
        self.path = Path(path).absolute()
        self.options = options
        self.is_parquet = ending(self.path.name) == "parquet"
        self.roles = {
            options.label_column.lower(): "label",
            options.id_column.lower(): "id",
            options.camera_column.lower(): "camera",
            options.group_column.lower(): "group",
            options.time_column.lower(): "time",
            PASSED_OVER: PASSED_OVER,
        }
        self.roles[options.label_column.lower()] = "label"
        if self.is_parquet:
            with _opened(self.path) as table:
                _check_types(table.schema_arrow, self.roles)
            return
        with open_csv(self.path) as file:
            self.columns, self.delimiter = header(file, self.path)
        if all(column in self.roles for column in self.columns):
            raise BadInput(
                f"{self.path.name} has no column of features.", "Features are all columns but label and the like."
            )

    def items(self) -> Iterator[Found | Refused]:
        status = self.path.stat()
        width = 0
        for number, features, said in self._parquet() if self.is_parquet else self._csv():
            where = f"{self.path}#row={number}"
            if isinstance(features, str):
                yield refused(where, features)
                continue
            width = width or features.size
            if width > (self.options.most_columns or width):
                raise BadInput(
                    f"{self.path.name} has {width} columns of features; at most {self.options.most_columns} fit.",
                    "Write fewer: everlearn features --backbone patches:small, or --phi.",
                )
            try:
                yield self._found(number, _checked(features, width), said, status.st_size, status.st_mtime)
            except BadInput as error:
                yield refused(where, error.message)

    def estimate(self) -> int | None:
        if not self.is_parquet:
            return count_lines(self.path) - 1
        with _opened(self.path) as table:
            return int(table.metadata.num_rows)

    def _found(
        self, number: int, features: NDArray[np.float32], said: Mapping[str, Any], size: int, modified: float
    ) -> Found:
        texts = {role: _text(value) for role, value in said.items()}
        label = clean_label(texts["label"]) if texts.get("label") else None
        when = _moment(said.get("time"))
        known_as = f"&id={printable(texts['id'], 200)}" if texts.get("id") else ""
        return Found(
            uri=f"{self.path}#row={number}{known_as}",
            name=f"row_{number:06d}.npy",
            read=partial(npy, features),
            size=size,
            modified=modified,
            label=label,
            label_by="csv" if label is not None else None,
            captured_at=when,
            time_from="name" if when else None,
            camera=texts.get("camera") or None,
            group=texts.get("group") or None,
        )

    def _csv(self) -> Iterator[_Row]:
        roles = [self.roles.get(column) for column in self.columns]
        with open_csv(self.path) as file:
            for number, (_, cells) in enumerate(rows(file, self.delimiter), 1):
                if isinstance(cells, str):
                    yield number, cells, {}
                elif len(cells) != len(roles):
                    yield number, f"{len(cells)} cells where the header has {len(roles)}", {}
                else:
                    said = {role: cell for role, cell in zip(roles, cells, strict=True) if role}
                    yield number, _floats([cell for role, cell in zip(roles, cells, strict=True) if not role]), said

    def _parquet(self) -> Iterator[_Row]:
        import pyarrow as pa

        number = 0
        try:
            with _opened(self.path) as table:
                for batch in table.iter_batches(BATCH_ROWS):
                    for features, said in _rows_of(batch, self.roles):
                        number += 1
                        yield number, features, said
        except (pa.ArrowException, OSError, ValueError) as error:
            yield number + 1, f"cannot be read from here on: {printable(str(error), 200)}", {}


def npy(features: NDArray[np.float32]) -> bytes:
    """The features as a NumPy file, version 1.0."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(features, "<f4"), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def _floats(cells: list[str]) -> NDArray[np.float32] | str:
    try:
        with np.errstate(over="ignore"):
            return np.array([float(cell) for cell in cells], np.float64).astype("<f4")
    except ValueError:
        bad = next(cell for cell in cells if not _is_number(cell))
        return f"'{printable(bad, 40)}' is no number" if bad.strip() else "a feature is missing"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _checked(features: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    if features.size != width:
        raise BadInput(f"{features.size} features where the first row has {width}", "")
    if not np.isfinite(features).all():
        raise BadInput("a feature is missing, infinite or no number (as float32)", "")
    return features


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _moment(value: Any) -> datetime | None:
    """A time as a table holds it. Raises BadInput."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, date):
        return datetime.combine(value, time())
    if not _text(value):
        return None
    try:
        return datetime.fromisoformat(_text(value)).replace(tzinfo=None)
    except ValueError:
        raise BadInput(f"'{printable(_text(value), 40)}' is no time such as 2025-07-04 13:30:22", "") from None


def _opened(path: Path) -> Any:
    """A Parquet file that is read page by page, so that a row group of any size fits. Raises BadInput."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 14)
    except (pa.ArrowException, OSError, ValueError) as error:
        said = printable(str(error), 200)
        raise BadInput(f"{path.name} is no Parquet file that can be read: {said}.", "Write it again.") from None


def _check_types(schema: pa.Schema, roles: Mapping[str, str]) -> None:
    import pyarrow.types as is_a

    features = [field for field in schema if field.name.lower() not in roles]
    for field in features:
        kind = field.type.value_type if _is_list(field.type) else field.type
        is_number = is_a.is_floating(kind) or is_a.is_integer(kind)
        if not is_number and not is_a.is_boolean(field.type):
            raise BadInput(f"The column '{printable(field.name, 60)}' holds {kind}, no numbers.", "Leave it out.")
    if not features:
        raise BadInput("The table has no column of features.", "Features are all columns but label and the like.")


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow.types as is_a

    return is_a.is_list(kind) or is_a.is_large_list(kind) or is_a.is_fixed_size_list(kind)


def _rows_of(batch: pa.RecordBatch, roles: Mapping[str, str]) -> Iterator[tuple[NDArray[np.float32], dict[str, Any]]]:
    import pyarrow as pa

    said: dict[str, list[Any]] = {}
    parts: list[Any] = []  # in the columns' order, each (rows, n), or (rows,) of arrays where it came as lists
    scalars: list[NDArray[np.float64]] = []  # neighbours, each (rows,)
    for field, column in zip(batch.schema, batch.columns, strict=True):
        role = roles.get(field.name.lower())
        if role:
            said[role] = column.to_pylist()
        elif not _is_list(field.type):
            scalars.append(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
        else:
            parts += [np.stack(scalars, axis=1)] if scalars else []
            scalars = []
            parts.append(column.to_numpy(zero_copy_only=False))
    parts += [np.stack(scalars, axis=1)] if scalars else []
    for index in range(batch.num_rows):
        cells = [np.full(1, np.nan) if part[index] is None else part[index] for part in parts]
        with np.errstate(over="ignore"):
            features = np.concatenate(cells).astype("<f4")
        yield features, {role: values[index] for role, values in said.items()}

"""Labels in a CSV: a header with `path` and `label`, and if wanted `camera`, `group` and `time`; one image a row.
`boxes`, a JSON list of [label, x, y, width, height] as shares of the image's sides, and `about`, a JSON list of the
classes that were looked for, tell of scenes.

Paths are relative to the CSV and stay inside of its folder. Other columns are passed over, `split` among them: which
side a sample is on follows from its group, so that it never changes.
"""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from everlearn.catalog.origins import Origin
from everlearn.collect.annotations import Boxes, class_name, declared, found_at, number, said_of_origin, text_of
from everlearn.collect.files import entry_at, is_there, refused, why
from everlearn.collect.options import SourceOptions
from everlearn.errors import BadInput
from everlearn.naming import clean_label
from everlearn.types import Found, Refused

MARK = "everlearn_export.json"
"""Lies in every export of ours."""
LONGEST_LINE = 1 << 20


class CsvSource:
    """The images that a CSV names. path: the CSV, or a folder with one in it (`labels.csv` where there are several).

    Raises BadInput where there is none, or it lacks a column.
    """

    def __init__(self, path: str, options: SourceOptions) -> None:
        self.options = options
        self.path = find_csv(Path(path).absolute())
        self.root = str(self.path.parent)
        self.origin = _origin(self.path.parent / MARK)
        with open_csv(self.path) as file:
            self.columns, self.delimiter = header(file, self.path)
        for column in ("path", "label"):
            if self.columns.count(column) != 1:
                raise BadInput(f"{self.path.name} has no single column '{column}'.", "Its header is path,label.")

    def items(self) -> Iterator[Found | Refused]:
        with open_csv(self.path) as file:
            for line, cells in rows(file, self.delimiter):
                where = f"{self.path}:{line}"
                if isinstance(cells, str):
                    yield refused(where, cells)
                elif len(cells) != len(self.columns):
                    yield refused(where, f"{len(cells)} cells where the header has {len(self.columns)}")
                else:
                    yield self._row(dict(zip(self.columns, (cell.strip() for cell in cells), strict=True)), where)

    def estimate(self) -> int | None:
        return count_lines(self.path) - 1

    def _row(self, row: dict[str, str], where: str) -> Found | Refused:
        try:
            entry = entry_at(row["path"], self.root)
            label = clean_label(row["label"]) if row["label"] else None
            when = datetime.fromisoformat(row["time"]).replace(tzinfo=None) if row.get("time") else None
            boxes = _boxes(row["boxes"]) if row.get("boxes") else None
            about = declared(class_name(name) for name in _list(row["about"])) if row.get("about") else None
        except BadInput as error:
            return refused(where, error.message)
        except ValueError:
            return refused(where, f"'{row['time'][:40]}' is no time such as 2025-07-04 13:30:22")
        except OSError as error:
            return refused(where, f"{row['path']}: {why(error)}")
        found = found_at(entry, self.options)
        if isinstance(found, Refused):
            return found
        found = found if boxes is None else boxes.on(found, "csv", about)
        return replace(
            found,
            label=label or found.label,
            label_by="csv" if label is not None else found.label_by,
            camera=row.get("camera") or found.camera,
            group=row.get("group") or found.group,
            captured_at=when or found.captured_at,
            time_from="name" if when else found.time_from,
        )


def _boxes(text: str) -> Boxes:
    """Raises BadInput."""
    found = Boxes()
    for one in _list(text):
        if not isinstance(one, list) or len(one) != 5:
            raise BadInput("a box is [label, x, y, width, height]", "")
        x, y, width, height = (number(value) for value in one[1:])
        found.put(class_name(one[0]), x, y, x + width, y + height)
    return found


def _list(text: str) -> list[Any]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise BadInput(f"'{text[:40]}' is no JSON", "") from None
    if not isinstance(said, list):
        raise BadInput(f"'{text[:40]}' is no list", "")
    return said


def _origin(mark: Path) -> Origin:
    """What an export of ours says of itself, with the licences of what it was made from."""
    try:
        said = json.loads(text_of(str(mark))) if is_there(mark) else {}
        licences = {said_of_origin(one.get("licence")) for one in said.get("origins", [])}
        version = said_of_origin(str(said.get("digest") or "")[:12])
    except (BadInput, ValueError, AttributeError, TypeError, RecursionError):
        return Origin()
    licence = ", ".join(sorted(filter(None, licences))) or None
    return Origin("Everlearn export" if version else None, version, licence)


def find_csv(path: Path) -> Path:
    """The file itself, or the one in a folder. Raises BadInput."""
    if path.is_file():
        return path
    if (path / "labels.csv").is_file():
        return path / "labels.csv"
    there = [file for file in path.glob("*.csv") if file.is_file()]
    if len(there) != 1:
        raise BadInput(f"There are {len(there)} CSV files in {path.name}.", "Name the one that holds the labels.")
    return there[0]


def open_csv(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def header(file: TextIO, path: Path) -> tuple[list[str], str]:
    """Column names in lower case, and the delimiter: comma, semicolon or tab. Raises BadInput for an empty file."""
    line = file.readline(LONGEST_LINE).strip("\r\n")
    if not line.strip() or "\0" in line:
        raise BadInput(f"{path.name} has no header.", "Its first line names the columns.")
    delimiter = max(",;\t", key=line.count)
    cells = next(csv.reader([line], delimiter=delimiter))
    return [unicodedata.normalize("NFC", cell).strip().lower() for cell in cells], delimiter


def rows(file: TextIO, delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """(line number, cells, or why not) of each row after the header; blank lines are passed over."""
    file.seek(0)
    reader = csv.reader(iter(lambda: file.readline(LONGEST_LINE), ""), delimiter=delimiter)
    at_header = True
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, f"cannot be read: {error}"
            continue
        if not at_header and cells:
            yield reader.line_num, cells
        at_header = False


def count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))

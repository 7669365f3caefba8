"""What detectors found on samples, kept so that an old version need not look at the same images in every turn.

One SQLite file below the workspace's private folder. It is a cache: what is missing or damaged is found again. A
forgotten sample's rows are overwritten with zeros, not just unlinked.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from everlearn.catalog import samples
from everlearn.learn.features import connect, empty_log, remove_damaged
from everlearn.types import Box

if TYPE_CHECKING:
    from everlearn.types import SampleId
    from everlearn.workspace import Workspace

Size = tuple[int, int]
"""Width and height of an image in px."""
Found = tuple[list[Box], Size]
FILE = "detections.db"
_MADE = "CREATE TABLE IF NOT EXISTS found (model TEXT, id TEXT, value TEXT NOT NULL, PRIMARY KEY (model, id))"


def there(workspace: Workspace, model: str, ids: Sequence[SampleId]) -> dict[SampleId, Found]:
    """What is kept of these samples. model: digest of the version."""
    known: dict[SampleId, Found] = {}
    with suppress(sqlite3.DatabaseError, ValueError, KeyError), closing(_open(workspace)) as file:
        for chunk in samples.chunks(ids):
            query = f"SELECT id, value FROM found WHERE model = ? AND id IN ({','.join('?' * len(chunk))})"  # noqa: S608
            for id, value in file.execute(query, (model, *chunk)):
                said = json.loads(value)
                known[id] = [Box(*row) for row in said["boxes"]], (said["size"][0], said["size"][1])
    return known


def keep(workspace: Workspace, model: str, found: Mapping[SampleId, Found]) -> None:
    """Raises StoreFault where the disk refuses."""
    rows = []
    for id, (boxes, size) in found.items():
        said = [[one.label, one.x, one.y, one.width, one.height, one.confidence] for one in boxes]
        rows.append((model, id, json.dumps({"boxes": said, "size": size})))
    try:
        with closing(_open(workspace)) as file, file:
            file.executemany("INSERT OR REPLACE INTO found VALUES (?, ?, ?)", rows)
    except sqlite3.DatabaseError as error:
        remove_damaged(workspace.private(FILE), error)


def forget(workspace: Workspace, ids: Collection[SampleId]) -> None:
    """Take samples out of it. Raises StoreFault where another process holds on to it."""
    _delete(workspace, "id", ids)


def drop(workspace: Workspace, models: Collection[str]) -> None:
    """Take out what models found. Raises StoreFault where another process holds on to it."""
    _delete(workspace, "model", models)


def _delete(workspace: Workspace, column: str, values: Collection[str]) -> None:
    path = workspace.private(FILE)
    if not path.exists() or not values:
        return
    try:
        with closing(_open(workspace)) as file:
            with file:
                file.executemany(f"DELETE FROM found WHERE {column} = ?", [(one,) for one in values])  # noqa: S608
            empty_log(file, path)
    except sqlite3.DatabaseError as error:
        remove_damaged(path, error)


def _open(workspace: Workspace) -> sqlite3.Connection:
    file = connect(str(workspace.private(FILE)))
    file.execute(_MADE)
    return file

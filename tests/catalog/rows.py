"""Samples for tests of the catalog."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

from everlearn.catalog.samples import Sample

WHEN = datetime(2025, 7, 4, 13, 30, 22, 123456)


def id_of(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()[:32]


def row(name: object, **columns: Any) -> Sample:
    """A sample that was collected and not judged; with `quality`, a fit one."""
    id = id_of(name)
    values: dict[str, Any] = {
        "id": id, "kind": "image", "key": f"new_data/collected/{id}.jpg", "bytes": 5, "source": "/photos",
        "captured_at": WHEN, "time_from": "exif", "camera": "문 door", "group_key": id, "collected_at": WHEN,
    }  # fmt: skip
    return Sample(**{**values, **columns})

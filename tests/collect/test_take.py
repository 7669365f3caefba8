"""Taking in: a batch of large files is stored in portions, and nothing else changes by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from everlearn import stages
from everlearn.catalog import samples
from everlearn.collect import take
from everlearn.types import SILENT
from tests.wheel import make, world, write


@pytest.mark.parametrize("most", [1, 3000])
def test_portions_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    source = write(tmp_path / "source", world())
    found = []
    for name, limit in (("whole", 1 << 30), ("portions", most)):
        monkeypatch.setattr(take, "MOST_BYTES", limit)
        workspace = make(tmp_path / name)
        came = stages.collect(workspace, [str(source)], SILENT, labels_from="folder")
        with workspace.catalog.read() as tx:
            rows = [one for batch in samples.batches(tx) for one in batch]
        told = [(one.id, one.label, one.group_key, one.queue_reason, one.status) for one in rows]
        found.append(((came.collected, came.duplicates, came.refused), told))
    assert found[0] == found[1]
    assert found[0][0][1]  # duplicates, which now come in another portion than what they are copies of


def test_no_more_is_held_than_the_limit_and_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    insert = take._insert

    def watched(changed: Any, name: str, new: list[Any]) -> None:
        held.append(sum(len(one.data or b"") for one in new))
        insert(changed, name, new)

    files = world()
    monkeypatch.setattr(take, "MOST_BYTES", 5000)
    monkeypatch.setattr(take, "_insert", watched)
    stages.collect(make(tmp_path / "w"), [str(write(tmp_path / "source", files))], SILENT)
    assert len(held) > 1
    assert max(held) < 5000 + max(len(one.data) for one in files)

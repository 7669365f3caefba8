"""Rows that networks are trained on: a cache that a crash cannot shift and that forgetting empties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from everlearn import faults
from everlearn.catalog import samples
from everlearn.stages import arrays
from everlearn.stages.arrays import Arrays
from everlearn.types import SILENT
from everlearn.workspace import Workspace
from tests import digits, wheel


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = wheel.make(tmp_path / "workspace")
    digits.write(str(tmp_path / "images"), (0, 1), stop=30)
    assert wheel.run(made.root, "collect", tmp_path / "images", "--labels-from", "folder").code == 0
    return made


def ids_of(workspace: Workspace) -> list[str]:
    with workspace.catalog.read() as tx:
        return sorted(one.id for batch in samples.batches(tx) for one in batch)


def opened(workspace: Workspace) -> Arrays:
    """Two numbers of each image: its mean, which tells which it is, and 1."""
    return Arrays(workspace, "means", (2,), np.float32, lambda found: np.array([(one.mean(), 1) for one in found]))


def test_what_a_crash_left_half_written_shifts_nothing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ids_of(workspace)
    some, more = ids[:2], ids[2:]
    rows = opened(workspace).rows(some, SILENT)
    means = opened(workspace).all()[rows].copy()

    class Killed(BaseException):
        pass

    def kill(name: str) -> None:
        if name == "arrays.data":
            raise Killed

    monkeypatch.setattr(faults, "point", kill)
    with pytest.raises(Killed):
        opened(workspace).rows(more, SILENT)
    monkeypatch.undo()
    held = opened(workspace)
    assert len(held.all()) > len(some), "rows lie there that nothing names"
    arrays.forget(workspace, ids[:1])
    assert len(held.all()) == len(some), "what nothing names is gone: it may show who is forgotten"
    assert not held.all()[0].any()
    np.testing.assert_array_equal(held.all()[1], means[1])
    assert list(held.rows(some[1:], SILENT)) == [1]
    rows = held.rows(more, SILENT)
    assert held.all()[rows][:, 1].all()


def test_forgotten_ones_are_made_again_elsewhere(workspace: Workspace) -> None:
    ids, held = ids_of(workspace), opened(workspace)
    held.rows(ids, SILENT)
    arrays.forget(workspace, ids[3:5])
    assert not held.all()[3:5].any()
    text = b"".join(path.read_bytes() for path in held.path.parent.iterdir())
    assert not any(id.encode() in text for id in ids[3:5])
    assert list(held.rows(ids[2:5], SILENT)) == [2, len(ids), len(ids) + 1]

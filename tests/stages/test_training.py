"""What a training reads by row: made once, mended after a crash, overwritten when it is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everlearn.catalog import samples
from everlearn.stages import arrays
from everlearn.stages.arrays import Arrays
from everlearn.types import SILENT
from everlearn.workspace import Workspace
from tests.cli_models.conftest import Everlearn, digits


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("arrays")
    ever = Everlearn(folder / "workspace").init()
    ever("collect", digits(folder / "photos", (1, 4), 5), "--labels-from", "folder")
    return Workspace.open(ever.workspace)


def ids_of(workspace: Workspace) -> list[str]:
    with workspace.catalog.read() as tx:
        return [one.id for batch in samples.batches(tx) for one in batch]


def means(workspace: Workspace, made: list[int]) -> Arrays:
    """Each image as its mean, twice; `made` counts how many were looked at."""

    def make(images: Sequence[Any]) -> Any:
        made.append(len(images))
        return np.array([[one.mean()] * 2 for one in images], np.float32)

    return Arrays(workspace, f"means {id(made)}", (2,), np.float32, make)


def test_each_image_is_made_once(workspace: Workspace) -> None:
    made: list[int] = []
    ids = ids_of(workspace)
    first = means(workspace, made).rows(ids[:6], SILENT)
    rows = means(workspace, made).rows(ids, SILENT)
    assert made == [6, len(ids) - 6]
    assert np.array_equal(rows[:6], first)
    held = means(workspace, made).all()
    assert held.shape == (len(ids), 2)
    assert np.array_equal(means(workspace, made).rows(ids[::-1], SILENT), rows[::-1]), "in the order asked for"


@pytest.mark.parametrize("cut", [3, 8, 11])
def test_what_a_crash_left_half_written_is_made_again(workspace: Workspace, cut: int) -> None:
    made: list[int] = []
    ids, found = ids_of(workspace), means(workspace, made)
    rows = found.rows(ids, SILENT)
    whole = found.all()[rows].copy()
    names = found.path.with_suffix(".ids")
    names.write_bytes(names.read_bytes()[:-5])
    Path(found.path).write_bytes(found.path.read_bytes()[:-cut])
    again = found.rows(ids, SILENT)
    assert sum(made) > len(ids)
    assert np.array_equal(found.all()[again], whole)


def test_forgotten_rows_are_overwritten(workspace: Workspace) -> None:
    made: list[int] = []
    ids, found = ids_of(workspace), means(workspace, made)
    rows = found.rows(ids, SILENT)
    gone, kept = ids[:2], ids[2:]
    before = found.all()[rows[2:]].copy()
    arrays.forget(workspace, gone)
    assert not np.asarray(found.all()[rows[:2]]).any()
    names = found.path.with_suffix(".ids").read_bytes()
    assert not any(one.encode() in names for one in gone)
    rows = found.rows(kept, SILENT)
    assert np.array_equal(found.all()[rows], before)
    assert made == [len(ids)], "what remains is not made again"

"""Features of samples: computed once, a few images in memory at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everlearn import stages
from everlearn.catalog import samples
from everlearn.errors import Corrupt, StoreFault
from everlearn.image import encode_png
from everlearn.learn import features
from everlearn.model.backbone import load_backbone
from everlearn.model.basis import Basis
from everlearn.types import SILENT
from tests.wheel import make


class Watched(Basis):
    """The basis, and the shapes of what it was given."""

    given: list[list[tuple[int, ...]]]

    def phi(self, images: Sequence[Any], *, workers: int | None = None) -> Any:
        self.given.append([one.shape for one in images])
        return super().phi(images, workers=workers)


def test_photos_are_held_small_and_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make(tmp_path / "w")
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (150, 200 + n, 3), np.uint8) for n in range(5)]
    (tmp_path / "photos").mkdir()
    for number, photo in enumerate(photos):
        (tmp_path / "photos" / f"{number}.png").write_bytes(encode_png(photo))
    stages.collect(workspace, [str(tmp_path / "photos")], SILENT)
    with workspace.catalog.read() as tx:
        ids = [one.id for batch in samples.batches(tx) for one in batch]
    basis = Watched(load_backbone("patches"), dimensions=64)
    basis.given = []
    monkeypatch.setattr(features, "BATCH", 2)
    phi = features.Features(workspace, basis).all(ids, SILENT)
    ((_, again),) = features.Features(workspace, basis).batches(ids, SILENT, size=4096)
    side = basis.input_size
    assert basis.given == [[(side, side, 3)] * 2, [(side, side, 3)] * 2, [(side, side, 3)]]
    np.testing.assert_array_equal(phi, again)
    as_they_are = Basis(load_backbone("patches"), dimensions=64).phi(photos)
    assert sorted(map(bytes, phi)) == sorted(map(bytes, as_they_are))


def test_a_broken_cache_does_not_stop_forgetting(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w")
    basis = Basis(load_backbone("patches"), dimensions=64)
    own = features.Features(workspace, basis)
    with closing(sqlite3.connect(own.path)) as file, file:
        file.executemany("INSERT INTO phi VALUES (?, ?, ?)", [(id, b"phi", b"mark") for id in ("stays", "goes")])
    broken, begun = (workspace.private(f"features-{name}.db") for name in ("0", "1"))
    broken.write_bytes(b"no database" * 1000)
    begun.touch()  # a process was killed before it had made the table
    own.forget(["goes"])
    assert not broken.exists()
    assert begun.exists()
    with closing(sqlite3.connect(own.path)) as file:
        assert [id for (id,) in file.execute("SELECT id FROM phi")] == ["stays"]


def test_a_cache_in_use_is_not_taken_for_a_broken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make(tmp_path / "w")
    own = features.Features(workspace, Basis(load_backbone("patches"), dimensions=64))
    monkeypatch.setattr(features, "PATIENCE", 0.1)
    with closing(sqlite3.connect(own.path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreFault, match="locked"):
            own.forget(["x"])
    assert own.path.exists()


def test_a_cache_that_is_damaged_inside_is_begun_again(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w")
    own = features.Features(workspace, Basis(load_backbone("patches"), dimensions=64))
    ids = [f"{n:04d}" for n in range(2000)]
    with closing(sqlite3.connect(own.path)) as file, file:
        file.executemany(
            "INSERT INTO phi VALUES (?, ?, ?)", [(id, bytes(64), features._mark(id, bytes(64))) for id in ids]
        )
    whole = own.path.read_bytes()
    own.path.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    with pytest.raises(Corrupt, match="has been removed"):
        own._missing(ids)
    assert own._missing(ids) == ids

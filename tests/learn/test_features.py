"""Features of samples: computed once, a few images in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everlearn import stages
from everlearn.catalog import samples
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

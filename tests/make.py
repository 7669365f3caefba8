"""Workspaces with a few synthetic images, made through the catalog, for tests of what comes after validation."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from everlearn.catalog import labels, samples
from everlearn.catalog.samples import Sample
from everlearn.config import Config
from everlearn.image import encode_jpeg, encode_png
from everlearn.naming import render_name
from everlearn.workspace import VALIDATED, Workspace

START = datetime(2025, 7, 4, 13, 30, 22)


class Quiet:
    """A Progress that counts."""

    def __init__(self) -> None:
        self.steps = 0
        self.said: list[str] = []

    def task(self, name: str, total: int | None = None) -> Quiet:
        return self

    def say(self, message: str) -> None:
        self.said.append(message)

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *error: object) -> None: ...

    def advance(self, steps: int = 1) -> None:
        self.steps += steps


def picture(seed: int, side: int = 24) -> np.ndarray:
    """A bright blob on a dark ground, unlike any other: (side, side, 3) uint8."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (side, side, 3), dtype=np.uint8)
    top, left = rng.integers(2, side // 2, 2)
    pixels[top : top + side // 3, left : left + side // 3] = rng.integers(120, 255, 3, dtype=np.uint8)
    return pixels


def add_image(workspace: Workspace, data: bytes, label: str | None, ext: str = "png", **columns: Any) -> Sample:
    """A validated image with this label. columns: of `Sample`, instead of the usual ones."""
    id = hashlib.sha256(data).hexdigest()[:32]
    camera, when = columns.get("camera", "door"), columns.get("captured_at", START)
    key = f"{VALIDATED}/{render_name(label, when or START, camera, ext, id)}"
    values: dict[str, Any] = {
        "id": id, "kind": "image", "key": key, "bytes": len(data), "source": "synthetic", "captured_at": when,
        "time_from": "exif" if when else None, "camera": camera, "group_key": f"sample:{id}", "collected_at": START,
        "width": 24, "height": 24, "quality": 0.9, "status": "validated", **columns,
    }  # fmt: skip
    workspace.store.put(key, io.BytesIO(data))
    with workspace.catalog.write() as tx:
        samples.add(tx, [Sample(**values)])
        if label is not None:
            labels.say(tx, [labels.Said(id, label, "folder")])
        return samples.get(tx, id)


def make_workspace(
    tmp_path: Path,
    images_per_class: int = 6,
    classes: Sequence[str] = ("a", "b"),
    config: Config | None = None,
    *,
    git: bool = False,
) -> Workspace:
    """A workspace with labelled images, each its own group, one minute apart; every third is a JPEG."""
    workspace = Workspace.create(tmp_path / "workspace", config or Config(), git=git)
    for number in range(images_per_class * len(classes)):
        pixels, jpeg = picture(number), number % 3 == 2
        data = encode_jpeg(pixels, 95) if jpeg else encode_png(pixels)
        label = classes[number % len(classes)]
        when = START + timedelta(minutes=number)
        add_image(workspace, data, label, "jpg" if jpeg else "png", captured_at=when, camera=f"cam{number % 2}")
    return workspace

"""Workspaces of red squares whose scenes, sides and sources are chosen, with an exact detector that is not trained."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from everlearn import registry, stages
from everlearn.catalog import labels, scenes
from everlearn.catalog.versions import Version
from everlearn.config import check
from everlearn.dataset.build import build, side_of
from everlearn.image import encode_png
from everlearn.stages.teach import deciding
from everlearn.types import Box, Scene
from everlearn.workspace import Workspace
from tests import doorway
from tests.make import Quiet, add_image

__all__ = ["Quiet"]
RED = doorway.RED


def workspace(tmp_path: Path, learner: str | None = None, **settings: Any) -> Workspace:
    """learner: by default the detector of red squares."""
    tmp_path.mkdir(exist_ok=True)
    model = tmp_path / "teacher.onnx"
    if learner is None and not model.exists():
        doorway.teacher(model)
    root = tmp_path / "workspace"
    said = {
        "task": "detect", "learn": {"learner": learner or f"onnx:{model}", "dimensions": 64},
        "validate": {"near_duplicates": False}, "track": {"plots": False},
        "gates": {"diversity": None}, **settings,
    }  # fmt: skip
    return Workspace.create(root, check(said, root / "everlearn.yaml"))


@cache
def _drawn(seed: int) -> tuple[bytes, Box]:
    image, box = doorway.snapshot(seed)
    return encode_png(image), box


def show(
    made: Workspace, seed: int, side: str | None = "train", *, boxes: Sequence[Box] | None = None,
    about: Sequence[str] | None = (RED,), source: str = "set", by: Any = "yolo", label: str | None = None,
) -> str:  # fmt: skip
    """A labelled image on a side; by default with the box of its square, called `label`. side None: unlabelled."""
    data, box = _drawn(seed)
    if label is not None:
        box = Box(label, box.x, box.y, box.width, box.height)
    group = f"g{seed}"
    while side is not None and side_of(group, made.config.dataset) != side:
        group += "+"
    one = add_image(made, data, None, group_key=group, source=source, width=64, height=64)
    if side is not None:
        scene = Scene((box,) if boxes is None else tuple(boxes), None if about is None else tuple(about))
        with made.catalog.write() as tx:
            (name,) = scenes.keep(tx, [scene])
            labels.say(tx, [labels.Said(one.id, name, by)])
    return one.id


def filled(made: Workspace, train: int = 4, validation: int = 2, test: int = 3, first: int = 0) -> list[str]:
    """So many labelled images on each side."""
    places = ["train"] * train + ["validation"] * validation + ["test"] * test
    return [show(made, first + seed, side) for seed, side in enumerate(places)]


def learned(made: Workspace) -> Version:
    version, _ = stages.learn(made, Quiet())
    return version


def registered(
    made: Workspace, name: str = "v1.0", *, metrics: dict[str, Any] | None = None, graph: bytes = b"graph",
    **facts: Any,
) -> Version:  # fmt: skip
    """A version as if it had been trained, with weights that nobody opens."""
    known = build(made)
    files: dict[str, bytes | Path] = {".onnx": graph, "/weights.pt": b"weights", "/card.json": b"{}"}
    told = {
        "parent": None, "snapshot": known.number, "learner": "yolo", "backbone": "yolo:yolo11n.yaml", "licence": "",
        "config": deciding(made), "code_version": "0", "memory_digest": None, "model_digest": name, "metrics": metrics,
    }  # fmt: skip
    return registry.register(made, name, files, {**told, **facts}, "for a test")

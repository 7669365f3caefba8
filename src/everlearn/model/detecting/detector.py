"""What every detector can do, and how one is named.

A detector is one file in this package and one line in DETECTORS. Trainable ones beside Ultralytics' (D-FINE, RT-DETR)
need nothing more than this protocol to propose, to be evaluated and to be deployed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from everlearn.errors import BadInput

if TYPE_CHECKING:
    from everlearn.types import Box, Image

LEAST, OVERLAP, MOST = 0.001, 0.7, 300
"""Confidence below which no box is told; IoU above which, of two boxes of one class, the surer is kept; boxes of one
image. As Ultralytics validates."""


class Detector(Protocol):
    """classes: what it finds; spec: as it was named; licence: in words; size: side of the square it looks at, in px."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def spec(self) -> str: ...
    @property
    def licence(self) -> str: ...
    @property
    def size(self) -> int: ...

    def detect(
        self, images: Sequence[Image], *, least: float = LEAST, overlap: float = OVERLAP
    ) -> list[list[Box]]:  # fmt: skip
        """For each image its boxes with confidence, the surest first, inside the image, at most MOST."""
        ...


def _yolo(name: str, base: Path) -> Detector:
    from everlearn.model.detecting.yolo import YoloDetector

    return YoloDetector.open(_file(name, base))


def _onnx(name: str, base: Path) -> Detector:
    from everlearn.model.detecting.onnx import OnnxDetector

    return OnnxDetector(_file(name, base))


DETECTORS: dict[str, Callable[[str, Path], Detector]] = {"yolo": _yolo, "onnx": _onnx}


def load_detector(spec: str, base: Path) -> Detector:
    """`yolo:FILE.pt`, `onnx:FILE.onnx`; a relative path lies below `base`. Raises BadInput, Missing, NotInstalled."""
    kind, _, name = spec.partition(":")
    if kind not in DETECTORS or not name:
        raise BadInput(f"{spec!r} names no detector.", f"Write {' or '.join(f'{one}:FILE' for one in DETECTORS)}.")
    return DETECTORS[kind](name, base)


def _file(name: str, base: Path) -> Path:
    return base / Path(name).expanduser()

"""Our ONNX detector beside Ultralytics' own ONNX inference: the same file, the same images, in turns.

    python benchmarks/detector_onnx.py [FILE.onnx] [--images 48] [--size 320] [--repeat 5] [--least 0.001]

From decoded images (640 x 480, drawn shapes) to boxes: letterbox, network, non-maximum suppression. FILE.onnx is an
export of Ultralytics; without it, YOLO11n with random weights at --size. Peer: `YOLO("FILE.onnx").predict`, with what
it prints switched off. `all at once` gives both the whole list, `one by one` an image a call. Agreement: boxes of
either that the other has too: the same class, corners within 0.001 of the image's sides, confidence within 0.001.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from everlearn.model.detecting import quiet
from everlearn.model.detecting.onnx import OnnxDetector
from tests.scenes import SHAPES, scene

with quiet.importing():
    from ultralytics import YOLO

Rows = list[np.ndarray]
"""For each image (K, 6): corners in shares, confidence, number of the class."""


def export(size: int, folder: Path) -> Path:
    before = Path.cwd()
    os.chdir(folder)
    try:
        return folder / YOLO("yolo11n.yaml").export(format="onnx", imgsz=size, simplify=False, verbose=False)
    finally:
        os.chdir(before)


def ways(path: Path, images: list[np.ndarray], least: float) -> dict[str, tuple[Callable, Callable]]:
    """Each way to ask, as (ours, theirs); each gives `Rows`."""
    ours, theirs = OnnxDetector(path), YOLO(str(path), task="detect")
    turned = [np.ascontiguousarray(image[..., ::-1]) for image in images]  # it takes BGR
    names = list(ours.classes)

    def rows(found: list) -> Rows:
        return [
            np.array([(b.x, b.y, b.x + b.width, b.y + b.height, b.confidence, names.index(b.label)) for b in one])
            .reshape(-1, 6) for one in found
        ]  # fmt: skip

    def their(part: list[np.ndarray]) -> Rows:
        said = theirs.predict(part, imgsz=max(ours.description.size), conf=least, iou=0.7, verbose=False, save=False)
        return [np.column_stack([o.boxes.xyxyn, o.boxes.conf, o.boxes.cls]).reshape(-1, 6) for o in said]

    return {
        "all at once": (lambda: rows(ours.detect(images, least=least)), lambda: their(turned)),
        "one by one": (
            lambda: [rows(ours.detect([one], least=least))[0] for one in images],
            lambda: [their([one])[0] for one in turned],
        ),
    }


def agreement(some: Rows, others: Rows) -> tuple[float, int]:
    """Share of boxes of both that the other has, and how many there are."""
    agreed = total = 0
    for one, other in zip(some, others, strict=True):
        thick = [table[(table[:, 2:4] - table[:, :2]).min(1) > 1e-6] for table in (one, other)]  # some lie outside
        total += sum(map(len, thick))
        if len(thick[0]) and len(thick[1]):
            apart = np.abs(thick[0][:, None] - thick[1][None]).max(2) <= 1e-3
            agreed += apart.any(0).sum() + apart.any(1).sum()
    return agreed / max(total, 1), total


def timed(work: Callable) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, nargs="?")
    for name, default in (("images", 48), ("size", 320), ("repeat", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--least", type=float, default=0.001)
    args = parser.parse_args()
    images = [cv2.resize(scene(seed, SHAPES, side=480)[0], (640, 480)) for seed in range(args.images)]
    with tempfile.TemporaryDirectory() as folder:
        path = args.file or export(args.size, Path(folder))
        print(f"{args.images} images of 640 x 480, {path.name}, confidence from {args.least} on")
        for name, (ours, theirs) in ways(path, images, args.least).items():
            share, boxes = agreement(ours(), theirs())  # warms both up
            took = [(timed(ours), timed(theirs)) for _ in range(args.repeat)]
            a, b = (args.images / statistics.median(side) for side in zip(*took, strict=True))
            print(f"{name:12} ours {a:6.1f} images/s   Ultralytics {b:6.1f}   ratio {a / b:.2f}   "
                  f"agreement {share:.2%} of {boxes} boxes")  # fmt: skip


if __name__ == "__main__":
    main()

"""A third class for a YOLO that knows two: what the old ones lose.

    python benchmarks/yolo_new_class.py [--side 128] [--old 160] [--new 160] [--replay 40] [--epochs 24] [--more 12]

Circles and squares are learned first. Then scenes come with triangles too, on which only the triangles are labelled:
the circles and squares on them are there, and nobody has marked them. From the same weights, at the same rate and for
as many epochs, four ways go on:

    plain            the new scenes alone; what is not labelled is background
    + masks          the new scenes alone; of circles and squares their labels say nothing (`about`)
    + replay         the same, with some of the old scenes among them, whose labels say nothing of triangles
    + teacher        the same, and the detector as it was is asked about circles and squares (`distil`)

mAP50 is measured on scenes with all three that no training has seen, all labelled.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
OLD, ALL = ("circle", "square"), ("circle", "square", "triangle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (
        ("side", 128), ("old", 160), ("new", 160), ("replay", 40), ("epochs", 24), ("more", 12), ("test", 200),
        ("batch", 8), ("threads", 2), ("seed", 0),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--distil", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, help="kept, and gone on with where it was left")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)

    import torch

    torch.set_num_threads(given.threads)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        _compare(given, given.folder or Path(temporary))
    print(f"\n{(time.perf_counter() - begun) / 60:.1f} minutes ({time.process_time() / 60:.1f} of the processors)")


def _compare(given: argparse.Namespace, root: Path) -> None:
    from everlearn.model.detecting import yolo

    _scenes(root, "old", given.old, given, OLD, OLD)
    _scenes(root, "old_val", given.old // 4, given, OLD, OLD, 50_000)
    _scenes(root, "new", given.new, given, ALL, ("triangle",), 60_000)
    _scenes(root, "new_val", given.new // 4, given, ALL, ("triangle",), 80_000)
    first = _trained(given, root, "first", OLD, ["old"], ["old_val"], epochs=given.epochs)
    print(f"{'':18s}{'circle':>8s}{'square':>8s}{'old two':>9s}{'triangle':>10s}{'change':>8s}")
    before = _row("before", yolo.YoloDetector.open(first), given, None)
    replayed = root / "replay"
    if not replayed.exists():
        for kind in ("images", "labels"):
            (replayed / kind).mkdir(parents=True)
            for path in sorted((root / "old" / kind).iterdir())[: given.replay]:
                shutil.copy2(path, replayed / kind / path.name)
    about = {one.name: ["triangle"] for side in ("new", "new_val") for one in (root / side / "images").iterdir()}
    about |= {one.name: list(OLD) for side in ("replay", "old_val") for one in (root / side / "images").iterdir()}
    (root / "about.json").write_text(json.dumps(about))
    masks, teacher = {"about": str(root / "about.json")}, {"teacher": str(first), "distil": given.distil}
    ways: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        ("plain", ["new"], ["new_val"], {}),
        ("+ masks", ["new"], ["new_val"], masks),
        ("+ replay", ["new", "replay"], ["new_val", "old_val"], masks),
        ("+ teacher", ["new", "replay"], ["new_val", "old_val"], {**masks, **teacher}),
    ]
    for name, train, val, more in ways:
        kept = _trained(given, root, name.strip("+ "), ALL, train, val, epochs=given.more, begin=str(first), **more)
        _row(name, yolo.YoloDetector.open(kept), given, before)


def _scenes(
    root: Path, name: str, number: int, given: argparse.Namespace, there: tuple[str, ...], labelled: tuple[str, ...],
    first: int = 0,
) -> None:  # fmt: skip
    """A folder of scenes whose labels are numbered as among ALL."""
    from tests.scenes import write

    if (root / name).exists():
        return
    part = root / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    write(part, number, there, given.side, first=first + given.seed * 1_000_000, labels=labelled, camera=name)
    for path in (part / "labels").iterdir():
        lines = [line.split(" ", 1) for line in path.read_text().splitlines()]
        path.write_text("".join(f"{ALL.index(labelled[int(kind)])} {sides}\n" for kind, sides in lines))
    part.rename(root / name)


def _trained(
    given: argparse.Namespace, root: Path, name: str, classes: tuple[str, ...], train: list[str], val: list[str],
    *, epochs: int, **more: Any,
) -> Path:  # fmt: skip
    from everlearn.model.detecting import yolo
    from everlearn.model.detecting.training import DetectionJob

    data = root / f"{name}.yaml"
    sides = {"train": [f"{one}/images" for one in train], "val": [f"{one}/images" for one in val]}
    data.write_text(json.dumps({"names": list(classes), **sides}))
    job = DetectionJob(
        "yolo11n.yaml", classes, str(data), str(root / f"run_{name}"), size=given.side, epochs=epochs,
        batch=given.batch, patience=0, seed=given.seed, plots=False, **more,
    )  # fmt: skip
    return yolo.train(job).best


def _row(name: str, detector: Any, given: argparse.Namespace, before: float | None) -> float:
    from everlearn.evaluate.detection import Seen
    from everlearn.evaluate.detection.metrics import average_precisions
    from tests.scenes import scene

    made = [scene(900_000 + number, ALL, given.side) for number in range(given.test)]
    found = detector.detect([image for image, _ in made])
    seen = [
        Seen(f"{place:032x}", truth, tuple(boxes), given.side, given.side)
        for place, ((_, truth), boxes) in enumerate(zip(made, found, strict=True))
    ]
    scores = average_precisions(seen, detector.classes)
    old = sum(scores[one] for one in OLD) / 2
    change = "" if before is None else f"{old - before:+8.3f}"
    new = f"{scores['triangle']:10.3f}" if "triangle" in scores and "triangle" in detector.classes else f"{'-':>10s}"
    print(f"{name:18s}{scores['circle']:8.3f}{scores['square']:8.3f}{old:9.3f}{new}{change}", flush=True)
    return old


if __name__ == "__main__":
    main()

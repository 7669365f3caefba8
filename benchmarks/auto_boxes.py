"""Automatic boxes: is the promise kept, and how much is left for people, turn by turn?

    python benchmarks/auto_boxes.py [--repeat 200] [--turns 6] [--new 200] [--audit 0.1] [--weights FILE.pt]

First the promise by itself: thresholds are chosen on reviewed images of made-up worlds, again and again, and what they
write is measured on 3,000 images held back. `given`: of the repetitions, those in which there is a threshold at all;
`broken`: those in which less than 0.95 of the boxes written on the images held back are right. The promise allows 0.05.

Then several turns with a real detector that is far from perfect: a YOLO trained from nothing on a few drawn shapes
(or --weights). Every turn brings new scenes; what is sure is labelled by itself, and a person, who knows the truth,
answers all that waits. Nothing is learned between the turns: only the thresholds move, as reviewed images add up.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everlearn.types import Box, Scene
    from everlearn.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parents[1]))
TARGET, NOISE = 0.95, 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (
        ("repeat", 200), ("turns", 6), ("new", 200), ("side", 96), ("taught", 80), ("epochs", 40), ("threads", 2),
        ("seed", 0),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--audit", type=float, default=0.1)
    parser.add_argument("--classes", default="circle,square", help="what is drawn: the first so many of tests.scenes")
    parser.add_argument("--weights", type=Path, help="of a detector of these classes, instead of training one")
    given = parser.parse_args()
    given.classes = given.classes.split(",")
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    begun = time.perf_counter()
    if given.repeat:
        _promise(given.repeat)
    with tempfile.TemporaryDirectory() as folder:
        _turns(given, Path(folder))
    print(f"\n{(time.perf_counter() - begun) / 60:.1f} minutes ({time.process_time() / 60:.1f} of the processors)")


# --- the promise ----------------------------------------------------------------------------------------------------


def _promise(repeat: int) -> None:
    from everlearn.label.thresholds import prove
    from tests.label.test_thresholds import cliff, precision, world

    def slope(sure: float) -> float:
        return 1 / (1 + 2.718281828 ** (-(sure - 0.45) * 14))

    def flat(share: float) -> Callable[[float], float]:
        return lambda sure: share

    worlds: list[tuple[str, Callable[[float], float], int, float, float]] = [
        ("a cliff: right above 0.7", cliff, 150, 1, 0),
        ("the same, 400 images", cliff, 400, 1, 0),
        ("a slope", slope, 400, 1, 0),
        ("the same, in bursts of 4", slope, 250, 4, 0.8),
        ("0.949 of all boxes right", flat(0.949), 120, 1, 0),
        ("the same, 400 images", flat(0.949), 400, 1, 0),
        ("0.93, bursts right or wrong", flat(0.93), 100, 6, 1),
        ("0.93, 12 bursts of 10", flat(0.93), 12, 10, 1),
    ]
    print(f"{repeat} repetitions\n{'world':30s}{'groups':>8s}{'given':>8s}{'broken':>8s}")
    for name, right, groups, size, together in worlds:
        reached = precision(world(1_000_000, 3000, right, size=size, together=together))
        found = [
            prove(world(seed, groups, right, size=size, together=together), ["a"], TARGET, NOISE).classes["a"].threshold
            for seed in range(repeat)
        ]
        thresholds = [one for one in found if one is not None]
        broken = sum(reached(one) < TARGET for one in thresholds)
        print(f"{name:30s}{groups:8d}{len(thresholds) / repeat:8.2f}{broken / repeat:8.3f}", flush=True)


# --- turns ----------------------------------------------------------------------------------------------------------


def _turns(given: argparse.Namespace, root: Path) -> None:
    from everlearn import stages
    from everlearn.catalog.samples import id_of
    from everlearn.config import Config
    from everlearn.types import SILENT
    from everlearn.workspace import Workspace
    from tests.scenes import write

    weights = (given.weights or _trained(given, root)).absolute()
    workspace = Workspace.create(root / "workspace", Config.model_validate({
        "task": "detect", "validate": {"near_duplicates": False},
        "detect": {"size": given.side, "teachers": [f"yolo:{weights}"], "audit": given.audit},
    }))  # fmt: skip
    print(
        f"\n{given.new} new scenes a turn, audit {given.audit:g}; precision and missed: of what was labelled by itself"
    )
    print(f"{'turn':>4s}{'people':>8s}{'images':>8s}{'boxes':>7s}{'precision':>11s}{'missed':>8s}   bound by class")
    truth: dict[str, tuple[Box, ...]] = {}
    for turn in range(given.turns):
        first, folder = 20_000 + turn * given.new, root / f"in{turn}"
        for name, boxes in write(folder, given.new, given.classes, given.side, first=first, labels=()):
            truth[id_of((folder / "images" / name).read_bytes())] = boxes
        stages.collect(workspace, [str(folder / "images")], SILENT)
        stages.validate(workspace, SILENT)
        before = _automatic(workspace)
        done = stages.label(workspace, SILENT)
        fresh = {id: seen for id, seen in _automatic(workspace).items() if id not in before}
        boxes, right, things = _score(fresh, truth)
        bounds = [
            f"{name} {one['bound']:.3f} from {one['threshold']:.2f}" if one["threshold"] is not None
            else f"{name} {one['worth']:.0f} of {one['needs']} boxes" if one["too_few"] else f"{name} none"
            for name, one in (done.proof or {}).get("classes", {}).items()
        ]  # fmt: skip
        shares = f"{right / boxes:11.3f}{1 - right / things:8.3f}" if boxes and things else f"{'-':>11s}{'-':>8s}"
        print(f"{turn + 1:4d}{done.share or 0:8.1%}{len(fresh):8d}{boxes:7d}{shares}   {', '.join(bounds)}", flush=True)
        _answer(workspace, truth, given.classes)


def _trained(given: argparse.Namespace, root: Path) -> Path:
    from everlearn.model.detecting import yolo
    from everlearn.model.detecting.training import DetectionJob
    from tests.scenes import write

    write(root / "taught", given.taught, given.classes, given.side)
    write(root / "chosen", given.taught // 4, given.classes, given.side, first=10_000)
    data = root / "data.yaml"
    sides = {"train": [f"{root}/taught/images"], "val": [f"{root}/chosen/images"]}
    data.write_text(json.dumps({"names": given.classes, **sides}))
    job = DetectionJob(
        "yolo11n.yaml", tuple(given.classes), str(data), str(root / "run"), size=given.side, epochs=given.epochs,
        batch=8, patience=0, seed=given.seed, plots=False,
    )  # fmt: skip
    return yolo.train(job).best


def _automatic(workspace: Workspace) -> dict[str, Scene]:
    """What was labelled by itself."""
    from everlearn.catalog import samples, scenes
    from everlearn.catalog.tables import sample

    with workspace.catalog.read() as tx:
        ids = [one.id for batch in samples.batches(tx, sample.c.label_by == "auto") for one in batch]
        return scenes.of(tx, ids)


def _score(said: dict[str, Scene], truth: dict[str, tuple[Box, ...]]) -> tuple[int, int, int]:
    """Boxes written, boxes that are right, and things that are there."""
    from everlearn.catalog.scenes import overlap
    from everlearn.label.boxes import MATCHED

    boxes = right = things = 0
    for id, shown in said.items():
        left = [box for box in truth[id] if box.label in (shown.about or ())]
        things += len(left)
        boxes += len(shown.boxes)
        for box in shown.boxes:
            match = next((one for one in left if one.label == box.label and overlap(one, box) >= MATCHED), None)
            if match is not None:
                right += 1
                left.remove(match)
    return boxes, right, things


def _answer(workspace: Workspace, truth: dict[str, tuple[Box, ...]], classes: list[str]) -> None:
    """A person answers all that waits."""
    from everlearn.label import person
    from everlearn.types import Scene

    for one in person.waiting(workspace, 1_000_000):
        person.draw(workspace, one.id, Scene(truth[one.id], tuple(classes)), "truth")


if __name__ == "__main__":
    main()

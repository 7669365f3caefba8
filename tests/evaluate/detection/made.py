"""Made-up images and detectors for the tests, and pycocotools' own answer about them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np

from everlearn.evaluate.detection import Seen
from everlearn.types import Box

CLASSES = ("cat", "courier", "parcel")


def images(
    seed: int,
    count: int = 40,
    classes: Sequence[str] = CLASSES,
    *,
    skill: float = 0.8,
    ghosts: float = 1.0,
    grid: int = 0,
    levels: int = 0,
    truth_seed: int | None = None,
) -> list[Seen]:
    """Images with up to six true boxes, and a detector that finds a share `skill` of them, some twice or as another
    class, and `ghosts` more on average. grid: all corners on so many steps, for equal overlaps; levels: so many
    different confidences, for ties. truth_seed: for another detector's answers to the same images."""
    world = np.random.default_rng(seed if truth_seed is None else truth_seed)
    rng = np.random.default_rng(seed + 1)
    made = []
    for number in range(count):
        width, height = (int(side) for side in world.integers(60, 400, 2))
        truth = [_box(world, str(world.choice(classes)), grid) for _ in range(int(world.integers(0, 7)))]
        found = []
        for box in truth:
            for _ in range(int(rng.random() < skill) + int(rng.random() < 0.15)):
                label = box.label if rng.random() < 0.85 else str(rng.choice(classes))
                found.append(_near(rng, box, label, grid, levels))
        found += [
            _near(rng, _box(rng, str(rng.choice(classes)), grid), None, grid, levels)
            for _ in range(int(rng.poisson(ghosts)))
        ]
        made.append(Seen(f"{number:05}", tuple(truth), tuple(found), width, height, f"door {number % 3}"))
    return made


def reference(seen: Sequence[Seen], classes: Sequence[str]):  # type: ignore[no-untyped-def]
    """What pycocotools makes of them: its `COCOeval`, accumulated and summarised."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def entry(box: Box, image: int, one: Seen, number: int) -> dict[str, object]:
        corners = [box.x * one.width, box.y * one.height, box.width * one.width, box.height * one.height]
        known = {"image_id": image, "category_id": classes.index(box.label) + 1, "bbox": corners, "id": number}
        known |= {"area": corners[2] * corners[3], "iscrowd": 0}
        return known if box.confidence is None else known | {"score": box.confidence}

    ordered = sorted(seen, key=lambda one: one.id)
    truth = [(box, i, one) for i, one in enumerate(ordered, 1) for box in one.truth if box.label in classes]
    found = [(box, i, one) for i, one in enumerate(ordered, 1) for box in one.found if box.label in classes]
    data = {
        "images": [{"id": i, "width": one.width, "height": one.height} for i, one in enumerate(ordered, 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        true, guess = COCO(), COCO()
        true.dataset = data | {"annotations": [entry(*t, n) for n, t in enumerate(truth, 1)]}
        guess.dataset = data | {"annotations": [entry(*f, n) for n, f in enumerate(found, 1)]}
        true.createIndex()
        guess.createIndex()
        judged = COCOeval(true, guess, "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return judged


def _box(rng: np.random.Generator, label: str, grid: int) -> Box:
    side = rng.choice([0.1, 0.3, 0.8])
    values = [rng.random() * 0.7, rng.random() * 0.7, 0.05 + rng.random() * side, 0.05 + rng.random() * side]
    if grid:
        values = [round(v * grid) / grid for v in values[:2]] + [max(1, round(v * grid)) / grid for v in values[2:]]
    return Box(label, *(float(v) for v in values))


def _near(rng: np.random.Generator, box: Box, label: str | None, grid: int, levels: int) -> Box:
    shift = rng.normal(0, rng.choice([0.0, 0.02, 0.1]), 4) * [box.width, box.height, box.width, box.height]
    values = np.array([box.x, box.y, box.width, box.height]) + shift
    if grid:
        values = np.round(values * grid) / grid
    sure = rng.integers(1, levels + 1) / levels if levels else rng.random()
    return Box(label or box.label, *(float(v) for v in values[:2]), *(float(abs(v)) for v in values[2:]), float(sure))

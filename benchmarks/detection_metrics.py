"""Our detection metrics beside pycocotools': the same work, the time it takes, the largest difference.

    pip install pycocotools
    python benchmarks/detection_metrics.py [--images 1000] [--classes 20] [--ghosts 20] [--rounds 3] [--tide]
        [--simulate 200]

The images and the detectors are made up (`tests/evaluate/detection/made.py`). Both sides get boxes in memory and give
mAP50-95, mAP50 and the mAP of small, medium and large boxes; pycocotools' time is of `evaluate`, `accumulate` and
`summarize`, without building its index; ours begins with the boxes as they are. They take turns. With --simulate, how
often two detectors of the same skill are told apart, a class or camera of them is called harmed, and an interval misses
the mAP of 10,000 images.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from everlearn.evaluate.detection import Seen, compare_detection, detection
from everlearn.evaluate.detection.errors import KINDS, errors
from everlearn.evaluate.detection.matching import matched
from everlearn.evaluate.detection.metrics import map_by_size
from everlearn.evaluate.detection.precision import mean_over_classes, rankings
from tests.evaluate.detection.made import CLASSES, images, reference

SKILLS: dict[str, dict[str, float]] = {
    "middling": {"skill": 0.8, "ghosts": 1.0},
    "good": {"skill": 0.97, "ghosts": 0.2},
}


def ours(seen: Sequence[Seen], classes: Sequence[str]) -> np.ndarray:
    """mAP50-95, mAP50, and mAP50-95 of small, medium and large boxes."""
    found = matched(seen, classes)
    average = np.array([one.average_precision(np.ones((len(seen), 1)))[:, 0] for one in rankings(found)])  # (C, T)
    means = mean_over_classes(average)
    return np.array([means.mean(), means[0], *(size.map50_95 for size in map_by_size(found))])


def timed(work: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def beside(seen: Sequence[Seen], classes: Sequence[str], rounds: int) -> None:
    judged = reference(seen, classes)

    def theirs() -> np.ndarray:
        with contextlib.redirect_stdout(io.StringIO()):
            judged.evaluate()
            judged.accumulate()
            judged.summarize()
        return judged.stats[[0, 1, 3, 4, 5]]

    ours(seen[:20], classes)  # libraries are loaded now
    times: dict[str, list[float]] = {"pycocotools": [], "ours": []}
    for _ in range(rounds):
        seconds, want = timed(theirs)
        times["pycocotools"].append(seconds)
        seconds, have = timed(lambda: ours(seen, classes))
        times["ours"].append(seconds)
    whole, _ = timed(lambda: detection(seen, classes))
    boxes = sum(len(one.truth) for one in seen), sum(len(one.found) for one in seen)
    print(f"{len(seen)} images, {len(classes)} classes, {boxes[0]} true and {boxes[1]} found boxes, {rounds} rounds")
    for name, seconds in times.items():
        print(f"  {name:12} {median(seconds):8.2f} s   ({min(seconds):.2f} to {max(seconds):.2f})")
    print(f"  pycocotools takes {median(times['pycocotools']) / median(times['ours']):.1f} times as long")
    print(f"  largest difference of the five figures: {np.abs(np.asarray(want) - np.asarray(have)).max():.1e}")
    print(f"  ours with everything (intervals, cameras, errors, curves): {whole:.2f} s")


def tide(seen: Sequence[Seen], classes: Sequence[str]) -> None:
    """Kinds of errors, and what they cost, beside the authors' code."""
    from tidecv.data import Data
    from tidecv.quantify import TIDE

    truth, guess = Data("truth"), Data("found", max_dets=100)
    for number, name in enumerate(classes):
        truth.add_class(number, name)
        guess.add_class(number, name)
    for image, one in enumerate(seen):
        truth.add_image(image, one.id)
        for box in (*one.truth, *one.found):
            corners = [box.x * one.width, box.y * one.height, box.width * one.width, box.height * one.height]
            if box.confidence is None:
                truth.add_ground_truth(image, classes.index(box.label), corners)
            else:
                guess.add_detection(image, classes.index(box.label), box.confidence, corners)
    judge = TIDE()
    judge.evaluate(truth, guess, mode=TIDE.BOX, pos_threshold=0.5)
    (run,) = judge.runs.values()
    counts = {kind.short_name: len(found) for kind, found in run.error_dict.items()}
    costs = {kind.short_name: cost / 100 for kind, cost in run.fix_main_errors().items()}
    found, _ = errors(matched(seen, classes), np.zeros(len(classes)))
    print(f"{len(seen)} images: errors, and what they cost in mAP50, tidecv's and ours")
    for name, kind in zip(("Miss", "Bkg", "Dupe", "Loc", "Cls", "Both"), KINDS, strict=True):
        print(f"  {kind:12} {counts[name]:6} {found.counts[kind]:6}   {costs[name]:.4f} {found.cost[kind] or 0:.4f}")


def sure(seen: Sequence[Seen], classes: Sequence[str], seed: int) -> list[Seen]:
    """The same boxes with confidences that tell right from wrong, as those of a trained detector do."""
    rng, found = np.random.default_rng(seed), matched(seen, classes)
    said = {
        (int(i), int(row)): float(rng.beta(5, 2) if hit else rng.beta(2, 4))
        for i, row, hit in zip(found.found.image, found.found.row, found.hit[0], strict=True)
    }
    return [
        replace(one, found=tuple(replace(box, confidence=said[i, j]) for j, box in enumerate(one.found)))
        for i, one in enumerate(seen)
    ]


def simulate(times: int) -> None:
    for name, skill in SKILLS.items():
        many = sure(images(10**6, 10_000, **skill), CLASSES, 0)  # type: ignore[arg-type]
        truth = ours(many, CLASSES)[1]
        for count in (30, 100, 300):
            told, harmed, below, above = 0, 0, 0, 0
            for seed in range(times):
                champion, candidate = (
                    sure(images(1000 * seed + k, count, truth_seed=seed, **skill), CLASSES, 1000 * seed + k)  # type: ignore[arg-type]
                    for k in (1, 7)
                )
                found = compare_detection(champion, candidate, CLASSES)
                told += found.p_value <= 0.05
                harmed += bool(found.vetoes)
                figure = detection(champion, CLASSES).map50
                below += truth < (figure.low or 0)
                above += truth > (figure.high or 1)
            print(
                f"{name}, mAP50 {truth:.3f}, {count} images, {times} pairs of equals: p <= 0.05 in {told / times:.1%}, "
                f"a class or camera called harmed in {harmed / times:.1%}; interval wholly above the truth in "
                f"{below / times:.1%}, wholly below in {above / times:.1%}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--ghosts", type=float, default=20.0, help="found boxes that are wrong, on average")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tide", action="store_true", help="kinds of errors beside tidecv (pip install tidecv)")
    parser.add_argument("--simulate", type=int, default=0, metavar="N", help="pairs of detectors for each setting")
    asked = parser.parse_args()
    classes = [f"class{number}" for number in range(asked.classes)]
    if asked.rounds:
        beside(images(1, asked.images, classes, ghosts=asked.ghosts), classes, asked.rounds)
    if asked.tide:
        tide(images(2, asked.images, CLASSES), CLASSES)
    if asked.simulate:
        simulate(asked.simulate)


if __name__ == "__main__":
    main()

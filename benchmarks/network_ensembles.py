"""What it is worth to combine networks, to distil them, and to chain two tasks, on images that nobody had learned.

    python benchmarks/network_ensembles.py shared/data/sign_digits [--seeds 3] [--side 20] [--out FOLDER]

IMAGES: an ImageFolder, of which at most `--most` images are taken. For each seed another random division: half to learn
from, a fifth to choose the best epoch and to fit weights and stacking on, the rest to answer. Everything is trained by
`learn.fit` on the same images, without augmentation, on one core.

Ensembles are of `--members` networks: of different seeds, of bootstrap samples, boosted (SAMME, with fewer epochs: a
network that knows every training image leaves nothing to boost), and the snapshots of one training of as many epochs as
two of the others have. Each is held against its member that is best on the validation side, and against one network.
Distilled: the average of those of different seeds into a small network, beside the same trained alone. Chained: first
whether the number is even, then which, in one network, beside two networks. Differences in points of accuracy, mean
over the seeds (least to most).
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from real_features import folder

from everlearn.learn import ensemble
from everlearn.learn.exact.cached import Cached
from everlearn.learn.fit import Fit, fit
from everlearn.learn.network.bagging import bootstrap, drawn, equal, judged
from everlearn.learn.network.chained import Both, Chained, Joint, answered
from everlearn.learn.network.distilling import Distil, told
from everlearn.learn.network.judging import answers
from everlearn.learn.network.loading import Data
from everlearn.learn.network.recipe import Optimizer, Schedule, Stage
from everlearn.learn.network.runtime import runtime
from everlearn.model.trainable import build

TEACHER, STUDENT = "cnn:depth=3,width=12", "cnn:depth=2,width=6"
Table = NDArray[np.float32]
STAGE = Stage(epochs=12, batch_size=32, optimizer=Optimizer(learning_rate=0.003), schedule=Schedule(name="one_cycle"))


class Sides:
    """One division: what is learned, what chooses, what is answered."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.str_], seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(images))
        a, b = len(images) // 2, len(images) * 7 // 10
        self.classes = tuple(sorted(set(labels.tolist())))
        targets = np.searchsorted(self.classes, labels).astype(np.int64)
        parts = (order[:a], order[a:b], order[b:])
        self.train, self.choose, self.test = (Data(images, targets[rows], self.classes, rows) for rows in parts)
        self.size, self.seed = images.shape[1], seed

    def trained(
        self, spec: str, seed: int, data: Data | None = None, stage: Stage = STAGE, **how: Any
    ) -> tuple[Any, Fit]:
        network = build(spec, classes=len(self.classes), size=self.size, seed=seed)
        return network, fit(network, data or self.train, self.choose, stage, seed=seed, **how)

    def asked(self, networks: Sequence[Any], data: Data) -> list[Table]:
        return [answers(one, data, runtime("no", cpu=True)).numpy() for one in networks]


def right(table: Table, data: Data) -> float:
    return float((table.argmax(1) == data.targets).mean())


def combined(sides: Sides, networks: Sequence[Any], ways: Sequence[str], boosts: Any = None) -> dict[str, Any]:
    """Accuracies on the test part: of each way, and of the member that is best on the validation side."""
    chosen, tested = sides.asked(networks, sides.choose), sides.asked(networks, sides.test)
    rows = len(sides.choose)
    names = [sides.classes[column] for column in sides.choose.targets]
    folds = np.random.default_rng(sides.seed).integers(0, 5, rows)
    cached = Cached([f"{row:06d}" for row in range(rows)], np.zeros((rows, 0), np.int8), names, folds)
    best = int(np.argmax([right(one, sides.choose) for one in chosen]))
    found = {"best member": right(tested[best], sides.test)}
    for way in ways:
        made = ensemble.fit(None, cached, sides.classes, chosen, method=way, boosts=boosts)
        found[way] = right(made.table(tested), sides.test)
    return found


def boosted(sides: Sides, members: int) -> tuple[list[Any], list[float]]:
    networks, votes, weights = [], [], equal(len(sides.train))
    stage = STAGE.model_copy(update={"epochs": 4})
    for member in range(members):
        rows = drawn(weights, sides.seed, member)
        network, _ = sides.trained(TEACHER, 100 * sides.seed + member, sides.train.some(rows), stage)
        hit = sides.asked([network], sides.train)[0].argmax(1) == sides.train.targets
        found = judged(hit, weights, len(sides.classes))
        if not found.helps:
            break
        networks.append(network)
        votes.append(found.weight)
        weights = found.weights
        if found.perfect:
            break
    return networks, votes


def snapshots(sides: Sides, members: int) -> list[Any]:
    stage = STAGE.model_copy(
        update={"epochs": 2 * STAGE.epochs, "snapshots": members, "schedule": Schedule(name="cosine", final=0.0)}
    )
    _, found = sides.trained(TEACHER, sides.seed, stage=stage)
    networks = []
    for weights in found.snapshots:
        network = build(TEACHER, classes=len(sides.classes), size=sides.size)
        network.load_state_dict(weights)
        networks.append(network)
    return networks


def distilled(sides: Sides, teachers: Sequence[Any]) -> dict[str, float]:
    said = np.mean(sides.asked(teachers, sides.train), axis=0)
    seed, test = 7000 + sides.seed, sides.test
    alone, _ = sides.trained(STUDENT, seed)
    taught, _ = sides.trained(STUDENT, seed, told(sides.train, said), method=Distil(4.0, 0.9))
    of_teacher = np.mean(sides.asked(teachers, test), axis=0)
    one, two = sides.asked([alone, taught], test)
    return {"teacher": right(of_teacher, test), "student alone": right(one, test), "distilled": right(two, test)}


def chained(sides: Sides) -> dict[str, float]:
    """Even or odd, then which digit."""
    kinds = np.array([int(name) % 2 for name in sides.classes], np.int64)

    def both(data: Data) -> Both:
        return Both(data.inputs, data.targets, data.classes, data.rows, kinds[data.targets], ("even", "odd"))

    seed, spec = 9000 + sides.seed, TEACHER
    network = Chained(build(spec, classes=2, size=sides.size, seed=seed), len(sides.classes), seed)
    fit(network, both(sides.train), sides.choose, STAGE, seed=seed, method=Joint(network))
    first, second = answered(network, both(sides.test))
    alone, _ = sides.trained(spec, seed)
    first_alone = build(spec, classes=2, size=sides.size, seed=seed)
    parts = [Data(one.inputs, kinds[one.targets], ("even", "odd"), one.rows)
             for one in (sides.train, sides.choose, sides.test)]  # fmt: skip
    fit(first_alone, parts[0], parts[1], STAGE, seed=seed)
    one, two = sides.asked([first_alone], parts[2])[0], sides.asked([alone], sides.test)[0]
    return {
        "first, chained": right(first, parts[2]), "first, own network": right(one, parts[2]),
        "second, chained": right(second, sides.test), "second, own network": right(two, sides.test),
    }  # fmt: skip


def one_seed(
    images: NDArray[np.uint8], labels: NDArray[np.str_], seed: int, members: int
) -> dict[str, dict[str, float]]:
    sides = Sides(images, labels, seed)
    seeds = [sides.trained(TEACHER, 100 * seed + member)[0] for member in range(members)]
    groups = np.arange(len(sides.train))
    drawings = [sides.train.some(bootstrap(groups, seed, member)) for member in range(members)]
    bagged = [sides.trained(TEACHER, 100 * seed + member, one)[0] for member, one in enumerate(drawings)]
    weak, votes = boosted(sides, members)
    ways = ("average", "vote", "majority", "weighted", "stacking")
    found = {
        "seeds": combined(sides, seeds, ways),
        "snapshots": combined(sides, snapshots(sides, members), ("average", "weighted", "stacking")),
        "bagged": combined(sides, bagged, ("average", "majority")),
        "boosted": combined(sides, weak, ("boosted", "average"), votes) if len(weak) > 1 else {},
        "distilled": distilled(sides, seeds),
        "chained": chained(sides),
    }
    found["alone"] = {"one network": right(sides.asked(seeds[:1], sides.test)[0], sides.test)}
    return found


def table(results: Sequence[dict[str, dict[str, float]]]) -> None:
    def row(name: str, values: Sequence[float], *against: tuple[str, Sequence[float]]) -> None:
        said = ""
        for what, base in against:
            gains = [100 * (a - b) for a, b in zip(values, base, strict=True)]
            said += f"   {np.mean(gains):+.2f} ({min(gains):+.2f} to {max(gains):+.2f}) {what}"
        print(f"{name:34}{np.mean(values):.4f}{said}")

    def of(part: str, name: str) -> list[float]:
        return [one[part][name] for one in results if name in one[part]]

    alone = of("alone", "one network")
    row("one network", alone)
    for part in ("seeds", "snapshots", "bagged", "boosted"):
        there = [one for one in results if one[part]]
        if not there:
            print(f"{part}: the first network was right about every training image")
            continue
        for name in there[0][part]:
            values = of(part, name)
            if name == "best member":
                row(f"{part}: best member", values)
            else:
                single = [one["alone"]["one network"] for one in there]
                row(f"{part}: {name}", values, ("best member", of(part, "best member")), ("one network", single))
    row("teacher (average of seeds)", of("distilled", "teacher"))
    row("student alone", of("distilled", "student alone"))
    row("student distilled", of("distilled", "distilled"), ("alone", of("distilled", "student alone")))
    for task in ("first", "second"):
        own = of("chained", f"{task}, own network")
        row(f"{task} task, own network", own)
        row(f"{task} task, chained", of("chained", f"{task}, chained"), ("own network", own))


def plot(results: Sequence[dict[str, dict[str, float]]], path: Path) -> None:
    """Gain of each against its baseline, a point for each seed."""
    from matplotlib.figure import Figure

    pairs = [(part, name, (part, "best member")) for part in ("seeds", "snapshots", "bagged", "boosted")
             for name in results[0][part] if name != "best member"]  # fmt: skip
    pairs += [("distilled", "distilled", ("distilled", "student alone")),
              ("chained", "first, chained", ("chained", "first, own network")),
              ("chained", "second, chained", ("chained", "second, own network"))]  # fmt: skip
    figure = Figure((7, 0.34 * len(pairs) + 1), layout="constrained")
    axes = figure.subplots()
    for place, (part, name, (other, base)) in enumerate(reversed(pairs)):
        gains = [100 * (one[part][name] - one[other][base]) for one in results if name in one[part]]
        axes.plot(gains, [place] * len(gains), "o", color="teal", alpha=0.5)
        axes.plot(np.mean(gains), place, "|", color="black", markersize=14)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks(
        range(len(pairs)), [f"{part}: {name}" if part != name else name for part, name, _ in reversed(pairs)]
    )
    axes.set_xlabel("points of accuracy against the best member (student alone; own network)")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--side", type=int, default=20)
    parser.add_argument("--most", type=int, default=1600)
    parser.add_argument("--out", type=Path, help="folder for table, plot and figures")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pixels, labels = folder(given.images, given.side)
    some = np.random.default_rng(0).permutation(len(pixels))[: given.most]
    images, labels = np.stack([pixels[row] for row in some]), labels[some]
    results, began = [], time.monotonic()
    for seed in range(given.seeds):
        results.append(one_seed(images, labels, seed, given.members))
        print(f"seed {seed}: {time.monotonic() - began:.0f} s so far", flush=True)
    text = io.StringIO()
    with redirect_stdout(text):
        print(f"{given.images.name}: {len(images)} images of {given.side} px, {len(set(labels.tolist()))} classes")
        print(f"{TEACHER}; student {STUDENT}; {given.members} members, {given.seeds} seeds")
        print(f"processor: {time.process_time():.0f} s")
        table(results)
    print(text.getvalue(), end="")
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "network_ensembles.json").write_text(json.dumps(results, indent=1))
        (given.out / "network_ensembles.txt").write_text(text.getvalue())
        plot(results, given.out / "network_ensembles.png")


if __name__ == "__main__":
    main()

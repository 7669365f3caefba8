"""A network that learns ten classes in five steps: Everlearn's methods beside Avalanche's, on the same work in one run.

    python benchmarks/continual_networks.py FILE.npz [--images 12000] [--seeds 3] [--buffer 500] [--epochs 3]
        [--ways replay der++ …] [--network cnn|mlp] [--rate 0.05] [--out FOLDER]

FILE.npz: x_train, y_train, x_test, y_test as MNIST has them. Needs everlearn[avalanche,train].

Both sides have the same images in the same five steps of two classes, the same network with the same first weights (ten
outputs from the start, as Avalanche's have), the same number of stored images, batches of 64 new and 64 old images,
the same epochs, and SGD without momentum, which has no state that one side could keep and the other not. No
augmentation. The order of the images and what is stored is each side's own draw. Everlearn's buffer lies on disk. What
is published is compared with what is published; `+prior` beside it takes out how often a class is in a batch
(Everlearn's default for DER++). Avalanche's EWC and LwF have the strengths of benchmarks/class_incremental.py,
Everlearn's their defaults; `joint` learns all ten classes at once. Accuracy and forgetting are on the test images, by
one function for both; seconds are those of learning on one thread.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import random
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.training.supervised import DER, EWC, JointTraining, LwF
from avalanche.training.supervised import Naive as Naively
from avalanche.training.supervised import Replay as ER
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import TensorDataset

from everlearn.learn.network.continual.derpp import DerPlusPlus
from everlearn.learn.network.continual.ewc import Ewc
from everlearn.learn.network.continual.experiences import Learned, learn_one, together
from everlearn.learn.network.continual.lwf import Lwf
from everlearn.learn.network.continual.method import Method, answers, pixels, shown
from everlearn.learn.network.continual.naive import Naive
from everlearn.learn.network.continual.replay import Replay
from everlearn.learn.network.continual.reservoir import Reservoir, budget_for
from everlearn.learn.network.loading import Data
from everlearn.learn.network.recipe import Optimizer, Schedule, Stage

BATCH = 64
STEPS = 5
OURS = ("naive", "ewc", "lwf", "replay", "replay+prior", "der++", "der+++prior", "joint")


def archive(path: Path, images: int) -> tuple[list[Data], list[Data]]:
    """Five steps of training and test images; the first so many of a fixed order."""
    with np.load(path, allow_pickle=False) as file:
        sides = [(file[f"x_{part}"], file[f"y_{part}"].astype(np.int64)) for part in ("train", "test")]
    order = np.random.default_rng(0).permutation(len(sides[0][0]))[:images]
    (x, y), test = sides
    return split(x[order], y[order]), split(*test)


def split(x: NDArray[np.uint8], y: NDArray[np.int64]) -> list[Data]:
    per_step = (int(y.max()) + 1) // STEPS
    names = tuple(str(one) for one in range(per_step * STEPS))
    x = np.repeat(x[..., None], 3, axis=3)  # (N, S, S, 3)
    return [Data(x[y // per_step == step], y[y // per_step == step], names) for step in range(STEPS)]


def network(kind: str, side: int, classes: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    if kind == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(3 * side**2, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
            nn.Linear(256, classes),
        )  # fmt: skip
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * (side // 4) ** 2, 128), nn.ReLU(), nn.Linear(128, classes),
    )  # fmt: skip


def everlearn(way: str, train: list[Data], test: list[Data], given: argparse.Namespace, seed: int) -> dict[str, Any]:
    stage = Stage(
        epochs=given.epochs, batch_size=BATCH, schedule=Schedule(name="constant"),
        optimizer=Optimizer(name="sgd", learning_rate=given.rate, momentum=0, weight_decay=0),
    )  # fmt: skip
    shape, classes = train[0].inputs.shape[1:], len(train[0].classes)
    net, prior = network(given.network, shape[0], classes, seed), way.endswith("+prior")
    with tempfile.TemporaryDirectory() as folder:
        budget = budget_for(given.buffer, shape, width=classes if way.startswith("der") else 0)
        stored = Reservoir(Path(folder) / "reservoir", budget, shape, seed=seed)
        methods: dict[str, Callable[[], Method]] = {
            "ewc": lambda: Ewc(seed=seed),
            "lwf": Lwf,
            "replay": lambda: Replay(stored, batch=BATCH, prior=prior, seed=seed),
            "der++": lambda: DerPlusPlus(stored, batch=BATCH, prior=prior, seed=seed),
        }
        method = methods.get(way.removesuffix("+prior"), Naive)()
        if way == "joint":
            train, test = [together(train)], [together(test)]
        found = walk(net, test, lambda step: learn_one(net, train[step], None, stage, method, seed=1000 * seed + step))
        return {**found, "stored": len(stored)}


def avalanche(way: str, train: list[Data], test: list[Data], given: argparse.Namespace, seed: int) -> dict[str, Any]:
    shape, classes = train[0].inputs.shape[1:], len(train[0].classes)
    net = network(given.network, shape[0], classes, seed)
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "naive": (Naively, {}),
        "ewc": (EWC, {"ewc_lambda": 100.0}),
        "lwf": (LwF, {"alpha": 1.0, "temperature": 2.0}),
        "replay": (ER, {"mem_size": given.buffer}),
        "der++": (DER, {"mem_size": given.buffer, "alpha": 0.1, "beta": 0.5}),
        "joint": (JointTraining, {}),
    }
    kind, options = kinds[way]
    strategy = kind(
        model=net, optimizer=torch.optim.SGD(net.parameters(), given.rate), criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH, train_epochs=given.epochs, evaluator=None, **options,
    )  # fmt: skip
    sets = [
        TensorDataset(pixels(one.inputs), torch.from_numpy(one.targets)) for one in (together(train), together(test))
    ]
    stream = nc_benchmark(
        *sets, STEPS, task_labels=False, shuffle=False, fixed_class_order=list(range(classes))
    ).train_stream  # fmt: skip
    torch.manual_seed(1000 * seed)  # of the order of the images, and of what is stored
    random.seed(1000 * seed)
    if way == "joint":
        return {**walk(net, [together(test)], lambda _: strategy.train(stream, eval_streams=[])), "stored": 0}
    found = walk(net, test, lambda step: strategy.train(stream[step], eval_streams=[]))
    return {**found, "stored": given.buffer if "mem_size" in options else 0}


def walk(net: nn.Module, test: list[Data], teach: Callable[[int], object]) -> dict[str, Any]:
    """Learn step after step, the same way for both sides; what came of it, and what it took."""
    accuracy = np.full((len(test),) * 2, np.nan)
    wall, processor = np.zeros(len(test)), 0.0
    for step in range(len(test)):
        start, start_processor = time.perf_counter(), time.process_time()
        teach(step)
        wall[step] = time.perf_counter() - start
        processor += time.process_time() - start_processor
        for before, one in enumerate(test[: step + 1]):
            accuracy[step, before] = np.mean(answers(net, shown(one)).argmax(1).numpy() == one.targets)
    found = Learned(accuracy, wall)
    return {
        "accuracy": found.final, "forgetting": found.forgetting, "seconds": float(wall.sum()),
        "processor": processor, "curve": np.nanmean(accuracy, axis=1).tolist(),
    }  # fmt: skip


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Means over the seeds, in the order of the ways; the ratios are of the processor's seconds, theirs to ours."""
    lines = [
        "| method | Everlearn | Avalanche | difference | forgetting | | seconds | | times as fast |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]

    def of(name: str, key: str) -> NDArray[np.float64]:
        return np.array([one[key] for one in results.get(name, [])])

    for way in OURS:
        mine, theirs = f"everlearn {way}", f"avalanche {way.removesuffix('+prior')}"
        if mine not in results or theirs not in results:
            continue
        apart = of(mine, "accuracy") - of(theirs, "accuracy")
        spread = apart.std(ddof=1) / len(apart) ** 0.5 if len(apart) > 1 else 0.0
        fields = [f"{of(one, 'accuracy').mean():.4f}" for one in (mine, theirs)]
        fields += [f"{apart.mean():+.4f} ± {spread:.4f}"]
        fields += [f"{of(one, 'forgetting').mean():.3f}" for one in (mine, theirs)]
        fields += [f"{of(one, 'processor').mean():.1f}" for one in (mine, theirs)]
        fields += [f"{of(theirs, 'processor').mean() / of(mine, 'processor').mean():.1f}"]
        lines.append(f"| {way} | {' | '.join(fields)} |")
    return "\n".join(lines)


def plot(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for way in OURS:
        for side, style in (("everlearn", "-"), ("avalanche", "--")):
            runs = results.get(f"{side} {way}", [])
            if not runs:
                continue
            colour = f"C{[one.removesuffix('+prior') for one in OURS].index(way.removesuffix('+prior'))}"
            width = 2.5 if way.endswith("+prior") else 1.2
            curve = np.mean([one["curve"] for one in runs], axis=0)
            label = way if side == "everlearn" else None
            if len(curve) > 1:
                left.plot(range(1, len(curve) + 1), curve, style, color=colour, linewidth=width, label=label)
            else:
                left.axhline(curve[0], linestyle=style, color="grey", linewidth=0.8, label=label)
            spent, good = (np.mean([one[key] for one in runs]) for key in ("processor", "accuracy"))
            right.plot(spent, good, "o" if side == "everlearn" else "x", color=colour)
            right.annotate(way, (spent, good), xytext=(4, -2), textcoords="offset points", fontsize=7)
    left.set(xlabel="steps learned (- - Avalanche)", ylabel="accuracy on them", ylim=(0, 1.02), xticks=range(1, 6))
    right.set(xlabel="processor seconds (x Avalanche)", ylabel="accuracy at the end", ylim=(0, 1.02), xscale="log")
    left.legend(fontsize=7, ncols=2, loc="lower left")
    figure.savefig(path, dpi=110)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("data", type=Path)
    ask.add_argument("--images", type=int, default=12_000)
    ask.add_argument("--seeds", type=int, default=3)
    ask.add_argument("--buffer", type=int, default=500, help="images stored")
    ask.add_argument("--epochs", type=int, default=3, help="a step")
    ask.add_argument("--rate", type=float, default=0.05)
    ask.add_argument("--network", choices=("cnn", "mlp"), default="cnn")
    ask.add_argument("--ways", nargs="+", choices=OURS, default=OURS)
    ask.add_argument("--out", type=Path, help="folder for table, plot and figures")
    given = ask.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # of Avalanche: loggers, class orders
    train, test = archive(given.data, given.images)
    few = [one.some(np.arange(2 * BATCH)) for one in train]
    for side in (everlearn, avalanche):
        side("replay", few, few, given, 0)  # libraries are loaded before the clock runs
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in range(given.seeds):
        for way in given.ways:
            for side in (everlearn, avalanche):
                if side is avalanche and way.endswith("+prior"):
                    continue
                found = side(way, train, test, given, seed)
                results.setdefault(f"{side.__name__} {way}", []).append(found)
                print(f"{seed} {side.__name__:9} {way:14} {json.dumps(found)}", flush=True)
    print(table(results))
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "continual.json").write_text(json.dumps(results, indent=1))
        (given.out / "continual.md").write_text(table(results) + "\n")
        plot(results, given.out / "continual.png")


if __name__ == "__main__":
    main()

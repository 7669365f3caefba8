"""Classes that come a few at a time: the exact memory beside Avalanche's strategies, on the same stream in one run.

    python benchmarks/class_incremental.py FILE.npz|FOLDER … [--out FOLDER] [--strategies exact replay-2000 …]
        [--step 2] [--orders 1] [--backbone patches:small] [--dimensions 2048] [--width 0.6] [--last] [--epochs 1]

FILE.npz: x_train, y_train, x_test, y_test as MNIST has them. FOLDER: an ImageFolder, or two in `train` and `test`; with
one alone a fifth is the test part, by the files' SHA-256. Needs everlearn[avalanche].

Peers are a small network (two convolutions, two linear layers; Adam at 1e-3, batches of 64) for one epoch a step, or
--epochs, with the class number known in advance; `joint` trains three times as many epochs on all classes at once;
Streaming LDA works on grey pixels, at 28 x 28. Seconds are those of learning, of the exact memory's with a head solved
after every step; beside them those of the processor, over all cores, which other work on the machine disturbs less.
Accuracy is on the test part of all classes after the last step, forgetting Avalanche's (Chaudhry et al. 2018). Runs add
to what --out holds, so that strategies can be run one by one; the table and the plot there are of all of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import DER, EWC, GDumb, JointTraining, LwF, Naive, Replay, StreamingLDA
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import TensorDataset

from everlearn import image
from everlearn.integrations.avalanche import ExactStrategy
from everlearn.model.basis import WIDTH
from everlearn.model.graph import threads
from everlearn.model.pixels import prepare

BUFFERS = (200, 500, 2000)
SIDE = 32
LDA_PIXELS = 28
Data = tuple[torch.Tensor, torch.Tensor]


def archive(path: Path) -> tuple[Data, Data]:
    with np.load(path, allow_pickle=False) as file:
        sides = [(file[f"x_{part}"], file[f"y_{part}"]) for part in ("train", "test")]
    return tuple((_tensor(x), torch.from_numpy(np.asarray(y, np.int64))) for x, y in sides)  # type: ignore[return-value]


def folder(root: Path) -> tuple[Data, Data]:
    parts = [root / "train", root / "test"] if (root / "train").is_dir() and (root / "test").is_dir() else [root]
    files = [path for part in parts for path in sorted(part.rglob("*")) if path.suffix.lower()[1:] in image.ENDINGS]
    names = sorted({path.parent.name for path in files})
    pixels, labels, test = [], [], []
    for path in files:
        data = path.read_bytes()
        pixels.append(prepare([image.decode(data, max_pixels=image.MAX_PIXELS).pixels], SIDE)[0])
        labels.append(names.index(path.parent.name))
        by_hash = hashlib.sha256(data).digest()[0] < 51
        test.append(by_hash if len(parts) == 1 else parts[1] in path.parents)
    x, y, side = _tensor(np.stack(pixels)), torch.tensor(labels), torch.tensor(test)
    return (x[~side], y[~side]), (x[side], y[side])


def _tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    """(N, H, W) or (N, H, W, 3) -> (N, C, H, W) in [0, 1]."""
    channels = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(channels)).float() / 255


def network(shape: tuple[int, ...], classes: int) -> nn.Module:
    torch.manual_seed(0)
    flat = 64 * (shape[1] // 4) * (shape[2] // 4)
    return nn.Sequential(
        nn.Conv2d(shape[0], 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(flat, 128), nn.ReLU(), nn.Linear(128, classes),
    )  # fmt: skip


class Pixels(nn.Module):
    """Grey pixels, at most 28 x 28: what Streaming LDA works on."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grey = x.mean(1, keepdim=True)
        return nn.functional.interpolate(grey, size=(LDA_PIXELS, LDA_PIXELS), mode="area").flatten(1)


def strategies(
    shape: tuple[int, ...], classes: int, rows: int, given: argparse.Namespace
) -> dict[str, tuple[int, Callable[..., Any]]]:
    """Name -> (stored images, how to make it)."""

    def trained(kind: Any, epochs: int = given.epochs, **options: Any) -> Callable[..., Any]:
        def make(**common: Any) -> Any:
            model = network(shape, classes)
            optimizer = torch.optim.Adam(model.parameters(), 1e-3)
            return kind(model=model, optimizer=optimizer, criterion=nn.CrossEntropyLoss(), train_epochs=epochs,
                        train_mb_size=64, eval_mb_size=512, **options, **common)  # fmt: skip

        return make

    found: dict[str, tuple[int, Callable[..., Any]]] = {
        "exact": (0, partial(ExactStrategy, backbone=given.backbone, dimensions=given.dimensions, width=given.width)),
        "naive": (0, trained(Naive)),
        "ewc": (0, trained(EWC, ewc_lambda=100.0)),
        "lwf": (0, trained(LwF, alpha=1.0, temperature=2.0)),
        "slda": (0, partial(StreamingLDA, slda_model=Pixels(), criterion=nn.CrossEntropyLoss(),
                            input_size=LDA_PIXELS**2, num_classes=classes, train_mb_size=512, eval_mb_size=512)),
    }  # fmt: skip
    for size in BUFFERS:
        found[f"replay-{size}"] = (size, trained(Replay, mem_size=size))
        found[f"der++-{size}"] = (size, trained(DER, mem_size=size, alpha=0.1, beta=0.5))
        found[f"gdumb-{size}"] = (size, trained(GDumb, mem_size=size, epochs=given.gdumb_epochs))
    found["joint"] = (rows, trained(JointTraining, epochs=3 * given.epochs))
    return found


def measure(
    make: Callable[..., Any], train: Data, test: Data, order: list[int], step: int, last: bool
) -> dict[str, Any]:
    """Learn the stream; what came of it. last: evaluate at the end alone."""
    evaluator = EvaluationPlugin(accuracy_metrics(stream=True), forgetting_metrics(stream=True), loggers=[])
    one = make(evaluator=evaluator)
    together = isinstance(one, JointTraining)
    stream = nc_benchmark(
        TensorDataset(*train), TensorDataset(*test), len(order) // step, task_labels=False, shuffle=False,
        fixed_class_order=order,
    )  # fmt: skip
    wall = processor = 0.0
    curve = []
    for number, experience in enumerate(stream.train_stream):
        start, start_processor = time.perf_counter(), time.process_time()
        one.train(stream.train_stream if together else experience)
        waits = last and not together and number + 1 < len(order) // step
        if isinstance(one, ExactStrategy) and not waits:
            one.model.solve()
        wall, processor = wall + time.perf_counter() - start, processor + time.process_time() - start_processor
        if waits:
            continue
        known = stream.test_stream if together else stream.test_stream[: number + 1]
        figures = one.eval(known)
        curve.append(figures["Top1_Acc_Stream/eval_phase/test_stream/Task000"])
        if together:
            break
    return {
        "accuracy": curve[-1],
        "forgetting": None if together or last else figures["StreamForgetting/eval_phase/test_stream"],
        "seconds": wall,
        "processor": processor,
        "curve": curve,
        "digest": one.digest() if isinstance(one, ExactStrategy) else None,
    }


def table(results: dict[str, Any]) -> str:
    lines = [
        "| strategy | accuracy | forgetting | seconds | of the processor | stored images |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, one in sorted(results.items(), key=lambda item: -item[1]["accuracy"]):
        forgotten = "" if one["forgetting"] is None else f"{one['forgetting']:.3f}"
        lines.append(
            f"| {name} | {one['accuracy']:.4f} | {forgotten} | {one['seconds']:.0f} | {one['processor']:.0f} "
            f"| {one['stored']:,} |"
        )
    return "\n".join(lines)


def plot(results: dict[str, Any], step: int, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, one in sorted(results.items(), key=lambda item: -item[1]["accuracy"]):
        known = [step * (number + 1) for number in range(len(one["curve"]))]
        style: dict[str, Any] = {"linewidth": 2.5, "color": "black"} if name == "exact" else {"linewidth": 1}
        if len(one["curve"]) < 2:
            left.axhline(one["accuracy"], linestyle=":", color="grey", label=name)
            drawn = right.plot(one["processor"], one["accuracy"], "x", color="grey")
        else:
            (line,) = left.plot(known, one["curve"], marker=".", label=name, **style)
            drawn = right.plot(one["processor"], one["accuracy"], "o", color=line.get_color())
        right.annotate(name, drawn[0].get_xydata()[0], xytext=(4, -2), textcoords="offset points", fontsize=7)
    left.set(xlabel="classes learned", ylabel="accuracy on them", ylim=(0, 1))
    right.set(xlabel="processor seconds of learning", ylabel="accuracy at the end", ylim=(0, 1.02), xscale="log")
    left.legend(fontsize=7, ncols=2, loc="lower left")
    figure.savefig(path, dpi=110)


def learn(path: Path, given: argparse.Namespace) -> None:
    """All strategies asked for on one data set; prints the table."""
    train, test = (archive if path.suffix == ".npz" else folder)(path)
    classes = int(train[1].max()) + 1
    if classes % given.step:
        raise SystemExit(f"{path}: {classes} classes are not steps of {given.step}.")
    known = strategies(tuple(train[0].shape[1:]), classes, len(train[0]), given)
    if unknown := set(given.strategies or ()) - set(known):
        raise SystemExit(f"there is no {', '.join(sorted(unknown))}; choose from {', '.join(known)}.")
    kept = given.out / f"{path.stem}.json" if given.out else None
    results = json.loads(kept.read_text()) if kept and kept.exists() else {}
    for name in given.strategies or known:
        stored, make = known[name]
        digests = set()
        for number in range(given.orders if name == "exact" else 1):
            order = list(range(classes)) if not number else np.random.default_rng(number).permutation(classes).tolist()
            found = {**measure(make, train, test, order, given.step, given.last), "stored": min(stored, len(train[0]))}
            digests.add(found["digest"])
            results[name] = results[name] if number else found
            print(f"{name:12} {order} {json.dumps(found)}", flush=True)
        if len(digests) > 1:
            raise SystemExit(f"{len(digests)} digests of {given.orders} orders")
        if kept:
            given.out.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(results, indent=1))
            kept.with_suffix(".md").write_text(table(results) + "\n")
            plot(results, given.step, kept.with_suffix(".png"))
    print(f"{path.stem}\n{table(results)}", flush=True)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("data", type=Path, nargs="+")
    ask.add_argument("--out", type=Path, help="folder for table, plot and figures")
    ask.add_argument("--strategies", nargs="+", help="all where left out")
    ask.add_argument("--step", type=int, default=2, help="classes a step")
    ask.add_argument("--orders", type=int, default=1, help="class orders of `exact`, whose digests must be equal")
    ask.add_argument("--backbone", default="patches:small")
    ask.add_argument("--dimensions", type=int, default=2048)
    ask.add_argument("--width", type=float, default=WIDTH, help="of the exact memory's kernel")
    ask.add_argument("--last", action="store_true", help="evaluate (and solve) after the last step only")
    ask.add_argument("--epochs", type=int, default=1, help="of the peers, a step")
    ask.add_argument("--gdumb-epochs", type=int, default=10)
    given = ask.parse_args()
    torch.set_num_threads(threads())
    warnings.filterwarnings("ignore")  # of Avalanche: loggers, class orders
    for path in given.data:
        learn(path, given)


if __name__ == "__main__":
    main()

"""Images a second of a training epoch: Everlearn and the plain timm training script, on the same network and images.

    python benchmarks/training_throughput.py FOLDER --script TRAIN.PY [--size 64] [--batch 32] [--epochs 3] [--rounds 3]
                                             [--networks resnet10t mobilenetv3_small_050]

FOLDER: images in a folder for each class. TRAIN.PY: timm's own script, which is not part of its package:
https://github.com/huggingface/pytorch-image-models/blob/main/train.py

In one run, taking turns, on the CPU, from scratch, plain SGD, no augmentation: timm's script on the images as they are
(it decodes and resizes them in its workers, as people run it), the same on images that lie there in the right size
already, Everlearn's epochs, and Everlearn's with the backbone frozen, which is gone through once and not in every
epoch. Rates are medians over all epochs but each run's first, of the training part alone; timm's are those that it
prints. `data alone`: batches prepared and thrown away.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

WORKERS = 2  # timm's processes that prepare images


def images_in(folder: Path) -> list[tuple[Path, str]]:
    """Every image and its class, in an order that is the same everywhere."""
    kinds = (".jpg", ".jpeg", ".png")
    return sorted((one, one.parent.name) for one in folder.glob("*/*") if one.suffix.lower() in kinds)


def folders(images: Sequence[tuple[Path, str]], at: Path, size: int | None) -> Path:
    """train/CLASS and validation/CLASS, as timm reads them; size: None for the files as they are. Every fifth image is
    for validation."""
    for number, (path, label) in enumerate(images):
        to = at / ("validation" if number % 5 == 0 else "train") / label / f"{number}{path.suffix.lower()}"
        to.parent.mkdir(parents=True, exist_ok=True)
        if size is None:
            to.symlink_to(path.resolve())
        else:
            cv2.imwrite(str(to), cv2.resize(cv2.imread(str(path)), (size, size), interpolation=cv2.INTER_AREA))
    return at


def of_timm(script: Path, data: Path, network: str, options: argparse.Namespace) -> list[float]:
    """Images/s of each epoch, as the script prints them at the end of it."""
    size, classes = options.size, len(list((data / "train").iterdir()))
    with tempfile.TemporaryDirectory() as out:
        words = [
            sys.executable, script, "--data-dir", data, "--model", network, "--num-classes", classes, "--device", "cpu",
            "--input-size", 3, size, size, "-b", options.batch, "--epochs", options.epochs, "--no-aug",
            "--opt", "momentum", "--lr", 0.01, "--warmup-epochs", 0, "-j", WORKERS, "--log-interval", 1,
            "--output", out,
        ]  # fmt: skip
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    found = re.findall(r"Train: (\d+) \[.*?\((?:[\d.]+)s, +([\d.]+)/s\)", done.stdout + done.stderr)
    if done.returncode or not found:
        raise SystemExit(f"timm's script failed:\n{done.stderr[-2000:]}")
    return [float(rate) for rate in dict(found).values()]  # the last line of each epoch has its mean


def arrays(images: Sequence[tuple[Path, str]], size: int) -> Any:
    """What Everlearn reads in every epoch: each image decoded and made a square once."""
    from everlearn.learn.network.loading import Data

    classes = tuple(sorted({label for _, label in images}))
    squares = [cv2.resize(cv2.imread(str(path))[:, :, ::-1], (size, size), interpolation=cv2.INTER_AREA)
               for path, _ in images]  # fmt: skip
    targets = np.array([classes.index(label) for _, label in images], np.int64)
    data = Data(np.stack(squares), targets, classes)
    number = np.arange(len(images))
    return data.some(number[number % 5 != 0]), data.some(number[number % 5 == 0])


def ours(network: str, data: Any, options: argparse.Namespace, *, frozen: bool = False) -> tuple[list[float], float]:
    """Images/s of each epoch, and the seconds before the first, in which a frozen backbone was gone through."""
    from everlearn.learn.fit import Quiet
    from everlearn.learn.network.recipe import Optimizer, Recipe, Stage
    from everlearn.learn.network.staged import Job, train
    from everlearn.model.trainable import build

    class Clock(Quiet):
        def __init__(self) -> None:
            self.rates: list[float] = []
            self.begun = self.last = self.first = 0.0

        def begin(self, stage: Any, facts: dict[str, Any]) -> None:
            self.begun = self.first = time.perf_counter()

        def step(self, *told: Any) -> None:
            self.last = time.perf_counter()

        def epoch(self, found: Any) -> None:
            self.rates.append(len(data[0]) / (self.last - self.begun))
            self.begun = time.perf_counter()

    spec, clock = f"timm:{network}?pretrained=no", Clock()
    settings = Optimizer(name="sgd", learning_rate=0.01, weight_decay=2e-5)
    epochs = options.epochs * (10 if frozen else 1)
    stage = Stage(epochs=epochs, batch_size=options.batch, optimizer=settings, freeze="backbone" if frozen else "none")
    recipe = Recipe(network=spec, size=options.size, stages=(stage,))
    made = build(spec, classes=len(data[0].classes), size=options.size)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        train(Job(recipe, Path(folder), {}), made, *data, lambda settings: None, watch=clock)
    return clock.rates, clock.first - began


def data_alone(data: Any, options: argparse.Namespace) -> float:
    from everlearn.learn.network.loading import batches
    from everlearn.learn.network.recipe import Stage

    began = time.perf_counter()
    for epoch in range(5):
        for _, _batch in batches(data[0], Stage(batch_size=options.batch), 0, epoch):
            pass
    return float(5 * len(data[0]) / (time.perf_counter() - began))


def timm_alone(folder: Path, options: argparse.Namespace) -> float:
    import torch
    from timm.data import create_dataset, create_loader

    made = create_dataset("", root=str(folder), split="train", is_training=True, batch_size=options.batch)
    loader = create_loader(
        made, (3, options.size, options.size), options.batch, is_training=True, no_aug=True, num_workers=WORKERS,
        device=torch.device("cpu"), use_prefetcher=True,
    )  # fmt: skip
    began = 0.0
    for epoch in range(3):
        began = time.perf_counter() if epoch == 1 else began
        for _ in loader:
            pass
    return float(2 * len(made) / (time.perf_counter() - began))


def main() -> None:
    parse = argparse.ArgumentParser(description="Images a second of a training epoch, beside timm's script.")
    parse.add_argument("folder", type=Path)
    parse.add_argument("--script", type=Path, required=True)
    parse.add_argument("--images", type=int, default=None, help="only so many, drawn by chance")
    parse.add_argument("--size", type=int, default=64)
    parse.add_argument("--batch", type=int, default=32)
    parse.add_argument("--epochs", type=int, default=3)
    parse.add_argument("--rounds", type=int, default=3)
    parse.add_argument("--networks", nargs="*", default=["resnet10t", "mobilenetv3_small_050"])
    options = parse.parse_args()

    images = images_in(options.folder)
    images = sorted(random.Random(0).sample(images, min(options.images or len(images), len(images))))
    data = arrays(images, options.size)
    print(f"{len(data[0])} images at {options.size} px, batch {options.batch}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as scratch:
        plain = folders(images, Path(scratch) / "plain", None)
        sized = folders(images, Path(scratch) / "sized", options.size)
        for network in options.networks:
            rates: dict[str, list[float]] = {"timm": [], "timm, sized": [], "everlearn": [], "everlearn, frozen": []}
            before: list[float] = []
            for _ in range(options.rounds):
                rates["timm"] += of_timm(options.script, plain, network, options)[1:]
                rates["everlearn"] += ours(network, data, options)[0][1:]
                rates["timm, sized"] += of_timm(options.script, sized, network, options)[1:]
                frozen, seconds = ours(network, data, options, frozen=True)
                rates["everlearn, frozen"] += frozen[1:]
                before.append(seconds)
            base = {name: statistics.median(rates[name]) for name in rates}
            print(f"{network}")
            for name, rate in base.items():
                over = f"{rate / base['timm']:.2f} x timm, {rate / base['timm, sized']:.2f} x timm, sized"
                print(f"  {name:<18} {rate:8.0f} images/s  {over if name.startswith('ever') else ''}".rstrip())
            print(f"  the frozen backbone is gone through once, in {statistics.median(before):.1f} s")
        print("data alone")
        for name, rate in (("timm", timm_alone(plain, options)), ("timm, sized", timm_alone(sized, options)),
                           ("everlearn", data_alone(data, options))):  # fmt: skip
            print(f"  {name:<18} {rate:8.0f} images/s")


if __name__ == "__main__":
    main()

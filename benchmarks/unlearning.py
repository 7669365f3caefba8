"""What forgetting one of 100 classes costs, beside learning all the others again from their images.

    python benchmarks/unlearning.py FILE.npz [--images 60000] [--dimensions 4096] [--repeat 3] [--out FILE.png]

FILE.npz: x_train, y_train as MNIST has them. Each class is divided into ten by a hash, so that there are 100; one of
them goes. Both sides end with the same digest, which is checked. Features are the default's, `patches`; forgetting
takes them from the cache, as a workspace does. Seconds are medians; learning again is done once.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.fit import fit
from everlearn.learn.exact.memory import ExactMemory
from everlearn.model.backbone import load_backbone
from everlearn.model.basis import DIMENSIONS, Basis

FOLDS = 5


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--dimensions", type=int, default=DIMENSIONS)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, help="A picture of the seconds.")
    given = parser.parse_args()

    with np.load(given.file, allow_pickle=False) as file:
        rng = np.random.default_rng(0)
        chosen = rng.permutation(len(file["y_train"]))[: given.images]
        images, digits = list(file["x_train"][chosen]), file["y_train"][chosen]
    labels = np.array([f"{digit}{part}" for digit, part in zip(digits, rng.integers(0, 10, len(digits)))])
    folds = rng.integers(0, FOLDS, len(labels))
    gone, stay = np.flatnonzero(labels == "77"), np.flatnonzero(labels != "77")
    basis = Basis(load_backbone("patches"), dimensions=given.dimensions)
    basis.phi(images[:1])

    took: dict[str, float] = {}
    phi = np.empty((len(images), given.dimensions), np.int8)

    def extract(rows: np.ndarray) -> None:
        phi[rows] = basis.phi([images[row] for row in rows])

    def held(rows: np.ndarray) -> Cached:
        return Cached([f"{row:08d}" for row in rows], phi[rows], labels[rows].tolist(), folds[rows])

    again = ExactMemory(basis.digest, given.dimensions, FOLDS)
    took["features of 99 classes, from images"] = seconds(lambda: extract(stay))
    took["sums of 99 classes"] = seconds(lambda: again.add(phi[stay], labels[stay].tolist(), folds[stay]))
    rest = held(stay)
    head = took["head, chosen and calibrated by folds"] = seconds(lambda: fit(again, rest))
    retrain = took["features of 99 classes, from images"] + took["sums of 99 classes"]

    extract(gone)
    full = copy.deepcopy(again)
    full.add(phi[gone], labels[gone].tolist(), folds[gone])
    times = []
    for _ in range(given.repeat):
        memory = copy.deepcopy(full)
        times.append(seconds(lambda: memory.subtract(phi[gone], labels[gone].tolist(), folds[gone])))  # noqa: B023
        assert memory.digest() == again.digest(), "the digests differ"
    forget = took["one class taken out of the sums"] = statistics.median(times)

    print(f"{len(images)} images, 100 classes, D = {given.dimensions}; {len(gone)} images forgotten, digests equal")
    for name, value in took.items():
        print(f"{name:40}{value:9.3f} s")
    print(f"{'ratio, to sums that never saw it':40}{retrain / forget:9.1f}")
    print(f"{'ratio, to a model that answers':40}{(retrain + head) / (forget + head):9.1f}")
    if given.out:
        draw(took, given.out)


def draw(took: dict[str, float], out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(took), list(took.values()))
    axes.bar_label(bars, fmt="%.3g s", padding=3)
    axes.set_xscale("log")
    axes.set_xlabel("seconds")
    axes.invert_yaxis()
    axes.margins(x=0.15)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()

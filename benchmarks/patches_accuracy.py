"""How accurate the default model is, with nothing downloaded: `patches`, exact memory, defaults throughout.

    python benchmarks/patches_accuracy.py FOLDER|FILE.npz … [--dimensions 4096]

FOLDER: an ImageFolder; five 80/20 splits s = 0..4, named by the files' own SHA-256: a file is in the test part of split
s where (h * (2 s + 1) + 7919 s) mod 65536 < 13107, h its first 16 bits. FILE.npz: x_train, y_train, x_test, y_test as
MNIST has them. The strength of the ridge, the head and the temperature come from the training part's folds.
Peer: the same memory on one linear map of the raw pixels (32x32, random signs).
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from everlearn import image
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.fit import fit
from everlearn.learn.exact.memory import ExactMemory
from everlearn.model.backbone import Rows, load_backbone
from everlearn.model.basis import DIMENSIONS, Basis
from everlearn.model.pixels import prepare

FOLDS = 5


def accuracy(phi: NDArray[np.int8], labels: Sequence[str], keys: NDArray[np.int64], test: NDArray[np.bool_]) -> float:
    """Learn what is not `test` and answer for what is. keys: 32 random bits of each sample, which name its fold."""
    train = np.flatnonzero(~test)
    names, folds = [labels[row] for row in train], keys[train] // 65536 % FOLDS
    memory = ExactMemory("benchmark", phi.shape[1], FOLDS)
    memory.add(phi[train], names, folds)
    head = fit(memory, Cached([str(row) for row in train], phi[train], names, folds)).head
    answers = np.array(head.classes)[head.scores(phi[test]).argmax(1)]
    return float((answers == np.array(labels)[test]).mean())


def folder(root: Path, bases: dict[str, Basis]) -> None:
    files = sorted(path for path in root.rglob("*") if path.suffix.lower().lstrip(".") in image.ENDINGS)
    data = [path.read_bytes() for path in files]
    keys = np.array([int.from_bytes(hashlib.sha256(one).digest()[:4], "big") for one in data], np.int64)
    side = keys >> 16
    keys = (keys & 65535) * 65536 + side
    images = [prepare([image.decode(one, max_pixels=image.MAX_PIXELS).pixels], 100)[0] for one in data]
    labels = [path.parent.name for path in files]
    for name, basis in bases.items():
        phi, rate = timed(basis, images)
        found = [accuracy(phi, labels, keys, (side * (2 * s + 1) + 7919 * s) % 65536 < 13107) for s in range(5)]
        parts = " ".join(f"{one:.4f}" for one in found)
        print(f"{root.name:12} {name:10} {np.mean(found):.4f}  ({parts})  {rate:.0f} images/s", flush=True)


def archive(path: Path, bases: dict[str, Basis]) -> None:
    with np.load(path, allow_pickle=False) as file:
        images = [*file["x_train"], *file["x_test"]]
        labels = [str(one) for one in (*file["y_train"], *file["y_test"])]
        test = np.arange(len(images)) >= len(file["x_train"])
    keys = np.random.default_rng(0).integers(0, 1 << 32, len(images))
    for name, basis in bases.items():
        phi, rate = timed(basis, images)
        print(f"{path.stem:12} {name:10} {accuracy(phi, labels, keys, test):.4f}  {rate:.0f} images/s", flush=True)


def timed(basis: Basis, images: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.int8], float]:
    basis.phi(images[:1])
    start = time.perf_counter()
    phi = basis.phi(images)
    return phi, len(images) / (time.perf_counter() - start)


class RawPixels(Rows):
    """The peer: grey pixels at 32x32, no patches."""

    def prepare(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        grey = prepare(images, 32).mean(axis=3).reshape(len(images), -1)
        return super().prepare(list(grey - grey.mean(1, keepdims=True)))


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("data", nargs="+", type=Path)
    ask.add_argument("--dimensions", type=int, default=DIMENSIONS)
    ask.add_argument("--no-peer", action="store_true")
    given = ask.parse_args()
    bases = {"patches": Basis(load_backbone("patches"), dimensions=given.dimensions)}
    if not given.no_peer:
        bases["raw pixels"] = Basis(RawPixels(), dimensions=given.dimensions)
    for path in given.data:
        (archive if path.suffix == ".npz" else folder)(path, bases)


if __name__ == "__main__":
    main()

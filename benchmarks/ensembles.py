"""What combining memories over several backbones is worth on images that nobody had learned.

    EVERLEARN_WEIGHTS=FOLDER python benchmarks/ensembles.py IMAGES --backbone patches --backbone onnx:FILE?…

IMAGES: an ImageFolder, of which at most `--most` images are taken. Five random divisions into 80 % to learn and 20 % to
answer. Each member is an exact memory with its defaults; how they are combined is fitted on out-of-fold answers of the
learning side alone, and so is the choice of `auto`. Differences are to the member that is best on the learning side's
folds, over the five divisions: mean, least and most, in points of accuracy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from real_features import folder

from everlearn.learn import ensemble
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.fit import Fitted, fit
from everlearn.learn.exact.memory import ExactMemory
from everlearn.model.backbone import load_backbone
from everlearn.model.basis import Basis

FOLDS = 5


def learned(phi: NDArray[np.int8], labels: list[str], folds: NDArray[np.int64]) -> tuple[ExactMemory, Cached, Fitted]:
    memory = ExactMemory("benchmark", phi.shape[1], FOLDS)
    memory.add(phi, labels, folds)
    cached = Cached([f"{row:06d}" for row in range(len(phi))], phi, labels, folds)
    return memory, cached, fit(memory, cached)


def divided(phis: list[NDArray[np.int8]], labels: NDArray[np.str_], seed: int) -> tuple[list[float], dict[str, float]]:
    """Test accuracies of the members, and of each way to combine them."""
    rng = np.random.default_rng(seed)
    test = rng.random(len(labels)) < 0.2
    names, folds = labels[~test].tolist(), rng.integers(0, FOLDS, (~test).sum())
    each = [learned(phi[~test], names, folds) for phi in phis]
    classes = each[0][2].head.classes
    held_out = [found.held_out.probabilities() for *_, found in each if found.held_out is not None]
    tables = [found.head.probabilities(phi[test]) for phi, (*_, found) in zip(phis, each, strict=True)]
    memory, cached, first = each[0]
    wanted = labels[test]

    def accuracy(table: NDArray[np.floating]) -> float:
        return float((np.array(classes)[table.argmax(axis=1)] == wanted).mean())

    found = {}
    for method in (*ensemble.METHODS, "auto"):
        how = ensemble.fit(memory, cached, classes, held_out, first.alpha, method)
        found[method] = accuracy(how.table(tables, phis[0][test]))
    best = int(np.argmax([right.mean() for right in how.members]))
    return [accuracy(table) for table in tables] + [accuracy(tables[best])], found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--backbone", action="append", required=True)
    parser.add_argument("--most", type=int, default=3000)
    given = parser.parse_args()
    images, labels = folder(given.images, 128)
    some = np.random.default_rng(0).permutation(len(images))[: given.most]
    images, labels = [images[row] for row in some], labels[some]
    phis = [Basis(load_backbone(spec)).phi(images) for spec in given.backbone]
    results = [divided(phis, labels, seed) for seed in range(5)]

    print(f"{given.images.name}: {len(images)} images, {len(set(labels.tolist()))} classes")
    for at, spec in enumerate(given.backbone):
        print(f"{spec.partition('?')[0]:48}{np.mean([members[at] for members, _ in results]):.4f}")
    for method in (*ensemble.METHODS, "auto"):
        gains = [100 * (found[method] - members[-1]) for members, found in results]
        shown = f"{np.mean(gains):+.2f} ({min(gains):+.2f} to {max(gains):+.2f})"
        print(f"{method:48}{np.mean([found[method] for _, found in results]):.4f}   {shown}")


if __name__ == "__main__":
    main()

"""What int8 costs: out-of-fold scores of the exact estimators and of the same ridge on float64 features.

    python benchmarks/quantisation_loss.py [--repeat 5]

Both sides standardise, and choose their penalty on the same folds. Accuracy, or R² for the regressions, in points; mean
over random samplings of nine tenths of the rows. `wild` is synthetic in the manner of covtype: features of scales from
0.01 to 1,000 with offsets, and binary ones. Beside the loss without any setting: with the user's scales, in one plane
and in two.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets

from everlearn import ExactClassifier, ExactRegressor


def wild() -> tuple[NDArray, NDArray]:
    rng = np.random.default_rng(0)
    x, y = datasets.make_classification(6000, 54, n_informative=20, n_classes=7, random_state=0)
    x = x * 10 ** rng.uniform(-2, 3, 54) + 10 ** rng.uniform(-1, 3, 54) * rng.integers(0, 2, 54)
    x[:, 40:] = x[:, 40:] > np.median(x[:, 40:], axis=0)
    return x, y


def tasks() -> Iterator[tuple[str, NDArray, NDArray, bool]]:
    for name in ("digits", "breast_cancer", "wine"):
        yield name, *getattr(datasets, f"load_{name}")(return_X_y=True), True
    yield "wild", *wild(), True
    yield "diabetes", *datasets.load_diabetes(return_X_y=True), False
    yield "diabetes, unscaled", *datasets.load_diabetes(return_X_y=True, scaled=False), False


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    print(f"{'':20}{'float64':>9}{'loss':>9}{'scale, 1':>10}{'scale, 2':>10}")
    for name, x, y, classify in tasks():
        made = ExactClassifier if classify else ExactRegressor
        scale = np.abs(x).max(axis=0) + 1e-9
        found = []
        for seed in range(repeat):
            rows = np.random.default_rng(seed).permutation(len(x))[: len(x) * 9 // 10]
            kinds = [made(), made(scale=scale, planes=1), made(scale=scale, planes=2)]
            losses = [model.quantisation_loss(x[rows], y[rows]) for model in kinds]
            found.append([losses[0]["float64"], *(loss["loss"] for loss in losses)])
        mean = 100 * np.mean(found, axis=0)
        print(f"{name:20}{mean[0]:9.2f}{mean[1]:9.2f}{mean[2]:10.2f}{mean[3]:10.2f}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()

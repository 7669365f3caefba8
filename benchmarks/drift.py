"""A world that changes: accuracy on each next image before it is learned, with fading and without, beside River.

    python benchmarks/drift.py [--rows 3000] [--seed 0]

The stream: scikit-learn's digits (64 pixels), drawn with repetition, in portions of 20. `turned`: after each third of
the stream every label means the next digit. `shuffled`: after each third, a third of the pixels change places.
`still`: nothing changes. Figures: accuracy in %, over the whole stream, and milliseconds a row. Peers: River's softmax
regression behind its scaler, and ADWIN bagging of three of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from everlearn import ExactClassifier, FadingClassifier

PORTION = 20
Stream = tuple[NDArray, NDArray]


def streams(rows: int, seed: int) -> Iterator[tuple[str, Stream]]:
    rng = np.random.default_rng(seed)
    x, y = load_digits(return_X_y=True)
    drawn = rng.integers(0, len(y), rows)
    x, y = x[drawn], y[drawn]
    third = np.minimum(np.arange(rows) * 3 // rows, 2)
    yield "still", (x, y)
    yield "turned", (x, (y + third) % 10)
    places = np.tile(np.arange(64), (3, 1))
    for turn in (1, 2):
        moved = rng.permutation(64)[:21]
        places[turn:, moved] = places[turn, np.roll(moved, 1)]
    yield "shuffled", (np.stack([row[places[turn]] for row, turn in zip(x, third)]), y)


class OfRiver:
    """A River classifier, row by row."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def partial_fit(self, x: NDArray, y: NDArray) -> None:
        for row, label in zip(x, y):
            self.model.learn_one(dict(enumerate(row.tolist())), int(label))

    def predict(self, x: NDArray) -> NDArray:
        return np.array([self.model.predict_one(dict(enumerate(row.tolist()))) for row in x])


def models() -> Iterator[tuple[str, Any]]:
    from river import ensemble, linear_model, preprocessing

    yield "ExactClassifier", ExactClassifier(head="ridge", keep=0)
    for half_life in (100, 300, 1000):
        yield f"Fading, half-life {half_life}", FadingClassifier(half_life=half_life)
    softmax = preprocessing.StandardScaler() | linear_model.SoftmaxRegression()
    yield "River softmax", OfRiver(softmax.clone())
    yield "River ADWIN bagging", OfRiver(ensemble.ADWINBaggingClassifier(softmax.clone(), n_models=3, seed=0))


def progressive(model: Any, x: NDArray, y: NDArray) -> float:
    right = 0
    for start in range(0, len(y), PORTION):
        rows = slice(start, start + PORTION)
        if start:
            right += int((model.predict(x[rows]) == y[rows]).sum())
        model.partial_fit(x[rows], y[rows])
    return right / (len(y) - PORTION)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    worlds = dict(streams(given.rows, given.seed))
    print(f"{'':24}" + "".join(f"{name:>10}" for name in worlds) + f"{'ms a row':>10}")
    made = [[*models()] for _ in worlds]
    for number, (title, _) in enumerate(made[0]):
        begun = time.perf_counter()
        found = [progressive(made[at][number][1], x, y) for at, (x, y) in enumerate(worlds.values())]
        spent = 1000 * (time.perf_counter() - begun) / (given.rows * len(worlds))
        print(f"{title:24}" + "".join(f"{100 * one:10.1f}" for one in found) + f"{spent:10.2f}", flush=True)


if __name__ == "__main__":
    main()

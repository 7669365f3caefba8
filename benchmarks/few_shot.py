"""How soon a new class counts: accuracy with one and five rows of two new classes, and what the old ones keep.

    python benchmarks/few_shot.py [--faces FOLDER] [--images FOLDER] [--weights FOLDER] [--draws 10] [--shots 1 5]

Half of each old class is learned at first; then the few rows of two new classes come by `partial_fit`. Tested on all
the rest, all classes competing; means over random draws of classes and rows (a third as many draws above 500 features).
Peers, on the same features in the same run, learn all at once: nearest class mean, scikit-learn's LDA with shrinkage,
logistic regression. Features: small digits always; faces by MobileFaceNet and images by MobileNetV2 and `patches`,
where their folders and the weights' are named.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from real_features import Task, tasks
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid

from everlearn import ExactClassifier

PEERS: dict[str, Callable[[], Any]] = {
    "nearest class mean": NearestCentroid,
    "LDA, shrinkage": lambda: LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=None),
    "LDA, equal priors": lambda: LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=np.full(10, 0.1)),
    "logistic regression": lambda: LogisticRegression(max_iter=200),
}


def ours(head: str) -> Callable[..., Any]:
    def learn(x: NDArray, y: NDArray, new: NDArray) -> ExactClassifier:
        model = ExactClassifier(head=head, scale=float(np.abs(x).max()), planes=1).fit(x[~new], y[~new])
        model.predict(x[:1])
        return model.partial_fit(x[new], y[new])

    return learn


def draw(x: NDArray, y: NDArray, shots: int, seed: int) -> tuple[NDArray, NDArray, NDArray]:
    """(rows to learn, those of them that are new, rows to test)."""
    rng = np.random.default_rng(seed)
    order, late = rng.permutation(len(y)), rng.permutation(np.unique(y))[:2]
    rows = {label: order[y[order] == label] for label in np.unique(y)}
    half = {label: len(found) // 2 for label, found in rows.items()}
    learned = [found[: min(shots, half[label]) if label in late else half[label]] for label, found in rows.items()]
    tested = [found[half[label] :] for label, found in rows.items()]
    train = np.concatenate(learned)
    return train, np.isin(y[train], late), np.concatenate(tested)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--faces", type=Path)
    ask.add_argument("--images", type=Path)
    ask.add_argument("--weights", type=Path)
    ask.add_argument("--draws", type=int, default=10)
    ask.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    given = ask.parse_args()
    for task in tasks(given.faces, given.images, given.weights):
        report(task, given.draws if task[1].shape[1] <= 500 else -(-given.draws // 3), given.shots)


def report(task: Task, draws: int, shots: list[int]) -> None:
    name, x, y = task
    print(f"\n{name}, {len(x)} x {x.shape[1]}, {draws} draws")
    print(f"{'new / old classes':22}" + "".join(f"{f'{k}-shot':>16}" for k in shots), flush=True)
    makers: dict[str, Callable[..., Any]] = {f"ours, {head}": ours(head) for head in ("auto", "ridge")}
    makers |= {peer: lambda x, y, new, make=make: make().fit(x, y) for peer, make in PEERS.items()}
    for maker, learn in makers.items():
        line = f"{maker:22}"
        for count in shots:
            found = []
            for seed in range(draws):
                train, new, test = draw(x, y, count, seed)
                right = learn(x[train], y[train], new).predict(x[test]) == y[test]
                late = np.isin(y[test], np.unique(y[train][new]))
                found.append((right[late].mean(), right[~late].mean()))
            line += "{:>9.1f} / {:.1f}".format(*(100 * np.mean(found, axis=0)))
        print(line, flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()

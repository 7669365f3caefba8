"""Known or unknown: half of the classes are learned, the others come as strangers.

    python benchmarks/open_set.py [--faces FOLDER] [--images FOLDER] [--weights FOLDER] [--mnist FILE.npz] [--draws 10]

Half of the rows of each known class are learned; the rest of them, and all rows of the other classes, are tested.
AUROC; FRR: share of the known refused at the threshold that lets 1 % of the tested strangers pass; means over random
draws (a third as many above 500 features). Last, what `unknown=0.01` gives without having seen a stranger: the
share of strangers that pass, of the known that are refused, and what it had promised from the rows it learned.
Peers, on the same features in the same run: the largest probability of a logistic regression, Mahalanobis distance and
relative Mahalanobis distance (arXiv:2106.09022) by scikit-learn's LedoitWolf covariance, LocalOutlierFactor,
IsolationForest. MNIST: 3,000 images, raw pixels of unit length.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from real_features import Task, tasks
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import LocalOutlierFactor

from everlearn import ExactClassifier
from everlearn.learn.exact.openset import curve, separation

ASKED = 0.01
Scorer = Callable[[NDArray, NDArray, NDArray], NDArray]


def softmax(x: NDArray, y: NDArray, test: NDArray) -> NDArray:
    return LogisticRegression(max_iter=200).fit(x, y).predict_proba(test).max(axis=1)


def mahalanobis(x: NDArray, y: NDArray, test: NDArray) -> NDArray:
    means = {label: x[y == label].mean(axis=0) for label in np.unique(y)}
    found = LedoitWolf(assume_centered=True).fit(x - np.stack([means[label] for label in y]))
    return -np.min([found.mahalanobis(test - mean) for mean in means.values()], axis=0)


def relative(x: NDArray, y: NDArray, test: NDArray) -> NDArray:
    return mahalanobis(x, y, test) + LedoitWolf().fit(x).mahalanobis(test)


def outlier_factor(x: NDArray, y: NDArray, test: NDArray) -> NDArray:
    return LocalOutlierFactor(novelty=True).fit(x).score_samples(test)


def forest(x: NDArray, y: NDArray, test: NDArray) -> NDArray:
    return IsolationForest(random_state=0).fit(x).score_samples(test)


PEERS: dict[str, Scorer] = {
    "largest probability": softmax,
    "Mahalanobis": mahalanobis,
    "relative Mahalanobis": relative,
    "LocalOutlierFactor": outlier_factor,
    "IsolationForest": forest,
}


def draw(y: NDArray, seed: int) -> tuple[NDArray, NDArray, NDArray]:
    """(rows to learn, known rows to test, strangers to test)."""
    rng = np.random.default_rng(seed)
    labels, order = rng.permutation(np.unique(y)), rng.permutation(len(y))
    known = labels[: len(labels) // 2]
    rows = [order[y[order] == label] for label in known]
    learned, tested = ([found[part(len(found))] for found in rows] for part in (_first, _second))
    return np.concatenate(learned), np.concatenate(tested), np.flatnonzero(~np.isin(y, known))


def _first(count: int) -> slice:
    return slice(0, count // 2)


def _second(count: int) -> slice:
    return slice(count // 2, count)


def report(task: Task, draws: int) -> None:
    name, x, y = task
    print(f"\n{name}, {len(x)} x {x.shape[1]}, {draws} draws", flush=True)
    print(f"{'':22}{'AUROC':>8}{'FRR':>8}", flush=True)
    promises = []

    def ours(x: NDArray, y: NDArray, test: NDArray) -> NDArray:
        model = ExactClassifier(unknown=ASKED, scale=float(np.abs(x).max()), planes=1).fit(x, y)
        promises.append(model.unknown_)
        return model.nearness(test)

    seen = []
    for scorer, score in {"ours": ours, **PEERS}.items():
        found = []
        for seed in range(draws):
            train, known, strange = draw(y, seed)
            scores = score(x[train], y[train], x[np.concatenate([known, strange])])
            near, far = scores[: len(known)], scores[len(known) :]
            found.append((separation(near, far), curve(near, far).at(ASKED)))
            if scorer == "ours":
                at = promises[-1].threshold
                seen.append(((far > at).mean(), (near <= at).mean(), promises[-1].promised))
        print("{:22}{:8.3f}{:8.3f}".format(scorer, *np.mean(found, axis=0)), flush=True)
    accepted, refused, promised = np.mean(seen, axis=0)
    print(f"unknown={ASKED}: {accepted:.3f} of strangers accepted, {refused:.3f} of the known refused; ", end="")
    print(f"promised {promised:.3f}", flush=True)


def all_tasks(given: argparse.Namespace) -> Iterator[Task]:
    yield from tasks(given.faces, given.images, given.weights)
    if given.mnist:
        with np.load(given.mnist, allow_pickle=False) as file:
            rows = np.random.default_rng(0).permutation(len(file["y_train"]))[:3000]
            x = file["x_train"][rows].reshape(len(rows), -1).astype(np.float32)
            y = file["y_train"][rows].astype(str)
        yield "mnist, pixels", x / np.linalg.norm(x, axis=1, keepdims=True), y


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--faces", type=Path)
    ask.add_argument("--images", type=Path)
    ask.add_argument("--weights", type=Path)
    ask.add_argument("--mnist", type=Path)
    ask.add_argument("--draws", type=int, default=10)
    given = ask.parse_args()
    for task in all_tasks(given):
        report(task, given.draws if task[1].shape[1] <= 500 else -(-given.draws // 3))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()

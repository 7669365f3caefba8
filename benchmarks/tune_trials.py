"""A search of 20 trials beside a grid of 60 points, on the same small problem: how near does it come to the best?

    python benchmarks/tune_trials.py [--trials 20] [--seeds 5] [--random] [--out FOLDER]

The digits of scikit-learn, of 8 px: 800 to learn from, 500 to choose on; a network of two blocks, six epochs. The
optimizer, the learning rate and the batch are searched: 3 x 5 x 4 points. Grid and search train and score a setting in
the very same way (the same seed, the best epoch on the validation images), and the search is the one of `everlearn
tune`: `learn.search`, with TPE and median pruning; its trial 0 is the shipped recipe `baseline` as it is. --random:
random search beside it, not pruned.

A single training is noisy, and the best of many is lucky. So what each chose is trained again with five other seeds, on
the same images, and scored on the other 497 images, which nothing has seen; the spread of these is the noise.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from everlearn.learn.fit import Epoch, Quiet, fit
from everlearn.learn.network import recipe as recipes
from everlearn.learn.network.loading import Data
from everlearn.learn.search import Pruner, Sampler, Search, Trial
from everlearn.learn.space import Space, space
from everlearn.learn.studies import sqlite
from everlearn.model.trainable import build

NETWORK, SIZE, EPOCHS = "cnn:depth=2,width=8", 8, 6
SPACE = ("learning_rate=0.0001..0.1:log", "batch_size=16,32,64,128", "optimizer.name=sgd,adamw,rmsprop")
AGAIN = 5
"""Other seeds that a chosen setting is trained with."""
WITHIN = 0.005


def sides() -> tuple[Data, Data, Data]:
    """To learn from, to choose on, and to test."""
    held = load_digits()
    drawn = np.random.default_rng(0).permutation(len(held.target))
    images = np.repeat((held.images * 15.9).astype(np.uint8)[..., None], 3, 3)  # (1797, 8, 8, 3)
    names = tuple("0123456789")

    def data(rows: Any) -> Data:
        return Data(images[rows], held.target[rows].astype(np.int64), names)

    return data(drawn[:800]), data(drawn[800:1300]), data(drawn[1300:])


class Prunes(Quiet):
    """Tells a trial each epoch's score."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.epochs, self.pruned = trial, 0, False

    def epoch(self, found: Epoch) -> bool:
        self.epochs += 1
        self.pruned = self.trial.report(self.epochs / EPOCHS, found.val_accuracy)
        return self.pruned


class Problem:
    def __init__(self) -> None:
        self.train, self.validation, self.test = sides()
        changes = [f"network={NETWORK}", f"size={SIZE}", f"stages.*.epochs={EPOCHS}"]
        self.space: Space = space(recipes.changed(recipes.load("baseline"), changes), SPACE)
        self.epochs = 0

    def score(
        self, values: Mapping[str, Any], *, seed: int = 0, trial: Trial | None = None, test: bool = False
    ) -> float:
        """Accuracy of the best epoch on the validation images; test: of that epoch's weights on the test images."""
        stage = self.space.applied(values).stages[0]
        network = build(NETWORK, classes=10, size=SIZE, seed=seed)
        watch = Quiet() if trial is None else Prunes(trial)
        found = fit(network, self.train, self.validation, stage, seed=seed * 1000 + 1, watch=watch)
        self.epochs += len(found.history)
        if not test:
            return found.val_accuracy
        with torch.inference_mode():
            images = self.test.inputs_of(np.arange(len(self.test))).float() / 255
            return float((network.eval()(images).argmax(1).numpy() == self.test.targets).mean())


def searched(
    problem: Problem, trials: int, seed: int, sampler: Sampler, pruner: Pruner, folder: Path
) -> dict[str, Any]:
    began, before = time.perf_counter(), problem.epochs
    url = sqlite(folder / f"{sampler}-{seed}.db")
    search = Search.open(url, "bench", problem.space, sampler=sampler, pruner=pruner, seed=seed)
    search.plan(trials)
    while (trial := search.claim()) is not None:
        value = problem.score({} if trial.number == 0 else trial.values, trial=trial)
        if trial.behind:
            trial.pruned()
        elif np.isfinite(value):
            trial.done(value)
        else:
            trial.failed("diverged")
    best, outcomes = search.best, search.outcomes()
    assert best is not None and best.value is not None
    return {
        "seed": seed, "best": dict(best.values), "value": best.value, "trials": len(outcomes),
        "pruned": sum(one.status == "pruned" for one in outcomes), "epochs": problem.epochs - before,
        "seconds": time.perf_counter() - began, "untuned": outcomes[0].value,
    }  # fmt: skip


def grid(problem: Problem) -> list[dict[str, Any]]:
    found = []
    for values in problem.space.grid():
        value = problem.score(values)
        found.append({"values": values, "value": value if np.isfinite(value) else 0.0})
        print(f"  {said(values)}: {found[-1]['value']:.4f}", flush=True)
    return sorted(found, key=lambda one: -one["value"])


def again(problem: Problem, values: Mapping[str, Any]) -> dict[str, float]:
    """Trained with other seeds: mean and deviation on the test images."""
    scores = [problem.score(values, seed=seed, test=True) for seed in range(1, 1 + AGAIN)]
    return {"test": statistics.mean(scores), "deviation": statistics.stdev(scores)}


def said(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{one:.4g}" if isinstance(one, float) else str(one) for one in values.values())


def picture(points: list[dict[str, Any]], runs: Mapping[str, list[dict[str, Any]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    values = [one["value"] for one in points]
    axes.plot(range(1, len(values) + 1), values, ".", color="#0072B2", label="grid, from best to worst")
    axes.axhline(values[0] - WITHIN, color="#d1d5db", dashes=(4, 3), label="0.5 points below its best")
    for name, colour in zip(runs, ("#D55E00", "#374151"), strict=False):
        best = [one["value"] for one in runs[name]]
        axes.plot([0] * len(best), best, "_", markersize=14, color=colour, label=f"{name}, best of 20, by seed")
    axes.set_xlabel("point of the grid")
    axes.set_ylabel("validation accuracy")
    axes.set_ylim(max(0.0, values[0] - 0.35), values[0] + 0.02)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    problem, began = Problem(), time.perf_counter()
    print("grid: optimizer, learning rate and batch; validation accuracy")
    points = grid(problem)
    whole, best = problem.epochs, points[0]
    print(f"best of {len(points)}: {best['value']:.4f} with {said(best['values'])}; {whole} epochs")
    five = ", ".join(f"{one['value']:.4f}" for one in points[:5])
    print(f"the five best: {five}; the median {points[len(points) // 2]['value']:.4f}")
    runs: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for sampler, pruner in (("tpe", "median"), ("random", "none"))[: 1 + given.random]:
            runs[sampler] = []
            for seed in range(given.seeds):
                runs[sampler].append(one := searched(problem, given.trials, seed, sampler, pruner, Path(folder)))
                print(
                    f"{sampler}, pruner {pruner}, seed {seed}: {one['value']:.4f} with {said(one['best'])}; "
                    f"{one['pruned']} of {one['trials']} pruned, {one['epochs']} epochs", flush=True
                )  # fmt: skip
    untuned = runs["tpe"][0]["untuned"]
    print(f"untuned (trial 0): {untuned:.4f}")
    for name, found in runs.items():
        median = statistics.median(one["value"] for one in found)
        epochs = statistics.median(one["epochs"] for one in found)
        print(
            f"{name}: median of {len(found)} seeds {median:.4f}, {100 * (median - best['value']):+.2f} points against "
            f"the grid's best, with {epochs:.0f} epochs instead of {whole}"
        )
    middle = sorted(runs["tpe"], key=lambda one: one["value"])[given.seeds // 2]
    chosen = {"grid": best["values"], "tpe (the median one)": middle["best"], "untuned": {}}
    fresh = {name: again(problem, values) for name, values in chosen.items()}
    for name, one in fresh.items():
        print(f"{name}, trained with {AGAIN} other seeds: test accuracy {one['test']:.4f} +- {one['deviation']:.4f}")
    good = statistics.median(one["value"] for one in runs["tpe"]) >= best["value"] - WITHIN
    print(f"{'within' if good else 'NOT within'} 0.5 points of the grid's best; {time.perf_counter() - began:.0f} s")
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        values = {"grid": points, "runs": runs, "again": fresh, "untuned": untuned, "grid_epochs": whole}
        (given.out / "tune_trials.json").write_text(json.dumps(values, indent=1))
        picture(points, runs, given.out / "tune_trials.png")


if __name__ == "__main__":
    main()

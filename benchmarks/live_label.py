"""How soon a fed-back label is live: from `partial_fit` of one row to the answer of `predict`.

    python benchmarks/live_label.py [--dimensions 2048] [--classes 1000] [--rows 20000] [--repeat 20]

Peers, on the same features in the same run: a solve of the same sums at the same penalty (what every label would cost
without the correction), and scikit-learn's SGDClassifier (one step of `partial_fit`, then `predict`), which solves
nothing. Every third label is of a class never seen before. Medians; then the largest difference of a score from the
full solve.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import numpy as np
from sklearn.linear_model import SGDClassifier

from everlearn import ExactClassifier


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=20)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    y = rng.integers(0, options.classes, options.rows)
    centres = rng.normal(size=(options.classes + options.repeat, options.dimensions))

    def rows(labels: np.ndarray) -> np.ndarray:
        return (centres[labels] + 3 * rng.normal(size=(len(labels), options.dimensions))).astype(np.float32)

    x = rows(y)
    model = ExactClassifier(planes=1, scale=16.0, alpha=0.1)
    first = seconds(lambda: model.fit(x, y).predict(x[:1]))
    peer = SGDClassifier(loss="log_loss").partial_fit(x[:2000], y[:2000], np.arange(options.classes + options.repeat))
    live, forgotten, steps = [], [], []
    for turn in range(options.repeat):
        label = np.array([options.classes + turn if turn % 3 == 0 else turn % options.classes])
        row = rows(label)
        live.append(seconds(lambda: model.partial_fit(row, label).predict(row)))  # noqa: B023  called at once
        if turn % 2:
            forgotten.append(seconds(lambda: model.forget(row, label).predict(row)))  # noqa: B023
        steps.append(seconds(lambda: peer.partial_fit(row, label).predict(row)))  # noqa: B023
    fresh = copy.deepcopy(model)
    fresh._learned._solve_again(fresh._learned.ready())
    full = seconds(lambda: fresh._learned._solve_again(fresh._learned.ready()))
    test = rows(rng.integers(0, options.classes, 200))
    difference = float(np.abs(model.decision_function(test) - fresh.decision_function(test)).max())
    median = statistics.median(live)
    print(f"D = {options.dimensions:,}, C = {options.classes:,}, {options.rows:,} rows")
    print(f"{'fit and first answer, s':36}{first:10.2f}")
    for name, value in (
        ("label to answer, s", median),
        ("  the slowest, s", max(live)),
        ("forget one row, to answer, s", statistics.median(forgotten)),
        ("by a full solve, s", full),
        ("  ratio", full / median),
        ("SGDClassifier step and predict, s", statistics.median(steps)),
        ("  ratio", statistics.median(steps) / median),
    ):
        print(f"{name:36}{value:10.3f}")
    print(f"{'largest difference of a score':36}{difference:10.1e}")


if __name__ == "__main__":
    main()

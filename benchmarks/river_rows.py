"""The exact memory as a River estimator beside River's own softmax regression, row by row and in tables.

    python benchmarks/river_rows.py [--rows 3000] [--dimensions 64 512]

The same rows (Gaussian, the label is the largest of ten linear scores, values clipped at 4), as dictionaries made
beforehand; rows per CPU second, so that what else the machine does counts little. `ask and learn`: a prediction before
every row, on 200 rows after the others. Accuracy on 1,000 rows that neither has seen, after one pass.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from river import linear_model

from everlearn.integrations.river import ExactRiverClassifier

CLASSES, TESTED, ASKED = 10, 1000, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[64, 512])
    given = parser.parse_args()
    print("| D | | learn_one | learn_many | ask and learn | accuracy |\n|---|---|---|---|---|---|")
    for dimensions in given.dimensions:
        compare(given.rows, dimensions)


def compare(rows: int, dimensions: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows + TESTED, dimensions)).clip(-4, 4)
    y = (x @ rng.normal(size=(dimensions, CLASSES))).argmax(axis=1)
    dicts, labels = [dict(enumerate(row.tolist())) for row in x], y.tolist()
    table = pd.DataFrame(x)

    ours, theirs, tables = ExactRiverClassifier(), linear_model.SoftmaxRegression(), ExactRiverClassifier()
    one = {name: per_second(rows, partial(learn, model, dicts[:rows], labels[:rows]))
           for name, model in (("ours", ours), ("theirs", theirs))}  # fmt: skip
    many = per_second(rows, lambda: (tables.learn_many(table[:rows], pd.Series(y[:rows])), tables.digest()))
    assert tables.digest() == ours.digest()
    tables.settle()
    right = float((tables.predict_many(table[rows:]).to_numpy() == y[rows:]).mean())
    other = float(np.mean([theirs.predict_one(d) == label for d, label in zip(dicts[rows:], labels[rows:])]))
    asked = slice(rows, rows + ASKED)
    ask = {name: per_second(ASKED, partial(ask_and_learn, model, dicts[asked], labels[asked]))
           for name, model in (("ours", ours), ("theirs", theirs))}  # fmt: skip
    print(f"| {dimensions} | River softmax | {one['theirs']:,.0f}/s | - | {ask['theirs']:,.0f}/s | {other:.3f} |")
    print(f"| {dimensions} | ExactRiverClassifier | {one['ours']:,.0f}/s | {many:,.0f}/s | {ask['ours']:,.0f}/s | "
          f"{right:.3f} |")  # fmt: skip
    print(f"| {dimensions} | ratio | {one['ours'] / one['theirs']:.1f} | {many / one['theirs']:.1f} | "
          f"{ask['ours'] / ask['theirs']:.2f} | |", flush=True)  # fmt: skip


def learn(model: Any, rows: list[Any], labels: list[int]) -> None:
    for row, label in zip(rows, labels):
        model.learn_one(row, label)
    if hasattr(model, "digest"):
        model.digest()  # what waits enters the sums


def ask_and_learn(model: Any, rows: list[Any], labels: list[int]) -> None:
    for row, label in zip(rows, labels):
        model.predict_one(row)
        model.learn_one(row, label)


def per_second(count: int, work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return count / (time.process_time() - began)


if __name__ == "__main__":
    main()

"""How many rows of features a second learners take in as a stream, and how well they answer after one pass.

    python benchmarks/stream_throughput.py [--rows 32768] [--dimensions 2048] [--classes 10] [--mnist FILE.npz]
                                           [--long 1000000] [--out FILE.png]

The same float32 rows, in one run, taking turns portion by portion: `ExactClassifier.partial_fit`, scikit-learn's
`SGDClassifier.partial_fit`, River's `SoftmaxRegression.learn_one` (it has no `learn_many`; few rows, their dicts made
beforehand, not timed), and the bare product of integers that ours cannot do without. Rows/s are medians over portions
of the time on the clock; rows per CPU second do not suffer from what else the machine does. `--mnist`: not drawn
clouds, but random rectified features of MNIST's pixels, its own test part held out; no rows are then drawn.
`--long`: that many rows through a process of its own, with its largest memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch  # the sums go by its int8 product where it is loaded and proves exact
from numpy.typing import NDArray

from everlearn import ExactClassifier
from everlearn.learn.exact.sums import GramSum, int8_product

PORTION = 4096
_KEEP = 0.01  # of the rows, for calibration


class Clouds:
    """Noisy clouds whose noise is correlated, as that of real features is."""

    def __init__(self, dimensions: int, classes: int) -> None:
        rng = np.random.default_rng(0)
        self.means = rng.normal(size=(classes, dimensions)).astype(np.float32) * 0.12
        self.spread = rng.normal(size=(64, dimensions)).astype(np.float32) * 0.5
        self.rng = rng

    def draw(self, rows: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        y = self.rng.integers(0, len(self.means), rows)
        x = self.rng.standard_normal((rows, self.means.shape[1]), np.float32)
        x += self.means[y]
        x += self.rng.standard_normal((rows, 64), np.float32) @ self.spread
        return x, y


def mnist(path: str, dimensions: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """The training part, then the test part."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(784, dimensions)).astype(np.float32) / 28
    with np.load(path) as held:
        for part in ("train", "test"):
            pixels = held[f"x_{part}"].reshape(-1, 784).astype(np.float32) / 255
            order = rng.permutation(len(pixels))  # the file's own order is by class, which no gradient learns from
            yield np.maximum((pixels[order] - 0.13) / 0.31 @ weights, 0), held[f"y_{part}"][order].astype(np.int64)


class Timed:
    """rows/s by the clock (median of calls) and per CPU second (all calls)."""

    def __init__(self) -> None:
        self.speeds: list[float] = []
        self.wall = self.cpu = self.rows = 0.0

    def __call__(self, rows: int, work: Callable[[], object]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        self.speeds.append(rows / wall)
        self.wall, self.cpu, self.rows = self.wall + wall, self.cpu + cpu, self.rows + rows

    @property
    def by_clock(self) -> float:
        return statistics.median(self.speeds)

    @property
    def by_cpu(self) -> float:
        return self.rows / self.cpu


def measure(train: Any, test: Any, river_rows: int, passes: int, out: Path | None) -> None:
    from river import linear_model
    from sklearn.linear_model import SGDClassifier

    (x, y), (xt, yt) = train, test
    classes = np.unique(y)
    ours, sgd, softmax = ExactClassifier(planes=1), SGDClassifier(random_state=0), linear_model.SoftmaxRegression()
    names = ("Everlearn", "scikit-learn SGD", "River softmax", "bare product")
    timed = {name: Timed() for name in names}
    gram = GramSum(x.shape[1])
    portions = range(0, len(x), PORTION)
    each = max(1, river_rows // len(portions))
    seen = 0
    ours.partial_fit(x[:PORTION], y[:PORTION]).forget(x[:PORTION], y[:PORTION])  # the proof of the product is once
    for start in portions:
        a, b = x[start : start + PORTION], y[start : start + PORTION]
        phi = np.clip(np.rint(a * 30), -127, 127).astype(np.int8)
        dicts = [dict(enumerate(row.tolist())) for row in a[:each]]
        timed["Everlearn"](len(a), lambda: ours.partial_fit(a, b))  # noqa: B023  called at once
        timed["scikit-learn SGD"](len(a), lambda: sgd.partial_fit(a, b, classes=classes))  # noqa: B023
        timed["bare product"](len(a), lambda: gram.add(phi))  # noqa: B023
        timed["River softmax"](len(dicts), lambda: [softmax.learn_one(d, c) for d, c in zip(dicts, b.tolist())])  # noqa: B023
        seen += len(dicts)
    settled = Timed()
    settled(len(x), lambda: ours.predict(xt[:1]))
    accuracy = {"Everlearn": ours.score(xt, yt), "scikit-learn SGD": sgd.score(xt, yt)}
    some = min(500, len(xt))
    right = [softmax.predict_one(dict(enumerate(row.tolist()))) == c for row, c in zip(xt[:some], yt[:some].tolist())]
    accuracy["River softmax"] = float(np.mean(right))

    base = timed["River softmax"]
    print(f"{len(x):,} rows of {x.shape[1]:,} features, {len(classes)} classes; int8 product: "
          f"{int8_product(x.shape[1]) is not None}")  # fmt: skip
    print(f"{'':<18}{'rows/s':>10}{'x River':>9}{'rows/CPU s':>12}{'x River':>9}{'accuracy':>10}")
    for name in names:
        one = timed[name]
        share = f"{accuracy[name]:.4f}" if name in accuracy else ""
        print(f"{name:<18}{one.by_clock:>10,.0f}{one.by_clock / base.by_clock:>9,.0f}{one.by_cpu:>12,.0f}"
              f"{one.by_cpu / base.by_cpu:>9,.0f}{share:>10}")  # fmt: skip
    if out:
        draw({name: timed[name].by_clock for name in names}, accuracy, out)
    mine = timed["Everlearn"]
    print(f"River saw {seen} rows. Ours with its first answer, when all is solved: "
          f"{mine.wall + settled.wall:.1f} s, {mine.cpu + settled.cpu:.1f} CPU s")  # fmt: skip
    lean, whole = ExactClassifier(planes=1, keep=_KEEP), Timed()
    for start in portions:
        whole(PORTION, lambda: lean.partial_fit(x[start : start + PORTION], y[start : start + PORTION]))  # noqa: B023
    whole(1, lambda: lean.predict(xt[:1]))
    print(f"Ours with keep={_KEEP}, the same: {whole.wall:.1f} s, {whole.cpu:.1f} CPU s, {lean.score(xt, yt):.4f}")
    sgd_more(sgd, timed["scikit-learn SGD"], train, test, accuracy["Everlearn"], passes)


def sgd_more(sgd: Any, timed: Timed, train: Any, test: Any, wanted: float, passes: int) -> None:
    """More passes until SGD is as accurate."""
    (x, y), (xt, yt) = train, test
    done, best = 1, sgd.score(xt, yt)
    while best < wanted and done < passes:
        timed(len(x), lambda: sgd.partial_fit(x, y))
        done, best = done + 1, max(best, sgd.score(xt, yt))
    reached = "as accurate" if best >= wanted else f"at best {best:.4f}"
    print(f"scikit-learn SGD after {done} passes: {reached}, {timed.wall:.1f} s, {timed.cpu:.1f} CPU s")


def long_stream(rows: int, dimensions: int, classes: int) -> None:
    """One process: learn, answer, and say what it took."""
    clouds, timed = Clouds(dimensions, classes), Timed()
    model = ExactClassifier(planes=1, keep=_KEEP)
    for start in range(0, rows, PORTION):
        x, y = clouds.draw(min(PORTION, rows - start))
        timed(len(x), lambda: model.partial_fit(x, y))  # noqa: B023
    learned = largest_memory()
    xt, yt = clouds.draw(2000)
    accuracy = model.score(xt, yt)
    print(json.dumps({"rows": model.samples_, "rows/s": timed.by_clock, "rows/CPU s": timed.by_cpu,
                      "learned": learned, "peak": largest_memory(), "accuracy": accuracy}))  # fmt: skip


def largest_memory() -> int:
    """Bytes; of this process alone, unlike getrusage, which counts from before it was started."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def draw(rates: dict[str, float], accuracy: dict[str, float], out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2), layout="constrained")
    axes = figure.subplots()
    names = [f"{name} ({accuracy[name]:.3f})" if name in accuracy else name for name in rates]
    axes.bar_label(axes.barh(names, list(rates.values())), fmt="{:,.0f}", padding=3)
    axes.set_xscale("log")
    axes.set_xlabel("rows a second (in brackets: accuracy after one pass)")
    axes.invert_yaxis()
    axes.margins(x=0.15)
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=32_768)
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--river-rows", type=int, default=800)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--mnist")
    parser.add_argument("--out", type=Path, help="A picture of the rows a second.")
    parser.add_argument("--long", type=int, default=0)
    parser.add_argument("--only-long", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_long:
        long_stream(options.only_long, options.dimensions, options.classes)
        return
    if options.mnist:
        train, test = mnist(options.mnist, options.dimensions)
    else:
        clouds = Clouds(options.dimensions, options.classes)
        train, test = clouds.draw(options.rows), clouds.draw(4000)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    measure(train, test, options.river_rows, options.passes, options.out)
    if options.long:
        command = [sys.executable, __file__, "--only-long", str(options.long), "--dimensions", str(options.dimensions)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout)
        print(f"{found['rows']:,} rows in one process (keep={_KEEP}): {found['rows/s']:,.0f} rows/s, "
              f"{found['rows/CPU s']:,.0f} rows/CPU s, accuracy {found['accuracy']:.4f}")  # fmt: skip
        print(f"largest memory: {found['learned'] / 1e9:.2f} GB while learning, {found['peak'] / 1e9:.2f} GB answering")


if __name__ == "__main__":
    main()

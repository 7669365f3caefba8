"""What the exact memory costs against samples N, dimensions D and classes C: learning, solving, its size.

    python benchmarks/cost.py [--out cost.png] [--repeat 3]

One of the three varies at a time, from N = 4,096, D = 1,024, C = 10. Learning is the sums of all rows; solving is the
ridge with its penalty chosen by the folds; size is what is held for the sums. Medians, in seconds and megabytes; the
exponent is the slope over the last doubling or more, on logarithmic axes. Workers: see benchmarks/workers.py.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from everlearn.learn.exact.memory import ExactMemory
from everlearn.learn.exact.solve import ridge

BASE = {"N": 4096, "D": 1024, "C": 10}
VARIED = {"N": (1024, 4096, 16384, 65536), "D": (512, 1024, 2048, 4096), "C": (10, 100, 1000, 4000)}


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cost(samples: int, dimensions: int, classes: int, repeat: int) -> tuple[float, float, float]:
    rng = np.random.default_rng(0)
    phi = rng.integers(-127, 128, (samples, dimensions), dtype=np.int8)
    labels = [f"class {c}" for c in rng.integers(0, classes, samples)]
    folds = rng.integers(0, 5, samples)
    learn, solve = [], []
    for _ in range(repeat):
        memory = ExactMemory("benchmark", dimensions)
        learn.append(seconds(lambda: memory.add(phi, labels, folds)))  # noqa: B023  called at once
        solve.append(seconds(lambda: ridge(memory)))  # noqa: B023
    size = sum(panel.nbytes for gram in memory.gram for panel in gram.panels)
    size += sum(column.nbytes for column in memory.sums.values())
    return statistics.median(learn), statistics.median(solve), size / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    found: dict[str, list[tuple[int, tuple[float, float, float]]]] = {}
    for name, values in VARIED.items():
        found[name] = [(value, cost(*{**BASE, name: value}.values(), given.repeat)) for value in values]
        print(f"{name:>8}{'learn, s':>12}{'solve, s':>12}{'size, MB':>12}")
        for value, costs in found[name]:
            print(f"{value:8,d}" + "".join(f"{one:12.3f}" for one in costs))
        (a, first), (b, last) = found[name][-2:]
        slopes = [np.log(y / x) / np.log(b / a) if x and y else 0.0 for x, y in zip(first, last, strict=True)]
        print(f"{'exponent':>8}" + "".join(f"{one:12.2f}" for one in slopes), flush=True)
    if given.out:
        draw(found, given.out)


def draw(found: dict[str, list[tuple[int, tuple[float, float, float]]]], out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), layout="constrained")
    titles = {"N": "samples", "D": "dimensions", "C": "classes"}
    for axes, (name, points) in zip(figure.subplots(1, 3), found.items(), strict=True):
        for at, label in enumerate(("learn, s", "solve, s", "size, MB")):
            axes.loglog([value for value, _ in points], [costs[at] for _, costs in points], "o-", label=label)
        axes.set_xlabel(titles[name])
        axes.grid(alpha=0.3)
    figure.axes[0].legend(frameon=False)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()

"""How fast the exact memory takes samples in, and what its digest, storage and head cost.

    python benchmarks/memory_sums.py [--dimensions 2048 4096] [--rows 8192] [--repeat 5]

Peer: the same sums in plain float64 (`G += X.T @ X`, `Q += X.T @ Y`), on the same rows in the same run. Medians; the
two take turns, so that whatever else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.fit import fit
from everlearn.learn.exact.memory import ExactMemory

CLASSES = 10


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(dimensions: int, rows: int, repeat: int) -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)
    phi = rng.integers(-127, 128, (rows, dimensions), dtype=np.int8)
    column, folds = rng.integers(0, CLASSES, rows), rng.integers(0, 5, rows)
    labels = [f"class {c}" for c in column]
    memory = ExactMemory("benchmark", dimensions)
    memory.add(phi, labels, folds)
    g, q = np.zeros((5, dimensions, dimensions)), np.zeros((5, dimensions, CLASSES))

    def plain() -> None:
        for fold in range(5):
            x = phi[folds == fold].astype(np.float64)
            g[fold] += x.T @ x
            q[fold] += x.T @ np.eye(CLASSES)[column[folds == fold]]

    def again() -> None:
        memory.subtract(phi, labels, folds)
        memory.add(phi, labels, folds)

    ours, peer = [], []
    for _ in range(repeat):
        empty = ExactMemory("benchmark", dimensions)
        ours.append(seconds(lambda: empty.add(phi, labels, folds)))  # noqa: B023  called at once
        peer.append(seconds(plain))
    one = statistics.median(seconds(lambda: memory.add(phi[:1], labels[:1], folds[:1])) for _ in range(repeat))
    back = statistics.median(seconds(lambda: memory.subtract(phi[:1], labels[:1], folds[:1])) for _ in range(repeat))
    fast, slow = rows / statistics.median(ours), rows / statistics.median(peer)
    table = [
        ("sums, rows/s", f"{fast:,.0f}"),
        ("float64 sums, rows/s", f"{slow:,.0f}"),
        ("ratio", f"{fast / slow:.2f}"),
        ("learn one row, ms", f"{one * 1e3:.1f}"),
        ("unlearn one row, ms", f"{back * 1e3:.1f}"),
    ]
    again()

    def digest() -> None:
        memory._digest = None
        memory.digest()

    table.append(("digest, s", f"{statistics.median(seconds(digest) for _ in range(repeat)):.2f}"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory"
        table.append(("save, s", f"{statistics.median(seconds(lambda: memory.save(path)) for _ in range(repeat)):.2f}"))
        table.append(
            ("load, s", f"{statistics.median(seconds(lambda: ExactMemory.load(path)) for _ in range(repeat)):.2f}")
        )
        table.append(("file, MB", f"{path.stat().st_size / 1e6:.0f}"))
    cached = Cached([f"{i:08}" for i in range(rows)], phi, labels, folds)
    table.append(("fit a head (all folds, three kinds, calibrated), s", f"{seconds(lambda: fit(memory, cached)):.1f}"))
    few = dimensions // 4
    small = ExactMemory("benchmark", dimensions)
    small.add(phi[:few], labels[:few], folds[:few])
    part = Cached([f"{i:08}" for i in range(few)], phi[:few], labels[:few], folds[:few])
    table.append((f"fit a head on {few} samples, s", f"{seconds(lambda: fit(small, part)):.2f}"))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    columns = [measure(d, options.rows, options.repeat) for d in options.dimensions]
    width = max(len(name) for column in columns for name, _ in column)
    print(f"{'D':<{width}}" + "".join(f"{d:>12,}" for d in options.dimensions))
    for row in zip(*columns):
        name = row[0][0] if len({part[0] for part in row}) == 1 else "fit a head on D / 4 samples, s"
        print(f"{name:<{width}}" + "".join(f"{value:>12}" for _, value in row))


if __name__ == "__main__":
    main()

"""How fast the exact memory takes samples in, and what its digest, storage and head cost.

    python benchmarks/memory_sums.py [--dimensions 2048 4096] [--rows 8192] [--repeat 5]

Peer: the same sums in plain float64 (`G += X.T @ X`, `Q += X.T @ Y`), on the same rows in the same run. Medians; all
take turns, so that whatever else the machine does falls on all.

The int8 peak is the best that `torch._int_mm` reaches on one core at shapes that suit it; the share is what learning
(G and the class sums of five folds) makes of it, in operations that are done (`panels`), and in those of the whole
product X.T @ X, of which G's symmetry spares nearly half (`whole`). By CPU seconds, so that what else runs does not
count.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch  # the sums go by its int8 product where it is loaded and proves exact

from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.fit import fit
from everlearn.learn.exact.memory import ExactMemory
from everlearn.learn.exact.sums import int8_product

CLASSES = 10


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def shares(dimensions: int, rows: int, repeat: int) -> list[tuple[str, str]]:
    """Of the machine's int8 peak, by operations (a multiplication and an addition are two) per CPU second."""
    if int8_product(dimensions) is None:
        return [("int8 product", "refused")]
    rng = np.random.default_rng(0)
    phi = rng.integers(-127, 128, (rows, dimensions), dtype=np.int8)
    labels, folds = [f"class {c}" for c in rng.integers(0, CLASSES, rows)], rng.integers(0, 5, rows)
    memory = ExactMemory("benchmark", dimensions)
    memory.add(phi, labels, folds)
    threads = torch.get_num_threads()
    peaks, own = [], []
    for _ in range(repeat):
        torch.set_num_threads(1)
        for m, k, n in ((2048, 1024, 2048), (2048, 4096, 2048), (1024, 2048, 4096), (4096, 2048, 4096)):
            a, b = torch.from_numpy(rng.integers(-127, 128, (m + n, k), dtype=np.int8)).split((m, n))
            torch._int_mm(a, b.t())
            peaks.append(2 * m * k * n / cpu_seconds(lambda: torch._int_mm(a, b.t())))  # noqa: B023  called at once
        torch.set_num_threads(threads)
        own.append(cpu_seconds(lambda: memory.add(phi, labels, folds)))
    done = 2 * rows * sum(panel.size for panel in memory.gram[0].panels)
    peak, spent = max(peaks), statistics.median(own)
    return [
        ("int8 peak, GOP per core and s", f"{peak / 1e9:.0f}"),
        ("share of it, panels", f"{done / spent / peak:.0%}"),
        ("share of it, whole", f"{2 * rows * dimensions**2 / spent / peak:.0%}"),
    ]


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
        *shares(dimensions, rows, repeat),
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

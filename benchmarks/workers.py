"""What a Ray cluster costs and gives: images/s by workers, digests compared, bytes on the wire, the cost of a merge.

    python benchmarks/workers.py [FOLDER] [--images 1000] [--dimensions 4096] [--workers 1 2] [--part 250]

FOLDER: images in folders that are their labels; without one, made-up photos. The peer is the one-process path, on the
same images in the same run. Every worker is warm: it has loaded its libraries and the basis before the clock starts.
"""

from __future__ import annotations

import argparse
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from everlearn import ExactMemory, engine, exact_sums
from everlearn.image import encode_jpeg
from everlearn.learn.extract import Extract, File, Summed, together
from everlearn.model.backbone import load_backbone
from everlearn.model.basis import Basis
from everlearn.stages.summing import MOST_PIXELS, Item, labelled, labelled_by_folder
from everlearn.store import LocalStore


def photos(folder: Path, number: int) -> Path:
    """Made-up photos of 320 x 240 in ten folders."""
    rng = np.random.default_rng(0)
    for n in range(number):
        small = rng.integers(0, 256, (12, 16, 3), np.uint8)
        path = folder / str(n % 10) / f"{n:05}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode_jpeg(small.repeat(20, 0).repeat(20, 1)))
    return folder


def seconds(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Of the clock, of the processors, and what came of it."""
    clock, busy = time.perf_counter(), time.process_time()
    found = work()
    return time.perf_counter() - clock, time.process_time() - busy, found


def size(value: Any) -> int:
    """Bytes of a message, its arrays beside it as Ray sends them."""
    arrays: list[pickle.PickleBuffer] = []
    body = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    return len(body) + sum(array.raw().nbytes for array in arrays)


def by_workers(folder: Path, items: list[Item], basis: Basis, workers: list[int], part: int) -> None:
    exact_sums(folder, items[:32], basis=basis)
    clock, busy, here = seconds(lambda: exact_sums(folder, items, basis=basis, part=part))
    print(f"{'':<22}{'images/s':>10}{'ratio':>8}   digest")
    print(f"{'this process':<22}{len(items) / clock:>10.0f}{1:>8.2f}   {here.digest()[:12]}")
    for number in workers:
        runs = engine.Ray(workers=number)
        start, _, _ = seconds(lambda: exact_sums(folder, items[: 8 * number], basis=basis, engine=runs, part=1))  # noqa: B023
        taken, _, far = seconds(lambda: exact_sums(folder, items, basis=basis, engine=runs, part=part))  # noqa: B023
        runs.close()
        same = "the same" if far.digest() == here.digest() else "ANOTHER"
        name = f"Ray, {number} worker" + "s" * (number > 1)
        print(f"{name:<22}{len(items) / taken:>10.0f}{clock / taken:>8.2f}   {same}   (started in {start:.1f} s)")
    print(f"\n{'images per core-second (processor time, this process)':<62}{len(items) / busy:>10.0f}")


def on_the_wire(folder: Path, items: list[Item], basis: Basis, part: int) -> None:
    empty = ExactMemory(basis.digest, basis.dimensions, 5)
    work = size(Summed(Extract(basis, LocalStore(folder), MOST_PIXELS), empty))
    names = size([File(one.key, one.key) for one in items]) / len(items)
    some = exact_sums(folder, items[:part], basis=basis, part=part)
    merge, _, _ = seconds(lambda: together([some] * 8))
    files = sum((folder / one.key).stat().st_size for one in items) / len(items)
    rng = np.random.default_rng(0)
    phi = rng.integers(-127, 128, (4096, basis.dimensions), dtype=np.int8)
    _, busy, _ = seconds(lambda: empty.add(phi, ["a"] * len(phi), np.arange(len(phi)) % 5))
    listed, _, _ = seconds(lambda: list(labelled(items, 5)))
    rows = [
        ("an image as it lies in the store, bytes", f"{files:,.0f}"),
        (
            "to a worker for each image (its name), bytes",
            f"{names:,.0f}",
        ),
        ("to a worker process once (basis and all), bytes", f"{work:,}"),
        ("phi of an image, where a cache wants it, bytes", f"{basis.dimensions:,}"),
        ("the sums of a part, however many images, bytes", f"{size(some):,}"),
        ("merging a memory into another, s", f"{merge / 8:.3f}"),
        ("names handed out by the driver, images/s", f"{len(items) / listed:,.0f}"),
        ("rows summed per core-second", f"{len(phi) / busy:,.0f}"),
    ]
    for name, value in rows:
        print(f"{name:<62}{value:>14}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--dimensions", type=int, default=4096)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--part", type=int, default=250)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or photos(Path(scratch), options.images)
        there = sorted(labelled_by_folder(LocalStore(folder)))
        items = list(islice(cycle(there), options.images))
        basis = Basis(load_backbone("patches"), dimensions=options.dimensions)
        print(f"{len(items)} images, D = {options.dimensions}, parts of {options.part}, {os.cpu_count()} cores\n")
        by_workers(folder, items, basis, options.workers, options.part)
        on_the_wire(folder, items, basis, options.part)


if __name__ == "__main__":
    main()

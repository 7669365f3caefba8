"""Listing and collecting a bucket of many small objects: how fast, and in how much memory.

    python benchmarks/collect_bucket.py [OBJECTS]        default 20,000

On a real S3 server on this machine (`rclone serve s3`), which takes part of the processors. Printed after each tenth of
the objects: the memory of this process. A second collection of the same bucket fetches nothing.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from everlearn.collect.bucket import BucketSource
from everlearn.collect.options import SourceOptions
from everlearn.config import Config
from everlearn.s3 import Bucket
from everlearn.stages import data
from everlearn.types import SILENT, Silent
from everlearn.workspace import Workspace
from tests import servers


def megabytes() -> float:
    return psutil.Process().memory_info().rss / 1e6


class Told(Silent):
    """Memory and time after each tenth."""

    def __init__(self, total: int) -> None:
        self.began, self.done, self.step, self.next = time.perf_counter(), 0, total // 10, total // 10
        self.seen: list[float] = []

    def task(self, name: str, total: int | None = None) -> Told:
        return self

    def __enter__(self) -> Told:
        return self

    def advance(self, steps: int = 1) -> None:
        self.done += steps
        if self.done >= self.next:
            self.next += self.step
            self.seen.append(megabytes())


def objects(folder: Path, number: int) -> None:
    """PNG files of about 0.7 kB, no two alike, 1,000 in a folder."""
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    picture = bytes(cv2.imencode(".png", pixels)[1])
    for at in range(number):
        if at % 1000 == 0:
            (folder / f"day{at // 1000:03}").mkdir(parents=True)
        (folder / f"day{at // 1000:03}" / f"{at:06}.png").write_bytes(picture + at.to_bytes(8, "big"))


def listed(url: str) -> Iterator[float]:
    for _ in itertools.islice(BucketSource(url, SourceOptions(labels_from="none")).items(), None):
        yield 0.0


def collected(workspace: Workspace, url: str, number: int, what: str) -> None:
    told, asked, read = Told(number), itertools.count(), Bucket.read

    def counted(*arguments: object, **named: object) -> object:
        next(asked)
        return read(*arguments, **named)  # type: ignore[arg-type]

    Bucket.read = counted  # type: ignore[assignment, method-assign]
    before = megabytes()
    came = data.collect(workspace, [url], told, labels_from="none")
    Bucket.read = read  # type: ignore[method-assign]
    seconds = time.perf_counter() - told.began
    print(f"{what}: {came.collected} new, {came.duplicates} known, {next(asked)} fetched in {seconds:.1f} s "
          f"({number / seconds:.0f}/s)")  # fmt: skip
    print(f"  MB before {before:.0f}; after each tenth: {' '.join(f'{one:.0f}' for one in told.seen)}")


def main(number: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "s3"
        root.mkdir()
        with servers.s3(root) as server:
            os.environ.update(server.environment())
            url = server.bucket("many")
            objects(root / "many", number)
            time.sleep(1.5)  # until the server looks at the folder again
            next(listed(url))
            before, began = megabytes(), time.perf_counter()
            found = sum(1 for _ in listed(url))
            seconds = time.perf_counter() - began
            print(f"listing: {found} objects in {seconds:.1f} s ({found / seconds:.0f}/s), "
                  f"MB before {before:.0f}, after {megabytes():.0f}")  # fmt: skip
            workspace = Workspace.create(Path(folder) / "w", Config())
            data.collect(workspace, [f"{url}/day000/000000.png"], SILENT, labels_from="none")
            collected(workspace, url, number, "first collection")
            collected(workspace, url, number, "second collection")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)

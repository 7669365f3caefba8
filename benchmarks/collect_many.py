"""Collecting and validating many small images: files a second, and memory that does not grow with their number.

    python benchmarks/collect_many.py [--more]     N = 10,000 and 50,000; with --more also 100,000

Each N distinct PNG files of 24 x 24 in folders of a temporary directory go through `everlearn collect` and `everlearn
validate`, each in a process of its own, whose peak resident memory is read from the operating system when it ends.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

PER_FOLDER = 1000


def images(root: Path, number: int) -> Path:
    """Sharp, distinct pictures, a thousand a folder."""
    dice = np.random.default_rng(0)
    for n in range(number):
        folder = root / f"{n // PER_FOLDER:04d}"
        if n % PER_FOLDER == 0:
            folder.mkdir(parents=True)
        cells = dice.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        done, data = cv2.imencode(".png", cv2.resize(cells, (24, 24), interpolation=cv2.INTER_NEAREST))
        assert done
        (folder / f"{n:06d}.png").write_bytes(data.tobytes())
    return root


def command(*words: str) -> tuple[float, float]:
    """Seconds, and peak resident memory in MB."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", "from everlearn.cli import main; main()", *words, "--quiet"])
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"everlearn {' '.join(words)} failed: {status}")
    return time.perf_counter() - began, used.ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--more", action="store_true", help="also 100,000")
    numbers = [10_000, 50_000] + ([100_000] if options.parse_args().more else [])
    rows = []
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            root = images(Path(folder) / "images", number)
            workspace = str(Path(folder) / "workspace")
            command("init", workspace)
            collected = command("-w", workspace, "collect", str(root))
            validated = command("-w", workspace, "validate")
        rows.append((number, collected, validated))
    print(f"{'images':>8}  {'collect':>18}  {'validate':>18}")
    for number, *both in rows:
        print(f"{number:>8}  " + "  ".join(f"{number / s:>6.0f}/s {mb:>6.0f} MB" for s, mb in both))
    (_, *first), (most, *last) = rows[0], rows[-1]
    more = [(b[1] - a[1]) * 1e6 / (most - rows[0][0]) for a, b in zip(first, last, strict=True)]
    print(f"growth, bytes an image: collect {more[0]:.0f}, validate {more[1]:.0f}")


if __name__ == "__main__":
    main()

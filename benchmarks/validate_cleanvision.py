"""Our one look at each image against CleanVision: images a second, and who flags what.

    pip install cleanvision
    python benchmarks/validate_cleanvision.py FOLDER... [--workers 2] [--rounds 3]

FOLDER: images of any kind. Copies of some are spoiled in known ways beside them, in a temporary folder, and both
programs look at all of it in one run, taking turns. Ours includes decoding, the quality checks, fingerprints, near
duplicates and the descriptor for diversity; exact duplicates are found by the digest that every sample has.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from everlearn.image import ENDINGS, decode, encode_jpeg, encode_png
from everlearn.validate.duplicates import Known, Prints, pairs, thumbs_of
from everlearn.validate.look import Look, examine_many

CHECKS = {  # ours: theirs
    "dark": "dark",
    "bright": "light",
    "blurry": "blurry",
    "low_information": "low_information",
    "odd_aspect": "odd_aspect_ratio",
    "exact_duplicate": "exact_duplicates",
    "near_duplicate": "near_duplicates",
}
SPOILED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "dark": lambda image: (image * 0.2).astype(np.uint8),
    "bright": lambda image: (250 + image * 0.02).astype(np.uint8),
    "blurry": lambda image: cv2.GaussianBlur(image, (0, 0), max(image.shape) * 0.04),
    "low_information": lambda image: np.full_like(image, 128),
    "odd_aspect": lambda image: image[: max(8, image.shape[0] // 5)],
    "near_duplicate": lambda image: np.clip(image * 1.05 + 4, 0, 255).astype(np.uint8),
}
"""Planted faults; `exact_duplicate` is a plain copy."""


def prepare(folders: list[Path], target: Path) -> dict[str, str]:
    """Copy the images, and spoil one in ten in every way. Returns name -> planted fault ("" for an image as it is)."""
    paths = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix[1:].lower() in ENDINGS)
    planted: dict[str, str] = {}
    for number, path in enumerate(paths):
        own = target / f"{number:06}{path.suffix.lower()}"
        shutil.copyfile(path, own)
        planted[own.name] = ""
        if number % 10:
            continue
        pixels = decode(path.read_bytes()).pixels
        for fault, spoil in SPOILED.items():
            flat = fault == "low_information"
            name = f"{number:06}_{fault}{'.png' if flat else '.jpg'}"
            (target / name).write_bytes((encode_png if flat else encode_jpeg)(spoil(pixels)))
            planted[name] = fault
        copy = target / f"{number:06}_exact{path.suffix.lower()}"
        shutil.copyfile(path, copy)
        planted[copy.name] = "exact_duplicate"
    return planted


def ours(folder: Path, workers: int) -> dict[str, set[str]]:
    """Check -> names of the images it flags."""
    flags: dict[str, set[str]] = defaultdict(set)
    prints, digests = {}, defaultdict(list)

    def reader(path: Path) -> Callable[[], bytes]:
        def read() -> bytes:
            data = path.read_bytes()
            digests[hashlib.sha256(data).digest()].append(path.name)
            return data

        return read

    for name, seen in examine_many(((path.name, reader(path)) for path in sorted(folder.iterdir())), workers=workers):
        assert isinstance(seen, Look), (name, seen)
        prints[name] = seen.fingerprint
        for finding in seen.quality.findings:
            flags[finding.reason].add(name)
    known = Known(thumbs_of(prints))
    for names in digests.values():
        if len(names) > 1:
            flags["exact_duplicate"].update(names)
    once = sorted(min(names) for names in digests.values())  # a copy is refused before it is looked at as a near one
    for edge in pairs(Prints(once, np.array([prints[name].hash for name in once], np.uint64)), known):
        flags["near_duplicate"].update(edge)
    return flags


def theirs(folder: Path, workers: int) -> dict[str, set[str]]:
    from cleanvision import Imagelab

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        lab = Imagelab(data_path=str(folder))
        lab.find_issues(n_jobs=workers)
    issues = lab.issues
    return {check: {Path(path).name for path in issues.index[issues[f"is_{check}_issue"]]} for check in CHECKS.values()}


def seconds(work: Callable[[], dict[str, set[str]]]) -> tuple[float, dict[str, set[str]]]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def table(planted: dict[str, str], own: dict[str, set[str]], peer: dict[str, set[str]]) -> None:
    titles = (
        "check",
        "ours",
        "CleanVision",
        "both",
        "of theirs",
        "planted",
        "ours found",
        "CV found",
        "ours clean",
        "CV clean",
    )
    print(("{:16}" + "{:>12}" * 9).format(*titles))
    whole = {name for name, fault in planted.items() if not fault}
    for check, name in CHECKS.items():
        mine, other = own[check], peer[name]
        faulty = {image for image, fault in planted.items() if fault == check}
        share = [f"{len(mine & other) / len(other):.1%}" if other else "-", str(len(faulty))]
        share += [f"{len(found & faulty) / len(faulty):.1%}" for found in (mine, other)]
        clean = [str(len(found & whole)) if "duplicate" not in check else "-" for found in (mine, other)]
        row = (check, len(mine), len(other), len(mine & other), *share, *clean)
        print(("{:16}" + "{:>12}" * 9).format(*row))
    print(
        "\nours/CV clean: images as they are that the check flags\n"
        "of theirs: share of CleanVision's flags that are ours too"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        planted = prepare(said.folders, folder)
        if not planted:
            sys.exit("No images there.")
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(said.rounds):
            for work, taken in zip((ours, theirs), times):
                spent, found = seconds(lambda work=work: work(folder, said.workers))  # type: ignore[misc]
                taken.append(spent)
                if work is ours:
                    own = found
                else:
                    peer = found
    fast, slow = (len(planted) / median(taken) for taken in times)
    table(planted, own, peer)
    print(f"\n{len(planted):,} images, {said.workers} workers, median of {said.rounds} rounds")
    print(f"ours         {fast:8.0f} images/s\nCleanVision  {slow:8.0f} images/s\nratio        {fast / slow:8.1f}")


if __name__ == "__main__":
    main()

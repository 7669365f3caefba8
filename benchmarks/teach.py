"""Seconds from `everlearn teach` to recognised: five examples of a new kind, the whole command in a process of its own.

     python benchmarks/teach.py [--detector FILE.onnx --images FOLDER/KIND/*.jpg] [--scenes 500] [--repeat 3]

Without a detector it uses a small graph that finds the one thing on a plain ground, beside `--scenes` labelled images
of plain things that are there before. Printed: seconds of the command, how many of new images of the kind are
recognised, and how many things of kinds that nobody taught are taken for it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from everlearn.image import encode_png
from tests import things

TAUGHT, PLAIN, STRANGE = ("star", "triangle"), ("square", "ring"), ("circle",)
NEW = 40


def everlearn(workspace: Path, *words: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "everlearn", "-w", str(workspace), *map(str, words), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def plain_scenes(folder: Path, number: int) -> None:
    """A YOLO data set of things of which nobody says what kind they are."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    (folder / "data.yaml").write_text('path: .\ntrain: images\nval: images\nnames: ["thing"]\n')
    for seed in range(number):
        kind = PLAIN[seed % len(PLAIN)]
        image, box = things.draw(kind, 1000 + seed, side=320)
        (folder / "images" / f"{seed}.png").write_bytes(encode_png(image))
        middle = f"{box.x + box.width / 2:.8f} {box.y + box.height / 2:.8f}"
        (folder / "labels" / f"{seed}.txt").write_text(f"0 {middle} {box.width:.7f} {box.height:.7f}\n")


def labels(workspace: Path, paths: list[Path]) -> list[str | None]:
    return [one["label"] for one in everlearn(workspace, "predict", *paths, "--model", "newest")["predictions"]]


def made_up(folder: Path, scenes: int, repeat: int) -> None:
    workspace = folder / "workspace"
    subprocess.run([sys.executable, "-m", "everlearn", "init", str(workspace), "--task", "detect", "-q"],
                   check=True, capture_output=True)  # fmt: skip
    (workspace / "everlearn.yaml").write_text('task: detect\nlearn: {learner: "onnx:things.onnx"}\n')
    things.detector(workspace / "things.onnx")
    plain_scenes(folder / "plain", scenes)
    everlearn(workspace, "collect", folder / "plain")
    everlearn(workspace, "validate")
    print(f"{scenes} labelled images of plain things were there before")
    print(f"{'kind':>10} {'seconds':>8} {'new recognised':>15} {'strangers taken for it':>23}")
    for kind in TAUGHT[:repeat] if repeat < len(TAUGHT) else TAUGHT:
        five = things.write(folder / "five", kind, 5)
        began = time.perf_counter()
        everlearn(workspace, "teach", f"thing/{kind}", *five)
        seconds = time.perf_counter() - began
        right = labels(workspace, things.write(folder / "new", kind, NEW, first=100)).count(f"thing/{kind}")
        paths = [path for one in (*PLAIN, *STRANGE) for path in things.write(folder / "new", one, NEW, first=100)]
        wrong = labels(workspace, paths).count(f"thing/{kind}")
        print(f"{kind:>10} {seconds:8.2f} {right:>10} of {NEW} {wrong:>16} of {len(paths)}")


def given(folder: Path, detector: Path, coarse: str, images: list[Path]) -> None:
    """The first five images of each folder are taught, the others answered."""
    workspace = folder / "workspace"
    subprocess.run([sys.executable, "-m", "everlearn", "init", str(workspace), "--task", "detect", "-q"],
                   check=True, capture_output=True)  # fmt: skip
    (workspace / "everlearn.yaml").write_text(f'task: detect\nlearn: {{learner: "onnx:{detector.resolve()}"}}\n')
    kinds: dict[str, list[Path]] = {}
    for path in sorted(images):
        kinds.setdefault(path.parent.name, []).append(path)
    print(f"{'kind':>24} {'seconds':>8} {'taught':>7} {'recognised':>11}")
    for kind, paths in kinds.items():
        began = time.perf_counter()
        found = everlearn(workspace, "teach", f"{coarse}/{kind}", *paths[:5])
        seconds = time.perf_counter() - began
        print(f"{kind:>24} {seconds:8.2f} {found['taught']:>7} {found['recognised']:>11}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", type=Path)
    parser.add_argument("--coarse", default="person", help="what of the detector's classes the images show")
    parser.add_argument("--images", type=Path, nargs="*", default=[])
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--repeat", type=int, default=len(TAUGHT), help="kinds that are taught")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if asked.detector is None:
            made_up(Path(folder), asked.scenes, asked.repeat)
        else:
            given(Path(folder), asked.detector, asked.coarse, asked.images)


if __name__ == "__main__":
    main()

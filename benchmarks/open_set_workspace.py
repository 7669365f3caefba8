"""What a user sees of an open set: false-accept rates asked for, promised and seen, through the commands alone.

    python benchmarks/open_set_workspace.py --signs FOLDER --faces FOLDER --weights FOLDER [--turn 3]

FOLDER of --signs and --faces: an ImageFolder; its last three classes in the order of their names are strangers. Signs
are learned with `patches`, faces (cut and turned by YuNet) with MobileFaceNet. For each rate: what the data could
promise, how many strangers were taken for a class nevertheless, how many known test images were refused, and the
accuracy beside that of the closed set. Then one of the three strangers is collected with `--label unknown` and the
others are asked again. Nothing is tuned; the strangers of the last columns are never learned.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import cv2
from real_features import faces, folder

from everlearn.cli.main import run

RATES = (None, 0.01, 0.05, 0.1)


def ever(workspace: Path, *words: object) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(["-w", str(workspace), *map(str, words), "--json"])
    if code not in (0, 1):
        raise SystemExit(out.getvalue() + err.getvalue())
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def ask_for(workspace: Path, rate: float | None) -> None:
    path = workspace / "everlearn.yaml"
    kept = re.sub(r"^  unknown:.*$", f"  unknown: {'' if rate is None else rate}", path.read_text(), flags=re.MULTILINE)
    path.write_text(kept)


def accepted(workspace: Path, strangers: Sequence[Path]) -> tuple[int, int]:
    said = [one for one in ever(workspace, "predict", *strangers)["predictions"] if one["label"]]
    return sum(one["label"] != "unknown" for one in said), len(said)


def table(name: str, images: Path, backbone: str, turn: int) -> None:
    classes = sorted(path for path in images.iterdir() if path.is_dir())
    classes = classes[turn:] + classes[:turn]
    known, strangers = classes[:-3], classes[-3:]
    with tempfile.TemporaryDirectory() as scratch:
        workspace, of_known = Path(scratch) / "workspace", Path(scratch) / "known"
        for one in known:
            shutil.copytree(one, of_known / one.name)
        with redirect_stdout(io.StringIO()):
            run(["init", str(workspace), "-q", "--backbone", backbone])
        ever(workspace, "collect", of_known, "--labels-from", "folder")
        ever(workspace, "validate")
        print(f"\n{name}: {len(known)} known classes, strangers {', '.join(one.name for one in strangers)}")
        print("asked  impostors  promised  FAR test impostors  FRR test known   accuracy  FAR strangers")
        for rate in RATES:
            row(workspace, rate, strangers)
        ever(workspace, "collect", strangers[0], "--label", "unknown")
        ever(workspace, "validate")
        print(f"after {strangers[0].name} was collected with --label unknown")
        for rate in RATES[1:]:
            row(workspace, rate, strangers[1:])


def row(workspace: Path, rate: float | None, strangers: Sequence[Path]) -> None:
    ask_for(workspace, rate)
    ever(workspace, "learn")
    found = ever(workspace, "evaluate", "--model", "newest")
    number, of = accepted(workspace, strangers)
    accuracy, strange = f"{found['accuracy']:8.3f}", f"{number / of:6.3f} ({number} of {of})"
    if rate is None:
        print(f"closed {'':62}{accuracy}  {strange}", flush=True)
        return
    unknown = found["unknown"]
    card = ever(workspace, "models", "show", "newest")["models"][0]["card"]["unknown"]
    rates = unknown["false_accept"]
    tested = (
        f"{rates['seen']:11.3f} of {unknown['impostors']:4d} {unknown['false_reject']:11.3f} of {unknown['known']:3d}"
    )
    print(f"{rate:6.2f} {card['impostors']:9d} {rates['promised']:9.3f} {tested} {accuracy}  {strange}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signs", type=Path)
    parser.add_argument("--faces", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--turn", type=int, default=0, help="Another division: so many classes go to the end first.")
    given = parser.parse_args()
    if given.faces and given.weights:
        with tempfile.TemporaryDirectory() as cut:
            images, names = folder(given.faces)
            for at, (face, name) in enumerate(zip(faces(images, given.weights / "yunet_n_dynamic.onnx"), names)):
                path = Path(cut) / name / f"{at}.png"
                path.parent.mkdir(exist_ok=True)
                cv2.imwrite(str(path), cv2.cvtColor(face, cv2.COLOR_RGB2BGR))
            backbone = f"onnx:{given.weights / 'MobileFaceNet.onnx'}"
            table(f"{given.faces.parent.name}, MobileFaceNet", Path(cut), backbone, given.turn)
    if given.signs:
        table(f"{given.signs.name}, patches", given.signs, "patches", given.turn)


if __name__ == "__main__":
    main()

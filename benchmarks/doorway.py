"""The doorway from end to end: unlabelled snapshots in an S3 bucket to a trained, evaluated, registered YOLO in one
`everlearn run`, which is killed again and again on the way and run again until it ends by itself.

    python benchmarks/doorway.py [--images 1000] [--side 64] [--epochs 15] [--kills 6]

The snapshots show one red parcel each; the teacher is a small ONNX graph that finds red, trusted from a confidence of
0.5 by declaration. Kills come at random moments. What is counted: how often each object was fetched, what a person is
asked about, and the mAP of the YOLO on the test side.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("images", 1000), ("side", 64), ("epochs", 15), ("kills", 6), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args()

    from everlearn.catalog import runs, samples, versions
    from everlearn.config import check
    from everlearn.store import S3Store
    from everlearn.workspace import Workspace
    from tests import doorway
    from tests.proxy import proxy
    from tests.servers import s3

    chance = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as temporary, s3(Path(temporary) / "s3") as server, proxy(server) as between:
        folder = Path(temporary)
        os.environ.update({**server.environment(), "AWS_ENDPOINT_URL": between.endpoint})
        server.bucket("door")
        doorway.snapshots(folder / "photos", asked.images, side=asked.side)
        store = S3Store("s3://door")
        for path in sorted((folder / "photos").iterdir()):
            store.put(f"in/{path.name}", io.BytesIO(path.read_bytes()))
        between.calm()
        teacher = doorway.teacher(folder / "teacher.onnx", asked.side)
        root = folder / "workspace"
        settings = {
            "task": "detect", "collect": {"sources": ["s3://door/in"]},
            "detect": {"size": asked.side, "epochs": asked.epochs, "teachers": [f"onnx:{teacher}"], "trust": 0.5},
            "validate": {"near_duplicates": False}, "gates": {"diversity": None},
        }  # fmt: skip
        Workspace.create(root, check(settings, root / "everlearn.yaml"))

        began = time.monotonic()
        killed, said = 0, ""
        while True:
            command = [sys.executable, "-m", "everlearn", "-w", str(root), "run", "--json"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            patience = chance.uniform(8, 40) * 1.6**killed if killed < asked.kills else None
            try:
                said, _ = process.communicate(timeout=patience)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
                print(f"killed after {patience:.0f} s", flush=True)
        seconds = time.monotonic() - began

        workspace = Workspace.open(root)
        with workspace.catalog.read() as tx:
            counts, every = samples.counts(tx), versions.every(tx)
            trainings = runs.every(tx, kind="train")
        told = json.loads(said)
        fetched = between.gets()
        print(f"{asked.images} unlabelled snapshots of {asked.side} px, {killed} kills, {seconds:.0f} s in all")
        print(f"fetched: {len(fetched)} objects, each {max(fetched.values())} time(s) at most")
        print(f"labelled by itself: {counts['learned']}; a person is asked about {counts['queued']}")
        print(f"trainings begun: {len(trainings)}; versions: {', '.join(one.name for one in every)}")
        found = every[-1].metrics or {}
        print(f"test side: mAP50 {found.get('map50'):.4f}, mAP50-95 {found.get('map50_95'):.4f}; {told['decision']}")


if __name__ == "__main__":
    main()

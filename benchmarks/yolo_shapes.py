"""A YOLO learned from nothing on drawn shapes: how good it is after so many epochs, and how long that takes.

    python benchmarks/yolo_shapes.py [--spec yolo11n.yaml] [--images 400] [--side 160] [--epochs 20] [--threads 2]

Scenes are made up (tests/scenes.py): one to three circles and squares on grounds like photos. Half as many again, which
no training sees, are what mAP is measured on, by Ultralytics' own validator. Printed at every fifth epoch and at the
end, with the first epoch that reaches 0.9.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", default="yolo11n.yaml")
    for name, value in (("images", 400), ("side", 160), ("epochs", 20), ("batch", 8), ("threads", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lr0", type=float)
    parser.add_argument("--classes", nargs="+", default=["circle", "square"])
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)

    import torch

    from everlearn.model.detecting import yolo
    from everlearn.model.detecting.training import DetectionEpoch, DetectionJob, Unwatched
    from tests.scenes import write

    torch.set_num_threads(given.threads)
    begun = time.perf_counter()
    reached: list[tuple[int, float]] = []

    class Lines(Unwatched):
        def epoch(self, found: DetectionEpoch) -> bool | None:
            seconds = time.perf_counter() - begun
            if found.map50 >= 0.9 and not reached:
                reached.append((found.epoch, seconds))
            if found.epoch % 5 == 0 or found.epoch == 1:
                print(
                    f"epoch {found.epoch:3d}  mAP50 {found.map50:.3f}  mAP50-95 {found.map50_95:.3f}  {seconds:5.0f} s"
                )
            return None

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        write(data, given.images, given.classes, given.side)
        write(data / "held", given.images // 2, given.classes, given.side, first=100_000)
        names = ", ".join(given.classes)
        (data / "data.yaml").write_text(f"path: .\ntrain: images\nval: held/images\nnames: [{names}]\n")
        more = {} if given.lr0 is None else {"lr0": given.lr0}
        job = DetectionJob(
            given.spec, tuple(given.classes), str(data / "data.yaml"), str(Path(folder, "run")), size=given.side,
            epochs=given.epochs, batch=given.batch, patience=0, seed=given.seed, plots=False, **more,
        )  # fmt: skip
        found = yolo.train(job, Lines())
    print(
        f"\n{given.spec}, {given.images} scenes of {given.side} px, {given.epochs} epochs, {given.threads} threads: "
        f"mAP50 {found.map50:.3f}, mAP50-95 {found.map50_95:.3f} (epoch {found.best_epoch}) "
        f"in {(time.perf_counter() - begun) / 60:.1f} minutes ({time.process_time() / 60:.1f} of the processors)"
    )
    print("; ".join(f"{name} {half:.3f}" for name, (half, _) in found.per_class.items()))
    print(
        f"mAP50 0.9 at epoch {reached[0][0]}, after {reached[0][1]:.0f} s" if reached else "mAP50 0.9 was not reached"
    )


if __name__ == "__main__":
    main()

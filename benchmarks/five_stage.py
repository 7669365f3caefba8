"""Five stages of training from scratch on image folders: raw scores of each stage, gains, test accuracy, time.

    python benchmarks/five_stage.py PHOTOS [--quick] [--network N] [--epochs E] [--threads T]

The workspace divides by groups: 20 % of them are tested on and never looked at in training, 10 % choose the best epoch.
A published report of such a system (requirements: five one-epoch stages) went from 0.102 to 0.252; `--quick` is that.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

PUBLISHED = (0.102, 0.108, 0.160, 0.192, 0.252)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("photos", type=Path)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--network", default="cnn")
    options.add_argument("--epochs", type=int)
    options.add_argument("--threads", type=int)
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    import torch

    if given.threads:
        torch.set_num_threads(given.threads)
    from everlearn import StagedTrainer, stages
    from everlearn.learn.network.recipe import changed, load
    from everlearn.stages.prove import test_side
    from everlearn.types import SILENT

    changes = [f"network={given.network}", *([f"stages.*.epochs={given.epochs}"] if given.epochs else [])]
    with tempfile.TemporaryDirectory() as folder:
        trainer = StagedTrainer(changed(load("five-stage"), changes), workspace=f"{folder}/ws", images=given.photos)
        began = time.perf_counter()
        result = trainer.quick() if given.quick else trainer.train()
        seconds = time.perf_counter() - began
        test = stages.evaluate(trainer.workspace, trainer.version, SILENT).values
        held_out = len(test_side(trainer.workspace))
    shown = f"{'quick: one epoch a stage' if given.quick else result.recipe.name}, {torch.get_num_threads()} threads"
    print(f"{given.photos.name}, {result.recipe.network}, {shown}, {seconds:.0f} s in all")
    print(f"{'stage':16} {'val loss':>9} {'val acc':>8} {'kept acc':>9} {'epochs':>7} {'seconds':>8}  published")
    for one, published in zip(result.stages, PUBLISHED, strict=True):
        print(
            f"{one.name:16} {one.val_loss:9.4f} {one.val_accuracy:8.4f} {one.kept_accuracy:9.4f} "
            f"{len(one.history):7} {one.seconds:8.0f}  {published if given.quick else ''}"
        )
    first, last = result.stages[0], result.stages[-1]
    kept = result.stages[result.kept - 1]
    print(
        f"loss {first.val_loss:.4f} -> {kept.val_loss:.4f} ({(kept.val_loss / first.val_loss - 1) * 100:+.1f} %), ",
        end="",
    )
    print(f"accuracy {first.val_accuracy:.4f} -> {last.kept_accuracy:.4f}; never worse after a stage: ", end="")
    scores = [one.kept_accuracy for one in result.stages]
    print("yes" if scores == sorted(scores) else "NO")
    print(f"test accuracy {test['accuracy']:.4f} on {held_out} test images")
    if given.out:
        given.out.write_text(json.dumps({"result": result.to_json(), "test": test["accuracy"]}, default=str))


if __name__ == "__main__":
    main()

"""Training a network, from first step to last: forward, loss, backward, update, schedule, stop.

Read `fit` from top to bottom; everything else here serves it. What it is told stands in a recipe's `Stage`; what the
words mean is in `network/`: `losses`, `optimizers`, `schedules`, `sampling`, `loading`.

On a CPU the same seed gives the same weights in every bit. What can be saved between two steps (`Training.state`) is
all there is: a run that was killed and is continued from it ends with the same weights as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from everlearn.errors import BadInput, TooFew
from everlearn.learn.network.continual.method import Method
from everlearn.learn.network.loading import Augmenter, Batch, Data, spare_workers
from everlearn.learn.network.losses import NUMBERS
from everlearn.learn.network.runtime import Runtime, runtime, seeded
from everlearn.learn.network.training import Training
from everlearn.learn.network.watching import QUIET, Epoch, Fit, Keep, Quiet, Says, Stopped, Watch, Watches, Weights

if TYPE_CHECKING:
    from everlearn.learn.network.recipe import Stage

__all__ = ["QUIET", "Epoch", "Fit", "Keep", "Quiet", "Says", "Stopped", "Watch", "Watches", "Weights", "fit"]


def fit(
    network: nn.Module, train: Data, validation: Data, stage: Stage, *,
    seed: int = 0, augment: Augmenter | None = None, method: Method | None = None, run: Runtime | None = None,
    watch: Watch = QUIET, saved: dict[str, Any] | None = None, keep: Keep | None = None, workers: int | None = None,
    place: Mapping[str, int] | None = None,
) -> Fit:  # fmt: skip
    """Train a network for one stage.

    network: takes (N, 3, S, S) float32 in 0..1, or rows (N, D); gives (N, C) scores of the classes, or one number. It
    is judged on the validation data after each epoch, and has the best weights at the end. saved: the state to go on
    from; keep: is offered that state. place: where the stage stands in a run, for whoever watches.

    Raises TooFew where there is nothing to learn from or to judge on, BadInput where data and loss do not fit.
    """
    _check(train, validation, stage)
    run = run or runtime()
    with seeded(seed):
        training = Training(network, train, validation, stage, run, seed, watch, augment, method, place)
        if saved is not None:
            training.load(saved)
        workers = spare_workers(run.device, run.processes) if workers is None else workers
        began = time.monotonic() - training.seconds

        while training.goes_on:
            training.network.train()
            started = time.monotonic()
            for step, batch in training.batches(workers):
                while not gradients(training, batch, step):  # forward, loss, backward
                    training.take_smaller_parts()
                if not update(training, step):  # schedule, update
                    break
                training.seconds = time.monotonic() - began
                if keep:
                    keep(training.state, False)
            if training.stopped == "diverged":
                break
            training.judge(time.monotonic() - started)  # stop
            training.seconds = time.monotonic() - began
            if keep:
                keep(training.state, True)
        return training.finished()


def gradients(training: Training, batch: Batch, step: int) -> bool:
    """Forward, loss and backward over one batch. False: a GPU's memory was too small for it, and nothing was done."""
    run, method, before = training.run, training.method, training.sums()
    training.draw_anew(step)
    try:
        for images, targets, new, share, last in training.parts(batch):
            with run.together(training.network, last):
                logits = training.network(images)  # forward
                if method is None:
                    loss = training.loss(logits, targets)  # loss
                else:
                    loss = method.loss(images, targets, logits, new, training.loss)
                run.backward(loss * share)  # backward
            training.count(logits[:new], targets[:new], loss)
    except torch.cuda.OutOfMemoryError:
        training.undo(before)
        return False
    return True


def update(training: Training, step: int) -> bool:
    """Schedule and update. False: the loss is no number any more, and the step is not taken."""
    if not training.finite:
        training.diverged(step)
        return False
    if training.stage.clip is not None:
        training.run.clip(training.network, training.stage.clip)
    training.set_rate(step)  # schedule
    training.optimizer.step()  # update
    training.stepped(step)
    return True


def _check(train: Data, validation: Data, stage: Stage) -> None:
    if len(train) < 2:
        raise TooFew(f"There are {len(train)} training images.", "Collect and label more.")
    if not len(validation):
        raise TooFew(
            "Nothing fell on the validation side, which chooses the best epoch.",
            "Collect and label more, or raise dataset.validation.",
        )
    if train.numbers != (stage.loss.name in NUMBERS):
        wanted = "mse, mae or huber" if train.numbers else "cross_entropy, focal or bce"
        raise BadInput(
            f"Stage {stage.name} has loss {stage.loss.name}, and the targets are "
            f"{'numbers' if train.numbers else 'classes'}.",
            f"Set loss.name to {wanted}.",
        )
    if train.targets.ndim == 2 and stage.loss.name != "bce":
        raise BadInput(f"Several labels at once need loss bce, not {stage.loss.name}.", "Set loss.name: bce.")

"""The state of a stage in training, and what the loop (`learn.fit`) asks of it between its lines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from everlearn.errors import BadConfig, BadInput
from everlearn.learn.network.continual.method import Method
from everlearn.learn.network.judging import JUDGED, Judged, judge
from everlearn.learn.network.loading import Augmenter, Batch, Batches, Data, batches, with_replayed
from everlearn.learn.network.losses import criterion, plain
from everlearn.learn.network.optimizers import optimizer as made_optimizer
from everlearn.learn.network.runtime import Runtime
from everlearn.learn.network.sampling import keys
from everlearn.learn.network.schedules import Rate
from everlearn.learn.network.watching import Epoch, Fit, Stopped, Watch, Weights

if TYPE_CHECKING:
    from everlearn.learn.network.recipe import Stage


class Training:
    """What a stage's training has come to between two steps. Its `state` is everything that decides how it goes on."""

    def __init__(
        self, network: nn.Module, train: Data, validation: Data, stage: Stage, run: Runtime, seed: int, watch: Watch,
        augment: Augmenter | None, method: Method | None, place: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        self.stage, self.run, self.seed, self.watch, self.method = stage, run, seed, watch, method
        self._train, self._validation, self._augment = train, validation, augment
        self.epoch = self.step = 0
        self.history: list[Epoch] = []
        self.stopped: Stopped | None = None
        self.seconds = 0.0
        self.parts_of_a_step = stage.accumulate
        self.loss, self._plain = criterion(stage.loss, train.counts()), criterion(plain(stage.loss))
        self.steps = len(Batches(train, stage, seed, 0, None, run.process, run.processes))
        self.rate = Rate(stage.schedule, self.steps, stage.epochs, stage.snapshots)
        self.plain_network = network
        network.to(run.device)
        network.zero_grad(set_to_none=True)  # what a stage left that ended in the middle of a step
        if train.images:
            network.to(memory_format=torch.channels_last)  # as the batches are
        made = made_optimizer(network, stage.optimizer, run.processes)
        self._highest = [group["lr"] for group in made.param_groups]
        self.network, self.optimizer = run.ready(network, made)
        self.average = _average(network, stage.ema)
        self.best = Judged(math.inf, -math.inf)
        self.best_epoch = 0
        self.best_weights = _copy(network)
        self.snapshots: list[Weights] = []
        self._sums = torch.zeros(3, dtype=torch.float64)  # loss, right, images of this epoch
        watch.begin(stage, {**self.facts(), **(place or {})})

    def facts(self) -> dict[str, Any]:
        """What a person wants to see before the first step: with several processes the batch and the rate grow."""
        batch = self.stage.batch_size * self.stage.accumulate
        return {
            "images": len(self._train),
            "validation": len(self._validation),
            "device": str(self.run.device),
            "processes": self.run.processes,
            "batch": batch * self.run.processes,
            "batch_of_one_process": batch,
            "learning_rate": self._highest[0],
            "steps": self.steps,
            "epochs": self.stage.epochs,
            "parameters": sum(one.numel() for one in self.plain_network.parameters()),
            "trained": sum(one.numel() for one in self.plain_network.parameters() if one.requires_grad),
        }

    @property
    def goes_on(self) -> bool:
        return self.stopped is None and self.epoch < self.stage.epochs

    def batches(self, workers: int) -> Iterator[tuple[int, Batch]]:
        """What remains of this epoch."""
        found = batches(
            self._train, self.stage, self.seed, self.epoch, self._augment, first=self.step, process=self.run.process,
            processes=self.run.processes, workers=workers, pin=self.run.device.type == "cuda",
        )  # fmt: skip
        if self.method is None:
            return found
        made = (self.epoch * self.steps, self.run.process, self.run.processes)
        return ((step, with_replayed(one, self.method, self._augment, self.seed, step, *made)) for step, one in found)

    def draw_anew(self, step: int) -> None:
        """What is drawn in a step, by dropout say, follows from its place alone: there is no state to save."""
        place = (self.epoch * self.steps + step) * self.run.processes + self.run.process
        key = int(keys(self.seed, 0xD0, np.array([place]))[0])
        torch.default_generator.manual_seed(key)
        if self.run.device.type == "cuda":
            torch.cuda.manual_seed(key)

    def parts(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor, int, float, bool]]:
        """A batch on the device, in as many parts as it must be taken in: images, targets, how many of them are new
        (the others are replayed), the part's share of the batch, whether it is the last."""
        batch, rows = batch.to(self.run.device), len(batch.inputs)
        size = -(-rows // self.parts_of_a_step) if batch.new is None else rows
        for start in range(0, rows, size):
            images, targets = batch.inputs[start : start + size], batch.targets[start : start + size]
            new = len(images) if batch.new is None else batch.new
            yield images, targets, new, len(images) / rows, start + size >= rows

    def sums(self) -> Tensor:
        return self._sums.clone()

    def undo(self, sums: Tensor) -> None:
        """A step that was begun is forgotten."""
        self.optimizer.zero_grad(set_to_none=True)
        self._sums.copy_(sums)

    def take_smaller_parts(self) -> None:
        """A GPU's memory was too small: from now on half as many images go through the network at once. A step stays
        as large, and the weights differ by rounding (where norms look at a batch, by theirs). Raises BadConfig where
        half is no image, and where the batch cannot be taken in parts."""
        images = self._images_at_once()
        told = f"The GPU has too little memory for {images} images of a step at once"
        if self.run.processes > 1 or self.method is not None or images < 2:
            raise BadConfig(f"{told}.", "Set a smaller batch_size (accumulate as much larger), size or network.")
        self.parts_of_a_step *= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.watch.say(f"{told}: they go through it {-(-images // 2)} at a time, and a step is as large as before.")

    def _images_at_once(self) -> int:
        return -(-self.stage.batch_size * self.stage.accumulate // self.parts_of_a_step)

    def count(self, logits: Tensor, targets: Tensor, loss: Tensor) -> None:
        """Sums of this epoch, over the new images."""
        with torch.no_grad():
            found = torch.stack([loss.detach().double() * len(logits), _right(logits, targets).double()])
            self._sums[:2] += found.cpu()
            self._sums[2] += len(logits)

    @property
    def finite(self) -> bool:
        """Whether the loss still is a number, in every process."""
        return not self.run.agree(not math.isfinite(float(self._sums[0])))

    def set_rate(self, step: int) -> None:
        """The learning rate of this step."""
        share = self.rate.at(self.epoch * self.steps + step)
        for group, highest in zip(self.optimizer.param_groups, self._highest, strict=True):
            group["lr"] = highest * share

    def stepped(self, step: int) -> None:
        """A step was taken: its gradients are done with, the average follows, and whoever watches is told."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.plain_network)
        self.step = step + 1
        mean = float(self._sums[0]) / max(1.0, float(self._sums[2]))
        self.watch.step(self.epoch + 1, self.step, self.steps, mean, self.optimizer.param_groups[0]["lr"])

    def judge(self, seconds: float) -> None:
        """End an epoch: what the network is worth on the validation side, and whether to go on."""
        network = self.plain_network if self.average is None else self.average.module
        self.run.as_first(network)
        scarce = self.parts_of_a_step > self.stage.accumulate
        found = judge(network, self._validation, self._plain, self.run, self._images_at_once() if scarce else JUDGED)
        loss, right, images = self.run.total(self._sums).tolist()
        images = max(1.0, images)
        accuracy = right / images if self._train.classes else math.nan
        self.epoch += 1
        self.step = 0
        rate = self.optimizer.param_groups[0]["lr"]
        done = Epoch(
            self.epoch, loss / images, accuracy, found.loss, found.accuracy, rate, seconds, images / max(seconds, 1e-9)
        )
        self.history.append(done)
        self._sums.zero_()
        self.rate.judged(found.loss)
        if found.better_than(self.best, "loss" if not self._train.classes else self.stage.select):
            self.best, self.best_epoch, self.best_weights = found, self.epoch, self._weights()
        if self.stage.snapshots > 1 and self._cycle_ended():
            self.snapshots.append(self._weights())
        asked = self.watch.epoch(done)
        if self.stage.patience is not None and self.epoch - self.best_epoch >= self.stage.patience:
            self.stopped = "patience"
        if asked:
            self.stopped = "asked"

    def state(self) -> dict[str, Any]:
        """Plain values and tensors: all that decides how this stage goes on."""
        scaler = getattr(self.run.accelerator, "scaler", None)
        return {
            "epoch": self.epoch, "step": self.step, "seconds": self.seconds, "sums": self._sums.clone(),
            "network": _copy(self.plain_network), "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(), "rate": self.rate.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(), "parts": self.parts_of_a_step,
            "best": {"loss": self.best.loss, "accuracy": self.best.accuracy, "epoch": self.best_epoch},
            "best_weights": self.best_weights, "snapshots": self.snapshots, "stopped": self.stopped,
            "history": [asdict(one) for one in self.history],
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        self.epoch, self.step, self.seconds = int(state["epoch"]), int(state["step"]), float(state["seconds"])
        if self.run.first:  # whose state it is
            self._sums.copy_(state["sums"])
        try:
            self.plain_network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (ValueError, RuntimeError) as error:
            raise BadInput(
                f"Stage {self.stage.name} cannot go on as it is asked for now: {str(error).splitlines()[0]:.200}",
                "Train as it was begun, or begin another run: everlearn train --anew",
            ) from None
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        self.rate.load_state_dict(state["rate"])
        scaler = getattr(self.run.accelerator, "scaler", None)
        if scaler is not None and state["scaler"]:
            scaler.load_state_dict(state["scaler"])
        self.parts_of_a_step = int(state["parts"])
        best = state["best"]
        self.best, self.best_epoch = Judged(best["loss"], best["accuracy"]), int(best["epoch"])
        self.best_weights, self.snapshots, self.stopped = state["best_weights"], state["snapshots"], state["stopped"]
        self.history = [Epoch(**one) for one in state["history"]]

    def finished(self) -> Fit:
        last, best = self._weights(), self.best_weights
        self.run.released(self.network)
        self.plain_network.load_state_dict(self.best_weights)
        found = Fit(
            self.history, self.best_epoch, self.best.loss, self.best.accuracy, self.seconds, self.stopped or "epochs",
            best, last, self.snapshots,
        )  # fmt: skip
        self.watch.end(found)
        return found

    def _weights(self) -> Weights:
        """Those that are judged: the average, where there is one."""
        return _copy(self.plain_network if self.average is None else self.average.module)

    def _cycle_ended(self) -> bool:
        length = math.ceil(self.steps * self.stage.epochs / self.stage.snapshots)
        done = self.epoch * self.steps
        return done // length > (done - self.steps) // length or self.epoch == self.stage.epochs

    def diverged(self, step: int) -> None:
        self.stopped = "diverged"
        rate = self.optimizer.param_groups[0]["lr"]
        kept = f"those of epoch {self.best_epoch}" if self.best_epoch else "those it began with"
        self.watch.say(
            f"Stage {self.stage.name}: the loss is no number any more at epoch {self.epoch + 1}, step {step + 1} "
            f"(learning rate {rate:.3g}). The weights kept are {kept}. Lower optimizer.learning_rate, or set clip: 1."
        )


def _right(outputs: Tensor, targets: Tensor) -> Tensor:
    """How many are answered right. Of several labels at once: the share of them. Further columns of the targets are for
    a method (`network.distilling`, `network.chained`)."""
    if not targets.is_floating_point():
        return (outputs.argmax(1) == targets).sum()
    if targets.ndim == 2:
        return (outputs.argmax(1) == targets[:, : outputs.shape[1]].argmax(1)).sum()
    return outputs.new_zeros(())


def _average(network: nn.Module, decay: float) -> AveragedModel | None:
    """An exponential moving average of the weights, norms' statistics among them (Polyak & Juditsky 1992). Its decay
    rises to what was asked for, so that the first steps do not weigh for ever."""
    if not decay:
        return None

    def mean(average: Tensor, now: Tensor, steps: Tensor | int) -> Tensor:
        count = float(steps)
        if not average.is_floating_point():  # a norm's count of batches
            return now
        return average.lerp(now, 1 - min(decay, (1 + count) / (10 + count)))

    return AveragedModel(network, avg_fn=mean, use_buffers=True)  # type: ignore[arg-type]


def _copy(network: nn.Module) -> Weights:
    return {name: value.detach().to("cpu", copy=True) for name, value in network.state_dict().items()}

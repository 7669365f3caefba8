"""Training data as arrays, and the batches of an epoch.

A batch is a function of (seed, epoch, step) alone: whichever process prepares it, and whenever, it is the same in every
bit. That is what lets a killed run continue as if nothing had happened.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.errors import BadInput
from everlearn.learn.network.recipe import Stage
from everlearn.learn.network.sampling import keys, order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.learn.network.continual.method import Method


@dataclass(frozen=True, eq=False)
class Data:
    """What is learned from, or judged on.

    inputs: (N, S, S, 3) uint8 images, in memory or mapped from disk; or (N, D) float32 rows. targets: (N,) int64 class
    columns, (N,) float32 numbers, or (N, C) float32 of 0 and 1 where an image may have several labels. classes: names
    of the columns, () for numbers. rows: (N,) where each stands in `inputs`, which may hold more; None: in order.
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]
    classes: tuple[str, ...] = ()
    rows: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        images = self.inputs.ndim == 4 and self.inputs.dtype == np.uint8 and self.inputs.shape[3] == 3
        if not images and not (self.inputs.ndim == 2 and self.inputs.dtype.kind == "f"):
            raise BadInput(
                f"Inputs are {self.inputs.shape} {self.inputs.dtype}.", "Give (N, S, S, 3) uint8 or (N, D) float32."
            )
        inputs = len(self.inputs if self.rows is None else self.rows)
        if inputs != len(self.targets):
            raise BadInput(f"{inputs} inputs have {len(self.targets)} targets.", "Give one for each.")
        if self.targets.dtype.kind in "iu" and self.targets.size:
            low, high = int(self.targets.min()), int(self.targets.max())
            if low < 0 or high >= len(self.classes):
                raise BadInput(f"Targets {low} to {high} are no columns of {len(self.classes)} classes.", "Mend them.")

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def images(self) -> bool:
        return self.inputs.ndim == 4

    @property
    def numbers(self) -> bool:
        """Whether the targets are numbers, not classes."""
        return not self.classes

    def counts(self) -> Tensor | None:
        """(C,) images of each class; None for numbers."""
        if self.numbers:
            return None
        if self.targets.ndim == 2:
            return torch.from_numpy(np.asarray(self.targets.sum(0), np.float32))
        return torch.from_numpy(np.bincount(self.targets, minlength=len(self.classes)).astype(np.float32))

    def some(self, rows: NDArray[np.int64]) -> Data:
        """These rows alone."""
        return Data(self.inputs, self.targets[rows], self.classes, rows if self.rows is None else self.rows[rows])

    def inputs_of(self, rows: NDArray[np.int64]) -> Tensor:
        """(N, 3, S, S) uint8, channels last in memory, or (N, D) float32."""
        found = self.inputs[rows if self.rows is None else self.rows[rows]]
        if self.images:
            return torch.from_numpy(np.ascontiguousarray(found)).permute(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(found, np.float32))

    def targets_of(self, rows: NDArray[np.int64]) -> Tensor:
        found = self.targets[rows]
        return torch.from_numpy(np.asarray(found, np.int64 if found.dtype.kind in "iu" else np.float32))


class Augmenter(Protocol):
    """Changes training images. What it draws depends on the keys it is given, and on nothing else."""

    mixes: bool
    """Whether `batch` does anything."""

    def many(self, images: Tensor, keys: NDArray[np.int64]) -> Tensor:
        """(N, 3, S, S) uint8 and (N,) seeds -> (N, 3, S, S) uint8."""
        ...

    def batch(self, images: Tensor, targets: Tensor, key: int) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S) float32 in 0..1 and (N, C) shares -> the same, mixed with one another (MixUp, CutMix)."""
        ...


@dataclass(frozen=True)
class Batch:
    """inputs: (N, 3, S, S) uint8, or float32 in 0..1, or (N, D); targets: as `losses` takes them. new: those of them
    that are not replayed, which stand first; None: all."""

    inputs: Tensor
    targets: Tensor
    new: int | None = None

    def pin_memory(self) -> Batch:
        """In memory that a GPU can read by itself; torch's loader calls it."""
        return Batch(self.inputs.pin_memory(), self.targets.pin_memory(), self.new)

    def to(self, device: torch.device) -> Batch:
        """There; images go as bytes and become shares of full white where they are needed."""
        inputs = self.inputs.to(device, non_blocking=True)
        if inputs.dtype == torch.uint8:
            inputs = inputs.to(torch.float32).div_(255)
        return Batch(inputs, self.targets.to(device, non_blocking=True), self.new)


class Batches(torch.utils.data.Dataset[Batch]):
    """One epoch's batches, by step. Of several processes each takes its part of every batch.

    The number of images is that of all processes together, `size` x `processes`; the last batch is what remains, cut to
    a multiple of the processes.
    """

    def __init__(
        self, data: Data, stage: Stage, seed: int, epoch: int, augment: Augmenter | None = None,
        process: int = 0, processes: int = 1,
    ) -> None:  # fmt: skip
        self.data, self.augment, self.seed, self.epoch = data, augment, seed, epoch
        self.order = order(data.targets, stage.sampling, seed, epoch)
        self.process, self.processes = process, processes
        self.size = stage.batch_size * stage.accumulate * processes

    def __len__(self) -> int:
        return batches_in(len(self.order), self.size, self.processes)

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < len(self):
            raise IndexError(step)
        places = np.arange(step * self.size, min((step + 1) * self.size, len(self.order)))
        places = places[: len(places) // self.processes * self.processes][self.process :: self.processes]
        rows = self.order[places]
        images, targets = self.data.inputs_of(rows), self.data.targets_of(rows)
        if self.augment is None or not self.data.images:
            return Batch(images, targets)
        images = self.augment.many(images, keys(self.seed, self.epoch, places))
        if self.augment.mixes and len(rows) > 1:
            key = int(keys(self.seed, self.epoch, -1 - np.array([step * self.processes + self.process]))[0])
            shares = targets if targets.ndim == 2 else F.one_hot(targets, len(self.data.classes)).to(torch.float32)
            images, targets = self.augment.batch(images.to(torch.float32).div_(255), shares, key)
        return Batch(images, targets)


def batches_in(rows: int, size: int, processes: int = 1) -> int:
    """Batches that so many rows make. One image alone at the end is left out: a norm over one image is none."""
    whole, rest = divmod(rows, size)
    return whole + (rest // processes > 1 or (whole == 0 and rest >= processes))


def batches(
    data: Data, stage: Stage, seed: int, epoch: int, augment: Augmenter | None = None, *,
    first: int = 0, process: int = 0, processes: int = 1, workers: int = 0, pin: bool = False,
) -> Iterator[tuple[int, Batch]]:  # fmt: skip
    """Step and batch, from step `first` on. workers: processes that prepare them ahead."""
    made = Batches(data, stage, seed, epoch, augment, process, processes)
    steps = range(first, len(made))
    if not workers:
        for step in steps:
            yield step, made[step]
        return
    loader = torch.utils.data.DataLoader(
        made,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4,
        worker_init_fn=_deaf,
    )
    yield from zip(steps, loader, strict=True)


def _deaf(worker: int) -> None:
    """Ctrl-C is for the process that trains; it lets its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def with_replayed(
    batch: Batch, method: Method, augment: Augmenter | None, seed: int, step: int, before: int, process: int,
    processes: int,
) -> Batch:  # fmt: skip
    """A batch with the old rows that a continual method puts after it, augmented as the new ones are. before: steps of
    earlier epochs."""
    turn = (before + step) * processes + process
    found = method.replay(len(batch.inputs), turn)
    if found is None:
        return Batch(batch.inputs, batch.targets, len(batch.inputs))
    old = torch.from_numpy(np.ascontiguousarray(found.inputs))
    targets = torch.from_numpy(found.targets)
    if old.ndim == 4:
        old = old.permute(0, 3, 1, 2)
        if augment is not None:
            old = augment.many(old, keys(seed ^ 0x0DD, turn, np.arange(len(old))))
        if batch.inputs.is_floating_point():  # they were mixed
            old = old.to(torch.float32).div_(255)
    if batch.targets.ndim == 2:
        targets = F.one_hot(targets, batch.targets.shape[1]).to(torch.float32)
    return Batch(torch.cat([batch.inputs, old]), torch.cat([batch.targets, targets]), len(batch.inputs))


def in_turn(data: Data, size: int = 256, process: int = 0, processes: int = 1) -> Iterator[Batch]:
    """All of the data once, in order, as it is: what a network is judged on. Each process has its share."""
    mine = np.arange(process, len(data), processes)
    for start in range(0, len(mine), size):
        rows = mine[start : start + size]
        yield Batch(data.inputs_of(rows), data.targets_of(rows))


def spare_workers(device: torch.device, processes: int) -> int:
    """Processes that prepare images beside a GPU; on a CPU the cores are what trains."""
    if device.type == "cpu":
        return 0
    return min(8, max(0, (os.cpu_count() or 1) // processes - 1))

"""Distillation: a small network learns what a large one, or several, say of an image, beside its label.

    loss = alpha T^2 KL(p_T || q_T) + (1 - alpha) loss of the label
    p_T = softmax(log p / T), the teacher's answer softened; q_T = softmax(logits / T), the student's

Hinton, Vinyals & Dean 2015, "Distilling the knowledge in a neural network" (arXiv:1503.02531), section 2: T^2 keeps the
gradients of both parts in proportion whatever T is. What the teacher says comes in one of two ways:

    of the image as it is     computed once, before training, and read by row: `Told`, training data with answers
    of the image as changed   asked in each step, where augmentation changes it and the teacher can look at the very
                              pixels that the student sees (Beyer et al. 2022, arXiv:2106.05237: "consistent teaching")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from everlearn.errors import BadInput
from everlearn.learn.network.continual.method import LossAlone
from everlearn.learn.network.loading import Data
from everlearn.learn.network.losses import Criterion

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.learn.network.loading import Augmenter
    from everlearn.learn.network.recipe import Augmentation

LEAST = 1e-6
"""Least probability whose logarithm is taken."""

Augmenters = Callable[["Augmentation"], "Augmenter | None"]
Teacher = Callable[[Tensor], Tensor]
"""(N, 3, S, S) float32 in 0..1, as the student sees them -> (N, C) probabilities of the student's classes."""


@dataclass(frozen=True, eq=False)
class Told(Data):
    """Training data with what a teacher says of each row. said: (N, C) probabilities, in the order of the targets.

    In a batch they are further columns beside the shares of the classes, (N, 2 C), so that MixUp and CutMix mix them as
    they mix these.
    """

    said: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.said.shape != (len(self.targets), len(self.classes)) or self.targets.ndim != 1:
            raise BadInput(
                f"Answers are {self.said.shape}, of {len(self.targets)} rows of {len(self.classes)} classes.",
                "Give a probability for each row and class; each row has one label.",
            )

    def targets_of(self, rows: NDArray[np.int64]) -> Tensor:
        shares = functional.one_hot(torch.from_numpy(self.targets[rows].astype(np.int64)), len(self.classes))
        return torch.cat([shares.float(), torch.from_numpy(np.ascontiguousarray(self.said[rows], np.float32))], dim=1)


def told(data: Data, said: NDArray[np.floating]) -> Told:
    """The same data, with a teacher's answers to its rows."""
    return Told(data.inputs, data.targets, data.classes, data.rows, np.ascontiguousarray(said, np.float32))


class Distil(LossAlone):
    """A `Method`: the loss above, on `Told` data. Nothing is replayed, and nothing is kept between experiences.

    temperature: T; alpha: the share of the teacher, 0 to 1. teacher: is asked in each step of a stage that augments;
    None: what the data say counts there too. knows: (C,) which classes the teachers know; of the others the labels
    alone are learned. changed: whether the stage in hand augments; `watching` sets it.
    """

    def __init__(
        self, temperature: float = 4.0, alpha: float = 0.9, teacher: Teacher | None = None,
        knows: NDArray[np.bool_] | None = None,
    ) -> None:  # fmt: skip
        if not temperature > 0 or not 0 <= alpha <= 1:
            raise BadInput(
                f"temperature is {temperature:g} and alpha {alpha:g}.", "temperature > 0, and alpha from 0 to 1."
            )
        self.temperature, self.alpha, self.teacher, self.changed = temperature, alpha, teacher, False
        self._knows = None if knows is None else torch.from_numpy(knows.astype(np.float32))

    def watching(self, augmenters: Augmenters) -> Augmenters:
        """What makes a stage's augmenter; so it is known whether the stage has one."""

        def made(settings: Augmentation) -> Augmenter | None:
            found = augmenters(settings)
            self.changed = found is not None
            return found

        return made

    def loss(self, images: Tensor, targets: Tensor, logits: Tensor, new: int, criterion: Criterion) -> Tensor:
        columns = logits.shape[1]
        targets, said = targets[:, :columns], targets[:, columns:]  # the label's shares, what the teacher says
        if self.teacher is not None and self.changed:
            said = known(self.teacher(images), targets, self._knows)
        return self.alpha * softened(said, logits, self.temperature) + (1 - self.alpha) * criterion(logits, targets)


def softened(said: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p_T || q_T), the mean over a batch. said: (N, C) probabilities; logits: (N, C)."""
    wanted = functional.log_softmax(said.clamp(min=LEAST).log() / temperature, dim=1)
    answered = functional.log_softmax(logits / temperature, dim=1)
    found = functional.kl_div(answered, wanted, reduction="batchmean", log_target=True)
    return temperature**2 * found


class Networks:
    """Teachers in torch, asked about the very pixels that the student sees; their probabilities are averaged.

    each: networks with the temperature of their scores, and (C_teacher, C) places of their classes among the student's.
    """

    def __init__(self, each: Sequence[tuple[nn.Module, float, NDArray[np.float32]]]) -> None:
        self._each = [(one.eval().requires_grad_(False), warmth, torch.from_numpy(at)) for one, warmth, at in each]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        found: list[Tensor] = []
        for network, warmth, places in self._each:
            network.to(images.device)
            found.append((network(images).float() / warmth).softmax(1) @ places.to(images.device))
        return torch.stack(found).mean(0)


def known(said: Tensor, shares: Tensor, knows: Tensor | None) -> Tensor:
    """(N, C) answers as a student can learn them: for the share of an image whose class the teacher does not know
    (knows, (C,)), the label itself. shares: (N, C) of the label, mixed or not."""
    said = said / said.sum(1, keepdim=True).clamp(min=LEAST)
    if knows is None:
        return said
    knows = knows.to(shares.device)
    return said * (shares @ knows)[:, None] + shares * (1 - knows)

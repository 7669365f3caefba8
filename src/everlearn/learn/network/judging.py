"""What a network is worth on data it does not learn from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from everlearn.learn.network.loading import Data, in_turn
from everlearn.learn.network.losses import Criterion
from everlearn.learn.network.runtime import Runtime

JUDGED = 256
"""Images that go through a network at once to be judged."""


@dataclass(frozen=True)
class Judged:
    """loss: the plain loss; accuracy: share answered right, of several labels at once the share of these, of numbers
    R²."""

    loss: float
    accuracy: float

    def better_than(self, other: Judged, by: Literal["loss", "accuracy"]) -> bool:
        """By accuracy, and of equal ones by loss; or by loss alone. What is no number is never better."""
        if not math.isfinite(self.loss):
            return False
        if by == "loss" or self.accuracy == other.accuracy:
            return self.loss < other.loss
        return self.accuracy > other.accuracy


def judge(network: nn.Module, data: Data, loss: Criterion, run: Runtime, size: int = JUDGED) -> Judged:
    """All of the data, shared between the processes; size: images at once."""
    network.eval()
    sums = torch.zeros(5, dtype=torch.float64)  # loss, right, asked; of numbers: sum and sum of squares of the targets
    with torch.inference_mode():
        for batch in in_turn(data, size, process=run.process, processes=run.processes):
            batch = batch.to(run.device)
            outputs = network(batch.inputs).float()
            found = [loss(outputs, batch.targets) * len(outputs), *_counted(outputs, batch.targets, data.numbers)]
            sums[: len(found)] += torch.stack([torch.as_tensor(one).double().cpu() for one in found])
    total, right, asked, first, second = run.total(sums).tolist()
    rows = asked / (data.targets.shape[1] if data.targets.ndim == 2 else 1)
    if data.numbers:
        spread = second - first * first / max(1.0, asked)
        return Judged(total / max(1.0, rows), 1 - right / spread if spread > 0 else 0.0)
    return Judged(total / max(1.0, rows), right / max(1.0, asked))


def answers(network: nn.Module, data: Data, run: Runtime, *, several: bool = False) -> Tensor:
    """(N, C) probabilities of all of the data, in order; of numbers (N, 1) as they come. several: labels at once."""
    network.eval()
    network.to(run.device)
    with torch.inference_mode():
        parts = [network(batch.to(run.device).inputs).float().cpu() for batch in in_turn(data)]
    scores = torch.cat(parts)
    if data.numbers:
        return scores
    return scores.sigmoid() if several else scores.softmax(1)


def _counted(outputs: Tensor, targets: Tensor, numbers: bool) -> list[Tensor]:
    if numbers:  # squared errors, and what R² needs
        count = outputs.new_tensor(float(len(outputs)))
        return [((outputs[:, 0] - targets) ** 2).sum(), count, targets.double().sum(), (targets.double() ** 2).sum()]
    if targets.ndim == 2:
        return [((outputs > 0) == (targets > 0.5)).sum(), outputs.new_tensor(float(targets.numel()))]
    return [(outputs.argmax(1) == targets).sum(), outputs.new_tensor(float(len(outputs)))]

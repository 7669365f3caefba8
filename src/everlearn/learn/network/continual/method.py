"""What a continual method is asked while a network learns: before, in each step, and after.

An experience is what is new since the network last learned: images of new classes, or more of old ones. Whoever walks
through experiences calls `before` and `after`, once each; the training loop (`learn.fit`) calls `replay` and `loss` in
each step and knows nothing else of a method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from everlearn.learn.network.losses import Criterion

if TYPE_CHECKING:
    from everlearn.learn.network.loading import Data


class Replayed(NamedTuple):
    """Old rows that are learned beside a batch, in the form of the training data: the loop augments and scales them as
    it does its own. inputs: (M, S, S, 3) uint8 or (M, D) float32; targets: (M,) int64 columns."""

    inputs: NDArray[Any]
    targets: NDArray[np.int64]


class Method(Protocol):
    """One way not to forget. Nothing in it is drawn from a generator that has a state: a run that is resumed calls
    `before` on the network as the last experience left it, goes on with the turn it had come to, and gets the same."""

    def before(self, network: nn.Module, data: Data) -> None:
        """An experience begins. network: as the last experience left it; data: what is new."""

    def replay(self, count: int, turn: int) -> Replayed | None:
        """Old rows to put after a batch of `count` new ones. turn: the batch's number in this experience, from 0 on;
        with n processes, process r's batch b has turn b * n + r, so that each draws its own."""

    def loss(self, images: Tensor, targets: Tensor, logits: Tensor, new: int, criterion: Criterion) -> Tensor:
        """All that is made small in one step: a number.

        images: (N + M, 3, S, S) float32 in 0..1, as the network took them; targets: (N + M,) columns, or (N + M, C)
        shares where the batch was mixed; logits: (N + M, C); new: N, after which the replayed rows stand.
        """

    def after(self, network: nn.Module, data: Data, keys: Sequence[str] | None = None) -> None:
        """An experience is learned. keys: a name for each row, under which it can be forgotten; None: what it shows."""

    def state(self) -> Mapping[str, Tensor]:
        """What the next experience needs beside the network, to be saved with it."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""


def shown(data: Data, rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
    """The inputs of these rows of the data, or of all, as they lie there."""
    if data.rows is not None:
        return data.inputs[data.rows if rows is None else data.rows[rows]]
    return data.inputs if rows is None else data.inputs[rows]


class LossAlone:
    """The half of a method that has nothing to do with the past: what only changes the loss derives from it."""

    def before(self, network: nn.Module, data: Data) -> None:
        pass

    def replay(self, count: int, turn: int) -> Replayed | None:
        return None

    def after(self, network: nn.Module, data: Data, keys: Sequence[str] | None = None) -> None:
        pass

    def state(self) -> Mapping[str, Tensor]:
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        pass


def pixels(inputs: NDArray[Any], device: torch.device | str = "cpu") -> Tensor:
    """(N, S, S, 3) uint8 -> (N, 3, S, S) float32 in 0..1, as a network takes them; (N, D) rows stay as they are."""
    rows = torch.from_numpy(np.ascontiguousarray(inputs)).to(device)
    return rows.permute(0, 3, 1, 2).float().div_(255) if rows.ndim == 4 else rows


@torch.no_grad()
def answers(network: nn.Module, inputs: NDArray[Any], batch: int = 256) -> Tensor:
    """Logits (N, C), on the CPU, of the network as it answers (no dropout, running statistics)."""
    device = next(network.parameters()).device
    trained, found = network.training, []
    network.eval()
    for at in range(0, len(inputs), batch):
        found.append(network(pixels(inputs[at : at + batch], device)).float().cpu())
    network.train(trained)
    return torch.cat(found)

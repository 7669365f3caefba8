"""Plain fine-tuning, the lower bound: the network learns what is new, and nothing holds what is old."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from everlearn.learn.network.continual.method import Replayed
from everlearn.learn.network.loading import Data
from everlearn.learn.network.losses import Criterion


class Naive:
    """No replay and no other loss. The methods are written as what they do beside this.

    known: the columns that the network has learned already; those of each experience are added.
    """

    def __init__(self, known: Iterable[int] = ()) -> None:
        self.known = set(known)

    def before(self, network: nn.Module, data: Data) -> None:
        pass

    def replay(self, count: int, turn: int) -> Replayed | None:
        return None

    def loss(self, images: Tensor, targets: Tensor, logits: Tensor, new: int, criterion: Criterion) -> Tensor:
        return criterion(logits, targets)

    def after(self, network: nn.Module, data: Data, keys: Sequence[str] | None = None) -> None:
        self.known |= set(data.targets.tolist())

    def state(self) -> Mapping[str, Tensor]:
        return {"known": torch.tensor(sorted(self.known), dtype=torch.int64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.known = set(state["known"].tolist())

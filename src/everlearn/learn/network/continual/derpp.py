"""Dark experience replay (DER++): old images with the logits that the network gave when it had learned them.

    L = l(f(x), y)  +  alpha ||f(x') - z'||^2 / W  +  beta l(f(x'), y')       (x, y) new, (x', y', z') old

Buzzega et al. 2020, Dark Experience for General Continual Learning, arXiv:2004.07211, eq. 6.

As in Avalanche, one draw of old images serves both terms, and z' is noted when an experience has been learned, of the
image as it is. Columns that came after z' are noted at the end of the experience that brought them (X-DER, Boschi et
al. 2022, arXiv:2201.00766), so that old images also say that they are none of the new classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from everlearn.learn.network.continual.method import Replayed, answers, shown
from everlearn.learn.network.continual.replay import Replay
from everlearn.learn.network.continual.reservoir import Reservoir
from everlearn.learn.network.loading import Data
from everlearn.learn.network.losses import Criterion


class DerPlusPlus(Replay):
    """alpha: weight of the noted logits; beta: of the old labels; the rest as `Replay`."""

    def __init__(
        self, reservoir: Reservoir, *, alpha: float = 0.1, beta: float = 0.5, batch: int = 32, prior: bool = True,
        known: Iterable[int] = (), seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(reservoir, batch=batch, prior=prior, known=known, seed=seed)
        self.alpha, self.beta = alpha, beta
        self._noted = torch.empty(0, 0)  # (M, W) of the rows of this turn

    def replay(self, count: int, turn: int) -> Replayed | None:
        places = self.draw(turn)
        self._noted = torch.from_numpy(self.reservoir.logits[places])
        return Replayed(self.reservoir.inputs(places), self.reservoir.targets[places]) if len(places) else None

    def loss(self, images: Tensor, targets: Tensor, logits: Tensor, new: int, criterion: Criterion) -> Tensor:
        shifted = self.shifted(logits, 1, self.beta)
        found = criterion(shifted[:new], targets[:new])
        if len(logits) == new:
            return found
        noted = self._noted.to(logits.device)
        there = ~noted.isnan()  # (M, W)
        apart = (logits[new:, : noted.shape[1]].float() - noted.nan_to_num()) * there
        dark = apart.square().sum() / there.sum().clamp(min=1)
        return found + self.alpha * dark + self.beta * criterion(shifted[new:], targets[new:])

    def after(self, network: nn.Module, data: Data, keys: Sequence[str] | None = None) -> None:
        super().after(network, data, keys)
        noted = self.reservoir.logits  # (N, W)
        blank = np.flatnonzero(np.isnan(noted).any(1))
        if len(blank):
            now = answers(network, self.reservoir.inputs(blank)).numpy()
            noted[blank] = np.where(np.isnan(noted[blank]), now, noted[blank])
            self.reservoir.note(noted)

    def width(self, network: nn.Module, data: Data) -> int:
        return int(answers(network, shown(data, np.arange(1))).shape[1])

    def logits(self, network: nn.Module, inputs: NDArray[Any]) -> NDArray[Any] | None:
        return answers(network, inputs).numpy() if len(inputs) else None

"""Experience replay (ER): beside each batch of what is new, as many old images from a reservoir.

    L = 1/(N+M) [ sum over new of l(f(x), y)  +  sum over old of l(f(x), y) ]

Chaudhry et al. 2019, On Tiny Episodic Memories in Continual Learning, arXiv:1902.10486.

A batch then holds each new class more often than each old one, and the network would answer accordingly. `prior` takes
that out: what is learned is f(x) + log p, with p the share that each class has of a batch, and what is used is f(x)
(Menon et al. 2021, Long-Tail Learning via Logit Adjustment, arXiv:2007.07314, eq. 11). Without it, this is ER as
published.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from everlearn.learn.network.continual.method import Replayed, shown
from everlearn.learn.network.continual.naive import Naive
from everlearn.learn.network.continual.reservoir import Reservoir, names
from everlearn.learn.network.loading import Data
from everlearn.learn.network.losses import Criterion


class Replay(Naive):
    """reservoir: where old images lie; batch: how many of them each step has; prior: whether p is taken out."""

    def __init__(
        self, reservoir: Reservoir, *, batch: int = 32, prior: bool = False, known: Iterable[int] = (), seed: int = 0
    ) -> None:
        super().__init__(known)
        self.reservoir, self.batch, self.prior, self.seed = reservoir, batch, prior, seed
        self.number = 0  # of the experience
        self._shares: tuple[Tensor, Tensor] | None = None  # (C,) of the new images, (C,) of the old
        self._passes: dict[int, NDArray[np.int64]] = {}

    def before(self, network: nn.Module, data: Data) -> None:
        self._passes.clear()
        self._shares = None
        if self.prior and len(self.reservoir):
            self._shares = shares(data.targets), shares(self.reservoir.targets)

    def replay(self, count: int, turn: int) -> Replayed | None:
        places = self.draw(turn)
        return Replayed(self.reservoir.inputs(places), self.reservoir.targets[places]) if len(places) else None

    def draw(self, turn: int) -> NDArray[np.int64]:
        """(M,) places in the reservoir. It is gone through in a new order each time, so that all are seen as often."""
        held = len(self.reservoir)
        more = min(held, self.batch)
        wanted = range(turn * more, (turn + 1) * more)
        return np.array([self._order(at // held)[at % held] for at in wanted], np.int64)

    def _order(self, number: int) -> NDArray[np.int64]:
        if number not in self._passes:
            self._passes = {old: order for old, order in self._passes.items() if old == number - 1}
            random = np.random.default_rng((self.seed, self.number, number))
            self._passes[number] = random.permutation(len(self.reservoir))
        return self._passes[number]

    def loss(self, images: Tensor, targets: Tensor, logits: Tensor, new: int, criterion: Criterion) -> Tensor:
        return criterion(self.shifted(logits, new, len(logits) - new), targets)

    def shifted(self, logits: Tensor, new: float, old: float) -> Tensor:
        """f(x) + log p, (N, C), where p counts new images `new` times and old ones `old` times. A class without an
        image has the least share of any."""
        if self._shares is None:
            return logits
        p = torch.zeros(logits.shape[1])
        for weight, share in zip((new, old), self._shares, strict=True):
            p[: len(share)] += weight / (new + old) * share
        p[p == 0] = p[p > 0].min()
        return logits + p.log().to(logits.device, logits.dtype)

    def after(self, network: nn.Module, data: Data, keys: Sequence[str] | None = None) -> None:
        super().after(network, data, keys)
        keys = names(shown(data)) if keys is None else keys
        rows = self.reservoir.wanted(data.targets, keys, self.width(network, data))  # only these need be read
        inputs = shown(data, rows)
        logits = self.logits(network, inputs)
        self.reservoir.offer(inputs, data.targets[rows], [keys[row] for row in rows], logits)
        self.number += 1

    def width(self, network: nn.Module, data: Data) -> int:
        """Logits that are noted of each image: none."""
        return 0

    def logits(self, network: nn.Module, inputs: NDArray[Any]) -> NDArray[Any] | None:
        """(M, width) of images that come into the reservoir."""
        return None

    def state(self) -> Mapping[str, Tensor]:
        return {**super().state(), "number": torch.tensor(self.number)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore(state)
        self.number = int(state["number"])


def shares(targets: NDArray[np.int64]) -> Tensor:
    """(N,) columns -> (C,) share that each has of them."""
    return torch.from_numpy(np.bincount(targets) / len(targets)).float()

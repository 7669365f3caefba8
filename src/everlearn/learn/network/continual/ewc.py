"""Elastic weight consolidation (EWC): weights that mattered for what is old are held where they are. A baseline.

    L = l(f(x), y)  +  lambda/2 sum_i F_i (theta_i - theta*_i)^2
    F_i = E_x E_{y ~ p(y|x)} [ (d log p(y|x) / d theta_i)^2 ]

Kirkpatrick et al. 2017, Overcoming catastrophic forgetting in neural networks, arXiv:1612.00796, eq. 3. Over several
experiences F adds up and theta* is the last (Huszar 2018, arXiv:1712.03847), so that its size does not grow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.learn.network.continual.method import pixels, shown
from everlearn.learn.network.continual.naive import Naive
from everlearn.learn.network.loading import Data
from everlearn.learn.network.losses import Criterion


class Ewc(Naive):
    """strength: lambda; steps of plain SGD diverge where learning rate x lambda x F is above 2. samples: images that F
    is estimated on."""

    def __init__(self, *, strength: float = 10.0, samples: int = 200, known: Iterable[int] = (), seed: int = 0) -> None:
        super().__init__(known)
        self.strength, self.samples, self.seed = strength, samples, seed
        self.importance: dict[str, Tensor] = {}  # F
        self.anchor: dict[str, Tensor] = {}  # theta*
        self._held: list[tuple[nn.Parameter, Tensor, Tensor]] = []

    def before(self, network: nn.Module, data: Data) -> None:
        self._held = [
            (weight, self.importance[name].to(weight.device), self.anchor[name].to(weight.device))
            for name, weight in network.named_parameters()
            if name in self.importance
        ]

    def loss(self, images: Tensor, targets: Tensor, logits: Tensor, new: int, criterion: Criterion) -> Tensor:
        found = criterion(logits, targets)
        for weight, importance, anchor in self._held:
            old = weight[: len(anchor)]  # a head that has grown has its old rows first
            found = found + self.strength / 2 * (importance * (old - anchor).square()).sum()
        return found

    def after(self, network: nn.Module, data: Data, keys: Sequence[str] | None = None) -> None:
        super().after(network, data, keys)
        found = fisher(network, data, self.samples, self.seed)
        for name, before in self.importance.items():
            found[name][: len(before)] += before
        self.importance = found
        self.anchor = {name: weight.detach().cpu().clone() for name, weight in network.named_parameters()}

    def state(self) -> Mapping[str, Tensor]:
        importance = {f"importance.{name}": one for name, one in self.importance.items()}
        return {**super().state(), **importance, **{f"anchor.{name}": one for name, one in self.anchor.items()}}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore(state)
        for kind, held in (("importance.", self.importance), ("anchor.", self.anchor)):
            held.clear()
            held.update({name.removeprefix(kind): one for name, one in state.items() if name.startswith(kind)})


def fisher(network: nn.Module, data: Data, samples: int, seed: int = 0) -> dict[str, Tensor]:
    """Name -> F, of each parameter's shape: the diagonal of the Fisher matrix, with answers drawn from the network."""
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(len(data.targets))[:samples])
    found = {name: torch.zeros_like(weight) for name, weight in network.named_parameters()}
    device = next(network.parameters()).device
    trained = network.training
    network.eval()
    for row in rows.tolist():
        log_p = F.log_softmax(network(pixels(shown(data, np.array([row])), device)), dim=1)[0]  # (C,)
        p = log_p.detach().double().exp().cpu().numpy()
        answer = int(random.choice(len(p), p=p / p.sum()))
        network.zero_grad(set_to_none=True)
        log_p[answer].backward()  # type: ignore[no-untyped-call]
        for name, weight in network.named_parameters():
            if weight.grad is not None:
                found[name] += weight.grad.square() / len(rows)
    network.zero_grad(set_to_none=True)
    network.train(trained)
    return {name: one.cpu() for name, one in found.items()}

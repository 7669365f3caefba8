"""Learning without forgetting (LwF): on the new images, the network goes on saying of the old classes what it said.

    L = l(f_new(x), y)  +  alpha T^2 KL( softmax(g_old(x)/T) || softmax(f_old(x)/T) )

g is the network as it was before the experience; f_new: the columns of the classes that the new images have, f_old: of
the classes known before. No old image is needed. Li & Hoiem 2016, Learning without Forgetting, arXiv:1606.09282, eq. 1
to 3: there each task has outputs of its own, so that the labels of new images do not press old classes down; here they
do not either. T^2 keeps the term's gradient at one size (Hinton et al. 2015, arXiv:1503.02531).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.learn.network.continual.naive import Naive
from everlearn.learn.network.loading import Data
from everlearn.learn.network.losses import Criterion

_IMPOSSIBLE = 30.0  # below every other logit; exp(-30) is nothing, and a smoothed label stays finite


class Lwf(Naive):
    """alpha: weight of what was said before; temperature: T, how much of it is looked at beyond the first answer."""

    def __init__(self, *, alpha: float = 1.0, temperature: float = 2.0, known: Iterable[int] = ()) -> None:
        super().__init__(known)
        self.alpha, self.temperature = alpha, temperature
        self._teacher: nn.Module | None = None
        self._absent: list[int] = []  # known columns that no new image has

    def before(self, network: nn.Module, data: Data) -> None:
        self._teacher, self._absent = None, sorted(self.known - set(data.targets.tolist()))
        if self.known:
            self._teacher = copy.deepcopy(network).eval().requires_grad_(False)

    def loss(self, images: Tensor, targets: Tensor, logits: Tensor, new: int, criterion: Criterion) -> Tensor:
        found = criterion(without(logits, self._absent), targets)
        if self._teacher is None:
            return found
        with torch.no_grad():
            said = self._teacher(images)  # (N, C before)
        columns = torch.tensor(sorted(self.known), device=logits.device)
        return found + self.alpha * distilled(logits[:, columns], said[:, columns], self.temperature)


def without(logits: Tensor, columns: list[int]) -> Tensor:
    """(N, C) in which these columns are as good as impossible, and get no gradient."""
    if not columns:
        return logits
    least = float(logits.detach().min()) - _IMPOSSIBLE
    return logits.index_fill(1, torch.tensor(columns, device=logits.device), least)


def distilled(logits: Tensor, said: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(said / T) || softmax(logits / T)), (N, C) both -> the mean over N."""
    log_p = F.log_softmax(logits / temperature, dim=1)
    q = F.log_softmax(said.to(logits.dtype) / temperature, dim=1)
    return temperature**2 * F.kl_div(log_p, q, log_target=True, reduction="batchmean")

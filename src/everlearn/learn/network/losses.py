"""Losses: what a step of training makes small.

Targets are class columns (N,) int64, shares of classes (N, C) float32 (MixUp and CutMix make such, and several labels
at once are 0 and 1), or numbers (N,) float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.errors import BadInput
from everlearn.learn.network.recipe import Loss

Criterion = Callable[[Tensor, Tensor], Tensor]
"""(outputs (N, C), targets) -> the mean loss, one number."""

NUMBERS = ("mse", "mae", "huber")
"""Losses of a network whose output is a number."""


def criterion(loss: Loss, counts: Tensor | None = None) -> Criterion:
    """The loss that a stage asks for. counts: (C,) training images of each class, for `class_weights`."""
    if loss.name in NUMBERS:
        return lambda outputs, targets: _of_numbers(loss, outputs[:, 0], targets)
    weights = class_weights(counts) if loss.class_weights and counts is not None else None

    def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
        """-w t log p, Cui et al. 2019, eq. 10 (arXiv:1901.05555). Weighted too it is a mean over images, not over their
        weights as torch's: so the parts of a batch add up to it, and rare classes weigh in small batches."""
        if weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=loss.label_smoothing)
        weight = weights.to(logits.device, logits.dtype)
        whole = F.cross_entropy(logits, targets, weight, reduction="sum", label_smoothing=loss.label_smoothing)
        return whole / len(logits)

    def focal(logits: Tensor, targets: Tensor) -> Tensor:
        """-t (1 - p)^gamma log p, Lin et al. 2017, eq. 4 (arXiv:1708.02002)."""
        log_p = F.log_softmax(logits, dim=1)  # (N, C)
        shares = smoothed(one_hot(targets, logits), loss.label_smoothing)
        if weights is not None:
            shares = shares * weights.to(logits.device, logits.dtype)
        return -(shares * (1 - log_p.exp()) ** loss.gamma * log_p).sum(dim=1).mean()

    def bce(logits: Tensor, targets: Tensor) -> Tensor:
        """Each class by itself, yes or no; smoothing pulls both toward one half."""
        wanted = one_hot(targets, logits)
        wanted = wanted * (1 - loss.label_smoothing) + loss.label_smoothing / 2
        weight = None if weights is None else weights.to(logits.device, logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, wanted, weight=weight)

    return {"cross_entropy": cross_entropy, "focal": focal, "bce": bce}[loss.name]


def plain(loss: Loss) -> Loss:
    """The same kind of loss without what is only for training: what stages are compared by on the validation side."""
    if loss.name in NUMBERS:
        return Loss(name="mse")
    return Loss(name="bce" if loss.name == "bce" else "cross_entropy")


def one_hot(targets: Tensor, logits: Tensor) -> Tensor:
    """Class columns (N,) -> (N, C); shares stay as they are."""
    if targets.ndim == 2:
        return targets.to(logits.dtype)
    return F.one_hot(targets, logits.shape[1]).to(logits.dtype)


def smoothed(shares: Tensor, smoothing: float) -> Tensor:
    """(1 - s) t + s / C, Szegedy et al. 2016, section 7 (arXiv:1512.00567)."""
    return shares * (1 - smoothing) + smoothing / shares.shape[1]


def class_weights(counts: Tensor) -> Tensor:
    """(C,) images of each class -> (C,) weights, n / (C n_c): their mean over the images is 1. A class without an image
    weighs nothing."""
    present = counts > 0
    if not bool(present.any()):
        raise BadInput("No class has a training image.", "Collect and label some.")
    weights = counts.sum() / (present.sum() * counts.clamp(min=1))
    return torch.where(present, weights, torch.zeros_like(weights)).to(torch.float32)


def _of_numbers(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    if loss.name == "mse":
        return F.mse_loss(outputs, targets)
    if loss.name == "mae":
        return F.l1_loss(outputs, targets)
    return F.huber_loss(outputs, targets, delta=loss.delta)

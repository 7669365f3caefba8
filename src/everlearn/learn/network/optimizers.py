"""Optimizers: what turns gradients into steps. torch's own, with the parts that decay kept apart from those that do
not."""

from __future__ import annotations

import torch
from torch import nn

from everlearn.learn.network.recipe import Optimizer


def optimizer(network: nn.Module, settings: Optimizer, processes: int = 1) -> torch.optim.Optimizer:
    """Over the parameters that are trained. With n processes a step sees n times the images, so the learning rate is n
    times as high (the linear scaling rule, Goyal et al. 2017, arXiv:1706.02677)."""
    trained = [one for one in network.parameters() if one.requires_grad]
    groups = [
        {"params": [one for one in trained if one.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [one for one in trained if one.ndim < 2], "weight_decay": 0.0},  # biases and norms
    ]
    groups = [group for group in groups if group["params"]]
    rate = settings.learning_rate * processes
    if settings.name == "sgd":
        nesterov = settings.nesterov and settings.momentum > 0
        return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum, nesterov=nesterov)
    if settings.name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=rate, momentum=settings.momentum)
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=rate)

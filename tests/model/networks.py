"""Networks that answer differently to different images, without being trained."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from everlearn.model.trainable import Network


@torch.no_grad()
def lively(network: Network, seed: int = 1) -> Network:
    """Norms that do something, as after training, and a head with opinions."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(value: torch.Tensor, low: float, high: float) -> None:
        value.copy_(torch.rand(value.shape, generator=generator) * (high - low) + low)

    for module in network.modules():
        if isinstance(module, _BatchNorm):
            assert module.running_mean is not None and module.running_var is not None
            drawn(module.running_mean, -0.2, 0.2)
            drawn(module.running_var, 0.5, 2.0)
        if isinstance(module, _BatchNorm | nn.GroupNorm) and module.affine:
            drawn(module.weight, 0.5, 1.5)
            drawn(module.bias, -0.3, 0.3)
    network.head.weight.mul_(10)
    return network

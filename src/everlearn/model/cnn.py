"""A small convolutional network that learns from scratch on a CPU: `cnn:depth=4,width=32,dropout=0.2,norm=batch`.

A stem, then `depth` residual blocks (He et al. 2016, arXiv:1512.03385), each on half the side and with more channels
than the one before, then the mean over all places. About 45 million multiplications for an image of 64 px.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["batch", "group", "none"]

NORMS = ("batch", "group", "none")
WIDEST = 4  # times `width`: more channels cost most and add least where the side is small
LEAST = 4  # px: a side is not halved below
_STEM = 48  # px: from here on the stem halves the side, from twice that on it quarters it
_GROUPED = 8  # channels in a group


def channels(depth: int, width: int) -> list[int]:
    """Of each block: width, 2 width, 4 width, 4 width, …"""
    return [width * min(2**block, WIDEST) for block in range(depth)]


def strides(depth: int, size: int) -> list[int]:
    """Of the stem and of each block, for squares of `size` px."""
    found = [1 if size < _STEM else 2 if size < 2 * _STEM else 4]
    side = -(-size // found[0])
    for block in range(depth):
        found.append(2 if block and side >= 2 * LEAST else 1)
        side = -(-side // found[-1])
    return found


class Cnn(nn.Module):
    """images (N, 3, S, S) float32 -> features (N, D). dimensions: D."""

    def __init__(self, depth: int, width: int, norm: Norm, size: int) -> None:
        wide, (stem, *steps) = channels(depth, width), strides(depth, size)
        kernel = 3 if stem == 1 else 2 * stem - 1
        blocks = [Block(a, b, step, norm) for a, b, step in zip([width, *wide], wide, steps, strict=False)]
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, kernel, stem, kernel // 2, bias=norm == "none"), normed(norm, width),
            nn.ReLU(inplace=True), *blocks,
        )  # fmt: skip
        self.dimensions = wide[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # keeps the size of what flows (He et al. 2015, arXiv:1502.01852)
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.layers(images)
        return found.mean((2, 3))


class Block(nn.Module):
    """x -> relu(way(x) + short(x)), (N, C, S, S) -> (N, C', S / stride, S / stride).

    Its last scale begins at 0, so that the network begins as a shallow one (Goyal et al. 2017, arXiv:1706.02677, §5.1).
    """

    def __init__(self, before: int, after: int, stride: int, norm: Norm) -> None:
        super().__init__()
        bias = norm == "none"
        last = normed(norm, after)
        self.way = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=bias), normed(norm, after), nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, 1, 1, bias=bias), last,
        )  # fmt: skip
        short: list[nn.Module] = []
        if stride == 2:  # a mean loses nothing, where a strided 1 x 1 looks at a quarter (He et al. 2019, ResNet-D)
            short.append(nn.AvgPool2d(2, 2, ceil_mode=True))
        if before != after:
            short += [nn.Conv2d(before, after, 1, bias=bias), normed(norm, after)]
        self.short = nn.Sequential(*short)
        if isinstance(last, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.way(x) + self.short(x))


def normed(norm: Norm, width: int) -> nn.Module:
    """What keeps (N, width, S, S) at mean 0 and variance 1: over the batch (Ioffe & Szegedy 2015), or over groups of
    channels of each image (Wu & He 2018), which small batches do not disturb."""
    if norm == "batch":
        return nn.BatchNorm2d(width)
    return nn.GroupNorm(max(1, width // _GROUPED), width) if norm == "group" else nn.Identity()

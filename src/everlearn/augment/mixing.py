"""Two images become one, and so do their labels: MixUp and CutMix, torchvision's, drawn from a key.

MixUp (Zhang et al., 2018, arXiv:1710.09412): x = λ x₁ + (1 - λ) x₂, y = λ y₁ + (1 - λ) y₂, λ ~ Beta(α, α).
CutMix (Yun et al., 2019, arXiv:1905.04899): a rectangle of x₂, of the area 1 - λ, is put into x₁; labels as above, by
the area that was really cut.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torchvision.transforms import v2

_TURN = threading.Lock()


def mixed(
    images: Tensor, targets: Tensor, key: int, *, mixup: float = 0.0, cutmix: float = 0.0
) -> tuple[Tensor, Tensor]:
    """images (N, 3, S, S) float32, targets (N, C) float32 shares -> the same, each mixed with its neighbour in the
    batch, which therefore has to be in random order.

    mixup, cutmix: their α; 0 is off; with both, each batch gets one of the two. key: the same gives the same.
    """
    wanted = [one(alpha=float(alpha)) for one, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix)) if alpha > 0]
    if not wanted or len(images) < 2:
        return images, targets
    with _drawn_from(key):
        chosen = wanted[int(torch.randint(len(wanted), ()))]
        images, targets = chosen(images, targets)
    return images, targets


@contextmanager
def _drawn_from(key: int) -> Iterator[None]:
    """torch's own generator begins at the key, for torchvision draws from nothing else; then it goes on as if nothing
    had been. Not `torch.manual_seed`: that would seed the GPUs too."""
    with _TURN:
        before = torch.default_generator.get_state()
        torch.default_generator.manual_seed(key)
        try:
            yield
        finally:
            torch.default_generator.set_state(before)

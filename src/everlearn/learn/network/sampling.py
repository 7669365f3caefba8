"""Which images an epoch shows, in which order: a function of the targets, the seed and the epoch alone, so that every
process, and a resumed run, makes the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from everlearn.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

Sampling = Literal["natural", "balanced", "over", "under"]


def order(targets: NDArray[np.generic], how: Sampling, seed: int, epoch: int) -> NDArray[np.int64]:
    """(N,) class columns -> rows of the training data, in the order in which they are shown.

    natural: each once. balanced: N rows, every class equally likely. over: rare classes repeated until each is as
    frequent as the most frequent. under: frequent ones cut to the rarest, other rows in every epoch.
    Raises BadInput for all but natural where targets are no class columns.
    """
    rng = np.random.default_rng([seed, epoch, 0x5A])
    if how == "natural":
        return rng.permutation(len(targets))
    if targets.ndim != 1 or targets.dtype.kind not in "iu":
        raise BadInput(f"sampling {how} needs one class for each image.", "Use sampling: natural.")
    rows = [np.flatnonzero(targets == column) for column in np.unique(targets)]
    if how == "balanced":
        classes = rng.integers(len(rows), size=len(targets))
        drawn = rng.random(len(targets))
        sizes = np.array([len(one) for one in rows])
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        found = np.concatenate(rows)[starts[classes] + (drawn * sizes[classes]).astype(np.int64)]
        return found.astype(np.int64)
    size = max(map(len, rows)) if how == "over" else min(map(len, rows))
    parts = [np.concatenate([rng.permutation(one) for _ in range(-(-size // len(one)))])[:size] for one in rows]
    return rng.permutation(np.concatenate(parts)).astype(np.int64)


def keys(seed: int, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) places in an epoch -> (N,) seeds of what is drawn there. Positive. Seed and epoch are mixed one after the
    other, so that those of two stages, or epochs, are not the same ones at other places."""
    with np.errstate(over="ignore"):
        begin = _mixed(_mixed(np.array([seed], np.uint64)) + np.uint64(epoch))
        found = _mixed(begin + positions.astype(np.uint64) * _GOLDEN)
    return (found >> np.uint64(1)).astype(np.int64)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The next output of SplitMix64 in state x (Steele et al. 2014, figure 16)."""
    z = x + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return found

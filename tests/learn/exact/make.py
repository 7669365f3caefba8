"""Features and labels for the tests of the exact memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.memory import ExactMemory

BASIS = "ab" * 32


def blobs(n: int, d: int, c: int, seed: int = 0, noise: float = 60.0) -> tuple[NDArray[np.int8], list[str], NDArray]:
    """phi (n, d), labels (n,), folds (n,): one noisy cloud per class."""
    rng = np.random.default_rng(seed)
    column = rng.integers(0, c, n)
    phi = rng.normal(0, 25, (c, d))[column] + rng.normal(0, noise, (n, d))
    return np.clip(np.rint(phi), -127, 127).astype(np.int8), [f"c{i}" for i in column], rng.integers(0, 5, n)


def taught(phi: NDArray, labels: list[str], folds: NDArray, **options: object) -> ExactMemory:
    memory = ExactMemory(BASIS, phi.shape[1], **options)  # type: ignore[arg-type]
    memory.add(phi, labels, folds)
    return memory


def cache(phi: NDArray, labels: list[str], folds: NDArray) -> Cached:
    return Cached([f"id{i:06}" for i in range(len(phi))], phi, labels, folds)

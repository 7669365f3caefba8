"""A memory without a fold is, bit for bit, the memory that never saw it."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.errors import BadInput
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.fit import fit
from everlearn.learn.exact.leave import without
from everlearn.learn.exact.memory import ExactMemory
from everlearn.learn.exact.target import RegressionTarget


@pytest.mark.parametrize("target", [None, RegressionTarget(0.0, 10.0, 0.5)])
def test_it_is_the_memory_of_the_others(target: RegressionTarget | None) -> None:
    rng = np.random.default_rng(0)
    phi = rng.integers(-127, 128, (60, 8), dtype=np.int8)
    labels = [str(i % 10) for i in range(60)] if target else [*("ab" * 29), "only", "only"]
    folds = rng.integers(0, 4, 60)
    folds[58:] = 2  # a class that is in one fold alone
    whole = ExactMemory("00", 8, 4, target)
    whole.add(phi, labels, folds)
    digest = whole.digest()
    for fold in range(4):
        kept = folds != fold
        fresh = ExactMemory("00", 8, 4, target)
        fresh.add(phi[kept], [one for one, there in zip(labels, kept, strict=True) if there], folds[kept])
        left = without(whole, fold)
        assert left.digest() == fresh.digest() and left.samples == int(kept.sum())
        assert target or ("only" in left.classes) == (fold != 2)
        cached = Cached([f"{i:03}" for i in np.flatnonzero(kept)], phi[kept],
                        [one for one, there in zip(labels, kept, strict=True) if there], folds[kept])  # fmt: skip
        assert np.array_equal(fit(left, cached).head.weights, fit(fresh, cached).head.weights)
    assert whole.digest() == digest


def test_all_in_one_fold_leaves_nothing() -> None:
    whole = ExactMemory("00", 4, 2)
    whole.add(np.ones((3, 4), np.int8), ["a", "b", "a"], np.zeros(3, np.int64))
    left = without(whole, 0)
    assert left.samples == 0 and left.classes == () and left.digest() == ExactMemory("00", 4, 2).digest()
    with pytest.raises(BadInput, match="no fold 2"):
        without(whole, 2)

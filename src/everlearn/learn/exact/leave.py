"""A memory without one of its folds, for cross-validation: k trainings for the sums of one.

Sums are additive, so the memory that never saw fold k is the memory whose sums of fold k are empty. Nothing is added up
again: the other folds' G are shared with the memory that they came from, which must not change meanwhile. Ridge, head
and temperature are then chosen among the folds that are left, as for any memory: what is tested had no say in them.
"""

from __future__ import annotations

import numpy as np

from everlearn.errors import BadInput
from everlearn.learn.exact.memory import ExactMemory
from everlearn.learn.exact.sums import GramSum


def without(memory: ExactMemory, fold: int) -> ExactMemory:
    """The memory of all samples but those of this fold, which stays as an empty one. Raises BadInput for a fold that
    there is not."""
    if not 0 <= fold < memory.folds:
        raise BadInput(f"There is no fold {fold} in a memory of {memory.folds}.", f"Give 0 to {memory.folds - 1}.")
    left = ExactMemory(memory.basis_digest, memory.dimensions, memory.folds, memory.target)
    left.gram = [GramSum(memory.dimensions) if k == fold else gram for k, gram in enumerate(memory.gram)]
    keep = np.arange(memory.folds) != fold
    for name, counts in memory.counts.items():
        rest = np.where(keep, counts, 0)
        if memory.target is None and not rest.any():
            continue
        left.counts[name], left.sums[name] = rest, memory.sums[name] * keep[:, None].astype(memory.sums[name].dtype)
    left.squares = np.where(keep, memory.squares, 0)
    if memory.target is not None and not left.fold_counts.any():
        left.sums.clear()
        left.counts.clear()
    return left

"""The cached features of the samples that a memory holds, in canonical order."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import BadInput
from everlearn.learn.exact.memory import ALL, ExactMemory
from everlearn.learn.exact.sums import check_phi


@dataclass(frozen=True, eq=False)
class Cached:
    """ids, labels: N texts; phi: (N, D) int8, also memory-mapped; folds: (N,). In any order.

    among: (N,) which rows count, None: all. All that is computed from it goes by `order`, the rows that count sorted by
    id, so that it depends on the set alone.
    """

    ids: Sequence[str]
    phi: NDArray[np.int8]
    labels: Sequence[str]
    folds: NDArray[np.integer[Any]]
    among: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        counts = {len(self.ids), len(self.phi), len(self.labels), len(self.folds)}
        if len(counts) > 1:
            raise BadInput("ids, phi, labels and folds differ in length.", "Give one of each per sample.")
        if len(set(self.ids)) != len(self.ids):
            raise BadInput("an id occurs twice in the cached features.", "A sample is held once.")

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """(N,) rows in the order of their ids; of those that count."""
        order = np.argsort(np.asarray(self.ids, dtype=object), kind="stable")
        return order if self.among is None else order[self.among[order]]

    def of(self, classes: Collection[str], others: bool = False) -> Cached:
        """Only the samples of these classes count; with `others`, only those of no such class."""
        named = frozenset(classes)
        among = np.fromiter(((label in named) != others for label in self.labels), np.bool_, len(self.labels))
        return self if among.all() and self.among is None else replace(self, among=among)

    def thinned(self, every: int) -> Cached:
        """Only every such row of the order counts."""
        if every == 1:
            return self
        among = np.zeros(len(self.ids), np.bool_)
        among[self.order[::every]] = True
        return replace(self, among=among)

    def rows(self, fold: int, every: int = 1) -> NDArray[np.intp]:
        """Rows of a fold in canonical order; with `every`, each such one of the whole order only."""
        chosen = self.order[::every]
        return chosen[np.asarray(self.folds)[chosen] == fold]

    def blocks(
        self, rows: NDArray[np.intp], size: int = 8192
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        """(rows, phi as float32), `size` rows at a time."""
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            yield part, np.asarray(self.phi[part], np.float32)

    def check(self, memory: ExactMemory) -> None:
        """Raises BadInput where these are not as many samples per class and fold as the memory holds."""
        if len(self.ids):
            check_phi(self.phi[:1], memory.dimensions)
        folds = np.asarray(self.folds)
        if len(folds) and (folds.min() < 0 or folds.max() >= memory.folds):
            raise BadInput(f"a cached fold is outside 0 to {memory.folds - 1}.", "Use the folds of the memory.")
        names = memory.columns if memory.target is None else (ALL,)
        columns = self.class_rows(names) if memory.target is None else np.zeros(len(folds), np.intp)
        found = np.bincount(folds * len(names) + columns, minlength=memory.folds * len(names))
        found = found.reshape(memory.folds, len(names))
        held = np.stack([memory.counts[name] for name in names], axis=1) if memory.samples else np.zeros_like(found)
        if not np.array_equal(found, held):
            raise BadInput("the cached features are not those of the samples in memory.", "Run `everlearn doctor`.")

    def class_rows(self, classes: Sequence[str]) -> NDArray[np.intp]:
        """(N,) column of each row's label, -1 where it does not count. Raises BadInput naming a label that the memory
        does not hold."""
        column = {name: c for c, name in enumerate(classes)}
        counts = np.ones(len(self.labels), np.bool_) if self.among is None else self.among
        rows = zip(self.labels, counts.tolist(), strict=True)
        try:
            return np.fromiter((column[label] if one else -1 for label, one in rows), np.intp, len(self.labels))
        except KeyError as error:
            raise BadInput(f"cached label {error.args[0]!r} is not in memory.", "Run `everlearn doctor`.") from None

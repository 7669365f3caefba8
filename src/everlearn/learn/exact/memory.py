"""The exact memory: integer sums of quantised features, per fold, and nothing else.

With phi int8 in [-127, 127] it holds G = sum of phi phi^T (D x D), a column q_c = sum of phi per class, and the counts
n_c, for each fold. Integer sums do not round, so the memory is a pure function of the SET of samples in it: the same
bits in any order, portion or merge, and after a subtraction the bits of a memory that never saw the sample.

Whether a sample is in is the caller's knowledge; the memory refuses only what its sums prove impossible.
Sums are personal data: the column of a class with one sample is that sample's phi.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import BadInput
from everlearn.learn.exact import storage
from everlearn.learn.exact.sums import EXACT_ROWS, LIMIT, GramSum, add_each, check_phi, smallest
from everlearn.learn.exact.target import ROWS, RegressionTarget
from everlearn.learn.exact.threads import in_threads
from everlearn.naming import is_class

ALL, TARGET = "1", "y"
"""The two columns of a regression memory: the sum of phi (its count: rows), of phi * y (its count: the sum of y)."""

MOST_DIMENSIONS, MOST_FOLDS = 2**17, 2**10
_INT32_ROWS = (2**31 - 1) // LIMIT


class ExactMemory:
    """Sums of phi (N, D) int8 and labels, per fold.

    basis_digest: hex digest of the basis that makes phi; memories of different bases never mix.
    dimensions: D. folds: K; a sample's fold is in 0..K-1 and must depend on that sample alone.
    target: for `regress`; labels are then numbers, held in fixed point.
    """

    def __init__(
        self, basis_digest: str, dimensions: int, folds: int = 5, target: RegressionTarget | None = None
    ) -> None:
        if not (1 <= dimensions <= MOST_DIMENSIONS and 1 <= folds <= MOST_FOLDS):
            raise BadInput(
                f"a memory of {dimensions} dimensions and {folds} folds cannot be.",
                f"Give 1 to {MOST_DIMENSIONS} dimensions and 1 to {MOST_FOLDS} folds.",
            )
        self.basis_digest = basis_digest
        self.dimensions = dimensions
        self.folds = folds
        self.target = target
        self.gram = [GramSum(dimensions) for _ in range(folds)]
        self.sums: dict[str, NDArray[Any]] = {}  # class -> (K, D) int32 or int64
        self.counts: dict[str, NDArray[np.int64]] = {}  # class -> (K,)
        self.squares = np.zeros(folds, np.int64)  # Σy² per fold, regression only
        self._digest: str | None = None

    # what is in

    @property
    def classes(self) -> tuple[str, ...]:
        """Sorted names of the classes with samples; () for regression. Negatives have columns, but are no classes."""
        return () if self.target else tuple(name for name in self.columns if is_class(name))

    @property
    def columns(self) -> tuple[str, ...]:
        """Sorted names of all columns: the classes, and what negatives are known not to be."""
        return tuple(sorted(self.sums))

    @property
    def fold_counts(self) -> NDArray[np.int64]:
        """(K,) samples per fold."""
        if self.target:
            return self.counts.get(ALL, np.zeros(self.folds, np.int64)).copy()
        return np.sum(list(self.counts.values()), axis=0, dtype=np.int64).reshape(-1) + np.zeros(self.folds, np.int64)

    @property
    def samples(self) -> int:
        return int(self.fold_counts.sum())

    def class_counts(self) -> dict[str, int]:
        """Samples per class."""
        return {name: int(self.counts[name].sum()) for name in self.classes}

    # learning and forgetting

    def add(self, phi: NDArray[Any], labels: Sequence[str], folds: NDArray[np.integer[Any]]) -> None:
        """Learn phi (N, D) int8 with (N,) labels and (N,) folds. All or nothing.

        Raises BadInput naming the row: NaN, floats, values outside [-127, 127], an empty label, a fold outside 0..K-1.
        """
        phi, names, rows_of = self._checked(phi, labels, folds)
        change = self._change(phi, names, labels, rows_of)
        if self.target and self.samples + len(phi) > ROWS:
            raise BadInput(f"a regression memory holds at most {ROWS} samples.", "Split the data.")
        self._apply(change, 1)
        self._add(phi, rows_of, 1)

    def subtract(self, phi: NDArray[Any], labels: Sequence[str], folds: NDArray[np.integer[Any]]) -> None:
        """Unlearn exactly what was added so. All or nothing.

        Raises BadInput for what `add` refuses and where the sums prove that these rows were never added: a count below
        zero, a sum of squares below what remains, a sum left over where no sample is left.
        """
        phi, names, rows_of = self._checked(phi, labels, folds)
        change = self._change(phi, names, labels, rows_of)
        energies = np.stack([_energy(phi, rows) for rows in rows_of])
        self._refuse_impossible(change, energies)
        self._apply(change, -1)
        for fold in np.flatnonzero(self.fold_counts == 0):
            self.gram[fold].clear()
            rows_of[fold] = rows_of[fold][:0]
        self._add(phi, rows_of, -1)

    def merge(self, other: ExactMemory) -> None:
        """Add all that another memory of the same basis holds. Raises BadInput where the two do not match."""
        mine = (self.basis_digest, self.dimensions, self.folds, self.target)
        if mine != (other.basis_digest, other.dimensions, other.folds, other.target):
            raise BadInput("two memories of different basis, dimensions, folds or target cannot be merged.", "Rebuild.")
        if self.target and self.samples + other.samples > ROWS:
            raise BadInput(f"a regression memory holds at most {ROWS} samples.", "Split the data.")
        self._apply(_Change(other.sums, other.counts, other.squares), 1)
        for gram, theirs in zip(self.gram, other.gram, strict=True):
            gram.combine(theirs)

    def _add(self, phi: NDArray[np.int8], rows_of: list[NDArray[np.intp]], sign: int) -> None:
        """A few thousand rows of all folds at a time, so that no copy of phi grows with N."""
        size = max(1, 8 * EXACT_ROWS // self.folds)
        for start in range(0, max(map(len, rows_of)), size):
            parts = {fold: rows[start : start + size] for fold, rows in enumerate(rows_of) if len(rows) > start}
            add_each([self.gram[fold] for fold in parts], in_threads(phi.__getitem__, parts.values()), sign)

    def _checked(
        self, phi: NDArray[Any], labels: Sequence[str], folds: NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.int8], NDArray[np.str_] | None, list[NDArray[np.intp]]]:
        phi = check_phi(phi, self.dimensions)
        folds = np.asarray(folds)
        if len(labels) != len(phi) or folds.shape != (len(phi),):
            raise BadInput(f"{len(phi)} rows of phi, {len(labels)} labels, folds {folds.shape}.", "Give one per row.")
        if len(folds) and folds.dtype.kind not in "iu":
            raise BadInput(f"row 0: a fold of type {folds.dtype}.", f"Folds are integers from 0 to {self.folds - 1}.")
        bad = (folds < 0) | (folds >= self.folds)
        if bad.any():
            row = int(np.argmax(bad))
            raise BadInput(f"row {row}: fold {folds[row]}.", f"Folds are integers from 0 to {self.folds - 1}.")
        names = None
        if self.target is None:
            for row, label in enumerate(labels):
                if not isinstance(label, str) or not label:
                    raise BadInput(f"row {row}: {label!r} is no class name.", "A label is a non-empty text.")
            names = np.asarray(labels, dtype=object)
        return phi, names, [np.flatnonzero(folds == fold) for fold in range(self.folds)]

    def _change(
        self, phi: NDArray[np.int8], names: Any, labels: Sequence[str], rows_of: list[NDArray[np.intp]]
    ) -> _Change:
        """The sums of these rows alone."""
        if self.target is not None:
            return self._regression_change(phi, self.target.fixed(labels), rows_of)
        change = _Change({}, {}, np.zeros(self.folds, np.int64))
        kind = np.int32 if len(phi) <= _INT32_ROWS else np.int64
        at = {name: code for code, name in enumerate(dict.fromkeys(names))}
        codes = np.fromiter(map(at.__getitem__, names), np.intp, len(names))

        def of_fold(fold: int) -> list[tuple[str, NDArray[Any], int]]:
            rows = rows_of[fold]
            order = rows[np.argsort(codes[rows], kind="stable")]
            cuts = np.flatnonzero(np.diff(codes[order])) + 1
            return [(names[one[0]], _sum(phi, one, kind), len(one)) for one in np.split(order, cuts)]

        filled = [fold for fold, rows in enumerate(rows_of) if len(rows)]
        for fold, found in zip(filled, in_threads(of_fold, filled)):
            for name, total, count in found:
                column, counts = change.column(name, self.folds, self.dimensions, kind)
                column[fold], counts[fold] = total, count
        return change

    def _regression_change(
        self, phi: NDArray[np.int8], steps: NDArray[np.int64], rows_of: list[NDArray[np.intp]]
    ) -> _Change:
        change = _Change({}, {}, np.zeros(self.folds, np.int64))
        if not len(phi):
            return change
        total, rows_count = change.column(ALL, self.folds, self.dimensions)
        weighted, step_count = change.column(TARGET, self.folds, self.dimensions)
        for fold, rows in enumerate(rows_of):
            rows_count[fold], step_count[fold] = len(rows), steps[rows].sum()
            change.squares[fold] = (steps[rows] ** 2).sum()
            for part in _portions(rows):  # float64 is exact: 8,192 rows * 127 * 2^20 < 2^53
                block = phi[part].astype(np.float64)
                total[fold] += block.sum(axis=0).astype(np.int64)
                weighted[fold] += (steps[part].astype(np.float64) @ block).astype(np.int64)
        return change

    def _apply(self, change: _Change, sign: int) -> None:
        for name, delta in change.sums.items():
            if name not in self.sums:
                self.sums[name] = np.zeros((self.folds, self.dimensions), np.int32)
                self.counts[name] = np.zeros(self.folds, np.int64)
            count = self.counts[name]
            count += sign * change.counts[name]
            if self.sums[name].dtype == np.int32 and (name == TARGET or count.max() > _INT32_ROWS):
                self.sums[name] = self.sums[name].astype(np.int64)
            np.add(self.sums[name], sign * delta.astype(np.int64), out=self.sums[name], casting="unsafe")
            if self.target is None and not count.any():
                del self.sums[name], self.counts[name]
        self.squares += sign * change.squares
        if self.target and ALL in self.counts and not self.counts[ALL].any():
            self.sums.clear()
            self.counts.clear()
        self._digest = None

    def _refuse_impossible(self, change: _Change, energies: NDArray[np.int64]) -> None:
        remedy = "Subtract only what was added, with the label and fold it was added with."
        for name, count in change.counts.items():
            held = self.counts.get(name)
            what = "a target sum" if self.target else f"class {name!r}"
            if held is None:
                raise BadInput(f"{what} is not held.", remedy)
            if (held < count).any():
                fold = int(np.argmax(held < count))
                raise BadInput(f"{what} holds {held[fold]} in fold {fold}, not {count[fold]}.", remedy)
            bound = (held - count) * LIMIT * (1 if name == ALL or self.target is None else 0)
            left = np.abs(self.sums[name] - change.sums[name].astype(np.int64)).max(axis=1)
            if name != TARGET and (left > bound).any():
                raise BadInput(f"{what} would keep a sum that its remaining samples cannot have.", remedy)
        left_rows = self.fold_counts - change.rows(self.target is not None)
        for fold, gram in enumerate(self.gram):
            rest = gram.diagonal() - energies[fold]
            if (rest < 0).any() or rest.max() > left_rows[fold] * LIMIT**2:
                raise BadInput(f"fold {fold} would keep sums of squares that its samples cannot have.", remedy)
        if (self.squares < change.squares).any():
            raise BadInput("the sum of squared targets would fall below zero.", remedy)

    # for the solver

    def total(self) -> GramSum:
        """The sum of all folds' G."""
        whole = GramSum(self.dimensions)
        for gram in self.gram:
            whole.combine(gram)
        return whole

    def column_sums(self, fold: int | None = None) -> NDArray[np.int64]:
        """Q (D, C) of one fold, or of all; columns in the order of `columns`, each contiguous."""
        found = np.zeros((len(self.sums), self.dimensions), np.int64)
        for c, name in enumerate(self.columns):
            found[c] = self.sums[name].sum(axis=0, dtype=np.int64) if fold is None else self.sums[name][fold]
        return found.T

    def column_counts(self) -> NDArray[np.int64]:
        """(K, C) counts, columns in the order of `columns`."""
        if not self.counts:
            return np.zeros((self.folds, 0), np.int64)
        return np.stack([self.counts[name] for name in self.columns], axis=1)

    # identity and storage

    def digest(self) -> str:
        """Hex SHA-256 of what the memory holds, equal for equal sets of samples.

        Over, in this order, all numbers as little-endian int64, a text as its length in bytes and its UTF-8:
        the text "everlearn exact memory 1"; the basis digest (text); D; K; for regression the texts of low, high and
        step (`float.hex`); C; the names (texts) sorted, with n_c > 0; then per fold the upper triangle of G row by row
        (G_00 G_01 .. G_0,D-1 G_11 ..), Q class by class (D numbers each), n (C numbers), and for regression Σy².
        """
        if self._digest is None:
            sha = hashlib.sha256()
            for piece in self._digest_pieces():
                sha.update(piece)
            self._digest = sha.hexdigest()
        return self._digest

    def _digest_pieces(self) -> Iterator[Any]:
        def text(value: str) -> bytes:
            data = value.encode("utf-8", "surrogatepass")
            return len(data).to_bytes(8, "little") + data

        def numbers(*values: int) -> bytes:
            return np.array(values, "<i8").tobytes()

        yield text("everlearn exact memory 1") + text(self.basis_digest) + numbers(self.dimensions, self.folds)
        if self.target:
            yield b"".join(text(float.hex(float(v))) for v in (self.target.low, self.target.high, self.target.step))
        yield numbers(len(self.columns)) + b"".join(map(text, self.columns))
        for fold, gram in enumerate(self.gram):
            for piece in gram.upper():
                yield piece.astype("<i8").data
            for name in self.columns:
                yield self.sums[name][fold].astype("<i8").data
            yield numbers(*(int(self.counts[name][fold]) for name in self.columns))
            if self.target:
                yield numbers(int(self.squares[fold]))

    def save(self, path: Path, metadata: Mapping[str, Any] | None = None) -> None:
        """Write the file whole or not at all; metadata: small JSON, given back by `load`. Raises StoreFault."""
        counts = self.column_counts()
        gram_kinds = [_kind(gram) for gram in self.gram]
        sums_kinds = [smallest(int(s.min()), int(s.max())).str for s in (self.sums[name] for name in self.columns)]
        header = {
            "basis": self.basis_digest,
            "dimensions": self.dimensions,
            "folds": self.folds,
            "target": [self.target.low, self.target.high, self.target.step] if self.target else None,
            "columns": list(self.columns),
            "metadata": dict(metadata or {}),
            "gram": gram_kinds,
            "sums": sums_kinds,
        }

        def arrays() -> Iterator[NDArray[Any]]:
            yield counts
            yield self.squares
            for name, kind in zip(self.columns, sums_kinds, strict=True):
                yield self.sums[name].astype(kind)
            for gram, kind in zip(self.gram, gram_kinds, strict=True):
                if kind:
                    yield from (piece.astype(kind) for piece in gram.upper())

        storage.write(path, header, arrays())

    @classmethod
    def load(cls, path: Path) -> tuple[ExactMemory, dict[str, Any]]:
        """(memory, metadata). Raises Missing where there is no file, Corrupt where it is not what was written."""
        with storage.read(path) as file:
            head = file.header
            target = RegressionTarget(*head["target"]) if head["target"] else None
            memory = cls(head["basis"], head["dimensions"], head["folds"], target)
            d, k, columns = memory.dimensions, memory.folds, head["columns"]
            counts = file.array("<i8", k * len(columns)).reshape(k, len(columns))
            memory.squares = file.array("<i8", k).astype(np.int64)
            for c, (name, kind) in enumerate(zip(columns, head["sums"], strict=True)):
                wide = np.int64 if kind == "<i8" or (name == TARGET and target) else np.int32
                memory.sums[name] = file.array(kind, k * d).reshape(k, d).astype(wide)
                memory.counts[name] = counts[:, c].astype(np.int64)
            for gram, kind in zip(memory.gram, head["gram"], strict=True):
                if kind:
                    pieces = (file.array(kind, size) for size in gram.sizes())
                    gram.fill_upper(pieces, np.dtype(np.int64 if kind == "<i8" else np.int32))
        return memory, head["metadata"]


class _Change:
    """Sums to add or subtract: class -> (K, D), class -> (K,), and (K,) squares."""

    def __init__(
        self, sums: dict[str, NDArray[Any]], counts: dict[str, NDArray[np.int64]], squares: NDArray[np.int64]
    ) -> None:
        self.sums, self.counts, self.squares = sums, counts, squares

    def column(
        self, name: str, folds: int, dimensions: int, kind: type[np.signedinteger[Any]] = np.int64
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        if name not in self.sums:
            self.sums[name] = np.zeros((folds, dimensions), kind)
            self.counts[name] = np.zeros(folds, np.int64)
        return self.sums[name], self.counts[name]

    def rows(self, regression: bool) -> Any:
        if regression:
            return self.counts.get(ALL, 0)
        return sum(self.counts.values())


def _portions(rows: NDArray[np.intp], size: int = 8 * EXACT_ROWS) -> Iterator[NDArray[np.intp]]:
    """Row numbers a few thousand at a time, so that no copy of phi grows with N."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _sum(phi: NDArray[np.int8], rows: NDArray[np.intp], kind: type[np.signedinteger[Any]]) -> NDArray[Any]:
    """(D,) sums over these rows."""
    total = np.zeros(phi.shape[1], kind)
    for part in _portions(rows):
        total += phi[part].sum(axis=0, dtype=kind)
    return total


def _energy(phi: NDArray[np.int8], rows: NDArray[np.intp]) -> NDArray[np.int64]:
    """(D,) sums of squares over these rows."""
    total = np.zeros(phi.shape[1], np.int64)
    for part in _portions(rows, EXACT_ROWS):
        block = phi[part].astype(np.float32)
        total += np.einsum("nd,nd->d", block, block).astype(np.int64)
    return total


def _kind(gram: GramSum) -> str:
    """The type a fold's G is stored in: the largest element lies on the diagonal; "" where there is none."""
    top = int(gram.diagonal().max(initial=0))
    return smallest(-top, top).str if gram.panels else ""

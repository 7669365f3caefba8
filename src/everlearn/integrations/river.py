"""The exact memory as River estimators: rows are dictionaries, features come and go, and every row that was learned can
be forgotten.

A feature that a row does not have is 0 there, so a feature that is 0, or rounds to 0, in every row held is no feature.
What is held is therefore a function of the set of rows, whatever the order they and their features came in. Columns are
kept in the order in which names were first seen, in a width that doubles when it is full; the digest is taken over the
names that occur, sorted.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import NotInstalled
from everlearn.learn.estimators.centred import Settings
from everlearn.learn.estimators.encode import PLANES, BadArray, Encoder
from everlearn.learn.estimators.held import Batch, fold_of
from everlearn.learn.estimators.learned import TARGET, TARGET_PLANES, Learned
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.memory import ExactMemory

try:
    from river import base
except ImportError:
    raise NotInstalled("River is not installed.", "pip install 'everlearn[river]'") from None

if TYPE_CHECKING:
    import pandas as pd

    Row = Mapping[Hashable, Any]

__all__ = ["ExactRiverClassifier", "ExactRiverRegressor"]

MOST = 8e9  # of a regression target
_WIDTH = 16  # columns to begin with
_PORTION = 1024  # rows that wait before they enter the sums together


class _Rows:
    """Which rows are held, by digests of their names and steps, which do not depend on the width as phi does. Of at
    most `most` rows, those of the lowest digests, phi is kept for the temperature. Stands in for `held.Held`."""

    def __init__(self, width: int, most: int) -> None:
        self.width, self.most = width, most
        self.counts: Counter[bytes] = Counter()
        self.kept: dict[bytes, tuple[NDArray[np.int8], str, int]] = {}

    def new(self, rows: Batch) -> Batch:
        return rows

    def add(self, rows: Batch) -> None:
        self.counts.update(rows.keys)
        for at, key in enumerate(rows.keys if self.most else ()):
            self.kept[key] = rows.phi[at].copy(), rows.labels[at], int(rows.folds[at])
        if len(self.kept) > 2 * self.most:
            self.kept = {key: self.kept[key] for key in self._lowest()}

    def check(self, rows: Batch) -> None:
        """Raises BadArray for a row that is not held so often."""
        for key, times in Counter(rows.keys).items():
            if self.counts[key] < times:
                raise BadArray("this row with this label is not held.", "Forget only what was learned, as it was.")

    def remove(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self.counts[key] -= 1
            if not self.counts[key]:
                del self.counts[key]
                self.kept.pop(key, None)

    def cached(self) -> Cached:
        keys = self._lowest()
        rows = [self.kept[key] for key in keys]
        phi = np.array([row[0] for row in rows], np.int8).reshape(-1, self.width)
        folds = np.array([row[2] for row in rows], np.int64)
        return Cached([key.hex() for key in keys], phi, [row[1] for row in rows], folds)

    def move(self, width: int, old: NDArray[np.intp], new: NDArray[np.intp]) -> None:
        """Columns `old` become columns `new` of another width."""
        for key, (phi, label, fold) in self.kept.items():
            self.kept[key] = _moved(phi, width, old, new), label, fold
        self.width = width

    def _lowest(self) -> list[bytes]:
        return heapq.nsmallest(self.most, self.kept)


class _Live(Learned):
    """Asked after every row: it is corrected for the rows since the last solve, never solved anew for each."""

    held: _Rows  # type: ignore[assignment]

    def _is_cheap(self) -> bool:
        return False


class _Exact(base.Estimator):
    """What both estimators share."""

    _regression: bool

    def __init__(
        self,
        planes: int = 2,
        alpha: float | None = None,
        standardize: bool = True,
        folds: int = 5,
        calibration: int = 1000,
    ) -> None:
        if planes not in range(1, PLANES + 1) or folds < 2 or calibration < 0 or not (alpha is None or alpha > 0):
            remedy = f"Give planes from 1 to {PLANES}, alpha > 0 or None, folds >= 2, calibration >= 0."
            raise BadArray("a setting of the estimator cannot be.", remedy)
        self.planes = planes
        self.alpha = alpha
        self.standardize = standardize
        self.folds = folds
        self.calibration = calibration
        self._names: dict[str, int] = {}
        self._learned = self._empty(_WIDTH)
        self._waiting: list[tuple[dict[str, float], Any]] = []

    # what a user calls

    def learn_one(self, x: Row, y: Any) -> None:
        """Learn a row. Raises BadArray, naming the feature, for what is no finite number."""
        self._waiting.append((_checked(x), self._target(y)))
        if len(self._waiting) >= _PORTION:
            self._flush()

    def learn_many(self, X: pd.DataFrame, y: pd.Series) -> None:
        """Learn the rows of a table. All or nothing."""
        names, array, targets = *_table(X), [self._target(one) for one in y]
        if len(array) != len(targets):
            raise BadArray(f"{len(array)} rows, {len(targets)} targets.", "Give one for each row.")
        self._flush()
        for start in range(0, len(array), _PORTION):
            part = slice(start, start + _PORTION)
            rows = self._batch(self._placed(names, array[part], grow=True), targets[part])
            self._learned.learn(rows)

    def forget_one(self, x: Row, y: Any) -> None:
        """Become what never learned this row. Raises BadArray where it is not held."""
        self._flush()
        row, target = _checked(x), self._target(y, known=True)
        strange = [value for name, value in row.items() if name not in self._names]
        if Encoder(1, self.planes).phi(np.array(strange).reshape(-1, 1)).any():
            raise BadArray("this row with this label is not held.", "Forget only what was learned, as it was.")
        self._learned.forget(self._batch(self._array([row]), [target]))
        self._shrink(row)

    def digest(self) -> str:
        """Hex SHA-256 of what is held: equal for equal sets of rows, in whatever order they and their features came."""
        self._flush()
        used = sorted(name for name, at in self._names.items() if self._used()[at])
        return self._moved(used, max(1, len(used)), about="|".join(f"{len(name)} {name}" for name in used)).digest()

    @property
    def samples(self) -> int:
        """Rows held."""
        return self._learned.memory.samples + len(self._waiting)

    def settle(self) -> None:
        """Choose penalty and temperature anew now: the answers are then a function of the rows held alone, but for the
        temperature where some of the rows kept for it were forgotten."""
        self._flush()
        self._learned.settle()

    # inside

    def _target(self, y: Any, known: bool = False) -> Any:
        """The name of a class, or a number."""
        raise NotImplementedError

    def _empty(self, width: int, about: str = "") -> _Live:
        encoder = Encoder(width, self.planes)
        settings = Settings(alpha=self.alpha, standardize=self.standardize)
        found = _Live(encoder, self.folds, 0.0, settings, self._regression)
        digest = hashlib.sha256(f"river|{self.planes}|{self._regression}|{about}".encode()).hexdigest()
        found.memory = ExactMemory(digest, found.memory.dimensions, self.folds)
        found.held = _Rows(found.memory.dimensions, 0 if self._regression else self.calibration)
        return found

    def _flush(self) -> None:
        if self._waiting:
            rows, targets = zip(*self._waiting)
            self._room(name for row in rows for name in row)
            self._learned.learn(self._batch(self._array(rows), targets))
            self._waiting = []

    def _batch(self, array: NDArray[np.float64], targets: Sequence[Any]) -> Batch:
        """Rows (N, width) with their keys, by their steps: what rounds to 0 is not there. The fold follows from a row's
        features, whatever its label."""
        rows = self._learned.batch(array, np.array(targets) if self._regression else targets, None, None)
        encoder = self._learned.encoder
        steps = encoder.values(rows.phi[:, : encoder.columns])
        names, columns = list(self._names), np.fromiter(self._names.values(), np.intp)
        codes = np.array([_code(name) for name in names], np.uint64)
        order = np.argsort(codes)
        codes, placed = codes[order], steps[:, columns[order]] if len(names) else steps[:, :0]
        contents = []
        for row in placed:
            there = row != 0
            contents.append(hashlib.blake2b(codes[there].tobytes() + row[there].tobytes(), digest_size=16).digest())
        keys = [hashlib.blake2b(c + str(t).encode("utf-8", "surrogatepass"), digest_size=16).digest()
                for c, t in zip(contents, targets)]  # fmt: skip
        folds = np.array([fold_of(one, self.folds) for one in contents], np.int64)
        return replace(rows, folds=folds, keys=keys)

    def _array(self, rows: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
        """(N, width); what was never learned is left out."""
        found = np.zeros((len(rows), self._learned.encoder.inputs))
        for row, values in zip(found, rows):
            for name, value in values.items():
                at = self._names.get(name)
                if at is not None:
                    row[at] = value
        return found

    def _placed(self, names: Sequence[str], array: NDArray[np.float64], grow: bool = False) -> NDArray[np.float64]:
        """(N, width) from columns of these names."""
        if grow:
            self._room(names)
        found = np.zeros((len(array), self._learned.encoder.inputs))
        known = [(column, self._names[name]) for column, name in enumerate(names) if name in self._names]
        found[:, [at for _, at in known]] = array[:, [column for column, _ in known]]
        return found

    def _room(self, names: Iterable[str]) -> None:
        """A column for each of these names."""
        new = [name for name in dict.fromkeys(names) if name not in self._names]
        width, need = self._learned.encoder.inputs, len(self._names) + len(new)
        while width < need:
            width *= 2
        if width > self._learned.encoder.inputs:
            self._widen(list(self._names), width)
        for name in new:
            self._names[name] = len(self._names)

    def _used(self) -> NDArray[np.bool_]:
        """(width,) whether any row held is not 0 there."""
        diagonal = sum((gram.diagonal() for gram in self._learned.memory.gram), np.zeros(1, np.int64))
        width = self._learned.encoder.inputs
        return np.any(diagonal[: self.planes * width].reshape(self.planes, width), axis=0)  # type: ignore[no-any-return]

    def _shrink(self, names: Iterable[str]) -> None:
        """Drop the names that were in forgotten rows alone."""
        used = self._used()
        gone = {name for name in names if name in self._names and not used[self._names[name]]}
        if gone:
            self._widen([name for name in self._names if name not in gone], self._learned.encoder.inputs)

    def _widen(self, names: Sequence[str], width: int) -> None:
        old, new = self._columns(names, width)
        made, held = self._empty(width), self._learned.held
        made.memory = self._moved(names, width)
        held.move(made.memory.dimensions, old, new)
        made.held = held
        self._learned, self._names = made, {name: at for at, name in enumerate(names)}

    def _columns(self, names: Sequence[str], width: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Columns of phi now, and those with these names, in this order, in a memory of this width."""
        inputs, planes = self._learned.encoder.inputs, np.arange(self.planes)[:, None]
        old = (planes * inputs + np.array([self._names[name] for name in names], np.intp)).reshape(-1)
        new = (planes * width + np.arange(len(names), dtype=np.intp)).reshape(-1)
        if self._regression:  # the digits of the target stand behind
            target = np.arange(TARGET_PLANES)
            old = np.concatenate([old, self.planes * inputs + target])
            new = np.concatenate([new, self.planes * width + target])
        return old.astype(np.intp), new.astype(np.intp)

    def _moved(self, names: Sequence[str], width: int, about: str = "") -> ExactMemory:
        """The same sums in other columns."""
        mine, (old, new) = self._learned.memory, self._columns(names, width)
        found = self._empty(width, about).memory
        for gram, theirs in zip(found.gram, mine.gram):
            if theirs.panels:
                dense = np.zeros((found.dimensions, found.dimensions), np.int64)
                dense[np.ix_(new, new)] = theirs.dense()[np.ix_(old, old)]
                upper = dense[np.triu_indices(found.dimensions)]
                gram.fill_upper(iter(np.split(upper, np.cumsum(list(gram.sizes()))[:-1])), theirs.panels[0].dtype)
        for name, column in mine.sums.items():
            found.sums[name] = np.stack([_moved(fold, found.dimensions, old, new) for fold in column])
            found.counts[name] = mine.counts[name].copy()
        return found


class ExactRiverClassifier(_Exact, base.MiniBatchClassifier):
    """Ridge classification on exact integer sums: new classes and features at any call, any order, and forgetting.

    planes: int8 columns for each feature, 1 to 4 (steps even up to 1, 4, 64, 16,384, logarithmic beyond). alpha: the
    penalty; None: chosen by fold error. standardize: by the sums, when solving; a scaler in front is not needed.
    folds: sides of the held-out estimates. calibration: at most so many rows keep their features, for the temperature;
    of every other row a digest of 16 bytes is kept, so that `forget_one` refuses what was never learned.

    >>> from everlearn.integrations.river import ExactRiverClassifier
    >>> model = ExactRiverClassifier()
    >>> model.learn_one({"wings": 2, "legs": 2}, "bird")
    >>> model.learn_one({"legs": 4}, "cat")
    >>> model.predict_one({"wings": 2})
    'bird'
    """

    _regression = False

    def __init__(
        self, planes: int = 2, alpha: float | None = None, standardize: bool = True, folds: int = 5,
        calibration: int = 1000,
    ) -> None:  # fmt: skip
        super().__init__(planes, alpha, standardize, folds, calibration)
        self._labels: dict[str, Any] = {}  # name of a column to the label as it came

    @property
    def _multiclass(self) -> bool:
        return True

    def predict_proba_one(self, x: Row, **kwargs: Any) -> dict[Any, float]:
        """Label to probability, of all classes held; {} before there is one."""
        self._flush()
        found = self._probabilities(self._array([_checked(x)]))
        return dict(zip(self._classes(), found[0].tolist()))

    def predict_proba_many(self, X: pd.DataFrame) -> pd.DataFrame:
        """(N, C), a column for each class held."""
        import pandas as pd

        self._flush()
        found = self._probabilities(self._placed(*_table(X)))
        return pd.DataFrame(found, index=X.index, columns=pd.Index(self._classes(), dtype=object))

    def forget_one(self, x: Row, y: Any) -> None:
        super().forget_one(x, y)
        self._labels = {name: self._labels[name] for name in self._learned.memory.columns}

    def _classes(self) -> list[Any]:
        return [self._labels[name] for name in self._learned.memory.columns]

    def _probabilities(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self._learned.memory.samples:
            return np.zeros((len(array), 0))
        scores = self._learned.scores(array, self._learned.memory.columns)
        scores -= scores.max(axis=1, keepdims=True)
        found = np.exp(scores / self._learned.ready().temperature)
        return found / found.sum(axis=1, keepdims=True)

    def _target(self, y: Any, known: bool = False) -> str:
        label = y.item() if isinstance(y, np.generic) else y
        if isinstance(label, str):
            name = f"s{label}"
        elif isinstance(label, bool | int | float) and math.isfinite(label):  # 1, 1.0 and True are one key of a dict
            name = f"n{int(label) if label == int(label) else label!r}"
        else:
            raise BadArray(f"{label!r} is no label.", "Give a text, a number or a truth value.")
        if not known:
            self._labels.setdefault(name, label)
        return name


class ExactRiverRegressor(_Exact, base.MiniBatchRegressor):
    """Ridge regression on exact integer sums; settings as for `ExactRiverClassifier`. Targets are held to 1e-9 within
    8e9.

    >>> from everlearn.integrations.river import ExactRiverRegressor
    >>> model = ExactRiverRegressor()
    >>> for size in range(5):
    ...     model.learn_one({"size": size}, 2 * size + 1)
    >>> round(model.predict_one({"size": 10}), 2)
    21.0
    """

    _regression = True

    def predict_one(self, x: Row, **kwargs: Any) -> float:
        """A number; 0 before anything was learned."""
        self._flush()
        return float(self._values(self._array([_checked(x)]))[0])

    def predict_many(self, X: pd.DataFrame) -> pd.Series:
        """(N,) numbers."""
        import pandas as pd

        self._flush()
        return pd.Series(self._values(self._placed(*_table(X))), index=X.index)

    def _values(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self._learned.memory.samples:
            return np.zeros(len(array))
        found: NDArray[np.float64] = self._learned.scores(array, (TARGET,))[:, 0]
        return found

    def _target(self, y: Any, known: bool = False) -> float:
        number = float(y) if isinstance(y, bool | int | float | np.number | np.bool_) else math.nan
        if not abs(number) < MOST:
            raise BadArray(f"the target {y!r} is no number within 8e9.", "Give a number, in a larger unit.")
        return number + 0.0  # -0.0 is 0.0


def _name(feature: Hashable) -> str:
    """A feature's name as text; what is no text can be confused with none."""
    if isinstance(feature, str):
        return str(feature)
    return f"\0{feature.item() if isinstance(feature, np.generic) else feature!r}"


@lru_cache(maxsize=2**16)
def _code(name: str) -> int:
    data = name.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _checked(x: Row) -> dict[str, float]:
    """What is not 0. Raises BadArray naming a feature that is no finite number."""
    found = {}
    for feature, value in x.items():
        try:
            number = float(value) if not isinstance(value, str) else math.nan
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            remedy = "Leave out what is not known; put preprocessing.OneHotEncoder in front of texts."
            raise BadArray(f"feature {feature!r} is {value!r}, no finite number.", remedy)
        if number:
            found[_name(feature)] = number
    return found


def _table(X: pd.DataFrame) -> tuple[list[str], NDArray[np.float64]]:
    """Names of the columns, and (N, D) finite numbers."""
    names = [_name(column) for column in X.columns]
    try:
        array = X.to_numpy(dtype=np.float64)
    except (TypeError, ValueError):
        raise BadArray("the table holds what is no number.", "Put preprocessing.OneHotEncoder in front.") from None
    bad = ~np.isfinite(array)
    if bad.any():
        row, column = (int(one) for one in np.argwhere(bad)[0])
        raise BadArray(f"row {row}: feature {X.columns[column]!r} is {array[row, column]}.", "Fill what is not known.")
    return names, array


def _moved(row: NDArray[Any], width: int, old: NDArray[np.intp], new: NDArray[np.intp]) -> NDArray[Any]:
    found = np.zeros(width, row.dtype)
    found[new] = row[old]
    return found

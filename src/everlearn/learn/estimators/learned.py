"""What an estimator has learned: the memory, the rows in it, and the head that answers, solved when it is asked for.

Small problems are solved anew after every change. For large ones a few changed rows are a correction of the last solve
(centred.py, balanced.py); more are a solve at the same penalty; and when a fifth as many rows as there were have
changed, all that the folds decide is chosen again: penalty, head, temperature, and where the unknown begins. `settle`
does that at once.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.learn.estimators.balanced import Answering, Head, linear
from everlearn.learn.estimators.centred import Corrected, Floats, Moments, Searched, Settings, Solution, search, solve
from everlearn.learn.estimators.encode import BASE, BadArray, Encoder, digits, numbers, portions, top
from everlearn.learn.estimators.held import Batch, Held, batch
from everlearn.learn.estimators.strangers import strangers
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.calibrate import OutOfFold, stride, temperature
from everlearn.learn.exact.head import KINDS, Kind, ranked
from everlearn.learn.exact.memory import ExactMemory
from everlearn.learn.exact.openset import Curve, Cut, curve, cut, distance
from everlearn.learn.exact.threads import in_threads

TARGET_STEP, TARGET_PLANES, TARGET = 2.0**-30, 8, "y"
"""A number to be learned is held to 1e-9, within +-8e9, as eight more columns of phi: G then holds Σ φy and Σ y²."""
MOST_CORRECTIONS = 64
_NEW = (1, 9, 9)  # samples of classes of which one is new, see `ranked`
_SIDE_BY_SIDE = 512  # rows from which on another thread is worth it
_CALIBRATED = 2**25  # features that the choice of head and temperature look at; of more, every k-th row
_CHEAP = 2e9  # operations of a solve that is done after every change
_FITS = 2.0**61


@dataclass(frozen=True, eq=False)
class Sums:
    """Moments per fold, of the features in steps less `origin`, near their mean or 0; of the target likewise."""

    parts: list[Moments]
    origin: NDArray[np.int64]
    target_origin: int


def sums(memory: ExactMemory, encoder: Encoder, regression: bool, centre: bool) -> Sums:
    """From exact sums of digits to float64 sums about the means (without `centre`, about 0).

    No digit is lost to cancellation: where numbers are long, all is computed in float64 and modulo 2^64, and where the
    first shows that the result fits 63 bits, the second is exact.
    """
    d, n = encoder.effective, max(1, memory.samples)
    sections = [(0, encoder.columns, encoder.planes)]
    if regression:
        sections.append((encoder.columns, memory.dimensions, TARGET_PLANES))
    q = [memory.column_sums(fold) for fold in range(memory.folds)]
    whole = _joined(sum(q[1:], q[0]).sum(axis=1).astype(np.float64), sections)
    origin = np.rint(whole / n).astype(np.int64) if centre else np.zeros(len(whole), np.int64)
    long = regression or encoder.planes > 2
    parts = []
    for fold in range(memory.folds):
        counts = memory.column_counts()[fold]
        rows, gram, total = int(counts.sum()), memory.gram[fold].dense(), q[fold].sum(axis=1)
        x, xx = _about(_joined(total, sections), _joined(_joined(gram, sections).T, sections), rows, origin)
        if long:
            near_x, near_xx = _about(
                _joined(total.astype(np.float64), sections),
                _joined(_joined(gram.astype(np.float64), sections).T, sections),
                rows,
                origin.astype(np.float64),
            )
            x, xx = (np.where(np.abs(near) < _FITS, e, near) for e, near in ((x, near_x), (xx, near_xx)))
        x, xx = x.astype(np.float64), xx.astype(np.float64)
        if regression:
            parts.append(Moments(rows, x[:d], xx[:d, :d], xx[:d, d:], x[d:], float(xx[d, d])))
        else:
            xy = _joined(q[fold], sections) - np.multiply.outer(origin, counts)
            parts.append(Moments(rows, x, xx, xy.astype(np.float64), counts.astype(np.float64), rows))
    return Sums(parts, origin[:d], int(origin[d]) if regression else 0)


def _about(x: NDArray[Any], xx: NDArray[Any], rows: int, origin: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sums of x and of its products -> of x - origin."""
    shifted = x - rows * origin
    cross = np.multiply.outer(shifted, origin)
    return shifted, xx - cross - np.multiply.outer(origin, x)


def _joined(array: NDArray[Any], sections: Sequence[tuple[int, int, int]]) -> NDArray[Any]:
    """Planes of digits along the first axis -> numbers; integers modulo 2^64."""
    found = []
    for start, end, planes in sections:
        size = (end - start) // planes
        total = array[start : start + size]
        for plane in range(1, planes):
            total = total * BASE + array[start + plane * size : start + (plane + 1) * size]
        found.append(total)
    return found[0] if len(found) == 1 else np.concatenate(found)


@dataclass(frozen=True, eq=False)
class _Scored(OutOfFold):
    """Out-of-fold scores in float64 about the mean, whatever the scale of the features. heads: of each solution."""

    solutions: tuple[Solution | None, ...] = ()
    heads: tuple[Head | None, ...] = ()
    encoder: Encoder | None = None
    origin: NDArray[np.int64] | None = None

    def scores(self, every: int = 1) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        assert self.encoder is not None and self.origin is not None
        for fold, (solution, head) in enumerate(zip(self.solutions, self.heads)):
            if solution is None or head is None:
                continue
            weights, bias = head
            rows = self.cached.rows(fold, every)
            for part in portions(len(rows)):
                x = self.encoder.values(self.cached.phi[rows[part]]) - self.origin
                yield rows[part], (solution.scaling(x) @ weights + bias).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Line:
    """Where the unknown begins. curve: over all thresholds; cut: the one taken."""

    curve: Curve
    cut: Cut


@dataclass(eq=False)
class Model:
    """What answers. searched: rows when alpha, head and temperature were chosen. accuracies: of the heads, out of
    fold."""

    answering: Answering
    origin: NDArray[np.int64]
    target_origin: int
    alpha: float
    errors: dict[float, float]
    searched: int
    accuracies: dict[Kind, float] = field(default_factory=dict)
    temperatures: dict[Kind, float] = field(default_factory=dict)
    line: Line | None = None

    @property
    def temperature(self) -> float:
        return self.temperatures.get(self.answering.kind, 1.0)

    @property
    def calibrated(self) -> bool:
        return self.answering.kind in self.temperatures

    @property
    def corrected(self) -> Corrected:
        return self.answering.corrected


class Learned:
    """The state of an estimator. All that changes it is all or nothing."""

    def __init__(self, encoder: Encoder, folds: int, keep: float, settings: Settings, regression: bool) -> None:
        self.encoder, self.settings, self.regression = encoder, settings, regression
        about = f"{encoder.digest()}|{TARGET_STEP.hex() if regression else 'classes'}"
        width = encoder.columns + (TARGET_PLANES if regression else 0)
        self.memory = ExactMemory(hashlib.sha256(about.encode()).hexdigest(), width, folds)
        self.held = Held(width, keep)
        self.model: Model | None = None
        self._pending: list[tuple[Batch, float]] = []
        self._moved = 0  # rows changed since alpha was chosen

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: a model that was chosen before rows changed is left out, since corrections and the
        curve of the unknown still hold what was forgotten."""
        state = dict(vars(self))
        if self._moved:
            state |= {"model": None, "_pending": [], "_moved": 0}
        return state

    def batch(
        self, x: NDArray[Any], y: Sequence[str] | Floats, ids: Sequence[str] | None, groups: Sequence[str] | None
    ) -> Batch:
        """y: names of classes, or numbers."""
        phi, labels = self.encoder.phi(x), list(map(str, y))
        if self.regression:
            labels = [TARGET] * len(phi)
            phi = np.concatenate([phi, digits(_steps(np.asarray(y, np.float64)), TARGET_PLANES)], axis=1)
        return batch(phi, labels, self.memory.folds, ids, groups, self.encoder.columns)

    def learn(self, rows: Batch) -> None:
        rows = self.held.new(rows)
        if len(rows.keys) < _SIDE_BY_SIDE:
            self.memory.add(rows.phi, rows.labels, rows.folds)
            self.held.add(rows)
        else:
            self._add_side_by_side(rows)
        self._changed(rows, 1.0)

    def _add_side_by_side(self, rows: Batch) -> None:
        """The sums need no Python while they are computed; what is held is written meanwhile."""
        with ThreadPoolExecutor(1) as side:
            summed = side.submit(self.memory.add, rows.phi, rows.labels, rows.folds)
            self.held.add(rows)
            failed = summed.exception()
        if failed is not None:  # no memory left, say: neither has the rows then
            self.held.remove(rows.keys)
            raise failed

    def forget(self, rows: Batch) -> None:
        self.held.check(rows)
        self.memory.subtract(rows.phi, rows.labels, rows.folds)
        self.held.remove(rows.keys)
        self._changed(rows, -1.0)

    def merge(self, other: Learned) -> None:
        both = self.held.overlap(other.held)
        if both is not None:
            raise BadArray(f"both hold id {both[1:].decode('utf-8', 'replace')!r}.", "Forget it in one of them.")
        self.memory.merge(other.memory)
        self.held.merge(other.held)
        self.model, self._pending, self._moved = None, [], 0

    def _changed(self, rows: Batch, sign: float) -> None:
        """Decide how much of the model still holds."""
        if self.model is None or not len(rows.keys):
            return
        self._moved += len(rows.keys)
        if self._is_cheap() or self._moved > self.model.searched / 5:
            self.model, self._pending = None, []
        else:
            self._pending.append((rows, sign))

    def _is_cheap(self) -> bool:
        d, c, n = self.encoder.effective, len(self.memory.columns), self.memory.samples
        return 36.0 * d * d * (d / 3 + 4 * c) + 4.0 * n * d * c + 1000.0 * n < _CHEAP

    def ready(self) -> Model:
        """The model of all that is held. Raises BadArray where nothing is."""
        if not self.memory.samples or not (self.regression or self.memory.classes):
            raise BadArray("nothing is held.", "Learn samples first.")
        if self.model is None:
            self.settle()
        assert self.model is not None
        if self._pending:
            try:
                self._correct(self.model)
            except BaseException:
                self.model = None  # half corrected it would answer as if nothing had happened
                raise
        return self.model

    def _correct(self, model: Model) -> None:
        answering, pending, self._pending = model.answering, self._pending, []
        if model.accuracies:
            answering.kind = self._kinds(model.accuracies)[0]  # a new class may ask for another head at once
        more = sum(len(rows.keys) for rows, _ in pending)
        if len(answering.corrected.signs) + more > MOST_CORRECTIONS or not answering.correctable:
            self._solve_again(model)
            return
        for rows, sign in pending:
            x, values = self._about_mean(rows.phi)
            answering.corrected.change(x, list(zip(rows.labels, values)), [sign] * len(values))
        if not self.regression and not answering.sound(self.memory.columns):
            self._solve_again(model)

    def _about_mean(self, phi: NDArray[np.int8]) -> tuple[Floats, list[float]]:
        assert self.model is not None
        x = self.encoder.values(phi[:, : self.encoder.columns]) - self.model.origin
        if not self.regression:
            return x, [1.0] * len(phi)
        steps = numbers(phi[:, self.encoder.columns :], TARGET_PLANES)[:, 0]
        return x, (steps - self.model.target_origin).astype(np.float64).tolist()

    def _solve_again(self, model: Model) -> None:
        found = sums(self.memory, self.encoder, self.regression, self.settings.intercept)
        whole = solve(sum(found.parts[1:], found.parts[0]), model.alpha, self.settings)
        model.answering = self._answering(whole, self._kinds(model.accuracies) or [model.answering.kind])
        model.origin, model.target_origin = found.origin, found.target_origin

    def settle(self) -> None:
        """Choose alpha, head and temperature anew, and solve: the model is then a function of the set of rows alone."""
        found = sums(self.memory, self.encoder, self.regression, self.settings.intercept)
        solved = search(found.parts, self.settings, every=self.settings.unknown is not None)
        views = {} if self.regression else self._views(found, solved)
        accuracies = self._accuracies(views)
        kinds = self._kinds(accuracies) or [self.settings.head or "ridge"]
        answering = self._answering(solved.whole, kinds)
        warm = {kind: temperature(views[kind]) for kind in {answering.kind, *ranked(accuracies, _NEW)[:1]} & {*views}}
        self.model = Model(
            answering, found.origin, found.target_origin, solved.alpha, solved.errors, self.memory.samples, accuracies,
            {kind: warmth for kind, warmth in warm.items() if warmth is not None},
        )  # fmt: skip
        if self.settings.unknown is not None:
            self.model.line = self._line(found, solved, self.settings.unknown)
        self._pending, self._moved = [], 0

    def _kinds(self, accuracies: Mapping[Kind, float]) -> list[Kind]:
        return ranked(accuracies, [int(self.memory.counts[name].sum()) for name in self.memory.classes])

    def _views(self, found: Sums, solved: Searched) -> dict[Kind, _Scored]:
        """Out-of-fold views of the heads that may be chosen and can be built; {} where nothing can be held out."""
        classes, columns = self.memory.classes, self.memory.columns
        filled = [fold for fold, solution in enumerate(solved.held_out) if solution is not None]
        if len(classes) < 2 or not filled:
            return {}
        at = _places(classes, columns)
        cached, views = self._looked_at(self.held.cached().of(classes)), {}

        def build(fold: int, kind: Kind) -> Head | None:
            solution = solved.held_out[fold]
            both = None if solution is None else linear(solution, kind)
            return None if both is None else (both[0][:, at], both[1][at])

        for kind in KINDS if self.settings.head is None else (self.settings.head,):
            built = dict(zip(filled, in_threads(lambda fold, kind=kind: build(fold, kind), filled)))  # type: ignore[misc]
            if all(head is not None for head in built.values()):
                heads = tuple(built.get(fold) for fold in range(len(solved.held_out)))
                views[kind] = _Scored(classes, (), cached, 1.0, solved.held_out, heads, self.encoder, found.origin)
        return views

    def _looked_at(self, cached: Cached) -> Cached:
        return cached.thinned(stride(len(cached.order), self.encoder.effective, _CALIBRATED))

    def _accuracies(self, views: Mapping[Kind, _Scored]) -> dict[Kind, float]:
        """Of the heads among which there is a choice, or of the one."""
        if len(views) < 2:
            return dict.fromkeys(views, float("nan"))
        some = next(iter(views.values()))
        every = stride(len(some.cached.order), len(some.classes))
        scored = sum(len(some.cached.rows(fold, every)) for fold, part in enumerate(some.solutions) if part is not None)
        return {kind: view.correct(every) / max(1, scored) for kind, view in views.items()}

    def _answering(self, whole: Solution, kinds: Sequence[Kind]) -> Answering:
        """By the first of these heads that rounding allows; the ridge can always be built."""
        measured = None
        if self.settings.unknown is not None and whole.xx is not None:
            measured = distance(whole.xx, whole.sums, whole.counts)
        columns = self.memory.columns
        for kind in (*kinds, "ridge"):
            answering = Answering(Corrected(whole.lean(), columns), kind, measured)
            if self.regression or answering.sound(columns):
                break
        return answering

    # the unknown

    def _line(self, found: Sums, solved: Searched, asked: float) -> Line:
        columns = self.memory.columns
        cached = self._looked_at(self.held.cached())
        own, impostors = strangers(columns, cached, solved.held_out, self.encoder, found.origin)
        taken = cut(own, impostors, asked)
        if not taken.kept:
            warnings.warn(
                f"{taken.impostors} rows can stand for strangers, {taken.needed} are needed for a false-accept rate of"
                f" {asked:g}; {taken.promised:.2g} is kept.", UserWarning, stacklevel=2,
            )  # fmt: skip
        return Line(curve(own, impostors), taken)

    # answers

    def scores(self, x: NDArray[Any], names: tuple[str, ...]) -> Floats:
        """(N, inputs) -> (N, C) of these columns; for regression (N, 1) values."""
        model, columns = self.ready(), self.memory.columns
        if self.regression:
            columns = names
        at = _places(names, columns)
        found = np.empty((len(x), len(names)))
        for part in portions(len(x)):
            values = self.encoder.values(self.encoder.phi(x[part])) - model.origin
            scores = model.answering.scores(values, columns)
            found[part] = scores if names == columns else scores[:, at]
        return (found + model.target_origin) * TARGET_STEP if self.regression else found

    def nearness(self, x: NDArray[Any]) -> Floats:
        """(N, inputs) -> (N,) score of the nearest class, -1 to 1, to be compared with the line's thresholds.

        Only where a false-accept rate is asked for.
        """
        model, columns = self.ready(), self.memory.columns
        at = _places(self.memory.classes, columns)
        found = np.empty(len(x))
        for part in portions(len(x)):
            values = self.encoder.values(self.encoder.phi(x[part])) - model.origin
            found[part] = model.answering.known(values, columns)[:, at].max(axis=1)
        return found


def _places(names: Sequence[str], columns: Sequence[str]) -> list[int]:
    at = {name: column for column, name in enumerate(columns)}
    return [at[name] for name in names]


def _steps(values: Floats) -> NDArray[np.int64]:
    bad = np.abs(values) > top(TARGET_PLANES) * TARGET_STEP * (1 - 1e-9)
    if bad.any():
        row = int(np.argmax(bad))
        raise BadArray(f"y row {row}: {values[row]:g} is beyond +-8e9.", "Learn it in a larger unit.")
    return np.rint(values / TARGET_STEP).astype(np.int64)[:, None]


def held_out_scores(parts: list[Moments], x: Floats, folds: NDArray[np.int64], settings: Settings) -> Floats:
    """(N, C) each row's scores by what was learned without its fold; 0 where that is nothing."""
    solved = search(parts, settings, every=True)
    found = np.zeros((len(x), len(parts[0].y)))
    for fold, solution in enumerate(solved.held_out):
        if solution is not None:
            found[folds == fold] = solution.scores(x[folds == fold])
    return found


def float_parts(x: Floats, y: Floats, folds: NDArray[np.int64], count: int) -> list[Moments]:
    """The same moments from float64 features (N, D) and targets (N, C)."""
    return [
        Moments(
            float(k.sum()), x[k].sum(axis=0), x[k].T @ x[k], x[k].T @ y[k], y[k].sum(axis=0), float((y[k] ** 2).sum())
        )
        for k in (folds == fold for fold in range(count))
    ]

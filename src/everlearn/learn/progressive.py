"""Progressive (prequential) validation: every row is a question first and a lesson later, when its label arrives.

What an estimator says of a row is scored when the row's label arrives, and only then is the row learned: so each answer
counts, none was given with its label known, and labels that come late teach late. (Blum, Kalai & Langford 1999; with
delays: Grzenda, Gomes & Bifet 2019.)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
from numpy.typing import NDArray

from everlearn.errors import BadInput
from everlearn.learn.rows import open_rows
from everlearn.learn.stream import is_regressor

Score = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]


class Streaming(Protocol):
    """What can be asked and taught a portion at a time: scikit-learn's incremental estimators."""

    def predict(self, X: Any) -> Any: ...
    def partial_fit(self, X: Any, y: Any, **more: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Point:
    """How far it is.

    rows: answers whose label has arrived; unanswered: rows asked before anything was learned, which do not count.
    score: mean over all rows; recent: over the last `window`. seconds: spent in the estimator. memory: bytes that this
    process holds.
    """

    rows: int
    unanswered: int
    score: float
    recent: float
    seconds: float
    memory: int


def progressive(
    estimator: Streaming, source: Any, *, delay: Any = 0, size: int = 100, every: int = 1000, window: int = 1000,
    score: Score | None = None, classes: Any = None, label: str = "label",
) -> Iterator[Point]:  # fmt: skip
    """Ask, score and teach an estimator row by row of a stream; gives a point after every `every` scored rows, and a
    last one at the end.

    source: an iterable of portions (X, y), or (X, y, t) with the rows' times, not falling; or what `learn_stream` takes
    (a pair of arrays, the path of a CSV or Parquet file), read in portions of `size` rows. The rows of a portion are
    asked together.
    delay: a label is known this many rows after its row, or where there are times, this long after it. Whatever is
    known at a portion's first row is learned before the portion is asked.
    score: (labels, answers) -> one number a row; by default whether the answer is right, for a regressor how far off it
    is. classes: for estimators that must be told them at their first lesson.

    Raises BadInput for portions that are none, a negative delay, and what the estimator refuses.
    """
    if min(size, every, window) < 1 or delay < type(delay)(0):
        raise BadInput("size, every, window or delay cannot be.", "Give 1 or more, and a delay of 0 or more.")
    run = _Run(estimator, score or (_distance if is_regressor(estimator) else _right), window, classes)
    asked, reported = 0, 0
    for x, y, t in _portions(source, size, label, is_regressor(estimator)):
        if not len(y):
            continue
        if t is None and isinstance(delay, np.timedelta64 | timedelta):
            raise BadInput(
                f"delay is {delay!r}, but the portions carry no times.", "Give (X, y, t), or a number of rows."
            )
        known = asked if t is None else t[0]
        for _ in run.teach(known):
            if run.rows - reported >= every:
                reported = run.rows
                yield run.point()
        due = np.arange(asked, asked + len(y)) + delay if t is None else t + delay
        run.ask(x, y, due)
        asked += len(y)
    for _ in run.teach(None):
        if run.rows - reported >= every:
            reported = run.rows
            yield run.point()
    if run.rows > reported or not run.rows:
        yield run.point()


class _Run:
    """The questions that wait for their labels, and the tally."""

    def __init__(self, estimator: Streaming, score: Score, window: int, classes: Any) -> None:
        self.estimator, self.score, self.classes = estimator, score, classes
        self.waiting: deque[tuple[Any, NDArray[Any], NDArray[Any] | None, NDArray[Any]]] = deque()
        self.recent: deque[float] = deque(maxlen=window)
        self.rows, self.unanswered, self.total, self.seconds = 0, 0, 0.0, 0.0

    def ask(self, x: Any, y: NDArray[Any], due: NDArray[Any]) -> None:
        from sklearn.exceptions import NotFittedError

        began = time.perf_counter()
        try:
            answers = np.asarray(self.estimator.predict(x))
        except NotFittedError:
            answers = None
        self.seconds += time.perf_counter() - began
        self.waiting.append((x, y, answers, due))

    def teach(self, known: Any) -> Iterator[None]:
        """Score and learn what is due, oldest first, up to the first that is not; known: None for everything."""
        while self.waiting:
            x, y, answers, due = self.waiting[0]
            late = np.flatnonzero(due > known) if known is not None else np.zeros(0, np.intp)
            ready = int(late[0]) if len(late) else len(y)
            if not ready:
                return
            self._learn(_cut(x, 0, ready), y[:ready], None if answers is None else answers[:ready])
            if ready < len(y):
                rest = None if answers is None else answers[ready:]
                self.waiting[0] = _cut(x, ready, len(y)), y[ready:], rest, due[ready:]
            else:
                self.waiting.popleft()
            yield

    def _learn(self, x: Any, y: NDArray[Any], answers: NDArray[Any] | None) -> None:
        if answers is None:
            self.unanswered += len(y)
        else:
            scores = np.asarray(self.score(y, answers), np.float64)
            self.rows += len(y)
            self.total += float(scores.sum())
            self.recent.extend(scores.tolist())
        more = {} if self.classes is None else {"classes": self.classes}
        began = time.perf_counter()
        self.estimator.partial_fit(x, y, **more)
        self.seconds += time.perf_counter() - began
        self.classes = None

    def point(self) -> Point:
        mean = self.total / self.rows if self.rows else float("nan")
        recent = float(np.mean(self.recent)) if self.recent else float("nan")
        return Point(self.rows, self.unanswered, mean, recent, self.seconds, psutil.Process().memory_info().rss)


def _portions(
    source: Any, size: int, label: str, number: bool
) -> Iterator[tuple[Any, NDArray[Any], NDArray[Any] | None]]:
    if isinstance(source, str | Path) or (isinstance(source, tuple) and len(source) == 2):
        for portion in open_rows(source, label=label, number=number).portions(0, size):
            yield portion.x, portion.y, None
        return
    if not isinstance(source, Iterable):
        raise BadInput(f"a {type(source).__name__} is no stream.", "Give portions (X, y), a pair of arrays or a path.")
    last = None
    for place, portion in enumerate(source):
        if not isinstance(portion, tuple | list) or len(portion) not in (2, 3):
            raise BadInput(f"portion {place} is no (X, y) and no (X, y, t).", "Give tuples of two or three.")
        x, y, t = (*portion, None)[:3]
        y, t = np.asarray(y), None if t is None else np.asarray(t)
        rows = x.shape[0] if hasattr(x, "shape") else len(x)
        if len(y) != rows or (t is not None and len(t) != rows):
            raise BadInput(f"portion {place} has {rows} rows and {len(y)} labels.", "Give one, and one time, a row.")
        if t is not None and rows:
            if (t[1:] < t[:-1]).any() or (last is not None and t[0] < last):
                raise BadInput(f"the times of portion {place} fall.", "Give rows in the order of their times.")
            last = t[-1]
        yield x, y, t


def _cut(x: Any, start: int, end: int) -> Any:
    if not start and end == (x.shape[0] if hasattr(x, "shape") else len(x)):
        return x
    return x.iloc[start:end] if hasattr(x, "iloc") else x[start:end]


def _right(y: NDArray[Any], answers: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(y == answers)


def _distance(y: NDArray[Any], answers: NDArray[Any]) -> NDArray[Any]:
    return np.abs(np.asarray(y, np.float64) - np.asarray(answers, np.float64))

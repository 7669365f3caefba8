"""When a head answers `unknown`: a distance and a threshold, and what they make of a row.

A row is accepted where its best class is nearer than the threshold and nearer than every negative. In probabilities,
`unknown` is one more class beside the others, which is as likely as the best of them exactly where a row is only just
not accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.learn.exact.openset import Distance, Floats

BLOCK = 2048
LEAST = -1.0
"""No cosine is less."""


@dataclass(frozen=True, eq=False)
class Rejection:
    """distance: columns of the C classes in the order of the head, then of the negatives. threshold: the least score of
    an accepted row. width: > 0, the change of score that makes `unknown` e times less likely beside the best class."""

    distance: Distance
    classes: int
    threshold: float
    width: float

    @cached_property
    def columns(self) -> NDArray[np.float32]:
        """(D, C + M + r): weights of the scores, and the directions that the length is damped in."""
        return np.hstack([self.distance.weights, self.distance.damp]).astype(np.float32)

    def margins(self, phi: NDArray[Any]) -> Floats:
        """phi (N, D) int8 -> (N,) the best class's score above what it must clear; accepted where that is > 0."""
        found = [nearest(self.distance.scores(part), self.classes) for part in _parts(phi)]
        near, other = (np.concatenate([one[side] for one in found] or [np.empty(0)]) for side in (0, 1))
        return margins(near, other, self.threshold)

    def scores(self, phi: NDArray[Any]) -> Floats:
        """phi (N, D) int8 -> (N,) scores, of which those above the threshold are accepted."""
        parts = [beyond_negatives(*nearest(self.distance.scores(part), self.classes)) for part in _parts(phi)]
        return np.concatenate(parts or [np.empty(0)])

    def impostor_scores(self, phi: NDArray[Any], own: NDArray[np.integer[Any]]) -> Floats:
        """As `scores`, of rows whose own class (N,) is taken for never learned."""
        found = [np.empty(0)]
        for start, part in zip(range(0, len(phi), BLOCK), _parts(phi)):
            strange = never_learned(self.distance, part, own[start : start + BLOCK], self.classes)
            found.append(beyond_negatives(*strange))
        return np.concatenate(found)

    def arrays(self) -> dict[str, Any]:
        """What `of` makes it from again."""
        one = self.distance
        return {
            **{name: getattr(one, name).astype(np.float32) for name in ("origin", "means", "damp")},
            "numbers": np.array([one.flat, one.classes, self.classes, self.threshold, self.width]),
        }  # fmt: skip

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Rejection:
        """Raises ValueError where the arrays do not fit each other."""
        origin, means, damp = (np.asarray(arrays[name], np.float64) for name in ("origin", "means", "damp"))
        flat, present, classes, threshold, width = arrays["numbers"].tolist()
        if not (len(origin) == len(means) == len(damp) and 0 < classes <= means.shape[1] and width > 0):
            raise ValueError
        return cls(Distance(origin, means, flat, damp, int(present)), int(classes), threshold, width)


def _parts(phi: NDArray[Any]) -> Iterator[Floats]:
    for start in range(0, len(phi), BLOCK):
        yield phi[start : start + BLOCK].astype(np.float64)


def nearest(scores: Floats, classes: int) -> tuple[Floats, Floats]:
    """(N, C + M) -> (N,) of the nearest class, (N,) of the nearest negative."""
    return scores[:, :classes].max(axis=1), scores[:, classes:].max(axis=1, initial=-np.inf)


def never_learned(
    one: Distance, x: Floats, own: NDArray[Any], classes: int, learned: NDArray[np.bool_] | None = None
) -> tuple[Floats, Floats]:
    """As `nearest`, of impostors: rows whose own class was never learned."""
    scores = one.impostor_scores(x, own)
    if learned is not None:
        scores[:, :classes][:, ~learned] = -np.inf
    return nearest(scores, classes)


def beyond_negatives(near: Floats, other: Floats) -> Floats:
    """The nearest class's score where that is nearer than every negative, else the least that there is."""
    return np.where(near > other, near, LEAST)


def margins(near: Floats, other: Floats, threshold: float) -> Floats:
    return near - np.maximum(other, threshold)

"""How well a model tells strangers from those it knows, on images that it has not learned.

Two mistakes are counted apart. A *false reject* is an image of a known class that is answered `unknown`; accuracy
counts it as wrong too. A *false accept* is a stranger that is answered with a class. Strangers are the negatives of the
test side and, since those are few or none, every other test image again, as if its class had never been learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.evaluate.figures import Figure, Result, exact_share

if TYPE_CHECKING:
    from numpy.typing import NDArray

Point = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class OpenSet(Result):
    """asked: the false-accept rate that was asked for. promised: what the data learned from could promise, and the
    threshold that came of it; None where the card does not say. false_reject: of `known` test images; false_accept: of
    `impostors`, `strangers` of them negatives; None without any. curve: false_accept and false_reject by threshold, of
    these images; learned: the same out of fold, of the images learned."""

    asked: float | None
    promised: float | None
    threshold: float | None
    known: int
    impostors: int
    strangers: int
    false_reject: Figure | None
    false_accept: Figure | None
    of_strangers: Figure | None
    curve: tuple[Point, ...]
    learned: tuple[Point, ...]

    def to_json(self) -> dict[str, Any]:
        seen = self.false_accept
        return {
            "false_accept": {
                "asked": self.asked, "seen": seen and seen.value, "upper": seen and seen.high,
                "promised": self.promised,
            },
            "false_reject": self.false_reject and self.false_reject.value,
            "threshold": self.threshold,
            "known": self.known,
            "impostors": self.impostors,
            "strangers": {"images": self.strangers, **_shown(self.of_strangers, "false_accept")},
            "intervals": {**_interval(self.false_reject, "false_reject"), **_interval(seen, "false_accept")},
            "curve": list(self.curve),
            "learned_curve": list(self.learned),
        }  # fmt: skip


def open_set(
    refused: NDArray[np.bool_], strangers: NDArray[np.bool_], impostors: NDArray[np.bool_], promise: Mapping[str, Any],
    curve: Sequence[Point] = (),
) -> OpenSet:  # fmt: skip
    """refused: (N,) whether each known image was answered `unknown`; strangers, impostors: whether each negative, and
    each image as if its class had never been learned, was answered with a class. promise: the model card's."""
    rates = promise.get("false_accept") or {}
    return OpenSet(
        asked=rates.get("asked"), promised=rates.get("upper"), threshold=promise.get("threshold"), known=len(refused),
        impostors=len(strangers) + len(impostors), strangers=len(strangers), false_reject=_share(refused),
        false_accept=_share(np.concatenate([strangers, impostors])), of_strangers=_share(strangers),
        curve=tuple(curve), learned=tuple(promise.get("curve") or ()),
    )  # fmt: skip


def _share(hits: NDArray[np.bool_]) -> Figure | None:
    if not len(hits):
        return None
    return Figure(float(hits.mean()), *exact_share(int(hits.sum()), len(hits)))


def _shown(figure: Figure | None, name: str) -> dict[str, float | None]:
    return {name: None if figure is None else figure.value}


def _interval(figure: Figure | None, name: str) -> dict[str, list[float | None]]:
    return {} if figure is None else {name: [figure.low, figure.high]}

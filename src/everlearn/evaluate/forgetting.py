"""What a model has forgotten: how well it does now on what it once knew.

The history has one entry per version, oldest first: the accuracy of each class (or experience) on its fixed test set,
from the version that first knew it on. A class is *old* where an earlier version knew it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from everlearn.evaluate.figures import Figure, Result, bias_corrected

History = Sequence[Mapping[str, float]]
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Retained(Result):
    """One old class. first: its accuracy in the version that learned it; best: before now; forgetting: best - now,
    negative where it is better than ever; transfer: now - first."""

    name: str
    learned_in: int
    first: float
    best: float
    now: float
    forgetting: float
    transfer: float


@dataclass(frozen=True, slots=True)
class Forgetting(Result):
    """forgetting: mean over old classes of best past accuracy - accuracy now (Chaudhry et al. 2018, arXiv:1801.10112).
    backward_transfer: mean of accuracy now - accuracy when learned (Lopez-Paz & Ranzato 2017, arXiv:1706.08840, eq. 3).
    Both None before a second version, and where no old class is tested any more. accuracy, curve: per version, the
    mean accuracy over its classes and its forgetting."""

    forgetting: Figure | None
    backward_transfer: Figure | None
    classes: tuple[Retained, ...]
    accuracy: tuple[float | None, ...]
    curve: tuple[float | None, ...]


def retained(history: History) -> tuple[Retained, ...]:
    """The old classes that the newest version is still tested on, most forgotten first."""
    found = []
    for name, now in (history[-1] if len(history) > 1 else {}).items():
        past = [(version, known[name]) for version, known in enumerate(history[:-1]) if name in known]
        if past:
            (learned_in, first), best = past[0], max(accuracy for _, accuracy in past)
            found.append(Retained(name, learned_in, first, best, now, best - now, now - first))
    return tuple(sorted(found, key=lambda old: (-old.forgetting, old.name)))


def forgetting(history: History, images: Mapping[str, int] | None = None, seed: int = 0) -> Forgetting:
    """Forgetting and backward transfer of the newest version. images: test images per class, for the intervals.

    The intervals resample each class's images (binomially and independently for both versions, which makes them
    somewhat too wide, as both answered the same images); they take the best version as given.
    """
    old = retained(history)
    best: dict[str, float] = {}
    curve = []
    for known in history:
        curve.append(_mean([best[name] - now for name, now in known.items() if name in best]))
        best |= {name: max(now, best.get(name, now)) for name, now in known.items()}
    return Forgetting(
        forgetting=_figure([r.best for r in old], [r.now for r in old], old, images, seed),
        backward_transfer=_figure([r.now for r in old], [r.first for r in old], old, images, seed),
        classes=old,
        accuracy=tuple(_mean(list(known.values())) for known in history),
        curve=tuple(curve),
    )


def _figure(
    more: list[float], less: list[float], old: tuple[Retained, ...], images: Mapping[str, int] | None, seed: int
) -> Figure | None:
    """The mean of more - less, with an interval where the number of images is known."""
    if not old:
        return None
    value = float(np.mean(np.array(more) - np.array(less)))
    if images is None or any(images.get(r.name, 0) < 1 for r in old):
        return Figure(value)
    order = sorted(range(len(old)), key=lambda i: old[i].name)
    n = np.array([images[old[i].name] for i in order])
    rng = np.random.default_rng(seed)
    shape = (RESAMPLES, len(old))
    drawn = [rng.binomial(n, np.clip([side[i] for i in order], 0, 1), shape) / n for side in (more, less)]
    return Figure(value, *bias_corrected(value, (drawn[0] - drawn[1]).mean(axis=1)))


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None

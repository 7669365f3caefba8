"""What a trainer does about uneven classes: draw over, draw under, or weight the loss.

Pure functions of the set of samples: who is drawn is decided by a hash of the id, so neither the order in which the
samples came nor the order in which they are given matters.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from everlearn.errors import BadConfig, BadInput
from everlearn.types import SampleId


@dataclass(frozen=True, slots=True)
class Balanced:
    """ids: to be trained on in one epoch, sorted; an id that stands there twice is seen twice. weights: of the loss,
    by class name; empty where all count alike."""

    ids: list[SampleId]
    weights: Mapping[str, float] = field(default_factory=dict)


def balanced(mode: str, ids: Sequence[SampleId], labels: Sequence[str]) -> Balanced:
    """What `dataset.balance` asks for. Raises BadConfig on another mode; BadInput where ids are not one a label, or
    stand there twice."""
    if mode not in MODES:
        raise BadConfig(f"dataset.balance is {mode!r}.", f"Use one of {', '.join(MODES)}.")
    return MODES[mode](ids, labels)


def over(ids: Sequence[SampleId], labels: Sequence[str]) -> list[SampleId]:
    """Every class as often as the largest: each sample as often as it fits wholly, the rest by hash."""
    classes = _classes(ids, labels)
    most = max(map(len, classes.values()), default=0)
    drawn: list[SampleId] = []
    for members in classes.values():
        times, rest = divmod(most, len(members))
        drawn += members * times + members[:rest]
    return sorted(drawn)


def under(ids: Sequence[SampleId], labels: Sequence[str]) -> list[SampleId]:
    """Every class as often as the smallest, chosen by hash."""
    classes = _classes(ids, labels)
    least = min(map(len, classes.values()), default=0)
    return sorted(id for members in classes.values() for id in members[:least])


def class_weights(labels: Collection[str]) -> dict[str, float]:
    """N / (C · n_c), so that every class weighs the same in all and the mean weight of a sample is 1.

    King & Zeng, "Logistic regression in rare events data", 2001; scikit-learn calls it "balanced".
    """
    counts = Counter(labels)
    return {label: len(labels) / (len(counts) * number) for label, number in sorted(counts.items())}


def _classes(ids: Sequence[SampleId], labels: Sequence[str]) -> dict[str, list[SampleId]]:
    """Class name to its ids, in the order of their hashes."""
    if len(ids) != len(labels):
        raise BadInput(f"There are {len(ids)} ids and {len(labels)} labels.", "Give one label for each id.")
    if len(set(ids)) != len(ids):
        raise BadInput("An id stands among the samples twice.", "Give each sample once.")
    classes: dict[str, list[SampleId]] = {label: [] for label in sorted(set(labels))}
    for id, label in zip(ids, labels, strict=True):
        classes[label].append(id)
    for members in classes.values():
        members.sort(key=lambda id: (hashlib.sha256(b"balance\0" + id.encode()).digest(), id))
    return classes


MODES: dict[str, Callable[[Sequence[SampleId], Sequence[str]], Balanced]] = {
    "none": lambda ids, labels: Balanced(sorted(ids)),
    "over": lambda ids, labels: Balanced(over(ids, labels)),
    "under": lambda ids, labels: Balanced(under(ids, labels)),
    "weights": lambda ids, labels: Balanced(sorted(ids), class_weights(labels)),
}

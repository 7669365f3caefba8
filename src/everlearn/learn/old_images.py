"""Which old images a detector sees again while it learns new ones, under a budget of bytes.

What is chosen is a pure function of the set that is offered: each image has a rank by a hash of its id, and the classes
take turns, the one of which fewest boxes were chosen first (a class-balanced reservoir, Chrysakis & Moens 2020,
with the uniform draw of bottom-k sampling, Cohen & Kaplan 2007). An image counts for every class that it shows.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everlearn.types import SampleId

NOTHING = ""
"""Images without a box are drawn as a class of their own: a detector must also know what is nothing."""


@dataclass(frozen=True, slots=True)
class Old:
    """An old image. bytes: of its file; labels: the class of each of its boxes."""

    id: SampleId
    bytes: int
    labels: tuple[str, ...]


def chosen(offered: Collection[Old], budget: int) -> list[SampleId]:
    """Ids of the images to see again, sorted. budget: bytes that their files may take together."""
    if sum(one.bytes for one in offered) <= budget:
        return sorted(one.id for one in offered)
    waiting: dict[str, list[Old]] = defaultdict(list)
    for one in sorted(offered, key=_rank, reverse=True):  # the lowest rank is taken from the end
        for label in set(one.labels) or {NOTHING}:
            waiting[label].append(one)
    counts = [(0, label) for label in sorted(waiting)]
    heapq.heapify(counts)
    seen: dict[str, int] = defaultdict(int)
    taken: set[SampleId] = set()
    left = budget
    while counts:
        count, label = heapq.heappop(counts)
        if count < seen[label]:  # other images have shown it since
            heapq.heappush(counts, (seen[label], label))
            continue
        found = _next(waiting[label], taken, left)
        if found is None:
            continue  # nothing of this class is left that would fit
        taken.add(found.id)
        left -= found.bytes
        for name in found.labels or (NOTHING,):
            seen[name] += 1
        heapq.heappush(counts, (seen[label], label))
    return sorted(taken)


def _next(waiting: list[Old], taken: Collection[SampleId], room: int) -> Old | None:
    while waiting:
        one = waiting.pop()
        if one.id not in taken and one.bytes <= room:
            return one
    return None


def _rank(one: Old) -> tuple[bytes, str]:
    return hashlib.sha256(b"old images\0" + one.id.encode()).digest(), one.id

"""From which trust on the boxes of a class are taken without asking: proved on reviewed images.

The claim, for each class by itself: with probability 95 % over the reviewed images, at least `target` of the boxes that
are written by themselves, on images like these, are right (IoU 0.5, same class). What makes it honest:

*Units.* Boxes of one group of images (a burst, a video) may all be wrong for one reason. A group counts for no more
than as if its boxes were all right or all wrong together, and less where the data show that errors cluster.

*Choosing.* The threshold is lowered step by step as long as the bound stays at the target, from starts that do not
depend on what is right (fixed-sequence testing: Learn then Test, Angelopoulos et al. 2021, arXiv:2110.01052).

*What is written.* An image with a doubt in any class is not labelled at all. A class is proved on all images where
nothing of its own is in doubt, which takes for granted that its boxes are no worse where the other classes are clear
too. That is looked at: a class whose boxes are shown to be worse on the images that would be written is set aside.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.catalog.scenes import overlap
from everlearn.label.boxes import MATCHED, NEVER, Weighed, judge, trust
from everlearn.naming import coarse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.types import Box

DELTA = 0.05
"""How often a proof may be wrong."""
WORSE = 0.1
"""Error rate of the check that what is written is not worse than what was proved."""
STEPS = 100


def draw(id: str) -> float:
    """A number in [0, 1) that belongs to the sample, and to nothing that is on it."""
    return int.from_bytes(hashlib.sha256(b"audit\0" + id.encode()).digest()[:8], "big") / 2**64


def audited(id: str, share: float) -> bool:
    """Whether a person is asked about a sample however sure the models are. A larger share keeps those of a smaller."""
    return draw(id) < share


@dataclass(frozen=True, slots=True)
class Reviewed:
    """An image that somebody has answered and no model has learned, with what would be proposed for it. about: the
    classes, by the first part of their names, that the truth is complete for."""

    group: str
    seen: Weighed
    truth: tuple[Box, ...]
    about: frozenset[str]


@dataclass(frozen=True, slots=True)
class Proof:
    """Of one class. threshold: None where there is none that could be proved; precision, bound: of the boxes that clear
    it, as seen, and their 95 % lower bound; boxes: how many they are; worth: of how many boxes apart from each other
    (at all, where there is no threshold); needs: the least of those that a proof takes, all right."""

    threshold: float | None
    precision: float | None
    bound: float | None
    boxes: int
    worth: float
    needs: int

    @property
    def too_few(self) -> bool:
        """Nothing is known yet, in favour of the class or against it."""
        return self.threshold is None and self.worth < self.needs


@dataclass(frozen=True, slots=True)
class Share:
    """hits of `of`, with the 95 % bounds of the share on either side."""

    hits: int
    of: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Proved:
    """classes: what was found for each; right: of the boxes that would be written by themselves on the reviewed images;
    missed: of the things that are on these, those without a box; images: of the reviewed images those written."""

    classes: Mapping[str, Proof]
    right: Share
    missed: Share
    images: tuple[int, int]

    def to_json(self, declared: Mapping[str, float]) -> dict[str, Any]:
        """declared: the thresholds that hold without a proof."""
        classes = {
            name: {**asdict(one), "too_few": one.too_few, "declared": declared.get(name)}
            for name, one in self.classes.items()
        }
        written, reviewed = self.images
        return {"reviewed": reviewed, "written": written, "classes": classes, "right": asdict(self.right),
                "missed": asdict(self.missed)}  # fmt: skip


def needed(target: float, delta: float = DELTA) -> int:
    """How many boxes, apart from each other and all right, prove a precision: the least n with target^n <= delta."""
    return math.ceil(math.log(delta) / math.log(target))


def prove(
    reviewed: Sequence[Reviewed], classes: Sequence[str], target: float, noise: float,
    declared: Mapping[str, float] | None = None,
) -> Proved:  # fmt: skip
    """The least threshold of each class that can be proved. declared: thresholds of classes that are labelled all the
    same while there are too few reviewed images to prove or to refuse them."""
    hits = [_hits(one) for one in reviewed]
    groups = {name: number for number, name in enumerate(sorted({one.group for one in reviewed}))}
    walks = {name: _Walk(name, reviewed, hits, groups, noise) for name in classes}
    doubts = [_Doubts(one, noise) for one in reviewed]
    open_ = np.array([not one.always for one in doubts], bool)
    found = {name: walk.prove(open_, target) for name, walk in walks.items()}
    taken = {name: _taken(one, (declared or {}).get(name)) for name, one in found.items()}
    worse = True
    while worse:  # each time round one class fewer
        worse = False
        for name in [name for name, one in found.items() if one.threshold is not None]:
            written = np.array([one.clear(taken) for one in doubts], bool)
            if walks[name].best(written, taken[name]) < target:
                found[name], taken[name], worse = replace(found[name], threshold=None), NEVER, True
    return _outcome(reviewed, hits, groups, found, taken, noise)


def _taken(proof: Proof, declared: float | None) -> float:
    if proof.threshold is not None:
        return proof.threshold
    return declared if declared is not None and proof.too_few else NEVER


def _hits(one: Reviewed) -> list[bool]:
    """Which proposals are right: surest first, each takes the free true box of its class that it overlaps most."""
    left, right = list(one.truth), []
    for box in one.seen.boxes:
        near = [(overlap(box, other), number) for number, other in enumerate(left) if other.label == box.label]
        share, number = max(near, default=(0.0, -1))
        right.append(share >= MATCHED)
        if right[-1]:
            del left[number]
    return right


class _Doubts:
    """What keeps an image from being labelled by itself, whatever the thresholds; and the least trust of each class."""

    def __init__(self, one: Reviewed, noise: float) -> None:
        self.least: dict[str, float] = {}
        for box in one.seen.boxes:
            if trust(box) >= noise:
                self.least[box.label] = min(trust(box), self.least.get(box.label, 1.0))
        self.always = bool(judge(one.seen, dict.fromkeys(self.least, 0.0), noise).doubts)

    def clear(self, thresholds: Mapping[str, float]) -> bool:
        """Whether nothing does."""
        return not self.always and all(value >= thresholds.get(name, NEVER) for name, value in self.least.items())


class _Walk:
    """One class on the reviewed images: those where it is proposed, the surest first. An image's boxes of the class
    stand or fall together: one in doubt sends the image to a person, so its least trust decides."""

    def __init__(
        self, name: str, reviewed: Sequence[Reviewed], hits: Sequence[Sequence[bool]], groups: Mapping[str, int],
        noise: float,
    ) -> None:  # fmt: skip
        rows = []
        for number, (one, right) in enumerate(zip(reviewed, hits, strict=True)):
            if coarse(name) not in one.about:
                continue
            mine = [
                (trust(box), hit)
                for box, hit in zip(one.seen.boxes, right, strict=True)
                if box.label == name and trust(box) >= noise
            ]
            if mine:
                rows.append(
                    (min(value for value, _ in mine), number, groups[one.group], len(mine), sum(h for _, h in mine))
                )
        rows.sort(key=lambda row: (-row[0], row[1]))
        self.least = np.array([row[0] for row in rows], float)
        self.image, self.group, self.boxes, self.right = (
            np.array([row[k] for row in rows], np.intp) for k in range(1, 5)
        )

    def best(self, written: NDArray[np.bool_], threshold: float) -> float:
        """The upper bound (90 %) of the precision on these images alone; 1 where there are none."""
        kept = written[self.image] & (self.least >= threshold)
        if not kept.any():
            return 1.0
        group, boxes, right = self.group[kept], self.boxes[kept], self.right[kept]
        return 1 - lower(group, boxes, boxes - right, WORSE)

    def prove(self, open_: NDArray[np.bool_], target: float) -> Proof:
        """The walk on these images."""
        kept = open_[self.image]
        trusts, group, boxes, right = (a[kept] for a in (self.least, self.group, self.boxes, self.right))
        total, needs = worth(group, boxes), needed(target)
        starts = 1 if total < 4 * needs else 2 if total < 8 * needs else 4  # known before anything is known to be right
        none = Proof(None, None, None, int(boxes.sum()), total, needs)
        counts = np.unique(np.geomspace(1, max(1, len(trusts)), STEPS).astype(np.intp))[: len(trusts)]
        cuts = sorted({math.floor(float(trusts[k - 1]) * 1e4) / 1e4 for k in counts}, reverse=True)
        steps = []
        for cut in cuts:
            n = int(np.searchsorted(-trusts, -cut, side="right"))
            if worth(group[:n], boxes[:n]) >= needed(target, DELTA / starts):
                steps.append((cut, n))
        bounds = [lower(group[:n], boxes[:n], right[:n], DELTA / starts) for _, n in steps]
        reached = -1
        for first in sorted({len(steps) * k // starts for k in range(starts)}):
            for step in range(first, len(steps)):
                if bounds[step] < target:
                    break
                reached = max(reached, step)
        if reached < 0:
            return none
        cut, n = steps[reached]
        hit, of = int(right[:n].sum()), int(boxes[:n].sum())
        return Proof(cut, hit / of, bounds[reached], of, worth(group[:n], boxes[:n]), needs)


def worth(group: NDArray[np.intp], boxes: NDArray[np.intp]) -> float:
    """How many independent boxes these are worth where all boxes of a group stand or fall together (Kish 1965):

    n' = (sum_g n_g)^2 / sum_g n_g^2
    """
    sizes = np.bincount(group, boxes)
    squares = float((sizes**2).sum())
    return float(sizes.sum()) ** 2 / squares if squares else 0.0


def lower(group: NDArray[np.intp], boxes: NDArray[np.intp], right: NDArray[np.intp], level: float) -> float:
    """Lower bound of the share that is right, at this level, for boxes in groups (Korn & Graubard 1998): the exact
    bound of Clopper and Pearson at an effective number of boxes,

        n* = min( n',  p (1 - p) / v ),    v = G / (G - 1)  sum_g (r_g - p n_g)^2 / (sum_g n_g)^2

    v: the variance of p = sum r / sum n over groups. n' (see `worth`) is the least it can be worth where errors do not
    depend on a group's size; v takes over where large groups are the worse ones.
    """
    from scipy.stats import beta

    sizes, hits = np.bincount(group, boxes), np.bincount(group, right)
    sizes, hits = sizes[sizes > 0], hits[sizes > 0]
    total = float(sizes.sum())
    if not total:
        return 0.0
    p, n, count = float(hits.sum()) / total, worth(group, boxes), len(sizes)
    if 0 < p < 1 and count > 1:
        variance = count / (count - 1) * float(((hits - p * sizes) ** 2).sum()) / total**2
        n = min(n, p * (1 - p) / variance) if variance else n
    return float(beta.ppf(level, p * n, n - p * n + 1)) if p else 0.0


def _share(group: Sequence[int], hits: Sequence[int], of: Sequence[int]) -> Share:
    groups, right, all_ = (np.array(values, np.intp) for values in (group, hits, of))
    low = lower(groups, all_, right, DELTA / 2)
    high = 1 - lower(groups, all_, all_ - right, DELTA / 2)
    return Share(int(right.sum()), int(all_.sum()), low, high)


def _outcome(
    reviewed: Sequence[Reviewed], hits: Sequence[Sequence[bool]], groups: Mapping[str, int],
    found: Mapping[str, Proof], thresholds: Mapping[str, float], noise: float,
) -> Proved:  # fmt: skip
    """What would have been written on the reviewed images."""
    taken = {name: value for name, value in thresholds.items() if value < NEVER}
    kinds = {coarse(name) for name in taken}
    group, right, boxes, missed, things = [], [], [], [], []
    for one, correct in zip(reviewed, hits, strict=True):
        if not taken or judge(one.seen, taken, noise).doubts:
            continue
        mine = [
            hit
            for box, hit in zip(one.seen.boxes, correct, strict=True)
            if trust(box) >= noise and coarse(box.label) in one.about
        ]
        there = sum(coarse(box.label) in kinds & one.about for box in one.truth)
        group.append(groups[one.group])
        right.append(sum(mine))
        boxes.append(len(mine))
        things.append(there)
        missed.append(max(0, there - sum(mine)))
    images = len(group), len(reviewed)
    return Proved(dict(found), _share(group, right, boxes), _share(group, missed, things), images)

"""What several detectors, and neighbouring frames of one camera, say together of an image's boxes; and what follows.

     each model's boxes ─ join ► one list, with a joint confidence
     the frames before and after ─ weigh ► trust: raised where they agree, lowered where a box flickers
     thresholds by class ─ judge ► labelled by itself, or to a person with the doubts named

Trust is no probability. It need only rank: what trust is enough is measured on reviewed images (`thresholds`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from everlearn.catalog.scenes import overlap
from everlearn.naming import coarse
from everlearn.types import Box, Scene

if TYPE_CHECKING:
    from datetime import datetime

    from everlearn.types import SampleId

JOINED, FOLLOWED, MATCHED, SAME_PLACE = 0.55, 0.3, 0.5, 0.7
"""IoU from which boxes of several models are one (as Solovyev et al.), boxes of one class in two frames are one thing
that moved, a proposal counts as the true box, and two boxes lie on the same place."""
NEVER = 2.0
"""The threshold of a class that is not labelled by itself."""
PLAIN = 0.5
"""Trust from which a thing seen in both neighbouring frames should be seen in the one between them."""


def trust(box: Box) -> float:
    return box.confidence or 0.0


# --- several models -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Joint:
    """A box that `votes` models propose, of the `of` that know its class. Its confidence is the joint one."""

    box: Box
    votes: int = 1
    of: int = 1


def join(found: Sequence[Sequence[Box]], knows: Sequence[Collection[str]]) -> list[Joint]:
    """Weighted boxes fusion (Solovyev et al. 2021, arXiv:1910.13302), the surest first.

        corner = sum_m c_m corner_m / sum_m c_m        confidence = sum_m c_m / M

    found[m]: what model m found; knows[m]: its classes. M: the models that know the class, so that one which does not
    see what it should see lowers the confidence. Of one model's boxes that overlap only the surest speaks. Of labels
    with parts the first part must agree; the whole is decided by weight among the models that tell parts apart.
    """
    kinds = [{coarse(name) for name in names} for names in knows]
    boxes = [(box, number) for number, some in enumerate(found) for box in some]
    clusters: list[_Cluster] = []
    for box, number in sorted(boxes, key=lambda one: (-trust(one[0]), one[1], one[0].label, one[0].x, one[0].y)):
        near = [(overlap(box, one.fused), one) for one in clusters if one.kind == coarse(box.label)]
        share, best = max(near, key=lambda one: one[0], default=(0.0, None))
        if best is None or share <= JOINED:
            clusters.append(_Cluster(box, number))
        else:
            best.add(box, number)
    joint = []
    for one in clusters:
        of = max(1, sum(one.kind in names for names in kinds))
        total = sum(trust(box) for box in one.said.values())
        joint.append(Joint(replace(one.fused, label=one.label(), confidence=min(1.0, total / of)), len(one.said), of))
    return sorted(joint, key=lambda one: -trust(one.box))


class _Cluster:
    """Boxes of several models that are one. said: model to its surest box."""

    def __init__(self, box: Box, number: int) -> None:
        self.kind, self.fused, self.said = coarse(box.label), box, {number: box}

    def add(self, box: Box, number: int) -> None:
        if number in self.said:
            return
        self.said[number] = box
        total = sum(map(trust, self.said.values())) or 1.0
        corners = [0.0, 0.0, 0.0, 0.0]
        for one in self.said.values():
            for side, value in enumerate((one.x, one.y, one.x + one.width, one.y + one.height)):
                corners[side] += trust(one) * value / total
        left, top, right, bottom = (min(1.0, max(0.0, value)) for value in corners)
        self.fused = replace(self.fused, x=left, y=top, width=right - left, height=bottom - top)

    def label(self) -> str:
        weights: dict[str, float] = defaultdict(float)
        for one in self.said.values():
            weights[one.label] += trust(one)
        parts = {name: weight for name, weight in weights.items() if name != self.kind} or weights
        return max(sorted(parts), key=lambda name: parts[name])


# --- neighbouring frames --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Around:
    """The neighbours of a frame: the images of its camera just before and after it, None where none is near."""

    before: SampleId | None = None
    after: SampleId | None = None


def neighbours(frames: Iterable[tuple[SampleId, str, datetime]], seconds: float) -> dict[SampleId, Around]:
    """(id, camera, time) in order of camera and time -> the neighbours of those that have any: of the same camera, no
    more than so many seconds away. Stills that are far apart in time have none."""
    found: dict[SampleId, Around] = {}
    for (id, camera, at), (later, other, then) in pairwise(frames):
        if camera == other and (then - at).total_seconds() <= seconds:
            found[id] = replace(found.get(id, Around()), after=later)
            found[later] = Around(before=id)
    return found


@dataclass(frozen=True, slots=True)
class Weighed:
    """What is proposed for one image. boxes: with trust as their confidence, the surest first; missed: what both
    neighbouring frames show and this one does not, with the trust that it would have."""

    boxes: tuple[Box, ...]
    missed: tuple[Box, ...] = ()


def weigh(here: Sequence[Box], before: Sequence[Box] | None, after: Sequence[Box] | None) -> Weighed:
    """Joint confidences -> trust, by what the frames before and after show; None: there is no such frame.

        there in at least one of them       t = c + (1 - c) q / 2     q: the mean of what they say of it, 0 for absent
        there are both, and it is in none   t = c / 2                 it flickers
        else                                t = c

    t grows with c and with what each neighbour says, and t < 1 where c < 1. A thing that is sure in both neighbours and
    at its place between them not at all is told as `missed`.
    """
    sides = [list(one) for one in (before, after) if one is not None]
    if not sides:
        return Weighed(tuple(here))
    boxes = []
    for box in here:
        said = [max((trust(one) for one in side if _follows(box, one)), default=0.0) for side in sides]
        c = trust(box)
        if any(said):
            c += (1 - c) * sum(said) / len(sides) / 2
        elif len(sides) == 2:
            c /= 2
        boxes.append(replace(box, confidence=c))
    return Weighed(tuple(sorted(boxes, key=lambda one: -trust(one))), tuple(_missed(here, sides)))


def _follows(a: Box, b: Box) -> bool:
    return coarse(a.label) == coarse(b.label) and overlap(a, b) >= FOLLOWED


def _missed(here: Sequence[Box], sides: Sequence[Sequence[Box]]) -> Iterator[Box]:
    if len(sides) < 2:
        return
    for one in sides[0]:
        twins = [two for two in sides[1] if _follows(one, two) and trust(two) >= PLAIN]
        if trust(one) < PLAIN or not twins:
            continue
        two = max(twins, key=lambda twin: overlap(one, twin))
        middle = replace(
            one, x=(one.x + two.x) / 2, y=(one.y + two.y) / 2, width=(one.width + two.width) / 2,
            height=(one.height + two.height) / 2, confidence=min(trust(one), trust(two)) / 2,
        )  # fmt: skip
        if not any(_follows(middle, box) and trust(box) >= trust(middle) / 2 for box in here):
            yield middle


# --- what follows ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """boxes: those of the image, where nothing is doubtful; doubts: why a person must look, else (); drawn: what is
    shown to that person; urgency: how much the answer would teach, 0-1."""

    boxes: tuple[Box, ...]
    doubts: tuple[str, ...]
    drawn: tuple[Box, ...]
    urgency: float


def judge(seen: Weighed, thresholds: Mapping[str, float], noise: float) -> Verdict:
    """An image is labelled by itself only if every proposal is at its class's threshold or below the noise, nothing is
    missing that both neighbours show, and no two boxes of different classes are on the same place. A class without
    a threshold is never sure."""
    shown = [box for box in seen.boxes if trust(box) >= noise]
    doubts = [f"{box.label} {trust(box):.2f}" for box in shown if trust(box) < thresholds.get(box.label, NEVER)]
    doubts += [f"maybe a missed {box.label}" for box in seen.missed]
    for number, one in enumerate(shown):
        for two in shown[:number]:
            if coarse(one.label) != coarse(two.label) and overlap(one, two) >= SAME_PLACE:
                doubts.append(f"{two.label} or {one.label}")
    drawn = (*shown, *seen.missed)
    # 4 p (1 - p): 1 where the trust is a half, 0 where it is sure. A thing that may be missing is as open as it gets.
    urgency = max([4 * trust(box) * (1 - trust(box)) for box in shown] + [1.0] * bool(seen.missed), default=0.0)
    return Verdict(tuple(shown) if not doubts else (), tuple(doubts), drawn, urgency)


def fill(
    scene: Scene, about: Collection[str], proposals: Sequence[Box], classes: Collection[str],
    thresholds: Mapping[str, float], noise: float,
) -> Scene:  # fmt: skip
    """A scene with pseudo-labels for the classes that nobody looked for on it: an old class that is not labelled on a
    new image is no background. For training alone; the catalog keeps what was said.

    about: the classes that the scene is complete for; classes: all that are learned; proposals: of the model that knows
    the old classes. A class joins `about` where each of its proposals is sure or noise, and its sure boxes are added,
    marked by their confidence. Where one is doubtful the class stays unknown, so that a training masks it. A proposal
    on the place of a labelled box is a mistake about that box, and is left out.
    """
    boxes, known = list(scene.boxes), set(about)
    for name in sorted(set(classes) - known):
        mine = [box for box in proposals if coarse(box.label) == name and trust(box) >= noise]
        mine = [box for box in mine if all(overlap(box, other) < SAME_PLACE for other in scene.boxes)]
        least = thresholds.get(name, NEVER)
        if least < NEVER and all(trust(box) >= thresholds.get(box.label, least) for box in mine):
            boxes += [replace(box, label=name) for box in mine]
            known.add(name)
    return Scene(tuple(boxes), tuple(sorted(known)))

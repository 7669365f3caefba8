"""How good are the boxes of a data set? What is odd about each image's, how even the classes are, how many there are.

Pure functions of the set of scenes: the order in which they come or are given does not matter. Nothing is refused for
odd boxes; they are shown to a person. What counts as odd:

    outside     reaches over the edge of the image
    no_area     has no width or no height
    duplicate   two of one class that overlap by an IoU of DUPLICATE
    size        its area is nothing like that of its class:   |z| > WILD
    aspect      its shape is nothing like that of its class:  |z| > WILD
                (what the image's edge cuts is small and of any shape: there only too large is odd)

Size and aspect are compared by robust z-scores of log area (as a share of the image) and of log aspect (in pixels):
z = (v - median) / (1.4826 MAD), Iglewicz & Hoaglin, "How to detect and handle outliers", 1993. In a class of fewer than
ENOUGH boxes nothing is unusual. Tiny boxes are counted, and not held odd: things are far away.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.naming import coarse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.types import Box, SampleId

REASONS = ("outside", "no_area", "duplicate", "size", "aspect")
"""From the gravest."""
DUPLICATE = 0.9
WILD = 6.0
ENOUGH = 20
LEAST_SPREAD = 0.2
"""Of a logarithm: in a class of boxes that are all alike, one of three times the area is not wild."""
TINY = 4.0
"""Pixels of the shorter side."""
_EDGE = 1e-6


@dataclass(frozen=True, slots=True)
class Drawn:
    """An image with its boxes. width, height: in pixels. about: the classes that were looked for, if that was said."""

    id: SampleId
    boxes: tuple[Box, ...]
    width: int
    height: int
    camera: str = "unknown"
    about: tuple[str, ...] = ()


@dataclass(slots=True)
class BoxQuality:
    """odd: image to what is odd about it, `class: reason`, the gravest images first. reasons: to how many boxes it
    holds of. tiny: boxes of less than TINY pixels. classes: to their boxes, 0 for one that was looked for and never
    found. cameras: to (images, boxes). balance: normalised entropy of the boxes over the classes, 1 is even.
    """

    images: int = 0
    empty: int = 0
    boxes: int = 0
    most: int = 0
    tiny: int = 0
    balance: float = 1.0
    classes: dict[str, int] = field(default_factory=dict)
    cameras: dict[str, tuple[int, int]] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    odd: dict[SampleId, list[str]] = field(default_factory=dict)
    above: tuple[SampleId, ...] = ()
    """Images with boxes of the largest class, those with most of them first."""

    @property
    def accuracy(self) -> float:
        """1 - the share of images whose boxes are held odd; 1 where there are none."""
        return 1.0 - len(self.odd) / self.images if self.images else 1.0

    def to_json(self, most: int = 100) -> dict[str, Any]:
        """most: odd images named."""
        return {
            "images": self.images,
            "empty": self.empty,
            "boxes": self.boxes,
            "per_image": round(self.boxes / self.images, 3) if self.images else 0.0,
            "most": self.most,
            "tiny": self.tiny,
            "classes": self.classes,
            "cameras": {name: {"images": images, "boxes": boxes} for name, (images, boxes) in self.cameras.items()},
            "reasons": self.reasons,
            "odd": dict(list(self.odd.items())[:most]),
        }


def examine(images: Iterable[Drawn]) -> BoxQuality:
    """The quality of these images' boxes."""
    drawn = sorted(images, key=lambda one: one.id)
    found = BoxQuality(images=len(drawn))
    _count(found, drawn)
    odd = [(one, box, reason) for one in drawn for box, reason in _odd_alone(one)]
    odd += _unusual(drawn)
    found.reasons = {name: sum(reason == name for *_, reason in odd) for name in REASONS}
    found.reasons = {name: number for name, number in found.reasons.items() if number}
    said: dict[SampleId, list[tuple[int, str]]] = {}
    for one, box, reason in odd:
        said.setdefault(one.id, []).append((REASONS.index(reason), f"{coarse(box.label)}: {reason}"))
    gravest = sorted(said.items(), key=lambda pair: (min(pair[1]), -len(pair[1]), pair[0]))
    found.odd = {id: list(dict.fromkeys(text for _, text in sorted(reasons))) for id, reasons in gravest}
    return found


def _count(found: BoxQuality, drawn: Sequence[Drawn]) -> None:
    classes: Counter[str] = Counter()
    cameras: dict[str, list[int]] = {}
    for one in drawn:
        named = [coarse(box.label) for box in one.boxes]
        classes.update(named)
        classes.update(dict.fromkeys((coarse(name) for name in one.about), 0))
        camera = cameras.setdefault(one.camera, [0, 0])
        camera[0] += 1
        camera[1] += len(named)
        found.empty += not named
        found.boxes += len(named)
        found.most = max(found.most, len(named))
        found.tiny += sum(0 < min(box.width * one.width, box.height * one.height) < TINY for box in one.boxes)
    found.classes = dict(sorted(classes.items(), key=lambda pair: (-pair[1], pair[0])))
    found.cameras = {name: (images, boxes) for name, (images, boxes) in sorted(cameras.items())}
    counts = np.array([number for number in sorted(classes.values()) if number], dtype=float)
    if len(counts) > 1:
        shares = counts / counts.sum()
        found.balance = min(1.0, float(-(shares * np.log(shares)).sum() / np.log(len(counts))))
        largest = next(iter(found.classes))
        number = {one.id: sum(coarse(box.label) == largest for box in one.boxes) for one in drawn}
        found.above = tuple(id for id, has in sorted(number.items(), key=lambda pair: (-pair[1], pair[0])) if has)


def _odd_alone(one: Drawn) -> list[tuple[Box, str]]:
    """What is odd about an image's boxes whatever the others show."""
    odd: list[tuple[Box, str]] = []
    for box in one.boxes:
        if box.width <= 0 or box.height <= 0:
            odd.append((box, "no_area"))
        edges = (box.x, box.y, 1 - box.x - box.width, 1 - box.y - box.height)
        if min(edges) < -_EDGE:
            odd.append((box, "outside"))
    return odd + [(one.boxes[row], "duplicate") for row in duplicates(one.boxes)]


def duplicates(boxes: Sequence[Box]) -> list[int]:
    """Those that show again what an earlier one of their class shows."""
    if len(boxes) < 2:
        return []
    names = np.array([coarse(box.label) for box in boxes], dtype=object)
    left, top, width, height = np.array([(b.x, b.y, b.width, b.height) for b in boxes]).T  # (N,) each
    across = np.minimum.outer(left + width, left + width) - np.maximum.outer(left, left)
    down = np.minimum.outer(top + height, top + height) - np.maximum.outer(top, top)
    both = np.maximum(across, 0) * np.maximum(down, 0)  # (N, N)
    union = np.add.outer(width * height, width * height) - both
    same = (both >= DUPLICATE * union) & (union > 0) & (names[:, None] == names[None, :])
    return [int(row) for row in np.flatnonzero(np.tril(same, -1).any(axis=1))]


def _unusual(drawn: Sequence[Drawn]) -> list[tuple[Drawn, Box, str]]:
    """Boxes that are nothing like the others of their class."""
    of_class: dict[str, list[tuple[Drawn, Box]]] = {}
    for one in drawn:
        for box in one.boxes:
            if box.width > 0 and box.height > 0 and one.width > 0 and one.height > 0:
                of_class.setdefault(coarse(box.label), []).append((one, box))
    odd = []
    for members in of_class.values():
        if len(members) < ENOUGH:
            continue
        cut = np.array([_touches_edge(box) for _, box in members])
        area = robust_z(np.array([math.log(box.width * box.height) for _, box in members]))
        shape = [math.log(box.width * one.width / (box.height * one.height)) for one, box in members]
        aspect = robust_z(np.array(shape))
        wild = {"size": (area > WILD) | ((area < -WILD) & ~cut), "aspect": (np.abs(aspect) > WILD) & ~cut}
        odd += [(*members[row], reason) for reason, rows in wild.items() for row in np.flatnonzero(rows)]
    return odd


def _touches_edge(box: Box) -> bool:
    return min(box.x, box.y, 1 - box.x - box.width, 1 - box.y - box.height) < _EDGE


def robust_z(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) -> (n,): how far each lies from the middle, in spreads; the spread is at least LEAST_SPREAD."""
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))
    return np.asarray((values - middle) / max(float(spread), LEAST_SPREAD))

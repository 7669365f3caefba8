"""Which found box belongs to which true one: the greedy matching of the COCO evaluation, for all images at once.

Lin et al. 2014 (arXiv:1405.0312) and the reference code, pycocotools' `COCOeval`: in each image and class the found
boxes, surest first (ties in the order given), each take the free true box that they overlap most (of equal ones the
last), where the intersection over union is at least the threshold. At most `MOST` found boxes of a class count in an
image. Where true boxes of some sizes only are looked at, the others are ignored: a found box takes one of those only
where no other is left, and is then neither right nor wrong, as is one that takes none and has another size itself.

All corners are in pixels, as (x, y, width, height) of the left upper corner. Images are taken in the order of their
ids, so that nothing depends on the order they came in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from everlearn.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.evaluate.figures import Floats, Ints
    from everlearn.types import Box, SampleId

    Bools = NDArray[np.bool_]

MOST = 100
"""Found boxes of one class that count in one image, the surest."""
IOUS: Floats = np.linspace(0.5, 0.95, 10)
"""The thresholds that mAP50-95 averages over."""
AT_ONCE = 4_000_000
"""Pairs of boxes that are compared at once, to bound the memory."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One test image: what is in it, and what a detector found. width, height: in pixels.

    group: images of one group (a video) are not independent. about: the classes that the truth is complete for, None
    for all; a class outside of it is left out of this image, neither missed nor a ghost.
    """

    id: SampleId
    truth: tuple[Box, ...]
    found: tuple[Box, ...]
    width: int
    height: int
    camera: str | None = None
    group: str | None = None
    about: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Boxes:
    """B boxes, sorted by image, then class, then (if found) confidence. image, label, row: (B,) numbers of the image,
    of the class, and of the box in its image. corners: (B, 4) px. confidence: (B,), 1 for true boxes."""

    image: Ints
    label: Ints
    row: Ints
    corners: Floats
    confidence: Floats

    def __len__(self) -> int:
        return len(self.image)

    @property
    def area(self) -> Floats:
        """(B,) px²."""
        return self.corners[:, 2] * self.corners[:, 3]


@dataclass(frozen=True, slots=True)
class Pairs:
    """P pairs of boxes that overlap, sorted by found, then true box. found, truth: (P,) numbers; iou: (P,)."""

    found: Ints
    truth: Ints
    iou: Floats


@dataclass(frozen=True, slots=True)
class Matched:
    """All boxes of all images, and who took whom: computed once, then weighed as often as one likes.

    images: sorted by id. pairs: of one class, with an overlap of 0.5 and more. taken: (T, N) the true box that each
    found one takes at each threshold, -1 for none.
    """

    images: tuple[Seen, ...]
    classes: tuple[str, ...]
    truth: Boxes
    found: Boxes
    pairs: Pairs
    taken: Ints

    @property
    def hit(self) -> Bools:
        """(T, N) whether a found box is right."""
        return self.taken >= 0


def matched(images: Sequence[Seen], classes: Sequence[str]) -> Matched:
    """Match everything. classes: those to evaluate; boxes of others are left out. Raises BadInput."""
    ordered = _checked(images, classes)
    truth, found = _boxes(ordered, classes, "truth"), _boxes(ordered, classes, "found")
    cells = found.image * len(classes) + found.label
    pairs = overlapping(found, truth, cells, truth.image * len(classes) + truth.label, float(IOUS[0]))
    taken = greedy(pairs, cells, np.zeros(len(truth), bool))
    return Matched(ordered, tuple(classes), truth, found, pairs, taken)


def of_size(all_sizes: Matched, least: float, most: float) -> tuple[Ints, Bools, Bools]:
    """The matching where true boxes of least to most px² are looked for.

    -> taken (T, N), counted (T, N) found boxes that are right or wrong, wanted (G,) true boxes that are looked for.
    """
    truth, found = all_sizes.truth, all_sizes.found
    wanted = (truth.area >= least) & (truth.area <= most)
    cells = found.image * len(all_sizes.classes) + found.label
    taken = greedy(all_sizes.pairs, cells, ~wanted)
    own = (found.area >= least) & (found.area <= most)
    return taken, np.where(taken >= 0, np.append(wanted, False)[taken], own), wanted


def overlapping(found: Boxes, truth: Boxes, found_cell: Ints, truth_cell: Ints, least: float) -> Pairs:
    """The pairs within each cell (an image, or a class in an image) whose overlap is at least `least`, above 0.

    found_cell: (N,), truth_cell: (G,), both ascending.
    """
    start = np.searchsorted(truth_cell, found_cell, "left")
    count = np.searchsorted(truth_cell, found_cell, "right") - start
    parts = [_overlapping(found, truth, rows, start, count, least) for rows in _blocks(count)]
    if not parts:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def greedy(pairs: Pairs, cells: Ints, ignored: Bools, ious: Floats = IOUS) -> Ints:
    """Each found box's true box at each threshold, -1 for none. -> (T, N)

    cells: (N,) the image and class of each found box. ignored: (G,) true boxes that are taken only where no other can
    be. The k-th found boxes of all cells choose together: within a cell in turn, as the reference does.
    """
    taken = np.full((len(ious), len(cells)), -1)
    free = np.ones((len(ious), len(ignored)), bool)
    rows, first = np.unique(pairs.found, return_index=True)  # (K,) found boxes that overlap any, and their pairs
    length = np.diff(first, append=len(pairs.found))
    turn = np.arange(len(rows)) - np.searchsorted(cells[rows], cells[rows], "left")
    order = np.argsort(turn, kind="stable")
    for now in np.split(order, np.cumsum(np.bincount(turn))[:-1]) if len(rows) else ():
        index = _ranges(first[now], length[now])
        begin = np.cumsum(length[now]) - length[now]
        truth, iou = pairs.truth[index], pairs.iou[index]
        can = free[:, truth] & (iou >= ious[:, None])  # (T, p)
        wanted = can & ~ignored[truth]
        any_wanted = np.logical_or.reduceat(wanted, begin, axis=1)
        can = np.where(np.repeat(any_wanted, length[now], axis=1), wanted, can)
        value = np.where(can, iou, -1.0)
        best = np.maximum.reduceat(value, begin, axis=1)  # (T, now)
        is_best = value == np.repeat(best, length[now], axis=1)
        last = np.maximum.reduceat(np.where(is_best, np.arange(len(index)), -1), begin, axis=1)
        level, column = np.nonzero(best >= 0)
        chosen = truth[last[level, column]]
        taken[level, rows[now][column]] = chosen
        free[level, chosen] = False
    return taken


def _overlapping(
    found: Boxes, truth: Boxes, rows: slice, start: Ints, count: Ints, least: float
) -> tuple[Ints, Ints, Floats]:
    f = np.repeat(np.arange(rows.start, rows.stop), count[rows])
    t = _ranges(start[rows], count[rows])
    (fx, fy, fw, fh), (tx, ty, tw, th) = found.corners[f].T, truth.corners[t].T
    width = np.minimum(fx + fw, tx + tw) - np.maximum(fx, tx)
    height = np.minimum(fy + fh, ty + th) - np.maximum(fy, ty)
    meet = (width > 0) & (height > 0)
    shared = np.where(meet, width * height, 0.0)
    iou = np.divide(shared, fw * fh + tw * th - shared, out=np.zeros(len(f)), where=meet)
    kept = meet & (iou >= least)
    return f[kept], t[kept], iou[kept]


def _blocks(count: Ints) -> Iterator[slice]:
    """Runs of rows with about `AT_ONCE` pairs each."""
    ends = np.cumsum(count)
    begin = 0
    while begin < len(count):
        done = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + AT_ONCE, "right")))
        yield slice(begin, end)
        begin = end


def _ranges(start: Ints, length: Ints) -> Ints:
    """start[0], start[0] + 1, … (length[0] of them), start[1], …"""
    return np.repeat(start - (np.cumsum(length) - length), length) + np.arange(int(length.sum()))


def _boxes(images: Sequence[Seen], classes: Sequence[str], side: Literal["truth", "found"]) -> Boxes:
    number = {name: i for i, name in enumerate(classes)}
    places: list[tuple[int, int, int]] = []
    values: list[tuple[float, float, float, float, float]] = []
    for i, one in enumerate(images):
        known = number if one.about is None else {name: number[name] for name in one.about if name in number}
        width, height = one.width, one.height
        for at, box in enumerate(one.truth if side == "truth" else one.found):
            if box.label not in known:
                continue
            sure = 1.0 if side == "truth" else box.confidence
            if sure is None:
                raise BadInput(f"A box found in {one.id} has no confidence.", "Give each found box its confidence.")
            places.append((i, known[box.label], at))
            values.append((box.x * width, box.y * height, box.width * width, box.height * height, sure))
    image, label, row = np.array(places, np.int64).reshape(-1, 3).T
    table = np.array(values, np.float64).reshape(-1, 5)
    broken = ~np.isfinite(table).all(axis=1)
    if broken.any():
        name = images[int(image[broken][0])].id
        raise BadInput(f"A box in {name} is not made of finite numbers.", "Remove it, or correct it.")
    kept = np.lexsort((row, -table[:, 4], label, image))  # all true boxes are equally sure: in the order given
    if side == "found":
        cell = (image * len(classes) + label)[kept]
        kept = kept[np.arange(len(cell)) - np.searchsorted(cell, cell, "left") < MOST]
    return Boxes(image[kept], label[kept], row[kept], table[kept, :4], table[kept, 4])


def _checked(images: Sequence[Seen], classes: Sequence[str]) -> tuple[Seen, ...]:
    ordered = tuple(sorted(images, key=lambda one: one.id))
    if not ordered:
        raise BadInput("There is no test image to evaluate on.", "Collect and label more images.")
    if not classes or len(set(classes)) < len(classes):
        raise BadInput(f"The classes are {list(classes)}.", "Name at least one class, and each once.")
    for one, after in pairwise(ordered):
        if one.id == after.id:
            raise BadInput(f"Image {one.id} is given twice.", "Give each test image once.")
    for one in ordered:
        if one.width < 1 or one.height < 1:
            raise BadInput(f"Image {one.id} has {one.width} x {one.height} pixels.", "Give its size in pixels.")
    return ordered

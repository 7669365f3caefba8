"""How a detector errs, in six ways, after TIDE (Bolya et al. 2020, arXiv:2008.08115, section 2.2).

A found box that is not right is, by the true boxes that it overlaps (IoU), the first of these that it fits:
- *localisation*: at least 0.1 and less than 0.5 of one of its class: there, but badly drawn;
- *confusion*: at least 0.5 of one of another class;
- *duplicate*: at least 0.5 of one of its class, which a surer box has taken;
- *both*: at least 0.1 of one of another class: badly drawn, and of the wrong class;
- *ghost*: nothing is there.
A true box that no found box takes is *missed*, unless a confusion or a localisation is about it: then it is that.

Counts and cases are of the boxes at or above the operating confidence. The *cost* of a kind is what mAP50 would gain
if all errors of that kind, of all boxes found, were mended (TIDE, section 2.3): a confusion or a localisation becomes
right where it is the surest of both about a true box that is not taken, and vanishes otherwise, as the other found
boxes do; a missed box is no longer asked for. Costs do not add up: one error may hide another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from everlearn.evaluate.detection.matching import IOUS, Matched, overlapping
from everlearn.evaluate.detection.precision import mean_over_classes, ranking, truths
from everlearn.evaluate.figures import Result
from everlearn.evaluate.metrics import Confusion, confusion

if TYPE_CHECKING:
    from everlearn.evaluate.detection.matching import Bools
    from everlearn.evaluate.figures import Floats, Ints
    from everlearn.types import Box, SampleId

Kind = Literal["missed", "ghost", "duplicate", "localisation", "confusion", "both"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MISSED, GHOST, DUPLICATE, LOCALISATION, CONFUSION, BOTH = range(len(KINDS))
NONE = -1
"""The kind of a found box that is right."""
NEAR = 0.1
"""Overlap below which two boxes have nothing to do with each other."""
WORST = 12
"""Cases kept of each kind."""


@dataclass(frozen=True, slots=True)
class Case(Result):
    """One error. found: the wrong box, None where one was missed; truth: the true box it is about, None for a ghost;
    iou: their overlap."""

    id: SampleId
    kind: Kind
    found: Box | None
    truth: Box | None
    iou: float | None

    @property
    def key(self) -> str:
        """A name of its own among the cases of one evaluation, for its picture."""
        box = self.found or self.truth
        return f"{self.id}/{self.kind}" + (f"/{box.label}/{box.x:.7f}/{box.y:.7f}/{box.width:.7f}" if box else "")


@dataclass(frozen=True, slots=True)
class ClassErrors(Result):
    """How many errors of each kind: missed of this class; found of this class but wrong."""

    name: str
    counts: Mapping[Kind, int]


@dataclass(frozen=True, slots=True)
class Errors(Result):
    """counts: of all classes; cost: of mAP50 (0-1), None without a true box; worst: of each kind, the surest of the
    wrong boxes and the largest of the missed ones."""

    counts: Mapping[Kind, int]
    cost: Mapping[Kind, float | None]
    classes: tuple[ClassErrors, ...]
    worst: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """kind: (N,) of each found box, NONE where it is right. about: (N,) the true box that it is about, -1 for none;
    iou: (N,) how much it overlaps that."""

    kind: Ints
    about: Ints
    iou: Floats


def errors(matched: Matched, confidence: Floats, worst: int = WORST) -> tuple[Errors, Confusion]:
    """The errors, and the confusion matrix with a class "" for the background. confidence: (C,) operating."""
    judged = judge(matched)
    used = matched.found.confidence >= confidence[matched.found.label]
    missed = missing(matched, judged, used)
    wrong = used & (judged.kind != NONE)
    table = np.zeros((len(KINDS), len(matched.classes)), np.int64)
    np.add.at(table, (judged.kind[wrong], matched.found.label[wrong]), 1)
    np.add.at(table[MISSED], matched.truth.label[missed], 1)
    found = Errors(
        counts={kind: int(row.sum()) for kind, row in zip(KINDS, table, strict=True)},
        cost=dict(zip(KINDS, _costs(matched, judged), strict=True)),
        classes=tuple(
            ClassErrors(name, dict(zip(KINDS, column, strict=True)))
            for name, column in zip(matched.classes, table.T.tolist(), strict=True)
        ),
        worst=_worst(matched, judged, wrong, missed, worst),
    )
    return found, _confused(matched, judged, used)


def judge(matched: Matched) -> Judged:
    """The kind of each found box."""
    found, truth, taken = matched.found, matched.truth, matched.taken[0]
    pairs = overlapping(found, truth, found.image, truth.image, NEAR)
    alike = found.label[pairs.found] == truth.label[pairs.truth]
    own, own_iou = _nearest(pairs.found[alike], pairs.truth[alike], pairs.iou[alike], len(found))
    other, other_iou = _nearest(pairs.found[~alike], pairs.truth[~alike], pairs.iou[~alike], len(found))
    badly = (own_iou >= NEAR) & (own_iou < IOUS[0])
    rules = [taken >= 0, badly, other_iou >= IOUS[0], own_iou >= IOUS[0], other_iou >= NEAR]
    kind = np.select(rules, [NONE, LOCALISATION, CONFUSION, DUPLICATE, BOTH], GHOST)
    of_own = (kind == DUPLICATE) | (kind == LOCALISATION) | (kind == NONE)
    about = np.where(kind == GHOST, -1, np.where(of_own, own, other))
    return Judged(kind, np.where(kind == NONE, taken, about), np.where(of_own, own_iou, other_iou))


def missing(matched: Matched, judged: Judged, used: Bools) -> Bools:
    """(G,) the true boxes that no used box takes, or mistakes for something else, or draws badly."""
    answered = used & np.isin(judged.kind, (NONE, CONFUSION, LOCALISATION))
    missed = np.ones(len(matched.truth), bool)
    missed[judged.about[answered]] = False
    return missed


def _nearest(rows: Ints, truth: Ints, iou: Floats, count: int) -> tuple[Ints, Floats]:
    """Of each found box the true one it overlaps most, of equal ones the last; -1 and 0 for none. -> (N,), (N,)"""
    best, most = np.full(count, -1), np.zeros(count)
    order = np.lexsort((truth, iou, rows))
    best[rows[order]], most[rows[order]] = truth[order], iou[order]  # the last written stays
    return best, most


def _costs(matched: Matched, judged: Judged) -> list[float | None]:
    """mAP50 gained for each kind, were it mended."""
    if not len(matched.truth):
        return [None] * len(KINDS)
    found, taken = matched.found, matched.taken[0]
    everyone, right = np.ones(len(found), bool), taken >= 0
    now = _map50(matched, found.label, right, everyone)
    missed = missing(matched, judged, everyone)
    free = np.ones(len(matched.truth), bool)
    free[taken[right]] = False
    gains = {MISSED: _map50(matched, found.label, right, everyone, ~missed) - now}
    for kind in (GHOST, DUPLICATE, BOTH):
        gains[kind] = _map50(matched, found.label, right, judged.kind != kind) - now
    best = _surest(matched, judged, np.isin(judged.kind, (LOCALISATION, CONFUSION)), free)
    for kind in (LOCALISATION, CONFUSION):
        mended = best[judged.kind[best] == kind]
        label, kept, hit = found.label.copy(), judged.kind != kind, right.copy()
        label[mended] = matched.truth.label[judged.about[mended]]
        kept[mended] = hit[mended] = True
        gains[kind] = _map50(matched, label, hit, kept) - now
    return [gains[kind] for kind in range(len(KINDS))]


def _surest(matched: Matched, judged: Judged, among: Bools, free: Bools) -> Ints:
    """Of each true box that is free (G,), the surest found box, among (N,) some, that is about it."""
    rows = np.flatnonzero(among)
    rows = rows[np.lexsort((rows, -matched.found.confidence[rows]))]
    rows = rows[free[judged.about[rows]]]
    _, first = np.unique(judged.about[rows], return_index=True)
    return rows[first]


def _map50(matched: Matched, label: Ints, hit: Bools, kept: Bools, wanted: Bools | None = None) -> float:
    """mAP50, were these the found boxes: label, hit, kept (N,); wanted (G,) the true ones asked for."""
    total = truths(matched, wanted)
    rows = np.lexsort((np.arange(len(label)), -matched.found.confidence, label))
    rows = rows[kept[rows]]
    ends = np.searchsorted(label[rows], np.arange(1, len(matched.classes)))
    each = [
        ranking(hit[None, own], matched.found.image[own], total[number], len(matched.images))
        for number, own in enumerate(np.split(rows, ends))
    ]
    ones = np.ones((len(matched.images), 1))
    return float(mean_over_classes(np.array([one.average_precision(ones)[0, 0] for one in each])))


def _worst(matched: Matched, judged: Judged, wrong: Bools, missed: Bools, most: int) -> tuple[Case, ...]:
    found, truth = matched.found, matched.truth
    cases = []
    for number, kind in enumerate(KINDS):
        if number == MISSED:
            rows = np.flatnonzero(missed)
            first = rows[np.lexsort((rows, -truth.area[rows]))][:most]
            cases += [Case(_id(matched, truth.image[g]), kind, None, _true(matched, g), None) for g in first]
            continue
        rows = np.flatnonzero(wrong & (judged.kind == number))
        for f in rows[np.lexsort((rows, -found.confidence[rows]))][:most]:
            about = int(judged.about[f])
            seen = matched.images[found.image[f]]
            cases.append(
                Case(
                    seen.id,
                    kind,
                    seen.found[found.row[f]],
                    _true(matched, about) if about >= 0 else None,
                    float(judged.iou[f]) if about >= 0 else None,
                )
            )
    return tuple(cases)


def _id(matched: Matched, image: int) -> SampleId:
    return matched.images[image].id


def _true(matched: Matched, row: int) -> Box:
    return matched.images[matched.truth.image[row]].truth[matched.truth.row[row]]


def _confused(matched: Matched, judged: Judged, used: Bools) -> Confusion:
    """Each used box and each true box once: right ones, true boxes found as another class (the surest that is), and
    the rest, found or missed, against the background."""
    nothing = len(matched.classes)
    found, truth = matched.found, matched.truth
    said = np.full(len(truth), nothing)
    right = used & (judged.kind == NONE)
    said[judged.about[right]] = found.label[right]
    rows = _surest(matched, judged, used & (judged.kind == CONFUSION), said == nothing)
    said[judged.about[rows]] = found.label[rows]
    left = used & ~right
    left[rows] = False
    true = np.concatenate([truth.label, np.full(int(left.sum()), nothing)])
    return confusion(true, np.concatenate([said, found.label[left]]), [*matched.classes, ""])

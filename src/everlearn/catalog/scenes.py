"""Scenes: what is known of whole images where the task is `detect`, and what models propose for them.

A scene is kept by content, and its id is the label of every sample that shows it. So whatever holds for labels (who
said them, whose word holds, taking back, snapshots, digests, forgetting) holds for boxes too.

Coordinates are kept in fixed point, whole multiples of GRID of the image's side: what goes out in another format and
comes back is the same scene.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from everlearn.catalog import samples
from everlearn.catalog.tables import label_event, member, now, proposal, regression, sample, scene
from everlearn.errors import BadInput
from everlearn.naming import clean_label, coarse, is_scene, scene_label
from everlearn.types import Box, SampleId, Scene

STEPS = 10_000_000
GRID = 1 / STEPS
"""Share of a side: 0.0004 pixels of 4,000."""
MOST_BOXES = 1000
"""Of one image. More are a mistake, or an attack."""
SAME = 0.8
"""IoU from which on two data sets' boxes of one thing are one box: they differ by rounding to pixels or to digits."""
_DIGITS = 24


def canonical(given: Scene) -> Scene:
    """The scene as it is kept: clean class names, corners on the grid and inside the image, in one order, no box twice,
    no confidence. Raises BadInput for a box without area, outside of the image, or that is no number."""
    if len(given.boxes) > MOST_BOXES:
        raise BadInput(f"{len(given.boxes)} boxes on one image; at most {MOST_BOXES} are taken.", "Leave some out.")
    rows = sorted({_row(one) for one in given.boxes})
    about = None if given.about is None else tuple(sorted({coarse(clean_label(name)) for name in given.about}))
    if about is not None:  # what is there was looked for
        about = tuple(sorted({*about, *(coarse(row[0]) for row in rows)}))
    return Scene(tuple(_box(row) for row in rows), about)


def label_of(given: Scene) -> str:
    """The label of a sample that shows this scene, canonical or not. Raises BadInput."""
    kept = canonical(given)
    said = json.dumps([[_row(one) for one in kept.boxes], kept.about], ensure_ascii=False, separators=(",", ":"))
    return scene_label(hashlib.sha256(said.encode()).hexdigest()[:_DIGITS])


def keep(tx: Connection, given: Iterable[Scene]) -> list[str]:
    """Enter scenes that are not there yet; returns the label of each, in the order given. Raises BadInput."""
    kept = [canonical(one) for one in given]
    names = [label_of(one) for one in kept]
    there = _there(tx, names)
    new = {name: one for name, one in zip(names, kept, strict=True) if name not in there}
    if new:
        tx.execute(scene.insert(), [
            {"id": name, "boxes": [list(_row(box)) for box in one.boxes],
             "about": None if one.about is None else list(one.about)} for name, one in sorted(new.items())
        ])  # fmt: skip
    return names


def some(tx: Connection, names: Collection[str | None]) -> dict[str, Scene]:
    """The scenes of these labels; labels that are no scenes are left out."""
    wanted = [name for name in names if name is not None and is_scene(name)]
    return {
        row.id: Scene(tuple(_box(one) for one in row.boxes), None if row.about is None else tuple(row.about))
        for chunk in samples.chunks(wanted)
        for row in tx.execute(sa.select(scene).where(scene.c.id.in_(chunk)))
    }


def of(tx: Connection, ids: Collection[SampleId]) -> dict[SampleId, Scene]:
    """The scenes of these samples, as far as they are labelled."""
    said = {one.id: one.label for one in samples.some(tx, ids).values()}
    found = some(tx, list(said.values()))
    return {id: found[label] for id, label in said.items() if label in found}


def classes(tx: Connection, labels: Collection[str]) -> list[str]:
    """The classes that these labels name, sorted: those of their boxes where they are scenes."""
    plain = {label for label in labels if not is_scene(label)}
    return sorted(plain.union(*({box.label for box in one.boxes} for one in some(tx, labels).values())))


def box_counts(tx: Connection, images: Mapping[str, int]) -> dict[str, int]:
    """Class to its boxes, the most first. images: label to how many images have it; those that are no scenes have
    none."""
    counts: Counter[str] = Counter()
    for chunk in samples.chunks([label for label in images if is_scene(label)]):
        for label, one in some(tx, chunk).items():
            for box in one.boxes:
                counts[coarse(box.label)] += images[label]
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def shown(one: Scene) -> str:
    """A scene in words for people: `2 cat, dog`."""
    counts = Counter(box.label for box in one.boxes)
    return (
        ", ".join(name if number == 1 else f"{number} {name}" for name, number in sorted(counts.items())) or "nothing"
    )


def words(tx: Connection, labels: Collection[str | None]) -> dict[str, str]:
    """Label to how it is shown to people: scenes in words, others as they are."""
    plain = {label: label for label in labels if label is not None}
    return plain | {name: shown(one) for name, one in some(tx, labels).items()}


def naming(tx: Connection, label: str) -> list[str]:
    """The scenes in which a box of this label stands, with its parts (`person` names `person/courier` too)."""
    found = []
    for row in tx.execute(sa.select(scene.c.id, scene.c.boxes)):
        if any(one[0] == label or one[0].startswith(label + "/") for one in row.boxes):
            found.append(row.id)
    return found


def joined(given: Iterable[Scene]) -> Scene | None:
    """What several data sets say of one image together, in whatever order; None where two of them looked for the same
    class and found it in other places. Of classes that one alone looked for its word holds."""
    kept = [one for _, one in sorted({label_of(one): canonical(one) for one in given}.items())]
    classes = [{*(one.about or ()), *(coarse(box.label) for box in one.boxes)} for one in kept]
    boxes: list[Box] = []
    for name in sorted(set().union(*classes)):
        said = [
            [box for box in one.boxes if coarse(box.label) == name]
            for one, looked in zip(kept, classes, strict=True)
            if name in looked
        ]
        if not all(_agree(said[0], other) for other in said[1:]):
            return None
        boxes += said[0]
    silent = all(one.about is None for one in kept)
    return canonical(Scene(tuple(boxes), None if silent else tuple(set().union(*classes))))


def _agree(some: Sequence[Box], others: Sequence[Box]) -> bool:
    """Whether each box stands for one of the others: of its label, and as good as in its place."""
    left = list(others)
    for one in some:
        near = [(overlap(one, other), -at) for at, other in enumerate(left) if other.label == one.label]
        best, at = max(near, default=(0.0, 0))
        if best < SAME:
            return False
        del left[-at]
    return not left


def overlap(a: Box, b: Box) -> float:
    """Intersection over union, 0-1."""
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / (a.width * a.height + b.width * b.height - both)


def clear(tx: Connection) -> int:
    """Remove scenes that no word, sample, snapshot or reported mistake names any more; returns how many."""
    naming = (label_event.c.label, sample.c.label, member.c.label, regression.c.wrong, regression.c.right)
    used = [sa.select(column).where(column.is_not(None)) for column in naming]
    gone = scene.delete().where(*(scene.c.id.not_in(one) for one in used))
    return int(tx.execute(gone).rowcount)


# --- proposals ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Proposal:
    """What models would draw on an image that waits for a person. boxes: with confidence; by: the models."""

    boxes: tuple[Box, ...]
    by: str
    at: datetime | None = None


def propose(tx: Connection, proposals: Mapping[SampleId, Proposal]) -> None:
    """Keep the newest proposal for each of these samples; those that were answered go. Not with the answer itself: who
    takes it back is asked again, with what was proposed."""
    answered = sa.select(sample.c.id).where(sample.c.status.in_(("labelled", "learned")))
    tx.execute(proposal.delete().where(proposal.c.sample_id.in_(answered)))
    for chunk in samples.chunks(proposals):
        tx.execute(proposal.delete().where(proposal.c.sample_id.in_(chunk)))
    rows = [
        {"sample_id": id, "boxes": rows_of(one.boxes), "by": one.by,
         "at": one.at or now()} for id, one in sorted(proposals.items())
    ]  # fmt: skip
    if rows:
        tx.execute(proposal.insert(), rows)


def proposals(tx: Connection, ids: Collection[SampleId]) -> dict[SampleId, Proposal]:
    """What is proposed for these samples."""
    return {
        row.sample_id: Proposal(tuple(_box(one) for one in row.boxes), row.by, row.at)
        for chunk in samples.chunks(ids)
        for row in tx.execute(sa.select(proposal).where(proposal.c.sample_id.in_(chunk)))
    }


def settle_proposals(tx: Connection, ids: Collection[SampleId]) -> None:
    """Remove proposals that were answered."""
    for chunk in samples.chunks(ids):
        tx.execute(proposal.delete().where(proposal.c.sample_id.in_(chunk)))


def rows_of(boxes: Sequence[Box]) -> list[list[Any]]:
    """Boxes with confidence as the catalog keeps them. Raises BadInput as `canonical`."""
    return [_proposed(box) for box in boxes[:MOST_BOXES]]


def boxes_of(rows: Sequence[Sequence[Any]]) -> tuple[Box, ...]:
    """What `rows_of` was given."""
    return tuple(_box(row) for row in rows)


# --- rows ---------------------------------------------------------------------------------------------------------

Row = tuple[str, int, int, int, int]
"""label, x, y, width, height in steps."""


def _row(one: Box) -> Row:
    corners = (one.x, one.y, one.x + one.width, one.y + one.height)
    if not all(math.isfinite(value) for value in corners):
        raise BadInput(f"A box of {one.label} has a corner that is no number.", "Draw it again.")
    left, top, right, bottom = (round(value * STEPS) for value in corners)
    if left < 0 or top < 0 or right > STEPS or bottom > STEPS:
        raise BadInput(f"A box of {one.label} lies outside of the image: {_shown(corners)}.", "Cut it at the edge.")
    if right <= left or bottom <= top:
        raise BadInput(f"A box of {one.label} has no area: {_shown(corners)}.", "Draw it again.")
    return clean_label(one.label), left, top, right - left, bottom - top


def _shown(corners: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in corners)


def _proposed(one: Box) -> list[Any]:
    return [*_row(replace(one, confidence=None)), one.confidence]


def _box(row: Sequence[Any]) -> Box:
    label, *numbers = row[:5]
    x, y, width, height = (number / STEPS for number in numbers)
    return Box(label, x, y, width, height, row[5] if len(row) > 5 else None)


def _there(tx: Connection, names: Sequence[str]) -> set[str]:
    return {
        row.id
        for chunk in samples.chunks(names)
        for row in tx.execute(sa.select(scene.c.id).where(scene.c.id.in_(chunk)))
    }

"""The scenes of a snapshot, divided into sides, with what each of them is known to be complete for."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from everlearn.catalog import samples, scenes, snapshots
from everlearn.catalog.tables import member, sample
from everlearn.errors import Corrupt, TooFew
from everlearn.naming import coarse
from everlearn.types import SPLITS, Box, Scene

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from everlearn.types import Member, SampleId, Snapshot, Split
    from everlearn.workspace import Workspace

BATCH = 1000


@dataclass(frozen=True, slots=True)
class Labelled:
    """A sample with its scene. about: the classes that it is complete for, which were said or follow from its source;
    bytes: of its file."""

    member: Member
    scene: Scene
    bytes: int
    camera: str
    group: str

    @property
    def id(self) -> SampleId:
        return self.member.id

    @property
    def about(self) -> frozenset[str]:
        return frozenset(self.scene.about or ())

    @property
    def coarse(self) -> tuple[Box, ...]:
        """Its boxes as a detector learns them: without the second part of their labels."""
        return tuple(replace(box, label=coarse(box.label)) for box in self.scene.boxes)


@dataclass(frozen=True, slots=True)
class Sides:
    """What a snapshot holds. classes: the detector's, sorted: those of boxes on the learning side."""

    train: tuple[Labelled, ...]
    validation: tuple[Labelled, ...]
    test: tuple[Labelled, ...]
    classes: tuple[str, ...]

    @property
    def learned(self) -> tuple[Labelled, ...]:
        return (*self.train, *self.validation)

    def digest(self) -> str:
        """SHA-256 of what a detector learns of it."""
        return digest_of(self.learned)


def digest_of(labelled: Iterable[Labelled]) -> str:
    """SHA-256 of what a detector learns of these: ids, sides, boxes without the second part of their labels, and what
    was looked for."""
    total = hashlib.sha256(b"everlearn scenes 1\n")
    for one in sorted(labelled, key=lambda one: one.id):
        name = scenes.label_of(Scene(one.coarse, one.scene.about))
        total.update(f"{one.id}\t{one.member.split}\t{name}\n".encode())
    return total.hexdigest()


def of(workspace: Workspace, snapshot: Snapshot) -> Sides:
    """The sides of a snapshot. Where no group fell on the validation side, every fifth of the learning side (its first
    fold) stands in for it: an epoch must be chosen on images that it was not trained on. Augmented copies stay out: a
    training makes its own. Raises TooFew where a side that is needed has nothing, or there is no box."""
    with workspace.catalog.read() as tx:
        members = [one for one in snapshots.members(tx, snapshot.number) if one.parent is None]
    found = labelled(workspace, members)
    sides: dict[Split, list[Labelled]] = {side: [one for one in found if one.member.split == side] for side in SPLITS}
    chosen_by = {one.id for one in stand_in([one.member for one in found])}
    if chosen_by:
        sides["validation"] = [one for one in sides["train"] if one.id in chosen_by]
        sides["train"] = [one for one in sides["train"] if one.id not in chosen_by]
    if not sides["train"] or not sides["validation"]:
        counts = f"{len(sides['train'])} of {len(found)} labelled images to train on, {len(sides['validation'])} to "
        raise TooFew(
            f"There are {counts}choose the best epoch by.", "Collect and label more groups of images; one camera's of "
            "five minutes are one group (dataset.group_minutes)."
        )  # fmt: skip
    learned = [*sides["train"], *sides["validation"]]
    classes = tuple(sorted({box.label for one in learned for box in one.coarse}))
    if not classes:
        raise TooFew(f"There is no box on {len(learned)} labelled images.", "Draw some: everlearn review --browser")
    return Sides(tuple(sides["train"]), tuple(sides["validation"]), tuple(sides["test"]), classes)


def stand_in(members: Sequence[Member]) -> list[Member]:
    """Of a snapshot's members those of the learning side that stand in for a validation side: its first fold, where no
    group fell on that side; else none."""
    if any(one.split == "validation" for one in members):
        return []
    return [one for one in members if one.split == "train" and one.fold == 0]


def labelled(workspace: Workspace, members: Sequence[Member]) -> list[Labelled]:
    """These members with their scenes, in the order given. Where it was not said what was looked for, it is taken to be
    what occurs in what came from the same source, as the newest snapshot holds it."""
    with workspace.catalog.read() as tx:
        known = scenes.some(tx, {one.label for one in members})
        rows = samples.some(tx, [one.id for one in members])
        for one in members:
            if one.label not in known:
                raise Corrupt(f"The boxes of sample {one.id} are not in the catalog.", "Restore a copy of the catalog.")
        silent = {rows[one.id].source for one in members if known[one.label].about is None}
        occurring = _occurring(tx, silent)
    for one in members:  # of which some may not be in it yet
        if rows[one.id].source in occurring:
            occurring[rows[one.id].source].update(coarse(box.label) for box in known[one.label].boxes)
    found = []
    for one in members:
        row, scene = rows[one.id], known[one.label]
        if scene.about is None:
            scene = replace(scene, about=tuple(sorted(occurring[row.source])))
        found.append(Labelled(one, scene, row.bytes, row.camera, row.group_key))
    return found


def _occurring(tx: Connection, sources: Collection[str]) -> dict[str, set[str]]:
    """The classes of each of these sources in the newest snapshot, whatever side they are on: what an image is
    complete for must not depend on which others are looked at beside it."""
    found: dict[str, set[str]] = {source: set() for source in sources}
    newest = snapshots.latest(tx) if sources else None
    if newest is None:
        return found
    inside = sa.and_(
        member.c.added <= newest.number, sa.or_(member.c.removed.is_(None), member.c.removed > newest.number)
    )
    query = sa.select(sample.c.source, member.c.label).join(sample, sample.c.id == member.c.sample_id).distinct()
    for source in sorted(found):
        for part in tx.execute(query.where(inside, sample.c.source == source)).partitions(BATCH):
            told = scenes.some(tx, [row.label for row in part])
            found[source].update(coarse(box.label) for one in told.values() for box in one.boxes)
    return found

"""The images that thresholds are proved on: a fair sample of what comes, that no model has learned.

What people were asked about because a model was unsure is harder than what comes, and says nothing about the rest. So
only these count: images of the audit, which are drawn by hash; what came while every image went to people, as far as
they have answered all of it in the order of the draw; and images that files labelled, of cameras whose images are
labelled by themselves too. Of all of them only those stay whose whole group the models have neither learned nor been
chosen on: the test side, and what came after the newest of them was taught.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from everlearn.catalog import labels, samples, turns
from everlearn.catalog.tables import member, now, sample
from everlearn.label.thresholds import Reviewed, audited, draw
from everlearn.stages.detecting import sides
from everlearn.types import Member

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from everlearn.catalog.samples import Sample
    from everlearn.stages.detecting.proposing import Proposers
    from everlearn.types import Progress
    from everlearn.workspace import Workspace

MOST = 2000
"""Reviewed images that are looked at, drawn by hash."""
BATCH = 256
ASKED = "everything_asked"
"""The setting of the catalog that says up to when every image went to people, and whether that still goes on."""
_WHOLE = sa.and_(
    sample.c.kind == "image", sample.c.parent_id.is_(None), sample.c.refusal.is_(None), sample.c.quality.is_not(None)
)
_LABELLED = sa.and_(sample.c.label.is_not(None), sample.c.status.in_(("labelled", "learned")))


@dataclass(frozen=True, slots=True)
class Ground:
    """images: those that count; cameras: theirs."""

    images: list[Reviewed]
    cameras: frozenset[str]


def reviewed(workspace: Workspace, models: Proposers, progress: Progress) -> Ground:
    """The reviewed images, with what the models propose for them now."""
    chosen = _chosen(workspace, models)
    found = []
    for start in range(0, len(chosen), BATCH):
        part = chosen[start : start + BATCH]
        seen = models.weighed([one.id for one in part], progress)
        members = [Member(one.id, one.label or "", "test", 0, one.camera) for one in part]
        found += [
            Reviewed(one.group, seen[one.id], one.scene.boxes, one.about) for one in sides.labelled(workspace, members)
        ]
    return Ground(found, frozenset(one.camera for one in chosen))


def _chosen(workspace: Workspace, models: Proposers) -> list[Sample]:
    with workspace.catalog.read() as tx:
        candidates = heapq.nsmallest(MOST, _fair(tx, workspace.config.detect.audit), key=lambda one: draw(one.id))
        learned = _learned(tx, {one.group_key for one in candidates}, models)
    return sorted((one for one in candidates if one.group_key not in learned), key=lambda one: one.id)


def asked(workspace: Workspace, everything: bool) -> None:
    """Remember up to when every image went to people; for good, as soon as one need not."""
    with workspace.catalog.write() as tx:
        until, open_ = turns.setting_of(tx, ASKED, [None, True])
        if open_:
            turns.set_to(tx, ASKED, [now().isoformat() if everything else until, everything])


def _fair(tx: Connection, audit: float) -> Iterator[Sample]:
    """Labelled images that are drawn from what comes, whatever is on them."""
    by_person = sample.c.label_by == "person"
    until, early = _early(tx, audit)
    for batch in samples.batches(tx, sa.and_(_WHOLE, _LABELLED, by_person)):
        for one in batch:
            if audited(one.id, early if until is not None and one.collected_at <= until else audit):
                yield one
    by_files = sample.c.label_by.in_(labels.FILES)
    ours = sa.or_(sample.c.label.is_(None), sa.not_(by_files))
    cameras = set(tx.execute(sa.select(sample.c.camera).where(_WHOLE, ours).distinct()).scalars())
    for batch in samples.batches(tx, sa.and_(_WHOLE, _LABELLED, by_files)):
        yield from (one for one in batch if one.camera in cameras)


def _early(tx: Connection, audit: float) -> tuple[datetime | None, float]:
    """Up to when every image went to people, and the share of those, by the draw, that they have answered without a
    gap: a gap may be what looked easy, but what stands before it is all there is."""
    until, _ = turns.setting_of(tx, ASKED, [None, True])
    if until is None:
        return None, audit
    end = datetime.fromisoformat(until)
    open_ = sa.or_(sample.c.label.is_(None), sample.c.label_by == "auto")
    gaps = tx.execute(sa.select(sample.c.id).where(_WHOLE, open_, sample.c.collected_at <= end)).scalars()
    return end, max(audit, min(map(draw, gaps), default=1.0))


def _learned(tx: Connection, groups: Collection[str], models: Proposers) -> set[str]:
    """Of these groups those of which a model has learned an image, or by which it was chosen."""
    taught = [one.version.snapshot for one in models.models if one.version and one.version.snapshot is not None]
    if not taught:
        return set()
    query = sa.select(sample.c.group_key).join(member, member.c.sample_id == sample.c.id).distinct()
    query = query.where(member.c.added <= max(taught), member.c.split != "test")
    return {
        row.group_key for chunk in samples.chunks(groups)
        for row in tx.execute(query.where(sample.c.group_key.in_(chunk)))
    }  # fmt: skip

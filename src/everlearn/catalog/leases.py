"""Leases: who is looking at an image of the queue, so that nobody else is given it.

A lease ends by itself, so one that a closed laptop left behind stops nobody for long. All of this is done in a write
transaction, of which a catalog has one at a time (`Database.write`): two reviewers who ask in the same moment are
answered one after the other, on SQLite and on PostgreSQL, from one process or from many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from everlearn.catalog import samples
from everlearn.catalog.samples import Sample
from everlearn.catalog.tables import lease, now, sample
from everlearn.types import SampleId

MINUTES = 5.0
"""How long a lease holds where nobody renews it. A page that is looked at renews it three times as often."""
MOST_SKIPPED = 400
"""Ids of one request that are left out; below the variables that one statement may have."""


@dataclass(frozen=True, slots=True)
class Lease:
    """until: UTC; from then on anybody may be given the image."""

    sample_id: SampleId
    who: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Counts:
    """queued: what waits, in all; mine and others: of these the images that somebody looks at now."""

    queued: int
    mine: int
    others: int


def take(
    tx: Connection, who: str, *, minutes: float = MINUTES, having: Collection[SampleId] = (),
    skipped: Collection[SampleId] = (),
) -> tuple[Sample, Lease] | None:  # fmt: skip
    """The next image for this person, leased from now on: one of their own leases first (a page that was loaded again
    gets its image back), else the most urgent that nobody looks at. None where nothing is left.

    having: what they are looking at already; skipped: what they would rather not be asked now.
    """
    moment = now()
    tx.execute(lease.delete().where(lease.c.until <= moment))
    left_out = sorted({*having, *list(skipped)[-MOST_SKIPPED:]})
    waiting = [sample.c.status == "queued", sample.c.kind == "image", sample.c.id.not_in(left_out)]
    looked_at = tx.execute(sa.select(lease.c.sample_id, lease.c.who)).all()
    mine = [row.sample_id for row in looked_at if row.who == who]
    order = sa.select(sample.c.id).where(*waiting).order_by(*samples.QUEUE).limit(1)
    found = tx.execute(order.where(sample.c.id.in_(mine))).scalar() if mine else None
    if found is None:
        free = sample.c.id.not_in(sa.select(lease.c.sample_id))
        found = tx.execute(order.where(free)).scalar()
    if found is None:
        return None
    return samples.some(tx, [found])[found], _set(tx, found, who, moment + timedelta(minutes=minutes))


def claim(tx: Connection, id: SampleId, who: str, *, minutes: float = MINUTES) -> Lease | None:
    """This very image for this person, as long as nobody else looks at it; None where somebody does."""
    there = held(tx, id)
    if there is not None and there.who != who:
        return None
    return _set(tx, id, who, now() + timedelta(minutes=minutes))


def held(tx: Connection, id: SampleId) -> Lease | None:
    """Who looks at this image now."""
    row = tx.execute(sa.select(lease).where(lease.c.sample_id == id, lease.c.until > now())).first()
    return Lease(row.sample_id, row.who, row.until) if row else None


def renew(tx: Connection, who: str, ids: Collection[SampleId], *, minutes: float = MINUTES) -> list[SampleId]:
    """Look on; returns the images that are still this person's. One whose lease ran out is theirs again where nobody
    has taken it, and it still waits."""
    return [
        id for id, one in sorted(samples.some(tx, ids).items())
        if one.status == "queued" and claim(tx, id, who, minutes=minutes)
    ]  # fmt: skip


def give_back(tx: Connection, who: str, ids: Collection[SampleId], *, seconds: float = 0) -> int:
    """These images are for anybody again, so many seconds from now; returns how many were this person's. With a few
    seconds a page that is only loaded again finds its image."""
    mine = sa.and_(lease.c.sample_id.in_(sorted(set(ids))), lease.c.who == who)
    if not seconds:
        return int(tx.execute(lease.delete().where(mine)).rowcount)
    soon = now() + timedelta(seconds=seconds)
    return int(tx.execute(lease.update().where(mine, lease.c.until > soon).values(until=soon)).rowcount)


def counts(tx: Connection, who: str) -> Counts:
    """How many images wait, and how many of them are looked at."""
    queued = sa.select(sa.func.count()).select_from(sample).where(sample.c.status == "queued")
    looked_at = tx.execute(sa.select(lease.c.sample_id, lease.c.who).where(lease.c.until > now())).all()
    there = samples.some(tx, [row.sample_id for row in looked_at])
    by = Counter(row.who for row in looked_at if there[row.sample_id].status == "queued")
    mine = by.pop(who, 0)
    return Counts(int(tx.execute(queued).scalar() or 0), mine, sum(by.values()))


def _set(tx: Connection, id: SampleId, who: str, until: datetime) -> Lease:
    tx.execute(lease.delete().where(lease.c.sample_id == id))
    tx.execute(lease.insert().values(sample_id=id, who=who, until=until))
    return Lease(id, who, until)

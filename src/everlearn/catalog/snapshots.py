"""Immutable versions of the data, kept as differences: a member row says from which snapshot to which it is in."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from everlearn.catalog import samples, scenes
from everlearn.catalog.tables import member, now, sample, snapshot
from everlearn.errors import Missing
from everlearn.naming import is_class
from everlearn.types import SPLITS, Member, SampleId, Snapshot


def digest(members: Iterable[Member]) -> str:
    """SHA-256 over the lines `id, label, split, fold` in order of id. `members` come in that order."""
    total = hashlib.sha256(b"everlearn snapshot 1\n")
    for one in members:
        total.update(f"{one.id}\t{one.label!r}\t{one.split}\t{one.fold}\n".encode())
    return total.hexdigest()


def members(tx: Connection, number: int, *, size: int = 2000) -> Iterator[Member]:
    """The members of a snapshot in order of id, as a stream."""
    inside = sa.and_(member.c.added <= number, sa.or_(member.c.removed.is_(None), member.c.removed > number))
    last = ""
    while True:
        query = (
            sa.select(member, sample.c.camera, sample.c.parent_id)
            .join(sample, sample.c.id == member.c.sample_id)
            .where(inside, member.c.sample_id > last)
            .order_by(member.c.sample_id)
            .limit(size)
        )
        rows = tx.execute(query).all()
        if not rows:
            return
        for row in rows:
            yield Member(row.sample_id, row.label, row.split, row.fold, row.camera, row.parent_id)
        last = rows[-1].sample_id


def latest(tx: Connection) -> Snapshot | None:
    """The newest snapshot."""
    row = tx.execute(sa.select(snapshot).order_by(snapshot.c.number.desc()).limit(1)).first()
    return _snapshot(row) if row else None


def get(tx: Connection, name: str | int) -> Snapshot:
    """By number, or by an unambiguous beginning of the digest: the newest of that digest. Raises Missing."""
    text = str(name).lower()
    by_number = text.isascii() and text.isdigit() and len(text) < 8
    wanted = snapshot.c.number == int(text) if by_number else snapshot.c.digest.startswith(text, autoescape=True)
    rows = tx.execute(sa.select(snapshot).where(wanted).order_by(snapshot.c.number.desc())).all() if text else []
    if len({row.digest for row in rows}) != 1:
        raise Missing(f"There is no one snapshot {name}.", "See: everlearn dataset list")
    return _snapshot(rows[0])


def every(tx: Connection) -> list[Snapshot]:
    """All snapshots, oldest first."""
    return [_snapshot(row) for row in tx.execute(sa.select(snapshot).order_by(snapshot.c.number))]


def build(tx: Connection, wanted: Iterable[Member], scores: Mapping[str, Any] | None = None) -> Snapshot:
    """The snapshot of exactly these members, given in order of id: the newest one where nothing changed."""
    goal = list(wanted)
    mark = digest(goal)
    newest = latest(tx)
    if newest is not None and newest.digest == mark and _whole(tx, newest.number):
        return newest
    number = newest.number + 1 if newest else 1
    there = {one.id: one for one in members(tx, newest.number)} if newest else {}
    same = {one.id for one in goal if _alike(there.get(one.id), one)}
    _remove(tx, [id for id in there if id not in same], number)
    new = [one for one in goal if one.id not in same]
    if new:
        tx.execute(
            member.insert(),
            [{"sample_id": o.id, "added": number, "label": o.label, "split": o.split, "fold": o.fold} for o in new],
        )
    values = {
        "number": number,
        "digest": mark,
        "created_at": now(),
        "samples": len(goal),
        "classes": scenes.classes(tx, {one.label for one in goal if is_class(one.label)}),
        "splits": {side: sum(one.split == side for one in goal) for side in SPLITS},
        "scores": dict(scores) if scores else None,
        "reduced": 0,
    }
    tx.execute(snapshot.insert().values(**values))
    return get(tx, number)


def mark_learned(tx: Connection, number: int) -> None:
    """The live memory now stands at this snapshot: its members are `learned`, and nothing else is; nor is one whose
    label a person has changed since."""
    inside = sa.select(member.c.sample_id).where(
        member.c.added <= number, sa.or_(member.c.removed.is_(None), member.c.removed > number),
        member.c.sample_id == sample.c.id, member.c.label == sample.c.label,
    ).correlate(sample)  # fmt: skip
    change = sample.update()
    tx.execute(change.where(sample.c.learned, sample.c.id.not_in(inside)).values(learned=False))
    tx.execute(change.where(sa.not_(sample.c.learned), sample.c.id.in_(inside)).values(learned=True))
    # of `samples.status_of` these are the two that turn on `learned`
    tx.execute(change.where(sample.c.status == "learned", sa.not_(sample.c.learned)).values(status="labelled"))
    tx.execute(change.where(sample.c.status == "labelled", sample.c.learned).values(status="learned"))


def forget(tx: Connection, ids: Collection[SampleId]) -> None:
    """Take samples out of every snapshot; the digests of those that held them stay as names only."""
    for chunk in samples.chunks(ids):
        spans = sa.select(member.c.added, member.c.removed, sa.func.count()).where(member.c.sample_id.in_(chunk))
        for added, removed, number in tx.execute(spans.group_by(member.c.added, member.c.removed)).all():
            held = sa.and_(snapshot.c.number >= added, sa.true() if removed is None else snapshot.c.number < removed)
            tx.execute(snapshot.update().where(held).values(reduced=snapshot.c.reduced + number))
        tx.execute(member.delete().where(member.c.sample_id.in_(chunk)))


def reduced(tx: Connection) -> dict[int, int]:
    """Snapshot to the number of its members that were erased since."""
    return {row.number: row.reduced for row in tx.execute(sa.select(snapshot.c.number, snapshot.c.reduced))}


def _alike(a: Member | None, b: Member) -> bool:
    return a is not None and (a.label, a.split, a.fold) == (b.label, b.split, b.fold)


def _remove(tx: Connection, ids: Collection[SampleId], number: int) -> None:
    for chunk in samples.chunks(ids):
        tx.execute(
            member.update().where(member.c.sample_id.in_(chunk), member.c.removed.is_(None)).values(removed=number)
        )


def _whole(tx: Connection, number: int) -> bool:
    """Whether nothing was erased from a snapshot."""
    return tx.execute(sa.select(snapshot.c.reduced).where(snapshot.c.number == number)).scalar() == 0


def _snapshot(row: Any) -> Snapshot:
    return Snapshot(row.number, row.digest, row.created_at, row.samples, tuple(row.classes), row.splits)

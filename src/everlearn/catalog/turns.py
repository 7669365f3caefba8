"""Turns of the wheel, what the catalog remembers of itself, and what must not come back."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from everlearn.catalog import samples
from everlearn.catalog.tables import now, setting, suppressed, turn
from everlearn.types import SampleId

FORGETTING = "forgetting"
"""The setting that names the versions that know what is being forgotten just now: nothing is learned from them."""


def begin(tx: Connection) -> int:
    """A new turn; returns its number."""
    done = tx.execute(turn.insert().values(started_at=now()))
    assert done.inserted_primary_key is not None
    return int(done.inserted_primary_key[0])


def end(tx: Connection, number: int, decision: str, summary: Mapping[str, Any]) -> None:
    tx.execute(
        turn.update().where(turn.c.number == number).values(ended_at=now(), decision=decision, summary=dict(summary))
    )


def every(tx: Connection) -> list[dict[str, Any]]:
    return [dict(row._mapping) for row in tx.execute(sa.select(turn).order_by(turn.c.number))]


def setting_of(tx: Connection, name: str, default: Any = None) -> Any:
    row = tx.execute(sa.select(setting.c.value).where(setting.c.name == name)).first()
    return row.value if row else default


def set_to(tx: Connection, name: str, value: Any) -> None:
    tx.execute(setting.delete().where(setting.c.name == name))
    tx.execute(setting.insert().values(name=name, value=value))


def suppress(tx: Connection, ids: Collection[SampleId]) -> None:
    """Forgotten content must not be collected again. Only keyed digests are kept: without the catalog's own key they
    tell nobody what was here."""
    key = _key(tx)
    marks = {_mark(key, id) for id in ids}
    there: set[str] = set()
    for chunk in samples.chunks(marks):
        there.update(r.mark for r in tx.execute(sa.select(suppressed.c.mark).where(suppressed.c.mark.in_(chunk))))
    if marks - there:
        tx.execute(suppressed.insert(), [{"mark": mark, "at": now()} for mark in sorted(marks - there)])


def are_suppressed(tx: Connection, ids: Collection[SampleId]) -> set[SampleId]:
    """Those of these ids that were forgotten."""
    if not tx.execute(sa.select(suppressed.c.mark).limit(1)).first():
        return set()
    key = _key(tx)
    marks = {_mark(key, id): id for id in ids}
    found: set[SampleId] = set()
    for chunk in samples.chunks(marks):
        rows = tx.execute(sa.select(suppressed.c.mark).where(suppressed.c.mark.in_(chunk)))
        found.update(marks[row.mark] for row in rows)
    return found


def _key(tx: Connection) -> bytes:
    key = setting_of(tx, "suppression_key")
    if key is None:
        key = secrets.token_hex(32)
        set_to(tx, "suppression_key", key)
    return bytes.fromhex(key)


def _mark(key: bytes, id: SampleId) -> str:
    return hmac.new(key, id.encode(), hashlib.sha256).hexdigest()

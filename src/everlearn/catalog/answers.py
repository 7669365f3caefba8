"""Recorded predictions, what people said of them, and the mistakes that every candidate must answer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from everlearn.catalog import samples
from everlearn.catalog.tables import answer, now, regression
from everlearn.errors import Missing
from everlearn.types import SampleId


def keep(tx: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Record answers: the columns of `answer` but `at` and `feedback`."""
    values = [{"at": now(), "feedback": None, **row} for row in rows]
    if values:
        tx.execute(answer.insert(), values)


def get(tx: Connection, id: str) -> dict[str, Any]:
    """Raises Missing."""
    row = tx.execute(sa.select(answer).where(answer.c.id == id)).first()
    if row is None:
        raise Missing(f"There is no recorded answer {id}.", "Record answers with: everlearn predict --record")
    return dict(row._mapping)


def change(tx: Connection, id: str, **values: Any) -> None:
    tx.execute(answer.update().where(answer.c.id == id).values(**values))


def recent(tx: Connection, limit: int, version: str | None = None) -> list[dict[str, Any]]:
    """The newest answers, newest first."""
    query = sa.select(answer).order_by(answer.c.at.desc(), answer.c.id).limit(limit)
    return [
        dict(r._mapping) for r in tx.execute(query if version is None else query.where(answer.c.version == version))
    ]


def of_content(tx: Connection, contents: Collection[SampleId]) -> list[dict[str, Any]]:
    """Answers given to these very images."""
    return [
        dict(row._mapping)
        for chunk in samples.chunks(contents)
        for row in tx.execute(sa.select(answer).where(answer.c.content.in_(chunk)))
    ]


def erase(tx: Connection, contents: Collection[SampleId]) -> None:
    for chunk in samples.chunks(contents):
        tx.execute(answer.delete().where(answer.c.content.in_(chunk)))


def report(tx: Connection, sample_id: SampleId, *, wrong: str | None, right: str | None, version: str) -> None:
    """Keep a reported mistake as a regression case; the newest report on a sample holds."""
    withdraw(tx, sample_id)
    tx.execute(regression.insert().values(sample_id=sample_id, wrong=wrong, right=right, version=version, at=now()))


def withdraw(tx: Connection, sample_id: SampleId) -> None:
    """Keep this sample no longer as a mistake."""
    tx.execute(regression.delete().where(regression.c.sample_id == sample_id))


def cases(tx: Connection) -> list[dict[str, Any]]:
    """All reported mistakes, oldest first."""
    return [
        dict(r._mapping) for r in tx.execute(sa.select(regression).order_by(regression.c.at, regression.c.sample_id))
    ]

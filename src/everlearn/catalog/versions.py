"""Models: versions, aliases, evaluations, deployments, and the history that is only ever added to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from everlearn.catalog.tables import alias, deployment, evaluation, history, now, version, who
from everlearn.errors import Missing

CHAMPION = "champion"
NEWEST = ("newest", "latest")


@dataclass(frozen=True, slots=True)
class Version:
    """One row of the table `version`."""

    name: str
    number: int
    parent: str | None
    snapshot: int | None
    learner: str
    backbone: str
    licence: str
    config: Mapping[str, Any]
    code_version: str
    memory_digest: str | None
    model_digest: str | None
    metrics: Mapping[str, Any] | None
    key: str
    created_at: datetime
    retired: bool
    tags: list[str]


def next_name(tx: Connection, *, major: bool) -> str:
    """v1.0, v1.1, …; another basis begins another major version."""
    row = tx.execute(sa.select(version.c.name).order_by(version.c.number.desc()).limit(1)).first()
    if row is None:
        return "v1.0"
    big, small = (int(part) for part in row.name[1:].split("."))
    return f"v{big + 1}.0" if major else f"v{big}.{small + 1}"


def add(tx: Connection, one: Mapping[str, Any]) -> Version:
    """Register a version: the columns of `version` but `number`, `created_at`, `retired` and `tags`."""
    number = int(tx.execute(sa.select(sa.func.coalesce(sa.func.max(version.c.number), 0))).scalar() or 0) + 1
    tx.execute(version.insert().values(**{"tags": [], "retired": False, "created_at": now(), **one, "number": number}))
    return get(tx, one["name"])


def get(tx: Connection, name: str | None = None) -> Version:
    """By version or alias (`newest` is one); without a name the champion, else the newest that is not retired. Raises
    Missing."""
    if name in (None, *NEWEST):
        found = (champion(tx) if name is None else None) or newest(tx)
        if found is None:
            raise Missing("There is no model yet.", "Teach one: everlearn run, or everlearn learn")
        return found
    target = tx.execute(sa.select(alias.c.version).where(alias.c.name == name)).scalar() or name
    if target[:1].isdigit():
        target = f"v{target}"
    row = tx.execute(sa.select(version).where(version.c.name == target)).first()
    if row is None:
        raise Missing(f"There is no model {name}.", "See: everlearn models")
    return Version(**row._mapping)


def champion(tx: Connection) -> Version | None:
    """The version in production."""
    name = tx.execute(sa.select(alias.c.version).where(alias.c.name == CHAMPION)).scalar()
    return get(tx, name) if name else None


def newest(tx: Connection) -> Version | None:
    row = tx.execute(
        sa.select(version).where(sa.not_(version.c.retired)).order_by(version.c.number.desc()).limit(1)
    ).first()
    return Version(**row._mapping) if row else None


def every(tx: Connection) -> list[Version]:
    """All versions, oldest first."""
    return [Version(**row._mapping) for row in tx.execute(sa.select(version).order_by(version.c.number))]


def change(tx: Connection, name: str, **values: Any) -> None:
    tx.execute(version.update().where(version.c.name == name).values(**values))


def point(tx: Connection, name: str, target: str) -> None:
    """Let an alias name a version."""
    tx.execute(alias.delete().where(alias.c.name == name))
    tx.execute(alias.insert().values(name=name, version=target))


def unpoint(tx: Connection, name: str) -> None:
    tx.execute(alias.delete().where(alias.c.name == name))


def aliases(tx: Connection) -> dict[str, list[str]]:
    """Version to the aliases that name it."""
    found: dict[str, list[str]] = {}
    for name, version_name in sorted(tuple(row) for row in tx.execute(sa.select(alias.c.name, alias.c.version))):
        found.setdefault(version_name, []).append(name)  # sorted here: databases sort text their own ways
    return found


def record(
    tx: Connection,
    action: str,
    name: str,
    reason: str,
    *,
    previous: str | None = None,
    forced: bool = False,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Add a line to the history."""
    tx.execute(
        history.insert().values(
            at=now(), action=action, version=name, previous=previous, reason=reason, forced=forced, who=who(),
            details=dict(details) if details else None,
        )
    )  # fmt: skip


def past(tx: Connection) -> list[dict[str, Any]]:
    """The whole history, oldest first."""
    return [dict(row._mapping) for row in tx.execute(sa.select(history).order_by(history.c.id))]


def in_production(tx: Connection, moment: datetime) -> dict[str, Any] | None:
    """The line of history that put the model in production which was there at this time (UTC where it has no zone)."""
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    acts = history.c.action.in_(("promoted", "rolled back", "withdrawn"))
    query = sa.select(history).where(acts, history.c.at <= moment).order_by(history.c.id.desc()).limit(1)
    row = tx.execute(query).first()
    return dict(row._mapping) if row and row.action != "withdrawn" else None


def evaluated(tx: Connection, name: str, result: Mapping[str, Any], **columns: Any) -> int:
    """Keep an evaluation; returns its id. Columns: snapshot, champion, report_key."""
    done = tx.execute(evaluation.insert().values(version=name, result=dict(result), at=now(), **columns))
    assert done.inserted_primary_key is not None
    return int(done.inserted_primary_key[0])


def evaluations(tx: Connection, name: str | None = None) -> list[dict[str, Any]]:
    """Evaluations of one version or of all, oldest first."""
    query = sa.select(evaluation).order_by(evaluation.c.id)
    rows = tx.execute(query if name is None else query.where(evaluation.c.version == name))
    return [dict(row._mapping) for row in rows]


def compared(tx: Connection) -> set[str]:
    """The versions that were ever held against a champion."""
    query = sa.select(evaluation.c.version).where(evaluation.c.champion.is_not(None)).distinct()
    return {row.version for row in tx.execute(query)}


def deployed(tx: Connection, name: str, path: str, evaluation_id: int | None) -> None:
    tx.execute(deployment.insert().values(at=now(), version=name, path=path, evaluation=evaluation_id))


def deployments(tx: Connection) -> list[dict[str, Any]]:
    return [dict(row._mapping) for row in tx.execute(sa.select(deployment).order_by(deployment.c.id))]

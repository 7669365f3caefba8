"""Runs: every training, search, fold and comparison, with its settings, its numbers step by step, and what it found.

A run may have a parent: the trials of a search, the folds of a cross-validation. What is kept here names no sample;
of classes, names stand in `config` and `result`, and in metrics behind a slash (`recall/CLASS`), where forgetting
finds them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from everlearn.catalog.tables import metric, now, run
from everlearn.errors import Missing

Status = Literal["running", "done", "failed", "interrupted", "pruned"]


@dataclass(frozen=True, slots=True)
class Run:
    """One row of the table `run`. number: counts all runs, oldest first; at, ended_at: UTC; ended_at: None while
    running."""

    name: str
    number: int
    kind: str
    parent: str | None
    at: datetime
    ended_at: datetime | None
    status: Status
    snapshot: int | None
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    version: str | None

    @property
    def seconds(self) -> float | None:
        """From begin to end; None while it runs."""
        return (self.ended_at - self.at).total_seconds() if self.ended_at else None


def begin(
    tx: Connection,
    kind: str,
    *,
    parent: str | None = None,
    snapshot: int | None = None,
    config: Mapping[str, Any] | None = None,
    version: str | None = None,
) -> str:
    """A new run; returns its name: `train-20261121-150301`, with `-2`, `-3` … where that second has one already.

    kind: train, tune, trial, crossval, fold, curve, compare, ensemble, distill ….
    """
    at = now()
    stem = f"{kind}-{at:%Y%m%d-%H%M%S}"
    taken = set(tx.execute(sa.select(run.c.name).where(run.c.name.startswith(stem, autoescape=True))).scalars())
    name, tries = stem, 1
    while name in taken:
        tries += 1
        name = f"{stem}-{tries}"
    number = int(tx.execute(sa.select(sa.func.coalesce(sa.func.max(run.c.number), 0))).scalar() or 0) + 1
    tx.execute(
        run.insert().values(
            name=name, number=number, kind=kind, parent=parent, at=at, status="running", snapshot=snapshot,
            config=dict(config or {}), result={}, version=version,
        )
    )  # fmt: skip
    return name


def note(
    tx: Connection,
    name: str,
    result: Mapping[str, Any] | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    snapshot: int | None = None,
    version: str | None = None,
) -> None:
    """More about a run: `result` and `config` are added to what they hold already. Raises Missing."""
    known = get(tx, name)
    values: dict[str, Any] = {}
    if result:
        values["result"] = {**known.result, **result}
    if config:
        values["config"] = {**known.config, **config}
    values |= {key: value for key, value in (("snapshot", snapshot), ("version", version)) if value is not None}
    if values:
        tx.execute(run.update().where(run.c.name == name).values(values))


def metrics(tx: Connection, name: str, step: int, values: Mapping[str, float]) -> None:
    """Numbers of one step. A step that is told again, as after a resumed kill, replaces what was told before."""
    if not values:
        return
    told = (metric.c.run == name, metric.c.step == step, metric.c.name.in_(list(values)))
    tx.execute(metric.delete().where(*told))
    rows = [
        # SQLite has no NaN, so no database is given one.
        {"run": name, "step": step, "name": key, "value": None if math.isnan(value) else float(value)}
        for key, value in values.items()
    ]
    tx.execute(metric.insert(), rows)


def end(
    tx: Connection,
    name: str,
    status: Status = "done",
    result: Mapping[str, Any] | None = None,
    *,
    version: str | None = None,
) -> None:
    """The run is over, however it went. Raises Missing."""
    note(tx, name, result, version=version)
    tx.execute(run.update().where(run.c.name == name).values(status=status, ended_at=now()))


def resume(tx: Connection, name: str) -> None:
    """A run that was interrupted, or killed, goes on under its own name. Raises Missing."""
    get(tx, name)
    tx.execute(run.update().where(run.c.name == name).values(status="running", ended_at=None))


def get(tx: Connection, name: str | None = None, *, kind: str | None = None) -> Run:
    """By name; without one the newest (of this kind). Raises Missing."""
    query = sa.select(run).order_by(run.c.number.desc()).limit(1)
    if name is not None:
        query = query.where(run.c.name == name)
    elif kind is not None:
        query = query.where(run.c.kind == kind)
    row = tx.execute(query).first()
    if row is None:
        told = f"There is no run {name}." if name else f"There is no run{f' of kind {kind}' if kind else ''} yet."
        raise Missing(told, "Train a network: everlearn train")
    return _run(row)


def every(tx: Connection, *, kind: str | None = None, parent: str | None = None) -> list[Run]:
    """All runs, of a kind or of a parent where that is asked for, oldest first."""
    query = sa.select(run).order_by(run.c.number)
    if kind is not None:
        query = query.where(run.c.kind == kind)
    if parent is not None:
        query = query.where(run.c.parent == parent)
    return [_run(row) for row in tx.execute(query)]


def series(tx: Connection, name: str) -> dict[str, list[tuple[int, float]]]:
    """Each metric's (step, value), in the order of steps. A value that was no number is NaN."""
    found: dict[str, list[tuple[int, float]]] = {}
    query = sa.select(metric.c.name, metric.c.step, metric.c.value).where(metric.c.run == name).order_by(metric.c.step)
    for row in tx.execute(query):
        found.setdefault(row.name, []).append((row.step, math.nan if row.value is None else row.value))
    return dict(sorted(found.items()))


def _run(row: Any) -> Run:
    return Run(**{**row._mapping, "config": row.config or {}, "result": row.result or {}})

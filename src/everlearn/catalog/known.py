"""The classes that a workspace knows: what a person is offered, and what they are taken to have looked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from everlearn.catalog import snapshots, versions
from everlearn.catalog.tables import proposal, sample, scene
from everlearn.naming import coarse, is_class, is_scene

PAGE = 1_000


def labels(tx: Connection) -> dict[str, int]:
    """Every label, and how many images (where labels are scenes: boxes) bear it, the most frequent first; 0 for a
    class that was only declared, proposed or learned."""
    query = sa.select(sample.c.label, sa.func.count().label("n")).where(sample.c.label.is_not(None))
    found: Counter[str] = Counter()
    scenes: dict[str, int] = {}
    for row in tx.execute(query.group_by(sample.c.label)):
        if is_scene(row.label):
            scenes[row.label] = row.n
        elif is_class(row.label):
            found[row.label] += row.n
    _from_scenes(tx, scenes, found)
    _from_proposals(tx, found)
    newest = versions.newest(tx)
    if newest is not None and newest.snapshot is not None:
        found.update(dict.fromkeys(snapshots.get(tx, str(newest.snapshot)).classes, 0))
    return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))


def classes(names: Iterable[str]) -> list[str]:
    """What a detector tells apart of these labels, sorted: who looks for boxes looks for all of these."""
    return sorted({coarse(name) for name in names})


def _from_scenes(tx: Connection, times: dict[str, int], found: Counter[str]) -> None:
    """times: how many images show a scene."""
    if not times:
        return
    for row in tx.execute(sa.select(scene).execution_options(yield_per=PAGE)):
        number = times.get(row.id)
        if number is None:
            continue
        for label, *_ in row.boxes:
            found[label] += number
        found.update(dict.fromkeys(row.about or (), 0))


def _from_proposals(tx: Connection, found: Counter[str]) -> None:
    for row in tx.execute(sa.select(proposal.c.boxes).execution_options(yield_per=PAGE)):
        found.update(dict.fromkeys((label for label, *_ in row.boxes), 0))

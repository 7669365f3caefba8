"""What else tells of forgotten samples: reports with their pictures, words kept about turns and models, logs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from everlearn.catalog import samples, scenes
from everlearn.catalog.samples import id_of
from everlearn.catalog.tables import (
    evaluation,
    history,
    label_event,
    member,
    metric,
    run,
    sample,
    setting,
    snapshot,
    turn,
    version,
)
from everlearn.track import files_of
from everlearn.workspace import PRIVATE, write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import Connection

    from everlearn.types import SampleId
    from everlearn.workspace import Workspace

FOUND = "found"
"""Where `doctor` puts files that no row names and whose content is nowhere else: nothing is thrown away."""
GONE = "(forgotten)"
LOGS = "training_logs"
_DROP = object()


def last_evaluation(tx: Connection) -> int:
    """The newest evaluation's number; 0 where there is none."""
    return int(tx.execute(sa.select(sa.func.coalesce(sa.func.max(evaluation.c.id), 0))).scalar() or 0)


def reports(tx: Connection, ids: Collection[SampleId], knowing: Collection[str], last: int) -> list[str]:
    """Give up the reports that may show these samples, and return their files: those of versions that knew them, and
    all up to evaluation `last` that were written since the first of them came in."""
    came = [one.collected_at for one in samples.some(tx, ids).values()]
    found = []
    for row in tx.execute(sa.select(evaluation).where(evaluation.c.report_key.is_not(None))).all():
        if row.version in knowing or (came and row.id <= last and row.at >= min(came)):
            result = {**row.result, "report": None}
            tx.execute(evaluation.update().where(evaluation.c.id == row.id).values(report_key=None, result=result))
            found.append(row.report_key)
    # made again on the same day, a report has the same name
    kept = {row.report_key for row in tx.execute(sa.select(evaluation.c.report_key))}
    stems = [key.removesuffix(".html") for key in found if key not in kept]
    return [stem + ending for stem in stems for ending in (".html", ".ko.html", ".json")]


def trainings(
    tx: Connection, ids: Collection[SampleId], knowing: Collection[str] = ()
) -> tuple[list[str], list[str]]:  # fmt: skip
    """Folders of the workspace with what was made of these samples by runs (networks trained on them, plots that show
    them, copies in trackers), and the versions that know them, `knowing` among them.

    A run knew them where its snapshot held them, or where one above it did, the one whose weights it began with, or a
    model that taught it; of a run without a snapshot that is taken for granted once the first of them had come in.
    """
    came = [one.collected_at for one in samples.some(tx, ids).values()]
    came_of: dict[str, set[str]] = {}  # a run's versions: one that keeps its detector is another one
    for name, metrics in tx.execute(sa.select(version.c.name, version.c.metrics)):
        came_of.setdefault(str((metrics or {}).get("run")), set()).add(name)
    held: set[int] = set()
    for chunk in samples.chunks(ids):
        there = sa.and_(
            member.c.added <= run.c.snapshot, sa.or_(member.c.removed.is_(None), member.c.removed > run.c.snapshot)
        )
        query = sa.select(run.c.snapshot).join(member, there).where(member.c.sample_id.in_(chunk)).distinct()
        held |= set(tx.execute(query).scalars())
    knew: set[str] = set(knowing)  # runs and versions
    folders = []
    for row in tx.execute(sa.select(run).order_by(run.c.number)):  # a parent comes before its children
        unsure = row.snapshot is None and row.parent is None and bool(came) and row.at >= min(came)
        models = [row.config.get("from"), *(row.config.get("names") or ())]
        above = {row.parent, *(str(name or "").partition("/")[0] for name in models)}
        if row.snapshot in held or above & knew or unsure:
            knew |= {row.name, *came_of.get(row.name, ())} | ({row.version} if row.version else set())
            folders += files_of(row.name, row.result or {})
    names = set(tx.execute(sa.select(version.c.name)).scalars())
    return folders, sorted(knew & names)


def words(tx: Connection, ids: Collection[SampleId]) -> None:
    """Take ids, and names of classes that nothing has any more, out of what is kept in words. Rows go first."""
    names = _vanished(tx)
    for row in tx.execute(sa.select(snapshot).where(snapshot.c.reduced > 0)).all():
        there = sa.select(member.c.label).where(
            member.c.added <= row.number, sa.or_(member.c.removed.is_(None), member.c.removed > row.number)
        )
        classes = scenes.classes(tx, set(tx.execute(there.distinct()).scalars()))
        tx.execute(snapshot.update().where(snapshot.c.number == row.number).values(classes=classes))
    for table, key, columns in (
        (turn, turn.c.number, ("summary",)),
        (evaluation, evaluation.c.id, ("result",)),
        (snapshot, snapshot.c.number, ("scores",)),
        (setting, setting.c.name, ("value",)),
        (history, history.c.id, ("reason", "details")),
        (run, run.c.name, ("config", "result")),
    ):
        for row in tx.execute(sa.select(key.label("at"), *(table.c[name] for name in columns))).all():
            old = {name: getattr(row, name) for name in columns}
            new = {name: scrubbed(value, set(ids), names) for name, value in old.items()}
            if new != old:
                tx.execute(table.update().where(key == row.at).values(new))
    for name in tx.execute(sa.select(metric.c.name).where(metric.c.name.contains("/")).distinct()).scalars().all():
        if names.intersection(name.split("/")[1:]):  # recall/CLASS
            tx.execute(metric.delete().where(metric.c.name == name))


def scrubbed(value: Any, ids: Collection[str], names: Collection[str]) -> Any:
    """A JSON value without these ids and names: gone from lists and keys, `(forgotten)` inside texts."""
    found = _scrubbed(value, ids, names)
    return GONE if found is _DROP else found


def _scrubbed(value: Any, ids: Collection[str], names: Collection[str]) -> Any:
    if isinstance(value, dict):
        pairs = {key: _scrubbed(one, ids, names) for key, one in value.items() if key not in ids and key not in names}
        return {key: GONE if one is _DROP else one for key, one in pairs.items()}
    if isinstance(value, list):
        return [one for one in (_scrubbed(one, ids, names) for one in value) if one is not _DROP]
    if not isinstance(value, str):
        return value
    if value in ids or value in names:
        return _DROP
    for id in re.findall(r"[0-9a-f]{32}", value):
        value = value.replace(id, GONE) if id in ids else value
    for name in names:
        if name in value and not name.isdecimal():  # a number in a text means something else
            value = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", GONE, value)
    return value


def _vanished(tx: Connection) -> set[str]:
    """Classes of reduced snapshots that no sample has or had."""
    told = {name for classes in tx.execute(sa.select(snapshot.c.classes).where(snapshot.c.reduced > 0)).scalars()
            for name in classes}  # fmt: skip
    for column in (sample.c.label, label_event.c.label, member.c.label):
        said = sa.select(column).where(column.is_not(None)).distinct()
        told -= set(scenes.classes(tx, set(tx.execute(said).scalars())))
    return told


def files(workspace: Workspace, ids: Collection[SampleId]) -> None:
    """Remove these samples from what `doctor` has set aside, and their ids from the logs."""
    for path in _files(workspace.root / PRIVATE / FOUND):
        if id_of(path.read_bytes()) in ids:
            path.unlink()
    for path in _files(workspace.root / LOGS):
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        known = set(ids).intersection(re.findall(r"[0-9a-f]{32}", text))
        for id in known:
            text = text.replace(id, GONE)
        if known:
            write_whole(path, text.encode("utf-8", "surrogateescape"))


def _files(folder: Path) -> Iterator[Path]:
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file())

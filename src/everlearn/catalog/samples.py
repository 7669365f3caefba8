"""Samples: what has come in, where its file lies, what was measured of it, and how it stands."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from everlearn.catalog.tables import answer, sample, setting, sighting, suppressed
from everlearn.errors import BadInput, Missing
from everlearn.types import STATUSES, SampleId, Status

BATCH = 500
"""Rows a statement; below the 999 variables of old SQLite builds."""

Blob = bytes
NEAR_DUPLICATE = "near_duplicate"


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of the table `sample`; the columns are explained there."""

    id: SampleId
    kind: Literal["image", "row"]
    key: str
    bytes: int
    source: str
    captured_at: datetime | None
    time_from: str | None
    camera: str
    group_key: str
    collected_at: datetime
    parent_id: SampleId | None = None
    width: int | None = None
    height: int | None = None
    quality: float | None = None
    measured: Mapping[str, Any] | None = None
    hash: Blob | None = None
    thumbnail: Blob | None = None
    descriptor: Blob | None = None
    refusal: str | None = None
    refusal_value: float | None = None
    refusal_limit: float | None = None
    twin_of: SampleId | None = None
    released: bool = False
    label: str | None = None
    label_by: str | None = None
    queued: bool = False
    queue_reason: str | None = None
    urgency: float = 0.0
    suspect: str | None = None
    learned: bool = False
    status: Status = "new"

    @property
    def time(self) -> datetime:
        """The capture time, else the time it came in."""
        return self.captured_at or self.collected_at


def id_of(data: bytes) -> SampleId:
    """The identity of content: the same bytes are the same sample."""
    return hashlib.sha256(data).hexdigest()[:32]


_NAMES = [field.name for field in dataclasses.fields(Sample)]
_COLUMNS = [sample.c[name] for name in _NAMES]
LIGHT = {"hash", "thumbnail", "descriptor", "measured"}
_LIGHT_COLUMNS = [column for column in _COLUMNS if column.name not in LIGHT]


def status_of(row: Mapping[str, Any] | Any) -> Status:
    """The one place that decides how a sample stands."""
    get = row.get if isinstance(row, Mapping) else lambda name: getattr(row, name)
    if get("refusal") is not None:
        return "quarantined"
    if get("quality") is None:
        return "new"
    if get("queued"):
        return "queued"
    if get("label") is None:
        return "validated"
    return "learned" if get("learned") else "labelled"


def add(tx: Connection, rows: Iterable[Sample]) -> None:
    """Insert samples that are not there yet; what was augmented comes after what it was augmented from."""
    values = [{name: getattr(row, name) for name in _NAMES} | {"folded": row.key.casefold()} for row in rows]
    values.sort(key=lambda row: row["parent_id"] is not None)
    if values:
        tx.execute(sample.insert(), values)


def get(tx: Connection, id: str) -> Sample:
    """By id or by an unambiguous beginning of it. Raises Missing, or BadInput where several match."""
    if not id or any(c not in "0123456789abcdef" for c in id.lower()):
        raise BadInput(f"{id!r} is not a sample id.", "An id is hexadecimal; see: everlearn data")
    wanted = sa.select(*_COLUMNS).where(sample.c.id >= id.lower(), sample.c.id < id.lower() + "g").limit(2)
    found = tx.execute(wanted).all()
    if not found:
        raise Missing(f"There is no sample {id}.", "See: everlearn data")
    if len(found) > 1:
        raise BadInput(f"Several samples begin with {id}.", "Give more of the id.")
    return Sample(**found[0]._mapping)


def known(tx: Connection, ids: Collection[SampleId]) -> set[SampleId]:
    """Which of these ids are in the catalog."""
    return {row.id for chunk in chunks(ids) for row in tx.execute(sa.select(sample.c.id).where(sample.c.id.in_(chunk)))}


def keys(tx: Connection, wanted: Collection[str]) -> set[str]:
    """Which of these files belong to a sample, or to a recorded answer."""
    found: set[str] = set()
    for chunk in chunks(wanted):
        found.update(tx.execute(sa.select(sample.c.key).where(sample.c.key.in_(chunk))).scalars())
        found.update(row.key for row in tx.execute(sa.select(answer.c.key).where(answer.c.key.in_(chunk))))
    return found


def copies(tx: Connection, ids: Collection[SampleId]) -> set[SampleId]:
    """Which of these ids are augmented copies."""
    copy = sample.c.parent_id.is_not(None)
    return {r.id for c in chunks(ids) for r in tx.execute(sa.select(sample.c.id).where(sample.c.id.in_(c), copy))}


def some(tx: Connection, ids: Collection[SampleId], *, light: bool = True) -> dict[SampleId, Sample]:
    """The samples with these ids. Light ones come without pictures and measurements."""
    columns = _LIGHT_COLUMNS if light else _COLUMNS
    return {
        row.id: Sample(**row._mapping)
        for chunk in chunks(ids)
        for row in tx.execute(sa.select(*columns).where(sample.c.id.in_(chunk)))
    }


def batches(
    tx: Connection, where: sa.ColumnElement[bool] | None = None, *, light: bool = True, size: int = BATCH
) -> Iterator[list[Sample]]:
    """All samples that match, in order of id, a batch at a time; what was given may be changed before the next."""
    columns = _LIGHT_COLUMNS if light else _COLUMNS
    last = ""
    while True:
        query = sa.select(*columns).where(sample.c.id > last).order_by(sample.c.id).limit(size)
        rows = tx.execute(query if where is None else query.where(where)).all()
        if not rows:
            return
        yield [Sample(**row._mapping) for row in rows]
        last = rows[-1].id


def change(tx: Connection, changes: Iterable[Mapping[str, Any]]) -> None:
    """Update samples: mappings of `id` and the columns to set; all mappings with the same columns."""
    values = [dict(one) for one in changes]
    if not values:
        return
    if "key" in values[0]:
        values = [{**one, "folded": one["key"].casefold()} for one in values]
    names = [name for name in values[0] if name != "id"]
    assert all(one.keys() == values[0].keys() for one in values), "all changes name the same columns"
    statement = (
        sample.update()
        .where(sample.c.id == sa.bindparam("_id"))
        .values({name: sa.bindparam("_" + name) for name in names})
    )
    tx.execute(statement, [{"_" + name: value for name, value in one.items()} for one in values])


def restate(tx: Connection, ids: Collection[SampleId]) -> None:
    """Bring `status` into step with the other columns."""
    there = ((one, status_of(one)) for one in some(tx, ids).values())
    change(tx, [{"id": one.id, "status": status} for one, status in there if one.status != status])


def counts(tx: Connection) -> dict[Status, int]:
    """How many samples stand where; every status is a key. Of the forgotten only the number is left."""
    found: dict[str, int] = {}
    for row in tx.execute(sa.select(sample.c.status, sa.func.count().label("n")).group_by(sample.c.status)):
        found[row.status] = row.n
    found["forgotten"] = int(tx.execute(sa.select(sa.func.count()).select_from(suppressed)).scalar() or 0)
    return {status: found.get(status, 0) for status in STATUSES}


def labels(tx: Connection) -> dict[str, int]:
    """Label to how many samples have it, augmented copies left out."""
    query = sa.select(sample.c.label, sa.func.count()).where(sample.c.label.is_not(None), sample.c.parent_id.is_(None))
    return {row[0]: row[1] for row in tx.execute(query.group_by(sample.c.label))}


def refusals(tx: Connection) -> dict[str, int]:
    """Reason of quarantine to number of samples."""
    query = sa.select(sample.c.refusal, sa.func.count()).where(sample.c.refusal.is_not(None)).group_by(sample.c.refusal)
    return dict(sorted((row[0], row[1]) for row in tx.execute(query)))  # databases sort text their own ways


QUEUE = (sample.c.urgency.desc(), sample.c.id.desc())
"""The order of what waits for a person: as an index has it, so that the first is found without sorting all."""


def queue(tx: Connection, limit: int) -> list[Sample]:
    """What waits for a person, most informative first."""
    query = sa.select(*_LIGHT_COLUMNS).where(sample.c.status == "queued")
    rows = tx.execute(query.order_by(*QUEUE).limit(limit))
    return [Sample(**row._mapping) for row in rows]


def erase(tx: Connection, ids: Collection[SampleId]) -> None:
    """Delete samples with their label events, sightings, memberships and augmented children."""
    placed(tx, ids)
    for chunk in chunks(ids):
        tx.execute(sample.delete().where(sample.c.id.in_(chunk)))


# files that wait to be moved

_MISPLACED = "misplaced "
"""Begins the name of a setting: the file of this sample is to be moved when nobody works on the workspace."""


def misplaced(tx: Connection, ids: Collection[SampleId]) -> None:
    """Remember that the files of these samples are not where they belong."""
    placed(tx, ids)
    if ids:
        tx.execute(setting.insert(), [{"name": _MISPLACED + id, "value": True} for id in sorted(set(ids))])


def all_misplaced(tx: Connection) -> list[SampleId]:
    names = tx.execute(sa.select(setting.c.name).where(setting.c.name.startswith(_MISPLACED))).scalars()
    return sorted(name.removeprefix(_MISPLACED) for name in names)


def placed(tx: Connection, ids: Collection[SampleId]) -> None:
    """These files are where they belong, or gone."""
    for chunk in chunks(ids):
        tx.execute(setting.delete().where(setting.c.name.in_([_MISPLACED + id for id in chunk])))


# sightings


class Place(NamedTuple):
    """Where something was found. etag: an object's mark of its content; it tells more than its time, which goes
    unread then."""

    uri: str
    size: int
    modified: float
    etag: str | None = None


def seen(tx: Connection, places: Collection[Place]) -> dict[str, SampleId]:
    """Of places those that are known and have not changed since, and the sample there."""
    wanted = {place.uri: place for place in places if place.size >= 0}
    found: dict[str, SampleId] = {}
    for chunk in chunks(wanted):
        for row in tx.execute(sa.select(sighting).where(sighting.c.uri.in_(chunk))):
            now = wanted[row.uri]
            same = row.modified == now.modified if now.etag is None else row.etag == now.etag
            if same and row.size == now.size:
                found[row.uri] = row.sample_id
    return found


def sight(tx: Connection, places: Collection[tuple[Place, SampleId]]) -> None:
    """Remember where samples were seen. A place that now holds something else is written over."""
    last = {place.uri: (place, id) for place, id in places}
    for chunk in chunks(last):
        tx.execute(sighting.delete().where(sighting.c.uri.in_(chunk)))
    if last:
        tx.execute(sighting.insert(), [{**place._asdict(), "sample_id": id} for place, id in last.values()])


def treated(tx: Connection, uris: Collection[str], after: str) -> set[str]:
    """Of places those that `collect.after` was carried out on, in these very words."""
    done = sighting.c.after == after
    return {
        row.uri for chunk in chunks(uris)
        for row in tx.execute(sa.select(sighting.c.uri).where(sighting.c.uri.in_(chunk), done))
    }  # fmt: skip


def treat(tx: Connection, uris: Collection[str], after: str) -> None:
    """Remember that it was."""
    for chunk in chunks(uris):
        tx.execute(sighting.update().where(sighting.c.uri.in_(chunk)).values(after=after))


def chunks(values: Collection[Any]) -> Iterator[list[Any]]:
    """Batches small enough for one statement."""
    ordered = sorted(set(values))
    for start in range(0, len(ordered), BATCH):
        yield ordered[start : start + BATCH]

"""Judges what has come in: each image is decoded once, measured, and validated or set aside with the reason.

Near duplicates are decided anew over everything whenever anything has come or gone, so that the decision depends on the
set of images alone: of those that are alike a released one stays, else one with a label, on the training side before
the test side, the lowest id before all.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, overload

import cv2
import numpy as np
import sqlalchemy as sa

from everlearn import faults
from everlearn.catalog import labels, samples
from everlearn.catalog.samples import NEAR_DUPLICATE
from everlearn.catalog.tables import sample
from everlearn.errors import EverlearnError
from everlearn.files import change
from everlearn.image import BadImage
from everlearn.validate.duplicates import Known, Prints, thin_out
from everlearn.validate.look import look
from everlearn.validate.quality import Quality, QualityLimits
from everlearn.validate.scores import sampled

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from everlearn.catalog.samples import Sample
    from everlearn.types import Progress, SampleId
    from everlearn.workspace import Workspace

    Side = Callable[[str], str]

BATCH = 256
PAGE = 10_000
THREADS = 4


@dataclass(slots=True)
class Judged:
    """validated: found fit now; quarantined: reason to how many were set aside now."""

    validated: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)

    def refuse(self, reason: str) -> None:
        self.quarantined[reason] = self.quarantined.get(reason, 0) + 1


def judge(workspace: Workspace, side: Side, progress: Progress) -> Judged:
    """Judge all samples that are `new`, then decide near duplicates. side: of a group (train, validation or test)."""
    result = Judged()
    with workspace.catalog.read() as tx:
        waiting = samples.counts(tx)["new"]
    cv2.setNumThreads(1)  # the threads here are one per image
    with progress.task("validate", waiting) as task, ThreadPoolExecutor(THREADS) as pool:
        for batch, looks in _looks(workspace, pool):
            with change(workspace) as changed:
                samples.change(changed.tx, looks)
                labels.settle(changed.tx, [one.id for one in batch])
                changed.refile([one.id for one in batch])
            faults.point("validate.committed")
            for one in looks:
                if one["refusal"] is None:
                    result.validated += 1
                else:
                    result.refuse(one["refusal"])
            task.advance(len(batch))
    if workspace.config.validate_.near_duplicates:
        for reason, number in decide_duplicates(workspace, side).items():
            result.quarantined[reason] = result.quarantined.get(reason, 0) + number
            result.validated -= min(number, result.validated)
    return result


def admit(workspace: Workspace, ids: Sequence[SampleId]) -> dict[SampleId, str]:
    """Look at these samples now and let in whatever can be decoded, since a person chose them by hand; returns why the
    others were set aside. What was looked at before stays as it was judged, but is let out of quarantine."""
    with workspace.catalog.read() as tx:
        there = samples.some(tx, ids)
    looks = [_look(workspace, one) for one in there.values() if one.quality is None]
    broken = {look["id"]: look["refusal"] for look in looks if look["quality"] is None}
    fit = {"refusal": None, "refusal_value": None, "refusal_limit": None, "twin_of": None, "released": True}
    with change(workspace) as changed:
        samples.change(changed.tx, looks)
        samples.change(changed.tx, ({"id": id, **fit} for id in there if id not in broken))
        labels.settle(changed.tx, list(there))
        changed.refile(list(there))
    return broken


def _looks(workspace: Workspace, pool: ThreadPoolExecutor) -> Iterator[tuple[list[Sample], list[dict[str, Any]]]]:
    """What is new, a batch at a time, and what a look at each gives; the next batch is looked at while one is used."""
    batch = _new(workspace, "")
    looks = [pool.submit(_look, workspace, one) for one in batch]
    while batch:
        coming = _new(workspace, batch[-1].id)
        ahead = [pool.submit(_look, workspace, one) for one in coming]
        yield batch, [one.result() for one in looks]
        batch, looks = coming, ahead


def _new(workspace: Workspace, after: SampleId) -> list[Sample]:
    where = sa.and_(sample.c.status == "new", sample.c.id > after)
    with workspace.catalog.read() as tx:
        return next(samples.batches(tx, where, size=BATCH), [])


def limits_of(workspace: Workspace) -> QualityLimits:
    """The limits that the configuration sets."""
    said = workspace.config.validate_
    return QualityLimits(**{f.name: getattr(said, f.name) for f in fields(QualityLimits) if hasattr(said, f.name)})


def _look(workspace: Workspace, one: Sample) -> dict[str, Any]:
    """The columns that follow from one look at a sample."""
    columns: dict[str, Any] = {
        "id": one.id, "quality": None, "width": None, "height": None, "measured": None, "hash": None,
        "thumbnail": None, "descriptor": None, "refusal": None, "refusal_value": None, "refusal_limit": None,
    }  # fmt: skip
    try:
        with workspace.store.open(one.key) as file:
            data = file.read()
        return columns | (_row(data) if one.kind == "row" else _image(workspace, data))
    except BadImage as error:
        return columns | {"refusal": error.reason}
    except EverlearnError:
        return columns | {"refusal": "unreadable"}


def _row(data: bytes) -> dict[str, Any]:
    try:
        values = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError):
        return {"refusal": "damaged"}
    if values.ndim != 1 or values.dtype.kind != "f" or not np.isfinite(values).all():
        return {"refusal": "not_finite"}
    return {"quality": 1.0, "width": len(values), "descriptor": values.astype("<f2").tobytes()}


def _image(workspace: Workspace, data: bytes) -> dict[str, Any]:
    seen = look(data, limits_of(workspace), int(workspace.config.collect.max_megapixels * 1e6))
    found, print_ = seen.quality, seen.fingerprint
    first = found.findings[0] if found.findings else None
    return {
        "quality": found.score,
        "width": found.width,
        "height": found.height,
        "measured": _measured(found),
        "hash": print_.hash.to_bytes(8, "big"),
        "thumbnail": print_.thumb,
        "descriptor": seen.descriptor.astype("<f2").tobytes(),
        "refusal": first.reason if first else None,
        "refusal_value": float(first.value) if first else None,
        "refusal_limit": float(first.limit) if first else None,
    }


def _measured(found: Quality) -> dict[str, float]:
    names = ("sharpness", "brightness", "darkness", "contrast", "information", "aspect", "mean")
    return {name: round(float(getattr(found, name)), 6) for name in names}


def decide_duplicates(workspace: Workspace, side: Side, without: Collection[SampleId] = ()) -> dict[str, int]:
    """Set near duplicates aside and let those out whose twin is gone. Returns how many were set aside now, by reason.

    without: samples that are about to be forgotten and so do not count."""
    without = set(without)
    losers = dict(thin_out(_ordered(workspace, side, without), Known(_thumbs(workspace))))
    with workspace.catalog.read() as tx:
        before = dict(tx.execute(sa.select(sample.c.id, sample.c.twin_of).where(sample.c.twin_of.is_not(None))).all())
    changed_twins = {id: losers.get(id) for id in losers.keys() | before.keys() if losers.get(id) != before.get(id)}
    changed_twins = {id: twin for id, twin in changed_twins.items() if id not in without}
    if not changed_twins:
        return {}
    with change(workspace) as changed:
        rows = [
            {"id": id, "twin_of": twin, "refusal": NEAR_DUPLICATE if twin else None, "refusal_value": None,
             "refusal_limit": None}
            for id, twin in changed_twins.items()
        ]  # fmt: skip
        samples.change(changed.tx, rows)
        labels.settle(changed.tx, list(changed_twins))
        changed.refile(list(changed_twins))
    new = sum(1 for id, twin in changed_twins.items() if twin and not before.get(id))
    return {NEAR_DUPLICATE: new} if new else {}


def _ordered(workspace: Workspace, side: Side, without: Collection[SampleId]) -> Prints:
    """All images that may be twins, those first that are to be kept. 41 bytes an image, 57 while it sorts."""
    fit = sa.and_(
        sample.c.hash.is_not(None),
        sample.c.parent_id.is_(None),
        sa.or_(sample.c.refusal.is_(None), sample.c.refusal == NEAR_DUPLICATE),
    )
    columns = (sample.c.label, sample.c.label_by, sample.c.group_key, sample.c.released)
    query = sa.select(sample.c.id, sample.c.hash, *columns).where(fit).execution_options(yield_per=PAGE)
    kind = np.dtype([("rank", "u1"), ("id", "S32"), ("hash", ">u8")])
    pages = [np.empty(0, kind)]
    with workspace.catalog.read() as tx:
        for page in tx.execute(query).partitions():
            rows = [(_rank(row, side), row.id.encode(), row.hash) for row in page if row.id not in without]
            table = np.empty(len(rows), kind)
            table["rank"], table["id"] = [row[0] for row in rows], [row[1] for row in rows]
            table["hash"] = np.frombuffer(b"".join(row[2] for row in rows), ">u8")
            pages.append(table)
    table = np.concatenate(pages)
    pages.clear()
    order = np.lexsort((table["id"], table["rank"]))
    return Prints(_Ids(table["id"][order]), table["hash"][order].astype(np.uint64))


class _Ids(Sequence["SampleId"]):
    """Ids as 32 bytes each, a third of what their strings take."""

    def __init__(self, table: NDArray[np.bytes_]) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, at: int) -> SampleId: ...
    @overload
    def __getitem__(self, at: slice) -> list[SampleId]: ...
    def __getitem__(self, at: int | slice) -> SampleId | list[SampleId]:
        if isinstance(at, slice):
            return [one.decode() for one in self.table[at].tolist()]
        return bytes(self.table[at]).decode()


def _rank(row: Any, side: Side) -> int:
    """What a model said does not count: it would make the choice depend on what was learned when."""
    if row.released:
        return 0
    if row.label is None or row.label_by == "auto":
        return 3
    return 2 if side(row.group_key) == "test" else 1


def _thumbs(workspace: Workspace) -> Callable[[Sequence[SampleId]], NDArray[np.uint8]]:
    def fetch(ids: Sequence[SampleId]) -> NDArray[np.uint8]:
        found: dict[SampleId, bytes] = {}
        with workspace.catalog.read() as tx:
            for chunk in samples.chunks(ids):
                query = sa.select(sample.c.id, sample.c.thumbnail).where(sample.c.id.in_(chunk))
                found.update((row.id, row.thumbnail) for row in tx.execute(query))
        return np.frombuffer(b"".join(found[id] for id in ids), np.uint8).reshape(len(ids), -1)

    return fetch


def described(
    workspace: Workspace, classes: Mapping[SampleId, str]
) -> tuple[list[SampleId], list[str], NDArray[np.float32]]:
    """(ids, classes, descriptors) of what the diversity score looks at: of a large class not all."""
    ids = sampled(classes)
    found: dict[SampleId, NDArray[np.float32]] = {}
    with workspace.catalog.read() as tx:
        for chunk in samples.chunks(ids):
            query = sa.select(sample.c.id, sample.c.descriptor).where(sample.c.id.in_(chunk))
            rows = (row for row in tx.execute(query) if row.descriptor)
            found.update((row.id, np.frombuffer(row.descriptor, "<f2").astype(np.float32)) for row in rows)
    known = [id for id in ids if id in found]
    table = np.stack([found[id] for id in known]) if known else np.zeros((0, 1), np.float32)
    return known, [classes[id] for id in known], table


@dataclass(frozen=True, slots=True)
class Scored:
    """What the data set's scores need of a sample."""

    id: SampleId
    label: str
    quality: float


def labelled(workspace: Workspace) -> Iterator[list[Scored]]:
    """Samples that count for the data set's scores, in order of id: labelled or learned, not augmented."""
    where = sa.and_(
        sample.c.status.in_(("labelled", "learned", "queued")),
        sample.c.label.is_not(None),
        sample.c.parent_id.is_(None),
    )
    query = sa.select(sample.c.id, sample.c.label, sample.c.quality).where(where).order_by(sample.c.id)
    with workspace.catalog.read() as tx:
        for page in tx.execute(query.execution_options(yield_per=PAGE)).partitions():
            yield [Scored(row.id, sys.intern(row.label), row.quality or 0.0) for row in page]

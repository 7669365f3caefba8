"""Taking in what sources offer: the same bytes are the same sample, however often and under whatever name they come.

Each batch is stored first and then committed, so a kill costs at most the batch at hand, which comes again. What is
kept of a sample that was found in several places does not depend on which place came first.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from everlearn import faults, image
from everlearn.catalog import labels, samples, scenes, turns
from everlearn.catalog.samples import Place, Sample, id_of
from everlearn.catalog.tables import now
from everlearn.collect.fetch import Spool, ahead
from everlearn.collect.moment import group_of, when_and_camera
from everlearn.errors import BadInput, EverlearnError
from everlearn.files import change, new_keys
from everlearn.naming import is_scene
from everlearn.s3 import OutOfReach
from everlearn.types import Found, Refused, SampleId, Scene

if TYPE_CHECKING:
    from everlearn.collect.after import After
    from everlearn.collect.options import Source
    from everlearn.files import Change
    from everlearn.types import Progress
    from everlearn.workspace import Workspace

BATCH = 512
MOST_BYTES = 128_000_000
"""Read and not yet stored; a batch of large files is stored in several portions."""
MOST_REFUSALS = 10_000
"""Refusals listed; more are counted."""


@dataclass(slots=True)
class Collected:
    """collected: new samples; duplicates: content that was there already; suppressed: content that was forgotten; cut:
    boxes of new samples that reached over the edge and were cut there."""

    collected: int = 0
    duplicates: int = 0
    suppressed: int = 0
    cut: int = 0
    refused: int = 0
    rejected: list[Refused] = field(default_factory=list)

    def refuse(self, one: Refused) -> None:
        self.refused += 1
        if len(self.rejected) < MOST_REFUSALS:
            self.rejected.append(one)


@dataclass(frozen=True, slots=True)
class _Read:
    """A thing that was read. known: it is in the catalog already."""

    found: Found
    id: SampleId
    data: bytes | None
    known: bool


def take(workspace: Workspace, name: str, source: Source, progress: Progress, after: After | None = None) -> Collected:
    """Take in all that a source offers. name: what the user called it; kept with each sample. after: what is then done
    with objects of a bucket. Raises OutOfReach where the rest of a source cannot be had now."""
    result, spool = Collected(), Spool(workspace.private(""))
    with progress.task("collect", source.estimate()) as task:
        found = _accepted(source.items(), result)
        while batch := list(islice(found, BATCH)):
            for read in _portions(_read(workspace, batch, _unchanged(workspace, batch), result)):
                gone = _take(workspace, name, read, result)
                if after is not None:
                    _afterwards(workspace, [one.found for one in read if one.id not in gone], after, result)
            spool.committed()
            task.advance(len(batch))
    spool.clear()
    return result


def _accepted(items: Iterable[Found | Refused], result: Collected) -> Iterator[Found]:
    for item in items:
        if isinstance(item, Refused):
            result.refuse(item)
        else:
            yield item


def _portions(items: Iterable[_Read]) -> Iterator[list[_Read]]:
    portion: list[_Read] = []
    held = 0
    try:
        for item in items:
            portion.append(item)
            held += len(item.data or b"")
            if held >= MOST_BYTES:
                yield portion
                portion, held = [], 0
    except OutOfReach:
        if portion:  # what has come stays
            yield portion
        raise
    if portion:
        yield portion


def _take(workspace: Workspace, name: str, read: Sequence[_Read], result: Collected) -> set[SampleId]:
    """Store and commit; returns what was forgotten, and so was not taken in."""
    if all(one.data is None and one.found.label is None for one in read):
        result.duplicates += len(read)
        return set()
    with workspace.catalog.write() as tx:  # a write, because the first look may make the suppression key
        known = samples.known(tx, [one.id for one in read])
        gone = turns.are_suppressed(tx, [one.id for one in read])
        copies = samples.copies(tx, known)
    result.suppressed += sum(one.id in gone for one in read)
    first: dict[SampleId, _Read] = {}
    again: list[_Read] = []
    for one in read:
        if one.id in gone:
            continue
        if one.id in known or one.id in first:
            again.append(one)
        else:
            first[one.id] = one
    with change(workspace) as changed:
        _insert(changed, name, list(first.values()))
        told = [one for one in again if one.id not in copies]  # an augmented copy is what its parent is
        merged = _merge(changed, told)
        words = [
            labels.Said(one.id, one.found.label, one.found.label_by or "folder")
            for one in (*first.values(), *told)
            if one.found.label is not None
        ]
        scenes.keep(changed.tx, [Scene(o.found.boxes, o.found.about) for o in (*first.values(), *told)
                                 if is_scene(o.found.label) and o.found.boxes is not None])  # fmt: skip
        said = labels.say(changed.tx, words)
        changed.refile(merged.union(said))
        new = [one for one in (*first.values(), *again) if one.data is not None and one.found.size >= 0]
        samples.sight(changed.tx, [(_place(one.found), one.id) for one in new])
        faults.point("collect.before_commit")
    faults.point("collect.committed")
    result.collected += len(first)
    result.cut += sum(one.found.cut for one in first.values())
    result.duplicates += len(again)
    return gone


def _afterwards(workspace: Workspace, found: Sequence[Found], after: After, result: Collected) -> None:
    """Do with the objects what `collect.after` says, but with those that it was done with already."""
    objects = {one.uri: one for one in found if "#" not in one.uri}
    if after.leaves_a_trace:
        with workspace.catalog.read() as tx:
            for uri in samples.treated(tx, objects, after.text):
                del objects[uri]
    done = []
    with ThreadPoolExecutor(workspace.config.collect.parallel) as pool:
        for one, wrong in zip(objects.values(), pool.map(after.carry_out, objects.values()), strict=True):
            if wrong is None:
                done.append(one.uri)
            else:
                result.refuse(Refused(one.uri, wrong))
            faults.point("collect.after")
    if after.leaves_a_trace:
        with workspace.catalog.write() as tx:
            samples.treat(tx, done, after.text)


def _unchanged(workspace: Workspace, batch: Sequence[Found]) -> dict[str, SampleId]:
    """The files that need not be read again: seen before, and told nothing new of."""
    with workspace.catalog.read() as tx:
        there = samples.seen(tx, [_place(one) for one in batch])
        rows = samples.some(tx, [there[one.uri] for one in batch if one.uri in there and (one.camera or one.group)])
    for one in batch:
        row = rows.get(there.get(one.uri, ""))
        if row and (one.camera or row.camera, one.group or row.group_key) != (row.camera, row.group_key):
            del there[one.uri]
    return there


def _place(found: Found) -> Place:
    return Place(found.uri, found.size, found.modified, found.etag)


def _read(
    workspace: Workspace, batch: Sequence[Found], there: dict[str, SampleId], result: Collected
) -> Iterator[_Read]:
    for offered, read in ahead(batch, lambda one: one.uri not in there, workspace.config.collect.parallel):
        found = offered
        try:
            found = _labelled(workspace, found)
            if found.uri in there:
                yield _Read(found, there[found.uri], None, True)
                continue
            data = read()
            if not data:
                raise BadInput("it has no bytes.", "")
        except OutOfReach:
            raise
        except EverlearnError as error:
            result.refuse(Refused(found.uri, str(error)))
        except OSError as error:
            result.refuse(Refused(found.uri, f"cannot be read: {error.strerror or error}"))
        else:
            yield _Read(found, id_of(data), data, False)


def _labelled(workspace: Workspace, found: Found) -> Found:
    """With its label as it is kept: where the task is `detect`, the scene that its boxes are. Raises BadInput."""
    if workspace.config.task != "detect":
        return found if found.label is None else replace(found, label=labels.cleaned(found.label, workspace.config))
    if found.boxes is None:
        return replace(found, label=None, label_by=None)
    return replace(found, label=scenes.label_of(Scene(found.boxes, found.about)))


def _insert(changed: Change, name: str, new: Sequence[_Read]) -> None:
    rows = [_row(changed.workspace, name, one) for one in new]
    keys = new_keys(changed.tx, rows)
    final = []
    for one, row in zip(new, rows, strict=True):
        values = {slot: getattr(row, slot) for slot in row.__slots__} | {"key": keys[row.id]}
        final.append(Sample(**values))
        assert one.data is not None
        changed.workspace.store.put(keys[row.id], io.BytesIO(one.data))
        faults.point("collect.stored")
    samples.add(changed.tx, final)


def _row(workspace: Workspace, name: str, one: _Read) -> Sample:
    assert one.data is not None
    when, time_from, camera, group = _circumstances(workspace, one)
    ending = one.found.name.rpartition(".")[2].lower()
    return Sample(
        id=one.id,
        kind="row" if ending == "npy" else "image",
        key=f".{ending}",
        bytes=len(one.data),
        source=name,
        captured_at=when,
        time_from=time_from,
        camera=camera,
        group_key=group,
        collected_at=now(),
        label=one.found.label,
    )


def _circumstances(workspace: Workspace, one: _Read) -> tuple[datetime | None, str | None, str, str]:
    is_row = one.found.name.endswith(".npy")
    exif = (None, None) if one.data is None or is_row else image.stamp(one.data)
    when, time_from, camera = when_and_camera(one.found, *exif)
    camera = camera or workspace.config.collect.camera
    group = group_of(one.found, one.id, when, time_from, camera, workspace.config.dataset.group_minutes)
    return when, time_from, camera, group


def _merge(changed: Change, again: Sequence[_Read]) -> set[SampleId]:
    """The same content under another name may tell another time, camera or group: the first by `_rank` is kept, so that
    it does not matter which came first."""
    best: dict[SampleId, dict[str, Any]] = {}
    there = samples.some(changed.tx, [one.id for one in again if one.data is not None])
    minutes = changed.workspace.config.dataset.group_minutes
    unknown = changed.workspace.config.collect.camera

    def rank(one: _Read, values: dict[str, Any]) -> tuple[bool, bool, int, str, str, str]:
        when, time_from, camera = values["captured_at"], values["time_from"], values["camera"]
        by_itself = group_of(replace(one.found, group=None), one.id, when, time_from, camera, minutes)
        time = when.isoformat() if when else ""
        return (
            values["group_key"] == by_itself,
            camera == unknown,
            _TIMES[time_from],
            values["group_key"],
            camera,
            time,
        )

    for one in again:
        if one.data is None:
            continue
        when, time_from, camera, group = _circumstances(changed.workspace, one)
        new = {"camera": camera, "group_key": group, "captured_at": when, "time_from": time_from}
        old = best.get(one.id) or {key: getattr(there[one.id], key) for key in new}
        if rank(one, new) < rank(one, old):
            best[one.id] = new
    samples.change(changed.tx, ({"id": id, **values} for id, values in best.items()))
    return set(best)


_TIMES: dict[str | None, int] = {"exif": 0, "video": 1, "name": 2, "file": 3, None: 4}
"""A declared group goes first, then a camera that is known, then the time that is believed most."""

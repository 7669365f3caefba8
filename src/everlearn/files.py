"""Keeps the folders in step with the catalog: where a sample's file belongs follows from its row alone.

The order is always the same: the file under its new name, then the row, then the old file. A crash in between leaves a
spare copy, never a hole; `everlearn doctor` finds and removes it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import chain, count
from typing import TYPE_CHECKING

import sqlalchemy as sa

from everlearn import faults
from everlearn.catalog import samples
from everlearn.catalog.tables import sample
from everlearn.naming import render_name
from everlearn.workspace import AUGMENTED, COLLECTED, QUARANTINED, VALIDATED, Workspace

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from everlearn.catalog.samples import Sample
    from everlearn.types import SampleId

SUFFIX = 8
"""Digits of the id in a name that would collide."""


class Change:
    """An open transaction, and the files that may go once it is committed. moves: whether files are moved in it; what
    they owe is written down otherwise, for `refile_owed`."""

    def __init__(self, workspace: Workspace, tx: Connection, moves: bool = True) -> None:
        self.workspace = workspace
        self.tx = tx
        self.moves = moves
        self._spare: list[str] = []

    def refile(self, ids: Collection[SampleId]) -> None:
        """Bring the files of these samples to where their rows say that they belong."""
        if not self.moves:
            samples.misplaced(self.tx, ids)
            return
        moving = [one for one in samples.some(self.tx, ids).values() if not _in_place(one)]
        keys = new_keys(self.tx, moving, self._spare)
        for one in moving:
            self.workspace.store.copy(one.key, keys[one.id])
            faults.point("files.copied")
        samples.change(self.tx, ({"id": one.id, "key": keys[one.id]} for one in moving))
        self._spare += [one.key for one in moving]

    def discard(self, keys: Collection[str]) -> None:
        """Remove these files once the transaction is committed."""
        self._spare += keys

    def clear(self) -> None:
        """Remove what is spare, while nobody can give its name to another sample."""
        if not self._spare:
            return
        with self.workspace.catalog.write() as tx:
            for key in sorted(set(self._spare) - samples.keys(tx, self._spare)):
                self.workspace.store.remove(key)
                faults.point("files.removed")


@contextmanager
def change(workspace: Workspace, moves: bool = True) -> Iterator[Change]:
    """A transaction on the catalog that may move files."""
    with workspace.catalog.write() as tx:
        changed = Change(workspace, tx, moves)
        yield changed
        flush = getattr(workspace.store, "flush", None)
        if flush is not None and moves:
            flush()  # one for the batch: a row must not outlive a power cut that its file does not
        faults.point("files.before_commit")
    faults.point("files.committed")
    changed.clear()


@contextmanager
def beside(workspace: Workspace) -> Iterator[Change]:
    """A transaction that never waits for other work on the workspace: what a person says while a training runs.

    The catalog keeps writers apart by itself, so no lock is needed for the word. But whoever holds the lock may have
    read where the files lie and be about to open them: none is moved then. Its name follows when the lock is free.
    """
    with workspace.lock_if_free() as free, change(workspace, moves=free) as changed:
        yield changed


def refile_owed(workspace: Workspace) -> int:
    """Move the files that could not be moved when their samples changed, unless somebody works on the workspace now;
    returns how many."""
    with workspace.catalog.read() as tx:
        owed = samples.all_misplaced(tx)
    if not owed:
        return 0
    with workspace.lock_if_free() as free:
        if not free:
            return 0
        for ids in samples.chunks(owed):
            with change(workspace) as changed:
                changed.refile(ids)
                samples.placed(changed.tx, ids)
    return len(owed)


def folder_of(one: Sample) -> str:
    """The folder that a sample's file belongs to."""
    if one.refusal is not None:
        return QUARANTINED
    if one.parent_id is not None:
        return AUGMENTED
    return COLLECTED if one.quality is None else VALIDATED


def new_keys(tx: Connection, moving: Collection[Sample], spare: Collection[str] = ()) -> dict[SampleId, str]:
    """Where these samples' files belong; an id sets apart names that would collide, also where case is folded.

    A name that any sample has now, and one that is spare, is nobody's: it must hold what it holds until the commit."""
    names = {one.id: _names(one) for one in moving}
    used = {key.casefold() for key in spare} | {one.key.casefold() for one in moving}
    for chunk in samples.chunks([key.casefold() for three in names.values() for key in three]):
        used.update(tx.execute(sa.select(sample.c.folded).where(sample.c.folded.in_(chunk))).scalars())
    keys: dict[SampleId, str] = {}
    for one in sorted(moving, key=lambda one: one.id):
        again = (_key(one, f"{one.id}-{n}") for n in count(2))  # moved to and fro in one transaction
        keys[one.id] = next(key for key in chain(names[one.id], again) if key.casefold() not in used)
        used.add(keys[one.id].casefold())
    return keys


def _key(one: Sample, suffix: str | None = None) -> str:
    ext = one.key.rpartition(".")[2]
    return f"{folder_of(one)}/{render_name(one.label, one.time, one.camera, ext, suffix)}"


def _names(one: Sample) -> list[str]:
    """The names that a sample's file may have, the plainest first."""
    return [_key(one), _key(one, one.id[:SUFFIX]), _key(one, one.id)]


def _in_place(one: Sample) -> bool:
    return one.key == _key(one) or one.key in _names(one)

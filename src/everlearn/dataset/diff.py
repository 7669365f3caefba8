"""What changed from one snapshot to another, found in one pass over both in order of id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from everlearn.catalog import scenes, snapshots
from everlearn.types import Member, SampleId, Snapshot

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from everlearn.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Diff:
    """Ids in order. relabelled: with another label; moved: on another side or in another fold; both may hold."""

    added: tuple[SampleId, ...]
    removed: tuple[SampleId, ...]
    relabelled: tuple[SampleId, ...]
    moved: tuple[SampleId, ...]

    @property
    def counts(self) -> dict[str, int]:
        return {name: len(getattr(self, name)) for name in self.__slots__}


def diff(workspace: Workspace, a: Snapshot, b: Snapshot) -> Diff:
    """What leads from snapshot a to snapshot b. Holds no more than what differs."""
    found: dict[str, list[SampleId]] = {name: [] for name in Diff.__slots__}
    with workspace.catalog.read() as tx:
        for before, after in changes(tx, a.number, b.number):
            if before is None or after is None:
                found["removed" if after is None else "added"].append((before or after).id)  # type: ignore[union-attr]
                continue
            if before.label != after.label:
                found["relabelled"].append(after.id)
            if (before.split, before.fold) != (after.split, after.fold):
                found["moved"].append(after.id)
    return Diff(**{name: tuple(ids) for name, ids in found.items()})


def box_counts(tx: Connection, number: int) -> dict[str, int]:
    """Class to its boxes in a snapshot, the most first; empty where labels are no boxes."""
    return scenes.box_counts(tx, Counter(one.label for one in snapshots.members(tx, number)))


def changes(tx: Connection, a: int, b: int) -> Iterator[tuple[Member | None, Member | None]]:
    """(member in a, member in b) for each sample that differs, in order of id, as a stream; None: not in it."""
    left, right = snapshots.members(tx, a), snapshots.members(tx, b)
    before, after = next(left, None), next(right, None)
    while before is not None or after is not None:
        if after is None or (before is not None and before.id < after.id):
            yield before, None
            before = next(left, None)
        elif before is None or after.id < before.id:
            yield None, after
            after = next(right, None)
        else:
            if (before.label, before.split, before.fold) != (after.label, after.split, after.fold):
                yield before, after
            before, after = next(left, None), next(right, None)

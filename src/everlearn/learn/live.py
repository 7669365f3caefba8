"""The one live memory of a workspace: brought from one snapshot to the next by adding and subtracting the difference.

It is a pure function of the snapshot. Where it cannot be trusted (no file, a damaged one, another basis, a snapshot
that the catalog no longer holds whole) it is built again from the cached features; the bits are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from everlearn import faults
from everlearn.catalog import snapshots
from everlearn.errors import BadInput, Corrupt, Missing
from everlearn.learn.exact.memory import ExactMemory
from everlearn.learn.exact.target import RegressionTarget
from everlearn.learn.extract import Basis
from everlearn.learn.features import Features
from everlearn.workspace import CHECKPOINTS

if TYPE_CHECKING:
    from pathlib import Path

    from everlearn.types import Member, Progress, SampleId, Snapshot
    from everlearn.workspace import Workspace

FILE = f"{CHECKPOINTS}/memory.sums"
Held = dict["SampleId", tuple[str, int]]
"""What the memory holds: id to label and fold."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Samples learned and unlearned; a relabelled one counts in both."""

    added: int
    removed: int


class LiveMemory:
    """The memory, what it holds, and the features it is made of."""

    def __init__(self, workspace: Workspace, basis: Basis, *, strict: bool = False, path: Path | None = None) -> None:
        """strict: raise Corrupt for a memory that is not what was saved, instead of building it again. path: where it
        lies, FILE by default."""
        self.workspace = workspace
        self.basis = basis
        self.features = Features(workspace, basis)
        self.path = path or workspace.root / FILE
        self.snapshot: int | None = None
        """The snapshot that the stored memory stands at; None where there is none that can be used."""
        self.memory, self.held = self._load(strict)
        self.stored = self.held
        self.stamp = self._stamp()

    def bring_to(self, members: Iterable[Member], progress: Progress) -> Moved:
        """Hold exactly the training and validation members of these; returns how that differs from what is stored.
        Nothing is written; see `save`."""
        return self.hold(learnable(members), progress)

    def hold(self, wanted: Held, progress: Progress) -> Moved:
        """As `bring_to`, of what is to be held itself."""
        try:
            self._move(wanted, progress)
        except BaseException:
            self.memory, self.held = self._empty(), {}  # half moved, the sums would be of nothing
            raise
        self.held = wanted
        return Moved(*(sum(a.get(id) != value for id, value in b.items())
                       for a, b in ((self.stored, wanted), (wanted, self.stored))))  # fmt: skip

    def _move(self, wanted: Held, progress: Progress) -> None:
        gone = [id for id, value in self.held.items() if wanted.get(id) != value]
        come = [id for id, value in wanted.items() if self.held.get(id) != value]
        if len(gone) > len(wanted):
            self.memory = self._empty()  # building again is less work than taking away
            gone, come = [], list(wanted)
        try:
            for ids, phi in self.features.batches(gone, progress, size=4096):
                self.memory.subtract(phi, *_columns(ids, self.held))
        except (Missing, BadInput, Corrupt):  # they are gone already, or are not what was learned: build again
            self.memory, come = self._empty(), list(wanted)
        if found := self.features.learned({id: wanted[id] for id in come}, self._empty(), progress):
            summed, there = found
            self.memory.merge(summed)
            come = [id for id in come if id not in there]
        for ids, phi in self.features.batches(come, progress, size=4096):
            self.memory.add(phi, *_columns(ids, wanted))

    def save(self, snapshot: Snapshot) -> None:
        """Keep the memory as standing at this snapshot."""
        self._keep({"snapshot": snapshot.number, "digest": snapshot.digest})
        self.snapshot = snapshot.number

    def _keep(self, metadata: Mapping[str, object]) -> None:
        faults.point("live.before_save")
        self.memory.save(self.path, metadata)
        self.stamp, self.stored = self._stamp(), self.held
        faults.point("live.saved")

    @property
    def current(self) -> bool:
        """Whether the file is still the one that this was read from or written to."""
        return self.stamp == self._stamp()

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    def rebuilt(self, progress: Progress, members: Iterable[Member] | None = None) -> ExactMemory:
        """A new memory of what this one holds, or of other members, from the features: for `verify`."""
        held = self.held if members is None else learnable(members)
        fresh = self._empty()
        for ids, phi in self.features.batches(sorted(held), progress, size=4096):
            fresh.add(phi, *_columns(ids, held))
        return fresh

    def _load(self, strict: bool) -> tuple[ExactMemory, Held]:
        try:
            memory, metadata = ExactMemory.load(self.path)
            same = (memory.basis_digest, memory.folds, memory.target) == (
                self.basis.digest, self.workspace.config.learn.folds, self._target()
            )  # fmt: skip
            held = self._held(metadata) if same else None
            if held is not None and len(held) == memory.samples:
                self.snapshot = int(str(metadata["snapshot"])) if "snapshot" in metadata else None
                return memory, held
            if strict:
                raise Corrupt("The memory is not of the data and settings that it was saved with.", "everlearn learn")
        except (Missing, FileNotFoundError):
            pass
        except (BadInput, Corrupt):
            if strict:
                raise
        return self._empty(), {}

    def _held(self, metadata: Mapping[str, object]) -> Held | None:
        """What the snapshot of a saved memory held, or None where the catalog no longer knows it whole."""
        number = metadata.get("snapshot")
        if not isinstance(number, int):
            return None
        with self.workspace.catalog.read() as tx:
            snapshot = snapshots.get(tx, number)
            members = list(snapshots.members(tx, number))
        if metadata.get("digest") not in (snapshots.digest(members),) or not snapshot.samples:
            return None
        return learnable(members)

    def _empty(self) -> ExactMemory:
        folds = self.workspace.config.learn.folds
        return ExactMemory(self.basis.digest, self.basis.dimensions, folds, self._target())

    def _target(self) -> RegressionTarget | None:
        if self.workspace.config.task != "regress":
            return None
        target = self.workspace.config.learn.target
        return RegressionTarget(target.low, target.high, target.step)


def learnable(members: Iterable[Member]) -> Held:
    """What the memory learns of a snapshot: all but the test side. It needs no validation side of its own, since its
    choices are made by folds."""
    return {one.id: (one.label, one.fold) for one in members if one.split != "test"}


def _columns(ids: Sequence[SampleId], held: Held) -> tuple[list[str], np.ndarray]:
    return [held[id][0] for id in ids], np.array([held[id][1] for id in ids], np.int64)

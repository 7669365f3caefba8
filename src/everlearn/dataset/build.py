"""Snapshots: which samples are in, on which side each stands, and in which fold.

Side and fold are hashes of the sample's own group and depend on no other sample, so nothing changes sides as data
grows, and the same samples make the same snapshot whatever order they came in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from everlearn.catalog import labels, samples, snapshots
from everlearn.catalog.tables import sample
from everlearn.config import Dataset
from everlearn.errors import TooFew
from everlearn.types import Member, Snapshot, Split

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from everlearn.catalog.samples import Sample
    from everlearn.config import Config
    from everlearn.workspace import Workspace

SUSPECT, ODD_BOX = "suspect", "odd_box"
HELD = (SUSPECT, ODD_BOX)
"""Why what is labelled waits for a person: its label is held wrong, or its boxes are odd."""


def side_of(group: str, dataset: Dataset) -> Split:
    """The side of a group: a fixed share of all groups, chosen by hash under the split's name."""
    share = _hash("side", dataset.split, group) / 2**64
    if share < dataset.test:
        return "test"
    return "validation" if share < dataset.test + dataset.validation else "train"


def fold_of(group: str, folds: int) -> int:
    """The fold of a group, 0 to folds - 1; independent of its side."""
    return _hash("fold", "", group) % folds


def build(workspace: Workspace, scores: Mapping[str, Any] | None = None) -> Snapshot:
    """The snapshot of everything that is labelled now. The newest one is returned where nothing has changed.

    Raises TooFew where nothing is labelled.
    """
    with workspace.catalog.write() as tx:
        members = list(current(tx, workspace.config))
        if not members:
            raise TooFew(
                "No sample is labelled, so there is nothing to build.",
                "Collect with --labels-from, then: everlearn validate; or: everlearn label",
            )
        return snapshots.build(tx, members, scores)


def current(tx: Connection, config: Config, *, suspects: bool = False) -> Iterator[Member]:
    """What a snapshot taken now would hold, in order of id. suspects: what suspect labels are judged on instead: labels
    that are held wrong too, and no augmented copies, since which there are depends on what was held when. A reported
    mistake is in as a negative while it waits for a person."""
    reported = sa.and_(sample.c.status == "queued", sample.c.queue_reason == labels.REPORTED, labels.is_denial())
    inside = sa.or_(sample.c.status.in_(("labelled", "learned")), reported)
    if suspects:
        held = sa.and_(sample.c.status == "queued", sample.c.queue_reason.in_(HELD))
        inside = sa.and_(sa.or_(inside, held), sample.c.parent_id.is_(None))
    for batch in samples.batches(tx, inside):
        parents = samples.some(tx, [one.parent_id for one in batch if one.parent_id])
        for one in batch:
            if one.label is None or (one.parent_id and not _stands(parents.get(one.parent_id), one, config)):
                continue
            side = side_of(one.group_key, config.dataset)
            yield Member(one.id, one.label, side, fold_of(one.group_key, config.learn.folds), one.camera, one.parent_id)


def _stands(parent: Sample | None, child: Sample, config: Config) -> bool:
    """An augmented image joins only its parent's training split, with its parent's label, while the parent is in."""
    return (
        parent is not None
        and parent.status in ("labelled", "learned")
        and parent.label == child.label
        and side_of(parent.group_key, config.dataset) == "train"
    )


def _hash(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:8], "big")

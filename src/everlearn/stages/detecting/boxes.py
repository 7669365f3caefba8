"""The quality of a workspace's boxes, and whose boxes a person should look at again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import sqlalchemy as sa

from everlearn.catalog import labels, samples, scenes
from everlearn.catalog.tables import sample
from everlearn.validate.boxes import BoxQuality, Drawn, examine

if TYPE_CHECKING:
    from everlearn.types import SampleId
    from everlearn.workspace import Workspace

PAGE = 5_000
_COLUMNS = (sample.c.id, sample.c.label, sample.c.width, sample.c.height, sample.c.camera)


def examined(workspace: Workspace) -> BoxQuality:
    """Of everything that is labelled, also what waits for a person; augmented copies left out."""
    return examine(_drawn(workspace))


def _drawn(workspace: Workspace) -> Iterator[Drawn]:
    where = sa.and_(
        sample.c.status.in_(("labelled", "learned", "queued")),
        sample.c.label.is_not(None),
        sample.c.parent_id.is_(None),
    )
    query = sa.select(*_COLUMNS).where(where).order_by(sample.c.id)
    with workspace.catalog.read() as tx:
        for page in tx.execute(query.execution_options(yield_per=PAGE)).partitions():
            told = scenes.some(tx, {row.label for row in page})
            for row in page:
                if row.label in told:
                    scene = told[row.label]
                    yield Drawn(row.id, scene.boxes, row.width or 0, row.height or 0, row.camera, scene.about or ())


def doubted(workspace: Workspace, found: BoxQuality) -> dict[SampleId, str]:
    """Images with odd boxes, the gravest first, and what is odd. Boxes that a person drew are never doubted."""
    with workspace.catalog.read() as tx:
        there = samples.some(tx, list(found.odd))
    return {id: "; ".join(said) for id, said in found.odd.items() if there[id].label_by not in labels.PEOPLE}

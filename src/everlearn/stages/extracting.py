"""Features for other programs: of a workspace's images, or of whatever a source offers, a batch in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from everlearn import image
from everlearn.catalog import samples
from everlearn.catalog.tables import sample
from everlearn.collect.files import why
from everlearn.collect.options import SourceOptions
from everlearn.collect.sources import is_table, open_source
from everlearn.collect.take import MOST_REFUSALS
from everlearn.dataset.build import side_of
from everlearn.dataset.table import About, table
from everlearn.errors import BadInput
from everlearn.learn.features import Features, images
from everlearn.stages import standing
from everlearn.types import SILENT, Found, Refused

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.model.basis import Basis
    from everlearn.types import Image, Progress
    from everlearn.workspace import Workspace

BATCH = 256
_THREADS = 4
JUDGED = ("validated", "queued", "labelled", "learned")
"""Statuses of images that validation let pass."""


@dataclass(slots=True)
class Written:
    """rows, of so many dimensions. refused: things of a source that are no images; named: the first of them."""

    dimensions: int
    backbone: str
    licence: str
    rows: int = 0
    refused: int = 0
    named: list[Refused] = field(default_factory=list)

    def refuse(self, one: Refused) -> None:
        self.refused += 1
        if len(self.named) < MOST_REFUSALS:
            self.named.append(one)


def of_workspace(
    workspace: Workspace, out: Path, progress: Progress, *, backbone: str | None = None, phi: bool = False
) -> Written:
    """A row for each image that validation let pass, in order of id, augmented copies left out.

    backbone: another than the workspace's. phi: the integers that are learned on; they are cached, as for learning.
    """
    basis = _basis(workspace, backbone)
    of_rows = not basis.input_size and not phi  # rows of numbers are features already
    where = sa.and_(sample.c.status.in_(JUDGED), sample.c.parent_id.is_(None))
    with workspace.catalog.read() as tx:
        total = int(tx.execute(sa.select(sa.func.count()).select_from(sample).where(where)).scalar() or 0)
    pages = _pages(workspace, where)
    first = next(pages, [])
    dimensions = len(images(workspace, [first[0].id])[0]) if of_rows and first else _dimensions(basis, phi)
    done = Written(dimensions, basis.spec, basis.licence)
    cache = Features(workspace, basis) if phi else None
    with table(out, dimensions, np.int8 if phi else np.float32) as file, progress.task("features", total) as task:
        page = first
        while page:
            ids = [one.id for one in page]
            if cache is not None:
                found: NDArray[Any] = cache.all(ids, SILENT)
            elif of_rows:
                found = _stacked(images(workspace, ids), dimensions)
            else:
                found = basis.raw(images(workspace, ids, lambda one: basis.prepare([one])[0]))
            file.add([_about(workspace, one) for one in page], found)
            done.rows += len(page)
            task.advance(len(page))
            page = next(pages, [])
    return done


def of_sources(
    sources: Sequence[str], out: Path, progress: Progress, *, workspace: Workspace | None = None,
    backbone: str | None = None, phi: bool = False, labels_from: str | None = None,
) -> Written:  # fmt: skip
    """A row for each image of these sources; what is none is refused. Nothing is collected, no workspace is needed.
    Raises BadInput where no image is among them."""
    basis = _basis(workspace, backbone)
    if not basis.input_size:
        raise BadInput("The backbone `features` takes rows of numbers.", "Name another: --backbone patches")
    for source in sources:
        if is_table(Path(source)):
            raise BadInput(f"{source} is a table of numbers.", "Name images: folders, files, videos or data sets.")
    options = SourceOptions(labels_from=labels_from, exclude=(str(workspace.root),) if workspace else ())  # type: ignore[arg-type]
    opened = [open_source(one, options) for one in sources]
    counts = [one.estimate() for one in opened]
    total = None if None in counts else sum(count or 0 for count in counts)
    done = Written(_dimensions(basis, phi), basis.spec, basis.licence)
    items = (item for one in opened for item in one.items())
    with (
        table(out, done.dimensions, np.int8 if phi else np.float32) as file,
        progress.task("features", total) as task,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        while batch := list(islice(items, BATCH)):
            read = list(pool.map(lambda item: _read(item, basis), batch))
            for one in read:
                if isinstance(one, Refused):
                    done.refuse(one)
            taken = [one for one in read if not isinstance(one, Refused)]
            pixels = [ready for _, ready in taken]
            file.add([about for about, _ in taken], basis.phi(pixels) if phi else basis.raw(pixels))
            done.rows += len(taken)
            task.advance(len(batch))
        if not done.rows:  # raised here, so that no file of nothing is written
            why_not = f": {done.named[0].path}: {done.named[0].reason}" if done.named else ""
            raise BadInput(f"There is no image in {', '.join(sources)}{why_not}.", "Name a folder that holds images.")
    return done


def _basis(workspace: Workspace | None, backbone: str | None) -> Basis:
    from everlearn.model.backbone import load_backbone
    from everlearn.model.basis import Basis

    if workspace is None:
        return Basis(load_backbone(backbone or "patches"))
    if backbone is None or backbone == workspace.config.backbone:
        return standing.basis(workspace)
    dimensions = workspace.config.learn.dimensions
    found = load_backbone(backbone, base=workspace.root)
    return Basis(found) if dimensions is None else Basis(found, dimensions=dimensions)


def _dimensions(basis: Basis, phi: bool) -> int:
    return basis.dimensions if phi else basis.backbone.dimensions


def _pages(workspace: Workspace, where: sa.ColumnElement[bool]) -> Iterator[list[samples.Sample]]:
    """In order of id; no transaction is held open over the work on a page."""
    last = ""
    while True:
        with workspace.catalog.read() as tx:
            page = next(samples.batches(tx, sa.and_(where, sample.c.id > last), size=BATCH), [])
        if not page:
            return
        yield page
        last = page[-1].id


def _about(workspace: Workspace, one: samples.Sample) -> About:
    return About(one.id, one.label, side_of(one.group_key, workspace.config.dataset), one.camera, one.time)


def _stacked(rows: Sequence[Image], dimensions: int) -> NDArray[np.float32]:
    for row in rows:
        if row.shape != (dimensions,):
            raise BadInput(
                f"Rows of {len(row)} and of {dimensions} numbers do not fit in one table.", "Add --phi: it fits all."
            )
    return np.stack(rows).astype(np.float32)


def _read(item: Found | Refused, basis: Basis) -> tuple[About, Image] | Refused:
    """What is said of an image, and its pixels as the backbone takes them: a photo as it is would fill the memory."""
    if isinstance(item, Refused):
        return item
    try:
        data = item.read()
        decoded = image.decode(data)
        ready = basis.prepare([decoded.pixels])[0]
    except BadInput as error:
        return Refused(item.uri, error.message)
    except OSError as error:
        return Refused(item.uri, why(error))
    camera, time = item.camera or decoded.camera, item.captured_at or decoded.captured_at
    return About(samples.id_of(data), item.label, None, camera, time), ready

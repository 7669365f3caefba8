"""Writes altered copies of the training images into `new_data/augmented/`, each a sample of its own.

What there is afterwards is a function of the labelled training images and the settings alone: the copies of each image
are seeded by its id; copies of other settings are set aside, and come back with their settings; a copy carries its
parent's label and dies with its parent. The file is stored first, then its row: after a crash, running again completes
the work, and a file without a row is overwritten, or removed by `doctor`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import sqlalchemy as sa

from everlearn import faults
from everlearn.augment import preview
from everlearn.augment.landmarks import Bend, Finder
from everlearn.augment.transforms import Points, Transform, apply, chain, generator
from everlearn.catalog import labels, samples
from everlearn.catalog.samples import Sample, id_of
from everlearn.catalog.tables import label_event, sample
from everlearn.errors import BadConfig, Corrupt
from everlearn.files import change
from everlearn.image import BadImage, Decoded, decode, encode_jpeg, encode_png
from everlearn.naming import render_name
from everlearn.types import Progress, SampleId
from everlearn.workspace import AUGMENTED

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from everlearn.config import Augment
    from everlearn.types import Image, Store
    from everlearn.workspace import Workspace

PREVIEW = f"{AUGMENTED}/preview.png"
"""The newest preview grid. It shows people's pictures, so it lies with the data, unseen by Git; `forget` removes it."""
PREVIEWS = f"{AUGMENTED}/previews"
"""Likewise, what a recipe's stages do to images: RECIPE_STAGE.jpg."""

SET_ASIDE = "other_augmentation"
"""Why a copy is refused that the present settings would not make."""

JPEG_QUALITY = 95
_BATCH = 64
_THREADS = min(4, os.cpu_count() or 1)
_PREVIEW_ROWS, _PREVIEW_COLUMNS = 8, 6


@dataclass(frozen=True, slots=True)
class AugmentReport:
    """augmented: copies made now, 0 the second time; relabelled: followed their parents' new labels; set_aside and
    restored: copies of other settings, or of these again; preview: its key, None where there is no copy to show."""

    augmented: int
    relabelled: int
    set_aside: int
    restored: int
    preview: str | None


def augment(
    workspace: Workspace,
    progress: Progress,
    *,
    side: Callable[[Sample], str],
    copies: int | None = None,
    settings: Augment | None = None,
) -> AugmentReport:
    """Bring the copies of all labelled images on the training side into step with the settings.

    side: gives "train" for a sample on the training side; no other is copied. copies, settings: instead of the
    configuration's. Raises BadConfig where no strength is above 0; Corrupt where an image cannot be decoded; Missing
    and BadInput for the weights that find landmarks.
    """
    settings = settings or workspace.config.augment
    copies = settings.copies if copies is None else copies
    transforms = chain(settings)
    if copies and not transforms and not settings.bend:
        raise BadConfig(
            "augment: every strength is 0, so copies would be no different.", "Raise one, or set copies: 0."
        )
    alter = _Altering(transforms, settings.bend, _finder(workspace, settings) if copies else None)
    wanted = {source_of(settings, copy): copy for copy in range(copies)}
    relabelled, set_aside, restored = _follow(workspace, set(wanted))
    made = _make(workspace, progress, side, wanted, alter)
    return AugmentReport(made, relabelled, set_aside, restored, _preview(workspace))


def source_of(settings: Augment, copy: int) -> str:
    """The source of a copy's row: it tells which settings made it, and the how-manieth copy it is."""
    values = settings.model_dump(exclude={"copies"} if settings.bend else {"copies", "bend", "landmarks"})
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return f"augment {digest[:16]} {copy}"


def children(tx: Connection, parents: list[SampleId]) -> list[Sample]:
    """The copies of these samples, in order of id."""
    return sorted(
        (
            one
            for chunk in samples.chunks(parents)
            for batch in samples.batches(tx, sample.c.parent_id.in_(chunk))
            for one in batch
        ),
        key=lambda one: one.id,
    )


# --- the copies that are there ------------------------------------------------------------------------------------


def _pages(workspace: Workspace, where: sa.ColumnElement[bool], size: int) -> Iterator[list[Sample]]:
    """Like `samples.batches`, each page in a transaction of its own, so that rows may be written in between."""
    last = ""
    while True:
        with workspace.catalog.read() as tx:
            page = next(samples.batches(tx, sa.and_(where, sample.c.id > last), size=size), None)
        if not page:
            return
        yield page
        last = page[-1].id


def _follow(workspace: Workspace, wanted: set[str]) -> tuple[int, int, int]:
    """Let the copies that are there follow their parents' labels, and set aside those of other settings."""
    relabelled = set_aside = restored = 0
    for page in _pages(workspace, sample.c.parent_id.is_not(None), samples.BATCH):
        with change(workspace) as changed:
            tx = changed.tx
            parents = samples.some(tx, [one.parent_id for one in page if one.parent_id])
            aside = [one.id for one in page if _stands_aside(one, wanted)]
            back = [one.id for one in page if one.refusal == SET_ASIDE and one.source in wanted]
            samples.change(tx, ({"id": id, "refusal": SET_ASIDE} for id in aside))
            samples.change(tx, ({"id": id, "refusal": None} for id in back))
            other = [(one.id, label) for one in page if (label := parents[one.parent_id or ""].label) != one.label]
            followed = _say(tx, other)
            moved = {*followed, *aside, *back}
            samples.restate(tx, moved)
            changed.refile(moved)
        relabelled, set_aside, restored = relabelled + len(followed), set_aside + len(aside), restored + len(back)
    return relabelled, set_aside, restored


def _stands_aside(one: Sample, wanted: set[str]) -> bool:
    return one.refusal is None and not one.released and one.source not in wanted


def _say(tx: Connection, pairs: Iterable[tuple[SampleId, str | None]]) -> list[SampleId]:
    """The parent's label holds alone: what it was before is taken back, else the two would contradict each other.
    Where a parent has no label now, its copies wait with the old one; no snapshot takes them in meanwhile."""
    words = [labels.Said(id, label, "parent") for id, label in pairs if label is not None]
    for chunk in samples.chunks([word.sample_id for word in words]):
        earlier = sa.and_(label_event.c.sample_id.in_(chunk), label_event.c.by == "parent")
        tx.execute(label_event.update().where(earlier).values(revoked=True))
    return labels.say(tx, words)


# --- the copies that are missing ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Altering:
    """bend: of faces, where `find` finds one."""

    transforms: tuple[Transform, ...]
    bend: float
    find: Callable[[Image], Points | None] | None

    def of(self, image: Image) -> tuple[tuple[Transform, ...], Points | None]:
        """What happens to an image, and the points that it needs to know."""
        landmarks = self.find(image) if self.find is not None else None
        if landmarks is None:
            return self.transforms, None
        return (Bend(self.bend), *self.transforms), landmarks


def _finder(workspace: Workspace, settings: Augment) -> Finder | None:
    """Raises Missing, BadInput where the weights are not there, or none."""
    if not settings.bend or settings.landmarks is None:
        return None
    return Finder(workspace.root / Path(settings.landmarks).expanduser())


def _make(
    workspace: Workspace,
    progress: Progress,
    side: Callable[[Sample], str],
    wanted: dict[str, int],
    alter: _Altering,
) -> int:
    ready = sa.and_(
        sample.c.status.in_(("labelled", "learned")), sample.c.kind == "image", sample.c.parent_id.is_(None)
    )
    with workspace.catalog.read() as tx:
        total = tx.execute(sa.select(sa.func.count()).select_from(sample).where(ready)).scalar_one()
    made = 0
    with progress.task("augment", total) as task, ThreadPoolExecutor(_THREADS) as pool:
        for page in _pages(workspace, ready, _BATCH):
            parents = [one for one in page if side(one) == "train"]
            with workspace.catalog.read() as tx:
                there = {(one.parent_id, one.source) for one in children(tx, [one.id for one in parents])}

            def missing(parent: Sample, there: set[tuple[str | None, str]] = there) -> list[Sample]:
                lacking = {source: copy for source, copy in wanted.items() if (parent.id, source) not in there}
                return list(_stored(workspace, parent, lacking, alter)) if lacking else []

            new = [child for found in pool.map(missing, parents) for child in found]
            made += _keep(workspace, new, set(wanted)) if new else 0
            task.advance(len(page))
    return made


def _stored(workspace: Workspace, parent: Sample, lacking: dict[str, int], alter: _Altering) -> Iterator[Sample]:
    """Copies of one image, their files already in the store."""
    original = _decoded(workspace, parent)
    transforms, points = alter.of(original.pixels)
    ext, encode = ("jpg", _jpeg) if original.format == "jpeg" else ("png", encode_png)
    for source, copy in lacking.items():
        pixels, _ = apply(transforms, original.pixels, points, generator(parent.id, copy))
        if np.array_equal(pixels, original.pixels):
            continue
        data = encode(pixels)
        id = id_of(data)
        key = f"{AUGMENTED}/{render_name(parent.label, parent.time, parent.camera, ext, id)}"
        workspace.store.put(key, io.BytesIO(data))
        faults.point("augment.stored")
        yield Sample(
            id=id,
            kind="image",
            key=key,
            bytes=len(data),
            source=source,
            captured_at=parent.captured_at,
            time_from=parent.time_from,
            camera=parent.camera,
            group_key=parent.group_key,
            collected_at=parent.collected_at,
            parent_id=parent.id,
            width=pixels.shape[1],
            height=pixels.shape[0],
            quality=parent.quality,
            status="validated",
        )


def _keep(workspace: Workspace, new: list[Sample], wanted: set[str]) -> int:
    """Give the stored copies their rows. The same bytes are the same sample: one that is there already is not added."""
    by_id = {one.id: one for one in reversed(new)}
    with change(workspace) as changed:
        tx = changed.tx
        there = samples.some(tx, list(by_id))
        fresh = [one for id, one in by_id.items() if id not in there]
        samples.add(tx, fresh)
        # other settings may by chance have given the same bytes: that copy now stands under these
        same = [one for id, one in by_id.items() if id in there and _adopted(there[id], one, wanted)]
        samples.change(tx, ({"id": one.id, "source": one.source, "refusal": None} for one in same))
        parents = samples.some(tx, [one.parent_id for one in (*fresh, *same) if one.parent_id])
        _say(tx, [(one.id, parents[one.parent_id or ""].label) for one in (*fresh, *same)])
        changed.refile([one.id for one in same])
        known = {one.key for one in samples.some(tx, list(by_id)).values()}
        changed.discard([one.key for one in new if one.key not in known])
    faults.point("augment.committed")
    return len(fresh) + len(same)


def _adopted(there: Sample, new: Sample, wanted: set[str]) -> bool:
    return there.parent_id == new.parent_id and there.source not in wanted


def _jpeg(pixels: Image) -> bytes:
    return encode_jpeg(pixels, JPEG_QUALITY)


def _decoded(workspace: Workspace, one: Sample) -> Decoded:
    limits = workspace.config.collect
    with workspace.store.open(one.key) as file:
        data = file.read()
    try:
        return decode(data, max_pixels=int(limits.max_megapixels * 1e6), max_bytes=int(limits.max_file_mb * 1e6))
    except BadImage as error:
        raise Corrupt(
            f"Sample {one.id} cannot be decoded: {error.message}", "Check all files: everlearn doctor --deep"
        ) from None


# --- the previews -------------------------------------------------------------------------------------------------


def previews(store: Store) -> list[str]:
    """The keys of all previews, whether they are there or not."""
    return [PREVIEW, *store.keys(PREVIEWS)]


def is_preview(key: str) -> bool:
    """Whether a file is a preview, and therefore no sample."""
    return key == PREVIEW or key.startswith(f"{PREVIEWS}/")


def _preview(workspace: Workspace) -> str | None:
    """A grid of the first few images, each in a row with its copies: parent on the left. Returns its key."""
    rows: dict[SampleId, list[Sample]] = {}
    with workspace.catalog.read() as tx:
        standing = sa.and_(sample.c.parent_id.is_not(None), sample.c.status.in_(("labelled", "learned")))
        first = (
            sa.select(sample.c.parent_id).where(standing).distinct().order_by(sample.c.parent_id).limit(_PREVIEW_ROWS)
        )
        parents = samples.some(tx, [row.parent_id for row in tx.execute(first)])
        for one in sorted(children(tx, list(parents)), key=lambda one: (one.source, one.id)):
            rows.setdefault(one.parent_id or "", [parents[one.parent_id or ""]])
            if one.refusal is None and len(rows[one.parent_id or ""]) < _PREVIEW_COLUMNS:
                rows[one.parent_id or ""].append(one)
    if not rows:
        workspace.store.remove(PREVIEW)
        return None
    grid = preview.grid([[_decoded(workspace, one).pixels for one in shown] for _, shown in sorted(rows.items())])
    workspace.store.put(PREVIEW, io.BytesIO(encode_png(grid)))
    return PREVIEW

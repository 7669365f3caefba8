"""From what sources offer to data that is taken in, labelled and augmented."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from everlearn.catalog import origins, samples, versions
from everlearn.catalog.tables import sample
from everlearn.collect.after import KEEP, After
from everlearn.collect.options import SourceOptions
from everlearn.collect.sources import is_table, open_source
from everlearn.collect.take import MOST_REFUSALS, Collected, take
from everlearn.dataset.export import MARK
from everlearn.errors import BadInput, Missing, TooFew
from everlearn.label import automatic
from everlearn.model.backbone import Rows
from everlearn.naming import UNKNOWN
from everlearn.s3 import OutOfReach
from everlearn.stages.validating import side
from everlearn.types import Found, Refused

if TYPE_CHECKING:
    from everlearn.augment.make import AugmentReport
    from everlearn.catalog.samples import Sample
    from everlearn.collect.options import Source
    from everlearn.label.automatic import Labelling, Sure
    from everlearn.types import Prediction, Progress, SampleId
    from everlearn.workspace import Workspace

PREVIEWED, ROWS = 2000, 8
"""Images that a preview chooses from, and how many it shows."""


Ready = Callable[[Sequence[Found]], list[Found]]
"""Those of a source's things that may be taken in now."""


def gather(
    workspace: Workspace, given: Sequence[str], progress: Progress, *, labels_from: str | None = None,
    ready: Ready | None = None,
) -> Collected:  # fmt: skip
    """Take in the configured sources, of which one that is out of reach stops nothing, and then those given now."""
    total = Collected()
    for source in own_sources(workspace):
        try:
            _add(total, collect(workspace, [source], progress, ready=ready))
        except (Missing, OutOfReach) as error:
            total.refuse(Refused(source, error.message))
            progress.say(f"collect.sources: {error.message}")
    _add(total, collect(workspace, given, progress, labels_from=labels_from))
    return total


def own_sources(workspace: Workspace) -> list[str]:
    """`collect.sources`, those of this machine as absolute paths: a relative one lies beside everlearn.yaml."""
    sources = workspace.config.collect.sources
    return [one if "://" in one else str(workspace.root / Path(one).expanduser()) for one in sources]


def collect(
    workspace: Workspace, sources: Sequence[str], progress: Progress, *, labels_from: str | None = None,
    ready: Ready | None = None, after: str | None = None, **said: Any,
) -> Collected:  # fmt: skip
    """Take in all sources, one after another. after: what is then done with objects of buckets; None: what
    `collect.after` says. Raises BadInput for a table of numbers where the backbone takes images,
    and for images where it takes numbers: once they were in, no turn could go on."""
    total = Collected()
    _check_labels(workspace, said.get("label"), labels_from or workspace.config.collect.labels_from)
    for source in sources:
        then = _after(workspace, source, after)
        said["after"] = then.text if then else None
        opened = open_source(source, _options(workspace, labels_from=labels_from, **said))
        _check_kind(workspace, source)
        if labels_from in (None, "auto") and "://" not in source and (Path(source) / MARK).is_file():
            progress.say(f"{source} is an export of Everlearn: its index.csv says the labels. If you have edited its "
                         "label files, say --labels-from yolo (or coco, voc, labelstudio).")  # fmt: skip
        name = source if "://" in source else str(Path(source).absolute())
        _add(total, take(workspace, name, opened if ready is None else _Ready(opened, ready), progress, then))
        if opened.origin:
            with workspace.catalog.write() as tx:
                origins.keep(tx, name, opened.origin)
    return total


def _after(workspace: Workspace, source: str, given: str | None) -> After | None:
    """What is done with a source's objects afterwards. The setting is of buckets; what is given now must fit."""
    in_bucket = source.lower().startswith("s3://")
    text = given or (workspace.config.collect.after if in_bucket else KEEP)
    return None if text == KEEP else After(text, source)


def _check_labels(workspace: Workspace, label: str | None, labels_from: str) -> None:
    """Raises BadInput for labels of whole images where boxes are learned."""
    if workspace.config.task != "detect":
        return
    if label is not None or labels_from in ("folder", "filename"):
        given = f"--label {label}" if label is not None else f"labels_from {labels_from}"
        raise BadInput(
            f"{given} labels whole images; this workspace learns boxes.",
            "Collect a YOLO, COCO, VOC or Label Studio data set, or draw them: everlearn review --browser",
        )


def _check_kind(workspace: Workspace, source: str) -> None:
    backbone = workspace.config.backbone
    if is_table(Path(source)) == (backbone == Rows.spec):
        return
    if backbone == Rows.spec:
        raise BadInput(
            f"{source} is no table of numbers, which the backbone `features` takes.",
            "Give a .csv or .parquet file of numbers; for images make a workspace with another backbone.",
        )
    raise BadInput(
        f"{source} is a table of numbers; the backbone {backbone} takes images.",
        "Make a workspace for it: everlearn init DIR --backbone features; a CSV of images has a column `path`.",
    )


def _add(total: Collected, came: Collected) -> None:
    total.collected += came.collected
    total.duplicates += came.duplicates
    total.suppressed += came.suppressed
    total.cut += came.cut
    total.refused += came.refused
    total.rejected += came.rejected[: max(0, MOST_REFUSALS - len(total.rejected))]


class _Ready:
    """A source without what may not be taken in yet."""

    BATCH = 500

    def __init__(self, source: Source, ready: Ready) -> None:
        self.source, self.ready = source, ready

    def items(self) -> Iterator[Found | Refused]:
        items = self.source.items()
        while batch := list(islice(items, self.BATCH)):
            yield from (one for one in batch if isinstance(one, Refused))
            yield from self.ready([one for one in batch if isinstance(one, Found)])

    def estimate(self) -> int | None:
        return self.source.estimate()


def _options(workspace: Workspace, labels_from: str | None = None, **said: Any) -> SourceOptions:
    settings = workspace.config.collect
    if settings.pattern and "pattern" not in said:
        said["pattern"] = settings.pattern
    by = labels_from or settings.labels_from
    return SourceOptions(
        labels_from=None if by == "auto" else by,  # type: ignore[arg-type]
        exclude=(str(workspace.root),),
        max_bytes=int(settings.max_file_mb * 1e6),
        frames_per_second=settings.frames_per_second,
        on_scene_change=settings.scene_change,
        label_column=settings.label_column,
        most_columns=Rows.dimensions,
        scratch=str(workspace.private("")),
        known=partial(_is_known, workspace),
        **{key: value for key, value in said.items() if value is not None},
    )


def _is_known(workspace: Workspace, one: Found) -> bool:
    with workspace.catalog.read() as tx:
        return bool(samples.seen(tx, [samples.Place(one.uri, one.size, one.modified, one.etag)]))


# label, augment


def label(workspace: Workspace, progress: Progress) -> Labelling:
    """Label what the model is sure of; the rest waits for a person, most informative first."""
    if workspace.config.task == "detect":
        from everlearn.stages.detecting import labelling

        return labelling.label(workspace, progress)
    return automatic.automatic(
        workspace, _sure(workspace, progress) if workspace.config.label.automatic else None, progress
    )


def _sure(workspace: Workspace, progress: Progress) -> Sure | None:
    from everlearn.stages import answering

    with workspace.catalog.read() as tx:
        model = versions.champion(tx) or versions.newest(tx)
    if model is None or workspace.config.task == "regress":
        return None
    promise = (model.metrics or {}).get("auto_label")
    answerer = answering.answerer(workspace, model)

    def predict(ids: Sequence[SampleId]) -> Sequence[Prediction]:
        return answerer.predictions(ids, progress)

    unknown = UNKNOWN if answerer.open_set else None
    return automatic.Sure(predict, promise["threshold"] if promise else None, model.name, unknown)


def augment(workspace: Workspace, progress: Progress, copies: int | None = None) -> AugmentReport:
    """Write changed copies of the training images. Raises BadInput where they hold boxes."""
    if workspace.config.task == "detect":
        raise BadInput(
            "Copies on disk would need boxes of their own; a detector's training alters its images as it goes.",
            "Set it there: detect.options, such as mosaic=0.5, scale=0.3, fliplr=0; see train_batch*.jpg of a run.",
        )
    from everlearn.augment.make import augment as make

    on = side(workspace)
    return make(workspace, progress, side=lambda one: on(one.group_key), copies=copies)


def preview(workspace: Workspace, recipe: str, stage: str | None = None) -> dict[str, str]:
    """Show what a recipe's stages do to a few training images. Returns the picture's key for each stage that changes
    them. Raises Missing, BadConfig, BadInput for a stage that is not there, TooFew without a labelled image."""
    from everlearn.augment.make import PREVIEWS
    from everlearn.augment.preview import jpeg
    from everlearn.augment.training import augmenter
    from everlearn.learn.features import images
    from everlearn.learn.network.recipe import load
    from everlearn.model.pixels import prepare

    chosen = load(recipe)
    names = [one.name for one in chosen.stages]
    if stage is not None and stage not in names:
        raise BadInput(f"The recipe {chosen.name} has no stage {stage}.", f"It has: {', '.join(names)}.")
    shown = _shown(workspace)
    pixels = prepare(images(workspace, [one.id for one in shown]), chosen.size)  # (N, S, S, 3)
    found = {}
    for one in chosen.stages:
        changes = augmenter(one.augmentation)
        if changes is not None and stage in (None, one.name):
            found[one.name] = f"{PREVIEWS}/{chosen.name}_{one.name}.jpg"
            picture = jpeg(changes, pixels, [each.label or "" for each in shown])
            workspace.store.put(found[one.name], io.BytesIO(picture))
    return found


def _shown(workspace: Workspace) -> list[Sample]:
    """A few labelled images of the training side, of as many labels as may be, in order of label."""
    on = side(workspace)
    ready = sa.and_(
        sample.c.status.in_(("labelled", "learned")), sample.c.kind == "image", sample.c.parent_id.is_(None)
    )
    with workspace.catalog.read() as tx:
        first = islice((one for batch in samples.batches(tx, ready) for one in batch), PREVIEWED)
        training = [one for one in first if on(one.group_key) == "train"]
    if not training:
        raise TooFew("No labelled image is on the training side.", "Collect and label some: everlearn collect SRC")
    turn: Counter[str | None] = Counter()
    order = []
    for one in training:  # the first of each label, then the second of each ...
        turn[one.label] += 1
        order.append((turn[one.label], one.label or "", one))
    return [one for _, _, one in sorted(sorted(order, key=itemgetter(0, 1))[:ROWS], key=itemgetter(1, 0))]

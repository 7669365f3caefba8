"""From what sources offer to data that is judged, scored and labelled."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from everlearn.catalog import labels, origins, samples, turns, versions
from everlearn.catalog.tables import sample
from everlearn.collect.after import KEEP, After
from everlearn.collect.options import SourceOptions
from everlearn.collect.sources import is_table, open_source
from everlearn.collect.take import MOST_REFUSALS, Collected, take
from everlearn.dataset.build import HELD, ODD_BOX, SUSPECT, side_of
from everlearn.errors import BadInput, Missing, TooFew
from everlearn.evaluate import gates
from everlearn.files import change
from everlearn.label import automatic
from everlearn.model.backbone import Rows
from everlearn.naming import UNKNOWN, is_class
from everlearn.s3 import OutOfReach
from everlearn.stages import standing, teach
from everlearn.stages.detecting import boxes as drawn
from everlearn.types import Found, Refused
from everlearn.validate import judge as judging

if TYPE_CHECKING:
    from everlearn.augment.make import AugmentReport
    from everlearn.catalog.samples import Sample
    from everlearn.collect.options import Source
    from everlearn.label.automatic import Labelling, Sure
    from everlearn.types import Member, Prediction, Progress, SampleId
    from everlearn.validate.boxes import BoxQuality
    from everlearn.workspace import Workspace

LEAST_TAUGHT = 10
"""Examples to learn from that a class must have before labels of it, or in favour of it, are doubted."""
PREVIEWED, ROWS = 2000, 8
"""Images that a preview chooses from, and how many it shows."""
UNEVEN = ("diversity", "class_balance")
"""Scores that are low where a camera stands still, and visitors are who they are."""
NAMED = 20
"""Images named for each score that they pull down."""


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


# validate


@dataclass(slots=True)
class Validated:
    """scores: of the whole data set, 0-1, None where there is nothing to score; culprits: score to the samples that
    pull it down most; stops: the data gates that failed, a line each, naming images; boxes: their quality, where the
    task is `detect`."""

    validated: int
    quarantined: dict[str, int]
    scores: dict[str, float | None] = field(default_factory=dict)
    culprits: dict[str, list[SampleId]] = field(default_factory=dict)
    gates: dict[str, Any] = field(default_factory=dict)
    stops: list[str] = field(default_factory=list)
    boxes: BoxQuality | None = None

    def to_json(self) -> dict[str, Any]:
        said = {"validated": self.validated, "quarantined": self.quarantined, "scores": self.scores,
                "culprits": self.culprits, "gates": self.gates}  # fmt: skip
        return said if self.boxes is None else {**said, "boxes": self.boxes.to_json()}


def validate(workspace: Workspace, progress: Progress) -> Validated:
    """Judge what is new, hold back labels that are held wrong, and score the whole data set."""
    judged = judging.judge(workspace, _side(workspace), progress)
    result = Validated(judged.validated, dict(sorted(judged.quarantined.items())))
    result.boxes = drawn.examined(workspace) if workspace.config.task == "detect" else None
    wrong = decide_suspects(workspace, progress, result.boxes)
    _score(workspace, result, wrong)
    with workspace.catalog.write() as tx:
        turns.set_to(tx, "data_scores", {"scores": result.scores, "culprits": result.culprits})
    found = data_gates(workspace, result.scores)
    result.gates = {name: gate.to_json() for name, gate in found.items()}
    for name, gate in found.items():
        if not gate.passed:
            worst = " ".join(result.culprits.get(name, [])[:5])
            result.stops.append(f"{gates.failed({name: gate})[0]}" + (f", pulled down by {worst}" if worst else ""))
    return result


def data_gates(workspace: Workspace, found: Mapping[str, float | None]) -> dict[str, gates.Gate]:
    """The data gates that the configuration sets, on these scores. What cannot be scored stops nothing. Where boxes are
    learned the usual gates of `UNEVEN` do not hold, only those that a person sets: a camera that stands still shows one
    place again and again, and more people pass than cats."""
    settings = workspace.config.gates
    targets = {name: getattr(settings, name) for name in gates.DATA_TARGETS if getattr(settings, name) is not None}
    if workspace.config.task == "detect":
        targets = {n: value for n, value in targets.items() if n not in UNEVEN or n in settings.model_fields_set}
    return gates.judge(found, targets, dict.fromkeys(targets, "there was nothing to score"))


def decide_duplicates(workspace: Workspace, without: Collection[SampleId] = ()) -> int:
    """Decide near duplicates again; returns how many are set aside now."""
    if not workspace.config.validate_.near_duplicates:
        return 0
    return sum(judging.decide_duplicates(workspace, _side(workspace), without).values())


def _side(workspace: Workspace) -> Callable[[str], str]:
    return lambda group: side_of(group, workspace.config.dataset)


def decide_suspects(
    workspace: Workspace, progress: Progress, boxes: BoxQuality | None = None
) -> dict[SampleId, str] | None:
    """Labels that are held wrong, the least believed first, with what they rather are; for `detect` images with odd
    boxes, with what is odd. Those on the learning side wait for a person. boxes: as they were examined just now.

    Judged anew on everything labelled, suspects among it, so it depends on the data alone. None where the task has no
    classes, or too few examples of them to judge by; then no label is in doubt.
    """
    if workspace.config.task == "detect":
        odd = drawn.doubted(workspace, boxes or drawn.examined(workspace))
        with workspace.catalog.read() as tx:
            groups = {id: one.group_key for id, one in samples.some(tx, list(odd)).items()}
        side = _side(workspace)
        _hold(workspace, odd, {id for id, group in groups.items() if side(group) != "test"}, ODD_BOX)
        return odd
    members = teach.pool(workspace)
    wrong = _suspects(workspace, members, progress)
    if wrong:  # a label that a person gave is never doubted
        with workspace.catalog.read() as tx:
            there = samples.some(tx, list(wrong))
        wrong = {id: meant for id, meant in wrong.items() if there[id].label_by not in labels.PEOPLE}
    _hold(workspace, wrong or {}, {one.id for one in members if one.split != "test"})
    return wrong


def _suspects(workspace: Workspace, members: Sequence[Member], progress: Progress) -> dict[SampleId, str] | None:
    from everlearn.validate.suspects import find

    originals = [one for one in members if one.parent is None]
    learnable = [one for one in originals if one.split != "test"]
    taught = Counter(one.label for one in learnable)
    if workspace.config.task != "classify" or sum(number >= LEAST_TAUGHT for number in taught.values()) < 2:
        return None
    memory = standing.live(workspace)
    memory.bring_to(members, progress)
    found = standing.fitted(workspace, memory, progress)
    if found.held_out is None:
        return None
    table = _probabilities(memory, found, [one.id for one in originals], progress)
    classes = {name: column for column, name in enumerate(found.head.classes)}
    rows = [row for row, one in enumerate(originals) if one.label in classes and np.isfinite(table[row]).all()]
    table, given = table[rows], np.array([classes[originals[row].label] for row in rows])
    judged = find(table, given)
    sure = table.max(axis=1) >= workspace.config.validate_.suspect_confidence
    known = np.array([taught[name] >= LEAST_TAUGHT for name in found.head.classes])
    doubted = sure & known[given] & known[judged.meant]
    return {originals[rows[at]].id: found.head.classes[judged.meant[at]] for at in judged.order if doubted[at]}


def _probabilities(memory: Any, found: Any, ids: Sequence[SampleId], progress: Progress) -> Any:
    """(N, C) honest probabilities: out of fold for what the memory holds, the head's own for the test side."""
    row = {id: number for number, id in enumerate(ids)}
    table = np.full((len(ids), len(found.head.classes)), np.nan, np.float32)
    held = found.held_out.cached.ids
    wanted = [number for number, id in enumerate(held) if id in row]
    table[[row[held[number]] for number in wanted]] = found.held_out.probabilities()[wanted]
    others = sorted(set(ids) - set(held))
    for part, phi in memory.features.batches(others, progress):
        table[[row[id] for id in part]] = found.head.probabilities(phi)
    return table


def _hold(workspace: Workspace, wrong: Mapping[SampleId, str], learning: set[SampleId], why: str = SUSPECT) -> None:
    """Bring suspects in the catalog into step. why: they wait for a person."""
    from everlearn.catalog.tables import sample

    with change(workspace) as changed:
        tx = changed.tx
        there = {one.id: one for batch in samples.batches(tx, sample.c.suspect.is_not(None)) for one in batch}
        there.update(samples.some(tx, list(wrong)))
        hold = workspace.config.validate_.hold_suspects
        rows: list[dict[str, Any]] = []
        for id, one in sorted(there.items()):
            suspect = None if one.label_by in labels.PEOPLE else wrong.get(id)  # who may have spoken since
            queued = hold and suspect is not None and id in learning
            reason, urgency = (why, 1.5) if queued else (None, 0.0)
            if one.queue_reason not in (None, *HELD):  # it waits for another reason, and goes on waiting
                queued, reason, urgency = one.queued, one.queue_reason, one.urgency
            if (one.suspect, one.queued) != (suspect, queued):
                rows.append({"id": id, "suspect": suspect, "queued": queued, "queue_reason": reason,
                             "urgency": urgency})  # fmt: skip
        samples.change(tx, rows)
        samples.restate(tx, [row["id"] for row in rows])


def _score(workspace: Workspace, result: Validated, wrong: Mapping[SampleId, str] | None) -> None:
    """The scores of DESIGN §7 over everything that is labelled, each with the images that pull it down."""
    from everlearn.validate import scores

    labelled = {one.id: one for batch in judging.labelled(workspace) for one in batch}
    result.scores = {"quality": None, "label_accuracy": None, "diversity": None, "class_balance": None}
    if not labelled:
        return
    classify = workspace.config.task == "classify"
    open_set = workspace.config.learn.unknown is not None
    classes = {id: one.label if classify else "all" for id, one in labelled.items() if is_class(one.label, open_set)}
    if not classes:
        return
    found = {
        "quality": scores.quality({id: one.quality for id, one in labelled.items()}),
        "diversity": scores.diversity(*judging.described(workspace, classes)),
    }
    if classify:
        found["class_balance"] = scores.class_balance(classes)
    if result.boxes is not None:
        found["class_balance"] = scores.Score(result.boxes.balance, result.boxes.above)
    if wrong is not None:
        found["label_accuracy"] = scores.Score(1 - len(wrong) / len(labelled), tuple(wrong))
    result.scores.update({name: score.value for name, score in found.items()})
    result.culprits = {name: list(score.worst[:NAMED]) for name, score in found.items()}


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

    side = _side(workspace)
    return make(workspace, progress, side=lambda one: side(one.group_key), copies=copies)


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
    side = _side(workspace)
    ready = sa.and_(
        sample.c.status.in_(("labelled", "learned")), sample.c.kind == "image", sample.c.parent_id.is_(None)
    )
    with workspace.catalog.read() as tx:
        first = islice((one for batch in samples.batches(tx, ready) for one in batch), PREVIEWED)
        training = [one for one in first if side(one.group_key) == "train"]
    if not training:
        raise TooFew("No labelled image is on the training side.", "Collect and label some: everlearn collect SRC")
    turn: Counter[str | None] = Counter()
    order = []
    for one in training:  # the first of each label, then the second of each ...
        turn[one.label] += 1
        order.append((turn[one.label], one.label or "", one))
    return [one for _, _, one in sorted(sorted(order, key=itemgetter(0, 1))[:ROWS], key=itemgetter(1, 0))]

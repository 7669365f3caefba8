"""A new kind of visitor by one command: a handful of images, the detector as it is, and a version a few seconds later.

find its box (or take the whole image) ► keep it as a person's word ► move the memory of crops ► register
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from everlearn import faults, image, registry
from everlearn.catalog import samples, scenes, snapshots
from everlearn.catalog.crops import crop_id
from everlearn.catalog.samples import id_of
from everlearn.catalog.tables import sample
from everlearn.collect.options import SourceOptions
from everlearn.collect.sources import open_source
from everlearn.collect.take import take
from everlearn.dataset.build import build, side_of
from everlearn.errors import BadInput, EverlearnError
from everlearn.label import person
from everlearn.learn import crops as memories
from everlearn.learn.crops import left_out
from everlearn.learn.live import Moved
from everlearn.naming import clean_label, coarse
from everlearn.stages import teach as teaching
from everlearn.stages.detecting import crops, learning, sides
from everlearn.stages.detecting.answering import standing
from everlearn.types import SILENT, Box, Found, Refused, Scene
from everlearn.validate.judge import admit

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.model.detecting.onnx import OnnxDetector
    from everlearn.stages.detecting.crops import Solved
    from everlearn.types import Image, Member, Progress, SampleId
    from everlearn.workspace import Workspace

FOUND_FROM = 0.1
"""Least confidence of a box that is taken for what a person says the image shows."""
SAME = 0.5
"""IoU from which a box that was drawn before is the one that is meant."""
MOST = 200
"""Images of one command: whatever is more is a data set."""
OF_DETECTOR = ("run", "best_epoch", "map50_validation")
"""Of a version's metrics, what holds as long as its detector stays."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One image of what is taught. box: what is meant, with the label; others: of the same coarse class, as plain."""

    id: SampleId
    found: Found
    data: bytes
    pixels: Image
    box: Box
    others: tuple[Box, ...]


@dataclass(slots=True)
class Example:
    """What became of one image. answer: what the new version says of its crop; left_out: what the memory says that did
    not learn it, None where it could not be left out; side: where its group stands."""

    path: str
    id: SampleId
    box: Box
    side: str
    answer: str | None = None
    confidence: float | None = None
    left_out: str | None = None

    def to_json(self) -> dict[str, Any]:
        box = {name: round(getattr(self.box, name), 7) for name in ("x", "y", "width", "height")}
        return {"path": self.path, "id": self.id, "box": box, "side": self.side, "answer": self.answer,
                "confidence": self.confidence, "left_out": self.left_out}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lesson:
    """What `teach` has done. refused: images that could not be taught; alone: nobody is there to tell it from."""

    version: Version
    label: str
    examples: Sequence[Example]
    refused: Sequence[Refused]
    alone: bool
    seconds: float

    @property
    def taught(self) -> int:
        """Crops that the memory holds now."""
        return sum(one.side != "test" for one in self.examples)

    @property
    def recognised(self) -> int:
        """Images whose crop the new version answers so."""
        return sum(one.answer == self.label for one in self.examples)

    @property
    def unseen(self) -> tuple[int, int]:
        """How many are recognised by what has not learned them, of those that could be left out."""
        left = [one.left_out for one in self.examples if one.left_out is not None]
        return sum(answer == self.label for answer in left), len(left)

    def to_json(self) -> dict[str, Any]:
        unseen, asked = self.unseen
        return {
            "model": self.version.name, "label": self.label, "taught": self.taught, "recognised": self.recognised,
            "recognised_left_out": unseen, "left_out": asked, "strangers_known": not self.alone,
            "seconds": round(self.seconds, 3), "images": [one.to_json() for one in self.examples],
            "refused": [{"path": one.path, "reason": one.reason} for one in self.refused],
        }  # fmt: skip


@dataclass(frozen=True)
class Frozen:
    """The detector that stays as it is, and the version that it is of; None where it is the configured file."""

    detector: OnnxDetector
    version: Version | None


def teach(
    workspace: Workspace, label: str, paths: Sequence[str], progress: Progress, *, whole: bool = False
) -> Lesson:  # fmt: skip
    """Teach what tells a class of crops apart from images of it, and register the version that knows it.

    label: of two parts; or, once a kind of it is known, the coarse class alone: strangers, who are none of these.
    whole: each image is the crop. Raises BadInput for another label, a class that the detector does not find, and where
    no image could be taught.
    """
    began = time.monotonic()
    label = checked(workspace, label)
    frozen = _frozen(workspace)
    _check_found(frozen, label)
    shown, refused = _looked(workspace, frozen.detector, label, paths, whole)
    if not shown:
        first = refused[0] if refused else Refused(", ".join(paths), "there is no image")
        raise BadInput(f"Nothing could be taught. {first.path}: {first.reason}", "Give images of it.")
    kept, gone = _kept(workspace, shown, paths)
    refused += gone
    if not kept:
        raise BadInput(f"Nothing could be taught. {gone[0].path}: {gone[0].reason}", "Give other images.")
    faults.point("teach.kept")
    version, memory, members = _registered(workspace, frozen, label, kept, began, progress)
    examples = _examined(workspace, frozen, version, memory, kept, members)
    alone = memory.fitted[coarse(label)].head.unknown is None
    return Lesson(version, label, examples, refused, alone, time.monotonic() - began)


def checked(workspace: Workspace, label: str) -> str:
    """The label as it is kept. Raises BadInput where it is not of two parts, nor a class of which a kind is known, or
    the task is another."""
    if workspace.config.task != "detect":
        raise BadInput(
            f"teach is for task detect; this workspace is for {workspace.config.task}.",
            "Here a class is taught by its images: everlearn collect FOLDER --label NAME, then everlearn learn",
        )
    text = clean_label(label)
    first, slash, second = (part.strip() for part in text.partition("/"))
    if slash and first and second:
        return f"{first}/{second}"
    if slash or first not in memories.names(workspace):
        raise BadInput(
            f"The label {text!r} has no two parts.", "Write what the detector finds, a slash, and which: person/courier"
        )
    return first


def _frozen(workspace: Workspace) -> Frozen:
    """The champion's detector, else the newest version's, else the file that is the learner. Raises BadInput."""
    from everlearn.model.detecting.onnx import OnnxDetector

    version = standing(workspace)
    if version is not None:
        return Frozen(OnnxDetector(registry.bundle_file(workspace, version, ".onnx")), version)
    learner = workspace.config.learn.learner
    if not learner.startswith("onnx:"):
        raise BadInput("There is no detector yet.", "Train one (everlearn learn), or set learn.learner: onnx:FILE")
    from everlearn.model.detecting.detector import load_detector

    found = load_detector(learner, workspace.root)
    assert isinstance(found, OnnxDetector)
    return Frozen(found, None)


def _check_found(frozen: Frozen, label: str) -> None:
    classes = frozen.detector.classes
    if coarse(label) not in classes:
        shown = ", ".join(classes[:20]) + (" …" if len(classes) > 20 else "")
        raise BadInput(f"The detector finds no {coarse(label)!r}.", f"It finds: {shown}")


# --- what the images show -----------------------------------------------------------------------------------------


def _looked(
    workspace: Workspace, detector: OnnxDetector, label: str, paths: Sequence[str], whole: bool
) -> tuple[list[Shown], list[Refused]]:  # fmt: skip
    """The box that is meant on each image, and images without one."""
    shown: dict[SampleId, Shown] = {}
    refused: list[Refused] = []
    for item in _items(paths):
        try:
            if isinstance(item, Refused):
                refused.append(item)
                continue
            data = item.read()
            pixels = image.decode(data, max_pixels=int(workspace.config.collect.max_megapixels * 1e6)).pixels
            box, others = (Box(label, 0.0, 0.0, 1.0, 1.0), ()) if whole else _meant(detector, pixels, label)
            id = id_of(data)
            shown.setdefault(id, Shown(id, item, data, pixels, box, others))
        except EverlearnError as error:
            refused.append(Refused(item.uri if isinstance(item, Found) else item.path, str(error)))
        except OSError as error:
            refused.append(Refused(item.uri, f"cannot be read: {error.strerror or error}"))  # type: ignore[union-attr]
        if len(shown) > MOST:
            raise BadInput(f"More than {MOST} images are no handful.", "Collect them as a data set with its boxes.")
    return list(shown.values()), refused


def _items(paths: Sequence[str]) -> Iterator[Found | Refused]:
    for path in paths:
        try:
            if not path.strip():  # which would be the current folder
                raise BadInput("a path is empty.", "Name an image.")
            yield from open_source(path, SourceOptions(labels_from="none")).items()
        except EverlearnError as error:
            yield Refused(path, error.message)


def _meant(detector: OnnxDetector, pixels: Image, label: str) -> tuple[Box, tuple[Box, ...]]:
    """The surest box of the coarse class, and the others that the detector tells: people who are not the one meant.
    Raises BadInput."""
    name = coarse(label)
    (found,) = detector.detect([pixels], least=FOUND_FROM)
    mine = [_plain(box) for box in found if box.label == name]
    if not mine:
        raise BadInput(f"no {name} is found on it.", "Cut it out, and teach with --whole.")
    sure = [_plain(box) for box in found if box.label == name and (box.confidence or 0) >= detector.thresholds[name]]
    return replace(mine[0], label=label), tuple(box for box in sure if scenes.overlap(box, mine[0]) < SAME)


def _plain(box: Box) -> Box:
    """On the grid, as scenes keep it."""
    (kept,) = scenes.canonical(Scene((replace(box, confidence=None),))).boxes
    return kept


# --- what is kept -------------------------------------------------------------------------------------------------


def _kept(workspace: Workspace, shown: Sequence[Shown], paths: Sequence[str]) -> tuple[list[Shown], list[Refused]]:
    """Images as samples, with what a person said of them; and those that cannot be kept. box: as it stands in the
    scene."""
    with workspace.catalog.read() as tx:
        before = set(samples.some(tx, [one.id for one in shown]))
    take(workspace, "teach", _Given(shown), SILENT)
    with workspace.catalog.read() as tx:
        there = samples.some(tx, [one.id for one in shown])
    gone = [Refused(one.found.uri, "it was forgotten on request") for one in shown if one.id not in there]
    kept = []
    for one in shown:
        if one.id in there:
            scene, box = _scene(workspace, one)
            person.draw(workspace, one.id, scene)
            kept.append(replace(one, box=box))
    broken = admit(workspace, [one.id for one in kept])
    _to_learn_from(workspace, [one.id for one in kept if one.id not in before])
    gone += [Refused(one.found.uri, broken[one.id]) for one in kept if one.id in broken]
    return [one for one in kept if one.id not in broken], gone


class _Given:
    """A source of images that were read already."""

    def __init__(self, shown: Sequence[Shown]) -> None:
        self.shown = shown

    def items(self) -> Iterator[Found | Refused]:
        for one in self.shown:
            yield replace(one.found, read=lambda data=one.data: data, label=None, boxes=None, about=None)

    def estimate(self) -> int:
        return len(self.shown)


def _scene(workspace: Workspace, one: Shown) -> tuple[Scene, Box]:
    """What is known of an image once this is said of it, and the box that is meant. What was said of it before stays;
    a box that was drawn there is called by the new name. Of other classes nothing is claimed."""
    with workspace.catalog.read() as tx:
        before = scenes.of(tx, [one.id]).get(one.id)
    name = coarse(one.box.label)
    if before is None:
        return Scene((one.box, *one.others), (name,)), one.box
    mine = [box for box in before.boxes if coarse(box.label) == name]
    same = max(mine, key=lambda box: scenes.overlap(box, one.box), default=None)
    about = None if before.about is None else (*before.about, name)
    if same is None or scenes.overlap(same, one.box) < SAME:
        return Scene((*before.boxes, one.box), about), one.box
    box = replace(same, label=one.box.label)
    return Scene((*(other for other in before.boxes if other is not same), box), about), box


def _to_learn_from(workspace: Workspace, ids: Sequence[SampleId]) -> None:
    """What is taught is for learning from: where the group of a new image fell on the test side, and no other image is
    in it, it is given another name, which does not."""
    with workspace.catalog.write() as tx:
        rows = list(samples.some(tx, ids).values())
        changes = []
        for group in {one.group_key for one in rows}:
            mine = {one.id for one in rows if one.group_key == group}
            if side_of(group, workspace.config.dataset) != "test" or _others(tx, group, mine):
                continue
            name = group
            while side_of(name, workspace.config.dataset) == "test":
                name += "+"
            changes += [{"id": id, "group_key": name} for id in sorted(mine)]
        samples.change(tx, changes)


def _others(tx: Any, group: str, mine: set[SampleId]) -> bool:
    return any(one.id not in mine for batch in samples.batches(tx, sample.c.group_key == group) for one in batch)


# --- the version --------------------------------------------------------------------------------------------------


def _registered(
    workspace: Workspace, frozen: Frozen, label: str, kept: Sequence[Shown], began: float, progress: Progress
) -> tuple[Version, Solved, Mapping[SampleId, Member]]:
    """The version of the detector as it is and the memory as the snapshot has it. Raises BadInput."""
    from everlearn.stages.detecting.taught import SCENES, Detecting, digest_of
    from everlearn.stages.learners import Taught

    snapshot = build(workspace)
    with workspace.catalog.read() as tx:
        members = [one for one in snapshots.members(tx, snapshot.number) if one.parent is None]
    learned = sides.labelled(workspace, [one for one in members if one.split != "test"])
    memory = crops.learned(workspace, learned, frozen.detector, progress)
    if memory is None or (label != coarse(label) and label not in memory.classes(())):
        raise BadInput(
            f"All images of {label} stand on the test side, and nothing is learned from those.",
            "Teach others, or lower dataset.test.",
        )
    version = frozen.version
    before = dict(version.metrics or {}) if version else {}
    now = sides.digest_of(learned)
    fixed = workspace.config.learn.learner.startswith("onnx")
    details: dict[str, Any] = {name: value for name, value in before.items() if name in OF_DETECTOR}
    details |= {SCENES: now if fixed else before.get(SCENES), "detector_of": before.get("detector_of")
                or (version and version.name), "taught": label}  # fmt: skip
    extra: dict[str, Any] = {}
    if version is not None and learning.has_weights(workspace, version):
        extra[learning.WEIGHTS] = registry.bundle_file(workspace, version, learning.WEIGHTS)
    answers = Detecting(
        frozen.detector, version.backbone if version else workspace.config.learn.learner,
        frozen.detector.thresholds, memory, extra,
    )  # fmt: skip
    model = crops.model_digest(digest_of(frozen.detector), memory)
    found = Taught(
        Moved(len(kept), 0), len(learned), answers, memory.digest, model, None, details,
        {"taught": label, "detector_of": details["detector_of"], "knows": "The detector is as it was. What tells the "
         "crops apart is an exact memory, from which they can be taken out."},
    )  # fmt: skip
    report = teaching.reported(workspace.config.learn.learner, found, began, snapshot)
    behind = not fixed and before.get(SCENES) != now
    entered = teaching.register(workspace, found, snapshot, report, f"taught {label}", behind=behind)
    return entered, memory, {one.id: one for one in members}


def _examined(
    workspace: Workspace, frozen: Frozen, version: Version, memory: Solved, kept: Sequence[Shown],
    members: Mapping[SampleId, Member],
) -> list[Example]:  # fmt: skip
    """What the version, as it was registered, answers for each crop; and what it would have, had it not learned it."""
    from everlearn.model.detecting.pipeline import CROPS, with_crops

    served = with_crops(frozen.detector, registry.bundle_file(workspace, version, CROPS))
    name = coarse(kept[0].box.label)
    answers = left_out(memory.fitted[name])
    found = []
    for one in kept:
        asked = [replace(one.box, label=name, confidence=1.0)]
        ((told,),) = served.told([one.pixels], [asked])  # type: ignore[union-attr]
        member = members.get(one.id)
        example = Example(one.found.uri, one.id, one.box, member.split if member else "none")
        example.answer, example.confidence = told.label, round(told.confidence or 0.0, 6)
        crop = crop_id(one.id, one.box)
        example.left_out = (answers[crop] or name) if crop in answers else None
        found.append(example)
    return found

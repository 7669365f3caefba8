"""How good a detector is on the test side, how it stands to the champion, and what it has forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from everlearn.catalog import answers, samples, scenes, versions
from everlearn.catalog.labels import PEOPLE
from everlearn.evaluate.detection import Seen, compare_detection, detection
from everlearn.evaluate.detection.metrics import average_precisions
from everlearn.learn.features import images
from everlearn.naming import coarse
from everlearn.stages.detecting import sides
from everlearn.stages.detecting.answering import BATCH, detector_of, found_on, opened
from everlearn.stages.detecting.crops import coarsened
from everlearn.stages.prove import PAST, Outcome, looks
from everlearn.stages.reporting import card_of

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.evaluate.compare import Comparison
    from everlearn.evaluate.detection import DetectionMetrics
    from everlearn.model.detecting.detector import Detector
    from everlearn.model.detecting.onnx import OnnxDetector
    from everlearn.model.detecting.pipeline import ServedPipeline
    from everlearn.stages.answering import Named
    from everlearn.stages.detecting.sides import Labelled
    from everlearn.types import Box, Member, Progress, Scene
    from everlearn.workspace import Workspace

OVERLAP = 0.5
"""IoU from which a reported mistake counts as found."""


def outcome(
    workspace: Workspace, chosen: Named, rival: Version | None, members: Sequence[Member], progress: Progress
) -> Outcome:
    """What `prove.evaluate` needs of a detector."""
    test = sides.labelled(workspace, members)
    own = detector_of(workspace, chosen)
    card = card_of(workspace, chosen, own)
    seen = tested(workspace, own, test, progress, None if chosen.file else chosen.version)
    thresholds = card.get("thresholds") or {}
    metrics = detection(seen, asked_of(own, seen), confidence=thresholds or None)
    comparison = None
    if rival is not None:
        other = tested(workspace, detector_of(workspace, rival), test, progress, rival)
        comparison = compared(workspace, other, seen, looks(workspace, chosen))
    history, names = ([], []) if chosen.file else _history(workspace, chosen.version, own, test, metrics, progress)
    cases = _cases(workspace, own, progress)
    counts = {one.name: one.boxes for one in metrics.classes}
    return Outcome(metrics, comparison, cases, history, names, counts, card, coarse=_coarse(seen))


def _coarse(seen: Sequence[Seen]) -> dict[str, float] | None:
    """How good the detector alone is, where a memory of crops tells second parts of labels apart."""
    if not any("/" in name for name in classes_of(seen)):
        return None
    alone = [coarsened(one) for one in seen]
    found = average_precisions(alone, classes_of(alone))
    return {"map50": sum(found.values()) / len(found)}


def asked_of(detector: Detector, seen: Sequence[Seen]) -> list[str]:
    """The classes of the truth, and what the detector finds besides: ghosts of a class that nowhere is are ghosts."""
    found = {box.label for one in seen for box in one.found}
    return sorted({*classes_of(seen), *(name for name in detector.classes if name in found)})


def classes_of(*several: Sequence[Seen]) -> list[str]:
    """The classes that occur in the truth."""
    return sorted({box.label for seen in several for one in seen for box in one.truth})


def tested(
    workspace: Workspace, detector: Detector, test: Sequence[Labelled], progress: Progress, version: Version | None
) -> list[Seen]:
    """What a detector finds beside what is there. version: whose it is, None for a file's. A detector without a memory
    of crops is asked for the first part of labels alone."""
    by_id = {one.id: one for one in test}
    parts = any("/" in name for name in detector.classes)
    seen = []
    known_as = version.model_digest if version else None
    for id, boxes, (width, height) in found_on(
        workspace, detector, list(by_id), progress, known_as=known_as, name="test"
    ):
        one = by_id[id]
        truth = one.scene.boxes if parts else one.coarse
        about = frozenset({*one.about, *(box.label for box in truth)})
        if parts:  # whoever looked for persons has told couriers from others, where any are told
            about |= {name for name in detector.classes if coarse(name) in one.about}
        seen.append(Seen(id, truth, tuple(boxes), width, height, one.camera, one.group, about))
    return seen


def compared(
    workspace: Workspace, champion: Sequence[Seen], candidate: Sequence[Seen], look: int, alpha: float | None = None
) -> Comparison:
    """Paired comparison of two detectors on the same images, on the classes of the truth. Where one of them tells the
    second parts of labels apart and the other does not, both are held against the whole labels: that is what the one
    has learned."""
    settings = workspace.config.gates
    whole = champion if any("/" in name for name in classes_of(champion)) else candidate
    fine = [
        [replace(one, truth=other.truth, about=other.about) for one, other in zip(seen, whole, strict=True)]
        for seen in (champion, candidate)
    ]
    spent = settings.alpha if alpha is None else alpha
    return compare_detection(
        fine[0], fine[1], classes_of(whole), margin=settings.margin, alpha=spent, look=look
    )  # fmt: skip


def _history(
    workspace: Workspace, version: Version, own: Detector, test: Sequence[Labelled], metrics: DetectionMetrics,
    progress: Progress,
) -> tuple[list[dict[str, float]], list[str]]:  # fmt: skip
    """AP50 of each class that a version knew, on today's test images, for the versions up to this one, oldest first."""
    with workspace.catalog.read() as tx:
        before = [one for one in versions.every(tx) if not one.retired and one.number < version.number][-PAST:]
    history, names = [], []
    for one in before:
        detector = opened(workspace, one)
        if detector is None:
            continue
        seen = tested(workspace, detector, test, progress, one)
        known = average_precisions(seen, classes_of(seen))
        history.append({name: value for name, value in known.items() if name in detector.classes})
        names.append(one.name)
    return [*history, _by_class(metrics, own)], [*names, version.name]


def _by_class(metrics: DetectionMetrics, detector: Detector) -> dict[str, float]:
    return {one.name: one.ap50 for one in metrics.classes if one.ap50 is not None and one.name in detector.classes}


def _cases(
    workspace: Workspace, detector: OnnxDetector | ServedPipeline, progress: Progress
) -> dict[str, bool]:  # fmt: skip
    """Reported mistakes: case to whether this detector answers it: tells what a person has drawn there, and nothing
    else. Those of which nobody has drawn what is there cannot be judged."""
    with workspace.catalog.read() as tx:
        there = samples.some(tx, [case["sample_id"] for case in answers.cases(tx)])
        told = {id: one.label for id, one in there.items() if one.label_by in PEOPLE and one.refusal is None}
        truth = scenes.some(tx, list(told.values()))
    asked = sorted(id for id, label in told.items() if label in truth)
    parts = any("/" in name for name in detector.classes)
    right = {}
    with progress.task("cases", len(asked)) as task:
        for start in range(0, len(asked), BATCH):
            part = asked[start : start + BATCH]
            pixels = detector.prepare(images(workspace, part))
            for id, answer in zip(part, detector.predict(pixels), strict=True):
                right[id] = same(answer.boxes or (), truth[str(told[id])], parts)
            task.advance(len(part))
    return right


def same(found: Sequence[Box], truth: Scene, parts: bool) -> bool:
    """Whether the boxes that were told are those that are there. Of classes that nobody looked for nothing is known,
    and nothing is wrong. parts: whether second parts of labels are told too."""
    name = str if parts else coarse
    left = [replace(one, label=name(one.label)) for one in truth.boxes]
    for box in found:
        if truth.about is not None and coarse(box.label) not in truth.about:
            continue
        near = [(scenes.overlap(one, box), -at) for at, one in enumerate(left) if one.label == name(box.label)]
        best, at = max(near, default=(0.0, 0))
        if best < OVERLAP:
            return False
        del left[-at]
    return not left

"""Missing labels: a class that nobody looked for on an image is not background there.

Where the champion knows the class, its sure boxes are filled in for the training (never into the catalog); where it is
in doubt, or nobody knows the class yet, the image stays out of that class's loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from everlearn import registry
from everlearn.naming import coarse
from everlearn.stages.detecting.answering import detector_of, found_on

if TYPE_CHECKING:
    from everlearn.stages.detecting.learning import Base
    from everlearn.stages.detecting.sides import Labelled
    from everlearn.types import Box, Progress, SampleId
    from everlearn.workspace import Workspace

DOUBT = 0.1
"""Confidence below which a box is taken for nothing; between this and its class's threshold it is in doubt."""
SURE = 0.5
"""The threshold of a class for which a model has none."""


@dataclass(frozen=True, slots=True)
class Filled:
    """boxes: of each image, those that were labelled and those filled in; about: the classes that they are complete
    for. count: boxes filled in."""

    boxes: Mapping[SampleId, list[Box]]
    about: Mapping[SampleId, frozenset[str]]
    count: int


def filled(
    workspace: Workspace, given: Sequence[Labelled], classes: Sequence[str], base: Base | None, progress: Progress
) -> Filled:
    """What these images show of these classes, as far as it is known."""
    wanted = frozenset(classes)
    boxes = {one.id: [box for box in one.coarse if box.label in wanted] for one in given}
    about = {one.id: one.about & wanted for one in given}
    if base is None:
        return Filled(boxes, about, 0)
    detector = detector_of(workspace, base.version)
    thresholds = registry.card(workspace, base.version).get("thresholds") or {}
    known = wanted & {coarse(name) for name in detector.classes}
    asked = [one.id for one in given if known - about[one.id]]
    count = 0
    found = found_on(workspace, detector, asked, progress, version=base.version, name="missing labels")
    for id, several, _ in found:
        sure, complete = _sure(several, known - about[id], thresholds)
        boxes[id] += sure
        about[id] |= complete
        count += len(sure)
    return Filled(boxes, about, count)


def _sure(
    found: Sequence[Box], asked: frozenset[str], thresholds: Mapping[str, float]
) -> tuple[list[Box], frozenset[str]]:
    """Of the classes asked for the sure boxes, and those classes of which nothing on this image is in doubt. Of a class
    in doubt no box is taken: it stays out of the loss as a whole."""
    doubtful: set[str] = set()
    sure = []
    for box in found:
        label, confidence = coarse(box.label), box.confidence or 0.0
        if label not in asked or confidence < DOUBT:
            continue
        if confidence >= thresholds.get(box.label, thresholds.get(label, SURE)):
            sure.append(replace(box, label=label, confidence=None))
        else:
            doubtful.add(label)
    return [box for box in sure if box.label not in doubtful], frozenset(asked - doubtful)

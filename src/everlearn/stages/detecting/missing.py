"""Missing labels: a class that nobody looked for on an image is not background there.

Where the champion knows the class, its sure boxes are filled in for the training (never into the catalog); where it is
in doubt, or nobody knows the class yet, the image stays out of that class's loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from everlearn import registry
from everlearn.label.boxes import fill
from everlearn.naming import coarse
from everlearn.stages.detecting.answering import detector_of, found_on
from everlearn.types import Scene

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
    known = wanted & {coarse(name) for name in detector.classes}
    said = registry.card(workspace, base.version).get("thresholds") or {}
    thresholds = {**dict.fromkeys(known, SURE), **said}
    asked = [one.id for one in given if known - about[one.id]]
    count = 0
    found = found_on(workspace, detector, asked, progress, known_as=base.version.model_digest, name="missing labels")
    labelled = {one.id: one.coarse for one in given}
    for id, several, _ in found:
        seen = fill(Scene(labelled[id]), about[id], several, known | about[id], thresholds, DOUBT)
        added = [replace(box, confidence=None) for box in seen.boxes if box.confidence is not None]
        boxes[id] += added
        about[id] |= frozenset(seen.about or ())
        count += len(added)
    return Filled(boxes, about, count)

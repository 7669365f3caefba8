"""Which detector is meant, and what it finds on samples of the workspace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from everlearn import faults, registry
from everlearn.catalog import turns, versions
from everlearn.errors import EverlearnError
from everlearn.learn.features import images
from everlearn.model.detecting.detector import LEAST
from everlearn.stages.detecting import kept

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.model.detecting.detector import Detector
    from everlearn.model.detecting.onnx import OnnxDetector
    from everlearn.model.detecting.pipeline import ServedPipeline
    from everlearn.stages.answering import Named
    from everlearn.stages.detecting.kept import Size
    from everlearn.types import Box, Progress, ProgressTask, SampleId
    from everlearn.workspace import Workspace

BATCH, AT_ONCE = 16, 256
"""Photos decoded at a time; samples of which the boxes are kept at a time."""


def detector_of(workspace: Workspace, model: Version | Named) -> OnnxDetector | ServedPipeline:
    """The detector of a version, as it is deployed; with its memory of crops where it has one. Raises Missing,
    Corrupt, BadInput for a file that is no detector."""
    from everlearn.model.detecting.onnx import OnnxDetector
    from everlearn.stages.answering import Named
    from everlearn.stages.detecting import crops

    if isinstance(model, Named):
        if model.file is not None:
            return crops.opened_beside(model.file)
        model = model.version
    plain = OnnxDetector(registry.bundle_file(workspace, model, ".onnx"))
    return crops.with_memory(workspace, model, plain)


def standing(workspace: Workspace) -> Version | None:
    """The champion, else the newest version that is in service. One that knows what is being forgotten is none."""
    with workspace.catalog.read() as tx:
        knowing = turns.setting_of(tx, turns.FORGETTING, [])
        there = [versions.champion(tx), *reversed(versions.every(tx))]
    return next((one for one in there if one is not None and not one.retired and one.name not in knowing), None)


def found_on(
    workspace: Workspace, detector: Detector, ids: Sequence[SampleId], progress: Progress, *, known_as: str | None,
    name: str = "detect", least: float = LEAST,
) -> Iterator[tuple[SampleId, list[Box], Size]]:  # fmt: skip
    """(id, boxes, (width, height) of the image in px) in the order given. known_as: under which what it finds is kept,
    for a version its digest, so that nothing is looked for twice; None: it is not. least: confidence; what is kept
    under one name is of one. Raises Missing, Corrupt."""
    with progress.task(name, len(ids)) as task:
        for start in range(0, len(ids), AT_ONCE):
            part = ids[start : start + AT_ONCE]
            known = kept.there(workspace, known_as, part) if known_as else {}
            new = _looked(workspace, detector, [id for id in part if id not in known], least, task)
            if known_as and new:
                kept.keep(workspace, known_as, new)
                faults.point("detections.kept")
            task.advance(len(part) - len(new))
            for id in part:
                boxes, size = known.get(id) or new[id]
                yield id, boxes, size


def _looked(
    workspace: Workspace, detector: Detector, ids: Sequence[SampleId], least: float, task: ProgressTask
) -> dict[SampleId, kept.Found]:  # fmt: skip
    found: dict[SampleId, kept.Found] = {}
    for start in range(0, len(ids), BATCH):
        part = ids[start : start + BATCH]
        pixels = images(workspace, part)
        for id, picture, boxes in zip(part, pixels, detector.detect(pixels, least=least), strict=True):
            found[id] = (boxes, (picture.shape[1], picture.shape[0]))
        task.advance(len(part))
    return found


def opened(workspace: Workspace, version: Version) -> Detector | None:
    """Like `detector_of`, None for a version whose files are gone."""
    try:
        return detector_of(workspace, version)
    except EverlearnError:
        return None

"""Which detector is meant, and what it finds on samples of the workspace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from everlearn import registry
from everlearn.catalog import turns, versions
from everlearn.errors import EverlearnError
from everlearn.learn.features import images
from everlearn.model.detecting.detector import DETECTORS, LEAST, load_detector
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


def named_detector(workspace: Workspace, name: str) -> Detector:
    """A detector by its spec (`onnx:FILE`, `yolo:FILE.pt`), or a version of this workspace. Raises Missing,
    BadInput."""
    if name.partition(":")[0] in DETECTORS:
        return load_detector(name, workspace.root)
    with workspace.catalog.read() as tx:
        version = versions.get(tx, name)
    return detector_of(workspace, version)


def standing(workspace: Workspace) -> Version | None:
    """The champion, else the newest version that is in service. One that knows what is being forgotten is none."""
    with workspace.catalog.read() as tx:
        knowing = turns.setting_of(tx, turns.FORGETTING, [])
        there = [versions.champion(tx), *reversed(versions.every(tx))]
    return next((one for one in there if one is not None and not one.retired and one.name not in knowing), None)


def found_on(
    workspace: Workspace, detector: Detector, ids: Sequence[SampleId], progress: Progress, *, version: Version | None,
    name: str = "detect",
) -> Iterator[tuple[SampleId, list[Box], Size]]:  # fmt: skip
    """(id, boxes, (width, height) of the image in px) in the order given. version: whose detector it is, None for
    another; what a version found before is not looked for again. Raises Missing, Corrupt."""
    digest = version.model_digest if version else None
    with progress.task(name, len(ids)) as task:
        for start in range(0, len(ids), AT_ONCE):
            part = ids[start : start + AT_ONCE]
            known = kept.there(workspace, digest, part) if digest else {}
            new = _looked(workspace, detector, [id for id in part if id not in known], task)
            if digest and new:
                kept.keep(workspace, digest, new)
            task.advance(len(part) - len(new))
            for id in part:
                boxes, size = known.get(id) or new[id]
                yield id, boxes, size


def _looked(
    workspace: Workspace, detector: Detector, ids: Sequence[SampleId], task: ProgressTask
) -> dict[SampleId, kept.Found]:  # fmt: skip
    found: dict[SampleId, kept.Found] = {}
    for start in range(0, len(ids), BATCH):
        part = ids[start : start + BATCH]
        pixels = images(workspace, part)
        for id, picture, boxes in zip(part, pixels, detector.detect(pixels, least=LEAST), strict=True):
            found[id] = (boxes, (picture.shape[1], picture.shape[0]))
        task.advance(len(part))
    return found


def opened(workspace: Workspace, version: Version) -> Detector | None:
    """Like `detector_of`, None for a version whose files are gone."""
    try:
        return detector_of(workspace, version)
    except EverlearnError:
        return None

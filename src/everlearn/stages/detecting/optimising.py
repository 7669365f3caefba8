"""A detector's version in float16 or int8: made from its file, judged beside it on the test side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn import registry
from everlearn.catalog import samples, snapshots
from everlearn.errors import BadInput, Missing, TooFew
from everlearn.evaluate.detection.metrics import average_precisions
from everlearn.learn.features import images
from everlearn.model import bundle
from everlearn.model.detecting import optimise
from everlearn.model.detecting.onnx import OnnxDetector
from everlearn.stages.detecting import prove, sides

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.model.detecting.detector import Detector
    from everlearn.model.detecting.optimise import Measured
    from everlearn.types import Image, Member, Progress, SampleId
    from everlearn.workspace import Workspace

JUDGED = 300
"""Test images that a form is judged on, at most."""


def smaller(
    workspace: Workspace, version: Version, test: Sequence[Member], stem: Path, wanted: Sequence[str],
    progress: Progress,
) -> tuple[list[Path], list[Measured]]:  # fmt: skip
    """Write `STEM.half.onnx` and `STEM.int8.onnx`, as wanted; and what each costs, after the version as it is.

    Raises BadInput where the graph cannot be converted, TooFew without images, Missing for a retired version,
    StoreFault.
    """
    if version.retired:
        raise Missing(f"The files of {version.name} are gone: it was retired.", "See: everlearn history")
    data = registry.bundle_file(workspace, version, ".onnx")
    detector = OnnxDetector(data)
    forms = {optimise.WHOLE: data}
    if optimise.HALF in wanted:
        forms[optimise.HALF] = optimise.half(data)
    if optimise.INT8 in wanted:
        learned = _learned(workspace, version)
        progress.say(f"int8: ranges from {len(learned)} images")
        forms[optimise.INT8] = optimise.int8(data, _shrunk(workspace, detector, learned))
    labelled = sides.labelled(workspace, _spread(test, JUDGED))
    if not labelled:
        raise TooFew("There is no test image to judge it on.", "Collect and label more groups of images.")
    progress.say(f"{', '.join(list(forms)[1:])}: judged on {len(labelled)} test images")

    def judge(one: Detector) -> float:
        seen = prove.tested(workspace, one, labelled, progress, None)
        values = average_precisions(seen, prove.classes_of(seen)).values()
        return float(np.mean(list(values))) if values else 0.0

    found = optimise.measured(forms, _shrunk(workspace, detector, [labelled[0].id])[0], judge)
    files = []
    for name in list(forms)[1:]:
        files.append(stem.with_name(f"{stem.name}.{name}.onnx"))
        bundle.write(files[-1], forms[name])
    return files, found


def _learned(workspace: Workspace, version: Version) -> list[SampleId]:
    """Images of the kind that it will see, none of the test side."""
    with workspace.catalog.read() as tx:
        members = [one.id for one in snapshots.members(tx, version.snapshot or 0) if one.split != "test"]
        found = _spread(sorted(samples.some(tx, members)), optimise.CALIBRATION)
    if not found:
        raise BadInput(f"No image that {version.name} learned from is left.", "Learn again, or leave --int8 out.")
    return found


def _shrunk(workspace: Workspace, detector: OnnxDetector, ids: Sequence[SampleId]) -> list[Image]:
    return images(workspace, ids, lambda one: detector.prepare([one])[0])


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """So many of them, evenly."""
    return list(items) if len(items) <= most else [items[at * len(items) // most] for at in range(most)]

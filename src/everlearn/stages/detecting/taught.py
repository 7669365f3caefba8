"""From a trained detector, or one that is used as it is, to a version: one ONNX graph with its description and
thresholds, the weights to go on from, and the memory of crops where labels have second parts."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn import registry
from everlearn.errors import BadInput, Corrupt
from everlearn.learn.features import images
from everlearn.learn.live import Moved
from everlearn.stages.detecting import crops, learning, prove, sides
from everlearn.stages.learners import Taught
from everlearn.stages.picturing import costs

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.model.detecting.onnx import OnnxDetector
    from everlearn.stages.detecting.crops import Solved
    from everlearn.stages.detecting.sides import Sides
    from everlearn.stages.learners import Files
    from everlearn.types import Member, Progress, Snapshot
    from everlearn.workspace import Workspace

PROBES = 8
"""Validation images on which the graph is held against the network."""
DIGITS = 6
"""Of a threshold."""
SCENES = "scenes"
"""In a version's metrics: the digest of what its detector was trained on."""


@dataclass(frozen=True, eq=False)
class Detecting:
    """A detector that answers, ready to be registered; `stages.learners.Answers`. graph: its ONNX file without our
    card; extra: other files of the bundle; memory: of crops, None where no label has a second part."""

    detector: OnnxDetector
    made_of: str
    thresholds: Mapping[str, float]
    memory: Solved | None = None
    extra: Files = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.memory.classes(self.detector.classes) if self.memory else self.detector.classes

    @property
    def answers(self) -> tuple[str, ...]:
        return self.classes

    @property
    def backbone(self) -> str:
        return self.made_of

    @property
    def licence(self) -> str:
        return self.detector.licence

    def about(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "answers": "as one graph, anywhere", "thresholds": dict(self.thresholds), "size": self.detector.size,
            "digest": digest_of(self.detector),
        }  # fmt: skip
        if self.memory is None:
            return found
        told = {"answers": "as two graphs, anywhere", "thresholds": self.memory.thresholds(self.thresholds)}
        return found | told | self.memory.about()

    def write(self, folder: Path, card: dict[str, Any]) -> tuple[Files, dict[str, Any]]:
        from everlearn.model.detecting.bundle import export_detector

        model = folder / "model.onnx"
        model.write_bytes(export_detector(
            self.detector.data, self.detector.description, card=card, thresholds=self.thresholds, made_of=self.made_of
        ))  # fmt: skip
        files: Files = {".onnx": model, **self.extra}
        return files | (self.memory.files(folder, card) if self.memory else {}), card


def learn_yolo(workspace: Workspace, snapshot: Snapshot, members: Sequence[Member], progress: Progress) -> Taught:
    """Train what is new, or keep the detector where only second parts of labels have changed."""
    divided = sides.of(workspace, snapshot)
    base = learning.base_of(workspace, divided, progress)
    moved = learning.moved(base, divided)
    given = learning.lesson(workspace, divided, base)
    if base is not None and (not given.train or same_detector(workspace, base.version, divided.digest())):
        return _kept(workspace, base.version, divided, moved, progress)
    came = learning.trained(workspace, given, snapshot, progress)
    return of_training(workspace, came, divided, moved, progress)


def learn_onnx(workspace: Workspace, snapshot: Snapshot, members: Sequence[Member], progress: Progress) -> Taught:
    """A detector as it is. Its thresholds, and its memory of crops, are learned."""
    from everlearn.model.detecting.detector import load_detector
    from everlearn.model.detecting.onnx import OnnxDetector

    divided = sides.of(workspace, snapshot)
    detector = load_detector(workspace.config.learn.learner, workspace.root)
    if not isinstance(detector, OnnxDetector):
        raise BadInput(f"{detector.spec} is no ONNX file.", "Set learn.learner to onnx:FILE.")
    memory = crops.learned(workspace, divided.learned, detector, progress)
    thresholds = thresholds_of(workspace, detector, divided, progress)
    digest = crops.model_digest(digest_of(detector), memory)
    return Taught(
        Moved(len(divided.learned), 0), len(divided.learned),
        Detecting(detector, workspace.config.learn.learner, thresholds, memory), memory.digest if memory else None,
        digest, None, {SCENES: divided.digest()}, {"knows": "The detector is used as it came; no image of this "
        "workspace has shaped it. Its thresholds, and its memory of crops, follow from the images."},
    )  # fmt: skip


def of_training(
    workspace: Workspace, came: learning.Came, divided: Sides, moved: Moved, progress: Progress
) -> Taught:  # fmt: skip
    """What a training came to, its graph held against the network."""
    from everlearn.model.detecting import parity, yolo
    from everlearn.model.detecting.onnx import OnnxDetector
    from everlearn.model.detecting.outputs import Outputs

    network = yolo.YoloDetector.open(came.result.best)
    how = Outputs("yolo", network.classes, (network.size, network.size), licence=network.licence)
    detector = OnnxDetector(network.graph().SerializeToString(), how)
    probes = images(workspace, [one.id for one in divided.validation[:PROBES]])
    parity.check(network, detector, probes)
    weights = came.result.best.read_bytes()
    extra: Files = {learning.WEIGHTS: weights}
    extra |= {f"/{name}": came.folder / name for name in learning.KEPT_FILES if (came.folder / name).is_file()}
    details: dict[str, Any] = {
        "run": came.run, SCENES: divided.digest(), "best_epoch": came.result.best_epoch,
        "map50_validation": came.result.map50, "filled_in": came.filled.count, **costs(workspace, came.run),
    }  # fmt: skip
    return _taught(workspace, detector, divided, moved, extra, details, progress)


def _kept(workspace: Workspace, version: Version, divided: Sides, moved: Moved, progress: Progress) -> Taught:
    """The detector of a version, with what its memory of crops has learned since."""
    from everlearn.model.detecting.onnx import OnnxDetector

    detector = OnnxDetector(registry.bundle_file(workspace, version, ".onnx"))
    extra: Files = {learning.WEIGHTS: registry.bundle_file(workspace, version, learning.WEIGHTS)}
    before = version.metrics or {}
    details = {name: before[name] for name in ("run", SCENES, "best_epoch", "map50_validation") if name in before}
    details["detector_of"] = before.get("detector_of") or version.name
    return _taught(workspace, detector, divided, moved, extra, details, progress)


def _taught(
    workspace: Workspace, detector: OnnxDetector, divided: Sides, moved: Moved, extra: Files, details: dict[str, Any],
    progress: Progress,
) -> Taught:  # fmt: skip
    memory = crops.learned(workspace, divided.learned, detector, progress)
    thresholds = thresholds_of(workspace, detector, divided, progress)
    answers = Detecting(detector, f"yolo:{learning.spec_of(workspace)}", thresholds, memory, extra)
    digest = crops.model_digest(digest_of(detector), memory)
    return Taught(
        moved, len(divided.learned), answers, memory.digest if memory else None, digest, None, details,
        {
            "licence_said": _licence(detector.licence),
            "map50_validation": details.get("map50_validation"),
            "run": details.get("run"),
            "automatic_labels": None,
            "knows": "Every training image shaped these weights; none can be taken out. To forget, it is trained again "
            "from what remains. What tells the crops apart is an exact memory, from which they can be taken out.",
        },
    )  # fmt: skip


def thresholds_of(
    workspace: Workspace, detector: OnnxDetector, divided: Sides, progress: Progress
) -> dict[str, float]:  # fmt: skip
    """Of each class the confidence with the best macro F1 on the validation side: from there on a box is told."""
    from everlearn.evaluate.detection import detection

    seen = prove.tested(workspace, detector, divided.validation, progress, None)
    known = [name for name in prove.classes_of(seen) if name in detector.classes]
    if not known:
        return {}
    chosen = {one.name: one.confidence for one in detection(seen, known).classes}
    # rounded down: the box that the threshold was chosen at is still told
    return {name: math.floor(value * 10**DIGITS) / 10**DIGITS for name, value in chosen.items()}


def same_detector(workspace: Workspace, version: Version, digest: str) -> bool:
    """Whether a version's detector was trained on just this, by the settings of now."""
    return same_settings(workspace, version) and (version.metrics or {}).get(SCENES) == digest


def same_settings(workspace: Workspace, version: Version) -> bool:
    """Whether a version's detector was trained by the settings of now."""
    before, now = version.config, workspace.config
    same = before.get("learn", {}).get("learner") == now.learn.learner and not before.get("changes")
    return same and learning.of_training(before.get("detect", {})) == learning.of_training(now.detect.model_dump())


def digest_of(detector: OnnxDetector) -> str:
    """SHA-256 of the graph and of what its outputs mean, whatever else is said of it."""
    import onnx

    try:
        model = onnx.load_model_from_string(detector.data)
    except Exception as error:
        raise Corrupt(f"The graph cannot be read: {error!r:.100}.", "Learn again.") from None
    del model.metadata_props[:]
    total = hashlib.sha256(model.SerializeToString(deterministic=True))
    meant = {name: value for name, value in detector.description.to_json().items() if name not in ("licence", "source")}
    total.update(json.dumps(meant, sort_keys=True).encode())
    return total.hexdigest()


def _licence(licence: str) -> str | None:
    from everlearn.model.detecting.training import LICENCE, licence_said

    return licence_said(licence) if licence == LICENCE else None

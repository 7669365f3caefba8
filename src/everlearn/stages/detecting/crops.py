"""What an exact memory tells apart inside of a detector's boxes: learned, registered beside the detector, and served.

The memory depends on the boxes alone, never on the detector, which stays as it is: a new kind of visitor is a matter of
seconds. There is one for each coarse class with second parts; all go into one file of the bundle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn import registry
from everlearn.catalog.crops import crop_id
from everlearn.errors import BadInput, Missing
from everlearn.learn import crops as memories
from everlearn.learn.crops import CropMemory
from everlearn.learn.live import Held
from everlearn.naming import UNKNOWN, coarse

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.evaluate.detection import Seen
    from everlearn.learn.exact.fit import Fitted
    from everlearn.model.detecting.crops import CropBasis
    from everlearn.model.detecting.detector import Detector
    from everlearn.model.detecting.onnx import OnnxDetector
    from everlearn.model.detecting.pipeline import ServedPipeline
    from everlearn.stages.detecting.sides import Labelled
    from everlearn.stages.learners import Files
    from everlearn.types import Box, Progress
    from everlearn.workspace import Workspace


@dataclass(frozen=True, eq=False)
class Solved:
    """The memories of crops of a workspace, each with its head; by coarse class. held: what each holds; sums: the
    digest of each."""

    basis: CropBasis
    fitted: Mapping[str, Fitted]
    held: Mapping[str, Held]
    sums: Mapping[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 of all that the memories hold."""
        return digest_of(self.sums)

    def classes(self, coarse: Sequence[str]) -> tuple[str, ...]:
        return (*coarse, *sorted(name for one in self.fitted.values() for name in one.head.classes))

    def thresholds(self, given: Mapping[str, float]) -> dict[str, float]:
        """The detector's, and those of whole labels: of boxes that the detector tells, nine of ten stay above them when
        the memory's confidence is multiplied in."""
        found = dict(given)
        for name, one in self.fitted.items():
            if name in given:
                told = memories.sureness(one).items()
                found |= {name if said == UNKNOWN else said: round(given[name] * share, 6) for said, share in told}
        return found

    def about(self) -> dict[str, Any]:
        return {"pipeline": {
            "crops": {name: _about(self.fitted[name], held) for name, held in sorted(self.held.items())},
            "backbone": self.basis.spec,
            "backbone_licence": self.basis.licence,
            "basis_digest": self.basis.digest,
            "dimensions": self.basis.dimensions,
            "memory_digest": self.digest,
        }}  # fmt: skip

    def files(self, folder: Path, card: dict[str, Any]) -> Files:
        from everlearn.model.detecting.crops import export_crops
        from everlearn.model.detecting.pipeline import CROPS

        path = folder / CROPS.removeprefix("/")
        export_crops(self.basis, {name: one.head for name, one in self.fitted.items()}, path, card=card)
        return {CROPS: path}


def digest_of(sums: Mapping[str, str]) -> str:
    """SHA-256 over the digests of memories, by coarse class."""
    total = hashlib.sha256(b"everlearn crops 1\n")
    for name in sorted(sums):
        total.update(f"{name!r}\t{sums[name]}\n".encode())
    return total.hexdigest()


def stored(workspace: Workspace) -> dict[str, CropMemory]:
    """The memories that lie here, as they were saved. Raises Corrupt."""
    return {name: CropMemory(workspace, basis(workspace), name, strict=True) for name in memories.names(workspace)}


def digest(workspace: Workspace) -> str | None:
    """Of what the memories hold that lie here; None where there are none. Raises Corrupt."""
    found = stored(workspace)
    return digest_of({name: one.memory.digest() for name, one in found.items()}) if found else None


def _about(found: Fitted, held: Held) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for label, _ in held.values():
        counts[label] = counts.get(label, 0) + 1
    plain = counts.pop(UNKNOWN, 0)
    told = None if found.unknown is None else found.unknown.to_json()
    if told is not None:
        told.pop("curve")
    return {"head": found.head.kind, "crops": dict(sorted(counts.items())), "strangers": plain, "unknown": told,
            "out_of_fold_accuracy": found.accuracies.get(found.head.kind)}  # fmt: skip


def basis(workspace: Workspace) -> CropBasis:
    """The fixed map from crops to features that the configuration names."""
    return _basis(workspace.config.backbone, workspace.config.learn.dimensions, workspace.root)


@lru_cache(maxsize=2)
def _basis(spec: str, dimensions: int | None, root: Path) -> CropBasis:
    from everlearn.model.backbone import load_backbone
    from everlearn.model.detecting.crops import DIMENSIONS, CropBasis

    return CropBasis(load_backbone(spec, base=root), dimensions=dimensions or DIMENSIONS)


def wanted(workspace: Workspace, labelled: Sequence[Labelled]) -> dict[str, Held]:
    """What the memories of these samples are to hold, by coarse class."""
    return memories.members(_said(labelled), workspace.config.learn.unknown)


def _said(labelled: Sequence[Labelled]) -> Iterator[tuple[str, str, int]]:
    for one in labelled:
        for box in one.scene.boxes:
            yield crop_id(one.id, box), box.label, one.member.fold


def brought(workspace: Workspace, held: Mapping[str, Held], progress: Progress) -> dict[str, CropMemory]:
    """The memories, holding exactly this, and kept so; others are removed."""
    found = {}
    for name, wanted in sorted(held.items()):
        memory = CropMemory(workspace, basis(workspace), name)
        memory.hold(wanted, progress)
        memory.keep()
        found[name] = memory
    memories.drop(workspace, but=set(held))
    return found


def learned(
    workspace: Workspace, labelled: Sequence[Labelled], detector: Detector, progress: Progress
) -> Solved | None:  # fmt: skip
    """The memory of the boxes with second parts among these; None where there is none. Brings what lies in the
    workspace to it."""
    held = wanted(workspace, labelled)
    for name in sorted(set(held) - set(detector.classes)):
        progress.say(f"{name} is told apart by nothing yet: the detector does not find it.")
        del held[name]
    return solved(workspace, brought(workspace, held, progress), progress)


def solved(workspace: Workspace, found: Mapping[str, CropMemory], progress: Progress) -> Solved | None:
    """The memories' heads; None where there are no memories."""
    if not found:
        return None
    fitted = {name: memory.fitted(progress) for name, memory in found.items()}
    for name, one in fitted.items():
        if one.head.unknown is None:
            (only, *_) = one.head.classes
            progress.say(f"Every {name} is answered {only}: there is no other {name} to tell it from. Teach a second "
                         f"kind, or strangers: everlearn teach {name} IMAGE…")  # fmt: skip
    return Solved(
        basis(workspace), fitted, {name: memory.held for name, memory in found.items()},
        {name: memory.memory.digest() for name, memory in found.items()},
    )  # fmt: skip


def model_digest(detector: str, memory: Solved | None) -> str:
    """Of all that decides a version's boxes: its detector's digest, and those of its memory's heads."""
    heads = [] if memory is None else [f"{name!r} {one.digest}" for name, one in sorted(memory.fitted.items())]
    return hashlib.sha256("\n".join([detector, *heads]).encode()).hexdigest()


def with_memory(workspace: Workspace, version: Version, detector: OnnxDetector) -> OnnxDetector | ServedPipeline:
    """The detector with the memory of crops of its version, where it has one. Raises Corrupt."""
    from everlearn.model.detecting.pipeline import CROPS, with_crops

    try:
        return with_crops(detector, registry.bundle_file(workspace, version, CROPS))
    except Missing:
        if "pipeline" in detector.card:
            raise
        return detector


def opened_beside(path: Path) -> OnnxDetector | ServedPipeline:
    """A bundle's ONNX file with the memory that lies beside it, where one does. Raises BadInput."""
    from everlearn.model.detecting.onnx import OnnxDetector
    from everlearn.model.detecting.pipeline import beside, with_crops

    found = OnnxDetector(path)
    if not found.card:
        raise BadInput(f"{path} is not a model that Everlearn exported.", "Give a file that `models export` wrote.")
    return with_crops(found, beside(path))


def coarsened(seen: Seen) -> Seen:
    """What a detector alone would have been asked and have answered: without the second part of labels."""

    def first(boxes: Sequence[Box]) -> tuple[Box, ...]:
        return tuple(replace(box, label=coarse(box.label)) for box in boxes)

    about = None if seen.about is None else frozenset(coarse(name) for name in seen.about)
    return replace(seen, truth=first(seen.truth), found=first(seen.found), about=about)

"""What an exact memory tells apart inside of a detector's boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from everlearn.errors import BadInput

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.model.detecting.detector import Detector
    from everlearn.stages.detecting.sides import Labelled
    from everlearn.stages.learners import Files
    from everlearn.types import Progress
    from everlearn.workspace import Workspace


class Memory(Protocol):
    """A memory of crops, solved and ready to be registered beside its detector."""

    @property
    def digest(self) -> str: ...
    def classes(self, coarse: Sequence[str]) -> tuple[str, ...]:
        """All that the two answer together."""
        ...

    def about(self) -> dict[str, Any]:
        """Its own lines in the card."""
        ...

    def files(self, folder: Path, card: dict[str, Any]) -> Files:
        """`/crops.onnx` and what else belongs into the bundle."""
        ...


def learned(
    workspace: Workspace, labelled: Sequence[Labelled], detector: Detector, progress: Progress
) -> Memory | None:  # fmt: skip
    """The memory of the boxes with second parts among these; None where there is none."""
    return None


def with_memory(workspace: Workspace, version: Version, detector: Detector) -> Detector:
    """The detector with the memory of crops of its version, where it has one."""
    return detector


def opened_beside(path: Path) -> Detector:
    """A bundle's ONNX file with the memory that lies beside it, where one does. Raises BadInput."""
    from everlearn.model.detecting.onnx import OnnxDetector

    found = OnnxDetector(path)
    if not found.card:
        raise BadInput(f"{path} is not a model that Everlearn exported.", "Give a file that `models export` wrote.")
    return found

"""Two-step recognition: a detector finds, an exact memory over the crops tells apart what it found.

     image ► detector ► boxes of `person` ► crops ► memory ► `person/courier`, or plain `person`

To everything else it is a detector. Its bundle is two files: the detector's graph, and `crops.onnx` in the folder of
that name. They are not one graph because a crop is brought to the memory's size by Pillow's antialiased resize, which
ONNX's RoiAlign is not: the features would be others than those that were learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from everlearn.errors import Corrupt
from everlearn.image.crop import crop
from everlearn.model.bundle import check_answers
from everlearn.model.detecting.crops import open_crops
from everlearn.model.detecting.detector import LEAST, OVERLAP, Detector
from everlearn.model.detecting.placing import shrunk
from everlearn.naming import coarse
from everlearn.types import Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.model.detecting.onnx import OnnxDetector
    from everlearn.types import Box, Image

CROPS = "/crops.onnx"
"""The memory's file in the folder of a bundle."""
NAMED_FROM = 0.05
"""Least confidence of a box whose crop is looked at: below it a detector gives hundreds, nearly all of nothing."""
_AT_ONCE = 64  # crops
_LONGEST = 2048  # px: crops of a larger photo are taken from it at this size


class Crops(Protocol):
    """What tells crops apart. classes: of its columns, see `model.detecting.crops`."""

    classes: tuple[str, ...]

    def prepare(self, images: Sequence[Image]) -> NDArray[Any]: ...
    def table(self, images: Sequence[Image]) -> NDArray[np.floating]: ...


class Pipeline:
    """A detector whose boxes are told apart. classes: the detector's, and then the whole labels of its boxes."""

    def __init__(self, detector: Detector, crops: Crops) -> None:
        """Raises Corrupt where the two do not belong together."""
        self.detector, self.crops = detector, crops
        self._columns: dict[str, list[int]] = {}
        for column, name in enumerate(crops.classes):
            self._columns.setdefault(coarse(name), []).append(column)
        if strange := sorted(set(self._columns) - set(detector.classes)):
            raise Corrupt(f"The memory of crops knows {strange[0]}, which {detector.spec} does not find.",
                          "Take both files from one export.")  # fmt: skip
        whole = sorted(name for name in crops.classes if name != coarse(name))
        self.classes: tuple[str, ...] = (*detector.classes, *whole)

    @property
    def spec(self) -> str:
        return f"pipeline:{self.detector.spec}"

    @property
    def licence(self) -> str:
        return self.detector.licence

    @property
    def size(self) -> int:
        return self.detector.size

    def detect(
        self, images: Sequence[Image], *, least: float = LEAST, overlap: float = OVERLAP
    ) -> list[list[Box]]:  # fmt: skip
        """As a detector's; labels are whole, a confidence is the detector's times the memory's."""
        return self.told(images, self.detector.detect(images, least=least, overlap=overlap))

    def told(self, images: Sequence[Image], found: Sequence[Sequence[Box]]) -> list[list[Box]]:
        """What the detector found, told apart: (N,) images and their boxes -> the same boxes, the surest first."""
        told = [list(boxes) for boxes in found]
        places = [
            (n, at) for n, boxes in enumerate(told) for at, box in enumerate(boxes)
            if box.label in self._columns and (box.confidence or 0) >= NAMED_FROM
        ]  # fmt: skip
        for start in range(0, len(places), _AT_ONCE):
            part = places[start : start + _AT_ONCE]
            rows = self.crops.table([crop(images[n], told[n][at]) for n, at in part])
            check_answers(rows, len(part), self.crops.classes)
            for (n, at), row in zip(part, rows, strict=True):
                told[n][at] = self._named(told[n][at], row)
        return [sorted(boxes, key=lambda box: -(box.confidence or 0)) for boxes in told]

    def _named(self, box: Box, row: NDArray[np.floating]) -> Box:
        mine = self._columns[box.label]
        best = mine[int(np.argmax(row[mine]))]
        share = min(max(float(row[best]), 0.0), 1.0)
        return replace(box, label=self.crops.classes[best], confidence=(box.confidence or 0) * share)


class ServedPipeline(Pipeline):
    """A bundle's pipeline, which answers without any workspace; `model.serving.Serving`."""

    def __init__(self, detector: OnnxDetector, crops: Crops) -> None:
        super().__init__(detector, crops)
        self.served, self.data = detector, detector.data
        self.card: dict[str, Any] = detector.card
        self.metadata: dict[str, str] = detector.metadata

    @property
    def thresholds(self) -> Mapping[str, float]:
        """Of the coarse classes, on the detector's own confidence."""
        return self.served.thresholds

    def prepare(self, images: Sequence[Image]) -> list[Image]:
        """The same images, no larger than crops are taken from."""
        return [shrunk(image, (_LONGEST, _LONGEST)) for image in images]

    def predict(self, images: Sequence[Image]) -> list[Prediction]:
        """The boxes that the detector tells, told apart; label and confidence are the surest's."""
        boxes = [one.boxes or () for one in self.served.predict(images)]
        found = []
        for told in self.told(images, boxes):
            scores: dict[str, float] = {}
            for box in told:
                scores.setdefault(box.label, box.confidence or 0)
            label = told[0].label if told else None
            found.append(Prediction(label, told[0].confidence or 0 if told else 0.0, scores, boxes=tuple(told)))
        return found


def with_crops(detector: OnnxDetector, crops: Path | bytes | None) -> OnnxDetector | ServedPipeline:
    """The detector, with the memory of crops where there is one. Raises BadInput, Corrupt."""
    return detector if crops is None else ServedPipeline(detector, open_crops(crops))


def beside(path: Path) -> Path | None:
    """Where the memory of crops of the bundle FILE.onnx lies: in the folder FILE; None where there is none."""
    found = path.with_suffix("") / CROPS.removeprefix("/")
    return found if found.is_file() else None

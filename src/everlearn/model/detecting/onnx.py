"""Any detector that is an ONNX graph with a description of its outputs: beside it as YAML, or within it.

the description: given in code > our own bundle's > FILE.yaml beside FILE.onnx > what Ultralytics writes into a file
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.errors import BadInput, Corrupt, Missing, StoreFault
from everlearn.model.bundle import FORMAT, KEY
from everlearn.model.detecting.detector import LEAST, OVERLAP
from everlearn.model.detecting.outputs import KINDS, UNKNOWN, Outputs
from everlearn.model.detecting.placing import Placed, checked, letterbox, shrunk
from everlearn.model.external import read_model, whole_model
from everlearn.model.graph import in_batches, session, threads
from everlearn.types import Box, Prediction

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

    from everlearn.types import Image

OUTPUTS, THRESHOLDS = KEY + "outputs", KEY + "thresholds"
"""Where a bundle keeps its description and the thresholds of its classes, in its metadata."""
_MOST_AT_ONCE = 64  # images that a graph may demand at a time
_MOST_PIXELS = 1 << 27  # of them together: 32 images of 2048 px, 2 of 8192; 1.5 GiB as float32
_MOST_SAID = 1 << 20  # letters of a text in a strange file's metadata that are read
_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8,
}  # fmt: skip


class OnnxDetector:
    """`model.detecting.detector.Detector` of a graph, served by onnxruntime alone, without any workspace.

    description: what its outputs mean. thresholds: of each class, the confidence from which `predict` tells a box.
    card: as it was exported, {} for a file that is no bundle of ours. metadata: what the file says, our names
    without what stands before them; facts: as it lies there. data: the file's bytes.
    """

    def __init__(self, source: Path | bytes, description: Outputs | None = None) -> None:
        """Raises Missing, StoreFault, BadInput where it is no detector or nothing says what its outputs mean."""
        if isinstance(source, bytes):
            self.data, name = source, "The model"
            model = whole_model(source, name)
            self.spec = f"onnx:{hashlib.sha256(source).hexdigest()[:12]}"
        else:
            name = str(source)
            self.data, model = _read(source)
            self.spec = f"onnx:{source}"
        self.facts = {one.key: one.value for one in model.metadata_props}
        self.metadata = {key.removeprefix(KEY): value for key, value in self.facts.items()}
        self._session = session(self.data, name)
        self._inputs(name)
        self.description = description or self._described(source, name)
        self.classes = self.description.classes
        self._names = [one.name for one in self._read_outputs(name)]
        self.thresholds = self._thresholds(name)
        self.card: dict[str, Any] = self._said("card", {}, name)

    @property
    def licence(self) -> str:
        return self.description.licence

    @property
    def size(self) -> int:
        return max(self.description.size)

    def prepare(self, images: Sequence[Image]) -> list[Image]:
        """The same images, no larger than the detector needs them; its boxes stay the same."""
        return [shrunk(image, self.description.size, self.description.fit) for image in images]

    def detect(
        self, images: Sequence[Image], *, least: float = LEAST, overlap: float = OVERLAP, workers: int | None = None
    ) -> list[list[Box]]:
        """For each image its boxes with confidence, the surest first, in shares of its sides, at most MOST."""

        def work(part: Sequence[Image]) -> list[list[Box]]:
            return self._detect(part, least, overlap)

        return [boxes for part in in_batches(work, images, self._at_once, workers or threads()) for boxes in part]

    def predict(self, images: Sequence[Image]) -> list[Prediction]:
        """The boxes at or above their classes' thresholds; label and confidence are the surest box's."""
        least = min(self.thresholds.values())
        found = []
        for boxes in self.detect(images, least=least, overlap=self.description.overlap):
            told = tuple(box for box in boxes if (box.confidence or 0) >= self.thresholds[box.label])
            scores: dict[str, float] = {}
            for box in told:
                scores.setdefault(box.label, box.confidence or 0)
            label = told[0].label if told else None
            found.append(Prediction(label, told[0].confidence or 0 if told else 0.0, scores, boxes=told))
        return found

    def raw(self, images: Sequence[Image]) -> list[NDArray[Any]]:
        """The graph's own outputs for as many images as it takes at a time, or fewer: arrays (N, …)."""
        found = self.run(self.input(images))
        return [one[: len(images)] for one in found]

    def input(self, images: Sequence[Image]) -> NDArray[Any]:
        """Images of any size, checked, as the graph takes them; filled up where it takes so many and no fewer."""
        how = self.description
        x = how.input([letterbox(image, how.size, how.fit, how.pad) for image in images], self._dtype)
        missing = self._width - len(x) if self._width else 0
        return np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) if missing else x

    def run(self, x: NDArray[Any]) -> list[NDArray[Any]]:
        """The graph, and whether what it gives is as described."""
        try:
            found = self._session.run(self._names, {self.input_name: x})
        except Exception as error:  # onnxruntime's errors share no base class
            reason = (str(error).splitlines() or ["?"])[0][:200]
            raise BadInput(
                f"{self.spec} does not run on {x.shape}: {reason}", "Check the description's size."
            ) from None
        for one in found:
            if not one.ndim or len(one) != len(x):
                raise BadInput(f"{self.spec} gives {one.shape} for {len(x)} images.", "Its first axis must be images.")
        self.description.expect([one.shape for one in found], self.spec)
        return list(found)

    def _detect(self, images: Sequence[Image], least: float, overlap: float) -> list[list[Box]]:
        how, images = self.description, [checked(image) for image in images]
        arrays = self.raw(images)
        return [
            how.boxes(
                how.candidates([one[at] for one in arrays], least), Placed.of(image, how.size, how.fit), overlap
            )
            for at, image in enumerate(images)
        ]  # fmt: skip

    def _inputs(self, name: str) -> None:
        """What the graph takes: one tensor of images."""
        given = self._session.get_inputs()
        shown = ", ".join(f"{one.name} {one.type} {one.shape}" for one in given)
        if len(given) != 1 or given[0].type not in _TYPES or len(given[0].shape) != 4:
            raise BadInput(
                f"{name} takes {shown or 'nothing'}; a detector takes one tensor of images.",
                "Export it without what comes after the network.",
            )
        self.input_name, self._dtype = given[0].name, _TYPES[given[0].type]
        self._shape = [side if isinstance(side, int) and side > 0 else None for side in given[0].shape]
        if (self._shape[0] or 1) > _MOST_AT_ONCE:
            raise BadInput(
                f"{name} takes {self._shape[0]} images at once.", "Export it with a batch of 1, or a free one."
            )
        self._width = self._shape[0]
        self._at_once = self._width or 1  # more at once is no faster: images go to the threads one by one

    def _read_outputs(self, name: str) -> list[onnxruntime.NodeArg]:
        """The outputs that the description means, once they and the input are of its shape."""
        how = self.description
        height, width = how.size
        wanted = [None, 3, height, width] if how.layout == "NCHW" else [None, height, width, 3]
        if any(None not in pair and pair[0] != pair[1] for pair in zip(self._shape, wanted, strict=True)):
            raise BadInput(
                f"{name} takes {self._shape}; the description says {how.layout}, {height} x {width}.",
                "Correct size or layout of its description.",
            )
        if (self._width or 1) * height * width > _MOST_PIXELS:
            raise BadInput(
                f"{name} takes {self._width} images of {height} x {width} px at once.", "Export it with a batch of 1."
            )
        given = {one.name: one for one in self._session.get_outputs()}
        if absent := [one for one in how.outputs if one not in given]:
            raise BadInput(f"{name} has no output {absent[0]}.", f"It has: {', '.join(given)[:500]}.")
        found = [given[one] for one in how.outputs] or list(given.values())
        if how.kind == "detr" and len(found) == 2 and not how.outputs:
            found.sort(key=lambda one: one.shape[-1] != 4)  # boxes before scores
        how.expect([[s if isinstance(s, int) and s >= 0 else None for s in one.shape or []] for one in found], name)
        return found

    def _described(self, source: Path | bytes, name: str) -> Outputs:
        if self.facts.get(KEY + "format") == FORMAT and OUTPUTS not in self.facts:
            task = self.facts.get(KEY + "task", "?")
            raise BadInput(f"{name} is a model for {task}, not a detector.", "Give a detector.")
        if OUTPUTS in self.facts:
            return Outputs.parse(self._said("outputs", {}, name), name)
        if (beside := description_of(source)) is not None:
            said = Outputs.read(beside)
            return said if said.licence != UNKNOWN else replace(said, licence=_licence(self.facts))
        found = ultralytics(self.facts, [one.shape for one in self._session.get_outputs()], name)
        if found is None:
            where = "a description" if isinstance(source, bytes) else str(source.with_suffix(".yaml"))
            raise BadInput(f"{name} does not say what its outputs mean.", f"Write {where}; kinds: {', '.join(KINDS)}.")
        return found

    def _thresholds(self, name: str) -> dict[str, float]:
        said = self._said("thresholds", {}, name)
        found = dict.fromkeys(self.classes, self.description.confidence)
        for label, value in said.items():
            if label not in found or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise Corrupt(f"{name} is damaged: its thresholds cannot be read.", "Export it again.")
            found[label] = float(value)
        return found

    def _said(self, key: str, otherwise: Any, name: str) -> Any:
        """What a bundle of ours says under this name."""
        if self.facts.get(KEY + "format") != FORMAT or KEY + key not in self.facts:
            return otherwise
        try:
            said = json.loads(self.facts[KEY + key])
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise Corrupt(f"{name} is damaged: its {key} cannot be read.", "Export it again.")
        return said


def description_of(source: Path | bytes) -> Path | None:
    """The description beside a file, where there is one: FILE.onnx.yaml or FILE.yaml."""
    if isinstance(source, bytes):
        return None
    beside = (source.with_name(source.name + ".yaml"), source.with_suffix(".yaml"))
    return next((one for one in beside if one.is_file()), None)


def is_detector(metadata: Mapping[str, str]) -> bool:
    """Whether a file says of itself that it finds boxes: our bundle or Ultralytics' export."""
    return OUTPUTS in metadata or ("names" in metadata and "stride" in metadata and KEY + "format" not in metadata)


def ultralytics(metadata: Mapping[str, str], shapes: Sequence[Sequence[Any]], name: str) -> Outputs | None:
    """What an export of Ultralytics says of itself; None for other files. shapes: of the graph's outputs.

    Raises BadInput where it is an export that finds no boxes, or one that cannot be read.
    """
    if "names" not in metadata or "imgsz" not in metadata:
        return None
    task, head = metadata.get("task", "detect"), metadata.get("head", "")
    if task != "detect":
        raise BadInput(f"{name} is a model for {task}, not a detector.", "Export one of the task detect.")
    try:
        names, sides = (_literal(metadata[key]) for key in ("names", "imgsz"))
        arguments = _literal(metadata.get("args", "{}"))
        ends = metadata.get("end2end") == "True" or (isinstance(arguments, dict) and arguments.get("nms") is True)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise BadInput(f"{name}: the names or the size in its metadata cannot be read.", "Export it again.") from None
    transformer = head == "RTDETRDecoder"
    kind = "detr" if transformer else "nms" if ends and len(shapes) == 1 and shapes[0][-1] in (6, None) else "yolo"
    said = {"kind": kind, "classes": names, "size": sides, "licence": _licence(metadata),
            "fit": "stretch" if transformer else "letterbox"}  # fmt: skip
    return Outputs.parse(said, name)


def _licence(metadata: Mapping[str, str]) -> str:
    said = metadata.get(KEY + "licence") or metadata.get("license") or metadata.get("licence") or UNKNOWN
    return " ".join(said.split())[:500]


def _literal(text: str) -> Any:
    if len(text) > _MOST_SAID:
        raise ValueError
    return ast.literal_eval(text)


def _read(path: Path) -> tuple[bytes, Any]:
    try:
        return read_model(path, str(path))
    except FileNotFoundError:
        raise Missing(f"{path} is not there.", "Give the path of an ONNX file.") from None
    except OSError as error:
        raise StoreFault(f"{path} cannot be read: {error.strerror or error}.", "Check the file.") from None

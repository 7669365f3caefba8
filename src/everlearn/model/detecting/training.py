"""What a detector's training is asked for, what it tells while it goes, and what comes of it. Light to import.

The data are a folder in YOLO's layout that the caller has written: `data.yaml` with `train` and `val`, images/ and
labels/. All that a training writes lies in the job's folder, in the layout that users of Ultralytics know:

    results.csv  results.png  args.yaml  labels.jpg  train_batch0.jpg  val_batch0_labels.jpg  val_batch0_pred.jpg
    BoxPR_curve.png  BoxF1_curve.png  BoxP_curve.png  BoxR_curve.png
    confusion_matrix.png  confusion_matrix_normalized.png
    weights/best.pt  weights/last.pt    ours: plain values and tensors (`weights`), not a pickle of Ultralytics
    weights/resume.pt                   while it goes: all that decides how it goes on
    result.json                         when it is done
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from everlearn.errors import BadConfig, Corrupt, Missing

LICENCE = "AGPL-3.0 (Ultralytics)"
SPEC = "yolo11n.yaml"
Stopped = Literal["epochs", "patience", "diverged", "asked"]


def licence_said(licence: str = LICENCE) -> str:
    """The sentence that is said where the detector is used, and that stands in the model card."""
    return (
        f"This detector is made with Ultralytics YOLO, {licence}: whoever passes it on or offers it over a network "
        "must offer the whole program's source under the same licence, or hold a licence of Ultralytics "
        "(https://ultralytics.com/license)."
    )


@dataclass(frozen=True, slots=True)
class DetectionJob:
    """spec: an architecture (yolo11n.yaml) or a file of weights to begin with (ours or Ultralytics'). classes: names,
    in the order of the labels' numbers. data: path of data.yaml. folder: everything is written below it.

    size: side of the square in px, a multiple of 32. patience: epochs without a better one before it ends, 0 for never.
    optimizer: as Ultralytics names it. lr0: the rate after warm-up. settings: others of Ultralytics' own.
    begin: weights of ours to go on from, whatever their classes. teacher: weights of ours; what it says of its classes
    is learned too, with the weight `distil`. about: a JSON file {image name: [classes that its labels are complete
    for]}; images that it does not name are complete. workers: processes that read images, on a GPU. device: cpu, 0, or
    nothing for what there is. plots: pictures of data and results. download: whether weights that `spec` names and that
    are not on this machine may be fetched.
    """

    spec: str
    classes: tuple[str, ...]
    data: str
    folder: str
    size: int = 640
    epochs: int = 100
    batch: int = 16
    patience: int = 30
    seed: int = 0
    optimizer: str = "AdamW"
    lr0: float = 0.002
    settings: Mapping[str, Any] = field(default_factory=dict)
    begin: str | None = None
    teacher: str | None = None
    distil: float = 1.0
    about: str | None = None
    workers: int = 0
    device: str = ""
    plots: bool = True
    download: bool = False

    def __post_init__(self) -> None:
        for name, least in (("size", 64), ("epochs", 1), ("batch", 1), ("patience", 0), ("workers", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise BadConfig(f"{name} is {value}.", f"Choose {least} or more.")
        if self.size % 32:
            low = self.size // 32 * 32
            raise BadConfig(f"size is {self.size}.", f"YOLO looks at multiples of 32: {low} or {low + 32}.")
        if "," in self.device:
            raise BadConfig(
                f"device is {self.device}.", "A detector is trained on one device: cpu, or one GPU's number."
            )
        for name in ("lr0", "distil"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise BadConfig(f"{name} is {value!r}.", "Say a number, such as 0.005.")
        if not self.lr0 > 0 or not self.distil >= 0:
            raise BadConfig(f"lr0 is {self.lr0:g} and distil {self.distil:g}.", "lr0 > 0, and distil from 0 up.")
        doubled = sorted({one for one in self.classes if self.classes.count(one) > 1})
        if not self.classes or doubled:
            raise BadConfig(f"The classes are {', '.join(self.classes) or 'none'}.", "Name each once, at least one.")

    def to_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__}
        return {**values, "classes": list(self.classes), "settings": dict(self.settings)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DetectionJob:
        return cls(**{**values, "classes": tuple(values["classes"]), "settings": dict(values["settings"])})

    @property
    def decisive(self) -> dict[str, Any]:
        """What decides the weights that come of it; files by their content. Raises Missing."""
        said = {name: value for name, value in self.to_json().items() if name not in _INDIFFERENT}
        files = {name: _digest(Path(said[name])) for name in ("begin", "teacher", "about") if said[name] is not None}
        spec = Path(self.spec)
        return {**said, "spec": _digest(spec) if spec.is_file() else spec.name, **files}


_INDIFFERENT = ("folder", "data", "workers", "device", "plots", "download")


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    except OSError as error:
        raise Missing(f"{path} cannot be read: {error.strerror}.", "Name a file that is there.") from None


@dataclass(frozen=True, slots=True)
class DetectionEpoch:
    """One pass over the training images, and what the averaged weights were worth after it. epoch: from 1. losses: of
    the steps by name (box_loss, cls_loss, dfl_loss, and distil_loss with a teacher); val_losses: on the other side.
    precision, recall: at the confidence of the best F1. memory: of the GPU, in GB; 0 on a CPU."""

    epoch: int
    losses: Mapping[str, float]
    val_losses: Mapping[str, float]
    precision: float
    recall: float
    map50: float
    map50_95: float
    learning_rate: float
    seconds: float
    memory: float


@dataclass(frozen=True, slots=True)
class TrainedDetector:
    """What came of a training. best_epoch: from 1, the one whose weights are in `best`. per_class: mAP50 and mAP50-95
    of the best by class, on the validation side; classes without a box there are left out."""

    best: Path
    last: Path
    best_epoch: int
    map50: float
    map50_95: float
    precision: float
    recall: float
    per_class: Mapping[str, tuple[float, float]]
    history: tuple[DetectionEpoch, ...]
    stopped: Stopped
    seconds: float

    def to_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__}
        return {
            **values, "best": self.best.name, "last": self.last.name, "history": [asdict(one) for one in self.history],
            "per_class": {name: list(pair) for name, pair in self.per_class.items()},
        }  # fmt: skip

    @classmethod
    def from_json(cls, values: Mapping[str, Any], folder: Path) -> TrainedDetector:
        """folder: of the weights. Raises Corrupt where it is not what `to_json` made."""
        try:
            history = tuple(DetectionEpoch(**one) for one in values["history"])
            per_class = {name: (float(a), float(b)) for name, (a, b) in values["per_class"].items()}
            paths = {name: folder / Path(values[name]).name for name in ("best", "last")}
            own = {name: values[name] for name in cls.__slots__}
            return cls(**{**own, **paths, "history": history, "per_class": per_class})
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"A detector's training in {folder} cannot be read: {error!r:.100}.", "Train anew.") from None


class DetectionWatch(Protocol):
    """Whoever looks on: a terminal, trackers, a search that prunes."""

    def begin(self, job: DetectionJob, facts: Mapping[str, Any]) -> None: ...
    def step(self, epoch: int, step: int, steps: int, loss: float, learning_rate: float) -> None: ...
    def epoch(self, found: DetectionEpoch) -> bool | None:
        """True: stop after this epoch."""
        ...

    def say(self, text: str) -> None: ...


class Unwatched:
    """A watch that nobody keeps."""

    def begin(self, job: DetectionJob, facts: Mapping[str, Any]) -> None:
        pass

    def step(self, epoch: int, step: int, steps: int, loss: float, learning_rate: float) -> None:
        pass

    def epoch(self, found: DetectionEpoch) -> bool | None:
        return None

    def say(self, text: str) -> None:
        pass


UNWATCHED = Unwatched()


def read_about(path: str | None, classes: tuple[str, ...]) -> dict[str, frozenset[int]]:
    """Image name -> numbers of the classes that its labels are complete for. Raises BadConfig."""
    if path is None:
        return {}
    try:
        said = json.loads(Path(path).read_text(encoding="utf-8"))
        places = {name: number for number, name in enumerate(classes)}
        return {str(name): frozenset(places[one] for one in known if one in places) for name, known in said.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise BadConfig(
            f"{path} cannot be read: {error!r:.100}.", 'Write {"IMAGE.jpg": ["class", ...], ...}.'
        ) from None

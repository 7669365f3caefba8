"""The words all rooms share: frozen values with their units and shapes, and the protocols they meet at.

Nothing here does any work, and nothing here imports a heavy library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    """Pixels as a viewer shows them: (height, width, 3), RGB, 0-255."""

SampleId = str
"""The first 32 hex digits of the SHA-256 of the file's bytes: the same bytes are the same sample."""

Scalar = str | int | float | bool | None
Task = Literal["classify", "regress", "identify", "detect"]
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Status = Literal["new", "validated", "quarantined", "queued", "labelled", "learned", "forgotten"]
STATUSES: tuple[Status, ...] = ("new", "validated", "quarantined", "queued", "labelled", "learned", "forgotten")
TimeFrom = Literal["exif", "name", "video", "file"]
LabelBy = Literal[
    "folder", "filename", "csv", "yolo", "coco", "voc", "labelstudio", "option", "auto", "person", "feedback", "parent"
]


@dataclass(frozen=True, slots=True)
class Box:
    """A labelled rectangle. x, y: the left upper corner; all four as shares of the image's width and height."""

    label: str
    x: float
    y: float
    width: float
    height: float
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """What is known of a whole image: the label of a sample where the task is `detect`.

    about: the classes that were looked for, so that an absent box of one of them means absence; None: not said, and
    then they are those that occur in what came from the same source.
    """

    boxes: tuple[Box, ...]
    about: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """One thing a source offers, before anything was read of it but its name.

    uri: where it lies, unique in its source (`/photos/a.jpg`, `/videos/door.mp4#t=12.500`).
    name: the file's own name, with its ending.
    read: gives the bytes; called at most once. An OSError or BadInput from it refuses this one thing.
    label, boxes, camera, group, captured_at: what the source says of it; None where it says nothing.
    about: the classes that its data set declares, see `Scene`; cut: how many boxes reached over the edge, by rounding.
    size, modified: in bytes and in seconds since 1970, to recognise an unchanged file without reading it; -1 unknown.
    etag: an object's own mark of its content, which tells more than its time.
    """

    uri: str
    name: str
    read: Read
    size: int = -1
    modified: float = -1.0
    label: str | None = None
    label_by: LabelBy | None = None
    boxes: tuple[Box, ...] | None = None
    about: tuple[str, ...] | None = None
    cut: int = 0
    captured_at: datetime | None = None
    time_from: TimeFrom | None = None
    camera: str | None = None
    group: str | None = None
    etag: str | None = None


class Read(Protocol):
    def __call__(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Refused:
    """Something a source could not take in. path: as the user would write it; reason: one line."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Member:
    """One sample as a snapshot holds it. label is the class name, or for `regress` the number as text."""

    id: SampleId
    label: str
    split: Split
    fold: int
    camera: str | None = None
    parent: SampleId | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An immutable version of the data. digest: SHA-256 over its members, sorted; the same members, the same digest."""

    number: int
    digest: str
    created_at: datetime
    samples: int
    classes: tuple[str, ...]
    splits: Mapping[Split, int]


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer. scores: class name to calibrated probability, most probable first; value: for `regress`."""

    label: str | None
    confidence: float
    scores: Mapping[str, float] = field(default_factory=dict)
    value: float | None = None
    boxes: tuple[Box, ...] | None = None


class Progress(Protocol):
    """Where long work says how far it is. Messages are for people and go to stderr."""

    def task(self, name: str, total: int | None = None) -> ProgressTask: ...
    def say(self, message: str) -> None: ...


class ProgressTask(Protocol):
    def __enter__(self) -> ProgressTask: ...
    def __exit__(self, *error: object) -> None: ...
    def advance(self, steps: int = 1) -> None: ...


class Silent:
    """Progress that nobody sees."""

    def say(self, message: str) -> None:
        pass

    def task(self, name: str, total: int | None = None) -> Silent:
        return self

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def advance(self, steps: int = 1) -> None:
        pass


SILENT = Silent()


class Store(Protocol):
    """Bytes by key. A key is a relative path with forward slashes, never with `..` in it."""

    def put(self, key: str, data: BinaryIO) -> None:
        """Whole or not at all: a reader never sees half a file. Raises StoreFault."""
        ...

    def open(self, key: str) -> BinaryIO:
        """Raises Missing where there is no such key, StoreFault where it cannot be read."""
        ...

    def copy(self, key: str, new_key: str) -> None:
        """The same bytes under a second key, without moving them through this process where that can be had (a hard
        link, a copy on the server). Raises Missing, StoreFault."""
        ...

    def remove(self, key: str) -> None:
        """A key that is not there is no error. Raises StoreFault."""
        ...

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys below the prefix, in any order, as a stream."""
        ...


class Tracker(Protocol):
    """Where a run is written: the catalog, `training_logs/`, MLflow, TensorBoard, W&B."""

    def params(self, values: Mapping[str, Scalar]) -> None: ...
    def metrics(self, values: Mapping[str, float], step: int) -> None: ...
    def artifact(self, path: Path) -> None: ...
    def finish(self, status: str = "done") -> None:
        """The run is over: done, failed, interrupted or pruned. Nothing is told after this."""
        ...


@dataclass(frozen=True, slots=True)
class LearnReport:
    """samples: learned now, 0 where nothing changed; removed: unlearned now; digests: SHA-256, None if not exact."""

    learner: str
    samples: int
    removed: int
    seconds: float
    memory_digest: str | None
    model_digest: str | None
    details: Mapping[str, Any] = field(default_factory=dict)

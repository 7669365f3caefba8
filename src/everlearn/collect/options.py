"""What a person can say about a source, and what every source can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from everlearn.types import Found, Refused

LabelsFrom = Literal["folder", "filename", "csv", "yolo", "coco", "voc", "labelstudio", "none"]
LABELS_FROM: tuple[LabelsFrom, ...] = get_args(LabelsFrom)


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What is said of a whole source.

    labels_from: where labels are read from; None: found out from how the source is laid out.
    label, camera, group: hold for everything in the source, whatever else says otherwise.
    pattern: of file names, such as `{label}_{date}_{time}_{camera}.{ext}` (`naming.compile_pattern`).
    exclude: folders not to enter, such as the workspace itself.
    max_bytes: larger files are refused; videos and tables, which are streamed, have no limit. None: `image.MAX_BYTES`.
    frames_per_second: taken from a video; on_scene_change: take a frame where the picture has changed instead.
    scene_threshold: how far the colours must have moved, as a share of their range, 0-1; scene_gap: seconds between two
    frames at least.
    label_column, id_column, camera_column, group_column, time_column: of a table of features; all but the label's
    are used where the table has them. most_columns: of features; a wider table is refused. None: no limit.
    scratch: a folder for what was fetched from elsewhere and is not taken in yet. after: what is done with objects of
    a bucket afterwards. known: tells what was taken in before, so that it need not be fetched.
    """

    labels_from: LabelsFrom | None = None
    label: str | None = None
    camera: str | None = None
    group: str | None = None
    pattern: str | None = None
    exclude: tuple[str, ...] = ()
    max_bytes: int | None = None
    frames_per_second: float = 1.0
    on_scene_change: bool = False
    scene_threshold: float = 0.05
    scene_gap: float = 1.0
    label_column: str = "label"
    id_column: str = "id"
    camera_column: str = "camera"
    group_column: str = "group"
    time_column: str = "time"
    most_columns: int | None = None
    scratch: str | None = None
    after: str = "keep"
    known: Callable[[Found], bool] | None = None


class Source(Protocol):
    """A stream of things to take in. What cannot be taken in is a `Refused` in the stream, never an exception."""

    def items(self) -> Iterator[Found | Refused]:
        """In any order; nothing may depend on it. Memory does not grow with their number."""
        ...

    def estimate(self) -> int | None:
        """About how many items there are, for a progress bar; None where counting would cost as much as reading."""
        ...

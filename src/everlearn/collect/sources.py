"""From what a person names to a stream of things to take in: folders, files, videos, data sets, tables of features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from everlearn.catalog.origins import Origin
from everlearn.collect.bucket import BucketSource
from everlearn.collect.coco import CocoSource, coco_files
from everlearn.collect.files import ending, is_there, printable
from everlearn.collect.folder import FolderSource
from everlearn.collect.label_studio import LabelStudioSource, label_studio_files, looks_like_label_studio
from everlearn.collect.mirror import MirrorSource, holds_data_set
from everlearn.collect.options import LABELS_FROM, LabelsFrom, Source, SourceOptions
from everlearn.collect.roboflow import SCHEME, RoboflowSource
from everlearn.collect.rows import RowsSource
from everlearn.collect.table import MARK, CsvSource, header, open_csv
from everlearn.collect.voc import VocSource
from everlearn.collect.yolo import YAML_NAMES, YoloSource
from everlearn.errors import BadInput, Missing
from everlearn.naming import clean_label
from everlearn.s3 import shown
from everlearn.types import Found, Refused

READERS: dict[LabelsFrom, Callable[[str, SourceOptions], Source]] = {
    "folder": FolderSource,
    "filename": FolderSource,
    "none": FolderSource,
    "csv": CsvSource,
    "yolo": YoloSource,
    "coco": CocoSource,
    "voc": VocSource,
    "labelstudio": LabelStudioSource,
}
_BY_ENDING: dict[str, LabelsFrom] = {"csv": "csv", "yaml": "yolo", "yml": "yolo", "json": "coco", "xml": "voc"}
_SIDES = (("train", "training"), ("val", "valid", "validation", "test"))


def open_source(spec: str, options: SourceOptions | None = None) -> Opened:
    """A source by its path or address. Nothing is read of it yet but how it is laid out.

    Raises Missing where there is nothing, BadInput for what cannot be a source or an option that cannot be.
    """
    options = options or SourceOptions()
    if "://" in spec:
        return Opened(_elsewhere(spec, options), options)
    path = Path(spec)
    if "\0" in spec:
        raise BadInput(f"'{printable(spec)}' is no path.", "Name a file or a folder.")
    try:
        if not path.exists():
            raise Missing(f"There is nothing at '{printable(spec)}'.", "Name a file or a folder that exists.")
        if not path.is_dir() and not path.is_file():
            raise BadInput(f"'{printable(spec)}' is neither a file nor a folder.", "Name a file or a folder.")
    except OSError as error:
        raise BadInput(f"'{printable(spec)}' cannot be read: {error}.", "Name a file or a folder.") from error
    if is_table(path):
        return Opened(RowsSource(spec, options), options)
    by = options.labels_from or _detected(spec, path, options)
    if by not in READERS:
        raise BadInput(f"labels_from is '{by}'.", f"Use one of {', '.join(LABELS_FROM)}.")
    return Opened(READERS[by](spec, replace(options, labels_from=by)), options)


def _elsewhere(spec: str, options: SourceOptions) -> Source:
    """What lies in a bucket: images and videos by their keys, or a data set; or a version at Roboflow. Raises BadInput
    for other addresses, OutOfReach, and what `BucketSource` and `RoboflowSource` raise."""
    if spec.startswith(SCHEME):
        return RoboflowSource(spec, replace(options, labels_from="yolo"))
    if not spec.lower().startswith("s3://"):
        raise BadInput(
            f"'{printable(shown(spec))}' cannot be collected from.", "Name a folder, or a bucket: s3://bucket/prefix"
        )
    if ending(spec) in ("parquet", "csv"):
        raise BadInput(f"{shown(spec)}: tables are read from this machine alone.", "Copy it here, and name that.")
    by = options.labels_from
    if by is not None and by not in READERS:
        raise BadInput(f"labels_from is '{by}'.", f"Use one of {', '.join(LABELS_FROM)}.")
    by_key = by if by in ("folder", "filename", "none") else _by_pattern(options)
    source = BucketSource(spec, replace(options, labels_from=by_key))
    if options.after == "keep" and source.is_empty():  # else it is empty because all was taken in
        raise Missing(f"There is nothing at {source.url}.", "Correct the prefix, or wait until something is there.")
    if by == by_key or source.single or (by is None and not holds_data_set(source)):
        return source
    return MirrorSource(source, options, open_source)


def is_table(path: Path) -> bool:
    """Whether a file is a table of features: Parquet, or a CSV without a column `path`."""
    kind = ending(path.name)
    if kind != "csv" or not path.is_file():
        return kind == "parquet" and path.is_file()
    with open_csv(path) as file:
        return "path" not in header(file, path)[0]


def detect(path: Path, options: SourceOptions) -> LabelsFrom:
    """How a source is laid out, by the names in it: what says most goes first. A folder of folders may be classes or
    may be days and cameras, so it counts as labelled only where its sides (train and test) have the same classes."""
    if path.is_file() and ending(path.name) == "json" and looks_like_label_studio(path):
        return "labelstudio"
    if path.is_file():
        return _BY_ENDING.get(ending(path.name)) or _by_pattern(options)
    if is_there(path / MARK):  # our own exports tell everything in their index.csv
        return "csv"
    if any(is_there(path / name) for name in YAML_NAMES) or _has(path / "labels", "txt"):
        return "yolo"
    if coco_files(path):
        return "coco"
    if label_studio_files(path):
        return "labelstudio"
    if any(_has(path / name, "xml", levels=1) for name in ("Annotations", "annotations", "")):
        return "voc"
    if is_there(path / "labels.csv"):
        with open_csv(path / "labels.csv") as file:
            if {"path", "label"} <= set(header(file, path / "labels.csv")[0]):
                return "csv"
    first, second = ([path / name for name in names if (path / name).is_dir()] for names in _SIDES)
    if first and second and _folders(first[0]) & _folders(second[0]):
        return "folder"
    return _by_pattern(options)


def _detected(spec: str, path: Path, options: SourceOptions) -> LabelsFrom:
    try:
        return detect(path, options)
    except PermissionError as error:  # a folder that may be seen, but not entered
        raise BadInput(f"'{printable(spec)}' cannot be read: {error.strerror}.", "Give this user the right.") from error


def _by_pattern(options: SourceOptions) -> LabelsFrom:
    return "filename" if options.pattern and "{label}" in options.pattern else "none"


def _has(folder: Path, kind: str, levels: int = 2) -> bool:
    """Among the first files of a folder, or of the folders in it (YOLO's train and val); a look, not a search."""
    try:
        return any(
            ending(entry.name) == kind or (levels > 1 and entry.is_dir() and _has(entry, kind, levels - 1))
            for entry in islice(folder.iterdir(), 100)
        )
    except OSError:
        return False


def _folders(folder: Path) -> set[str]:
    return {entry.name for entry in islice(folder.iterdir(), 10_000) if entry.is_dir()}


class Opened:
    """What a person says of a whole source goes before what the source says of itself."""

    def __init__(self, source: Source, options: SourceOptions) -> None:
        self.source = source
        self.label = None if options.label is None else clean_label(options.label)
        self.camera, self.group = options.camera, options.group

    def items(self) -> Iterator[Found | Refused]:
        for item in self.source.items():
            if isinstance(item, Found):
                if self.label is not None:
                    item = replace(item, label=self.label, label_by="option")
                if self.camera is not None or self.group is not None:
                    item = replace(item, camera=self.camera or item.camera, group=self.group or item.group)
            yield item

    def estimate(self) -> int | None:
        return self.source.estimate()

    @property
    def origin(self) -> Origin:
        """What a data set says of itself, complete once it was read."""
        return getattr(self.source, "origin", None) or Origin()

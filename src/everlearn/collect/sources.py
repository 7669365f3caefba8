"""From what a person names to a stream of things to take in: folders, files, videos, data sets, tables of features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from everlearn.collect.files import printable
from everlearn.collect.folder import FolderSource
from everlearn.collect.options import LABELS_FROM, LabelsFrom, Source, SourceOptions
from everlearn.errors import BadInput, Missing
from everlearn.naming import clean_label
from everlearn.types import Found, Refused

READERS: dict[LabelsFrom, Callable[[str, SourceOptions], Source]] = {
    "folder": FolderSource,
    "filename": FolderSource,
    "none": FolderSource,
}


def open_source(spec: str, options: SourceOptions | None = None) -> Source:
    """A source by its path. Nothing is read of it yet but how it is laid out.

    Raises Missing where there is nothing, BadInput for what cannot be a source or an option that cannot be.
    """
    options = options or SourceOptions()
    if "://" in spec:
        raise BadInput(f"'{printable(spec)}' cannot be collected from yet.", "Copy it into a folder, and name that.")
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
    by = options.labels_from or detect(spec, options)
    if by not in LABELS_FROM:
        raise BadInput(f"labels_from is '{by}'.", f"Use one of {', '.join(LABELS_FROM)}.")
    return _Declared(READERS[by](spec, replace(options, labels_from=by)), options)


def detect(spec: str, options: SourceOptions) -> LabelsFrom:
    """How a source is laid out, by its names alone."""
    return "filename" if options.pattern and "{label}" in options.pattern else "none"


class _Declared:
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

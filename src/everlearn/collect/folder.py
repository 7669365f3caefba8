"""A folder of images and videos. Labels come from folder names (ImageFolder), from file names, or from nowhere."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from everlearn.collect.files import VIDEO_ENDINGS, Entry, ending, offer, refused, walk
from everlearn.collect.options import SourceOptions
from everlearn.collect.video import frame_rule, frames
from everlearn.errors import BadInput
from everlearn.naming import clean_label, compile_pattern, parse_name, time_in_name
from everlearn.types import Found, LabelBy, Refused


@dataclass(frozen=True, slots=True)
class Said:
    """What the names of a file and of its folder say."""

    label: str | None = None
    when: datetime | None = None
    camera: str | None = None
    group: str | None = None

    def put_on(self, found: Found, by: LabelBy) -> Found:
        """The thing with this said of it. by: where a label of it comes from."""
        label_by = by if self.label is not None else None
        return replace(found, label=self.label, label_by=label_by, camera=self.camera, group=self.group or found.group)


class Names:
    """How the names in a source are read, by what is said of it. Raises BadInput for a pattern that cannot be."""

    def __init__(self, options: SourceOptions) -> None:
        self.form = options.pattern
        self.by = options.labels_from
        self.pattern = compile_pattern(options.pattern) if options.pattern else None
        if self.pattern and self.by == "filename" and "label" not in self.pattern.regex.groupindex:
            raise BadInput(f"The pattern {options.pattern!r} has no {{label}}.", "Say where the label stands.")

    @property
    def label_by(self) -> LabelBy:
        return "folder" if self.by == "folder" else "filename"

    def said(self, entry: Entry, root_label: str | None) -> Said | Refused:
        """root_label: of what lies in no folder of the source, where labels are the names of folders."""
        name = unicodedata.normalize("NFC", entry.name)
        when = time_in_name(name)
        said = Said(when=when)
        if self.pattern and (match := self.pattern.match(entry.below)):
            said = Said(match.label, match.when or when, match.camera, match.group)
        elif self.by == "filename" and not self.pattern and (parts := parse_name(name)):
            said = Said(parts.label, parts.when, parts.source)
        elif self.by == "filename":
            form = self.form or "{label}_{date}_{time}_{camera}.{ext}"
            return refused(entry.path, f"its name does not fit the pattern {form}")
        label = said.label if self.by == "filename" else None
        if self.by == "folder":
            label = entry.below.split("/")[-2] if "/" in entry.below else root_label
        try:
            return replace(said, label=None if label is None else clean_label(label))
        except BadInput as error:
            return refused(entry.path, error.message)


class FolderSource:
    """All images and videos below a folder, or one file.

    labels_from `folder`: the label is the name of the folder that the file lies in; files that lie beside class
    folders have none. `filename`: by the pattern, else by Everlearn's own form of names. `none`: no label.
    Raises BadInput for a bad pattern or options of video frames that cannot be.
    """

    def __init__(self, path: str, options: SourceOptions) -> None:
        here = Path(path).absolute()
        frame_rule(options)  # says now what is wrong with it, not at the first video
        self.options = options
        self.names = Names(options)
        self.path = str(here)
        self.single = here.is_file()
        self.root = here.parent if self.single else here

    def items(self) -> Iterator[Found | Refused]:
        # Beside class folders a loose file is a stray; in a folder of files alone it belongs to the folder's class.
        root_label = self.root.name if self.single or not _has_folders(self.root) else None
        for entry in self._entries():
            said = entry if isinstance(entry, Refused) else self.names.said(entry, root_label)
            if isinstance(entry, Refused) or isinstance(said, Refused):
                yield said  # type: ignore[misc]
                continue
            for found in self._found(entry, said):
                yield found if isinstance(found, Refused) else said.put_on(found, self.names.label_by)

    def estimate(self) -> int | None:
        """Counts the files; a video among them counts as one."""
        if self.single:
            return None if ending(self.path) in VIDEO_ENDINGS else 1
        entries = walk(str(self.root), self.options.exclude, with_stat=False)
        return sum(1 for entry in entries if isinstance(entry, Entry))

    def _entries(self) -> Iterator[Entry | Refused]:
        if not self.single:
            return walk(str(self.root), self.options.exclude)
        target = Path(os.path.realpath(self.path))
        status = target.stat()
        return iter([Entry(self.path, Path(self.path).name, str(target), status.st_size, status.st_mtime)])

    def _found(self, entry: Entry, said: Said) -> Iterator[Found | Refused]:
        if ending(entry.name) in VIDEO_ENDINGS:
            yield from frames(entry, self.options, said.when)
            return
        found = offer(entry, self.options.max_bytes)
        if isinstance(found, Found) and said.when:
            found = replace(found, captured_at=said.when, time_from="name")
        yield found


def _has_folders(root: Path) -> bool:
    with os.scandir(root) as scan:
        return any(entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".") for entry in scan)

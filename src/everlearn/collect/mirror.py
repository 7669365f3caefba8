"""A data set in a bucket: what says something of images is fetched, and read where it lies in a folder.

Images stand in that folder as empty files of their size and time, with their ETag for content, so the readers of data
sets find them by name. They are fetched only where `take` asks for them, like any object, and never twice.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from everlearn.collect.bucket import BucketSource, fetch
from everlearn.collect.files import IMAGE_ENDINGS, ending, is_left_behind, refused
from everlearn.collect.options import Source, SourceOptions
from everlearn.errors import BadInput, EverlearnError
from everlearn.s3 import Entry
from everlearn.store import check_key
from everlearn.types import Found, Refused
from everlearn.workspace import SCRATCH

SAYING = frozenset({"txt", "xml", "json", "yaml", "yml", "csv", "names"})
"""Endings of files that say something of images."""
MOST_SAID = 512_000_000
"""Bytes of one such file; a larger one is refused."""
MARKS = (
    "everlearn_export.json", "data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "labels/", "labels.csv",
    "Annotations/", "annotations/", "_annotations.coco.json", "train/_annotations.coco.json",
)  # fmt: skip
"""What lies at the top of a data set."""
_HEAD = 1 << 16
_SIDES = ({"train/", "training/"}, {"val/", "valid/", "validation/", "test/"})


class MirrorSource:
    """A data set below a prefix of a bucket. open_folder: what reads one that lies in a folder."""

    def __init__(self, objects: BucketSource, options: SourceOptions, open_folder: Callable[..., Source]) -> None:
        if options.after != "keep":
            raise BadInput(
                f"--after {options.after}: a data set lies at {objects.url}, and its labels belong to its images.",
                "Leave it out, or collect the images alone: --labels-from none",
            )
        self.objects, self.options, self.open_folder = objects, options, open_folder
        self.origin: Any = None

    def items(self) -> Iterator[Found | Refused]:
        with tempfile.TemporaryDirectory(dir=self.options.scratch, prefix=SCRATCH) as folder:
            root = Path(folder) / "mirror"
            root.mkdir()
            yield from self._mirrored(root)
            source = self.open_folder(str(root), self.options)
            for item in source.items():
                yield self._told(item, root) if isinstance(item, Refused) else self._found(item, root)
            self.origin = getattr(source, "origin", None)

    def estimate(self) -> int | None:
        return None

    def _mirrored(self, root: Path) -> Iterator[Refused]:
        for one in self.objects.objects():
            entry = self.objects.entry(one)
            kind = ending(entry.name)
            if kind not in IMAGE_ENDINGS | SAYING or is_left_behind(entry.below):
                continue
            try:
                path = root / check_key(entry.below)
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind in SAYING:
                    self._fetch(one, path)
                else:
                    _stand_in(one, path)
                os.utime(path, (one.modified, one.modified))
            except OSError as error:
                yield refused(entry.path, f"cannot stand beside its likes in a folder: {error.strerror}")
            except BadInput as error:
                yield refused(entry.path, error.message)

    def _fetch(self, one: Entry, path: Path) -> None:
        if one.size > MOST_SAID:
            raise BadInput(f"{one.size} bytes, more than the limit of {MOST_SAID}", "")
        with path.open("w+b") as file:
            fetch(self.objects.bucket, one, file)

    def _found(self, found: Found, root: Path) -> Found | Refused:
        path = Path(found.uri)
        below = path.relative_to(root).as_posix()
        with path.open("rb") as file:
            etag = file.readline(200).partition(b"\n")[0].strip(b"\0").decode("utf-8", "replace") or None
        one = Entry(self.objects.prefix + below, found.size, etag, found.modified)
        offered = self.objects.offer(one)
        if isinstance(offered, Refused):
            return offered
        return replace(found, uri=offered.uri, name=offered.name, read=offered.read, etag=etag)

    def _told(self, item: Refused, root: Path) -> Refused:
        shown = f"{self.objects.url}/"
        return Refused(item.path.replace(f"{root}/", shown), item.reason.replace(f"{root}/", shown))


def _stand_in(one: Entry, path: Path) -> None:
    said = f"{one.etag or ''}\n".encode()
    with path.open("wb") as file:
        if one.etag and len(said) <= one.size:
            file.write(said)
        file.truncate(one.size)  # a hole: it takes no room


def holds_data_set(source: BucketSource) -> bool:
    """Whether what lies at the top of a prefix may be a data set; a look, not a search."""
    look = partial(source.bucket.call, "list_objects_v2", "listed")
    page = look(Prefix=source.prefix, Delimiter="/")
    top = [item["Key"].removeprefix(source.prefix) for item in page.get("Contents", ())]
    folders = {item["Prefix"].removeprefix(source.prefix) for item in page.get("CommonPrefixes", ())}
    if not folders.isdisjoint(MARKS) or not set(top).isdisjoint(MARKS):
        return True
    if any(ending(name) == "xml" for name in top[:100]):
        return True
    asked = MARKS if page.get("IsTruncated") else [mark for mark in MARKS if mark.partition("/")[0] + "/" in folders]
    if any(look(Prefix=source.prefix + mark, MaxKeys=1).get("Contents") for mark in asked):
        return True
    first, second = (sorted(folders & names) for names in _SIDES)
    if first and second:
        classes = [
            {one["Prefix"].split("/")[-2] for one in look(Prefix=source.prefix + side, Delimiter="/").get(
                "CommonPrefixes", ())}
            for side in (first[0], second[0])
        ]  # fmt: skip
        if classes[0] & classes[1]:
            return True
    return any(_says_of_images(source, name) for name in [name for name in top if ending(name) == "json"][:10])


def _says_of_images(source: BucketSource, name: str) -> bool:
    head = io.BytesIO()
    with suppress(EverlearnError):
        source.bucket.read(source.prefix + name, head, most=_HEAD, Range=f"bytes=0-{_HEAD - 1}")
    return any(word in head.getvalue() for word in (b'"file_name"', b'"image_id"', b'"images"', b'"annotations"'))

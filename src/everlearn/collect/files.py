"""Files below a folder as a stream, and reading one of them safely.

`os` instead of `pathlib` throughout: `os.scandir` streams a folder of millions and knows the kind of most entries
without asking the disk again.
"""
# ruff: noqa: PTH100, PTH113, PTH116, PTH118

from __future__ import annotations

import errno
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

from everlearn.errors import BadInput
from everlearn.image import ENDINGS, MAX_BYTES
from everlearn.naming import is_unwritable
from everlearn.types import Found, Refused

IMAGE_ENDINGS = frozenset(ENDINGS)
VIDEO_ENDINGS = frozenset({"mp4", "m4v", "mov", "avi", "mkv", "webm"})
SORTED_BELOW = 1_000
"""A folder with fewer entries is read in the order of its names; a larger one as the disk gives it."""
DEEPEST = 128
"""Levels of folders that are entered: a large folder stays open while what lies below it is read."""
LONGEST_PATH = 4096
"""Letters of a path that an annotation names: no system opens a longer one, and each of its steps is looked up."""

_NEVER = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "system volume information"})
_PAPERS = re.compile(
    r"(readme|licen[cs]e|copying|notice|authors|citation|changelog|sources)(\.(md|txt|rst|cff))?", re.IGNORECASE
)
_IMAGE_STARTS = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF8": "gif",
    b"II*\x00": "tif",
    b"MM\x00*": "tif",
}
_SAFE_OPEN = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file. path: as the user would write it; below: the same from the source's root, with `/`;
    target: what to open, with symbolic links resolved; size in bytes and modified in seconds since 1970, or -1."""

    path: str
    below: str
    target: str
    size: int = -1
    modified: float = -1.0

    @property
    def name(self) -> str:
        return self.below.rpartition("/")[2]


def ending(name: str) -> str:
    """`jpg` of `a.b.JPG`; empty where there is none."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def printable(path: str, longest: int = 600) -> str:
    """A path in one line that a terminal shows as it is: control characters and stray bytes escaped, the middle cut."""
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode("ascii")
        for char in path
    )
    return shown if len(shown) <= longest else f"{shown[: longest // 2]}…{shown[-longest // 2 :]}"


def refused(path: str, reason: str) -> Refused:
    return Refused(printable(path), printable(reason))


def why(error: OSError) -> str:
    """An operating system's error in one line for people."""
    known = {
        errno.ENAMETOOLONG: "its path is longer than the system allows: move it up or rename it",
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.ELOOP: "a loop of symbolic links",
        errno.ENOENT: "it is not there, or a link that leads nowhere",
    }
    return known.get(error.errno or 0, f"cannot be read: {error.strerror or error}")


def is_within(path: str, root: str) -> bool:
    """Whether a resolved path is the resolved root or lies below it."""
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def is_left_behind(below: str) -> bool:
    """Whether a path goes through a hidden folder or one that systems leave behind, or ends in a data set's paper."""
    parts = below.split("/")
    return any(part.startswith(".") or part.lower() in _NEVER for part in parts) or bool(_PAPERS.fullmatch(parts[-1]))


def _listing(folder: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as scan:
        head = sorted(islice(scan, SORTED_BELOW), key=lambda entry: entry.name)
        if len(head) == SORTED_BELOW:
            yield from head
            yield from scan
            return
    yield from head


def walk(root: str, exclude: tuple[str, ...] = (), *, with_stat: bool = True) -> Iterator[Entry | Refused]:
    """All regular files below a folder, as a stream; hidden ones, what systems leave behind and a data set's papers
    (README, LICENSE) are passed over.

    Links to files are followed where they stay inside the root. Links to folders are not: what lies inside is read
    where it lies, so that no loop and no tangle of links makes the walk longer than the disk.
    """
    root = os.path.abspath(root)
    real_root = os.path.realpath(root)
    shut = {os.path.realpath(folder) for folder in exclude}
    open_folders = [(_listing(root), "")]
    while open_folders:
        listing, below = open_folders[-1]
        try:
            entry = next(listing, None)
        except OSError as error:
            yield refused(os.path.join(root, below.rstrip("/")), why(error))
            entry = None
        if entry is None:
            open_folders.pop()
            continue
        if entry.name.startswith(".") or entry.name.lower() in _NEVER:
            continue
        if _PAPERS.fullmatch(entry.name) and entry.is_file():
            continue
        found = _judge(entry, root, real_root, below + entry.name, with_stat)
        if found is not None:
            yield found
        elif len(open_folders) > DEEPEST:
            yield refused(entry.path, f"folders are nested deeper than {DEEPEST} levels")
        elif not shut or os.path.join(real_root, below + entry.name) not in shut:
            open_folders.append((_listing(entry.path), below + entry.name + "/"))


def _judge(entry: os.DirEntry[str], root: str, real_root: str, below: str, with_stat: bool) -> Entry | Refused | None:
    """None: a folder to enter."""
    if is_unwritable(entry.name):
        return refused(entry.path, "its name holds a line break, control character or undecodable byte: rename it")
    try:
        if entry.is_symlink():
            return _judge_link(entry.path, real_root, below)
        if entry.is_dir(follow_symlinks=False):
            return None
        if not entry.is_file(follow_symlinks=False):
            return refused(entry.path, "not a regular file")
        if not with_stat:
            return Entry(entry.path, below, entry.path)
        status = entry.stat(follow_symlinks=False)
        return Entry(entry.path, below, entry.path, status.st_size, status.st_mtime)
    except OSError as error:
        return refused(entry.path, why(error))


def _judge_link(path: str, real_root: str, below: str) -> Entry | Refused:
    status = os.stat(path)
    target = os.path.realpath(path)
    # A link to the root's own parents leads outside as well, but "loop" is the more helpful word for it.
    if not is_within(target, real_root) and not is_within(real_root, target):
        return refused(path, "a link that leads outside of the source")
    if stat.S_ISDIR(status.st_mode):
        if is_within(os.path.join(real_root, below), target):
            return refused(path, "a loop of symbolic links")
        return refused(path, "a link to a folder is not followed: what lies in it is read where it lies")
    if not stat.S_ISREG(status.st_mode):
        return refused(path, "not a regular file")
    return Entry(path, below, target, status.st_size, status.st_mtime)


def entry_at(path: str, root: str, base: str | None = None) -> Entry:
    """The file that an annotation names by its path from the folder `base` (else `root`), inside of `root` only.

    Raises BadInput where it leads outside, is no regular file or has an odd name; OSError where it is not there.
    """
    if is_unwritable(path) or not path:
        raise BadInput(f"'{printable(path)}' is no path.", "Name a file.")
    if len(path) > LONGEST_PATH:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    full = os.path.normpath(os.path.join(base or root, path.replace("\\", "/")))  # Windows tools write backslashes
    real_root, target = os.path.realpath(root), os.path.realpath(full)
    if not is_within(full, os.path.abspath(root)) or not is_within(target, real_root):
        raise BadInput(f"'{printable(path)}' leads outside of the data set's folder.", "Keep its files inside.")
    status = os.stat(target)
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"'{printable(path)}' is not a regular file.", "Name a file.")
    return Entry(full, os.path.relpath(full, root).replace(os.sep, "/"), target, status.st_size, status.st_mtime)


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether there is a regular file; False, not an error, for a path that the system cannot even look up."""
    return os.path.isfile(path)


def read_regular(path: str, max_bytes: int) -> bytes:
    """The bytes of a regular file that is no link; never waits on a pipe or a device.

    Raises BadInput where it is empty, too large or no regular file, and OSError.
    """
    with os.fdopen(os.open(path, _SAFE_OPEN), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise BadInput("Not a regular file.", "")
        data = file.read(max_bytes + 1)
    if not data:
        raise BadInput("An empty file.", "")
    if len(data) > max_bytes:
        raise BadInput(f"Larger than the limit of {max_bytes} bytes.", "")
    return data


def _sniff(path: str) -> str:
    """The ending that a file should have by its first bytes; empty for no image."""
    try:
        with os.fdopen(os.open(path, _SAFE_OPEN), "rb") as file:
            head = file.read(16) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except OSError:
        return ""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return next((kind for start, kind in _IMAGE_STARTS.items() if head.startswith(start)), "")


def offer(entry: Entry, max_bytes: int | None) -> Found | Refused:
    """An image file, unread, or why not. Where the name does not say what it is, its first bytes do."""
    limit = MAX_BYTES if max_bytes is None else max_bytes
    name = unicodedata.normalize("NFC", entry.name)
    if ending(name) in VIDEO_ENDINGS:
        return refused(entry.path, "a video, where an image is needed")
    if ending(name) not in IMAGE_ENDINGS:
        kind = _sniff(entry.target)
        if not kind:
            return refused(entry.path, "neither an image nor a video, by its name and its first bytes")
        name = f"{name}.{kind}"
    if entry.size == 0:
        return refused(entry.path, "an empty file")
    if entry.size > limit:
        return refused(entry.path, f"{entry.size} bytes, more than the limit of {limit}")
    return Found(
        uri=entry.path,
        name=name,
        read=partial(read_regular, entry.target, limit),
        size=entry.size,
        modified=entry.modified,
    )

"""Bytes in and out: a local folder, or any S3 endpoint, behind the protocol `types.Store`.

Both put a file whole or not at all: locally by a temporary file that is renamed, on S3 by the protocol itself. Keys are
checked before anything is touched, so a hostile name reaches no file outside the store. `testing.check_store` holds
the contract that every store must keep.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from everlearn import faults
from everlearn.errors import BadConfig, BadInput, Missing, StoreFault
from everlearn.s3 import Bucket, Entry, address
from everlearn.types import Store

UNFINISHED = ".everlearn-part-"
"""How the name of a file begins that is still being written; such names are no keys."""

_UNSAFE = re.compile(r"[\\\x00-\x1f\x7f]")
_CHUNK = 1 << 20  # bytes read at a time
PART = 32 << 20
"""Bytes of one part of a multi-part upload: S3 takes 10,000 of them, 5 MiB to 5 GiB each."""
_SPOOL = 8 << 20  # bytes of an opened object held in memory; larger ones lie in a temporary file


def open_store(where: str | Path) -> Store:
    """The store at a folder, a `file://` URL or `s3://bucket/prefix`. Raises BadConfig on any other URL."""
    text = str(where)
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if scheme == "s3":
        return S3Store(text)
    if scheme == "file":
        return LocalStore(Path(urlsplit(text).path))
    if scheme and not isinstance(where, Path):
        raise BadConfig(f"There is no store for {scheme}:// addresses.", "Give a folder or s3://bucket/prefix.")
    return LocalStore(Path(where))


def check_key(key: str) -> str:
    """The key itself, where it is a relative path with forward slashes and safe everywhere. Raises BadInput."""
    parts = key.split("/")
    if not key:
        why = "it is empty"
    elif _UNSAFE.search(key):
        why = "it holds a backslash or a control character"
    elif any(part in ("", ".", "..") for part in parts):
        why = "it must be a plain relative path"
    elif any(part.startswith(UNFINISHED) for part in parts):
        why = f"names beginning with {UNFINISHED} are for unfinished files"
    elif len(encoded := key.encode("utf-8", "replace")) > 1024 or max(map(len, encoded.split(b"/"))) > 255:
        why = "it is longer than 1,024 bytes, or a part of it than 255"
    elif re.search("[\ud800-\udfff]", key):
        why = "it is not valid Unicode"
    else:
        return key
    raise BadInput(f"{key[:100]!a} is no key of a store: {why}.", "Use a relative path with forward slashes.")


def _folder_prefix(prefix: str) -> str:
    """A checked prefix that ends with a slash, or the empty one."""
    return f"{check_key(prefix.rstrip('/'))}/" if prefix.rstrip("/") else ""


# --- a local folder -----------------------------------------------------------------------------------------------

_REMEDIES = {
    errno.ENOSPC: "The disk is full: free some space, or use a folder on another disk.",
    errno.EDQUOT: "The disk quota is used up: free some space, or use a folder on another disk.",
    errno.EROFS: "The disk is mounted read-only: mount it for writing, or use another folder.",
    errno.EACCES: "Give this user the right to read and write there, or use another folder.",
    errno.EPERM: "Give this user the right to read and write there, or use another folder.",
    errno.ENAMETOOLONG: "Use a folder with a shorter path.",
    errno.ENOTDIR: "A file lies where a folder is needed: move it away.",
    errno.EEXIST: "A file lies where a folder is needed: move it away.",
    errno.EISDIR: "A folder lies where a file is needed: move it away.",
    errno.EMFILE: "Too many files are open: raise the limit with `ulimit -n`.",
    errno.EIO: "The disk reports errors: check it before going on.",
}


@contextmanager
def _disk_faults(doing: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "Check the disk and the folder's rights.")
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise StoreFault(f"{path} cannot be {doing}: {reason}.", remedy) from error


class LocalStore:
    """Files below one folder, which is made at the first `put`. No link is followed out of it.

    sync: whether each `put` reaches the disk before it returns, so that a power cut cannot undo it. With False a kill
    still loses nothing, and `flush` makes everything so far safe in one call, before a batch is committed.
    """

    def __init__(self, root: Path | str, *, sync: bool = True) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow links
        self.sync = sync

    def __repr__(self) -> str:
        return f"LocalStore({str(self.root)!r})"

    def path(self, key: str) -> Path:
        """Where the key's file lies, there or not. Raises BadInput where that would be outside the store."""
        path = self.root / check_key(key)
        root = os.path.realpath(self.root)
        if os.path.commonpath([root, os.path.realpath(path)]) != root:
            raise BadInput(f"{path} leads out of the store {self.root} by a link.", "Remove the link.")
        return path

    def put(self, key: str, data: BinaryIO) -> None:
        path = self.path(key)
        part = path.with_name(UNFINISHED + uuid.uuid4().hex)
        try:
            with _disk_faults("written", path):
                self._make_folder(path.parent)
                file = part.open("xb")
            with file:
                while chunk := data.read(_CHUNK):  # an error of the source is the caller's, and stays as it is
                    with _disk_faults("written", path):
                        file.write(chunk)
                with _disk_faults("written", path):
                    file.flush()
                    if self.sync:
                        os.fsync(file.fileno())
            faults.point("store.temp_written")
            with _disk_faults("written", path):
                part.replace(path)
                faults.point("store.renamed")
                if self.sync:
                    _sync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    def open(self, key: str) -> BinaryIO:
        path = self.path(key)
        try:
            with _disk_faults("read", path):
                # Not blocking, because opening a pipe would wait for ever.
                handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                if stat.S_ISREG(os.fstat(handle).st_mode):
                    return os.fdopen(handle, "rb")
                os.close(handle)
        except StoreFault as fault:
            if not isinstance(fault.__cause__, FileNotFoundError | NotADirectoryError):
                raise
        raise Missing(f"There is no file {key!a} in {self.root}.", "`everlearn doctor` finds what is missing.")

    def copy(self, key: str, new_key: str) -> None:
        """A hard link where the disk has them: no byte is moved, and a crash leaves both names or one."""
        path, target = self.path(key), self.path(new_key)
        if path == target:
            return
        part = target.with_name(UNFINISHED + uuid.uuid4().hex)
        try:
            with _disk_faults("copied", path):
                self._make_folder(target.parent)
                os.link(path, part, follow_symlinks=False)
                part.replace(target)
                part.unlink(missing_ok=True)  # renaming one name of a file to another of it leaves both
                if self.sync:
                    _sync_folder(target.parent)
        except StoreFault as fault:
            if isinstance(fault.__cause__, FileNotFoundError):
                raise Missing(f"There is no file {key!a} in {self.root}.", "See: everlearn doctor") from None
            if getattr(fault.__cause__, "errno", None) not in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP):
                raise
            with self.open(key) as file:
                self.put(new_key, file)

    def remove(self, key: str) -> None:
        path = self.path(key)
        with _disk_faults("removed", path), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            if self.sync:
                _sync_folder(path.parent)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Files alone: neither links, nor unfinished files, nor names that are no keys."""
        start = _folder_prefix(prefix)
        folder = self.path(start.rstrip("/")) if start else self.root
        for path in _files(folder):
            with suppress(BadInput):
                yield check_key(path.relative_to(self.root).as_posix())

    def flush(self) -> None:
        """Everything put so far survives a power cut. Needed only where `sync` is False."""
        os.sync()

    def unfinished(self, prefix: str = "") -> Iterator[Path]:
        """What killed writers left behind, for `doctor` to remove while no other process writes."""
        start = _folder_prefix(prefix)
        for path in _files(self.path(start.rstrip("/")) if start else self.root):
            if path.name.startswith(UNFINISHED):
                yield path

    def _make_folder(self, folder: Path) -> None:
        """Like mkdir -p, and each new name reaches the disk."""
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        if self.sync:
            _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks cannot sync a folder
            raise
    finally:
        os.close(handle)


def _files(folder: Path) -> Iterator[Path]:
    """Regular files below a folder, as a stream; links are passed over."""
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            with _disk_faults("listed", current), os.scandir(current) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        yield Path(entry.path)
        except StoreFault as fault:  # a folder that is not there, or was removed meanwhile, holds nothing
            if not isinstance(fault.__cause__, FileNotFoundError | NotADirectoryError):
                raise


# --- S3 -----------------------------------------------------------------------------------------------------------


class S3Store:
    """Objects below a prefix of a bucket, reached as `everlearn.s3` says. The bucket must be there."""

    def __init__(
        self, url: str, *, endpoint: str | None = None, region: str | None = None, profile: str | None = None
    ) -> None:
        name, prefix = address(url)
        self.bucket = Bucket(name, endpoint=endpoint, region=region, profile=profile)
        self.prefix = _folder_prefix(prefix)
        self.url = f"s3://{name}/{self.prefix}".rstrip("/")

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    def put(self, key: str, data: BinaryIO) -> None:
        target = self.prefix + check_key(key)
        first = _read(data, PART)
        if len(first) < PART:
            faults.point("store.temp_written")
            self.bucket.call("put_object", "written", target, Body=first)
        else:
            self._put_parts(target, first, data)
        faults.point("store.renamed")

    def _put_parts(self, target: str, chunk: bytes, data: BinaryIO) -> None:
        upload = {"UploadId": self.bucket.call("create_multipart_upload", "written", target)["UploadId"]}
        parts: list[dict[str, Any]] = []
        try:
            while chunk:
                number = len(parts) + 1
                part = self.bucket.call("upload_part", "written", target, **upload, PartNumber=number, Body=chunk)
                parts.append({"PartNumber": number, "ETag": part["ETag"]})
                chunk = _read(data, PART)
            faults.point("store.temp_written")
            whole = {"Parts": parts}
            self.bucket.call("complete_multipart_upload", "written", target, **upload, MultipartUpload=whole)
        except BaseException:
            with suppress(Exception):  # the first error is the one to tell
                self.bucket.call("abort_multipart_upload", "written", target, **upload)
            raise

    def open(self, key: str) -> BinaryIO:
        """One request; the whole object is here before this returns, so reading cannot fail later."""
        file = tempfile.SpooledTemporaryFile(max_size=_SPOOL)  # noqa: SIM115 - the caller closes it
        try:
            self.bucket.read(self.prefix + check_key(key), cast(BinaryIO, file))
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return cast(BinaryIO, file)

    def copy(self, key: str, new_key: str) -> None:
        """On the server."""
        source, target = self.prefix + check_key(key), self.prefix + check_key(new_key)
        if source != target:
            self.bucket.call("copy_object", "copied", target, CopySource={"Bucket": self.bucket.name, "Key": source})

    def remove(self, key: str) -> None:
        with suppress(Missing):
            self.bucket.call("delete_object", "removed", self.prefix + check_key(key))

    def head(self, key: str) -> Entry | None:
        """One object as a listing would tell it, or None where it is not there."""
        return self.bucket.head(self.prefix + check_key(key))

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Page by page; names that are no keys of a store are passed over."""
        for entry in self.entries(prefix):
            yield entry.key

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """The same with size, ETag and time."""
        for entry in self.bucket.entries(self.prefix + _folder_prefix(prefix)):
            with suppress(BadInput):
                yield replace(entry, key=check_key(entry.key.removeprefix(self.prefix)))


def _read(data: BinaryIO, size: int) -> bytes:
    """`size` bytes, fewer only at the end: a stream may give less at once than it was asked for."""
    pieces, missing = [], size
    read: Callable[[int], bytes] = data.read
    while missing and (piece := read(min(missing, _CHUNK))):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)

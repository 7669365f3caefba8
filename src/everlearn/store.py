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
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from everlearn import faults
from everlearn.errors import BadConfig, BadInput, Missing, NotInstalled, StoreFault
from everlearn.types import Store

UNFINISHED = ".everlearn-part-"
"""How the name of a file begins that is still being written; such names are no keys."""

_UNSAFE = re.compile(r"[\\\x00-\x1f\x7f]")
_CHUNK = 1 << 20  # bytes read at a time
_PART = 32 << 20  # bytes of one part of a multi-part upload: S3 takes 10,000 of them, 5 MiB to 5 GiB each
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
    """Objects below a prefix of a bucket, on AWS or any endpoint that speaks S3. The bucket must be there.

    Credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN), a named profile
    (AWS_PROFILE) or the machine's role; the endpoint from EVERLEARN_S3_ENDPOINT, AWS_ENDPOINT_URL_S3 or
    AWS_ENDPOINT_URL; the region from AWS_REGION or AWS_DEFAULT_REGION. None of them is kept, shown or logged by us.
    """

    def __init__(
        self, url: str, *, endpoint: str | None = None, region: str | None = None, profile: str | None = None
    ) -> None:
        scheme, _, rest = url.partition("://")
        bucket, _, prefix = rest.partition("/")
        if scheme.lower() != "s3" or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", bucket):
            shown = "s3://***" if set(rest) & set("@:") else url  # a secret may stand in it, with slashes of its own
            raise BadConfig(
                f"{shown!a} is no address of a bucket.",
                "Write s3://bucket/prefix; keys belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
            )
        self.bucket = bucket
        self.prefix = _folder_prefix(prefix)
        self._endpoint = endpoint or os.environ.get("EVERLEARN_S3_ENDPOINT") or None
        self._region = region or os.environ.get("AWS_REGION") or None
        self._profile = profile
        self.url = f"s3://{bucket}/{self.prefix}".rstrip("/")

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Without the open connection: whoever is sent a store opens its own, with credentials of its own."""
        return {name: value for name, value in vars(self).items() if name != "_files"}

    def put(self, key: str, data: BinaryIO) -> None:
        target = {"Bucket": self.bucket, "Key": self.prefix + check_key(key)}
        first = _read(data, _PART)
        if len(first) < _PART:
            faults.point("store.temp_written")
            with self._faults("written", key):
                self._files.call_s3("put_object", **target, Body=first)
        else:
            self._put_parts(key, target, first, data)
        faults.point("store.renamed")

    def _put_parts(self, key: str, target: dict[str, str], chunk: bytes, data: BinaryIO) -> None:
        with self._faults("written", key):
            upload = {**target, "UploadId": self._files.call_s3("create_multipart_upload", **target)["UploadId"]}
        parts: list[dict[str, Any]] = []
        try:
            while chunk:
                number = len(parts) + 1
                with self._faults("written", key):
                    part = self._files.call_s3("upload_part", **upload, PartNumber=number, Body=chunk)
                parts.append({"PartNumber": number, "ETag": part["ETag"]})
                chunk = _read(data, _PART)
            faults.point("store.temp_written")
            with self._faults("written", key):
                self._files.call_s3("complete_multipart_upload", **upload, MultipartUpload={"Parts": parts})
        except BaseException:
            with suppress(Exception):  # the first error is the one to tell
                self._files.call_s3("abort_multipart_upload", **upload)
            raise

    def open(self, key: str) -> BinaryIO:
        """One request; the whole object is here before this returns, so reading cannot fail later."""
        from fsspec.asyn import sync

        target = {"Bucket": self.bucket, "Key": self.prefix + check_key(key)}
        file = tempfile.SpooledTemporaryFile(max_size=_SPOOL)  # noqa: SIM115 - the caller closes it
        try:
            with self._faults("read", key):
                body = self._files.call_s3("get_object", **target)["Body"]
                try:
                    while chunk := sync(self._files.loop, body.read, _CHUNK):
                        file.write(chunk)
                finally:
                    body.close()
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return cast(BinaryIO, file)

    def copy(self, key: str, new_key: str) -> None:
        """On the server."""
        source = {"Bucket": self.bucket, "Key": self.prefix + check_key(key)}
        target = {"Bucket": self.bucket, "Key": self.prefix + check_key(new_key)}
        if source == target:
            return
        with self._faults("copied", key):
            self._files.call_s3("copy_object", **target, CopySource=source)

    def remove(self, key: str) -> None:
        target = {"Bucket": self.bucket, "Key": self.prefix + check_key(key)}
        with suppress(Missing), self._faults("removed", key):
            self._files.call_s3("delete_object", **target)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Page by page, 1,000 keys each; names that are no keys of a store are passed over."""
        request = {"Bucket": self.bucket, "Prefix": self.prefix + _folder_prefix(prefix)}
        while True:
            with self._faults("listed", prefix):
                page = self._files.call_s3("list_objects_v2", **request)
            for item in page.get("Contents", ()):
                with suppress(BadInput):
                    yield check_key(item["Key"].removeprefix(self.prefix))
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    @cached_property
    def _files(self) -> Any:
        try:
            import s3fs
        except ImportError as error:
            raise NotInstalled(f"{self.url} needs s3fs.", "pip install 'everlearn[s3]'") from error
        return s3fs.S3FileSystem(
            profile=self._profile,
            endpoint_url=self._endpoint,  # None: botocore asks AWS_ENDPOINT_URL itself
            client_kwargs={"region_name": self._region} if self._region else {},
            config_kwargs={"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 3}},
            skip_instance_cache=True,  # credentials may change between two stores of one process
            use_listings_cache=False,
        )

    @contextmanager
    def _faults(self, doing: str, key: str) -> Iterator[None]:
        try:
            yield
        except (NotInstalled, StoreFault, Missing):
            raise
        except Exception as error:
            raise _s3_fault(f"{self.url}/{key}".rstrip("/"), doing, error) from error


def _s3_fault(what: str, doing: str, error: Exception) -> StoreFault | Missing:
    """Our error for one of botocore, s3fs or the network. The server's own words stay out: they may quote a key."""
    code = _boto_code(error)
    if code == "NoSuchKey" or (code == "404" and doing == "read"):
        return Missing(f"There is no object {what}.", "`everlearn doctor` finds what is missing.")
    kind = code or type(error).__name__
    if kind in ("NoSuchBucket", "404", "FileNotFoundError"):
        remedy = "The bucket is not there: make it, or correct its name."
    elif isinstance(error, PermissionError) or "Credential" in kind or kind == "ProfileNotFound":
        remedy = "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and what this key may do."
    elif "Connect" in kind or "Timeout" in kind or "Endpoint" in kind:
        remedy = "The endpoint does not answer: check AWS_ENDPOINT_URL (or EVERLEARN_S3_ENDPOINT) and the network."
    else:
        remedy = "Try again; if it stays, ask who runs the endpoint."
    return StoreFault(f"{what} cannot be {doing}: {kind}.", remedy)


def _boto_code(error: BaseException | None) -> str | None:
    """The S3 error code (`NoSuchKey`) that s3fs has hidden behind an OSError."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code") or "") or None
        error = error.__cause__
    return None


def _read(data: BinaryIO, size: int) -> bytes:
    """`size` bytes, fewer only at the end: a stream may give less at once than it was asked for."""
    pieces, missing = [], size
    read: Callable[[int], bytes] = data.read
    while missing and (piece := read(min(missing, _CHUNK))):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)

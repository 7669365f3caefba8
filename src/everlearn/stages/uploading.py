"""Copies of models, reports and the newest snapshot in a bucket. Run again, it sends what is not there yet."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from everlearn import faults
from everlearn.catalog import snapshots
from everlearn.dataset.export import MARK, Format, export
from everlearn.errors import BadInput, Missing
from everlearn.naming import is_class
from everlearn.s3 import shown
from everlearn.store import PART, S3Store
from everlearn.workspace import EVALUATIONS, VERSIONS

if TYPE_CHECKING:
    from everlearn.types import Progress
    from everlearn.workspace import Workspace

Part = Literal["models", "reports", "snapshot"]
PARTS: tuple[Part, ...] = ("models", "reports", "snapshot")
DATASETS = "datasets"
_SENDERS = 8
_CHUNK = 1 << 20


@dataclass(slots=True)
class Uploaded:
    """sent, there: files that were sent now, and that were there already with the same bytes; bytes: sent."""

    url: str
    sent: int = 0
    there: int = 0
    bytes: int = 0

    def count(self, size: int | None) -> None:
        self.sent += size is not None
        self.there += size is None
        self.bytes += size or 0


def upload(
    workspace: Workspace, url: str, progress: Progress, *, parts: Iterable[Part] = PARTS, form: Format = "imagefolder"
) -> Uploaded:
    """Copy these parts below an address `s3://bucket/prefix`: models and reports under the names that they have here,
    the newest snapshot to `datasets/`, in the layout `form`. Raises BadInput, BadConfig, Missing where there is no
    snapshot, StoreFault."""
    if not url.lower().startswith("s3://"):
        raise BadInput(f"{shown(url)} is no bucket.", "Write s3://bucket/prefix; to a folder: everlearn models export")
    if form == "dvc":
        raise BadInput("--format dvc is for a folder of the workspace.", "Use: everlearn dataset export DIR")
    target, wanted = S3Store(url), set(parts)
    done = Uploaded(target.url)
    prefixes = [prefix for part, prefix in (("models", VERSIONS), ("reports", EVALUATIONS)) if part in wanted]
    with progress.task("upload") as task:
        for prefix in prefixes:
            keys = (key for key in workspace.store.keys(prefix) if not key.endswith(".gitkeep"))
            for size in _send(target, keys, workspace.store.open):
                done.count(size)
                task.advance()
    if "snapshot" in wanted:
        _snapshot(workspace, target, form, done, progress)
    return done


def _snapshot(workspace: Workspace, target: S3Store, form: Format, done: Uploaded, progress: Progress) -> None:
    """Its mark is sent last: where it lies, the snapshot is whole."""
    with workspace.catalog.read() as tx:
        newest = snapshots.latest(tx)
        members = newest and sum(is_class(one.label) for one in snapshots.members(tx, newest.number))
    if newest is None:
        raise Missing("There is no snapshot yet.", "Make one: everlearn dataset build")
    prefix = f"{DATASETS}/{newest.number}-{newest.digest[:12]}-{form}"
    if _marked(target, prefix) == (newest.digest, members):
        done.there += 1
        return
    with tempfile.TemporaryDirectory(prefix="everlearn-") as folder:
        root = Path(folder) / "export"
        export(workspace, newest, root, form, progress)
        names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        with progress.task("upload", len(names)) as task:
            for some in ([name for name in names if name != MARK], [MARK]):
                keys = (f"{prefix}/{name}" for name in some)
                for size in _send(target, keys, lambda key: (root / key.removeprefix(f"{prefix}/")).open("rb")):
                    done.count(size)
                    task.advance()
        for key in list(target.keys(prefix)):  # of a sending that was broken off, or forgotten since
            if not (root / key.removeprefix(f"{prefix}/")).is_file():
                target.remove(key)


def _marked(target: S3Store, prefix: str) -> tuple[str, int] | None:
    """Digest and number of samples of the snapshot that lies there whole."""
    with suppress(Missing, ValueError, KeyError), target.open(f"{prefix}/{MARK}") as file:
        said = json.load(file)
        return said["digest"], said["samples"]
    return None


def _send(target: S3Store, keys: Iterable[str], open_: Callable[[str], BinaryIO]) -> Iterator[int | None]:
    """Each key's bytes sent, or None where the same lie there already."""

    def send(key: str) -> int | None:
        with closing(open_(key)) as file:
            size, etags = _measured(file)
            there = target.head(key)
            if there is not None and there.size == size and there.etag in etags:
                return None
            file.seek(0)
            target.put(key, file)
            faults.point("upload.sent")
            return size

    with ThreadPoolExecutor(_SENDERS) as pool:
        yield from pool.map(send, keys)


def _measured(file: Any) -> tuple[int, set[str]]:
    """Size, and the ETags that the file can have: its MD5; in parts, the MD5 of their MD5s and their number."""
    whole, parts, size = hashlib.md5(usedforsecurity=False), [], 0
    while piece := _exactly(file, PART):
        whole.update(piece)
        parts.append(hashlib.md5(piece, usedforsecurity=False).digest())
        size += len(piece)
    joined = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    return size, {whole.hexdigest(), f"{joined}-{len(parts)}"}


def _exactly(file: Any, size: int) -> bytes:
    data = io.BytesIO()
    while data.tell() < size and (chunk := file.read(min(_CHUNK, size - data.tell()))):
        data.write(chunk)
    return data.getvalue()

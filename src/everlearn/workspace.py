"""A workspace: the folder tree on disk, its configuration, and the ways to its store and its catalog."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn import config as configuration
from everlearn.config import FILE_NAME, Config
from everlearn.errors import BadInput, Busy, Corrupt, Missing, StoreFault

if TYPE_CHECKING:
    from everlearn.catalog import Database
    from everlearn.types import Store

COLLECTED = "new_data/collected"
VALIDATED = "new_data/validated"
QUARANTINED = "new_data/quarantined"
AUGMENTED = "new_data/augmented"
VERSIONS = "model_updates/versions"
CHECKPOINTS = "model_updates/checkpoints"
EVALUATIONS = "model_updates/evaluations"
EXPERIMENTS = "training_logs/experiments"
METRICS = "training_logs/metrics"
ERRORS = "training_logs/errors"
FOLDERS = (
    COLLECTED,
    VALIDATED,
    QUARANTINED,
    AUGMENTED,
    VERSIONS,
    CHECKPOINTS,
    EVALUATIONS,
    EXPERIMENTS,
    METRICS,
    ERRORS,
)

PRIVATE = ".everlearn"
"""Caches and the lock: nothing in here is needed to restore a workspace."""

LOCK_SECONDS = 60.0


class Workspace:
    """Opened by `Workspace.open(folder)`; a stage is given one and meets the others only through it."""

    def __init__(self, root: Path, config: Config) -> None:
        self.root = root
        self.config = config

    @classmethod
    def create(cls, root: Path, config: Config, *, git: bool = False) -> Workspace:
        """Make the folder tree and write everlearn.yaml. Raises BadInput where a workspace is there already."""
        root = root.expanduser().absolute()
        if (root / FILE_NAME).exists():
            raise BadInput(f"{root} is a workspace already.", f"Edit its {FILE_NAME}, or choose another folder.")
        if root.exists() and not root.is_dir():
            raise BadInput(f"{root} is a file.", "Choose another folder.")
        try:
            for folder in (*FOLDERS, PRIVATE):
                (root / folder).mkdir(parents=True, exist_ok=True)
            schema = json.dumps(configuration.schema(), indent=1, ensure_ascii=False)
            (root / "everlearn.schema.json").write_text(schema + "\n", encoding="utf-8")
            write_whole(root / FILE_NAME, configuration.commented(config).encode())
        except OSError as error:
            raise StoreFault(f"{root} cannot be written: {error.strerror}.", "Choose a folder you may write.") from None
        workspace = cls.open(root)
        workspace.catalog  # noqa: B018 - made now, so that a wrong URL is told now
        if git:
            _make_repository(root)
        return workspace

    @classmethod
    def open(cls, folder: Path | str | None = None) -> Workspace:
        """The workspace at `folder`, or the nearest at or above the current folder. Raises Missing, BadConfig."""
        root = Path(folder).expanduser().absolute() if folder is not None else _nearest(Path.cwd())
        config = configuration.load(root / FILE_NAME)
        configuration.apply_dotenv(root)
        return cls(root, config)

    @cached_property
    def catalog(self) -> Database:
        """The catalog's database, brought up to date."""
        from everlearn.catalog import Database

        database = Database(self._catalog_url())
        database.migrate()
        return database

    @cached_property
    def store(self) -> Store:
        """Where the files lie."""
        from everlearn.store import LocalStore, open_store

        if self.config.store is None:
            return LocalStore(self.root, sync=False)  # `files.change` flushes before each commit
        return open_store(self.config.store)

    def private(self, name: str) -> Path:
        """A file for caches."""
        (self.root / PRIVATE).mkdir(exist_ok=True)
        return self.root / PRIVATE / name

    @contextmanager
    def lock(self, wait: float = LOCK_SECONDS) -> Iterator[None]:
        """One process at a time changes a workspace. Others wait, then raise Busy naming who holds it. A killed
        process holds nothing: the lock is the operating system's."""
        from filelock import FileLock, Timeout

        path = self.private("lock")
        holder = self.private("lock.holder")
        try:
            lock = FileLock(path, timeout=wait)
            with lock:
                holder.write_text(f"process {os.getpid()}", encoding="utf-8")
                yield
                holder.unlink(missing_ok=True)
        except Timeout:
            who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
            raise Busy(
                f"{who} is working on {self.root}.", f"Waited {wait:.0f} s; run again when it is done."
            ) from None
        except OSError as error:
            if error.filename is None or str(self.root / PRIVATE) not in str(error.filename):
                raise
            raise StoreFault(f"{self.root} cannot be written: {error.strerror}.", "Make it writable.") from None

    def _catalog_url(self) -> str:
        url = self.config.catalog
        if url is None:
            return f"sqlite:///{self.root / 'catalog.db'}"
        if url.startswith("sqlite:///") and not url.startswith("sqlite:////"):
            return f"sqlite:///{self.root / url.removeprefix('sqlite:///')}"
        return url


def _nearest(start: Path) -> Path:
    for folder in (start, *start.parents):
        if (folder / FILE_NAME).is_file():
            return folder
    raise Missing(f"There is no workspace at or above {start}.", "Make one: everlearn init DIR; or name one: -w DIR")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a reader, or a process after a crash, sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreFault(f"{path} cannot be written: {error.strerror}.", "Is the disk full or read-only?") from None


def read_json(path: Path) -> dict[str, Any]:
    """Raises Missing, or Corrupt where it is not a JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Missing(f"There is no {path}.") from None
    except (OSError, ValueError) as error:
        raise Corrupt(f"{path} cannot be read: {error}.") from None
    if not isinstance(value, dict):
        raise Corrupt(f"{path} is not a JSON object.")
    return value


LFS = ("*.onnx", "*.pt", "*.h5", "*.sums")
IGNORED = (".env", f"{PRIVATE}/", "catalog.db", "catalog.db-*", "new_data/*/*", "!new_data/*/.gitkeep", ".*.part")


def _make_repository(root: Path) -> None:
    """Make the workspace a Git repository whose models go to Git LFS; data is for DVC, so Git leaves it alone."""
    if shutil.which("git") is None:
        raise BadInput("init --git needs git, which is not installed.", "Install git, or leave --git out.")
    lines = [f"{pattern} filter=lfs diff=lfs merge=lfs -text" for pattern in LFS]
    write_whole(root / ".gitattributes", ("\n".join(lines) + "\n").encode())
    write_whole(root / ".gitignore", ("\n".join(IGNORED) + "\n").encode())
    for folder in FOLDERS:
        (root / folder / ".gitkeep").touch()
    commands = [["git", "init", "-q"]]
    if shutil.which("git-lfs"):
        commands.append(["git", "lfs", "install", "--local"])
    for command in commands:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BadInput(f"{' '.join(command)} failed: {done.stderr.strip()}", "The workspace itself was made.")

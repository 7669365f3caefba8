"""A workspace: the folder tree on disk, its configuration, and the ways to its store and its catalog."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn import config as configuration
from everlearn.config import FILE_NAME, Config
from everlearn.errors import BadConfig, BadInput, Busy, Corrupt, Missing, StoreFault

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from sqlalchemy import URL

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

SCHEMA = "everlearn.schema.json"
PRIVATE = ".everlearn"
"""Caches and the lock: nothing in here is needed to restore a workspace."""

SCRATCH = "scratch-"

LOCK_SECONDS = 60.0
PATIENCE_SECONDS = 1.0


class Workspace:
    """Opened by `Workspace.open(folder)`; a stage is given one and meets the others only through it."""

    def __init__(self, root: Path, config: Config) -> None:
        self.root = root
        self.config = config
        self.say: Callable[[str], None] = lambda message: None
        """Where a person is told that another process is being waited for."""

    @classmethod
    def create(cls, root: Path, config: Config, *, git: bool = False) -> Workspace:
        """Make the folder tree and write everlearn.yaml. Raises BadInput where a workspace is there already."""
        root = _absolute(root)
        try:
            if (root / FILE_NAME).exists():
                raise BadInput(f"{root} is a workspace already.", f"Edit its {FILE_NAME}, or choose another folder.")
            if root.exists() and not root.is_dir():
                raise BadInput(f"{root} is a file.", "Choose another folder.")
            for folder in (*FOLDERS, PRIVATE):
                (root / folder).mkdir(parents=True, exist_ok=True)
            schema = json.dumps(configuration.schema(), indent=1, ensure_ascii=False)
            (root / SCHEMA).write_text(schema + "\n", encoding="utf-8")
        except OSError as error:
            raise StoreFault(f"{root} cannot be written: {error.strerror}.", "Choose a folder you may write.") from None
        configuration.apply_dotenv(root)
        workspace = cls(root, configuration.with_environment(config, root / FILE_NAME))
        workspace.catalog  # noqa: B018 - made now, so that a wrong URL is told before the folder is a workspace
        write_whole(root / FILE_NAME, configuration.commented(config).encode())
        if git:
            _make_repository(root)
        return workspace

    @classmethod
    def open(cls, folder: Path | str | None = None) -> Workspace:
        """The workspace at `folder`, or the nearest at or above the current folder. Raises Missing, BadConfig."""
        root = _absolute(folder) if folder is not None else _nearest()
        config = configuration.load(root / FILE_NAME)
        configuration.apply_dotenv(root)
        return cls(root, config)

    @cached_property
    def catalog(self) -> Database:
        """The catalog's database, brought up to date."""
        from everlearn.catalog import Database

        database = Database(self._catalog_url())
        database.migrate()
        self._check_task(database)
        return database

    def _check_task(self, database: Database) -> None:
        """A classifier and a regressor cannot take each other's place."""
        from everlearn.catalog import versions

        with database.read() as tx:
            newest = versions.newest(tx)
        made_for = newest.config.get("task") if newest else None
        if made_for not in (None, self.config.task):
            raise BadConfig(
                f"task is {self.config.task}, but the models of {self.root} were made for {made_for}.",
                "Set it back, or make another workspace: everlearn init",
            )

    @cached_property
    def store(self) -> Store:
        """Where the files lie."""
        from everlearn.store import LocalStore, open_store

        if self.config.store is None:
            return LocalStore(self.root, sync=False)  # `files.change` flushes before each commit
        if "://" not in self.config.store:
            return LocalStore(self.root / self.config.store, sync=False)
        return open_store(self.config.store)

    def where(self, key: str) -> str:
        """The path or address that people find a file of the store at."""
        store = self.config.store or ""
        return f"{store.rstrip('/')}/{key}" if "://" in store else str(self.root / store / key)

    def private(self, name: str) -> Path:
        """A file for caches. Raises StoreFault."""
        try:
            (self.root / PRIVATE).mkdir(exist_ok=True)
        except OSError as error:
            raise StoreFault(f"{self.root} cannot be written: {error.strerror}.", "Make it writable.") from None
        return self.root / PRIVATE / name

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for files in the making, gone afterwards; `doctor` removes those of killed processes."""
        with tempfile.TemporaryDirectory(dir=self.private(""), prefix=SCRATCH) as folder:
            yield Path(folder)

    @contextmanager
    def lock(self, wait: float = LOCK_SECONDS) -> Iterator[None]:
        """One process at a time changes a workspace. Others wait, then raise Busy naming who holds it. A killed
        process holds nothing: the lock is the operating system's. Whoever has it may take it again."""
        from filelock import Timeout

        holder = self.private("lock.holder")
        try:
            try:
                held = self._lock.acquire(timeout=min(wait, PATIENCE_SECONDS))
            except Timeout:
                self.say(f"Waiting: {_read_or(holder, 'another process')} is working on {self.root}.")
                held = self._lock.acquire(timeout=max(0, wait - PATIENCE_SECONDS))
        except Timeout:
            raise Busy(
                f"{_read_or(holder, 'another process')} is working on {self.root}.",
                f"Waited {wait:.0f} s; run again when it is done.",
            ) from None
        except (OSError, NotImplementedError) as error:
            why = error.strerror if isinstance(error, OSError) else "its disk has no locks"
            raise StoreFault(
                f"{self.root} cannot be locked: {why}.", "Make it writable, on a disk with locks."
            ) from None
        with held:
            with suppress(OSError):  # it helps others, and is not needed
                holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            yield

    @contextmanager
    def lock_if_free(self) -> Iterator[bool]:
        """The lock where nobody else has it, and whether that is so: for what can be put off, and must not wait."""
        from filelock import Timeout

        try:
            held = self._lock.acquire(timeout=0)
        except (Timeout, OSError, NotImplementedError):
            yield False
            return
        with held:
            yield True

    @cached_property
    def _lock(self) -> BaseFileLock:
        from filelock import FileLock

        return FileLock(self.private("lock"))

    def _catalog_url(self) -> str | URL:
        from sqlalchemy import URL

        url = self.config.catalog
        if url is None:
            return URL.create("sqlite", database=str(self.root / "catalog.db"))  # the path may hold ? and %
        if url.startswith("sqlite:///"):
            return URL.create("sqlite", database=str(self.root / url.removeprefix("sqlite:///")))
        return url


def _read_or(path: Path, otherwise: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return otherwise


def _absolute(folder: Path | str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(folder)))  # noqa: PTH100, PTH111 - these never fail


def _nearest() -> Path:
    try:
        start = Path.cwd()
    except OSError:
        raise Missing("The current folder is not there any more.", "Go to another, or name one: -w DIR") from None
    for folder in (start, *start.parents):
        if os.path.isfile(folder / FILE_NAME):  # noqa: PTH113 - False where it may not be looked at
            return folder
    raise Missing(f"There is no workspace at or above {start}.", "Make one: everlearn init DIR; or name one: -w DIR")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a reader, or a process after a crash, sees the old one or the new one. What
    comes after it can rely on it, power cut or not. Raises StoreFault."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):  # some network disks cannot
                os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StoreFault(f"{path} cannot be written: {error.strerror}.", "Is the disk full or read-only?") from None


def read_json(path: Path) -> dict[str, Any]:
    """Raises Missing, or Corrupt where it is not a JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Missing(f"There is no {path}.", "See: everlearn doctor") from None
    except (OSError, ValueError, RecursionError) as error:
        raise Corrupt(f"{path} cannot be read: {error}.", "See: everlearn doctor") from None
    if not isinstance(value, dict):
        raise Corrupt(f"{path} is not a JSON object.", "See: everlearn doctor")
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

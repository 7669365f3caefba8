"""The stores keep their contract, on a disk and on a real S3 server, and say clearly what stopped them."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.errors import BadConfig, BadInput, EverlearnError, Missing, StoreFault
from everlearn.store import UNFINISHED, LocalStore, S3Store, check_key, open_store
from everlearn.testing import check_store
from tests.servers import S3Server

BUCKET = "stores"


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a bucket, the environment set for it."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server.bucket(BUCKET)


# --- the contract ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", [True, False])
def test_local_keeps_the_contract(tmp_path: Path, sync: bool) -> None:
    check_store(LocalStore(tmp_path / "not" / "yet" / "there", sync=sync))


def test_s3_keeps_the_contract(s3: str) -> None:
    check_store(S3Store(f"{s3}/a prefix/with 한글"))
    check_store(S3Store(s3))


class _Forgetful(LocalStore):
    """Breaks the contract: writes in place."""

    def put(self, key: str, data: object) -> None:
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(data.read())  # type: ignore[attr-defined]


class _Loose(LocalStore):
    """Breaks the contract: a prefix that is part of a name."""

    def keys(self, prefix: str = ""):  # type: ignore[no-untyped-def]
        return (key for key in LocalStore.keys(self) if key.startswith(prefix))


@pytest.mark.parametrize("broken", [_Forgetful, _Loose])
def test_the_contract_finds_a_broken_store(tmp_path: Path, broken: type[LocalStore]) -> None:
    with pytest.raises(AssertionError):
        check_store(broken(tmp_path))


# --- keys -----------------------------------------------------------------------------------------------------------


@given(st.text(max_size=60) | st.from_regex(r"[a./\\~]{1,12}", fullmatch=True))
def test_a_key_never_leads_outside(key: str) -> None:
    try:
        check_key(key)
    except BadInput:
        return
    assert Path(os.path.normpath(Path("/store") / key)).is_relative_to("/store/")
    assert os.path.normpath(key) == key


@pytest.mark.parametrize("key", [f"{UNFINISHED}1", "한" * 100, "a/" * 600 + "a", "\ud800"])
def test_keys_that_no_store_takes(key: str) -> None:
    with pytest.raises(BadInput):
        check_key(key)


# --- the local folder -----------------------------------------------------------------------------------------------


def test_no_link_leads_out(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store = LocalStore(tmp_path / "store")
    store.put("inside", io.BytesIO(b"1"))
    (store.root / "folder").symlink_to(outside)
    (store.root / "file").symlink_to(outside / "secret")
    (store.root / "loop").symlink_to(store.root / "loop")
    for key in ("folder/secret", "file"):
        with pytest.raises(BadInput, match="by a link"):
            store.open(key)
        with pytest.raises(BadInput, match="by a link"):
            store.put(key, io.BytesIO(b"evil"))
        with pytest.raises(BadInput, match="by a link"):
            store.remove(key)
    with pytest.raises(EverlearnError):
        store.open("loop")
    assert (outside / "secret").read_bytes() == b"secret"
    assert list(store.keys()) == ["inside"]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    store = LocalStore(tmp_path)
    with pytest.raises(Missing):
        store.open("pipe")
    assert list(store.keys()) == []


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a", io.BytesIO(b"1"))
    with pytest.raises(StoreFault, match="move it away"):
        store.put("a/b", io.BytesIO(b"2"))
    store.put("c/d", io.BytesIO(b"3"))
    with pytest.raises(StoreFault, match="move it away"):
        store.put("c", io.BytesIO(b"4"))
    assert sorted(store.keys()) == ["a", "c/d"]
    assert list(store.unfinished()) == []


_PUT = """
import io, os, sys
from everlearn.store import LocalStore
if os.geteuid() == 0 and "--unprivileged" in sys.argv:
    os.setegid(65534)
    os.seteuid(65534)
LocalStore(sys.argv[1]).put("key", io.BytesIO(bytes(int(sys.argv[2]))))
"""


def _put_elsewhere(folder: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> str:
    """What another process says on stderr when it puts into the folder."""
    command = [*prefix, sys.executable, "-c", _PUT, str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def test_a_full_and_a_read_only_disk_are_said(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=64k disk "$1"'
    inside = ("unshare", "-rm", "sh", "-c")
    if subprocess.run([*inside, mount, "-", str(tmp_path)], capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    full = f'{mount} && shift && "$@"; ls -A "$4"'
    run = subprocess.run(
        [*inside, full, "-", str(tmp_path), sys.executable, "-c", _PUT, str(tmp_path), "100000"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"StoreFault: {tmp_path / 'key'} cannot be written: No space left on device. The disk is full" in run.stderr
    assert run.stdout == "", "the unfinished file must go"
    locked = (*inside, f'{mount} && mount -o remount,ro "$1" && shift && "$@"', "-", str(tmp_path))
    assert "Read-only file system. The disk is mounted read-only" in _put_elsewhere(tmp_path, "1", prefix=locked)


def test_missing_rights_are_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    said = _put_elsewhere(tmp_path, "1", "--unprivileged")
    assert "StoreFault" in said
    assert "Permission denied. Give this user the right to read and write there" in said


@pytest.mark.parametrize(("point", "after"), [("store.temp_written", b"old"), ("store.renamed", b"new")])
def test_a_kill_leaves_the_old_or_the_new(tmp_path: Path, point: str, after: bytes) -> None:
    store = LocalStore(tmp_path)
    store.put("folder/key", io.BytesIO(b"old"))
    script = (
        "import io, sys; from everlearn.store import LocalStore\n"
        "LocalStore(sys.argv[1]).put('folder/key', io.BytesIO(b'new'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env={**os.environ, "EVERLEARN_FAULT": point}, check=False
    )
    assert run.returncode == -signal.SIGKILL
    with store.open("folder/key") as file:
        assert file.read() == after
    assert list(store.keys()) == ["folder/key"]
    spare = list(store.unfinished())
    assert len(spare) == (1 if point == "store.temp_written" else 0)


# --- S3 -------------------------------------------------------------------------------------------------------------


def test_s3_large_objects_go_in_parts(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everlearn.store.PART", 5 << 20)  # the least that S3 takes
    store = S3Store(f"{s3}/parts")
    for size in ((5 << 20) - 1, 5 << 20, (11 << 20) + 7):
        data = os.urandom(size)
        store.put("large", io.BytesIO(data))
        with store.open("large") as file:
            assert file.read() == data


def test_s3_upload_that_breaks_off_is_nothing(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everlearn.store.PART", 5 << 20)

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 6 << 20:
                raise ConnectionResetError("broke off")
            return super().read(size)

    store = S3Store(f"{s3}/broken")
    with pytest.raises(ConnectionResetError):
        store.put("large", Broken(bytes(12 << 20)))
    assert list(store.keys()) == []


def test_s3_lists_page_by_page(s3: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = S3Store(f"{s3}/many")
    folder = s3_server.root / BUCKET / "many"
    store.put("0000", io.BytesIO(b""))
    for number in range(1, 2100):
        (folder / f"{number:04d}").touch()
    monkeypatch.undo()  # the store was opened already; its credentials are its client's
    import time

    time.sleep(1.1)  # until the server looks at the folder again
    assert sorted(store.keys()) == [f"{number:04d}" for number in range(2100)]


def _unreachable() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("case", ["secret", "unknown", "bucket", "endpoint", "nobody"])
def test_s3_says_what_is_wrong(s3: str, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    environments = {
        "secret": {"AWS_SECRET_ACCESS_KEY": "wrong-secret-wrong-secret"},
        "unknown": {"AWS_ACCESS_KEY_ID": "AKIAWRONGWRONGWRONG1"},
        "bucket": {},
        "endpoint": {"AWS_ENDPOINT_URL": _unreachable()},
        "nobody": {"AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_CONFIG_FILE": os.devnull},
    }
    for name, value in environments[case].items():
        monkeypatch.setenv(name, value)
    if case == "nobody":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = S3Store("s3://no-such-bucket" if case == "bucket" else s3)
    calls: dict[str, Callable[[], object]] = {
        "put": lambda: store.put("key", io.BytesIO(b"1")),
        "open": lambda: store.open("key"),
        "remove": lambda: store.remove("key"),
        "keys": lambda: list(store.keys()),
    }
    if case == "bucket":
        del calls["remove"]  # servers differ on whether a bucket that is not there holds no key
    if case == "endpoint":
        del calls["remove"], calls["keys"]  # each takes seconds: three attempts
    words = {"bucket": "The bucket is not there", "endpoint": "The endpoint does not answer"}
    for call in calls.values():
        with pytest.raises(StoreFault) as caught:
            call()
        assert words.get(case, "Check AWS_ACCESS_KEY_ID") in caught.value.remedy
        assert "\n" not in str(caught.value)
        assert "wrong" not in str(caught.value).lower()


def test_no_secret_is_shown(s3: str, s3_server: S3Server) -> None:
    store = S3Store(f"{s3}/prefix")
    store.put("key", io.BytesIO(b"1"))
    shown = repr(store) + str(vars(store)) + str(vars(store.bucket) | {"_files": None})
    assert s3_server.secret_key not in shown
    assert s3_server.access_key not in shown
    with pytest.raises(BadConfig) as caught:
        S3Store("s3://AKIAKEYKEYKEYKEYKEY1:secret/word@bucket/prefix")
    assert "secret" not in str(caught.value)
    assert "AKIAKEY" not in str(caught.value)


# --- addresses ------------------------------------------------------------------------------------------------------


def test_open_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert repr(open_store(tmp_path / "a")) == f"LocalStore('{tmp_path}/a')"
    assert repr(open_store("a")) == f"LocalStore('{tmp_path}/a')"
    assert repr(open_store(f"file://{tmp_path}/a")) == f"LocalStore('{tmp_path}/a')"
    assert repr(open_store("s3://bucket/pre/fix/")) == "S3Store('s3://bucket/pre/fix')"
    assert repr(open_store("S3://bucket")) == "S3Store('s3://bucket')"
    for wrong in ("ftp://host/a", "s3://", "s3://../a", "s3://bucket/../a"):
        with pytest.raises(EverlearnError):
            open_store(wrong)

"""Copies in a bucket: sent once, whole, and again only where something is new."""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from pathlib import Path

import pytest

from everlearn.stages.uploading import _measured
from everlearn.store import S3Store
from tests import child
from tests.proxy import proxy
from tests.servers import S3Server
from tests.wheel import good, make, run, write


def test_models_reports_and_the_snapshot_are_sent_once(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make(tmp_path / "w")
    source = write(tmp_path / "photos", good(each=8))
    assert run(workspace.root, "run", source, "--labels-from", "folder").code in (0, 1)
    with proxy(s3_server) as server:
        environment = {**s3_server.environment(), "AWS_ENDPOINT_URL": server.endpoint}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        url = s3_server.bucket(f"copies-{uuid.uuid4().hex[:8]}") + "/home"
        words = ("-w", workspace.root, "upload", url)
        code, said = child.everlearn(tmp_path, *words, fault="upload.sent:3", environment=environment)
        assert code == child.KILLED, said
        first = run(workspace.root, "upload", url).values
        assert first["sent"] and first["there"] >= 3
        again = run(workspace.root, "upload", url).values
        assert (again["sent"], again["bytes"]) == (0, 0)
        puts = [key for method, key, _ in server.asked if method == "PUT"]
        assert len(puts) <= len(set(puts)) + 8  # those that were on their way when the process died
        store = S3Store(url)
        for key in [
            *workspace.store.keys("model_updates/versions"),
            *workspace.store.keys("model_updates/evaluations"),
        ]:
            if not key.endswith(".gitkeep"):
                with store.open(key) as there, workspace.store.open(key) as here:
                    assert there.read() == here.read()
        [mark] = [key for key in store.keys("datasets") if key.endswith("everlearn_export.json")]
        with store.open(mark) as file:
            samples = json.load(file)["samples"]
        assert len([key for key in store.keys("datasets") if key.endswith(".png")]) == samples
        stray = mark.rpartition("/")[0] + "/train/0/stray.png"
        store.put(stray, io.BytesIO(b"of a sending that was broken off"))
        store.remove(mark)
        assert run(workspace.root, "upload", url, "--snapshot").values["sent"] == 1
        assert stray not in store.keys("datasets")
        for address in ("https://me:secret@host/x", "s3://me:secret@host/x"):
            done = run(workspace.root, "upload", address)
            assert done.code == 2 and "secret" not in str(done)


def test_the_etags_that_a_file_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everlearn.stages.uploading.PART", 4)
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    parts = b"".join(hashlib.md5(part).digest() for part in (b"0123", b"4567", b"89"))
    with path.open("rb") as file:
        assert _measured(file) == (10, {hashlib.md5(b"0123456789").hexdigest(), hashlib.md5(parts).hexdigest() + "-3"})

"""Commands about people: tokens, the server, the review in the browser, boxes by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from everlearn.catalog import samples, scenes
from everlearn.cli.main import run
from everlearn.workspace import Workspace
from tests.cli.command import Everlearn, ever

pytest.importorskip("fastapi", reason='no server: pip install "everlearn[serve]"')
httpx = pytest.importorskip("httpx")
desk = pytest.importorskip("tests.serve.desk")

__all__ = ["ever"]


@pytest.fixture
def waiting(ever: Everlearn) -> list[str]:
    """Two images that wait for boxes."""
    _, ids = desk.desk(ever.workspace, 2)
    return list(ids)


def test_tokens_are_made_listed_and_revoked(ever: Everlearn) -> None:
    ever.init()
    made = ever("reviewers", "add", "미나", "--role", "admin")
    assert made["role"] == "admin"
    secret = made["token"]
    (listed,) = ever("reviewers", "list")["reviewers"]
    assert (listed["name"], listed["used_at"], listed["revoked_at"]) == ("미나", None, None)
    assert secret not in json.dumps(listed)
    assert ever("reviewers", "revoke", "미나") == {"revoked": [made["id"]]}
    assert ever("reviewers", "revoke", "미나", code=2)["error"]["code"] == "missing"
    assert ever("reviewers", "add", " ", code=2)["error"]["code"] == "bad_input"
    logs = [path.read_text() for path in (ever.workspace / "training_logs").rglob("*.json*")]
    assert not any(secret.partition(".")[2] in text for text in logs)


def test_boxes_by_hand(ever: Everlearn, waiting: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    first, second = waiting
    assert ever("label", first, "person/courier 0.1 0.2 0.3 0.4", "red cat 0.5 0.5 0.5 0.5") == {
        "labelled": 1,
        "queued": 1,
    }
    ever("label", second, "nothing")
    with Workspace.open(ever.workspace).catalog.read() as tx:
        found = scenes.of(tx, waiting)
        assert samples.counts(tx)["labelled"] == 2
    assert [box.label for box in found[first].boxes] == ["person/courier", "red cat"]
    assert {"person", "red cat", "circle"} <= set(found[first].about or ())
    assert found[second].boxes == ()
    for wrong in ("cat", "cat 0.1 0.2 0.3", "cat a b c d", "cat 0.9 0.9 0.5 0.5", "cat 0 0 0 0"):
        assert ever("label", first, wrong, code=2)["error"]["code"] == "bad_input"
    ever("label", "--undo", first)
    capsys.readouterr()
    assert run(["-w", str(ever.workspace), "review"]) == 0
    assert "Nothing waits" in capsys.readouterr().out


def test_the_review_says_where_boxes_are_drawn(
    ever: Everlearn, waiting: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [one["sample"] for one in ever("review")["items"]] == waiting
    capsys.readouterr()
    assert run(["-w", str(ever.workspace), "review", "--limit", "1"]) == 0
    assert "everlearn review --browser" in capsys.readouterr().out
    assert ever("review", "--as", "mina", code=2)["error"]["code"] == "bad_input"


def test_what_everybody_can_reach_needs_a_token(ever: Everlearn) -> None:
    ever.init()
    error = ever("serve", "--host", "0.0.0.0", code=2)["error"]
    assert "everlearn reviewers add" in error["remedy"]
    ever("reviewers", "add", "mina")
    assert "cannot be listened at" in ever("serve", "--host", "192.0.2.1", "--port", "0", code=2)["error"]["message"]


def _started(ever: Everlearn, *words: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    program = [
        sys.executable,
        "-c",
        "from everlearn.cli import main; main()",
        "-w",
        str(ever.workspace),
        "--json",
        *words,
    ]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    return process, json.loads(process.stdout.readline())


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_review_in_the_browser_ends_with_its_token(ever: Everlearn, waiting: list[str], end: signal.Signals) -> None:
    process, said = _started(ever, "review", "--browser", "--port", "0", "--as", "미나")
    try:
        base, _, secret = said["url"].partition("/sign-in#token=")
        assert (said["name"], said["queued"]) == ("미나", 2)
        people = {"Authorization": f"Bearer {secret}"}
        item = httpx.post(f"{base}/api/v1/review/next", json={}, headers=people).json()["item"]
        assert item["sample"] == waiting[0]
    finally:
        os.kill(process.pid, end)
        process.communicate(timeout=60)
    (token,) = ever("reviewers", "list")["reviewers"]
    assert token["revoked_at"] is not None
    assert secret.partition(".")[2] not in "".join(
        path.read_text() for path in (ever.workspace / "training_logs").rglob("*.json*") if isinstance(path, Path)
    )


def test_several_processes_serve_one_queue(ever: Everlearn, waiting: list[str]) -> None:
    secrets = [ever("reviewers", "add", name)["token"] for name in ("mina", "joon")]
    process, said = _started(ever, "serve", "--host", "127.0.0.1", "--port", "0", "--workers", "2")
    try:
        url = said["url"]
        client = httpx.Client(transport=httpx.HTTPTransport(retries=20), timeout=60)  # each try waits longer
        given = [
            client.post(f"{url}/api/v1/review/next", json={}, headers={"Authorization": f"Bearer {one}"}).json()
            for one in secrets
        ]
        assert [one["item"]["sample"] for one in given] == waiting
        assert given[1]["waiting"] == {"queued": 2, "mine": 1, "others": 1}
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert json.loads(out.splitlines()[-1])["event"] == "ended", err

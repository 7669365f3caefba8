"""Endpoints that list what they like."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("s3fs", reason='no S3: pip install "everlearn[s3]"')

from everlearn.errors import StoreFault
from everlearn.s3 import Bucket, OutOfReach

ITEM = (
    "<Contents><Key>in/a.jpg</Key><Size>3</Size><ETag>&quot;e&quot;</ETag>"
    "<LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
)
NEXT = "<NextContinuationToken>t</NextContinuationToken>"


def page(items: str, more: str = "<IsTruncated>false</IsTruncated>") -> str:
    return f"<ListBucketResult>{more}{items}</ListBucketResult>"


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Status and body of every answer."""
    said = {"status": 200, "body": page(ITEM)}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            body = str(said["body"]).encode()
            self.send_response(int(str(said["status"])))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("EVERLEARN_S3_ENDPOINT", raising=False)
    yield said
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (page(ITEM, "<IsTruncated>true</IsTruncated>"), "without a next one"),
        (page(ITEM, f"<IsTruncated>true</IsTruncated>{NEXT}"), "without a next one"),  # the same page for ever
        (page(ITEM.replace("<Size>3</Size>", "")), "without sizes or times"),
        (page(ITEM.replace("in/a.jpg", "other/a.jpg")), "gives other keys"),  # it might be deleted then
    ],
)
def test_a_listing_that_is_none(answer: dict[str, Any], body: str, says: str) -> None:
    assert [one.key for one in Bucket("bkt").entries("in/")] == ["in/a.jpg"]
    answer["body"] = body
    with pytest.raises(OutOfReach, match=says):
        list(Bucket("bkt").entries("in/"))


def test_a_servers_words_do_not_reach_the_terminal(answer: dict[str, Any]) -> None:
    answer |= {"status": 400, "body": "<Error><Code>Bad&#x9b;31m&#x85;</Code></Error>"}
    with pytest.raises(StoreFault) as told:
        list(Bucket("bkt").entries("in/"))
    assert told.value.message.isprintable() and "31m" not in str(told.value)

"""A proxy before the real S3 server: it counts requests, knows tags, which the server does not, and can go wrong."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.servers import S3Server

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Proxy:
    """asked: (method, key, query) of each request. before: may answer in the server's place; after: may change what the
    server answered; each is given method and key."""

    endpoint: str = ""
    asked: list[tuple[str, str, dict[str, list[str]]]] = field(default_factory=list)
    tags: dict[str, bytes] = field(default_factory=dict)
    before: Callable[[str, str], Answer | None] = lambda method, key: None
    after: Callable[[str, str, Answer], Answer] = lambda method, key, answer: answer
    lock: Any = field(default_factory=threading.Lock)

    def gets(self) -> Counter[str]:
        """How often each object was fetched."""
        return Counter(key for method, key, query in self.asked if method == "GET" and key and "tagging" not in query)

    def count(self, method: str, mark: str | None = None) -> int:
        return sum(m == method and key != "" and (mark is None or mark in query) for m, key, query in self.asked)

    def calm(self) -> None:
        """Forget what was asked, and go wrong no more."""
        self.asked.clear()
        self.before, self.after = lambda method, key: None, lambda method, key, answer: answer


def error(status: int, code: str) -> Answer:
    return status, {"Content-Type": "application/xml"}, f"<Error><Code>{code}</Code></Error>".encode()


@contextmanager
def proxy(server: S3Server) -> Iterator[Proxy]:
    state = Proxy()
    host = urlsplit(server.endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def _serve(self) -> None:
            url = urlsplit(self.path)
            key = unquote(url.path).lstrip("/").partition("/")[2]
            query = parse_qs(url.query, keep_blank_values=True)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with state.lock:
                state.asked.append((self.command, key, query))
            answer = state.before(self.command, key) or self._tagging(key, query, body) or self._real(body)
            status, headers, content = state.after(self.command, key, answer)
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            length = headers.get("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _tagging(self, key: str, query: dict[str, list[str]], body: bytes) -> Answer | None:
            if "tagging" not in query:
                return None
            if self.command == "PUT":
                state.tags[key] = body
                return 200, {}, b""
            return 200, {"Content-Type": "application/xml"}, state.tags.get(key, b"<Tagging><TagSet/></Tagging>")

        def _real(self, body: bytes) -> Answer:
            connection = http.client.HTTPConnection(host, timeout=30)
            try:
                connection.request(self.command, self.path, body, dict(self.headers.items()))
                answer = connection.getresponse()
                return answer.status, dict(answer.getheaders()), answer.read()
            finally:
                connection.close()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.handle_error = lambda *_: None  # type: ignore[method-assign] # a killed client hangs up
    state.endpoint = f"http://127.0.0.1:{listener.server_address[1]}"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()

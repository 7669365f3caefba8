"""What every request passes: a limit on its size, a line in the log, and headers that tell browsers what they may do.

The log has the route, the status, the time it took, the sample's and the token's id: no query, no header, no body, no
name.
"""

from __future__ import annotations

import logging
import secrets
import time

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everlearn.serve.errors import told

LOG = logging.getLogger("everlearn.serve")
MOST_BYTES = 1 << 20
"""Of a request's body: a thousand boxes take a tenth of it."""

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class TooLarge(Exception):
    """The body that is coming is longer than any of ours."""


class Guard:
    """Wraps the application. It is the outermost: what goes wrong inside of it is answered here."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = _Request(scope, receive, send)
        try:
            request.check_length()
            await self.app(scope, request.receive, request.send)
        except TooLarge:
            await request.refuse(413, told("too_large", f"A request has at most {MOST_BYTES:,} bytes.", "Send less."))
        except Exception as error:  # whatever escapes is our fault; its words stay in the log
            LOG.exception("A request failed: %s", type(error).__name__, extra={"request": request.id})
            remedy = f"It is in the server's log as request {request.id}."
            await request.refuse(500, told("fault", "A fault of Everlearn.", remedy))
        finally:
            request.log()


class _Request:
    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.id = secrets.token_hex(6)
        self._scope, self._receive, self._send = scope, receive, send
        self._began = time.monotonic()
        self._bytes = 0
        self._status: int | None = None

    def check_length(self) -> None:
        said = dict(self._scope["headers"]).get(b"content-length", b"0")
        if not said.isdigit() or int(said) > MOST_BYTES:
            raise TooLarge

    async def receive(self) -> Message:
        """A part of the body; what a header said of its length is not believed."""
        message = await self._receive()
        self._bytes += len(message.get("body", b""))
        if self._bytes > MOST_BYTES:
            raise TooLarge
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self._bytes > MOST_BYTES:  # the framework took it for a body that it cannot read
                raise TooLarge
            self._status = message["status"]
            there = {name for name, _ in message["headers"]}
            said = {**HEADERS, "cache-control": "no-store", "x-request-id": self.id}
            fresh = [(k.encode(), v.encode()) for k, v in said.items() if k.encode() not in there]
            message = {**message, "headers": [*message["headers"], *fresh]}
        await self._send(message)

    async def refuse(self, status: int, body: dict[str, object]) -> None:
        self._bytes = 0
        if self._status is None:  # else the answer has begun, and can only break off
            await JSONResponse(body, status)(self._scope, self.receive, self.send)

    def log(self) -> None:
        facts = {
            "request": self.id,
            "method": self._scope["method"],
            "route": getattr(self._scope.get("route"), "path", None),  # as it is written here: a way may hold a name
            "sample": self._scope.get("path_params", {}).get("id"),
            "status": self._status,
            "ms": round(1000 * (time.monotonic() - self._began), 1),
            "client": (self._scope.get("client") or ("",))[0],
            "reviewer": self._scope.get("state", {}).get("reviewer"),
        }
        LOG.info("%s %s", facts["method"], facts["status"], extra=facts)

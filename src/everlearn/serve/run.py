"""Runs the application with uvicorn, in this process or in several."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from everlearn.errors import BadInput
from everlearn.serve.app import app
from everlearn.workspace import Workspace

BACKLOG = 512
AT_ONCE = 256
"""Connections of one process; more are answered 503."""
PATIENCE = 40.0
"""Seconds in which a connection must come on with its request: else a few hundred that say nothing keep all out."""
FOLDER = "EVERLEARN_SERVED"
"""The environment variable by which a process that was started for a workspace knows it."""


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server at this address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def bound(host: str, port: int) -> socket.socket:
    """The socket to listen at; port 0 takes a free one. Raises BadInput."""
    name = host.strip("[]")
    try:
        family = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((name, port), family=family, backlog=BACKLOG)
    except OSError as error:
        remedy = "Choose another: --port 0 takes a free one." if port else "Choose another --host."
        why = error.strerror if isinstance(error, socket.gaierror) or not error.errno else os.strerror(error.errno)
        raise BadInput(f"{host}:{port} cannot be listened at: {why}.", remedy) from None


def address(listening: socket.socket, host: str) -> str:
    """The URL that a browser opens."""
    bare = host.strip("[]")
    name = socket.gethostname() if bare in ("0.0.0.0", "::") else f"[{bare}]" if ":" in bare else bare  # noqa: S104
    return f"http://{name}:{listening.getsockname()[1]}"


def run(workspace: Workspace, listening: socket.socket, *, workers: int = 1, ready: Callable[[], None]) -> None:
    """Serve until the process is told to end. ready: called once connections are answered, or about to be."""
    options: dict[str, Any] = {
        "log_config": None,  # the guard keeps the log; uvicorn's own would have addresses with their queries
        "access_log": False, "server_header": False, "limit_concurrency": AT_ONCE, "timeout_graceful_shutdown": 10,
        "timeout_keep_alive": 30, "http": Connection,
    }  # fmt: skip
    if workers == 1:
        _Server(uvicorn.Config(app(workspace), **options), ready).run(sockets=[listening])
        return
    app(workspace)  # what is wrong is told here, once
    host, port, *_ = listening.getsockname()
    listening.close()  # uvicorn makes the one that its processes share
    os.environ[FOLDER] = str(workspace.root)
    ready()
    uvicorn.run("everlearn.serve.run:worker", factory=True, host=host, port=port, workers=workers, **options)


def worker() -> FastAPI:
    """The application in a process of its own."""
    from everlearn import logs

    workspace = Workspace.open(Path(os.environ[FOLDER]))
    settings = workspace.config.log
    logs.setup(settings.level, workspace.root / "training_logs", settings.retention_days)
    return app(workspace)


class Connection(H11Protocol):
    """uvicorn waits without end for a request's head and body; this one for each twice PATIENCE at most."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._seen: object = None
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._next_look.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        seen = (self.cycle, str(self.conn.their_state))
        if seen == self._seen and seen[1] in ("IDLE", "SEND_BODY"):  # the client's turn, now and the last time
            self.transport.close()
        if self.transport.is_closing():
            return
        self._seen = seen
        self._next_look = self.loop.call_later(PATIENCE, self._look)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

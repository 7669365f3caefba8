"""The application over a workspace. `app(workspace)` is all that a server of ASGI applications needs.

from everlearn.serve.app import app
from everlearn.workspace import Workspace

application = app(Workspace.open("my"))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Literal

import sqlalchemy as sa
from fastapi import FastAPI
from pydantic import BaseModel

from everlearn import files
from everlearn.errors import EverlearnError
from everlearn.serve import auth, errors, review, site
from everlearn.serve.guard import Guard
from everlearn.serve.vocabulary import Vocabulary
from everlearn.workspace import Workspace

THREADS = 12
"""Requests that are worked on at once: below the connections that one process has to its catalog."""
OWED_SECONDS = 20.0


class Health(BaseModel):
    status: Literal["ok"]
    version: str


def app(workspace: Workspace) -> FastAPI:
    """The API under /api/v1, the pages, /healthz. Raises what opening the catalog and the store raises."""
    workspace.catalog, workspace.store  # noqa: B018 - opened here, not by two threads at once

    made = FastAPI(
        title="Everlearn", version=version("everlearn"), lifespan=_looked_after,
        openapi_url="/api/v1/openapi.json", docs_url=None, redoc_url=None,  # their pages ask other servers for scripts
    )  # fmt: skip
    made.state.door = auth.Door(workspace)
    made.state.vocabulary = Vocabulary(workspace)
    errors.handle(made)
    for part in (auth, review, site):
        made.include_router(part.router)
    made.mount("/static", site.static())

    @made.get("/healthz", tags=["health"])
    def healthz() -> Health:
        """Whether the catalog answers. Open to anybody, and says nothing else."""
        with workspace.catalog.read() as tx:
            tx.execute(sa.text("SELECT 1"))
        return Health(status="ok", version=version("everlearn"))

    made.add_middleware(Guard)
    return made


@asynccontextmanager
async def _looked_after(app: FastAPI) -> AsyncIterator[None]:
    """Files whose names could not follow their labels, because a training was reading them, follow now and then."""
    from anyio.to_thread import current_default_thread_limiter

    current_default_thread_limiter().total_tokens = THREADS
    workspace: Workspace = app.state.door.workspace

    async def refile() -> None:
        while True:
            with suppress(EverlearnError):  # it may be over the next time
                await asyncio.to_thread(files.refile_owed, workspace)
            await asyncio.sleep(OWED_SECONDS)

    task = asyncio.create_task(refile())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

"""A workspace whose images wait for a person, a server over it, and people with their tokens."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import uvicorn

from everlearn import config
from everlearn.catalog import labels, reviewers, samples, scenes
from everlearn.catalog.samples import Sample
from everlearn.catalog.scenes import Proposal
from everlearn.image import encode_png
from everlearn.serve import run
from everlearn.serve.app import app
from everlearn.types import Box
from everlearn.workspace import VALIDATED, Workspace
from tests.scenes import SHAPES, scene

WHEN = datetime(2025, 7, 4, 13, 30)


def desk(
    root: Path, number: int, task: str = "detect", *, side: int = 48, proposed: bool = True,
    suggested: Sequence[str] = (), kinds: Sequence[str] = SHAPES[:2], **settings: Any,
) -> tuple[Workspace, list[str]]:  # fmt: skip
    """The workspace, and the images that wait in the order in which they are given. proposed: with boxes; suggested:
    labels that are held now, by turns."""
    workspace = Workspace.create(root, config.check({"task": task, **settings}, root / "everlearn.yaml"))
    rows, boxes, words = [], {}, []
    for n in range(number):
        image, found = scene(n, kinds, side)
        data = encode_png(image)
        id = samples.id_of(data)
        key = f"{VALIDATED}/unlabelled_{n}.png"
        workspace.store.put(key, io.BytesIO(data))
        rows.append(Sample(
            id=id, kind="image", key=key, bytes=len(data), source="/photos", captured_at=WHEN, time_from="exif",
            camera="door", group_key=id, collected_at=WHEN, width=side, height=side, quality=0.9, queued=True,
            queue_reason="unsure", urgency=1 - n / number, status="queued",
        ))  # fmt: skip
        boxes[id] = Proposal(tuple(Box(b.label, b.x, b.y, b.width, b.height, 0.83) for b in found), "v1.0")
        if suggested:
            words.append(labels.Said(id, suggested[n % len(suggested)], "folder"))
    with workspace.catalog.write() as tx:
        samples.add(tx, rows)
        labels.say(tx, words)
        waits = [{"id": one.id, "queued": True, "queue_reason": "unsure", "urgency": one.urgency} for one in rows]
        samples.change(tx, waits)
        samples.restate(tx, [one.id for one in rows])
        if proposed and task == "detect":
            scenes.propose(tx, boxes)
    return workspace, [one.id for one in rows]


def token(workspace: Workspace, name: str = "mina", role: str = "reviewer") -> str:
    """The secret of a new token."""
    with workspace.catalog.write() as tx:
        return reviewers.add(tx, name, role)[1]


@contextmanager
def serving(workspace: Workspace) -> Iterator[str]:
    """A real server; gives its URL."""
    listening = run.bound("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app(workspace), log_config=None, access_log=False, http=run.Connection))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield run.address(listening, "127.0.0.1")
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()

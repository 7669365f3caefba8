"""What people say of a recorded answer, where the answer is boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from everlearn import registry
from everlearn.catalog import scenes, versions
from everlearn.errors import BadInput, Missing
from everlearn.naming import coarse
from everlearn.types import Box, Scene

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from everlearn.catalog.versions import Version
    from everlearn.types import SampleId
    from everlearn.workspace import Workspace


def heard(
    workspace: Workspace, tx: Connection, answer: dict[str, Any], *, right: bool, label: str | None
) -> tuple[str, str | None]:  # fmt: skip
    """(what was said, what is true) as scenes' labels; the second None where it is only known that the first is wrong.
    Raises BadInput."""
    if label is not None:
        raise BadInput(
            f"{label!r} is a class, and this answer is boxes.",
            "Say --wrong, and draw the right ones: everlearn review --browser",
        )
    boxes = tuple(_plain(one) for one in scenes.boxes_of(answer["boxes"] or []))
    (said,) = scenes.keep(tx, [Scene(boxes, _looked_for(workspace, versions.get(tx, answer["version"])))])
    return said, said if right else None


def _looked_for(workspace: Workspace, version: Version) -> tuple[str, ...]:
    """The classes that a version knows; of one whose files are gone nothing but its boxes is known."""
    try:
        names = registry.card(workspace, version).get("classes", [])
    except Missing:
        names = []
    return tuple(sorted({coarse(name) for name in names}))


def propose(tx: Connection, sample: SampleId, answer: dict[str, Any]) -> None:
    """Show the person who is asked what was answered."""
    boxes = scenes.boxes_of(answer["boxes"] or [])
    scenes.propose(tx, {sample: scenes.Proposal(boxes, answer["version"])})


def _plain(one: Box) -> Box:
    return Box(one.label, one.x, one.y, one.width, one.height)

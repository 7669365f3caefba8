"""What the review's requests and answers look like; the OpenAPI description is made from these."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from everlearn.catalog.leases import MOST_SKIPPED
from everlearn.catalog.scenes import MOST_BOXES

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", description="A sample's id.")]
Label = Annotated[str, Field(min_length=1, max_length=300)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, description="Of the image's width or height.")]


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DrawnBox(Form):
    """x, y: the left upper corner."""

    label: Label
    x: Share
    y: Share
    width: Share
    height: Share


class ProposedBox(DrawnBox):
    confidence: float | None = None


class Range(Form):
    """The numbers that can be answered, where the task is `regress`."""

    low: float
    high: float
    step: float


class Item(Form):
    """An image to be looked at. Everything that is suggested may be None.

    until: when the lease ends, in UTC. reason: why it waits. label: what is held now; suggestion: what is rather held
    right; denied: what it is known not to be. boxes: the proposal, else what is held now; by: who proposes. about: the
    classes that are known now, to be sent back with the answer: what the reviewer looked for. labels: the version of
    the list at /review/labels.
    """

    sample: Id
    until: str
    reason: str | None
    label: str | None
    suggestion: str | None
    denied: str | None
    boxes: list[ProposedBox] | None
    by: str | None
    about: list[str] | None
    range: Range | None
    labels: str
    width: int | None
    height: int | None
    camera: str
    at: str


class Wanted(Form):
    """having: what is looked at already; skipped: what is rather not asked now."""

    having: list[Id] = Field(default_factory=list, max_length=8)
    skipped: list[Id] = Field(default_factory=list, max_length=MOST_SKIPPED)


class Given(Form):
    """An answer, one of: boxes (with about), label, not. next: also ask for the next image."""

    boxes: list[DrawnBox] | None = Field(None, max_length=MOST_BOXES)
    about: list[Label] | None = Field(None, max_length=20_000)
    label: Label | None = None
    is_not: Label | None = Field(None, alias="not")
    next: Wanted | None = None


class Waiting(Form):
    """queued: images that wait; mine, others: that are looked at now, by whom asks and by others."""

    queued: int
    mine: int
    others: int


class Next(Form):
    """item: None where nothing is left for whom asks."""

    item: Item | None
    waiting: Waiting


class Answered(Next):
    """sample: what was answered."""

    sample: Id


class Some(Form):
    samples: list[Id] = Field(max_length=100)


class KnownLabel(Form):
    """number: of images, or of boxes, that bear it."""

    name: str
    number: int


class Labels(Form):
    version: str
    labels: list[KnownLabel]

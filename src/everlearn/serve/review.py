"""The queue of images that wait for a person: the next one, its pixels, an answer, a skip, an answer taken back.

Whoever is given an image has it for a few minutes alone (`catalog.leases`). An answer is a person's word like any other
(`label.person`); it takes a transaction of the catalog and no lock, so that nobody waits while a model is trained.
All routes are plain functions: the framework runs them in threads, since the catalog blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from sqlalchemy.engine import Connection

from everlearn.catalog import leases, samples, scenes
from everlearn.catalog.leases import Counts, Lease
from everlearn.catalog.reviewers import Reviewer
from everlearn.catalog.samples import Sample
from everlearn.errors import BadInput, Missing
from everlearn.image import decode, encode_png
from everlearn.image.header import read_header
from everlearn.label import person as people
from everlearn.naming import denied, is_scene
from everlearn.serve.auth import Person, There
from everlearn.serve.errors import Conflict, Forbidden
from everlearn.serve.forms import (
    Answered,
    DrawnBox,
    Given,
    Item,
    KnownLabel,
    Labels,
    Next,
    ProposedBox,
    Range,
    Some,
    Waiting,
    Wanted,
)
from everlearn.serve.vocabulary import Vocabulary, Words
from everlearn.types import Box, Scene
from everlearn.workspace import Workspace

router = APIRouter(prefix="/api/v1/review", tags=["review"])

RELOAD_SECONDS = 5.0
"""What was left is kept so long for whom left it: a page that is only loaded again finds its image."""
Which = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]


@router.post("/next")
def give_next(request: Request, where: There, who: Person, wanted: Wanted) -> Next:
    """The next image of the queue, leased to whom asks: the most urgent that nobody else looks at."""
    return _next(where, _vocabulary(request), who, wanted)


@router.get("/labels")
def list_labels(request: Request, _: Person) -> Labels:
    """All labels that are known, the most frequent first."""
    words = _vocabulary(request).words()
    listed = [KnownLabel(name=name, number=number) for name, number in words.labels.items()]
    return Labels(version=words.version, labels=listed)


@router.get("/counts")
def count(where: There, who: Person) -> Waiting:
    """How many images wait, and how many of them are looked at."""
    with where.catalog.read() as tx:
        return _waiting(leases.counts(tx, who.name))


@router.post("/renew")
def renew(where: There, who: Person, given: Some) -> Some:
    """Look on at these images; the answer names those that are still whom asks's."""
    with where.catalog.write() as tx:
        return Some(samples=leases.renew(tx, who.name, given.samples))


@router.post("/return", status_code=204)
def give_back(where: There, who: Person, given: Some) -> None:
    """Leave these images to others."""
    with where.catalog.write() as tx:
        leases.give_back(tx, who.name, given.samples, seconds=RELOAD_SECONDS)


@router.get("/{id}/image", responses={200: {"content": {"image/*": {}}}}, response_class=Response)
def show(where: There, who: Person, id: Which) -> Response:
    """The image, as it is learned from: in its own format where every viewer shows those very pixels, else as PNG."""
    with where.catalog.read() as tx:
        one, lease = _there(tx, id), leases.held(tx, id)
    if who.role != "admin" and (lease is None or lease.who != who.name):
        raise Forbidden("This image was not given to you to look at.", "Ask for the next one.")
    if one.kind != "image":
        raise BadInput(f"Sample {id} is a row of features, not an image.", "everlearn review, at a terminal")
    with where.store.open(one.key) as file:
        data = file.read()
    header = read_header(data)
    if not header.plain:
        limits = where.config.collect
        found = decode(data, max_pixels=int(limits.max_megapixels * 1e6), max_bytes=int(limits.max_file_mb * 1e6))
        return _picture(encode_png(found.pixels), "png")
    return _picture(data, header.format)


@router.post("/{id}/answer")
def answer(request: Request, where: There, who: Person, id: Which, given: Given) -> Answered:
    """A person's word on an image: its boxes, its label, or what it is not."""
    _claim(where, who, id)
    words = _vocabulary(request)
    if given.boxes is not None:
        people.draw(where, id, _scene(given.boxes, given.about), who.name)
        words.said(box.label for box in given.boxes)
    elif given.label is not None:
        people.say(where, id, given.label, who.name)
        words.said([given.label] if where.config.task == "classify" else [])
    elif given.is_not is not None:
        people.deny(where, id, given.is_not, who.name)
    else:
        raise BadInput("The answer says nothing.", "Send one of boxes, label, not.")
    return Answered(sample=id, **dict(_next(where, words, who, given.next)))


@router.post("/{id}/skip")
def skip(request: Request, where: There, who: Person, id: Which, wanted: Wanted) -> Next:
    """Leave an image to others, now, and have the next one."""
    with where.catalog.write() as tx:
        leases.give_back(tx, who.name, [id])
    skipped = [*wanted.skipped, id][-leases.MOST_SKIPPED :]
    return _next(where, _vocabulary(request), who, Wanted(having=wanted.having, skipped=skipped))


@router.post("/{id}/undo")
def undo(request: Request, where: There, who: Person, id: Which) -> Next:
    """Take back one's own answer; the image is one's own again, to answer anew."""
    lease = people.ask_again(where, id, who.name)
    with where.catalog.read() as tx:
        item = _item(where, tx, _there(tx, id), lease, _vocabulary(request).words())
        return Next(item=item, waiting=_waiting(leases.counts(tx, who.name)))


# --- the parts ----------------------------------------------------------------------------------------------------


def _next(where: Workspace, vocabulary: Vocabulary, who: Reviewer, wanted: Wanted | None) -> Next:
    """wanted: None where nothing is asked for but the counts."""
    taken = None
    if wanted is not None:
        with where.catalog.write() as tx:
            taken = leases.take(tx, who.name, having=wanted.having, skipped=wanted.skipped)
    words = vocabulary.words() if taken else None
    with where.catalog.read() as tx:
        item = _item(where, tx, *taken, words) if taken and words else None
        return Next(item=item, waiting=_waiting(leases.counts(tx, who.name)))


def _claim(where: Workspace, who: Reviewer, id: str) -> None:
    """The image waits, and nobody else looks at it. Raises Missing, Conflict."""
    with where.catalog.read() as tx:
        one, lease = _there(tx, id), leases.held(tx, id)
    if one.status != "queued":
        raise Conflict(f"Sample {id} was answered already.", "Take the next one.")
    if lease is not None and lease.who == who.name:
        return
    with where.catalog.write() as tx:  # it ran out, or never was: it is theirs if it is nobody's
        if leases.claim(tx, id, who.name) is None:
            raise Conflict(f"Somebody else looks at sample {id} now.", "Take the next one.")


def _there(tx: Connection, id: str) -> Sample:
    found = samples.some(tx, [id]).get(id)
    if found is None:
        raise Missing(f"There is no sample {id}.", "It may have been forgotten; take the next one.")
    return found


def _scene(drawn: Sequence[DrawnBox], about: Sequence[str] | None) -> Scene:
    """Corners that lie a rounding error outside of the image are put on its edge."""
    boxes = tuple(Box(one.label, one.x, one.y, min(one.width, 1 - one.x), min(one.height, 1 - one.y)) for one in drawn)
    return Scene(boxes, None if about is None else tuple(about))


def _item(where: Workspace, tx: Connection, one: Sample, lease: Lease, words: Words) -> Item:
    detect, target = where.config.task == "detect", where.config.learn.target
    boxes, by = _boxes(tx, one) if detect else (None, None)
    plain = None if is_scene(one.label) or denied(one.label) else one.label
    return Item(
        sample=one.id, until=f"{lease.until.isoformat(timespec='seconds')}Z", reason=one.queue_reason,
        label=plain, suggestion=one.suspect, denied=denied(one.label), boxes=boxes, by=by,
        about=list(words.classes) if detect else None,
        range=Range(low=target.low, high=target.high, step=target.step) if where.config.task == "regress" else None,
        labels=words.version, width=one.width, height=one.height, camera=one.camera,
        at=one.time.isoformat(sep=" ", timespec="seconds"),
    )  # fmt: skip


def _boxes(tx: Connection, one: Sample) -> tuple[list[ProposedBox], str | None]:
    """What is proposed, else what is held."""
    proposal = scenes.proposals(tx, [one.id]).get(one.id)
    if proposal is not None:
        return [_box(box) for box in proposal.boxes], proposal.by
    held = scenes.some(tx, [one.label]).values()
    return [_box(box) for scene in held for box in scene.boxes], None


def _box(one: Box) -> ProposedBox:
    sides = {name: min(1.0, getattr(one, name)) for name in ("x", "y", "width", "height")}
    return ProposedBox(label=one.label, confidence=one.confidence, **sides)


def _waiting(found: Counts) -> Waiting:
    return Waiting(queued=found.queued, mine=found.mine, others=found.others)


def _picture(data: bytes, format: str) -> Response:
    """Never run as anything else than a picture, and kept nowhere."""
    headers = {"Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'; sandbox"}
    return Response(data, media_type=f"image/{format}", headers=headers)


def _vocabulary(request: Request) -> Any:
    return request.app.state.vocabulary

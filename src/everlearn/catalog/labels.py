"""Who or what said which label, and what follows from it.

The events are kept; the sample's label is *settled* from them, whatever order they came in: a person's latest word
holds over what the files said, which holds over what a model said. Files that contradict each other settle nothing:
the sample goes to a person. Data sets that looked for different things on one image do not contradict each other: what
they say is joined (`scenes.joined`).

A person may also say what a sample is *not*. Such a denial makes it a negative, until a person says what it is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from everlearn.catalog import samples, scenes
from everlearn.catalog.tables import label_event, now, sample
from everlearn.config import Config
from everlearn.errors import BadInput
from everlearn.naming import UNKNOWN, clean_label, denial, denied
from everlearn.types import LabelBy, SampleId

CONFLICT = "conflict"
REPORTED = "reported"
UNDONE = "undone"
FOR_PEOPLE = (CONFLICT, UNDONE)
"""Why a sample waits that no model may answer."""
PEOPLE = ("person", "feedback")
FILES = ("folder", "filename", "csv", "yolo", "coco", "voc", "labelstudio", "option", "parent")


@dataclass(frozen=True, slots=True)
class Said:
    """One label event. confidence and version: of the model, for `auto`."""

    sample_id: SampleId
    label: str | None
    by: LabelBy
    who: str | None = None
    confidence: float | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """label: None where nothing or nothing certain was said; conflict: where files contradict each other."""

    label: str | None
    by: str | None
    conflict: bool = False


def cleaned(text: str, config: Config) -> str:
    """The label as it is kept: clean text; for `regress` the number on the target's step, written one way. Raises
    BadInput."""
    if config.task == "detect":
        raise BadInput(f"{text!r} is a class, and this workspace labels images by their boxes.", "everlearn review")
    if config.task != "regress":
        return clean_label(text)
    target = config.learn.target
    try:
        value = float(text)
    except ValueError:
        raise BadInput(f"{text!r} is not a number, and this workspace predicts numbers.", "Give a number.") from None
    if not math.isfinite(value) or not target.low <= value <= target.high:
        raise BadInput(
            f"{text} is outside learn.target, {target.low} to {target.high}.", "Give another, or widen the range."
        )
    steps = round((value - target.low) / target.step)
    exact = Decimal(repr(target.low)) + steps * Decimal(repr(target.step))  # in binary, -0.3 + 3 × 0.1 is not 0
    return f"{exact.normalize():f}"


def denying(label: str, config: Config) -> str:
    """The label of a negative, "this is not LABEL", as it is kept. Raises BadInput."""
    if config.task == "detect":
        raise BadInput(f"An image of boxes cannot be denied: {label}.", "Draw the right boxes: everlearn review")
    if config.task == "regress":
        raise BadInput(f"A number cannot be denied: {label}.", "Give the right number as the label.")
    return denial(clean_label(label))


def settled(events: Sequence[Any]) -> Settled:
    """What follows from a sample's unrevoked events, given in order of id.

    A denial holds over what files and models said where it contradicts them, and over a person's word that it came
    after; beside another label it says nothing new.
    """
    found = _affirmed([event for event in events if denied(event.label) is None or event.by not in PEOPLE])
    for event in reversed(events):
        if event.by not in PEOPLE:
            continue
        refused = denied(event.label)
        if refused is None:
            break  # a person said later what it is
        if found.label == refused or (found.label is None and not found.conflict):
            return Settled(event.label, event.by)
    return found


def _affirmed(events: Sequence[Any]) -> Settled:
    words = [event for event in events if event.by in PEOPLE]
    if words:
        return Settled(words[-1].label, words[-1].by)
    files = {event.label for event in events if event.by in FILES}
    if len(files) > 1:
        return Settled(None, None, conflict=True)
    if files:
        return Settled(files.pop(), min(event.by for event in events if event.by in FILES))
    automatic = [event for event in events if event.by == "auto"]
    return Settled(automatic[-1].label, "auto") if automatic else Settled(None, None)


def say(tx: Connection, words: Iterable[Said]) -> list[SampleId]:
    """Record label events and settle what follows; returns the samples that something new was said of. A file's word
    that was said before is not said twice, not even when a person has taken it back."""
    values: list[dict[str, Any]] = [
        {"sample_id": w.sample_id, "label": w.label, "by": w.by, "who": w.who, "confidence": w.confidence,
         "version": w.version, "at": now(), "revoked": False}
        for w in words
    ]  # fmt: skip
    ids = sorted({value["sample_id"] for value in values})
    past = [
        one for one in events(tx, ids, revoked=True) if one.by in FILES and not (one.revoked and one.by == "parent")
    ]
    said = {(event.sample_id, event.label, event.by) for event in past}
    new = []
    for value in values:
        word = (value["sample_id"], value["label"], value["by"])
        if word not in said:
            new.append(value)
        if value["by"] in FILES:
            said.add(word)
    if new:
        tx.execute(label_event.insert(), new)
    ids = sorted({value["sample_id"] for value in new})
    settle(tx, ids)
    return ids


def settle(tx: Connection, ids: Collection[SampleId]) -> None:
    """Bring label, queue and status of samples into step with their events."""
    by_sample: dict[SampleId, list[Any]] = {}
    for event in events(tx, ids):
        by_sample.setdefault(event.sample_id, []).append(event)
    changes = []
    for one in samples.some(tx, ids).values():
        result = settled(by_sample.get(one.id, []))
        if result.conflict:
            result = _joined(tx, by_sample[one.id])
        values = {
            "label": result.label,
            "label_by": result.by,
            "learned": one.learned and result.label == one.label,
            **_queue(one, result),
        }
        values["status"] = samples.status_of({"refusal": one.refusal, "quality": one.quality, **values})
        if any(getattr(one, name) != value for name, value in values.items()):
            changes.append({"id": one.id, **values})
    samples.change(tx, changes)


def _joined(tx: Connection, events: Sequence[Any]) -> Settled:
    """What files say together, where each tells of boxes and none contradicts another."""
    files = [event for event in events if event.by in FILES]
    told = scenes.some(tx, {event.label for event in files})
    scene = scenes.joined(told.values()) if all(event.label in told for event in files) else None
    if scene is None:
        return Settled(None, None, conflict=True)
    return Settled(scenes.keep(tx, [scene])[0], min(event.by for event in files))


def _queue(one: samples.Sample, result: Settled) -> dict[str, Any]:
    """Contradictions go to the queue; what waits there waits on until its label changes or a person speaks. A reported
    mistake waits although it is learned as a negative: nobody has said yet what it is."""
    if result.conflict:
        return {"queued": True, "queue_reason": CONFLICT, "urgency": 2.0, "suspect": None}
    waits = result.by not in PEOPLE or (result.by == "feedback" and denied(result.label) is not None)
    if result.label == one.label and waits and one.queue_reason != CONFLICT:
        return {name: getattr(one, name) for name in ("queued", "queue_reason", "urgency", "suspect")}
    return {"queued": False, "queue_reason": None, "urgency": 0.0, "suspect": None}


def events(tx: Connection, ids: Collection[SampleId], *, revoked: bool = False) -> list[Any]:
    """Events of these samples, oldest first; with `revoked` also those that were taken back."""
    found: list[Any] = []
    for chunk in samples.chunks(ids):
        query = sa.select(label_event).where(label_event.c.sample_id.in_(chunk))
        if not revoked:
            query = query.where(sa.not_(label_event.c.revoked))
        found.extend(tx.execute(query.order_by(label_event.c.id)))
    return found


def is_denial() -> sa.ColumnElement[bool]:
    """Condition on `sample`: it is a negative, of which it is known only what it is not."""
    return sample.c.label.startswith(denial(""), autoescape=True)


def negatives(tx: Connection, open_set: bool) -> int:
    """How many samples are learned as negatives, or will be; in an open set also those of nobody known."""
    of = sa.or_(is_denial(), sample.c.label == UNKNOWN) if open_set else is_denial()
    return int(tx.execute(sa.select(sa.func.count()).select_from(sample).where(of)).scalar() or 0)


def history(tx: Connection, id: SampleId) -> list[dict[str, Any]]:
    """All that was ever said of one sample, oldest first, revoked words too."""
    query = sa.select(label_event).where(label_event.c.sample_id == id).order_by(label_event.c.id)
    return [dict(row._mapping) for row in tx.execute(query)]


def undo(tx: Connection, id: SampleId) -> str | None:
    """Take back the last word on a sample and settle again; returns the label it has now. Raises BadInput where
    nothing was said."""
    query = sa.select(label_event.c.id).where(label_event.c.sample_id == id, sa.not_(label_event.c.revoked))
    last = tx.execute(query.order_by(label_event.c.id.desc()).limit(1)).scalar()
    if last is None:
        raise BadInput(f"Nothing was said of sample {id}, so there is nothing to undo.", "See: everlearn data")
    tx.execute(label_event.update().where(label_event.c.id == last).values(revoked=True))
    settle(tx, [id])
    return samples.get(tx, id).label

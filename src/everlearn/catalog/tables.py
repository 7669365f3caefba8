"""The catalog's tables. The catalog is the truth: files are found through it.

Times are UTC without a zone, but `captured_at`, which is what the camera's clock said. Ids of samples are
`types.SampleId`. A migration in `migrations/versions/` goes with every change here.
"""

from __future__ import annotations

import getpass
from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "fk": "fk_%(table_name)s_%(column_0_name)s"}
)


def now() -> datetime:
    """The time as the catalog keeps it: UTC without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


def who() -> str:
    """The person at this machine, by the name that the system knows."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _sample_id(**options: object) -> Column[str]:
    return Column("sample_id", String(32), ForeignKey("sample.id", ondelete="CASCADE"), **options)  # type: ignore[arg-type]


_json = JSON(none_as_null=True)

sample = Table(
    "sample",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(8), nullable=False),  # image | row
    Column("key", Text, nullable=False, unique=True),  # where its file lies in the store
    Column("folded", Text, nullable=False, unique=True),  # the key as disks see it that fold case
    Column("bytes", BigInteger, nullable=False),
    Column("source", Text, nullable=False),  # what was given to collect
    Column("captured_at", DateTime),
    Column("time_from", String(8)),
    Column("camera", Text, nullable=False),
    Column("group_key", Text, nullable=False),
    Column("parent_id", String(32), ForeignKey("sample.id", ondelete="CASCADE")),  # augmented from
    Column("collected_at", DateTime, nullable=False),
    # what validation found; None before
    Column("width", Integer),
    Column("height", Integer),
    Column("quality", Float),  # 0-1
    Column("measured", _json),  # sharpness, exposure, … as measured
    Column("hash", LargeBinary),  # perceptual hash
    Column("thumbnail", LargeBinary),  # small grey picture, to confirm near duplicates
    Column("descriptor", LargeBinary),  # float16, for diversity
    Column("refusal", String(32)),  # reason of quarantine
    Column("refusal_value", Float),
    Column("refusal_limit", Float),
    Column("twin_of", String(32)),  # the near duplicate that is kept instead
    Column("released", Boolean, nullable=False),  # a person let it out of quarantine
    # labels, settled from label_event
    Column("label", Text),
    Column("label_by", String(16)),
    Column("queued", Boolean, nullable=False),
    Column("queue_reason", String(32)),
    Column("urgency", Float, nullable=False),  # most informative first
    Column("suspect", Text),  # the label that confident learning holds right instead
    Column("learned", Boolean, nullable=False),  # in the snapshot that the live memory stands at, with this label
    Column("status", String(12), nullable=False),
    Index(None, "status", "id"),
    Index(None, "status", "urgency", "id"),  # the queue, read from its end
    Index(None, "label"),
    Index(None, "group_key"),
    Index(None, "parent_id"),
)

sighting = Table(  # every place a sample was seen at: recognises unchanged files without reading them
    "sighting",
    metadata,
    Column("uri", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("modified", Float, nullable=False),
    Column("etag", Text),  # of an object in a bucket: the mark of its content
    Column("after", Text),  # what was done with the object once it was taken in, as collect.after says it
    _sample_id(nullable=False, index=True),
)

label_event = Table(  # who or what said which label; never changed but for `revoked`
    "label_event",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    _sample_id(nullable=False, index=True),
    Column("label", Text),  # None: not labelled after all
    Column("by", String(16), nullable=False),
    Column("who", Text),
    Column("confidence", Float),
    Column("version", String(16)),
    Column("at", DateTime, nullable=False),
    Column("revoked", Boolean, nullable=False),
)

scene = Table(  # what is known of whole images, by content: the label of a sample where the task is `detect`
    "scene",
    metadata,
    Column("id", String(32), primary_key=True),  # scene-…, a digest of the rest
    Column("boxes", _json, nullable=False),  # [[label, x, y, width, height], …] in steps of scenes.GRID
    Column("about", _json),  # the classes that were looked for; None: not said
)

proposal = Table(  # the boxes that a model would draw, for the person who is asked
    "proposal",
    metadata,
    _sample_id(primary_key=True),
    Column("boxes", _json, nullable=False),  # as in `scene`, and the confidence
    Column("by", Text, nullable=False),  # the models
    Column("at", DateTime, nullable=False),
)

lease = Table(  # who is looking at an image of the queue, so that nobody else is given it
    "lease",
    metadata,
    _sample_id(primary_key=True),
    Column("who", Text, nullable=False),
    Column("until", DateTime, nullable=False),
)

token = Table(  # who may come in by the network, and as what
    "token",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", Text, nullable=False),
    Column("role", String(16), nullable=False),
    Column("mark", String(64), nullable=False, unique=True),  # SHA-256 of the secret, which is kept nowhere
    Column("made_at", DateTime, nullable=False),
    Column("used_at", DateTime),
    Column("revoked_at", DateTime),
)

snapshot = Table(
    "snapshot",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(64), nullable=False, index=True),
    Column("created_at", DateTime, nullable=False),
    Column("samples", Integer, nullable=False),
    Column("classes", _json, nullable=False),
    Column("splits", _json, nullable=False),
    Column("scores", _json),
    Column("reduced", Integer, nullable=False),  # members erased since, by `forget`
)

member = Table(  # snapshot n holds the rows with added <= n and (removed is null or removed > n)
    "member",
    metadata,
    _sample_id(primary_key=True),
    Column("added", Integer, primary_key=True),
    Column("removed", Integer, index=True),
    Column("label", Text, nullable=False),
    Column("split", String(10), nullable=False),
    Column("fold", Integer, nullable=False),
    Index(None, "added"),
)

version = Table(
    "version",
    metadata,
    Column("name", String(16), primary_key=True),  # v1.0
    Column("number", Integer, nullable=False, unique=True),
    Column("parent", String(16)),
    Column("snapshot", Integer, ForeignKey("snapshot.number")),
    Column("learner", Text, nullable=False),
    Column("backbone", Text, nullable=False),
    Column("licence", Text, nullable=False),
    Column("config", _json, nullable=False),
    Column("code_version", Text, nullable=False),
    Column("memory_digest", String(64)),
    Column("model_digest", String(64)),
    Column("metrics", _json),
    Column("key", Text, nullable=False),  # the ONNX file in the store; its bundle lies beside it
    Column("created_at", DateTime, nullable=False),
    Column("retired", Boolean, nullable=False),
    Column("tags", _json, nullable=False),
)

alias = Table(
    "alias",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", String(16), ForeignKey("version.name"), nullable=False),
)

history = Table(  # append-only: which model was in production when, and why
    "history",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", DateTime, nullable=False),
    Column("action", String(16), nullable=False),  # registered | promoted | held | rolled back | deployed | retired …
    Column("version", String(16), nullable=False),
    Column("previous", String(16)),
    Column("reason", Text, nullable=False),
    Column("forced", Boolean, nullable=False),
    Column("who", Text, nullable=False),
    Column("details", _json),
)

evaluation = Table(
    "evaluation",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("version", String(16), ForeignKey("version.name"), nullable=False, index=True),
    Column("snapshot", Integer),
    Column("champion", String(16)),
    Column("result", _json, nullable=False),
    Column("report_key", Text),
    Column("at", DateTime, nullable=False),
)

answer = Table(  # predictions kept by `predict --record`
    "answer",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("at", DateTime, nullable=False),
    Column("version", String(16), nullable=False),
    Column("content", String(32), nullable=False, index=True),  # id that the image would have as a sample
    Column("key", Text, index=True),  # the image, kept for feedback
    Column("label", Text),
    Column("value", Float),
    Column("boxes", _json),  # of `detect`, as in `proposal`
    Column("confidence", Float, nullable=False),
    Column("camera", Text, nullable=False),
    Column("feedback", String(8)),  # right | wrong | label
    Index(None, "version", "at"),
)

regression = Table(  # mistakes that people have reported; every candidate must answer them
    "regression",
    metadata,
    _sample_id(primary_key=True),
    Column("wrong", Text),  # what the model had said
    Column("right", Text),  # None where the person only said that it was wrong
    Column("version", String(16), nullable=False),
    Column("at", DateTime, nullable=False),
)

deployment = Table(
    "deployment",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", DateTime, nullable=False),
    Column("version", String(16), nullable=False),
    Column("path", Text, nullable=False),
    Column("evaluation", Integer),
)

turn = Table(
    "turn",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("started_at", DateTime, nullable=False),
    Column("ended_at", DateTime),
    Column("decision", String(16)),
    Column("summary", _json),
)

run = Table(  # trainings, searches, folds, comparisons
    "run",
    metadata,
    Column("name", String(64), primary_key=True),  # train-20261121-150301
    Column("number", Integer, nullable=False, unique=True),
    Column("kind", String(16), nullable=False, index=True),  # train | tune | trial | crossval | fold | compare …
    Column("parent", String(64), ForeignKey("run.name"), index=True),
    Column("at", DateTime, nullable=False),
    Column("ended_at", DateTime),
    Column("status", String(12), nullable=False),  # running | done | failed | interrupted | pruned
    Column("snapshot", Integer),
    Column("config", _json, nullable=False),
    Column("result", _json, nullable=False),
    Column("version", String(16)),  # the model that came of it
)

metric = Table(  # a run's numbers, step by step
    "metric",
    metadata,
    Column("run", String(64), ForeignKey("run.name", ondelete="CASCADE"), primary_key=True),
    Column("name", String(128), primary_key=True),  # val_loss; recall/CLASS
    Column("step", Integer, primary_key=True),
    Column("value", Float),  # None: it was not a number
)

suppressed = Table(  # keyed digests of forgotten content, so that it is not collected again
    "suppressed",
    metadata,
    Column("mark", String(64), primary_key=True),
    Column("at", DateTime, nullable=False),
)

setting = Table(  # what the catalog itself must remember: the task it was made for, the suppression key, …
    "setting",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", JSON, nullable=False),
)

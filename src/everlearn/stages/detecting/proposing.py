"""Which detectors propose boxes on what nobody has labelled, and what they say together."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from everlearn.catalog import scenes, versions
from everlearn.catalog.tables import sample
from everlearn.label import boxes as together
from everlearn.label.boxes import Around, Weighed
from everlearn.model.detecting.detector import DETECTORS, load_detector
from everlearn.naming import coarse
from everlearn.stages.detecting.answering import detector_of, found_on, standing

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.model.detecting.detector import Detector
    from everlearn.types import Box, Progress, SampleId
    from everlearn.workspace import Workspace

LEAST = 0.05
"""Confidence below which no box of a model is looked at, in favour of one or against it."""
THINNEST = 4 * scenes.GRID


@dataclass(frozen=True, slots=True)
class Model:
    """A detector that proposes. name: as people know it; key: digest of its file, under which its boxes are kept;
    asked: the classes that it is asked for; version: where it is one of this workspace."""

    detector: Detector
    name: str
    key: str
    asked: frozenset[str]
    version: Version | None = None


@dataclass(slots=True)
class Proposers:
    """All models that propose. around: the neighbouring frames of each image that has any."""

    workspace: Workspace
    models: list[Model]
    around: Mapping[SampleId, Around] = field(default_factory=dict)

    @property
    def by(self) -> str:
        return " + ".join(one.name for one in self.models)

    @property
    def digest(self) -> str:
        """Of the models and of how their boxes are joined: what was proved holds for these alone."""
        frames = self.workspace.config.detect.frames
        said = "\n".join(["proposals 1", f"{frames:g}", *(f"{one.key} {sorted(one.asked)}" for one in self.models)])
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    @property
    def classes(self) -> list[str]:
        """What they are asked for, all together."""
        return sorted(frozenset().union(*(one.asked for one in self.models)))

    @property
    def version(self) -> Version | None:
        """The newest version of this workspace among them."""
        return max((one.version for one in self.models if one.version), key=lambda one: one.number, default=None)

    def weighed(self, ids: Sequence[SampleId], progress: Progress) -> dict[SampleId, Weighed]:
        """What they propose for these, by what the neighbouring frames show."""
        beside = {id: self.around.get(id, Around()) for id in ids}
        every = {*ids, *(id for one in beside.values() for id in (one.before, one.after) if id is not None)}
        joint = self._joint(sorted(every), progress)
        return {
            id: together.weigh(joint[id], *(joint[other] if other else None for other in (one.before, one.after)))
            for id, one in beside.items()
        }

    def _joint(self, ids: Sequence[SampleId], progress: Progress) -> dict[SampleId, list[Box]]:
        """Their boxes joined, without what the frames around say."""
        found = [self._found(model, ids, progress) for model in self.models]
        knows = [model.asked for model in self.models]
        return {id: [one.box for one in together.join([some[id] for some in found], knows)] for id in ids}

    def _found(self, model: Model, ids: Sequence[SampleId], progress: Progress) -> dict[SampleId, list[Box]]:
        """What one model finds; an image is looked at once."""
        found = found_on(self.workspace, model.detector, ids, progress, known_as=model.key, name="propose", least=LEAST)
        return {id: _usable(boxes, model.asked) for id, boxes, _ in found}


def proposers(workspace: Workspace) -> Proposers:
    """The champion and `detect.teachers`; without teachers, and before there is a champion, the newest version: it has
    not been shown to be good, and beside a teacher it would only be in the way. Raises Missing, BadInput."""
    settings = workspace.config.detect
    with workspace.catalog.read() as tx:
        own = versions.champion(tx)
    if own is None and not settings.teachers:
        own = standing(workspace)
    models = []
    if own is not None and not own.retired:
        detector = detector_of(workspace, own)
        models.append(Model(detector, own.name, kept_as(own.model_digest), frozenset(detector.classes), own))
    wanted = {coarse(name) for name in settings.wanted}
    for spec in settings.teachers:
        model = _teacher(workspace, spec)
        asked = frozenset(name for name in model.asked if not wanted or coarse(name) in wanted)
        if model.key not in {one.key for one in models}:
            models.append(replace(model, asked=asked))
    seconds = settings.frames
    return Proposers(workspace, models, _around(workspace, seconds) if models and seconds else {})


def kept_as(digest: str | None) -> str:
    """Under which what a model proposes is kept, apart from what it was tested with."""
    return f"label {digest}"


def _teacher(workspace: Workspace, spec: str) -> Model:
    kind, _, name = spec.partition(":")
    if kind in DETECTORS:
        detector = load_detector(spec, workspace.root)
        digest = _digest(workspace.root / Path(name).expanduser())
        return Model(detector, f"{kind}:{Path(name).name}", kept_as(digest), frozenset(detector.classes))
    with workspace.catalog.read() as tx:
        version = versions.get(tx, spec)
    detector = detector_of(workspace, version)
    return Model(detector, version.name, kept_as(version.model_digest), frozenset(detector.classes), version)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _usable(found: Sequence[Box], asked: Collection[str]) -> list[Box]:
    """Boxes of the classes asked for that can be kept: not thinner than the grid that they are kept on."""
    return [one for one in found if one.label in asked and min(one.width, one.height) >= THINNEST]


def _around(workspace: Workspace, seconds: float) -> dict[SampleId, Around]:
    """The neighbours of all frames whose time is known: a file's own time is not the camera's."""
    timed = sa.and_(
        sample.c.kind == "image", sample.c.parent_id.is_(None), sample.c.refusal.is_(None),
        sample.c.quality.is_not(None), sample.c.captured_at.is_not(None),
        sample.c.time_from.in_(("exif", "name", "video")),
    )  # fmt: skip
    query = sa.select(sample.c.id, sample.c.camera, sample.c.captured_at).where(timed)
    ordered = query.order_by(sample.c.camera, sample.c.captured_at, sample.c.id)
    with workspace.catalog.read() as tx:
        return together.neighbours(((row.id, row.camera, row.captured_at) for row in tx.execute(ordered)), seconds)

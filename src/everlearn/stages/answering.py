"""Which model is meant, and its answers: by cached features where it is of the workspace's basis, else by its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn import registry
from everlearn.catalog import versions
from everlearn.catalog.tables import now
from everlearn.catalog.versions import Version
from everlearn.errors import BadInput, Missing
from everlearn.types import Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.learn.exact.head import Head
    from everlearn.learn.features import Features
    from everlearn.learn.streaming import StreamAnswers
    from everlearn.model.bundle import OnnxModel
    from everlearn.types import Progress, SampleId
    from everlearn.workspace import Workspace

BATCH = 256


@dataclass(frozen=True, slots=True)
class Named:
    """What MODEL stands for. version: as the catalog has it, or as the file tells it; file: for a model that is not
    one of this workspace's versions, the path it was given by."""

    version: Version
    file: Path | None = None

    @property
    def name(self) -> str:
        return self.version.name if self.file is None else self.file.name


def named(workspace: Workspace, model: str | None) -> Named:
    """An alias, a version or a path; the champion where left out, else the newest. The very bytes of a version's file
    are that version. Raises Missing, BadInput for a retired version or a file that is no bundle."""
    if model is not None and model.endswith(".onnx"):
        return _at(workspace, Path(model).expanduser())
    with workspace.catalog.read() as tx:
        found = versions.get(tx, model)
    if found.retired:
        raise BadInput(f"{found.name} is retired: it knew samples that were forgotten.", "Choose a newer one.")
    return Named(found)


def learned_here(workspace: Workspace, found: Named) -> bool:
    """Whether it was taught from a snapshot of this workspace."""
    from everlearn.catalog import snapshots
    from everlearn.model.serving import serving_of

    if found.file is None:
        return True
    made_of = serving_of(found.file).card.get("snapshot")
    with workspace.catalog.read() as tx:
        return made_of in {one.digest for one in snapshots.every(tx)}


def registered(workspace: Workspace, model: str | None) -> Version:
    """Like `named`, for what only a version can do: be deployed, be recorded."""
    found = named(workspace, model)
    if found.file is not None:
        raise BadInput(f"{found.file} is not a version of this workspace.", "See: everlearn models")
    return found.version


def _at(workspace: Workspace, path: Path) -> Named:
    from everlearn.model.serving import serving_of

    model = serving_of(path)
    card = model.card
    with workspace.catalog.read() as tx:
        known = {one.name: one for one in versions.every(tx) if not one.retired}.get(str(card.get("name")))
    if known is not None:
        try:
            if registry.bundle_file(workspace, known, ".onnx") == path.read_bytes():
                return Named(known)
        except Missing:
            pass
    told = Version(
        name=str(card.get("name", path.stem)), number=0, parent=None, snapshot=None,
        learner=str(card.get("learner", "unknown")), backbone=model.metadata.get("backbone", "unknown"),
        licence=model.licence, config={}, code_version=str(card.get("code_version", "unknown")),
        memory_digest=card.get("memory_digest"), model_digest=card.get("model_digest"), metrics=None, key=str(path),
        created_at=now(), retired=False, tags=[],
    )  # fmt: skip
    return Named(told, path)


class Answerer:
    """Answers of one model for samples of the workspace. classes: what it can answer, () for `regress`; in an open set
    the last of them is `unknown`."""

    def __init__(
        self,
        workspace: Workspace,
        head: Head | StreamAnswers | None,
        features: Features | None,
        model: OnnxModel | None,
    ) -> None:
        self.workspace, self.head, self.features, self.model = workspace, head, features, model
        self.classes: tuple[str, ...] = head.answers if head is not None else model.classes if model else ()
        self.open_set = bool(getattr(head, "unknown", None)) if head is not None else bool(model and model.open_set)

    @property
    def known(self) -> tuple[str, ...]:
        """The classes it knows."""
        return self.classes[:-1] if self.open_set else self.classes

    def table(self, ids: Sequence[SampleId], progress: Progress) -> NDArray[np.floating]:
        """(N, C) probabilities, or (N, 1) values for `regress`."""
        parts = list(self._parts(ids, progress))
        return np.concatenate(parts) if parts else np.zeros((0, max(1, len(self.classes))), np.float32)

    def predictions(self, ids: Sequence[SampleId], progress: Progress) -> list[Prediction]:
        from everlearn.model.bundle import prediction

        return [prediction(row, self.classes) for row in self.table(ids, progress)]

    def _parts(self, ids: Sequence[SampleId], progress: Progress) -> Any:
        if self.features is not None and self.head is not None:
            for _, phi in self.features.batches(ids, progress):
                yield self.head.table(phi)
            return
        from everlearn.learn.features import images

        model = self.model
        assert model is not None
        with progress.task("answers", len(ids)) as task:
            for start in range(0, len(ids), BATCH):
                part = ids[start : start + BATCH]
                yield model.table(images(self.workspace, part, lambda one: model.prepare([one])[0]))
                task.advance(len(part))


def answerer(workspace: Workspace, model: Named | Version) -> Answerer:
    """What answers for this model. Raises BadInput for a file that answers another kind of question."""
    from everlearn.learn.features import Features
    from everlearn.model.bundle import OnnxModel
    from everlearn.stages import standing

    if isinstance(model, Named) and model.file is not None:
        found = Answerer(workspace, None, None, OnnxModel(model.file))
        _check_kind(workspace, model.file, found)
        return found
    version = model.version if isinstance(model, Named) else model
    basis = standing.basis(workspace)
    if registry.card(workspace, version).get("basis_digest") != basis.digest:
        return Answerer(workspace, None, None, serving(workspace, version))
    return Answerer(workspace, head_of(workspace, version), Features(workspace, basis), None)


def head_of(workspace: Workspace, version: Version) -> Head | StreamAnswers:
    """What answers from phi. Raises Missing, Corrupt, also for a learner without this workspace's seal."""
    from everlearn.learn.exact.head import Head
    from everlearn.learn.streaming import StreamAnswers
    from everlearn.stages.learners import HEAD, INSIDE, LEARNED

    if registry.card(workspace, version).get("answers") == INSIDE:
        data = registry.bundle_file(workspace, version, LEARNED)
        return StreamAnswers.unpacked(workspace, data, f"the learner of {version.name}")
    with workspace.scratch() as folder:
        path = folder / "head.npz"
        path.write_bytes(registry.bundle_file(workspace, version, HEAD))
        return Head.load(path)


def serving(workspace: Workspace, version: Version) -> OnnxModel:
    """What answers from images: a version's file, with its learner where the file gives features alone."""
    from everlearn.model.bundle import OnnxModel
    from everlearn.model.inside import InsideModel
    from everlearn.stages.learners import INSIDE

    data = registry.bundle_file(workspace, version, ".onnx")
    if registry.card(workspace, version).get("answers") != INSIDE:
        return OnnxModel(data)
    return InsideModel(data, head_of(workspace, version))


def _check_kind(workspace: Workspace, path: Path, found: Answerer) -> None:
    task = "classify" if found.classes else "regress"
    if (task == "regress") != (workspace.config.task == "regress"):
        raise BadInput(f"{path} is a model for {task}; this workspace is for {workspace.config.task}.", "Give another.")
    takes_rows = found.model is not None and not found.model.size
    if takes_rows != (workspace.config.backbone == "features"):
        kind = "rows of features" if takes_rows else "images"
        raise BadInput(f"{path} takes {kind}, which this workspace has not.", "Give another model.")

"""What can learn a snapshot: the exact memory, an ensemble of exact memories, a River estimator, a network trained in
stages. Each keeps what it learned, and hands over what answers for it, ready to be registered."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from everlearn.errors import Corrupt, TooFew
from everlearn.learn import crops
from everlearn.learn.exact.fit import AUTO_LABEL, Fitted
from everlearn.learn.live import FILE, Moved
from everlearn.stages.standing import basis, fitted, live

if TYPE_CHECKING:
    from everlearn.learn.exact.head import Head
    from everlearn.learn.streaming import StreamAnswers, StreamLearner
    from everlearn.model.basis import Basis
    from everlearn.types import Member, Progress, Snapshot
    from everlearn.workspace import Workspace

EXACT, ENSEMBLE, RIVER, STAGED, YOLO, ONNX = "exact", "ensemble", "river", "staged", "yolo", "onnx"
INSIDE = "inside its workspace only"
"""What the card of a model says that cannot be one graph."""
HEAD, LEARNED = "/head.npz", "/learner.river"
"""What answers from phi, in a version's folder: a head, or a sealed learner."""


def is_exact(workspace: Workspace) -> bool:
    """Whether exact memories are what learns."""
    return kind(workspace) in (EXACT, ENSEMBLE)


def knows(workspace: Workspace) -> bool:
    """Whether any learner has kept what it learned."""
    return any(path(workspace).exists() for path in STATES.values())


def drop_memory(workspace: Workspace, but: str | None = None) -> None:
    """Remove what learners have kept, where nothing remains to be remembered, or another learner took over."""
    kept = STATES[but](workspace) if but else None
    for path in STATES.values():
        if path(workspace) != kept:
            _remove(path(workspace))


def _remove(path: Path) -> None:
    """A file, or a folder of them."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


Files = dict[str, "bytes | Path"]
"""Ending (`.onnx`, `/head.npz`) to content."""


class Answers(Protocol):
    """What answers after a learner has learned, and how it becomes a version's bundle.

    classes: what it knows; answers: what it can answer, `unknown` among it where it may. backbone, licence: in words.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def answers(self) -> tuple[str, ...]: ...
    @property
    def backbone(self) -> str: ...
    @property
    def licence(self) -> str: ...
    def about(self) -> dict[str, Any]:
        """Its own lines in the card."""
        ...

    def write(self, folder: Path, card: dict[str, Any]) -> tuple[Files, dict[str, Any]]:
        """The files, the ONNX file checked against the Python result; and the card as it came out."""
        ...


@dataclass(frozen=True, eq=False)
class Taught:
    """What a learner has come to at a snapshot, kept by it and ready to be registered.

    held: samples that it knows. auto_label: the promise of automatic labels; details: for the report; card: its own
    lines there.
    """

    moved: Moved
    held: int
    answers: Answers | None
    memory_digest: str | None = None
    model_digest: str | None = None
    auto_label: dict[str, float] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class OnBasis:
    """Answers from phi: a head, one matrix that becomes one graph; or, where there is none, what answers in this
    workspace alone."""

    workspace: Workspace
    basis: Basis
    head: Head | None
    inside: StreamAnswers | None = None

    @property
    def _either(self) -> Head | StreamAnswers:
        found = self.head or self.inside
        assert found is not None
        return found

    @property
    def classes(self) -> tuple[str, ...]:
        return self._either.classes

    @property
    def answers(self) -> tuple[str, ...]:
        return self._either.answers

    @property
    def backbone(self) -> str:
        return self.basis.spec

    @property
    def licence(self) -> str:
        return self.basis.licence

    def about(self) -> dict[str, Any]:
        head = self.head
        return {
            "head": head and head.kind,
            "answers": "as one graph, anywhere",
            "temperature": head and head.temperature,
            "calibrated": head is not None and head.calibrated,
            "basis_digest": self.basis.digest,
            "dimensions": self.basis.dimensions,
        }

    def write(self, folder: Path, card: dict[str, Any]) -> tuple[Files, dict[str, Any]]:
        from everlearn.model.bundle import export_head
        from everlearn.model.inside import export_features

        model, head = folder / "model.onnx", folder / "head.npz"
        try:
            if self.head is not None:
                export_head(self.basis, self.head, model, card=card)
                self.head.save(head)
                return {".onnx": model, HEAD: head}, card
        except Corrupt:  # weights without bounds, as gradients may give, are no graph of single precision
            if self.inside is None:
                raise
        assert self.inside is not None
        card = {**card, "head": None, "answers": INSIDE}
        export_features(self.basis, self.inside, model, card=card)
        return {".onnx": model, LEARNED: self.inside.packed(self.workspace)}, card


def _exact(workspace: Workspace, snapshot: Snapshot, members: Sequence[Member], progress: Progress) -> Taught:
    memory = live(workspace)
    moved = memory.bring_to(members, progress)
    _refuse_none(memory.held, snapshot)
    found = fitted(workspace, memory, progress)
    memory.save(snapshot)
    unknown = _unknown(workspace, found, progress)
    accuracy, threshold = found.accuracies.get(found.head.kind), found.thresholds.get(AUTO_LABEL)
    promise = None if threshold is None else vars_of(threshold)
    answers = OnBasis(workspace, basis(workspace), found.head)
    return Taught(
        moved, len(memory.held), answers, memory.memory.digest(), found.digest, promise,
        {"head": found.head.kind, "alpha": found.alpha, "accuracy_out_of_fold": accuracy, **_but_curve(unknown)},
        {
            "alpha": found.alpha,
            "out_of_fold_accuracy": accuracy,
            "automatic_labels": promise,
            **unknown,
            "knows": "The exact memory holds sums of its training samples; they can be taken out again exactly "
            "(forget).",
        },
    )  # fmt: skip


def _unknown(workspace: Workspace, found: Fitted, progress: Progress) -> dict[str, Any]:
    """What became of the false-accept rate asked for, as the card tells it; {} where none was asked for."""
    asked = workspace.config.learn.unknown
    if asked is None:
        return {}
    told = None if found.unknown is None else found.unknown.to_json()
    if found.head.unknown is None:
        progress.say("Nothing is answered unknown yet: there is nobody to tell strangers from. Teach a second class, "
                     "or collect strangers with --label unknown.")  # fmt: skip
    elif told is not None and not told["kept"]:
        progress.say(f"learn.unknown {asked:g} can be promised from {told['impostors_needed']} impostors on; of "
                     f"{told['impostors']} it is {told['false_accept']['upper']:.3g}.")  # fmt: skip
    return {"unknown": told}


def _but_curve(unknown: Mapping[str, Any]) -> dict[str, Any]:
    return {name: told and {key: value for key, value in told.items() if key != "curve"}
            for name, told in unknown.items()}  # fmt: skip


def streaming(workspace: Workspace) -> StreamLearner:
    """The River learner that the configuration names, as it was kept. Raises BadConfig, NotInstalled."""
    from everlearn.learn.streaming import StreamLearner

    return StreamLearner(workspace, basis(workspace), STATES[RIVER](workspace))


def _river(workspace: Workspace, snapshot: Snapshot, members: Sequence[Member], progress: Progress) -> Taught:
    learner = streaming(workspace)
    moved = learner.bring_to(members, progress)
    _refuse_none(learner.held, snapshot)
    learner.save()
    head = learner.answers.head(learner.basis.dimensions)
    before = learner.right / learner.asked if learner.asked else None
    answers = OnBasis(workspace, basis(workspace), head, learner.answers)
    return Taught(
        moved, len(learner.held), answers, None, learner.digest(), None,
        {"head": head and head.kind, "accuracy_before_learning": before, "one_pass_in_order": learner.in_order},
        {
            "accuracy_before_learning": before,
            "automatic_labels": None,
            "knows": "Every training sample, and the order they came in, shaped this River model; none can be taken "
            "out. To forget, it is trained again from what remains (forget).",
        },
    )  # fmt: skip


def _refuse_none(held: Mapping[str, Any], snapshot: Snapshot) -> None:
    if not held:
        raise TooFew(
            f"All {snapshot.samples} labelled samples fell on the test side.", "Collect more, or lower dataset.test."
        )


def _ensemble(workspace: Workspace, snapshot: Snapshot, members: Sequence[Member], progress: Progress) -> Taught:
    """The workspace's own memory is kept and grows as ever; the others are learned beside it from their features."""
    from everlearn.stages import ensembles

    memory = live(workspace)
    moved = memory.bring_to(members, progress)
    _refuse_none(memory.held, snapshot)
    specs = [spec.strip() for spec in workspace.config.learn.learner.partition(":")[2].split(" + ")]
    made = ensembles.combined(workspace, [workspace.config.backbone, *specs], [], "auto", members, progress)
    memory.save(snapshot)
    return replace(ensembles.taught(made), moved=moved, memory_digest=memory.memory.digest())


def _staged(workspace: Workspace, snapshot: Snapshot, members: Sequence[Member], progress: Progress) -> Taught:
    """A network, trained in stages; members: it takes its own of the snapshot."""
    from everlearn.stages.networks import StagedLearner

    return StagedLearner.open(workspace).bring_to(snapshot, progress)


def _yolo(workspace: Workspace, snapshot: Snapshot, members: Sequence[Member], progress: Progress) -> Taught:
    """A detector that is trained."""
    from everlearn.stages.detecting.taught import learn_yolo

    return learn_yolo(workspace, snapshot, members, progress)


def _onnx(workspace: Workspace, snapshot: Snapshot, members: Sequence[Member], progress: Progress) -> Taught:
    """A detector as it is."""
    from everlearn.stages.detecting.taught import learn_onnx

    return learn_onnx(workspace, snapshot, members, progress)


LEARNERS: dict[str, Callable[[Workspace, Snapshot, Sequence[Member], Progress], Taught]] = {
    EXACT: _exact,
    ENSEMBLE: _ensemble,
    RIVER: _river,
    STAGED: _staged,
    YOLO: _yolo,
    ONNX: _onnx,
}
"""What `learn.learner` names, up to its colon: brought to the members of a snapshot, and kept so."""

STATES: dict[str, Callable[[Workspace], Path]] = {
    EXACT: lambda workspace: workspace.root / FILE,
    ENSEMBLE: lambda workspace: workspace.root / FILE,
    RIVER: lambda workspace: workspace.private("river.state"),
    STAGED: lambda workspace: workspace.private("staged.json"),
    YOLO: lambda workspace: workspace.root / crops.FOLDER,
    ONNX: lambda workspace: workspace.root / crops.FOLDER,
}
"""Where each keeps what it learned."""


def kind(workspace: Workspace) -> str:
    return workspace.config.learn.learner.partition(":")[0]


def vars_of(threshold: Any) -> dict[str, float]:
    """A threshold's promise, as the card tells it."""
    names = ("threshold", "coverage", "precision", "bound", "samples")
    return {name: getattr(threshold, name) for name in names}

"""Several models as one version: exact memories over several backbones, and models that were exported before.

The members are learned on the newest snapshot, each from its own cached features, so that no member knows more than the
others and what is forgotten leaves them all: the ensemble is a version of that snapshot like any other.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn import registry
from everlearn.catalog import samples, snapshots
from everlearn.dataset.build import build
from everlearn.errors import BadInput, TooFew
from everlearn.evaluate import compare as comparing
from everlearn.learn import ensemble as combining
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.fit import Fitted, fit
from everlearn.learn.exact.memory import ExactMemory
from everlearn.learn.features import Features
from everlearn.learn.live import Moved, learnable
from everlearn.model.ensemble import Member, Memory, Network, export_ensemble, names
from everlearn.naming import is_class
from everlearn.stages import answering, teach
from everlearn.stages.learners import ENSEMBLE, EXACT, Files, Taught
from everlearn.stages.standing import basis_of, fitted, live

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.catalog.versions import Version
    from everlearn.evaluate.compare import Comparison
    from everlearn.learn.live import Held
    from everlearn.types import Member as SnapshotMember
    from everlearn.types import Progress, SampleId
    from everlearn.workspace import Workspace


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Members, how they are combined, and what that was worth on samples nobody had learned. An `Answers`.

    worth: of each member, its name and accuracy; methods: to accuracy, and how it compares with the best member.
    """

    members: Sequence[Member]
    combined: combining.Ensemble
    classes: tuple[str, ...]
    digest: str
    worth: list[tuple[str, float]]
    methods: dict[str, tuple[float, Comparison]]

    @property
    def answers(self) -> tuple[str, ...]:
        return self.classes

    @property
    def method(self) -> str:
        return self.combined.method

    @property
    def samples(self) -> int:
        """That all members could be asked about without having learned them."""
        return len(self.combined.rows)

    @property
    def helps(self) -> bool:
        """Whether it is shown to be better than its best member."""
        return self.methods[self.method][1].verdict == "better"

    @property
    def backbone(self) -> str:
        return names(self.members)

    @property
    def licence(self) -> str:
        return "; ".join(dict.fromkeys(one.licence for one in self.members))

    def about(self) -> dict[str, Any]:
        return {
            "answers": "as one graph, anywhere", "method": self.method, "temperature": self.combined.temperature,
            "members": [{"name": name, "accuracy": accuracy} for name, accuracy in self.worth],
        }  # fmt: skip

    def write(self, folder: Path, card: dict[str, Any]) -> tuple[Files, dict[str, Any]]:
        model = folder / "model.onnx"
        export_ensemble(self.members, self.combined, self.classes, model, card=card)
        return {".onnx": model}, card

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method, "helps": self.helps, "n": self.samples,
            "members": [{"name": name, "accuracy": accuracy} for name, accuracy in self.worth],
            "methods": {
                name: {"accuracy": accuracy, "difference": found.difference, "interval": list(found.interval),
                       "p_value": found.p_value, "verdict": found.verdict}
                for name, (accuracy, found) in self.methods.items()
            },
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Asked:
    """A member, and its honest probabilities for all samples of the snapshot, NaN where there are none. found: of a
    memory."""

    member: Member
    table: NDArray[np.floating]
    digest: str
    found: Fitted | None = None
    memory: ExactMemory | None = None
    cached: Cached | None = None


def ensemble(
    workspace: Workspace, backbones: Sequence[str], models: Sequence[str], method: str, progress: Progress
) -> tuple[Version, Ensemble]:
    """Make a version of the exact memories over these backbones, the workspace's own first, and of these models.

    models: aliases, versions or exported files; an exact memory among them stands for its backbone. A network is judged
    on the validation side only, which it has not learned. Raises BadInput for fewer than two members or another task
    than `classify`, TooFew where nothing can be judged.
    """
    began = time.monotonic()
    snapshot = build(workspace)
    with workspace.catalog.read() as tx:
        members = list(snapshots.members(tx, snapshot.number))
    specs, others = _sorted_out(workspace, models)
    made = combined(workspace, [*specs, *backbones], others, method, members, progress)
    came_of_it = taught(made)
    report = teach.reported(ENSEMBLE, came_of_it, began, snapshot)
    return teach.register(workspace, came_of_it, snapshot, report, "combined"), made


def taught(made: Ensemble) -> Taught:
    accuracy = made.methods[made.method][0]
    return Taught(
        Moved(0, 0), made.samples, made, None, made.digest, None,
        {"head": made.method, "accuracy_out_of_fold": accuracy},
        {
            "out_of_fold_accuracy": accuracy,
            "automatic_labels": None,
            "knows": "Its exact memories hold sums of one snapshot's samples; what is forgotten leaves them all "
            "(forget), and a new ensemble takes its place.",
        },
    )  # fmt: skip


def combined(
    workspace: Workspace, specs: Sequence[str], networks: Sequence[answering.Named], method: str,
    members: Sequence[SnapshotMember], progress: Progress,
) -> Ensemble:  # fmt: skip
    """Learn each backbone's memory on these members of a snapshot, and combine them and the networks."""
    if workspace.config.task != "classify":
        raise BadInput(f"An ensemble classifies; this workspace is for {workspace.config.task}.", "Use one memory.")
    if workspace.config.learn.unknown is not None:
        progress.say("An ensemble answers with a class always: learn.unknown is for a single memory.")
    specs = list(dict.fromkeys([workspace.config.backbone, *specs]))
    if len(specs) + len(networks) < 2:
        raise BadInput("An ensemble has two members or more.", "Name another backbone or model.")
    open_set = workspace.config.learn.unknown is not None  # its members answer classes, and learn no negatives
    held = {id: value for id, value in learnable(members).items() if is_class(value[0], open_set)}
    ids = sorted(held)
    if not ids:
        raise TooFew("Nothing is labelled on the learning side.", "Collect and label samples first.")
    asked = [_memory(workspace, spec, held, ids, progress) for spec in specs]
    first = asked[0]
    assert first.found is not None and first.memory is not None and first.cached is not None
    classes = first.found.head.classes
    validation = {one.id for one in members if one.split == "validation"}
    asked += [_network(workspace, one, classes, ids, validation, progress) for one in networks]
    copies = np.array([one.parent is not None for one in sorted(members, key=lambda one: one.id) if one.id in held])
    first.table[copies] = np.nan  # augmented copies are learned, and are no evidence
    found = combining.fit(first.memory, first.cached, classes, [one.table for one in asked], first.found.alpha, method)

    best, alpha = max(found.members, key=lambda right: int(right.sum())), comparing.ALPHA / len(found.methods)
    with workspace.catalog.read() as tx:
        known = samples.some(tx, ids)
    groups = [known[ids[row]].group_key for row in found.rows]
    methods = {
        name: (float(right.mean()), comparing.compare(best, right, alpha=alpha, groups=groups))
        for name, right in found.methods.items()
    }
    worth = [(names([one.member]), float(right.mean())) for one, right in zip(asked, found.members, strict=True)]
    about = ["everlearn ensemble 1", *(one.digest for one in asked), found.method, f"{found.temperature:.6g}"]
    digest = hashlib.sha256("\n".join(about).encode()).hexdigest()
    return Ensemble([one.member for one in asked], found, classes, digest, worth, methods)


def _sorted_out(workspace: Workspace, models: Sequence[str]) -> tuple[list[str], list[answering.Named]]:
    """Backbones to learn on, and models to take as they are."""
    specs, others = [], []
    for name in models:
        found = answering.named(workspace, name)
        kind = found.version.learner.partition(":")[0]
        if found.file is None and kind == EXACT:
            specs.append(found.version.backbone)
        elif kind == ENSEMBLE:
            raise BadInput(f"{found.name} is an ensemble itself.", "Name its members.")
        else:
            others.append(found)
    return specs, others


def _memory(workspace: Workspace, spec: str, held: Held, ids: Sequence[SampleId], progress: Progress) -> _Asked:
    """An exact memory of the snapshot on this backbone: the workspace's own, where it stands at this snapshot; of
    others nothing is stored but their cached features."""
    basis, own = basis_of(workspace, spec), live(workspace)
    if own.basis is basis and own.held == held and workspace.config.learn.unknown is None:
        memory, found = own.memory, fitted(workspace, own, progress)
    else:
        phi = Features(workspace, basis).all(ids, progress)
        labels, folds = [held[id][0] for id in ids], np.array([held[id][1] for id in ids], np.int64)
        memory = ExactMemory(basis.digest, basis.dimensions, workspace.config.learn.folds)
        memory.add(phi, labels, folds)
        found = fit(memory, Cached(ids, phi, labels, folds), precision=workspace.config.label.precision)
    if found.held_out is None:
        raise TooFew(
            f"{len(ids)} samples of {len(found.head.classes)} classes are too few to judge an ensemble.",
            "Collect more.",
        )
    out = found.held_out
    return _Asked(Memory(basis, found.head), out.probabilities(), found.digest, found, memory, out.cached)


def _network(
    workspace: Workspace, named: answering.Named, classes: tuple[str, ...], ids: Sequence[SampleId],
    validation: set[SampleId], progress: Progress,
) -> _Asked:  # fmt: skip
    from everlearn.model.bundle import OnnxModel

    data = named.file.read_bytes() if named.file else registry.bundle_file(workspace, named.version, ".onnx")
    member = Network(OnnxModel(data), classes)
    if not member.model.size or not set(member.model.classes) & set(classes):
        raise BadInput(f"{named.name} knows none of this workspace's classes.", "Name another model.")
    table = np.full((len(ids), len(classes)), np.nan, np.float32)
    rows = [row for row, id in enumerate(ids) if id in validation]
    if rows:
        answers = answering.Answerer(workspace, None, None, member.model)
        table[rows] = answers.table([ids[row] for row in rows], progress) @ member.places()
    return _Asked(member, table, hashlib.sha256(data).hexdigest())

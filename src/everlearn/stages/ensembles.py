"""Several models as one version: exact memories over several backbones, networks in training, and models that were
exported before.

The memories are learned on the newest snapshot, each from its own cached features, so that none knows more than the
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
from everlearn.errors import BadInput, Missing, TooFew
from everlearn.evaluate import compare as comparing
from everlearn.learn import ensemble as combining
from everlearn.learn.exact.cached import Cached
from everlearn.learn.live import Moved, learnable
from everlearn.model.ensemble import Member, Memory, export_ensemble, names
from everlearn.naming import is_class
from everlearn.stages import answering, ground, saved, teach
from everlearn.stages.learners import ENSEMBLE, EXACT, RIVER, Files, Taught
from everlearn.stages.members import Asked, Grown, known_by, of_memory, of_model, of_stage

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.evaluate.compare import Comparison
    from everlearn.types import Member as SnapshotMember
    from everlearn.types import Progress, SampleId
    from everlearn.workspace import Workspace

HELD_OUT, TEST = "samples nobody had learned", "the test side"


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Members, how they are combined, and what that was worth on samples nobody had learned. An `Answers`.

    worth: of each member, its name and accuracy; methods: to accuracy, and how it compares with the best member.
    judged_on: which samples those are.
    """

    members: Sequence[Member]
    combined: combining.Ensemble
    classes: tuple[str, ...]
    digest: str
    worth: list[tuple[str, float]]
    methods: dict[str, tuple[float, Comparison]]
    judged_on: str = HELD_OUT

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
            "memories": sum(isinstance(one, Memory) for one in self.members),
            "members": [{"name": name, "accuracy": accuracy} for name, accuracy in self.worth],
        }  # fmt: skip

    def write(self, folder: Path, card: dict[str, Any]) -> tuple[Files, dict[str, Any]]:
        model = folder / "model.onnx"
        export_ensemble(self.members, self.combined, self.classes, model, card=card)
        return {".onnx": model}, card

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method, "helps": self.helps, "n": self.samples, "judged_on": self.judged_on,
            "members": [{"name": name, "accuracy": accuracy} for name, accuracy in self.worth],
            "methods": {
                name: {"accuracy": accuracy, "difference": found.difference, "interval": list(found.interval),
                       "p_value": found.p_value, "verdict": found.verdict}
                for name, (accuracy, found) in self.methods.items()
            },
        }  # fmt: skip


def ensemble(
    workspace: Workspace, backbones: Sequence[str], models: Sequence[str], method: str, progress: Progress, *,
    memory: bool | None = None, grown: Grown | None = None,
) -> tuple[Version, Ensemble]:  # fmt: skip
    """Make a version of the exact memories over these backbones, the workspace's own first, and of these models.

    models: aliases, versions, exported files or saved stages of networks; an exact memory among them stands for its
    backbone. A network is judged on the validation side only, which it has not learned; those of a cross-validation on
    the test side. memory: whether the workspace's own is a member; None: it is, where no saved stage is named or grown.
    grown: networks that are trained for this. Raises BadInput for fewer than two members or another task than
    `classify`, TooFew where nothing can be judged.
    """
    began = time.monotonic()
    _check(workspace)
    specs, others, stages = _sorted_out(workspace, models)
    own = memory if memory is not None else not (stages or grown)
    specs = list(dict.fromkeys([*([workspace.config.backbone] if own else []), *specs, *backbones]))
    if grown is None:
        _check_two(specs, others, stages)
    snapshot = build(workspace)
    config = {
        "names": [*(one.name for one in others), *(saved.full_name(workspace, one) for one in stages)],
        # by which forgetting finds what knew a sample
        "backbones": list(backbones),
        "combine": method,
        "memory": own,
        **(grown.config() if grown else {}),
    }
    with ground.experiment(workspace, "ensemble", config, snapshot, progress) as run:
        more, boosts = grown.train(workspace, run, progress) if grown else ([], None)
        with workspace.catalog.read() as tx:
            members = list(snapshots.members(tx, snapshot.number))
        if boosts is not None and (specs or others or stages):
            boosts = None  # its votes are weighted among boosted networks alone
        made = combined(
            workspace, specs, others, method, members, progress, stages=[*stages, *more], boosts=boosts
        )  # fmt: skip
        came_of_it = taught(made)
        report = teach.reported(ENSEMBLE, came_of_it, began, snapshot)
        version = teach.register(workspace, came_of_it, snapshot, report, "combined")
        run.note(made.to_json(), snapshot=snapshot.number, version=version.name)
    return version, made


def taught(made: Ensemble) -> Taught:
    accuracy = made.methods[made.method][0]
    judged = "accuracy_out_of_fold" if made.judged_on == HELD_OUT else "accuracy_test"
    return Taught(
        Moved(0, 0), made.samples, made, None, made.digest, None,
        {"head": made.method, judged: accuracy},
        {
            "out_of_fold_accuracy": accuracy if made.judged_on == HELD_OUT else None,
            "automatic_labels": None,
            "knows": "Its exact memories hold sums of one snapshot's samples, and its networks were shaped by them; "
            "what is forgotten takes this version with it (forget), and a new ensemble takes its place.",
        },
    )  # fmt: skip


def combined(
    workspace: Workspace, specs: Sequence[str], networks: Sequence[answering.Named], method: str,
    members: Sequence[SnapshotMember], progress: Progress, *, stages: Sequence[str] = (),
    boosts: Sequence[float] | None = None,
) -> Ensemble:  # fmt: skip
    """Learn each backbone's memory on these members of a snapshot, and combine them, the networks and the saved stages.
    boosts: weights of the stages' votes."""
    _check(workspace)
    if workspace.config.learn.unknown is not None:
        progress.say("An ensemble answers with a class always: learn.unknown is for a single memory.")
    specs = list(dict.fromkeys(specs))
    _check_two(specs, networks, stages)
    open_set = workspace.config.learn.unknown is not None  # its members answer classes, and learn no negatives
    held = {id: value for id, value in learnable(members).items() if is_class(value[0], open_set)}
    ids = sorted(held)
    if not ids:
        raise TooFew("Nothing is labelled on the learning side.", "Collect and label samples first.")
    asked = [of_memory(workspace, spec, held, ids, progress) for spec in specs]
    first = asked[0] if asked else None
    classes = _classes(workspace, first, networks, stages)
    held = {id: value for id, value in held.items() if value[0] in classes}  # others came after these networks
    ids = sorted(held)
    validation = {one.id for one in members if one.split == "validation"}
    asked += [of_model(workspace, one, classes, ids, validation, progress) for one in networks]
    asked += [of_stage(workspace, one, classes, ids, validation, progress) for one in stages]
    copies = np.array([one.parent is not None for one in sorted(members, key=lambda one: one.id) if one.id in held])
    asked[0].table[copies] = np.nan  # augmented copies are learned, and are no evidence
    if any(one.own is not None for one in asked):
        return _of_folds(workspace, asked, classes, method, members, progress)
    cached = first.cached if first is not None else None
    if cached is None:
        phi = np.zeros((len(ids), 0), np.int8)
        cached = Cached(ids, phi, [held[id][0] for id in ids], np.array([held[id][1] for id in ids], np.int64))
    alpha = first.found.alpha if first is not None and first.found is not None else 0.0
    found = combining.fit(
        first.memory if first else None, cached, classes, [one.table for one in asked], alpha, method, boosts=boosts
    )
    groups = _groups(workspace, [ids[row] for row in found.rows])
    best, spend = max(found.members, key=lambda right: int(right.sum())), comparing.ALPHA / len(found.methods)
    methods = {
        name: (float(right.mean()), comparing.compare(best, right, alpha=spend, groups=groups))
        for name, right in found.methods.items()
    }
    return _made(asked, found, classes, methods, HELD_OUT)


def _of_folds(
    workspace: Workspace, asked: Sequence[Asked], classes: tuple[str, ...], method: str,
    members: Sequence[SnapshotMember], progress: Progress,
) -> Ensemble:  # fmt: skip
    """Networks of a cross-validation: each has learned what the others were judged on, so that nothing can be fitted,
    and they are judged on the test side, by one way to combine that is chosen beforehand. The best member is the one
    that did best on its own fold."""
    chosen = "average" if method == "auto" else method
    if chosen not in ("average", "vote", "majority"):
        raise BadInput(
            f"{chosen} is fitted on samples that no member learned; networks of folds have learned them all.",
            "Choose --combine average, vote or majority.",
        )
    test = [one for one in members if one.split == "test" and one.parent is None and one.label in classes]
    if not test:
        raise TooFew("There is no test side to judge networks of folds on.", "Raise dataset.test, or collect more.")
    ids = [one.id for one in test]
    wanted = np.array([classes.index(one.label) for one in test])
    tables = [one.answer(ids) for one in asked]
    right = tuple(table.argmax(axis=1) == wanted for table in tables)
    answered = combining.combine(chosen, tables).argmax(axis=1) == wanted
    scores = [one.own if one.own is not None else float(hit.mean()) for one, hit in zip(asked, right, strict=True)]
    best = right[int(np.argmax(scores))]
    compared = comparing.compare(best, answered, groups=_groups(workspace, ids))
    found = combining.Ensemble(chosen, 1.0, None, right, {chosen: answered}, np.arange(len(ids)))
    return _made(asked, found, classes, {chosen: (float(answered.mean()), compared)}, TEST)


def _made(
    asked: Sequence[Asked], found: combining.Ensemble, classes: tuple[str, ...],
    methods: dict[str, tuple[float, Comparison]], judged_on: str,
) -> Ensemble:  # fmt: skip
    worth = [(names([one.member]), float(right.mean())) for one, right in zip(asked, found.members, strict=True)]
    about = ["everlearn ensemble 1", *(one.digest for one in asked), found.method, f"{found.temperature:.6g}"]
    digest = hashlib.sha256("\n".join(about).encode()).hexdigest()
    return Ensemble([one.member for one in asked], found, classes, digest, worth, methods, judged_on)


def _check(workspace: Workspace) -> None:
    if workspace.config.task != "classify":
        raise BadInput(f"An ensemble classifies; this workspace is for {workspace.config.task}.", "Use one memory.")


def _check_two(*members: Sequence[object]) -> None:
    if sum(map(len, members)) < 2:
        raise BadInput("An ensemble has two members or more.", "Name another backbone or model.")


def _classes(
    workspace: Workspace, first: Asked | None, networks: Sequence[answering.Named], stages: Sequence[str]
) -> tuple[str, ...]:
    """Those of the first memory; without one, all that any member knows."""
    from everlearn.model.bundle import OnnxModel

    if first is not None and first.found is not None:
        return first.found.head.classes
    known = {name for stage in stages for name in known_by(workspace, stage)}
    for one in networks:
        data = one.file.read_bytes() if one.file else registry.bundle_file(workspace, one.version, ".onnx")
        known |= set(OnnxModel(data).classes)
    return tuple(sorted(known))


def _groups(workspace: Workspace, ids: Sequence[SampleId]) -> list[str]:
    with workspace.catalog.read() as tx:
        known = samples.some(tx, ids)
    return [known[id].group_key for id in ids]


def _sorted_out(workspace: Workspace, models: Sequence[str]) -> tuple[list[str], list[answering.Named], list[str]]:
    """Backbones to learn on, models to take as they are, and saved stages."""
    specs, others, stages = [], [], []
    for name in models:
        try:
            found = answering.named(workspace, name)
        except Missing:
            if not _is_stage(workspace, name):
                raise
            stages.append(name)
            continue
        kind = found.version.learner.partition(":")[0]
        if found.file is None and kind == EXACT:
            specs.append(found.version.backbone)
        elif kind == ENSEMBLE:
            raise BadInput(f"{found.name} is an ensemble itself.", "Name its members.")
        elif kind in (EXACT, RIVER) and answering.learned_here(workspace, found):
            remedy = "Networks alone are judged there: name one, a backbone, or a version of the exact memory."
            raise BadInput(f"{found.name} ({kind}) has learned the validation side, so it cannot be judged.", remedy)
        else:
            others.append(found)
    return specs, others, stages


def _is_stage(workspace: Workspace, name: str) -> bool:

    try:
        saved.stage_file(workspace, name)
    except Missing:
        return False
    return True

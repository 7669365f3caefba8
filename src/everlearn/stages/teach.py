"""Learning: the snapshot, the live memory brought to it, the head solved from it, and the version that comes of it."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn import faults, registry
from everlearn.catalog import samples, snapshots, versions
from everlearn.catalog.tables import now
from everlearn.dataset.build import build, current
from everlearn.errors import Corrupt, TooFew
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.fit import AUTO_LABEL, Fitted, fit
from everlearn.learn.live import FILE, Held, LiveMemory, Moved
from everlearn.types import LearnReport

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.learn.exact.head import Head
    from everlearn.learn.streaming import StreamAnswers, StreamLearner
    from everlearn.model.basis import Basis
    from everlearn.types import Member, Progress, Snapshot
    from everlearn.workspace import Workspace

LEARNER = "exact"
INSIDE = "inside its workspace only"
"""What the card of a model says that cannot be one graph."""
HEAD, LEARNED = "/head.npz", "/learner.river"
"""What answers from phi, in a version's folder: a head, or a sealed learner."""


def basis(workspace: Workspace) -> Basis:
    """The fixed map from images to features that the configuration names."""
    return basis_of(workspace, workspace.config.backbone)


def basis_of(workspace: Workspace, spec: str) -> Basis:
    """The same map over another backbone."""
    return _basis(spec, workspace.config.learn.dimensions, workspace.root)


@lru_cache(maxsize=4)
def _basis(spec: str, dimensions: int | None, root: Path) -> Basis:
    from everlearn.model.backbone import load_backbone
    from everlearn.model.basis import Basis

    backbone = load_backbone(spec, base=root)
    return Basis(backbone) if dimensions is None else Basis(backbone, dimensions=dimensions)


_live: dict[Path, LiveMemory] = {}
_fitted: dict[Path, tuple[str, float, float | None, Held, Fitted]] = {}  # digest, promises, what it holds, its head
"""What the stages of one turn would otherwise load and solve twice; of one workspace at a time."""


def live(workspace: Workspace, *, stored: bool = False, strict: bool = False) -> LiveMemory:
    """The workspace's one memory; within a turn it may stand ahead of what is stored.

    stored: as it lies on disk. strict: the same, and raise Corrupt for a damaged one instead of building it again.
    """
    found = _live.get(workspace.root)
    if stored or strict or found is None or not found.current or found.workspace.config != workspace.config:
        found = LiveMemory(workspace, basis(workspace), strict=strict)
        _live.clear()
        _live[workspace.root] = found
    return found


def anything_to_learn(workspace: Workspace) -> bool:
    """Whether anything is labelled that is not held out for testing."""
    with workspace.catalog.read() as tx:
        return any(one.split != "test" for one in current(tx, workspace.config))


def anything_new(workspace: Workspace) -> bool:
    """Whether the newest model has not learned, been judged on and been decided about what is labelled now."""
    with workspace.catalog.read() as tx:
        newest, snapshot = versions.newest(tx), snapshots.latest(tx)
        digest = snapshots.digest(current(tx, workspace.config))
        if newest is None or snapshot is None:
            return next(current(tx, workspace.config), None) is not None
        decided = any(
            line["version"] == newest.name and line["action"] in ("promoted", "held") for line in versions.past(tx)
        )
    same = newest.snapshot == snapshot.number and snapshot.digest == digest and newest.config == deciding(workspace)
    return not (same and decided)


def nothing_new(workspace: Workspace) -> str:
    """Why there is nothing to learn, in a line."""
    with workspace.catalog.read() as tx:
        if versions.newest(tx) is not None:
            return "Nothing has come in that the newest model does not know."
        counts, refusals = samples.counts(tx), samples.refusals(tx)
    if not sum(counts.values()):
        return "Nothing has come in yet."
    reasons = ", ".join(f"{number} {reason}" for reason, number in refusals.items()) or "none"
    return f"Nothing fit to learn from is labelled: {counts['queued']} wait for a label (everlearn review); in " \
           f"quarantine: {reasons} (everlearn data --status quarantined; limits: setting validate)."  # fmt: skip


def is_exact(workspace: Workspace) -> bool:
    """Whether the exact memory is what learns."""
    return _kind(workspace) == LEARNER


def knows(workspace: Workspace) -> bool:
    """Whether any learner has kept what it learned."""
    return any(path(workspace).exists() for path in STATES.values())


def drop_memory(workspace: Workspace, but: str | None = None) -> None:
    """Remove what learners have kept, where nothing remains to be remembered, or another learner took over."""
    for kind, path in STATES.items():
        if kind != but:
            path(workspace).unlink(missing_ok=True)


def pool(workspace: Workspace) -> list[Member]:
    """Everything labelled, labels that are held wrong among it: what suspect labels are judged on."""
    with workspace.catalog.read() as tx:
        return list(current(tx, workspace.config, suspects=True))


def fitted(workspace: Workspace, memory: LiveMemory, progress: Progress) -> Fitted:
    """The head that a memory gives, with its out-of-fold view."""
    precision, false_accept = workspace.config.label.precision, workspace.config.learn.unknown
    digest = memory.memory.digest()
    before = _fitted.get(workspace.root)
    if before is not None and before[:4] == (digest, precision, false_accept, memory.held):
        return before[4]
    ids = sorted(memory.held)
    phi = memory.features.all(ids, progress)
    labels = [memory.held[id][0] for id in ids]
    folds = np.array([memory.held[id][1] for id in ids], np.int64)
    found = fit(memory.memory, Cached(ids, phi, labels, folds), precision=precision, false_accept=false_accept)
    _fitted.clear()
    _fitted[workspace.root] = (digest, precision, false_accept, memory.held, found)
    return found


def learn(workspace: Workspace, progress: Progress, reason: str = "learned") -> tuple[Version, LearnReport]:
    """Teach what is new and register the result; where nothing is new, give the newest version back, with 0 samples.

    Raises TooFew where nothing is labelled, or nothing stands on the learning side.
    """
    began = time.monotonic()
    snapshot = build(workspace)
    faults.point("learn.snapshot")
    with workspace.catalog.read() as tx:
        newest = versions.newest(tx)
        members = list(snapshots.members(tx, snapshot.number))
    if newest and newest.snapshot == snapshot.number and newest.config == deciding(workspace):
        same = Taught(Moved(0, 0), 0, None, None, newest.memory_digest, newest.model_digest)
        return newest, _report(workspace, same, began, snapshot)
    taught = LEARNERS[_kind(workspace)](workspace, snapshot, members, progress)
    drop_memory(workspace, but=_kind(workspace))
    with workspace.catalog.write() as tx:
        snapshots.mark_learned(tx, snapshot.number)
    faults.point("learn.marked")
    report = _report(workspace, taught, began, snapshot)
    return _register(workspace, taught, snapshot, report, reason), report


@dataclass(frozen=True, eq=False)
class Taught:
    """What a learner has come to at a snapshot, kept by it and ready to be registered.

    held: samples that it knows. head: its answers as one matrix, which become one graph; inside: what answers in this
    workspace where there is no head. auto_label: the promise of automatic labels; details: for the report; card: its
    own lines there.
    """

    moved: Moved
    held: int
    head: Head | None
    inside: StreamAnswers | None = None
    memory_digest: str | None = None
    model_digest: str | None = None
    auto_label: dict[str, float] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def answers(self) -> Head | StreamAnswers:
        found = self.head or self.inside
        assert found is not None
        return found


def _exact(workspace: Workspace, snapshot: Snapshot, members: Sequence[Member], progress: Progress) -> Taught:
    memory = live(workspace)
    moved = memory.bring_to(members, progress)
    _refuse_none(memory.held, snapshot)
    found = fitted(workspace, memory, progress)
    memory.save(snapshot)
    unknown = _unknown(workspace, found, progress)
    accuracy, threshold = found.accuracies.get(found.head.kind), found.thresholds.get(AUTO_LABEL)
    promise = None if threshold is None else vars_of(threshold)
    return Taught(
        moved, len(memory.held), found.head, None, memory.memory.digest(), found.digest, promise,
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

    return StreamLearner(workspace, basis(workspace), STATES["river"](workspace))


def _river(workspace: Workspace, snapshot: Snapshot, members: Sequence[Member], progress: Progress) -> Taught:
    learner = streaming(workspace)
    moved = learner.bring_to(members, progress)
    _refuse_none(learner.held, snapshot)
    learner.save()
    head = learner.answers.head(learner.basis.dimensions)
    before = learner.right / learner.asked if learner.asked else None
    return Taught(
        moved, len(learner.held), head, learner.answers, None, learner.digest(), None,
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


LEARNERS: dict[str, Callable[[Workspace, Snapshot, Sequence[Member], Progress], Taught]] = {
    LEARNER: _exact,
    "river": _river,
}
"""What `learn.learner` names, up to its colon: brought to the members of a snapshot, and kept so."""

STATES: dict[str, Callable[[Workspace], Path]] = {
    LEARNER: lambda workspace: workspace.root / FILE,
    "river": lambda workspace: workspace.private("river.state"),
}
"""Where each keeps what it learned."""


def _kind(workspace: Workspace) -> str:
    return workspace.config.learn.learner.partition(":")[0]


def _report(workspace: Workspace, taught: Taught, began: float, snapshot: Snapshot) -> LearnReport:
    return LearnReport(
        workspace.config.learn.learner, taught.moved.added, taught.moved.removed, time.monotonic() - began,
        taught.memory_digest, taught.model_digest, {"snapshot": snapshot.digest, **taught.details},
    )  # fmt: skip


def _register(workspace: Workspace, taught: Taught, snapshot: Snapshot, report: LearnReport, reason: str) -> Version:
    own = basis(workspace)
    with workspace.catalog.read() as tx:
        newest = versions.newest(tx)
        champion = versions.champion(tx)
        another = newest is not None and newest.backbone != own.spec
        name = versions.next_name(tx, major=another)
    metrics = {
        "seconds": round(report.seconds, 3),
        "memory_bytes": most_memory(),
        "samples": taught.held,
        "auto_label": taught.auto_label,
        **report.details,
    }
    with workspace.scratch() as folder:
        files = _files(workspace, folder, taught, _card(workspace, taught, snapshot, name))
        facts = {
            "parent": (champion or newest).name if champion or newest else None,  # type: ignore[union-attr]
            "snapshot": snapshot.number,
            "learner": report.learner,
            "backbone": own.spec,
            "licence": own.licence,
            "config": deciding(workspace),
            "code_version": code_version(),
            "memory_digest": report.memory_digest,
            "model_digest": report.model_digest,
            "metrics": metrics,
        }
        return registry.register(workspace, name, files, facts, reason)


def vars_of(threshold: Any) -> dict[str, float]:
    """A threshold's promise, as the card tells it."""
    names = ("threshold", "coverage", "precision", "bound", "samples")
    return {name: getattr(threshold, name) for name in names}


def _files(workspace: Workspace, folder: Path, taught: Taught, card: dict[str, Any]) -> dict[str, bytes | Path]:
    """The bundle: the ONNX file, checked against the Python result, the head or the learner, the classes, the card."""
    from everlearn.model.bundle import export_head
    from everlearn.model.inside import export_features

    model, head, own = folder / "model.onnx", folder / "head.npz", basis(workspace)
    answers: dict[str, bytes | Path] = {HEAD: head}
    try:
        if taught.head is not None:
            export_head(own, taught.head, model, card=card)
            taught.head.save(head)
    except Corrupt:  # weights without bounds, as gradients may give, are no graph of single precision
        if taught.inside is None:
            raise
        taught = replace(taught, head=None)
    if taught.head is None:
        assert taught.inside is not None
        card = {**card, "head": None, "answers": INSIDE}
        export_features(own, taught.inside, model, card=card)
        answers = {LEARNED: taught.inside.packed(workspace)}
    text = json.dumps(card, ensure_ascii=False, indent=1, default=str)
    return {
        ".onnx": model,
        **answers,
        "/classes.txt": "\n".join(taught.answers.answers).encode(),
        "/card.json": text.encode(),
        "/card.md": card_text(card).encode(),
    }


def _card(workspace: Workspace, taught: Taught, snapshot: Snapshot, name: str) -> dict[str, Any]:
    own, head = basis(workspace), taught.head
    return {
        "name": name,
        "made": now().isoformat(timespec="seconds") + "Z",
        "task": workspace.config.task,
        "classes": list(taught.answers.classes),
        "learner": workspace.config.learn.learner,
        "head": head and head.kind,
        "answers": "as one graph, anywhere",
        "temperature": head and head.temperature,
        "calibrated": head is not None and head.calibrated,
        "backbone": own.spec,
        "backbone_licence": own.licence,
        "basis_digest": own.digest,
        "dimensions": own.dimensions,
        "snapshot": snapshot.digest,
        "samples": {"all": snapshot.samples, **snapshot.splits},
        "memory_digest": taught.memory_digest,
        "model_digest": taught.model_digest,
        **taught.card,
        "code_version": code_version(),
    }


def card_text(card: dict[str, Any]) -> str:
    lines = [f"# {card['name']}", "", "| | |", "| --- | --- |"]
    for key, value in card.items():
        shown = (
            ", ".join(map(str, value[:50])) + (" …" if len(value) > 50 else "") if isinstance(value, list) else value
        )
        lines.append(f"| {key.replace('_', ' ')} | {str(shown).replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def deciding(workspace: Workspace) -> dict[str, Any]:
    """The part of the configuration that decides the model."""
    config = workspace.config
    return json.loads(  # as the catalog will give it back
        json.dumps(
            {
                "task": config.task,
                "backbone": config.backbone,
                "learn": config.learn.model_dump(),
                "dataset": config.dataset.model_dump(),
                "validate": config.validate_.model_dump(),
                "label": config.label.model_dump(),
            }
        )
    )  # type: ignore[no-any-return]


def code_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("everlearn")
    except PackageNotFoundError:
        return "unknown"


def most_memory() -> int:
    """Bytes of memory that this process has needed at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)

"""Learning: the snapshot, the live memory brought to it, the head solved from it, and the version that comes of it."""

from __future__ import annotations

import json
import resource
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn import faults, registry
from everlearn.catalog import samples, snapshots, versions
from everlearn.catalog.tables import now
from everlearn.dataset.build import build, current
from everlearn.errors import TooFew
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.fit import AUTO_LABEL, Fitted, fit
from everlearn.learn.live import FILE, Held, LiveMemory, Moved
from everlearn.types import LearnReport

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.model.basis import Basis
    from everlearn.types import Member, Progress, Snapshot
    from everlearn.workspace import Workspace

LEARNER = "exact"


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
_fitted: dict[Path, tuple[str, float, Held, Fitted]] = {}  # memory digest, precision, what it holds, its head
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


def drop_memory(workspace: Workspace) -> None:
    """Remove the memory, where nothing remains to be remembered."""
    (workspace.root / FILE).unlink(missing_ok=True)


def pool(workspace: Workspace) -> list[Member]:
    """Everything labelled, labels that are held wrong among it: what suspect labels are judged on."""
    with workspace.catalog.read() as tx:
        return list(current(tx, workspace.config, suspects=True))


def fitted(workspace: Workspace, memory: LiveMemory, progress: Progress) -> Fitted:
    """The head that a memory gives, with its out-of-fold view."""
    precision = workspace.config.label.precision
    digest = memory.memory.digest()
    before = _fitted.get(workspace.root)
    if before is not None and before[:3] == (digest, precision, memory.held):
        return before[3]
    ids = sorted(memory.held)
    phi = memory.features.all(ids, progress)
    labels = [memory.held[id][0] for id in ids]
    folds = np.array([memory.held[id][1] for id in ids], np.int64)
    found = fit(memory.memory, Cached(ids, phi, labels, folds), precision=precision)
    _fitted.clear()
    _fitted[workspace.root] = (digest, precision, memory.held, found)
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
        return newest, _report(Moved(0, 0), began, newest.memory_digest, newest.model_digest, snapshot, {})
    memory = live(workspace)
    moved = memory.bring_to(members, progress)
    if not memory.held:
        raise TooFew(
            f"All {snapshot.samples} labelled samples fell on the test side.", "Collect more, or lower dataset.test."
        )
    found = fitted(workspace, memory, progress)
    memory.save(snapshot)
    with workspace.catalog.write() as tx:
        snapshots.mark_learned(tx, snapshot.number)
    faults.point("learn.marked")
    details = {
        "head": found.head.kind,
        "alpha": found.alpha,
        "accuracy_out_of_fold": found.accuracies.get(found.head.kind),
    }
    report = _report(moved, began, memory.memory.digest(), found.digest, snapshot, details)
    return _register(workspace, memory, found, snapshot, report, reason), report


def _report(
    moved: Moved, began: float, memory: str | None, model: str | None, snapshot: Snapshot, details: dict[str, Any]
) -> LearnReport:
    seconds = time.monotonic() - began
    return LearnReport(
        LEARNER, moved.added, moved.removed, seconds, memory, model, {"snapshot": snapshot.digest, **details}
    )


def _register(
    workspace: Workspace, memory: LiveMemory, found: Fitted, snapshot: Snapshot, report: LearnReport, reason: str
) -> Version:
    with workspace.catalog.read() as tx:
        newest = versions.newest(tx)
        champion = versions.champion(tx)
        another = newest is not None and newest.backbone != memory.basis.spec
        name = versions.next_name(tx, major=another)
    threshold = found.thresholds.get(AUTO_LABEL)
    metrics = {
        "seconds": round(report.seconds, 3),
        "memory_bytes": most_memory(),
        "samples": len(memory.held),
        "auto_label": None if threshold is None else vars_of(threshold),
        **report.details,
    }
    card = _card(workspace, memory, found, snapshot, name, report)
    with workspace.scratch() as folder:
        files = _files(folder, basis(workspace), found, card)
        facts = {
            "parent": (champion or newest).name if champion or newest else None,  # type: ignore[union-attr]
            "snapshot": snapshot.number,
            "learner": LEARNER,
            "backbone": memory.basis.spec,
            "licence": memory.basis.licence,
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


def _files(folder: Path, own: Basis, found: Fitted, card: dict[str, Any]) -> dict[str, bytes | Path]:
    """The bundle: the ONNX file, checked against the Python result, the head, the classes, the card."""
    from everlearn.model.bundle import export_head

    model, head = folder / "model.onnx", folder / "head.npz"
    export_head(own, found.head, model, card=card)
    found.head.save(head)
    text = json.dumps(card, ensure_ascii=False, indent=1, default=str)
    return {
        ".onnx": model,
        "/head.npz": head,
        "/classes.txt": "\n".join(found.head.classes).encode(),
        "/card.json": text.encode(),
        "/card.md": card_text(card).encode(),
    }


def _card(
    workspace: Workspace, memory: LiveMemory, found: Fitted, snapshot: Snapshot, name: str, report: LearnReport
) -> dict[str, Any]:
    threshold = found.thresholds.get(AUTO_LABEL)
    return {
        "name": name,
        "made": now().isoformat(timespec="seconds") + "Z",
        "task": workspace.config.task,
        "classes": list(found.head.classes),
        "learner": LEARNER,
        "head": found.head.kind,
        "alpha": found.alpha,
        "temperature": found.head.temperature,
        "calibrated": found.head.calibrated,
        "backbone": memory.basis.spec,
        "backbone_licence": memory.basis.licence,
        "basis_digest": memory.basis.digest,
        "dimensions": memory.basis.dimensions,
        "snapshot": snapshot.digest,
        "samples": {"all": snapshot.samples, **snapshot.splits},
        "memory_digest": report.memory_digest,
        "model_digest": report.model_digest,
        "out_of_fold_accuracy": found.accuracies.get(found.head.kind),
        "automatic_labels": None if threshold is None else vars_of(threshold),
        "code_version": code_version(),
        "knows": "The exact memory holds sums of its training samples; they can be taken out again exactly (forget).",
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

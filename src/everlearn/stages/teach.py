"""Learning: the snapshot, the learner brought to it, and the version that comes of it."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from everlearn import faults, registry
from everlearn.catalog import origins, runs, samples, snapshots, turns, versions
from everlearn.catalog.tables import now
from everlearn.dataset.build import build, current
from everlearn.learn.live import Moved
from everlearn.stages import learners
from everlearn.stages.learners import Taught
from everlearn.types import LearnReport

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.types import Member, Progress, Snapshot
    from everlearn.workspace import Workspace


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


def pool(workspace: Workspace) -> list[Member]:
    """Everything labelled, labels that are held wrong among it: what suspect labels are judged on."""
    with workspace.catalog.read() as tx:
        return list(current(tx, workspace.config, suspects=True))


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
        if newest and newest.name in turns.setting_of(tx, turns.FORGETTING, []):
            newest = None
    if newest and newest.snapshot == snapshot.number and newest.config == deciding(workspace):
        same = Taught(Moved(0, 0), 0, None, newest.memory_digest, newest.model_digest)
        return newest, reported(workspace.config.learn.learner, same, began, snapshot)
    kind = learners.kind(workspace)
    taught = learners.LEARNERS[kind](workspace, snapshot, members, progress)
    learners.drop_memory(workspace, but=kind)
    with workspace.catalog.write() as tx:
        snapshots.mark_learned(tx, snapshot.number)
    faults.point("learn.marked")
    report = reported(workspace.config.learn.learner, taught, began, snapshot)
    return register(workspace, taught, snapshot, report, reason), report


def reported(learner: str, taught: Taught, began: float, snapshot: Snapshot) -> LearnReport:
    """began: by time.monotonic."""
    return LearnReport(
        learner, taught.moved.added, taught.moved.removed, time.monotonic() - began,
        taught.memory_digest, taught.model_digest, {"snapshot": snapshot.digest, **taught.details},
    )  # fmt: skip


def register(
    workspace: Workspace, taught: Taught, snapshot: Snapshot, report: LearnReport, reason: str, *,
    behind: bool = False, changes: Mapping[str, Any] | None = None,
) -> Version:  # fmt: skip
    """Enter what was taught as a version, with its bundle. behind: not all of it has learned the whole snapshot, so
    that the next turn still has something to do; changes: by what it was taught otherwise than the settings say, so
    that it has too."""
    answers = taught.answers
    assert answers is not None
    with workspace.catalog.read() as tx:
        newest = versions.newest(tx)
        champion = versions.champion(tx)
        another = newest is not None and newest.backbone != answers.backbone
        name = versions.next_name(tx, major=another)
        licences = origins.licences(tx)
    metrics = {
        "seconds": round(report.seconds, 3),
        "memory_bytes": _most_memory(),
        "samples": taught.held,
        "auto_label": taught.auto_label,
        **report.details,
    }
    facts = {
        "parent": (champion or newest).name if champion or newest else None,  # type: ignore[union-attr]
        "snapshot": snapshot.number,
        "learner": report.learner,
        "backbone": answers.backbone,
        "licence": answers.licence,
        "config": deciding(workspace)
        | ({"behind": True} if behind else {})
        | ({"changes": changes} if changes else {}),
        "code_version": _code_version(),
        "memory_digest": report.memory_digest,
        "model_digest": report.model_digest,
        "metrics": metrics,
    }
    card = {
        "name": name,
        "made": now().isoformat(timespec="seconds") + "Z",
        "task": workspace.config.task,
        "classes": list(answers.classes),
        "learner": report.learner,
        "backbone": answers.backbone,
        "backbone_licence": answers.licence,
        **answers.about(),
        "snapshot": snapshot.digest,
        "samples": {"all": snapshot.samples} | dict(snapshot.splits),
        "memory_digest": report.memory_digest,
        "model_digest": report.model_digest,
        **({"data_licences": licences} if licences else {}),
        **taught.card,
        "code_version": _code_version(),
    }
    with workspace.scratch() as folder:
        files, card = answers.write(folder, card)
        files |= {
            "/classes.txt": "\n".join(answers.answers).encode(),
            "/card.json": json.dumps(card, ensure_ascii=False, indent=1, default=str).encode(),
            "/card.md": _card_text(card).encode(),
        }
        entered = registry.register(workspace, name, files, facts, reason)
    if report.details.get("run"):
        with workspace.catalog.write() as tx:
            runs.note(tx, str(report.details["run"]), version=name)
    return entered


def _card_text(card: dict[str, Any]) -> str:
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
    detecting = {"detect": config.detect.model_dump()} if config.task == "detect" else {}
    return json.loads(  # as the catalog will give it back
        json.dumps(
            {
                "task": config.task,
                **detecting,
                "backbone": config.backbone,
                "learn": config.learn.model_dump(),
                "dataset": config.dataset.model_dump(),
                "validate": config.validate_.model_dump(),
                "label": config.label.model_dump(),
            }
        )
    )  # type: ignore[no-any-return]


def _code_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("everlearn")
    except PackageNotFoundError:
        return "unknown"


def _most_memory() -> int:
    """Bytes of memory that this process has needed at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)

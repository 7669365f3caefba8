"""Automatic labels where the task is `detect`: detectors propose, what is proved to be right often enough is taken, and
a person is asked about the rest with the proposals drawn.

     propose ► prove thresholds on reviewed images ► label what is sure ► queue the rest, and the audit
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from everlearn import faults
from everlearn.catalog import labels, samples, scenes
from everlearn.catalog.scenes import Proposal
from everlearn.catalog.tables import lease, now, sample
from everlearn.files import change
from everlearn.label.automatic import Labelling
from everlearn.label.boxes import judge, trust
from everlearn.label.thresholds import audited, draw
from everlearn.naming import coarse
from everlearn.stages.detecting.proposing import Proposers, proposers
from everlearn.types import Scene

if TYPE_CHECKING:
    from everlearn.catalog.samples import Sample
    from everlearn.label.boxes import Verdict
    from everlearn.types import Progress, SampleId
    from everlearn.workspace import Workspace

BATCH = 256
AUDIT, NO_MODEL, UNSURE, UNPROVED = "audit", "no_model", "unsure", "unproved"
OURS = (labels.CONFLICT, labels.UNDONE)
"""Why an image waits that a model must leave to people."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What labels by itself. thresholds: class to the least trust; trusted: those of them that a person declared and
    nobody has proved."""

    thresholds: Mapping[str, float]
    trusted: frozenset[str]
    noise: float

    @property
    def about(self) -> tuple[str, ...]:
        return tuple(sorted({coarse(name) for name in self.thresholds}))

    def says(self, by: str, verdict: Verdict) -> str:
        """Where a label comes from, for its history."""
        seen = {box.label for box in verdict.boxes} or set(self.thresholds)
        declared = sorted(self.thresholds[name] for name in seen & self.trusted)
        return f"{by}, trusted from {declared[0]:g}" if declared else f"{by}, proved"


def label(workspace: Workspace, progress: Progress) -> Labelling:
    """Label by itself what is sure; queue the rest with its proposals, what would teach most first."""
    ids, new = _waiting(workspace)
    models = proposers(workspace)
    rule = _rule(workspace, models, progress)
    sure: set[SampleId] = set()
    with progress.task("label", len(ids)) as task:
        for start in range(0, len(ids), BATCH):
            part = ids[start : start + BATCH]
            sure |= _label(workspace, models, rule, part, progress)
            task.advance(len(part))
    with workspace.catalog.read() as tx:
        queued = samples.counts(tx)["queued"]
    return Labelling(len(sure), queued, len(new - sure) / len(new) if new else None)


def _waiting(workspace: Workspace) -> tuple[list[SampleId], set[SampleId]]:
    """What has no label and is not for people alone; and those of it that are new."""
    waiting = sample.c.status.in_(("validated", "queued")) & sample.c.label.is_(None) & (sample.c.kind == "image")
    ids, new = [], set()
    with workspace.catalog.read() as tx:
        for batch in samples.batches(tx, waiting):
            for one in batch:
                if one.queue_reason not in OURS:
                    ids.append(one.id)
                    new.update([one.id] if one.status == "validated" else [])
    return ids, new


def _rule(workspace: Workspace, models: Proposers, progress: Progress) -> Rule:
    settings = workspace.config.detect
    if settings.trust is None or not settings.teachers:
        return Rule({}, frozenset(), settings.noise)
    declared = frozenset(models.classes)
    progress.say(f"Boxes of {models.by} are taken from a confidence of {settings.trust:g}, by detect.trust: unproved.")
    return Rule(dict.fromkeys(declared, settings.trust), declared, settings.noise)


def _label(
    workspace: Workspace, models: Proposers, rule: Rule, ids: Sequence[SampleId], progress: Progress
) -> set[SampleId]:  # fmt: skip
    """Returns those that were labelled."""
    seen = models.weighed(ids, progress) if models.models else {}
    verdicts = {id: judge(one, rule.thresholds, rule.noise) for id, one in seen.items()}
    with change(workspace) as changed:
        tx = changed.tx
        rows = {id: one for id, one in samples.some(tx, ids).items() if one.label is None}  # a person may have spoken
        looked = {row.sample_id for row in tx.execute(sa.select(lease.c.sample_id).where(lease.c.until > now()))}
        reasons = {id: _reason(workspace, rule, one, verdicts.get(id)) for id, one in rows.items()}
        sure = sorted(id for id, reason in reasons.items() if reason is None and id not in looked)
        names = scenes.keep(tx, [Scene(verdicts[id].boxes, rule.about) for id in sure])
        version = models.version.name if models.version else None
        labels.say(tx, [
            labels.Said(id, name, "auto", rule.says(models.by, verdicts[id]),
                        min(map(trust, verdicts[id].boxes), default=None), version)
            for id, name in zip(sure, names, strict=True)
        ])  # fmt: skip
        rest = {id: one for id, one in rows.items() if reasons[id] is not None and id not in looked}
        _queue(tx, workspace, rest, reasons, verdicts)
        _propose(tx, models, {id: verdicts[id] for id in rest if id in verdicts})
        samples.restate(tx, [*sure, *rest])
        changed.refile(sure)
    faults.point("label.committed")
    return set(sure)


def _reason(workspace: Workspace, rule: Rule, one: Sample, verdict: Verdict | None) -> str | None:
    """Why a person is asked; None where nobody need be."""
    if verdict is None:
        return NO_MODEL
    if audited(one.id, workspace.config.detect.audit):
        return AUDIT
    if verdict.doubts or not workspace.config.label.automatic:
        return UNSURE
    return None if rule.thresholds else UNPROVED


def _queue(
    tx: Any, workspace: Workspace, rows: Mapping[SampleId, Sample], reasons: Mapping[SampleId, str | None],
    verdicts: Mapping[SampleId, Verdict],
) -> None:  # fmt: skip
    """The audit first, in an order that has nothing to do with what is on the images: what of it has been answered is a
    fair sample at any time."""
    changes = []
    for id, one in rows.items():
        verdict = verdicts.get(id)
        urgency = 0.5 if verdict is None else verdict.urgency
        if reasons[id] == AUDIT:
            urgency = 1 + 0.4 * draw(id) / workspace.config.detect.audit
        if (one.queued, one.queue_reason, one.urgency) != (True, reasons[id], urgency):
            changes.append({"id": id, "queued": True, "queue_reason": reasons[id], "urgency": urgency})
    samples.change(tx, changes)


def _propose(tx: Any, models: Proposers, verdicts: Mapping[SampleId, Verdict]) -> None:
    """Write down what is drawn for people, where it has changed."""
    there = scenes.proposals(tx, list(verdicts))
    new = {id: Proposal(one.drawn, models.by) for id, one in verdicts.items()}
    scenes.propose(tx, {
        id: one for id, one in new.items()
        if id not in there or there[id].by != one.by or scenes.rows_of(there[id].boxes) != scenes.rows_of(one.boxes)
    })  # fmt: skip

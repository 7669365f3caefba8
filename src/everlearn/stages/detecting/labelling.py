"""Automatic labels where the task is `detect`: detectors propose, what is proved to be right often enough is taken, and
a person is asked about the rest with the proposals drawn.

     propose ► prove thresholds on reviewed images ► label what is sure ► queue the rest, and the audit
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from everlearn import faults
from everlearn.catalog import labels, samples, scenes, turns
from everlearn.catalog.scenes import Proposal
from everlearn.catalog.tables import lease, now, sample
from everlearn.files import change
from everlearn.label.automatic import Labelling
from everlearn.label.boxes import judge, trust
from everlearn.label.thresholds import audited, draw, prove
from everlearn.naming import coarse
from everlearn.stages.detecting.proposing import Proposers, proposers
from everlearn.stages.detecting.reviewed import asked, reviewed
from everlearn.types import Scene

if TYPE_CHECKING:
    from everlearn.catalog.samples import Sample
    from everlearn.label.boxes import Verdict
    from everlearn.types import Progress, SampleId
    from everlearn.workspace import Workspace

BATCH, SHOWN = 256, 8
AUDIT, NO_MODEL, UNSURE, UNPROVED = "audit", "no_model", "unsure", "unproved"
PROOF = "auto_boxes"
"""The setting of the catalog that keeps what automatic labels rest on."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What labels by itself. thresholds: class to the least trust, on these cameras; declared: the same where a person
    has declared it and nobody has proved it; elsewhere: on cameras of which nothing was reviewed."""

    thresholds: Mapping[str, float]
    cameras: frozenset[str]
    declared: frozenset[str] = frozenset()
    elsewhere: Mapping[str, float] = field(default_factory=dict)

    def on(self, camera: str) -> Mapping[str, float]:
        return self.thresholds if camera in self.cameras else self.elsewhere

    def says(self, by: str, camera: str, verdict: Verdict) -> str:
        """Where a label comes from, for its history."""
        used = self.on(camera)
        seen = {box.label for box in verdict.boxes} or set(used)
        declared = sorted(used[name] for name in seen if used is self.elsewhere or name in self.declared)
        return f"{by}, trusted from {declared[0]:g}" if declared else f"{by}, proved"


def label(workspace: Workspace, progress: Progress) -> Labelling:
    """Label by itself what is sure; queue the rest with its proposals, what would teach most first."""
    ids, new = _waiting(workspace)
    sure: set[SampleId] = set()
    proof = None
    if ids:
        models = proposers(workspace)
        rule, proof = _rule(workspace, models, progress)
        asked(workspace, everything=not rule.thresholds and not rule.elsewhere)
        with progress.task("label", len(ids)) as task:
            for start in range(0, len(ids), BATCH):
                part = ids[start : start + BATCH]
                sure |= _label(workspace, models, rule, part, progress)
                task.advance(len(part))
    with workspace.catalog.read() as tx:
        queued = samples.counts(tx)["queued"]
    return Labelling(len(sure), queued, len(new - sure) / len(new) if new else None, proof)


def _waiting(workspace: Workspace) -> tuple[list[SampleId], set[SampleId]]:
    """What has no label and is not for people alone; and those of it that are new."""
    waiting = sample.c.status.in_(("validated", "queued")) & sample.c.label.is_(None) & (sample.c.kind == "image")
    ids, new = [], set()
    with workspace.catalog.read() as tx:
        for batch in samples.batches(tx, waiting):
            for one in batch:
                if one.queue_reason not in labels.FOR_PEOPLE:
                    ids.append(one.id)
                    new.update([one.id] if one.status == "validated" else [])
    return ids, new


def _rule(workspace: Workspace, models: Proposers, progress: Progress) -> tuple[Rule, dict[str, Any] | None]:
    """What may be taken of these models now, and what that rests on."""
    settings, target = workspace.config.detect, workspace.config.label.precision
    if not models.models or not workspace.config.label.automatic:
        return Rule({}, frozenset()), None
    declared = {}
    if settings.trust is not None and settings.teachers:
        declared = dict.fromkeys(models.classes, settings.trust)
    ground = reviewed(workspace, models, progress)
    proved = prove(ground.images, models.classes, target, settings.noise, declared)
    taken = {name: one.threshold for name, one in proved.classes.items() if one.threshold is not None}
    unproved = {name: value for name, value in declared.items() if proved.classes[name].too_few}
    proof = {"by": models.by, "models": models.digest, "target": target, **proved.to_json(unproved)}
    with workspace.catalog.write() as tx:
        turns.set_to(tx, PROOF, proof)
    for line in told(proof):
        progress.say(line)
    elsewhere = {
        name: max(value, taken.get(name, 0)) for name, value in declared.items() if name in {**taken, **unproved}
    }
    return Rule({**taken, **unproved}, ground.cameras, frozenset(unproved), elsewhere), proof


def told(proof: Mapping[str, Any]) -> list[str]:
    """What automatic labels rest on, for people."""
    lines, declared = [], []
    for name, one in proof["classes"].items():
        lacking = f"{one['worth']:.0f} of the {one['needs']} boxes, on images apart, that a proof takes at least"
        if one["threshold"] is not None:
            lines.append(
                f"{name}: labelled by itself from {one['threshold']:.2f}; precision {one['precision']:.3f} on "
                f"{one['boxes']} boxes of reviewed images, at least {one['bound']:.3f} (95 %)."
            )
        elif one["declared"] is not None:
            declared.append(f"{name} ({one['worth']:.0f} of {one['needs']})")
        elif one["worth"]:
            lines.append(f"{name}: to people; {lacking if one['too_few'] else 'no threshold is precise enough'}.")
    if declared:
        more = f" and {len(declared) - SHOWN} more" if len(declared) > SHOWN else ""
        lines.append(
            f"By detect.trust and unproved, with reviewed boxes of those that a proof takes at least: "
            f"{', '.join(declared[:SHOWN])}{more}."
        )
    if not lines and proof["classes"]:
        needs = next(iter(proof["classes"].values()))["needs"]
        lines.append(
            f"Nothing that {proof['by']} proposes is reviewed yet, so all waits for a person: a proof takes at least "
            f"{needs} boxes of a class, all right, on images apart (or set detect.trust)."
        )
    missed = proof["missed"]
    if missed["of"]:
        lines.append(
            f"{missed['hits']} of {missed['of']} things are missed on reviewed images that would be labelled so: "
            f"{missed['low']:.1%} to {missed['high']:.1%} (95 %)."
        )
    return lines


def _label(
    workspace: Workspace, models: Proposers, rule: Rule, ids: Sequence[SampleId], progress: Progress
) -> set[SampleId]:  # fmt: skip
    """Returns those that were labelled."""
    seen = models.weighed(ids, progress) if models.models else {}
    noise = workspace.config.detect.noise
    with workspace.catalog.read() as tx:
        cameras = {id: one.camera for id, one in samples.some(tx, ids).items()}
    verdicts = {id: judge(one, rule.on(cameras[id]), noise) for id, one in seen.items()}
    with change(workspace) as changed:
        tx = changed.tx
        rows = {id: one for id, one in samples.some(tx, ids).items() if one.label is None}  # a person may have spoken
        looked = {row.sample_id for row in tx.execute(sa.select(lease.c.sample_id).where(lease.c.until > now()))}
        reasons = {id: _reason(workspace, rule, one, verdicts.get(id)) for id, one in rows.items()}
        sure = sorted(id for id, reason in reasons.items() if reason is None and id not in looked)
        names = scenes.keep(
            tx, [Scene(verdicts[id].boxes, about_of(rule.on(cameras[id]), models.classes)) for id in sure]
        )
        version = models.version.name if models.version else None
        labels.say(tx, [
            labels.Said(id, name, "auto", rule.says(models.by, cameras[id], verdicts[id]),
                        min(map(trust, verdicts[id].boxes), default=None), version)
            for id, name in zip(sure, names, strict=True)
        ])  # fmt: skip
        rest = {id: one for id, one in rows.items() if reasons[id] is not None and id not in looked}
        _queue(tx, workspace, rest, reasons, verdicts)
        _propose(tx, models, {id: verdicts[id] for id in rest if id in verdicts})
        scenes.settle_proposals(tx, sure)
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
    return None if rule.on(one.camera) else UNPROVED


def about_of(thresholds: Mapping[str, float], classes: Sequence[str]) -> tuple[str, ...]:
    """The classes that an image labelled by itself is complete for: those whose boxes are taken. What nothing is known
    of stays unknown on the image; of a class with parts all of them must be known."""
    return tuple(
        sorted({coarse(name) for name in classes} - {coarse(name) for name in classes if name not in thresholds})
    )


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

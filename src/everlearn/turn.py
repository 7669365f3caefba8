"""What happened in one turn of the wheel, for people and for scripts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everlearn.collect.take import Collected
    from everlearn.label.automatic import Labelling
    from everlearn.stages import Evaluated, Validated
    from everlearn.types import LearnReport


@dataclass(slots=True)
class Turn:
    """number: counts all turns of the workspace; decision: promoted, held or nothing new, with the reason in a line."""

    number: int
    came: Collected | None = None
    judged: Validated | None = None
    labelling: Labelling | None = None
    model: str | None = None
    learned: LearnReport | None = None
    result: Evaluated | None = None
    decision: str = "held"
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        came, judged, learned = self.came, self.judged, self.learned
        values = self.result.values if self.result else {}
        return {
            "turn": self.number,
            "collected": came.collected if came else 0,
            "duplicates": came.duplicates if came else 0,
            "refused": came.refused if came else 0,
            "validated": judged.validated if judged else 0,
            "quarantined": dict(judged.quarantined) if judged else {},
            "scores": dict(judged.scores) if judged else {},
            "culprits": {name: list(ids) for name, ids in judged.culprits.items()} if judged else {},
            "labelled": self.labelling.labelled if self.labelling else 0,
            "queued": self.labelling.queued if self.labelling else 0,
            "share_for_people": self.labelling.share if self.labelling else None,
            "proof": self.labelling.proof if self.labelling else None,
            "model": self.model,
            "samples": learned.samples if learned else 0,
            "memory_digest": learned.memory_digest if learned else None,
            "model_digest": learned.model_digest if learned else None,
            "accuracy": values.get("accuracy"),
            "map50": values.get("map50"),
            "mae": values.get("mae"),
            "r2": values.get("r2"),
            "forgetting": values.get("forgetting"),
            "gates": {**(judged.gates if judged else {}), **values.get("gates", {})},
            "report": values.get("report"),
            "decision": self.decision,
            "reason": self.reason,
        }

    def lines(self) -> list[str]:
        v = self.to_json()
        lines = [f"Turn {self.number}: {self.decision}. {self.reason}"]
        lines.append(f"  came in     {v['collected']} new, {v['duplicates']} known already, {v['refused']} refused")
        refused = ", ".join(f"{number} {reason}" for reason, number in v["quarantined"].items())
        lines.append(f"  validated   {v['validated']}" + (f"; set aside: {refused}" if refused else ""))
        share = v["share_for_people"]
        for_people = "" if share is None else f"; of the new ones {share:.1%} need a person"
        lines.append(f"  labelled    {v['labelled']} automatically; {v['queued']} wait for a person{for_people}")
        if self.learned:
            lines.append(f"  learned     {v['samples']} in {self.learned.seconds:.1f} s → {self.model}")
        scores = [(name, v[name]) for name in ("accuracy", "map50", "mae", "r2", "forgetting")]
        lines += [f"  {name:<10}  {value:.4f}" for name, value in scores if value is not None]
        for name, gate in v["gates"].items():
            if not gate["pass"]:
                shown = "missing" if gate["value"] is None else f"{gate['value']:.4g}"
                lines.append(f"  gate        {name} {shown}, target {gate['target']}: failed")
        if self.decision == "held" and self.model:
            lines.append(f"  next        more images, or: everlearn promote {self.model} --force --reason '…'")
        if v["report"]:
            lines.append(f"  report      {v['report']}")
        return lines

"""The experiment checklist, ticked from what the catalog holds: runs, their numbers, versions, evaluations, decisions.

A box is ticked only by what was done, and names it: whoever doubts it can look it up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from everlearn.catalog import runs, versions
from everlearn.catalog.tables import metric, now
from everlearn.errors import Missing
from everlearn.evaluate.checklist import Item, Name
from everlearn.evaluate.gates import AT_MOST
from everlearn.stages.analysing import fitting_of

if TYPE_CHECKING:
    from everlearn.catalog.runs import Run
    from everlearn.catalog.versions import Version
    from everlearn.workspace import Workspace

TRAINED = ("train", "distill", "continual")
"""Kinds of runs that train one network."""
SHOWN = 4
"""Names that a line of evidence lists."""


@dataclass(frozen=True)
class Known:
    """What the catalog knows. runs: those that are done; trials: of each search, pruned ones too; numbers: metrics
    recorded step by step."""

    runs: Sequence[Run]
    trials: Mapping[str, int]
    versions: Sequence[Version]
    evaluations: Sequence[Mapping[str, Any]]
    decided: Mapping[str, str]
    numbers: int

    def of(self, *kinds: str) -> list[Run]:
        return [one for one in self.runs if one.kind in kinds]


def checklist(workspace: Workspace, evaluating: Mapping[str, Any] | None = None) -> list[Item]:
    """The six boxes, in the order that they are worked through. evaluating: the result of an evaluation that is not in
    the catalog yet, since its own report shows this."""
    with workspace.catalog.read() as tx:
        past = [line for line in versions.past(tx) if line["action"] in ("promoted", "held")]
        every = runs.every(tx)
        known = Known(
            [one for one in every if one.status == "done"],
            Counter(str(one.parent) for one in every if one.kind == "trial"),
            [one for one in versions.every(tx) if not one.retired],
            versions.evaluations(tx) + _pending(evaluating),
            {line["version"]: f"{line['action']}: {line['reason']}".rstrip(": ") for line in past},
            int(tx.execute(sa.select(sa.func.count()).select_from(metric)).scalar() or 0),
        )
    return [
        _baseline(known), _plan(known), _records(known), _overfitting(workspace, known), _criterion(known),
        _saved(workspace, known),
    ]  # fmt: skip


def _pending(result: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    return [] if result is None else [{"version": result["model"], "result": result, "at": now()}]


def _item(name: Name, code: str, **details: object) -> Item:
    return Item(name, code not in ("none", "some", "lost"), code, {key: str(value) for key, value in details.items()})


def _baseline(known: Known) -> Item:
    if known.evaluations:
        first = known.evaluations[0]
        return _item(
            "baseline", "evaluation", version=first["version"], at=_when(first), score=_score(first["result"]),
            images=first["result"].get("images", "?"),
        )  # fmt: skip
    for one in known.of(*TRAINED):
        if stages := one.result.get("stages"):
            return _item("baseline", "run", run=one.name, score=_accuracy(stages[0].get("val_accuracy")))
    return _item("baseline", "none")


def _plan(known: Known) -> Item:
    for one in reversed(known.of("tune")):
        space = one.config.get("space")
        if known.trials.get(one.name) and isinstance(space, Mapping) and space:
            return _item("plan", "tune", run=one.name, space=_some(list(space)), trials=known.trials[one.name])
    return _item("plan", "none")


def _records(known: Known) -> Item:
    """Every run of its own, and every version, must say with which settings and on which data it was made."""
    own = [one for one in known.runs if one.parent is None]
    lacking = [one.name for one in own if not one.config or one.snapshot is None]
    lacking += [one.name for one in known.versions if not one.config or one.snapshot is None]
    if not own and not known.versions:
        return _item("records", "none")
    if lacking:
        return _item("records", "some", what=_some(lacking))
    return _item("records", "all", runs=len(known.runs), versions=len(known.versions), numbers=known.numbers)


def _overfitting(workspace: Workspace, known: Known) -> Item:
    for one in reversed(known.of(*TRAINED)):
        with workspace.catalog.read() as tx:
            series = runs.series(tx, one.name)
        if series.get("train_loss") and series.get("val_loss"):
            fitting = fitting_of(series) or ""
            return _item("overfitting", "curves", run=one.name, epochs=len(series["val_loss"]), fitting=fitting)
    for one in reversed(known.of("crossval")):
        return _item("overfitting", "folds", run=one.name, score=_accuracy(one.result.get("mean")))
    for version in reversed(known.versions):
        held_out = (version.metrics or {}).get("accuracy_out_of_fold")
        if held_out is not None:
            return _item("overfitting", "held_out", version=version.name, score=_accuracy(held_out))
    return _item("overfitting", "none")


def _criterion(known: Known) -> Item:
    for one in reversed(known.evaluations):
        gates = one["result"].get("gates") or {}
        if gates:
            targets = [f"{name} {'≤' if name in AT_MOST else '≥'} {gate['target']:g}" for name, gate in gates.items()]
            decision = known.decided.get(one["version"]) or (one["result"].get("decision") or {}).get("outcome", "-")
            return _item(
                "criterion", "gates", version=one["version"], at=_when(one), gates=_some(targets),
                decision=decision.rstrip("."),
            )  # fmt: skip
    for run in reversed(known.of(*TRAINED)):
        selects = {stage.get("select") for stage in run.config.get("stages", ()) if isinstance(stage, Mapping)}
        if selects - {None}:
            return _item("criterion", "stages", run=run.name, select=_some(sorted(filter(None, selects))))
    return _item("criterion", "none")


def _saved(workspace: Workspace, known: Known) -> Item:
    if not known.versions:
        return _item("saved", "none")
    newest = known.versions[-1]
    where = workspace.where(newest.key)
    try:
        workspace.store.open(newest.key).close()
    except Missing:
        return _item("saved", "lost", version=newest.name, where=where)
    digest = (newest.model_digest or "-")[:12]
    return _item("saved", "version", version=newest.name, count=len(known.versions), where=where, digest=digest)


def _when(evaluation: Mapping[str, Any]) -> str:
    return str(evaluation["at"].isoformat(" ", "minutes"))


def _score(result: Mapping[str, Any]) -> str:
    for name in ("accuracy", "map50", "mae"):
        if result.get(name) is not None:
            return f"{name} {result[name]:.4g}"
    return "-"


def _accuracy(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")

"""Evaluation: a model's answers on the test side, its gates, its comparison with the champion, and the report."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.catalog import answers, samples, snapshots, versions
from everlearn.errors import EverlearnError, Missing, TooFew
from everlearn.evaluate import compare as comparing
from everlearn.evaluate import gates
from everlearn.evaluate.forgetting import forgetting
from everlearn.evaluate.metrics import (
    Answers,
    Metrics,
    RegressionMetrics,
    classification,
    regression,
)
from everlearn.evaluate.open_set import OpenSet, open_set
from everlearn.learn.exact.fit_unknown import points
from everlearn.learn.exact.openset import curve
from everlearn.naming import is_class
from everlearn.stages.answering import Answerer, Named, answerer, named
from everlearn.stages.checking import checklist
from everlearn.stages.reporting import FIGURES, by_part, card_of, costs, described, keep, targets

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sqlalchemy.engine import Connection

    from everlearn.catalog.versions import Version
    from everlearn.evaluate.compare import Comparison
    from everlearn.evaluate.detection.metrics import DetectionMetrics
    from everlearn.evaluate.gates import Decision
    from everlearn.types import Member, Prediction, Progress, SampleId, Snapshot
    from everlearn.workspace import Workspace

CLOSE = 0.05
"""A number counts as answered right within this share of the target's range."""
PAST = 30
"""Earlier versions that forgetting looks back on."""


@dataclass(slots=True)
class Evaluated:
    """values: what --json prints; decision: promote or hold, and why; passed: whether all gates let it through."""

    values: dict[str, Any]
    decision: Decision
    passed: bool

    def lines(self) -> list[str]:
        v = self.values
        lines = [f"{v['model']} on {v['images']} test images:"]
        for name in (*FIGURES, "forgetting", "backward_transfer"):
            if v.get(name) is not None:
                low, high = v["intervals"].get(name) or (None, None)
                lines.append(f"  {name:18}{v[name]:.4f}" + (f"   ({low:.4f} to {high:.4f})" if low is not None else ""))
        if v.get("coarse"):
            told = ", ".join(f"{name} {value:.4f}" for name, value in v["coarse"].items() if value is not None)
            lines.append(f"  the detector alone, by the first part of labels: {told}")
        if v.get("unknown"):
            lines += _about_unknown(v["unknown"])
        for name, gate in v["gates"].items():
            shown = "-" if gate["value"] is None else f"{gate['value']:.4g}"
            lines.append(f"  gate {name:17}{shown:>9}  target {gate['target']:<8g}{'ok' if gate['pass'] else 'FAILED'}")
        return [*lines, f"{self.decision.outcome}: {self.decision.reason}", f"report: {v['report']}"]


def _about_unknown(found: Mapping[str, Any]) -> list[str]:
    rates, low_high = found["false_accept"], found["intervals"]
    lines = []
    for name, value, count in (
        ("false_reject", found["false_reject"], f"of {found['known']} known"),
        ("false_accept", rates["seen"], f"of {found['impostors']} impostors; asked {rates['asked'] or 0:g}"),
    ):
        if value is not None:
            low, high = low_high[name]
            lines.append(f"  {name:18}{value:.4f}   ({low:.4f} to {high:.4f})   {count}")
    return [*lines, "  Known images that are answered unknown count as wrong in the accuracy."]


@dataclass(slots=True)
class Test:
    """The test side, and one model's answers to it. right: (N,); error: (N,) absolute, for `regress`."""

    members: list[Member]
    groups: list[str]
    metrics: Metrics | RegressionMetrics
    right: NDArray[np.bool_]
    error: NDArray[np.float64] | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a model did on the test side, whatever the task. known: the classes it knows; rival: how it stands to the
    champion; history: of each version up to this one its figure for each class, and `names` of them; counts: what
    weighs a class there; card: the model's."""

    metrics: Metrics | RegressionMetrics | DetectionMetrics
    comparison: Comparison | None
    cases: dict[str, bool]
    history: list[dict[str, float]]
    names: list[str]
    counts: dict[str, int]
    card: Mapping[str, Any]
    strangers: OpenSet | None = None
    coarse: Mapping[str, float] | None = None
    """Of a detector with a memory of crops, the figures of the detector alone, by the first part of labels."""


def evaluate(workspace: Workspace, model: str | None, progress: Progress) -> Evaluated:
    """Score a model on the newest snapshot's test side. Raises Missing where there is no model, BadInput where there is
    no test image."""
    chosen = named(workspace, model)
    version = chosen.version
    with workspace.catalog.read() as tx:
        champion = versions.champion(tx)
    snapshot, members = sides(workspace)
    reigns = champion is not None and chosen.file is None and champion.name == version.name
    rival = None if reigns else champion
    if workspace.config.task == "detect":
        from everlearn.stages.detecting import prove as detecting

        outcome = detecting.outcome(workspace, chosen, rival, members, progress)
    else:
        outcome = _outcome(workspace, chosen, rival, snapshot, members, progress)
    past = forgetting(outcome.history, outcome.counts) if outcome.history else None
    headline = outcome.metrics.headline()
    figures = {name: figure.value for name, figure in headline.items()}
    found = gates.judge({**figures, **costs(version)}, targets(workspace, version))
    decision = gates.decide(found, outcome.comparison, outcome.cases, first=champion is None)
    if reigns and not gates.failed(found):
        decision = gates.Decision("promote", "champion")
    report = replace(
        described(workspace, chosen, outcome.card, outcome.metrics),
        gates=found,
        decision=decision,
        champion=champion.name if champion else None,
        comparison=outcome.comparison,
        forgetting=past,
        versions=outcome.names,
        joint_forgetting=past.forgetting.value
        if past and past.forgetting and version.memory_digest
        else None,  # the exact memory is the joint one
        regressions=outcome.cases,
        unknown=outcome.strangers,
    )
    values = {
        "model": chosen.name,
        "champion": champion.name if champion else None,
        "snapshot": snapshot.digest,
        "images": len(members),
        **{name: figures.get(name) for name in FIGURES},
        "intervals": {name: [f.low, f.high] for name, f in headline.items()},
        "forgetting": past.forgetting.value if past and past.forgetting else None,
        "backward_transfer": past.backward_transfer.value if past and past.backward_transfer else None,
        **by_part(outcome.metrics),
        **({} if outcome.coarse is None else {"coarse": dict(outcome.coarse)}),
        "gates": {name: gate.to_json() for name, gate in found.items()},
        "unknown": outcome.strangers.to_json() if outcome.strangers else None,
        "regressions": outcome.cases,
        "comparison": outcome.comparison.to_json() if outcome.comparison else None,
        "decision": decision.to_json(),
        "memory_digest": version.memory_digest,
        "model_digest": version.model_digest,
    }
    if chosen.file is None:
        report = replace(report, checklist=checklist(workspace, values))
    values["report"] = keep(workspace, chosen, snapshot, report, values, rival)
    return Evaluated(values, decision, not gates.failed(found))


def _outcome(
    workspace: Workspace, chosen: Named, rival: Version | None, snapshot: Snapshot, members: Sequence[Member],
    progress: Progress,
) -> Outcome:  # fmt: skip
    own = answerer(workspace, chosen)
    test = tested(workspace, own, members, progress)
    strangers = _unknown(workspace, own, chosen, snapshot, test, progress)
    comparison = None
    if rival is not None:
        other = tested(workspace, answerer(workspace, rival), members, progress)
        comparison = paired(workspace, other, test, looks(workspace, chosen))
    history, names = ([], []) if chosen.file else _history(workspace, chosen.version, own.known, test, progress)
    return Outcome(
        test.metrics, comparison, _cases(workspace, own, progress), history, names, _images_per_class(members),
        card_of(workspace, chosen, own.model), strangers,
    )  # fmt: skip


def test_side(workspace: Workspace) -> list[Member]:
    """What models are tested on. Raises Missing without a snapshot, TooFew without a test image."""
    return sides(workspace)[1]


def sides(workspace: Workspace) -> tuple[Snapshot, list[Member]]:
    with workspace.catalog.read() as tx:
        snapshot = snapshots.latest(tx)
        if snapshot is None:
            raise Missing("There is no snapshot to test on.", "Make one: everlearn dataset build")
        members = [one for one in _held_out(tx, snapshot) if is_class(one.label, _open(workspace))]
    if not members:
        raise TooFew(
            f"None of {snapshot.samples} samples fell on the test side.", "Collect more, or raise dataset.test."
        )
    return snapshot, members


def _held_out(tx: Connection, snapshot: Snapshot) -> Iterator[Member]:
    return (one for one in snapshots.members(tx, snapshot.number) if one.split == "test" and one.parent is None)


def _open(workspace: Workspace) -> bool:
    """Whether `unknown` is no class here, but an answer."""
    return workspace.config.learn.unknown is not None


def looks(workspace: Workspace, chosen: Named) -> int:
    """How many models the test side has judged against a champion, this one among them."""
    with workspace.catalog.read() as tx:
        judged = versions.compared(tx)
    return len(judged | {chosen.name})


def tested(workspace: Workspace, model: Answerer, members: Sequence[Member], progress: Progress) -> Test:
    ids = [one.id for one in members]
    table = model.table(ids, progress)
    with workspace.catalog.read() as tx:
        there = samples.some(tx, ids)
    groups, cameras = [there[id].group_key for id in ids], [there[id].camera for id in ids]
    if workspace.config.task == "regress":
        wanted = np.array([float(one.label) for one in members])
        values = table[:, 0].astype(np.float64)
        metrics = regression(wanted, values, cameras=cameras, ids=ids, groups=groups)
        error = np.abs(values - wanted)
        return Test(list(members), groups, metrics, error <= workspace.config.learn.target.step, error)
    labels = [one.label for one in members]
    names: tuple[str | None, ...] = (*model.known, None) if model.open_set else model.classes
    said = [names[column] for column in table.argmax(axis=1)]
    found = Answers(labels, said, table, model.known, cameras, ids, groups)
    return Test(list(members), groups, classification(found), found.right, None)


def _unknown(
    workspace: Workspace, model: Answerer, chosen: Named, snapshot: Snapshot, test: Test, progress: Progress
) -> OpenSet | None:
    """How often the known are refused and strangers accepted on the test side; None where every answer is a class."""
    if not model.open_set:
        return None
    with workspace.catalog.read() as tx:
        strange = [one.id for one in _held_out(tx, snapshot) if not is_class(one.label, open_set=True)]
    table = model.table(strange, progress)
    taken = table.argmax(axis=1) != len(model.known)
    known = [(one.id, model.known.index(one.label)) for one in test.members if one.label in model.known]
    refused = model.table([id for id, _ in known], progress).argmax(axis=1) == len(model.known)
    promise = card_of(workspace, chosen, model.model).get("unknown") or {}
    impostors, along = _impostors(model, known, strange, progress)
    return open_set(refused, taken, impostors, promise, along)


def _impostors(
    model: Answerer, known: Sequence[tuple[SampleId, int]], strange: Sequence[SampleId], progress: Progress
) -> tuple[NDArray[np.bool_], list[dict[str, float | None]]]:
    """Which of the test side's images a model would accept that had never learned their class, and the curve with these
    and the negatives as impostors. Nothing for a model of another basis: it is answers alone."""
    rejection = getattr(model.head, "unknown", None)
    if model.features is None or rejection is None or not known:
        return np.zeros(0, np.bool_), []
    own = np.array([column for _, column in known])
    phi = model.features.all([id for id, _ in known], progress)
    beside = rejection.scores(model.features.all(list(strange), progress)) if strange else np.empty(0)
    scores = rejection.impostor_scores(phi, own) if rejection.classes > 1 else np.empty(0)
    along = curve(rejection.scores(phi), np.concatenate([scores, beside]))
    return scores > rejection.threshold, points(along)


def paired(workspace: Workspace, champion: Test, candidate: Test, look: int, alpha: float | None = None) -> Comparison:
    """Paired comparison of two models' answers. alpha: another than the configuration's."""
    settings = workspace.config.gates
    cameras = [one.camera for one in candidate.members]
    common = {
        "cameras": cameras,
        "groups": candidate.groups,
        "margin": settings.margin,
        "alpha": settings.alpha if alpha is None else alpha,
        "look": look,
    }
    if champion.error is not None and candidate.error is not None:
        return comparing.compare_errors(champion.error, candidate.error, **common)  # type: ignore[arg-type]
    labels = [one.label for one in candidate.members]
    return comparing.compare(champion.right, candidate.right, labels=labels, **common)  # type: ignore[arg-type]


def _cases(workspace: Workspace, model: Answerer, progress: Progress) -> dict[str, bool]:
    """Reported mistakes: case to whether this model answers it."""
    with workspace.catalog.read() as tx:
        cases = answers.cases(tx)
        there = samples.some(tx, [case["sample_id"] for case in cases])
    ids = [case["sample_id"] for case in cases if there[case["sample_id"]].refusal is None]
    said = dict(zip(ids, model.predictions(ids, progress), strict=True))
    return {
        case["sample_id"]: _answers(workspace, said[case["sample_id"]], case)
        for case in cases
        if case["sample_id"] in said
    }


def _answers(workspace: Workspace, answer: Prediction, case: Mapping[str, Any]) -> bool:
    """Whether a reported mistake is mended; where only the mistake is known, whether it is not made again."""
    right, wrong = case["right"], case["wrong"]
    if answer.value is None:
        return answer.label == right if right is not None else answer.label != wrong
    if right is not None:
        return close_enough(workspace, answer.value, float(right))
    return wrong is None or not close_enough(workspace, answer.value, float(wrong))


def close_enough(workspace: Workspace, said: float, true: float) -> bool:
    """Whether a number counts as answered right."""
    target = workspace.config.learn.target
    return abs(said - true) <= max(target.step, CLOSE * (target.high - target.low))


def _history(
    workspace: Workspace, version: Version, classes: Sequence[str], test: Test, progress: Progress
) -> tuple[list[dict[str, float]], list[str]]:
    """Accuracy of each class a version knew, on today's test images, for the versions up to this one, oldest first.
    classes: those that this one knows."""
    if workspace.config.task != "classify":
        return [], []
    with workspace.catalog.read() as tx:
        before = [one for one in versions.every(tx) if not one.retired and one.number < version.number][-PAST:]
    history, names = [], []
    for one in before:
        try:
            model = answerer(workspace, one)
        except EverlearnError:  # a version whose files are gone tells nothing
            continue
        if model.features is None:  # of another basis: every image would have to go through its network again
            continue
        known = set(model.classes)
        asked = [member for member in test.members if member.label in known]
        if not asked:
            continue
        said = model.table([member.id for member in asked], progress).argmax(axis=1)
        right = [model.classes[column] == member.label for column, member in zip(said, asked, strict=True)]
        history.append(_by_class([member.label for member in asked], right, known))
        names.append(one.name)
    labels = [member.label for member in test.members]
    return [*history, _by_class(labels, test.right.tolist(), set(classes))], [*names, version.name]


def _by_class(labels: Sequence[str], right: Sequence[bool], known: Collection[str]) -> dict[str, float]:
    hits: dict[str, list[bool]] = {}
    for label, good in zip(labels, right, strict=True):
        if label in known:
            hits.setdefault(label, []).append(good)
    return {label: sum(all_) / len(all_) for label, all_ in sorted(hits.items())}


def _images_per_class(members: Sequence[Member]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in members:
        counts[one.label] = counts.get(one.label, 0) + 1
    return counts

"""Evaluation: a model's answers on the test side, its gates, its comparison with the champion, and the report."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn import faults, registry
from everlearn.catalog import answers, samples, snapshots, turns, versions
from everlearn.catalog.tables import now
from everlearn.errors import BadInput, EverlearnError, Missing
from everlearn.evaluate import compare as comparing
from everlearn.evaluate import gates
from everlearn.evaluate.forgetting import forgetting
from everlearn.evaluate.metrics import Answers, Metrics, RegressionMetrics, classification, regression
from everlearn.evaluate.report import DataScore, Report, render_html, render_json
from everlearn.learn.exact.head import Head
from everlearn.learn.features import Features, images
from everlearn.naming import render_model_name
from everlearn.stages import teach
from everlearn.types import Prediction
from everlearn.workspace import EVALUATIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.catalog.versions import Version
    from everlearn.evaluate.compare import Comparison
    from everlearn.evaluate.gates import Decision
    from everlearn.types import Member, Progress, SampleId
    from everlearn.workspace import Workspace

PAST = 30
"""Earlier versions that forgetting looks back on."""
SHOWN = 24
"""Pictures in a report."""


class Answerer:
    """Answers of one model for samples of the workspace. classes: what it knows, () for `regress`."""

    def __init__(self, workspace: Workspace, head: Head, features: Features | None, model: Any = None) -> None:
        self.workspace, self.head, self.features, self.model = workspace, head, features, model
        self.classes: tuple[str, ...] = head.classes if head is not None else tuple(model.classes)

    def table(self, ids: Sequence[SampleId], progress: Progress) -> NDArray[np.floating]:
        """(N, C) probabilities, or (N, 1) values for `regress`."""
        parts = []
        if self.features is not None:
            for _, phi in self.features.batches(ids, progress):
                parts.append(self.head.values(phi)[:, None] if self.head.target else self.head.probabilities(phi))
        else:
            for start in range(0, len(ids), 256):
                parts.append(self.model.table(images(self.workspace, ids[start : start + 256])))
        return np.concatenate(parts) if parts else np.zeros((0, max(1, len(self.classes))), np.float32)

    def predictions(self, ids: Sequence[SampleId], progress: Progress) -> list[Prediction]:
        return [prediction(row, self.classes) for row in self.table(ids, progress)]


def prediction(row: NDArray[np.floating], classes: Sequence[str], most: int = 10) -> Prediction:
    """One row of an answer table, in words."""
    if not classes:
        return Prediction(None, 1.0, {}, float(row[0]))
    best = np.argsort(-row, kind="stable")[:most]
    scores = {classes[column]: float(row[column]) for column in best}
    return Prediction(classes[best[0]], float(row[best[0]]), scores)


def answerer(workspace: Workspace, model: Version | str) -> Answerer:
    """A version of the workspace, by the cached features where they are of its basis; or any ONNX bundle by its path."""
    from everlearn.model.bundle import OnnxModel

    if isinstance(model, str):
        return Answerer(workspace, None, None, OnnxModel(Path(model)))  # type: ignore[arg-type]
    basis = teach.basis(workspace)
    if registry.card(workspace, model).get("basis_digest") == basis.digest:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "head.npz"
            path.write_bytes(registry.bundle_file(workspace, model, "/head.npz"))
            return Answerer(workspace, Head.load(path), Features(workspace, basis))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(registry.bundle_file(workspace, model, ".onnx"))
        return Answerer(workspace, None, None, OnnxModel(path))  # type: ignore[arg-type]


def named(workspace: Workspace, model: str) -> Version | str:
    """A version, or the path of an ONNX file."""
    if model.endswith(".onnx") and Path(model).is_file():
        return model
    with workspace.catalog.read() as tx:
        found = versions.get(tx, model)
    if found.retired:
        raise BadInput(f"{found.name} is retired: it knew samples that were forgotten.", "Choose a newer one.")
    return found


@dataclass(slots=True)
class Evaluated:
    """values: what --json prints; decision: promote or hold, and why; passed: whether all gates let it through."""

    values: dict[str, Any]
    decision: Decision
    passed: bool

    def lines(self) -> list[str]:
        v = self.values
        lines = [f"{v['model']} on {v['images']} test images:"]
        for name in (
            "accuracy",
            "precision",
            "recall",
            "f1",
            "ece",
            "mae",
            "mse",
            "r2",
            "forgetting",
            "backward_transfer",
        ):
            if v.get(name) is not None:
                low, high = v["intervals"].get(name) or (None, None)
                lines.append(f"  {name:18}{v[name]:.4f}" + (f"   ({low:.4f} to {high:.4f})" if low is not None else ""))
        for name, gate in v["gates"].items():
            shown = "-" if gate["value"] is None else f"{gate['value']:.4g}"
            lines.append(f"  gate {name:13}{shown:>8}  target {gate['target']:<8g}{'ok' if gate['pass'] else 'FAILED'}")
        return [*lines, f"{self.decision.outcome}: {self.decision.reason}", f"report: {v['report']}"]


@dataclass(slots=True)
class _Test:
    """The test side, and one model's answers to it. right: (N,); error: (N,) absolute, for `regress`."""

    members: list[Member]
    groups: list[str]
    metrics: Metrics | RegressionMetrics
    right: NDArray[np.bool_]
    error: NDArray[np.float64] | None


def evaluate(workspace: Workspace, model: str | None, progress: Progress) -> Evaluated:
    """Score a model on the newest snapshot's test side. Raises Missing where there is no model, BadInput where there is
    no test image."""
    with workspace.catalog.read() as tx:
        version = versions.get(tx, model)
        champion = versions.champion(tx)
        snapshot = snapshots.latest(tx)
        earlier = versions.evaluations(tx)
    assert snapshot is not None  # a version has one
    if version.retired:
        raise BadInput(f"{version.name} is retired: it knew samples that were forgotten.", "Choose a newer one.")
    members = test_side(workspace)
    own = answerer(workspace, version)
    test = _test(workspace, own, members, progress)
    rival = champion if champion and champion.name != version.name else None
    comparison = None
    if rival is not None:
        other = _test(workspace, answerer(workspace, rival), members, progress)
        looks = {one["version"] for one in earlier if one["champion"] is not None} | {version.name}
        comparison = _compared(workspace, other, test, len(looks))
    cases = _cases(workspace, own, progress)
    history, names = _history(workspace, version, test, progress)
    past = forgetting(history, _images_per_class(members)) if workspace.config.task == "classify" else None
    figures = {name: figure.value for name, figure in test.metrics.headline().items()}
    found = gates.judge({**figures, **_costs(version)}, _targets(workspace))
    decision = gates.decide(found, comparison, cases, first=champion is None)
    if champion is not None and champion.name == version.name and not gates.failed(found):
        decision = gates.Decision("promote", "champion")
    report = _report(workspace, version, test, found, decision, comparison, past, names, cases, progress)
    values = {
        "model": version.name,
        "champion": champion.name if champion else None,
        "snapshot": snapshot.digest,
        "images": len(members),
        **{name: figures.get(name) for name in ("accuracy", "precision", "recall", "f1")},
        **figures,
        "intervals": {name: [f.low, f.high] for name, f in test.metrics.headline().items()},
        "forgetting": past.forgetting.value if past and past.forgetting else None,
        "backward_transfer": past.backward_transfer.value if past and past.backward_transfer else None,
        "classes": _per_class(test.metrics),
        "gates": {name: gate.to_json() for name, gate in found.items()},
        "regressions": cases,
        "comparison": comparison.to_json() if comparison else None,
        "decision": decision.to_json(),
        "memory_digest": version.memory_digest,
        "model_digest": version.model_digest,
    }
    values["report"] = _keep(workspace, version, report, values, rival)
    return Evaluated(values, decision, not gates.failed(found))


def compare(workspace: Workspace, a: str, b: str, progress: Progress) -> Comparison:
    """Paired comparison of two models on the newest test side; b would replace a."""
    members = test_side(workspace)
    first, second = (
        _test(workspace, answerer(workspace, named(workspace, name)), members, progress) for name in (a, b)
    )
    return _compared(workspace, first, second, look=1)


def test_side(workspace: Workspace) -> list[Member]:
    with workspace.catalog.read() as tx:
        snapshot = snapshots.latest(tx)
        if snapshot is None:
            raise Missing("There is no snapshot to test on.", "Make one: everlearn dataset build")
        members = [one for one in snapshots.members(tx, snapshot.number) if one.split == "test" and one.parent is None]
    if not members:
        raise BadInput(
            f"None of {snapshot.samples} samples fell on the test side.", "Collect more, or raise dataset.test."
        )
    return members


def _test(workspace: Workspace, model: Answerer, members: Sequence[Member], progress: Progress) -> _Test:
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
        return _Test(list(members), groups, metrics, error <= workspace.config.learn.target.step, error)
    labels = [one.label for one in members]
    said = [model.classes[column] for column in table.argmax(axis=1)]
    found = Answers(labels, said, table, model.classes, cameras, ids, groups)
    return _Test(list(members), groups, classification(found), found.right, None)


def _compared(workspace: Workspace, champion: _Test, candidate: _Test, look: int) -> Comparison:
    settings = workspace.config.gates
    cameras = [one.camera for one in candidate.members]
    common = {
        "cameras": cameras,
        "groups": candidate.groups,
        "margin": settings.margin,
        "alpha": settings.alpha,
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
    step = workspace.config.learn.target.step
    found = {}
    for case in cases:
        if case["sample_id"] not in said:
            continue
        answer, right = said[case["sample_id"]], case["right"]
        if answer.value is not None:
            found[case["sample_id"]] = right is None or abs(answer.value - float(right)) <= max(
                step, 0.05 * abs(float(right))
            )
        else:
            found[case["sample_id"]] = answer.label == right if right is not None else answer.label != case["wrong"]
    return found


def _history(
    workspace: Workspace, version: Version, test: _Test, progress: Progress
) -> tuple[list[dict[str, float]], list[str]]:
    """Accuracy of each class a version knew, on today's test images, for the versions up to this one, oldest first."""
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
        ids = [member.id for member in test.members if member.label in model.classes]
        if not ids:
            continue
        said = [model.classes[column] for column in model.table(ids, progress).argmax(axis=1)]
        truth = [member.label for member in test.members if member.label in model.classes]
        history.append(_by_class(truth, [a == b for a, b in zip(truth, said, strict=True)]))
        names.append(one.name)
    labels = [member.label for member in test.members]
    return [*history, _by_class(labels, test.right.tolist())], [*names, version.name]


def _by_class(labels: Sequence[str], right: Sequence[bool]) -> dict[str, float]:
    hits: dict[str, list[bool]] = {}
    for label, good in zip(labels, right, strict=True):
        hits.setdefault(label, []).append(good)
    return {label: sum(all_) / len(all_) for label, all_ in sorted(hits.items())}


def _images_per_class(members: Sequence[Member]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in members:
        counts[one.label] = counts.get(one.label, 0) + 1
    return counts


def _per_class(metrics: Metrics | RegressionMetrics) -> dict[str, Any]:
    return {one.name: one.to_json() for one in metrics.classes} if isinstance(metrics, Metrics) else {}


def _targets(workspace: Workspace) -> dict[str, float]:
    settings = workspace.config.gates
    names = ("mae", "r2") if workspace.config.task == "regress" else ("accuracy", "precision", "recall", "f1")
    targets = {name: getattr(settings, name) for name in names}
    targets["training_seconds"] = settings.training_hours and settings.training_hours * 3600
    targets["memory_bytes"] = settings.memory_gb and settings.memory_gb * 1e9
    return {name: target for name, target in targets.items() if target is not None}


def _costs(version: Version) -> dict[str, float | None]:
    found = version.metrics or {}
    return {"training_seconds": found.get("seconds"), "memory_bytes": found.get("memory_bytes")}


def _report(
    workspace: Workspace, version: Version, test: _Test, found: Mapping[str, Any], decision: Decision,
    comparison: Comparison | None, past: Any, names: Sequence[str], cases: Mapping[str, bool], progress: Progress,
) -> Report:  # fmt: skip
    card = registry.card(workspace, version)
    data, data_gates = _data(workspace)
    lineage = {
        "version": version.name, "parent": version.parent, "snapshot": card.get("snapshot"),
        "memory_digest": version.memory_digest, "model_digest": version.model_digest, "backbone": version.backbone,
        "licence": version.licence, "learner": version.learner, "head": card.get("head"),
        "code_version": version.code_version,
    }  # fmt: skip
    return Report(
        model=version.name,
        task=workspace.config.task,
        created_at=now(),
        metrics=test.metrics,
        gates=found,
        decision=decision,
        comparison=comparison,
        forgetting=past,
        versions=names,
        joint_forgetting=past.forgetting.value if past and past.forgetting else None,
        regressions=cases,
        data=data,
        data_gates=data_gates,
        lineage=lineage,
        pixels=_pixels(workspace, [one.id for one in test.metrics.mistakes][:SHOWN]),
    )


def _data(workspace: Workspace) -> tuple[list[DataScore], dict[str, Any]]:
    """The data set's scores as the newest turn found them."""
    with workspace.catalog.read() as tx:
        kept = turns.setting_of(tx, "data_scores") or {}
    scores = [
        DataScore(name, value, tuple((id, "") for id in kept.get("culprits", {}).get(name, [])[:SHOWN]))
        for name, value in kept.get("scores", {}).items()
    ]
    values = kept.get("scores", {})
    settings = workspace.config.gates
    targets = {name: getattr(settings, name) for name in gates.DATA_TARGETS if getattr(settings, name) is not None}
    return scores, gates.judge(values, targets, dict.fromkeys(targets, "there was nothing to score"))


def _pixels(workspace: Workspace, ids: Sequence[SampleId]) -> dict[SampleId, Any]:
    with workspace.catalog.read() as tx:
        shown = [one.id for one in samples.some(tx, [id for id in ids if id]).values() if one.kind == "image"]
    return dict(zip(shown, images(workspace, shown), strict=True))


def _keep(
    workspace: Workspace, version: Version, report: Report, values: Mapping[str, Any], rival: Version | None
) -> str:
    """Store the report and the evaluation; returns where the report is."""
    major, minor = (int(part) for part in version.name[1:].split("."))
    key = f"{EVALUATIONS}/evaluation_{render_model_name(major, minor, now(), 'html').removeprefix('model_')}"
    texts = {".html": render_html(report), ".ko.html": render_html(report, "ko"), ".json": render_json(report)}
    for ending, text in texts.items():
        workspace.store.put(key.removesuffix(".html") + ending, io.BytesIO(text.encode()))
    faults.point("evaluate.stored")
    with workspace.catalog.write() as tx:
        versions.evaluated(
            tx, version.name, values, snapshot=version.snapshot, champion=rival.name if rival else None, report_key=key
        )
        facts = {
            **(version.metrics or {}),
            **{n: values.get(n) for n in ("accuracy", "precision", "recall", "f1", "mae", "r2")},
        }
        versions.change(tx, version.name, metrics={name: value for name, value in facts.items() if value is not None})
    where = workspace.config.store or str(workspace.root)
    return f"{where}/{key}"

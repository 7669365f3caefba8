"""What an evaluation is written down as: its targets, its report with the lineage and the data, the catalog's row."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from everlearn import faults, registry
from everlearn.catalog import samples, scenes, turns, versions
from everlearn.catalog.tables import now
from everlearn.evaluate.detection.metrics import DetectionMetrics
from everlearn.evaluate.detection.pictures import case_pictures
from everlearn.evaluate.metrics import Metrics, RegressionMetrics
from everlearn.evaluate.plots import shrunk
from everlearn.evaluate.report import ROWS, DataScore, Report, render_html, render_json
from everlearn.learn.features import images
from everlearn.naming import escape, render_model_name
from everlearn.stages.answering import Named
from everlearn.stages.validating import data_gates
from everlearn.workspace import EVALUATIONS

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.types import SampleId, Snapshot
    from everlearn.workspace import Workspace

FIGURES = ("accuracy", "precision", "recall", "f1", "ece", "mae", "mse", "rmse", "r2", "map50", "map50_95")
"""Headline figures of an evaluation; those of another task are null."""
NAMED = 12
"""Images shown for each score of the data."""
OF_FILES = "file_"
"""How the names of reports on files begin; no row names them."""


TARGETS = {
    "classify": ("accuracy", "precision", "recall", "f1"),
    "regress": ("mae", "r2"),
    "detect": ("map50", "map50_95", "precision", "recall", "f1"),
}
"""Of the figures those that the configuration sets gates on, by task."""


def by_part(metrics: Metrics | RegressionMetrics | DetectionMetrics) -> dict[str, Any]:
    """An evaluation's tables: by class, by camera, and for detectors by size and kind of mistake."""
    found: dict[str, Any] = {
        "classes": {} if isinstance(metrics, RegressionMetrics) else tabled(metrics.classes),
        "cameras": tabled(metrics.cameras),
    }
    if isinstance(metrics, DetectionMetrics):
        errors = metrics.errors.to_json()
        found |= {"sizes": tabled(metrics.sizes), "boxes": metrics.boxes, "confidence": metrics.confidence}
        found["errors"] = {name: value for name, value in errors.items() if name != "cases"}
    return found


class Row(Protocol):
    """A line of a table of scores."""

    @property
    def name(self) -> str: ...
    def to_json(self) -> dict[str, Any]: ...


def tabled(scores: Sequence[Row]) -> dict[str, Any]:
    return {one.name: one.to_json() for one in scores}


def targets(workspace: Workspace, version: Version) -> dict[str, float]:
    settings = workspace.config.gates
    targets = {name: getattr(settings, name) for name in TARGETS[workspace.config.task]}
    if version.metrics is not None:  # of a file it is not known what its training took
        targets["training_seconds"] = settings.training_hours and settings.training_hours * 3600
        targets["memory_bytes"] = settings.memory_gb and settings.memory_gb * 1e9
        trained = ("best_epoch", "gpu_utilisation")  # what has no epochs, or used no GPU, has no gate for it
        targets |= {name: getattr(settings, name) for name in trained if version.metrics.get(name) is not None}
    return {name: target for name, target in targets.items() if target is not None}


def costs(version: Version) -> dict[str, float | None]:
    found = version.metrics or {}
    renamed = {"training_seconds": "seconds"}
    costs = ("training_seconds", "memory_bytes", "best_epoch", "gpu_utilisation")
    return {name: found.get(renamed.get(name, name)) for name in costs}


def described(
    workspace: Workspace,
    chosen: Named,
    card: Mapping[str, Any],
    metrics: Metrics | RegressionMetrics | DetectionMetrics,
) -> Report:
    """A report with what is known of a model and of the data before anything is decided."""
    version = chosen.version
    data, data_gates = _data(workspace)
    lineage = {
        "version": version.name, "parent": version.parent, "snapshot": card.get("snapshot"),
        "memory_digest": version.memory_digest, "model_digest": version.model_digest, "backbone": version.backbone,
        "licence": version.licence, "learner": version.learner, "head": card.get("head"),
        "code_version": version.code_version,
    }  # fmt: skip
    shown = [] if isinstance(metrics, DetectionMetrics) else [one.id for one in metrics.mistakes][:ROWS]
    shown += [id for score in data for id, _ in score.worst]
    pixels = _pixels(workspace, shown)
    if isinstance(metrics, DetectionMetrics):
        pixels |= case_pictures(metrics.mistakes, lambda id: images(workspace, [id])[0])
    return Report(
        model=chosen.name,
        task=workspace.config.task,
        created_at=now(),
        metrics=metrics,
        data=data,
        data_gates=data_gates,
        lineage=lineage,
        pixels=pixels,
    )


def card_of(workspace: Workspace, chosen: Named, model: Any) -> Mapping[str, Any]:
    """The card of a version, or of a model that was given as a file."""
    return model.card if chosen.file is not None and model is not None else registry.card(workspace, chosen.version)


def _data(workspace: Workspace) -> tuple[list[DataScore], dict[str, Any]]:
    """The data set's scores as the newest turn found them."""
    with workspace.catalog.read() as tx:
        kept = turns.setting_of(tx, "data_scores") or {}
        culprits = kept.get("culprits", {})
        there = samples.some(tx, [id for ids in culprits.values() for id in ids])
        words = scenes.words(tx, {one.label for one in there.values()})
    values = kept.get("scores", {})
    scores = [
        DataScore(name, value, tuple((id, words.get(there[id].label or "", "")) for id in ids if id in there)[:NAMED])
        for name, value in values.items()
        for ids in [culprits.get(name, [])]
    ]
    return scores, data_gates(workspace, values)


def _pixels(workspace: Workspace, ids: Sequence[SampleId]) -> dict[SampleId, Any]:
    with workspace.catalog.read() as tx:
        shown = [one.id for one in samples.some(tx, [id for id in ids if id]).values() if one.kind == "image"]
    return dict(zip(shown, images(workspace, shown, shrunk), strict=True))


def _free(workspace: Workspace, version: Version, key: str) -> str:
    """A name of its own for each report: that of a candidate stays when it is evaluated again as champion."""
    with workspace.catalog.read() as tx:
        taken = {row["report_key"] for row in versions.evaluations(tx, version.name)}
    number = 1
    while key in taken:
        number += 1
        key = f"{key.removesuffix('.html').partition('-')[0]}-{number}.html"
    return key


def keep(
    workspace: Workspace, chosen: Named, snapshot: Snapshot, report: Report, values: Mapping[str, Any],
    rival: Version | None,
) -> str:  # fmt: skip
    """Store the report and the evaluation; returns where the report is. Of a file only the report is kept."""
    version = chosen.version
    if chosen.file is not None:
        key = f"{EVALUATIONS}/{OF_FILES}{escape(chosen.file.stem)[:100]}_{now():%Y%m%d}.html"
    else:
        major, minor = (int(part) for part in version.name[1:].split("."))
        stem = f"{EVALUATIONS}/evaluation_{render_model_name(major, minor, now(), 'html').removeprefix('model_')}"
        key = _free(workspace, version, stem)
    texts = {".html": render_html(report), ".ko.html": render_html(report, "ko"), ".json": render_json(report)}
    for ending, text in texts.items():
        workspace.store.put(key.removesuffix(".html") + ending, io.BytesIO(text.encode()))
    faults.point("evaluate.stored")
    where = workspace.where(key)
    if chosen.file is not None:
        return where
    with workspace.catalog.write() as tx:
        opponent = rival.name if rival else None
        versions.evaluated(
            tx, version.name, {**values, "report": where}, snapshot=snapshot.number, champion=opponent, report_key=key
        )
        figures = {name: values[name] for name in FIGURES if values[name] is not None}
        versions.change(tx, version.name, metrics={**(version.metrics or {}), **figures})
    faults.point("evaluate.committed")
    return where

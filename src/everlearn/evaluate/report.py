"""One self-contained HTML page about one evaluation, and the same content as JSON.

The page is one file: its style and pictures are in it, it has no scripts and asks the network for nothing (its
content security policy says so too). All names are escaped.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from everlearn.errors import BadInput
from everlearn.evaluate import plots
from everlearn.evaluate.checklist import Item
from everlearn.evaluate.compare import Comparison
from everlearn.evaluate.detection import DetectionMetrics
from everlearn.evaluate.detection import pictures as pictured
from everlearn.evaluate.detection import plots as detection_plots
from everlearn.evaluate.figures import Result, plain
from everlearn.evaluate.forgetting import Forgetting
from everlearn.evaluate.gates import Decision, Gate
from everlearn.evaluate.metrics import ClassScore, Metrics, RegressionMetrics
from everlearn.evaluate.open_set import OpenSet
from everlearn.evaluate.plots import readable
from everlearn.evaluate.words import WORDS, Lang

if TYPE_CHECKING:
    from everlearn.evaluate.detection.errors import ClassErrors
    from everlearn.evaluate.detection.metrics import ClassScore as ClassAP
    from everlearn.types import Image, SampleId, Scalar, Task

GOOD = 0.995
"""A score of the data set above which nothing is said to pull it down."""
ROWS = 50
"""Rows of a table, and pictures, on the page; the JSON has all."""
SHARES = frozenset(
    {"accuracy", "precision", "recall", "f1", "ece", "map50", "map50_95", "forgetting", "gpu_utilisation"}
)
"""Figures shown in per cent."""


@dataclass(frozen=True, slots=True)
class DataScore(Result):
    """A score of the data set, 0-1, and the images that pull it down: (sample id, why or its own score as text)."""

    name: str
    value: float | None
    worst: tuple[tuple[SampleId, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Report(Result):
    """All that one evaluation has found. What does not exist is None or empty, and its section says so or is left out.

    champion: its name, which may be this model's.

    versions: names of the versions in `forgetting`, oldest first. joint_forgetting: the forgetting of a model trained
    on everything at once. regressions: reported mistakes -> answered right. unknown: where
    that is an answer. checklist: what was done before the model is trusted. lineage: what the model comes from; keys
    that `words` knows are translated. pixels: thumbnails' sources by sample id, for any id named in the report; a
    detector's errors have pictures of their own, by the key of the case (`detection.pictures.case_pictures`).
    """

    model: str
    task: Task
    created_at: datetime
    metrics: Metrics | RegressionMetrics | DetectionMetrics
    gates: Mapping[str, Gate] = field(default_factory=dict)
    decision: Decision | None = None
    champion: str | None = None
    comparison: Comparison | None = None
    forgetting: Forgetting | None = None
    versions: Sequence[str] = ()
    joint_forgetting: float | None = None
    regressions: Mapping[str, bool] = field(default_factory=dict)
    unknown: OpenSet | None = None
    data: Sequence[DataScore] = ()
    data_gates: Mapping[str, Gate] = field(default_factory=dict)
    checklist: Sequence[Item] = ()
    lineage: Mapping[str, Scalar] = field(default_factory=dict)
    pixels: Mapping[SampleId, Image] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name != "pixels"}


def render_json(report: Report) -> str:
    """The whole report as JSON text; names in their own script."""
    text = json.dumps(report.to_json(), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    return text.encode("utf-8", "backslashreplace").decode()  # a name that is no Unicode stays escaped


def render_html(report: Report, lang: Lang = "en") -> str:
    """The page as text, to be stored as UTF-8. Raises BadInput for a language that there is not."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    if lang not in WORDS:
        raise BadInput(f"There is no report in {lang!r}.", f"Use one of: {', '.join(WORDS)}.")
    words = WORDS[lang]
    page = Environment(
        loader=PackageLoader("everlearn.evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters |= {
        "name": lambda name: readable(str(name)) or words["unknown"],
        "share": _share,
        "number": _number,
        "points": partial(_points, words=words),
        "figure": _figure,
    }
    cases = {case.key for case in report.metrics.mistakes} if isinstance(report.metrics, DetectionMetrics) else ()
    pictures = {
        key: _uri(plots.thumbnail(image, pictured.SIDE if key in cases else plots.SIDE), "jpeg")
        for key, image in report.pixels.items()
    }
    return page.get_template("report.html.j2").render(
        r=report,
        w=words,
        lang=lang,
        rows=ROWS,
        good=GOOD,
        plots=_plots(report, words),
        pictures=pictures,
        classes=_lowest(report.metrics),
        by_errors=_most_errors(report.metrics),
        colours={kind: "#{:02x}{:02x}{:02x}".format(*colour) for kind, colour in pictured.COLOURS.items()},
        scale=_scale(report.comparison),
    )


def _plots(report: Report, words: Mapping[str, str]) -> dict[str, str]:
    """The plots that this report has something to show in, as data URIs."""
    found: dict[str, bytes] = {}
    metrics = report.metrics
    if isinstance(metrics, Metrics):
        if metrics.confusion.classes:
            found["confusion"] = plots.confusion_matrix(metrics.confusion, words)
        if metrics.reliability:
            found["reliability"] = plots.reliability(metrics.reliability, words)
        found["classes"] = plots.class_bars(metrics.classes, words)
    elif isinstance(metrics, DetectionMetrics):
        found |= _detection_plots(metrics, words)
        words = {**words, "mean_accuracy": words["mean_ap50"]}
    if report.unknown is not None and (report.unknown.curve or report.unknown.learned):
        found["unknown"] = plots.false_accepts(report.unknown, words)
    if report.forgetting is not None and report.forgetting.forgetting is not None:
        found["versions"] = plots.over_versions(report.forgetting, report.versions, words)
    return {name: _uri(image, "svg+xml") for name, image in found.items()}


def _detection_plots(metrics: DetectionMetrics, words: Mapping[str, str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    if metrics.confusion.classes:
        found["confusion"] = detection_plots.confusion_matrix(metrics.confusion, words)
    if metrics.curves:
        found["classes"] = detection_plots.class_bars(metrics.classes, words)
        found["precision_recall"] = detection_plots.precision_recall(metrics.curves, words)
        for line in get_args(detection_plots.Line):
            found[line] = detection_plots.over_confidence(metrics.curves, line, metrics.confidence, words)
    return found


def _uri(image: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{b64encode(image).decode()}"


def _lowest(metrics: Metrics | RegressionMetrics | DetectionMetrics) -> list[ClassScore] | list[ClassAP]:
    """Classes in the test, lowest F1 (of a detector AP50) first, then those that are not in it."""
    if isinstance(metrics, DetectionMetrics):
        return sorted(metrics.classes, key=lambda c: (c.ap50 is None, c.ap50 or 0.0, c.name))
    if not isinstance(metrics, Metrics):
        return []
    return sorted(metrics.classes, key=lambda c: (c.f1 is None, c.f1 or 0.0, c.name))


def _most_errors(metrics: Metrics | RegressionMetrics | DetectionMetrics) -> list[ClassErrors]:
    """A detector's classes with errors, those with the most first."""
    if not isinstance(metrics, DetectionMetrics):
        return []
    with_errors = [one for one in metrics.errors.classes if any(one.counts.values())]
    return sorted(with_errors, key=lambda one: (-sum(one.counts.values()), one.name))


def _scale(comparison: Comparison | None) -> dict[str, float] | None:
    """Places of the comparison's interval, value and margin on a line from 0 to 100, with zero in the middle."""
    if comparison is None:
        return None
    reach = 1.15 * max(*map(abs, comparison.interval), comparison.margin)
    marks = {"low": comparison.interval[0], "high": comparison.interval[1], "value": comparison.difference}
    marks |= {"margin": -comparison.margin, "zero": 0.0}
    return {name: round(50 + 50 * mark / reach, 2) for name, mark in marks.items()}


def _share(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"


def _points(value: float | None, words: Mapping[str, str]) -> str:
    """A difference of shares, in hundredths and with its sign."""
    return "–" if value is None else f"{100 * value:+.2f} {words['points']}".replace("-", "−")


def _figure(value: float | None, name: str) -> str:
    """A figure as its kind is written: shares in per cent, times and sizes with their unit, the rest as numbers."""
    if value is not None and name == "memory_bytes":
        return f"{value / 1e9:.3g} GB"
    if value is not None and name == "training_seconds":
        return f"{value:,.3g} s" if value < 100 else f"{value:,.0f} s"
    return _share(value) if name in SHARES else _number(value)

"""The page: whole, escaped, self-contained, in both languages; and the plots in it."""

from __future__ import annotations

import io
import json
import re
from base64 import b64decode
from datetime import datetime
from html.parser import HTMLParser
from string import Formatter
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image as Pillow

from everlearn.errors import BadInput
from everlearn.evaluate import metrics, plots
from everlearn.evaluate.compare import compare, compare_errors
from everlearn.evaluate.forgetting import forgetting
from everlearn.evaluate.gates import DATA_TARGETS, MODEL_TARGETS, decide, judge
from everlearn.evaluate.metrics import Answers, classification, regression
from everlearn.evaluate.report import DataScore, Report, render_html, render_json
from everlearn.evaluate.words import WORDS

HOSTILE = [
    "<script>alert(1)</script>",
    "김지수",
    '"><img src=x onerror=alert(2)>',
    "$x^2$ {{ 7*7 }}",
    "a\nb\u202e\x00",
    "",
]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 20)


def report(names: list[str] = HOSTILE, rows: int = 240) -> Report:
    rng = np.random.default_rng(0)
    labels = [names[i % len(names)] for i in range(rows)]
    said = [label if rng.random() < 0.8 else str(rng.choice(names)) for label in labels]
    ids = [f"{i:032x}" for i in range(rows)]
    answers = Answers(labels, said, rng.random(rows), names, [names[i % min(3, len(names))] for i in range(rows)], ids)
    scores = classification(answers)
    comparison = compare(np.arange(rows) % 2 > 0, answers.right, labels=labels)
    gates = judge({name: figure.value for name, figure in scores.headline().items()}, MODEL_TARGETS)
    history = [dict.fromkeys(names, 0.9), {c.name: c.recall or 0.0 for c in scores.classes}]
    return Report(
        model="v1.2",
        task="classify",
        created_at=datetime(2025, 7, 4, 13, 30),
        metrics=scores,
        gates=gates,
        decision=decide(gates, comparison, {}, first=False),
        comparison=comparison,
        forgetting=forgetting(history, dict.fromkeys(names, 40)),
        versions=["v1.1", "v1.2"],
        joint_forgetting=0.0,
        regressions={ids[0]: True},
        data=[DataScore("diversity", 0.6, ((ids[0], names[0]), (ids[1], "alike")))],
        data_gates=judge({"diversity": 0.6}, DATA_TARGETS),
        lineage={"parent": "v1.1", "licence": names[0], "memory_digest": None},
        pixels={ids[0]: np.zeros((8, 9, 3), np.uint8), scores.mistakes[0].id: np.full((300, 200, 3), 9, np.uint8)},
    )


class Page(HTMLParser):
    """What a browser would build from the page, and what it would ask for."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_names_are_text_and_nothing_is_asked_of_the_network(lang: str) -> None:
    html = render_html(report(), lang)  # type: ignore[arg-type]
    html.encode("utf-8")
    page = Page(html)
    assert page.open == []
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    assert page.tags.count("style") == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name in ("srcset", "background")]
    for tag, name, value in page.attributes:
        if name in ("src", "href"):
            assert value.startswith("data:image/" if tag == "img" else "#")
    assert "url(" not in html
    assert "@import" not in html
    assert ("meta", "content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes
    shown = "".join(page.words)
    assert HOSTILE[0] in shown
    assert "김지수" in shown
    assert "{{ 7*7 }}" in shown
    assert "\u202e" not in html
    assert ("html", "lang", lang) in page.attributes


def test_page_is_accessible() -> None:
    page = Page(render_html(report()))
    images = page.tags.count("img")
    alts = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert images == len(alts) > 4
    assert all(alts)
    assert page.tags.count("th") == sum((tag, name) == ("th", "scope") for tag, name, _ in page.attributes)
    targets = {value for _, name, value in page.attributes if name == "id"}
    assert {value[1:] for tag, name, value in page.attributes if (tag, name) == ("a", "href")} <= targets


def test_every_plot_and_thumbnail_is_a_picture() -> None:
    html = render_html(report())
    found = re.findall(r'src="data:image/([a-z+]+);base64,([^"]+)"', html)
    kinds = [kind for kind, _ in found]
    assert kinds.count("svg+xml") == 4
    assert kinds.count("jpeg") == 2
    for kind, data in found:
        if kind == "jpeg":
            assert Pillow.open(io.BytesIO(b64decode(data))).size in ((112 // 9 * 9, 112 // 9 * 8), (75, 112))
        else:
            assert ElementTree.fromstring(b64decode(data)).tag.endswith("svg")


def test_json_has_all_and_no_pixels() -> None:
    one = report([f"c{i:04d}" for i in range(80)], rows=160)
    kept = json.loads(render_json(one))
    assert len(kept["metrics"]["classes"]) == 80
    assert kept["metrics"]["accuracy"]["value"] == one.metrics.accuracy.value  # type: ignore[union-attr]
    assert kept["decision"]["outcome"] == "hold"
    assert kept["gates"]["gpu_utilisation"]["pass"] is True
    assert kept["comparison"]["verdict"] == "better"
    assert "pixels" not in kept
    page = Page(render_html(one))
    assert "The 50 lowest of 80" in "".join(page.words)


def test_names_that_are_no_unicode() -> None:
    strange = report(["\udc80", "b"], rows=40)
    render_html(strange).encode()
    assert json.loads(render_json(strange).encode())["metrics"]["classes"][1]["name"] == "\udc80"


def test_thousands_of_classes_make_a_page_of_reasonable_size() -> None:
    html = render_html(report([f"person{i:04d}" for i in range(5000)], rows=10_000))
    assert len(html) < 400_000
    assert html.count("<tr>") < 200


def test_least_and_most_that_there_can_be() -> None:
    scores = classification(Answers(["only"], ["only"]))
    page = render_html(Report("v1.0", "classify", datetime(2025, 1, 1), scores))
    assert WORDS["en"]["first_model"] in page
    assert WORDS["en"]["one_version"] in page
    assert WORDS["en"]["no_mistakes"] in page
    with pytest.raises(BadInput, match="report in 'fr'"):
        render_html(Report("v1.0", "classify", datetime(2025, 1, 1), scores), "fr")  # type: ignore[arg-type]


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_regression_has_its_page(lang: str) -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(40, 5, 100)
    scores = regression(
        target, target + rng.normal(size=100), cameras=["문"] * 100, ids=[f"{i:032x}" for i in range(100)]
    )
    against = compare_errors(np.abs(rng.normal(size=100)) * 1.1, np.abs(rng.normal(size=100)))
    one = Report("v1.1", "regress", datetime(2025, 1, 1), scores, comparison=against)
    page = render_html(one, lang)  # type: ignore[arg-type]
    assert WORDS[lang]["rmse"] in page  # type: ignore[index]
    assert json.loads(render_json(one))["metrics"]["r2"]["value"] > 0.9


def test_both_languages_say_the_same_things() -> None:
    assert list(WORDS["en"]) == list(WORDS["ko"])
    for key, text in WORDS["en"].items():
        places = [sorted(name for _, name, _, _ in Formatter().parse(t) if name) for t in (text, WORDS["ko"][key])]
        assert places[0] == places[1], key


def test_a_decision_is_explained_in_both_languages() -> None:
    decision = report().decision
    assert decision is not None
    assert decision.reason.startswith("It does not reach the targets: accuracy")
    assert decision.why("ko").startswith("목표에 미치지")


def test_a_plot_as_png() -> None:
    one = report()
    png = plots.confusion_matrix(one.metrics.confusion, form="png")  # type: ignore[union-attr]
    assert Pillow.open(io.BytesIO(png)).format == "PNG"


def test_the_same_report_is_the_same_page() -> None:
    assert render_html(report()) == render_html(report())

"""A detector's page in both languages, its plots, and boxes drawn on images of any size."""

from __future__ import annotations

import io
import json
import re
from base64 import b64decode
from dataclasses import replace
from datetime import datetime
from functools import cache
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image as Pillow

from everlearn.evaluate import plots as shared
from everlearn.evaluate.detection import compare, compare_detection, detection, metrics, pictures, plots
from everlearn.evaluate.detection.errors import KINDS, Case
from everlearn.evaluate.forgetting import forgetting
from everlearn.evaluate.gates import decide, judge
from everlearn.evaluate.report import Report, render_html, render_json
from everlearn.evaluate.words import WORDS
from everlearn.types import Box
from tests.evaluate.detection.made import images

HOSTILE = ("<script>alert(1)</script>", "고양이", "$x^2$ {{ 7*7 }}\u202e")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 20)
    monkeypatch.setattr(metrics, "FEWEST", 10)
    monkeypatch.setattr(compare, "RESAMPLES", 20)


@cache
def report() -> Report:
    before, after = images(1, 60, HOSTILE, truth_seed=1), images(5, 60, HOSTILE, skill=0.95, ghosts=0.3, truth_seed=1)
    scores = detection(after, [*HOSTILE, "never"], confidence=0.2)
    against = compare_detection(after, before, HOSTILE)
    found = judge({name: figure.value for name, figure in scores.headline().items()}, {"map50": 0.5, "recall": 0.85})
    history = [dict.fromkeys(HOSTILE, 0.9), {c.name: c.ap50 for c in scores.classes if c.ap50 is not None}]
    sizes = {one.id: (one.height, one.width, 3) for one in after}
    return Report(
        model="v1.1",
        task="detect",
        created_at=datetime(2025, 7, 4, 13, 30),
        metrics=scores,
        gates=found,
        decision=decide(found, against, {}, first=False),
        champion="v1.0",
        comparison=against,
        forgetting=forgetting(history, {c.name: c.boxes for c in scores.classes}),
        versions=["v1.0", "v1.1"],
        pixels=pictures.case_pictures(scores.mistakes, lambda id: np.full(sizes[id], 127, np.uint8)),
    )


class Page(HTMLParser):
    """What a browser would build from the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.seen: list[tuple[str, str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen += [(tag, name, value or "") for name, value in attrs] or [(tag, "", "")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_the_page_is_whole_and_names_are_text(lang: str) -> None:
    html = render_html(report(), lang)  # type: ignore[arg-type]
    page, words = Page(html), WORDS[lang]  # type: ignore[index]
    text = "".join(page.words)
    assert page.open == []
    assert not [tag for tag, _, _ in page.seen if tag in ("script", "link", "iframe")]
    assert HOSTILE[0] in text and "{{ 7*7 }}" in text and "\u202e" not in html
    for key in ("map50", "map50_95", "per_size", "small", "errors", "what_ghost", "curves", "lost_detect", "absent"):
        assert words[key] in text
    assert words["operating_at"].format(confidence="0.2") in text
    targets = {value for _, name, value in page.seen if name == "id"}
    links = {value[1:] for tag, name, value in page.seen if (tag, name) == ("a", "href")}
    assert links <= targets and {"sizes", "curves", "confusion", "mistakes"} <= links
    alts = [value for tag, name, value in page.seen if (tag, name) == ("img", "alt")]
    assert all(alts) and len(alts) == html.count("<img ")
    kinds = re.findall(r'src="data:image/([a-z+]+);', html)
    assert kinds.count("svg+xml") == 7  # versions, classes, four curves, confusion
    assert kinds.count("jpeg") == len(report().metrics.mistakes) > 20


def test_json_has_all() -> None:
    kept = json.loads(render_json(report()))
    assert kept["metrics"]["map50"]["value"] == report().metrics.map50.value  # type: ignore[union-attr]
    assert set(kept["metrics"]["errors"]["counts"]) == set(KINDS)
    assert kept["comparison"]["task"] == "detect" and kept["comparison"]["measure"] == "map50"
    assert kept["gates"]["map50"]["target"] == 0.5
    assert "pixels" not in kept


def test_cases_have_their_pictures() -> None:
    html = render_html(report())
    case = report().metrics.mistakes[0]
    assert isinstance(case, Case)
    first = re.search(r'class="grid cases">\s*<li><img class="thumb" src="data:image/jpeg;base64,([^"]+)"', html)
    assert first is not None
    picture = Pillow.open(io.BytesIO(b64decode(first[1])))
    assert max(picture.size) <= pictures.SIDE
    missing = render_html(replace(report(), pixels={}))
    assert missing.count('class="thumb none"') == len(report().metrics.mistakes)


def test_least_and_most_that_there_can_be() -> None:
    nothing = detection([replace(one, truth=(), found=()) for one in images(1, 2)], ["cat"])
    page = render_html(Report("v1.0", "detect", datetime(2025, 1, 1), nothing))
    assert WORDS["en"]["no_errors"] in page and WORDS["en"]["first_model"] in page
    many = [f"c{i:03}" for i in range(70)]
    scores = detection(images(1, 80, many, ghosts=2), many)
    html = render_html(Report("v1.0", "detect", datetime(2025, 1, 1), scores))
    assert len(html) < 400_000 and "The 50 lowest of 70" in html


@pytest.mark.parametrize("side", [24, 160, 3840])
def test_boxes_are_drawn_in_their_colour(side: int) -> None:
    grey = np.full((max(18, side // 4), side, 3), 90, np.uint8)
    kept = grey.copy()
    found = [Box("cat", 0.05, 0.3, 0.3, 0.3, 0.9), Box("고양이", 0.4, 0.3, 0.3, 0.3, 0.4)]
    drawn = pictures.draw(grey, [Box("cat", 0.1, 0.6, 0.2, 0.3)], found, [None, "ghost"], [True])
    assert (grey == kept).all() and drawn.shape == grey.shape
    for colour in (pictures.RIGHT, pictures.COLOURS["ghost"], pictures.COLOURS["missed"]):
        assert (drawn == colour).all(axis=2).sum() >= side // 4
    outside = pictures.draw(grey, [], [Box("cat", -5.0, 0.9, 20.0, 5.0, 1.0), Box("cat", 0.5, 0.5, 0.0, 0.0, 0.5)])
    assert outside.shape == grey.shape


def test_all_that_happens_in_one_image() -> None:
    one = next(one for one in images(2, 20) if len(one.truth) > 3 and len(one.found) > 3)
    drawn = pictures.drawn(np.zeros((one.height, one.width, 3), np.uint8), one, ["cat", "courier", "parcel"], 0.1)
    colours = [pictures.RIGHT, *pictures.COLOURS.values()]
    assert sum((drawn == colour).all(axis=2).any() for colour in colours) >= 2


def test_names_in_letters_that_no_font_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_letters", lambda path: frozenset(range(128)))
    monkeypatch.setattr(shared, "_drawable", lambda: frozenset(range(128)))
    assert pictures._text("고양이", ["고양이"], 12)[0] == "goyangi"
    assert pictures._text("猫", ["cat", "猫"], 12)[0] == "#2"


def test_a_case_at_the_edge_of_a_large_image() -> None:
    edge = Case("a", "ghost", Box("cat", 0.99, 0.985, 0.01, 0.01, 0.8), None, None)
    image = np.zeros((2160, 3840, 3), np.uint8)
    image[2140:, 3800:] = 200
    picture = pictures.case_picture(image, edge)
    assert max(picture.shape) == pictures.SIDE
    assert (picture == 200).all(axis=2).mean() > 0.05


def test_plots_as_png() -> None:
    scores = report().metrics
    assert isinstance(scores, metrics.DetectionMetrics)
    for png in (
        plots.precision_recall(scores.curves, form="png"),
        plots.over_confidence(scores.curves, "f1", 0.2, form="png"),
        plots.confusion_matrix(scores.confusion, form="png", normalised=True),
    ):
        assert Pillow.open(io.BytesIO(png)).format == "PNG"

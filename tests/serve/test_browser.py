"""The review page in a real browser: the keyboard alone, the mouse, two people at once, Korean, and who cannot see."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from everlearn.catalog import labels, leases, samples, scenes
from everlearn.catalog.tables import now
from everlearn.label import person
from everlearn.types import Scene
from everlearn.workspace import Workspace

pytest.importorskip("fastapi", reason='no server: pip install "everlearn[serve]"')
playwright = pytest.importorskip("playwright.sync_api", reason="no driver: pip install playwright")
desk = pytest.importorskip("tests.serve.desk")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no browser: chromium is not on the path", allow_module_level=True)
FLAGS = ["--disable-gpu", "--disable-background-networking", *(["--no-sandbox"] if os.geteuid() == 0 else [])]

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        one = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield one
        one.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Open]:
    """Signs a person in, in a browser of their own, and gives the page once an image is shown. What a page's scripts
    complain of fails the test."""
    contexts, wrong = [], []

    def _open(url: str, workspace: Workspace, name: str = "mina", *, quiet: bool = True, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": 1000, "height": 700}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        if quiet:  # a refused request is an error on the console too
            page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.goto(f"{url}/sign-in#token={desk.token(workspace, name)}")
        page.wait_for_selector("#main[data-sample]")
        return page

    yield _open
    for context in contexts:
        context.close()
    assert [one for one in wrong if "ERR_CONNECTION_REFUSED" not in one] == []  # the server ends before the pages do


def shown(page: Any) -> str:
    return str(page.eval_on_selector("#main", "main => main.dataset.sample"))


CHANGED = """old => new Promise((done) => {
    const [main, empty] = [document.getElementById("main"), document.getElementById("empty")];
    const look = () => {
        if (main.dataset.sample === old && empty.hidden) return;
        observer.disconnect();
        done(empty.hidden ? main.dataset.sample : "");
    };
    const observer = new MutationObserver(look);
    for (const one of [main, empty]) observer.observe(one, { attributes: true });
    look();
})"""


def to_next(page: Any, *keys: str, old: str | None = None) -> str:
    """Press keys, and wait until another image is shown; which, or nothing where there is none. old: what is shown."""
    before = old or shown(page)
    for key in keys:
        page.keyboard.press(key)
    return str(page.evaluate(CHANGED, before))


def insist(page: Any, key: str, wanted: str) -> None:
    """Press a key until this is seen: a key that comes before all of an image is shown answers nothing."""
    for _ in range(40):
        page.keyboard.press(key)
        try:
            page.wait_for_selector(wanted, timeout=500)
        except playwright.TimeoutError:
            continue
        return
    raise AssertionError(f"{wanted} is never seen")


def arrived(page: Any, answered: int) -> None:
    """Until the server has all answers: the last one's image is no longer counted."""
    page.wait_for_function("n => document.getElementById('waiting').textContent.startsWith(`${n} `)", arg=answered)


def scene_of(workspace: Workspace, id: str) -> Scene:
    with workspace.catalog.read() as tx:
        return scenes.of(tx, [id])[id]


def boxes_of(workspace: Workspace, id: str) -> dict[str, list[float]]:
    return {box.label: [box.x, box.y, box.width, box.height] for box in scene_of(workspace, id).boxes}


def label_of(workspace: Workspace, id: str) -> str | None:
    with workspace.catalog.read() as tx:
        return samples.some(tx, [id])[id].label


# --- the keyboard alone -------------------------------------------------------------------------------------------


def test_200_images_by_the_keyboard_alone(tmp_path: Path, opened: Open) -> None:
    workspace, there = desk.desk(tmp_path / "w", 200)
    with workspace.catalog.read() as tx:
        proposed = scenes.proposals(tx, there)
    nothing, drawn, thinned = set(there[5::20]), set(there[10::20]), set(there[15::20])
    with desk.serving(workspace) as url:
        page = opened(url, workspace)
        now_shown = shown(page)
        for id in there:
            assert now_shown == id, "the most urgent first"
            keys = ["Enter"]
            if id in nothing:
                keys = ["n"]
            elif id in drawn:
                keys = ["b", "ArrowLeft", "Shift+ArrowDown", "Enter"]
            elif id in thinned:
                keys = ["Tab", "Delete", "Enter"]
            now_shown = to_next(page, *keys, old=id)
        arrived(page, 0)
        assert page.inner_text("#empty h2") == "Nothing waits for you."
    with workspace.catalog.read() as tx:
        found = scenes.of(tx, there)
        said = labels.events(tx, there)
        assert samples.counts(tx)["queued"] == 0
    assert {(one.by, one.who) for one in said} == {("person", "mina")}
    classes = {box.label for one in proposed.values() for box in one.boxes}
    for id in there:
        before = scenes.canonical(Scene(proposed[id].boxes)).boxes
        if id in nothing:
            assert found[id].boxes == ()
        elif id in drawn:
            assert set(before) < set(found[id].boxes)
            assert len(found[id].boxes) == len(before) + 1
        elif id in thinned:
            assert set(found[id].boxes) == set(scenes.canonical(Scene(proposed[id].boxes[1:])).boxes)
        else:
            assert found[id].boxes == before
        assert set(found[id].about or ()) == classes, "all the classes that are known were looked for"


def test_labels_by_the_keyboard_alone(tmp_path: Path, opened: Open) -> None:
    workspace, there = desk.desk(tmp_path / "w", 6, "classify", suggested=["joon", "sora", "hana"])
    with desk.serving(workspace) as url:
        page = opened(url, workspace)
        assert page.inner_text("#held") == "joon"
        to_next(page, "Enter")
        to_next(page, "2")  # of hana, joon, sora: all twice, so by name
        to_next(page, "n")
        page.keyboard.press("l")
        page.keyboard.insert_text("새 사람")
        assert page.inner_text("[role=option][aria-selected=true]") == "New label: 새 사람"
        to_next(page, "Enter")
        to_next(page, "s")
        to_next(page, "u")
        assert shown(page) == there[3]
        to_next(page, "4")  # a label that was new a moment ago
        assert shown(page) == there[5], "what was in hand comes after it"
        to_next(page, "Enter")
        arrived(page, 1)
        assert page.inner_text("#empty-numbers") == "You skipped 1."
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_function("old => document.getElementById('main').dataset.sample === old", arg=there[4])
    found = [label_of(workspace, id) for id in there]
    assert found == ["joon", "joon", " not hana", "새 사람", "sora", "hana"]
    with workspace.catalog.read() as tx:
        assert [one["revoked"] for one in labels.history(tx, there[3])] == [False, True, False]


def test_numbers_by_the_keyboard_alone(tmp_path: Path, opened: Open) -> None:
    target = {"target": {"low": 0, "high": 100, "step": 0.5}}
    workspace, there = desk.desk(tmp_path / "w", 3, "regress", learn=target)
    with desk.serving(workspace) as url:
        page = opened(url, workspace)
        page.keyboard.type("41.7")
        to_next(page, "Enter")
        to_next(page, "s")
        page.keyboard.type("7")
        to_next(page, "Enter")
        arrived(page, 1)
    assert [label_of(workspace, id) for id in there] == ["41.5", None, "7"]


# --- the mouse ----------------------------------------------------------------------------------------------------


class Hand:
    """A mouse over the image, in shares of its sides."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def at(self, x: float, y: float) -> tuple[float, float]:
        edge = self.page.locator("#plane").bounding_box()
        return edge["x"] + x * edge["width"], edge["y"] + y * edge["height"]

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.page.mouse.move(*self.at(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.at((start[0] + end[0]) / 2, (start[1] + end[1]) / 2))
        self.page.mouse.move(*self.at(*end))
        self.page.mouse.up()


def test_what_is_drawn_is_what_is_kept(tmp_path: Path, opened: Open) -> None:
    """Drawn, moved, resized, relabelled, deleted, undone and done again, zoomed in or not."""
    workspace, (first, second) = desk.desk(tmp_path / "w", 2, proposed=False, side=100)
    with desk.serving(workspace) as url:
        page = opened(url, workspace)
        hand = Hand(page)
        hand.drag((0.1, 0.1), (0.3, 0.3))
        assert page.inner_text("#status").startswith("A box needs a label first")
        page.keyboard.press("l")
        page.keyboard.type("cat")
        page.keyboard.press("Enter")
        hand.drag((0.1, 0.1), (0.3, 0.4))  # drawn
        hand.drag((0.2, 0.2), (0.3, 0.3))  # moved by 0.1
        hand.drag((0.4, 0.5), (0.5, 0.45))  # its corner pulled: 0.2, 0.2 to 0.5, 0.45
        page.keyboard.press("l")
        page.keyboard.type("person/courier")
        page.keyboard.press("Enter")  # relabelled
        page.keyboard.press("Escape")
        hand.drag((0.7, 0.9), (0.6, 0.6))  # another, from its right lower corner, with the label of the last
        page.keyboard.press("1")  # cat
        page.keyboard.press("+")
        page.keyboard.press("Escape")
        hand.drag((0.55, 0.3), (0.65, 0.5))  # in the zoomed image
        page.keyboard.press("Delete")
        assert page.locator(".box").count() == 2
        page.keyboard.press("z")
        assert page.locator(".box").count() == 3
        page.keyboard.press("Shift+Z")
        assert page.locator(".box").count() == 2
        names = [page.locator("#list li .pick").nth(n).get_attribute("aria-label") for n in range(2)]
        assert names[0].startswith("person/courier, box 1 of 2; left 20.")
        to_next(page, "Enter")
        page.keyboard.press("u")  # and taken back: what was drawn is there again
        page.wait_for_function("id => document.getElementById('main').dataset.sample === id", arg=first)
        assert page.locator(".box").count() == 2
        page.locator("#list .drop").nth(1).click()
        page.locator("#list .pick").nth(0).click()
        page.fill("#side-x", "25")
        page.keyboard.press("Enter")  # in a field it is no answer
        assert shown(page) == first
        page.keyboard.press("Escape")
        to_next(page, "Enter")
        to_next(page, "n")
        arrived(page, 0)
    assert boxes_of(workspace, first) == {"person/courier": pytest.approx([0.25, 0.2, 0.3, 0.25], abs=0.01)}
    assert scene_of(workspace, first).about == ("cat", "person"), "what was drawn for a moment was looked for too"
    assert scene_of(workspace, second).boxes == ()
    assert scene_of(workspace, second).about == ("cat", "person")


# --- several people -----------------------------------------------------------------------------------------------


def test_two_people_never_get_the_same_image(tmp_path: Path, opened: Open) -> None:
    workspace, there = desk.desk(tmp_path / "w", 24)
    with desk.serving(workspace) as url:
        pages = [opened(url, workspace, name) for name in ("mina", "joon")]
        seen: dict[str, list[str]] = {"mina": [], "joon": []}
        while any(page.is_visible("#main") for page in pages):
            for page, mine in zip(pages, seen.values(), strict=True):
                if page.is_visible("#main"):
                    mine.append(shown(page))
                    to_next(page, "Enter")
            with workspace.catalog.read() as tx:
                held = {name: leases.counts(tx, name) for name in seen}
            assert held["mina"].mine == held["joon"].others
    assert sorted(seen["mina"] + seen["joon"]) == sorted(there)
    assert min(map(len, seen.values())) >= 8
    with workspace.catalog.read() as tx:
        said = {one.sample_id: one.who for one in labels.events(tx, there)}
    assert said == {id: name for name, ids in seen.items() for id in ids}


def test_loaded_again_and_left(tmp_path: Path, opened: Open) -> None:
    workspace, (first, second, *_) = desk.desk(tmp_path / "w", 3)
    with desk.serving(workspace) as url:
        page = opened(url, workspace)
        assert "token" not in page.url
        page.reload()
        page.wait_for_selector("#main[data-sample]")
        assert shown(page) == first
        page.wait_for_function("() => document.getElementById('waiting').textContent")
        page.goto(f"{url}/sign-in")
        for _ in range(100):
            with workspace.catalog.read() as tx:
                held = [leases.held(tx, id) for id in (first, second)]
            if all(one is None or one.until < now() + timedelta(seconds=30) for one in held):
                break
            page.wait_for_timeout(50)
        else:
            raise AssertionError("the page was left, and its leases were not given back")


# --- everybody ----------------------------------------------------------------------------------------------------


def test_korean(tmp_path: Path, opened: Open) -> None:
    workspace, _ = desk.desk(tmp_path / "w", 2)
    with desk.serving(workspace) as url:
        page = opened(url, workspace, "미나", locale="ko-KR")
        assert page.get_attribute("html", "lang") == "ko"
        assert "모두 승인" in page.inner_text("#accept")
        assert page.inner_text("#waiting") == "2장 대기"
        # the letters of a Korean keyboard: the place of the key counts
        page.dispatch_event("#stage", "keydown", {"key": "ㅠ", "code": "KeyB", "bubbles": True})
        assert "새 상자" in page.inner_text("#status")
        page.select_option("#language", "en")
        page.wait_for_selector("html[lang=en]")
        page.wait_for_selector("#main[data-sample]")
        assert "Accept all" in page.inner_text("#accept")


CONTRAST = (Path(__file__).parent / "contrast.js").read_text("utf-8")


@pytest.mark.parametrize("task", ["detect", "classify"])
def test_everybody_can_use_it(tmp_path: Path, opened: Open, task: str) -> None:
    """What axe would find: names, roles, states, contrast in both schemes, room at 200 %, and no keyboard trap."""
    workspace, there = desk.desk(tmp_path / "w", 2, task, suggested=["a"] if task == "classify" else ())
    with desk.serving(workspace) as url:
        page = opened(url, workspace, color_scheme="dark")
        page.keyboard.press("b")
        tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        for node in tree:
            role = node.get("role", {}).get("value")
            if not node.get("ignored") and role in ("button", "textbox", "combobox", "spinbutton", "image", "listbox",
                                                    "application", "checkbox", "toolbar", "group"):  # fmt: skip
                assert node.get("name", {}).get("value"), f"a {role} without a name"
        roles = {node.get("role", {}).get("value") for node in tree}
        assert {"main", "application", "status", "heading", "complementary"} <= roles
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
        assert len(ids) == len(set(ids))
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            for open_help in (False, True):
                if open_help:
                    page.keyboard.press("?")
                poor = page.evaluate(CONTRAST)
                assert poor == [], f"contrast below 4.5 in {scheme}: {json.dumps(poor, ensure_ascii=False)}"
                page.keyboard.press("Escape")
        page.set_viewport_size({"width": 500, "height": 350})  # 1000 × 700 at 200 %
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.locator("#accept").scroll_into_view_if_needed()
        assert page.is_visible("#accept")
        _no_trap(page)
        assert shown(page) == there[0], "keys that only look answer nothing"


def _no_trap(page: Any) -> None:
    """Tab comes by everything that can be used, each with a focus that is seen, and leaves again."""
    page.locator("#help-open").focus()
    met = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.id || document.activeElement.className || 'body'")
        if name in met[:1]:
            break
        met.append(name)
        seen = "getComputedStyle(document.activeElement)"
        ring = f"{seen}.outlineStyle !== 'none' || document.activeElement.id === 'stage'"
        assert page.evaluate(ring) or name == "body", f"the focus on {name} is not seen"
    assert {"language", "sign-out", "stage", "find", "accept", "skip"} <= set(met)


def test_a_wrong_token_is_told(tmp_path: Path, browser: Any) -> None:
    workspace, _ = desk.desk(tmp_path / "w", 1)
    with desk.serving(workspace) as url:
        page = browser.new_page()
        page.goto(f"{url}/review")
        assert page.url.endswith("/sign-in")
        page.fill("#token", "0123456789abcdef.wrong")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.getElementById('status').textContent.includes('not known')")
        page.fill("#token", desk.token(workspace))
        page.keyboard.press("Enter")
        page.wait_for_selector("#main[data-sample]")
        page.close()


def test_what_cannot_be_seen_is_not_answered(tmp_path: Path, opened: Open) -> None:
    """A broken image, an image that another answered, a server that was away for a moment."""
    workspace, (broken, second, third) = desk.desk(tmp_path / "w", 3)
    with workspace.catalog.read() as tx:
        key = samples.some(tx, [broken])[broken].key
    (workspace.root / key).write_bytes(b"no image at all")
    with desk.serving(workspace) as url:
        page = opened(url, workspace, quiet=False)
        page.keyboard.press("Enter")
        assert "cannot be shown" in page.inner_text("#status")
        to_next(page, "s")
        assert page.locator("#failure").is_hidden()
        person.draw(workspace, second, Scene(()), "joon")
        to_next(page, "Enter")
        page.wait_for_selector("#failure-words:has-text('answered already')")
        page.route("**/answer", lambda route: route.abort())
        insist(page, "Enter", "#failure-again:visible")
        page.unroute("**/answer")
        page.click("#failure-again")
        page.wait_for_selector("#empty:visible")
        arrived(page, 1)
    assert label_of(workspace, broken) is None
    with workspace.catalog.read() as tx:
        assert [(one.sample_id, one.who) for one in labels.events(tx, [second, third])] == [
            (second, "joon"), (third, "mina"),
        ]  # fmt: skip

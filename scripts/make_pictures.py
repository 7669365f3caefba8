"""Make docs/pictures/ from the product itself: what the demo prints, as SVG, its report and the review page, by
headless chromium.

Nothing is drawn by hand: the demo is played into a temporary folder, the review is on made-up scenes. Needs `chromium`
on the path and playwright; run it where the demo's words or the looks of report or page have changed. With the argument
`review` only the review page is taken.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from everlearn import demo
from everlearn.cli.console import Console

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "pictures"
sys.path.insert(0, str(ROOT))  # the made-up scenes are those of the tests
CHROMIUM = [
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--force-device-scale-factor=1.5",
]  # fmt: skip
COLUMN, LINE, EDGE = 7.85, 18, 18  # pixels of a character and a line at 13 px, and around them
LONGEST = 118  # characters
NBSP = "\N{NO-BREAK SPACE}"  # kept by every viewer, unlike runs of blanks


def main() -> int:
    if shutil.which("chromium") is None:
        print("chromium is not installed.", file=sys.stderr)
        return 2
    TARGET.mkdir(parents=True, exist_ok=True)
    if sys.argv[1:] == ["review"]:
        with tempfile.TemporaryDirectory() as folder:
            review(Path(folder) / "review", TARGET / "review.png")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        reports: list[Path] = []
        said = _play(Path(folder) / "demo", reports)
        (TARGET / "demo.svg").write_text(terminal("$ make demo\n" + said.strip()), "utf-8")
        for page, name in zip(reports, ("report.png", "report.ko.png"), strict=True):
            _shoot(page, TARGET / name, folder)
        review(Path(folder) / "review", TARGET / "review.png")
    return 0


def _play(folder: Path, reports: list[Path]) -> str:
    """What the demo says. reports: of the third day, before forgetting removes them."""
    forget = demo._forget

    def keep(workspace: Any, *rest: Any) -> None:
        for path in sorted((workspace.root / "model_updates/evaluations").glob("evaluation_v1.2_*.html")):
            reports.append(Path(shutil.copy(path, folder.parent / path.name)))
        reports.sort(key=lambda path: ".ko." in path.name)
        forget(workspace, *rest)

    demo._forget = keep
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        story = demo.play(folder, Console())
    lines = [line for line in said.getvalue().splitlines() if not re.match(r"\w+: \d+", line)]  # no progress
    text = "\n".join([*lines, *story.closing])
    return text.replace(str(folder), "demo")


def terminal(text: str) -> str:
    """Plain text as a picture of a terminal; long lines are cut."""
    lines = [line if len(line) <= LONGEST else line[: LONGEST - 1] + "…" for line in text.splitlines()]
    wide, high = round(LONGEST * COLUMN + 2 * EDGE), len(lines) * LINE + 2 * EDGE
    rows = []
    for number, line in enumerate(lines):
        bold = line.startswith(("$", "Day", "Then"))
        style = ' fill="#7ee0c8" font-weight="bold"' if bold else ""
        kept = escape(line).replace(" ", NBSP)
        rows.append(f'<text x="{EDGE}" y="{EDGE + LINE * (number + 0.75):g}"{style}>{kept}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}">'
        f'<rect width="{wide}" height="{high}" rx="8" fill="#14201f"/>'
        '<g font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,DejaVu Sans Mono,monospace" font-size="13"'
        ' fill="#dfe7e6">\n' + "\n".join(rows) + "\n</g></svg>\n"
    )


def _shoot(page: Path, out: Path, folder: str) -> None:
    command = [*CHROMIUM, f"--user-data-dir={folder}/profile", "--window-size=900,1120", f"--screenshot={out}"]
    subprocess.run([*command, page.as_uri()], check=True, capture_output=True, timeout=120)
    _shrink(out)


def review(folder: Path, out: Path) -> None:
    """The review page, with one of its boxes selected."""
    from playwright.sync_api import sync_playwright

    from tests.serve import desk

    workspace, _ = desk.desk(folder, 60, side=480, kinds=("circle", "star", "ring", "cross"))
    with desk.serving(workspace) as url, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM[2:-1])
        page = browser.new_page(viewport={"width": 1180, "height": 800}, color_scheme="dark", device_scale_factor=1.5)
        page.goto(f"{url}/sign-in#token={desk.token(workspace)}")
        page.wait_for_selector("#main[data-sample]")
        while page.locator(".box").count() < 3:
            before = page.get_attribute("#main", "data-sample")
            page.keyboard.press("Enter")
            page.wait_for_function("old => document.getElementById('main').dataset.sample !== old", arg=before)
        page.keyboard.press("Tab")
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Shift+ArrowLeft")
        page.screenshot(path=out)
        browser.close()
    _shrink(out)


def _shrink(path: Path) -> None:
    """To 256 colours: a page of text needs no more."""
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())

"""The documents cannot drift: what they show is run, and every command is in them.

On each page, in order and in one empty folder: `python` blocks run in one namespace; in `bash` and `console` blocks
each line that begins with `everlearn` (or `$ everlearn`) runs through the command line and must exit 0, or N where the
line ends with `# exit N`; `*` in an argument is what it is in a shell. A comment `<!-- setup … -->` holds Python that
prepares the folder and is not shown. A block after `<!-- not run: reason -->` is left out; every other block of these
kinds must have something to run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]  # README.ko.md has the same code, see below
_BLOCK = re.compile(
    r"^(?P<skip><!--\s*not run:[^>]*-->\n+)?"
    r"(?P<indent>[ ]*)```(?P<kind>python|bash|console)[^\n]*\n(?P<body>.*?)^(?P=indent)```"
    r"|^<!--\s*setup\n(?P<setup>.*?)^-->",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    kind: str
    body: str
    line: int


def blocks(text: str) -> Iterator[Block]:
    """What a page has to run, in order."""
    for found in _BLOCK.finditer(text):
        if not found["skip"]:
            line = text.count("\n", 0, found.start("setup") if found["setup"] else found.start("body")) + 1
            yield Block(found["kind"] or "python", found["setup"] or found["body"], line)


def commands(body: str) -> list[tuple[list[str], int]]:
    """(arguments, expected exit code) for each command of a block."""
    lines = body.replace("\\\n", " ").splitlines()
    found = [re.match(r"\s*(?:\$ )?everlearn\s+(.*?)(?:\s+#\s*exit (\d+).*)?$", line) for line in lines]
    return [(shlex.split(match[1], comments=True), int(match[2] or 0)) for match in found if match]


def expanded(word: str) -> list[str]:
    """As a shell expands it: what there is of this name."""
    found = sorted(str(path) for path in Path().glob(word)) if "*" in word else []
    return found or [word]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from everlearn.cli.main import run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page.read_text("utf-8")):
        where = f"{page.name}:{block.line}"
        if block.kind == "python":
            exec(compile("\n" * (block.line - 1) + block.body, str(page), "exec"), namespace)
            continue
        to_run = commands(block.body)
        assert to_run, f"{where}: no everlearn command; put <!-- not run: reason --> before the block"
        for written, expected in to_run:
            arguments = [path for word in written for path in expanded(word)]
            assert run(arguments) == expected, f"{where}: everlearn {shlex.join(arguments)}"


def test_every_command_is_in_the_reference() -> None:
    from scripts import make_commands

    page = (ROOT / "docs" / "commands.md").read_text("utf-8")
    from everlearn.cli.main import app

    for path, _ in make_commands.commands(typer.main.get_command(app), ("everlearn",)):
        assert f"\n## `{' '.join(path)}`\n" in page, "a command without documentation: run `make commands`"
    assert page == make_commands.page(), "docs/commands.md is not in step with the command line: run `make commands`"


def test_the_settings_are_in_step() -> None:
    from scripts import make_settings

    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert page == make_settings.page(), "docs/configuration.md is not in step with everlearn.config: `make settings`"


def test_the_recipes_are_in_step() -> None:
    from scripts import make_settings

    page = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    assert page == make_settings.recipes_page(), "docs/recipes.md is not in step with the recipe: `make settings`"


def test_both_readmes_say_the_same() -> None:
    """The Korean page has the same headings, by level, the same code, tables and links as the English one."""
    english, korean = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.ko.md"))
    code = re.compile(r"^(?:```|<!-- setup).*?^(?:```|-->)", re.MULTILINE | re.DOTALL)
    assert code.findall(english) == code.findall(korean)
    assert re.search("[가-힣]", code.sub("", korean))
    for pattern in (r"^(#+) ", r"^(\|)", r"\]\((docs/[a-z]+\.md)\)"):
        same = [re.findall(pattern, code.sub("", text), re.MULTILINE) for text in (english, korean)]
        assert same[0] == same[1], pattern


def test_links_and_pictures_are_there() -> None:
    for page in [*PAGES, ROOT / "README.ko.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name} links to {link}, which is not there"
    for picture in (ROOT / "docs" / "pictures").iterdir():
        assert picture.stat().st_size < 300_000, f"{picture.name} is too large for a page"


def test_the_pages_are_all_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.relative_to(ROOT / "docs").as_posix() in navigation, f"{page.name} is not in mkdocs.yml"


def test_blocks_are_found_and_left_out_as_said() -> None:
    page = (
        "<!-- setup\nready = 1\n-->\n"
        "```python\nassert ready\n```\n"
        "<!-- not run: it installs -->\n```bash\nmake demo\n```\n"
        "```console\n$ everlearn gate --strict \\\n    --json  # exit 1: the gate says no\nno\n```\n"
    )
    assert [block.kind for block in blocks(page)] == ["python", "python", "console"]
    assert commands(list(blocks(page))[-1].body) == [(["gate", "--strict", "--json"], 1)]

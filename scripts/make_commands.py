"""Write docs/commands.md from the command line itself; `--check` only compares."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

TARGET = Path(__file__).resolve().parent.parent / "docs" / "commands.md"

HEAD = """\
# Commands

<!-- Written by scripts/make_commands.py from the command line itself: edit the help texts, then `make commands`. -->

`everlearn [-w DIR] VERB … [--json]`. The global options may also follow the verb. The workspace defaults to the nearest
one at or above the current folder. Progress and messages go to stderr; with `--json`, stdout is one JSON object and
nothing else, on an error `{"error": {"code", "message", "remedy"}}`.

| exit code | means |
|---|---|
| 0 | done |
| 1 | ran to the end, and the answer is no: a gate failed, a proof did not match |
| 2 | bad usage, input or configuration |
| 70 | a fault of Everlearn |
| 130 | interrupted |
"""


def commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below, with its words. Typer brings its own Click, so nothing is asked of its types."""
    yield path, command
    for name, below in sorted(getattr(command, "commands", {}).items()):
        if not below.hidden:
            yield from commands(below, (*path, name))


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _section(path: tuple[str, ...], command: Any) -> Iterator[str]:
    context = typer.Context(command, info_name=" ".join(path))
    yield f"\n## `{' '.join(path)}`\n"
    if command.help:
        yield command.help.strip() + "\n"
    yield f"```text\n{' '.join([*path, *command.collect_usage_pieces(context)])}\n```\n"
    rows = []
    for parameter in command.params:
        if not getattr(parameter, "hidden", False):
            is_option = parameter.param_type_name == "option"
            words = [*parameter.opts, *parameter.secondary_opts] if is_option else parameter.get_usage_pieces(context)
            rows.append(f"| {_cell(', '.join(f'`{word}`' for word in words))} | {_cell(parameter.help)} |")
    if rows:
        yield "\n".join(["| option | |", "|---|---|", *rows]) + "\n"


def page() -> str:
    from everlearn.cli.main import app

    sections = [
        part
        for path, command in commands(typer.main.get_command(app), ("everlearn",))
        for part in _section(path, command)
    ]
    return HEAD + "\n".join(sections)


def main() -> int:
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(page(), "utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text("utf-8") == page():
        return 0
    print("docs/commands.md is not in step with the command line. Run `make commands`.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

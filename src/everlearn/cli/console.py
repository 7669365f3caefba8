"""Where words go: answers to stdout, progress and messages to stderr."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from everlearn.errors import EverlearnError


@dataclass(slots=True)
class Answer:
    """What a command found: `values` for --json, `lines` for people, `code` for the shell."""

    values: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    code: int = 0


@dataclass(slots=True)
class Console:
    """How this process talks. One object, made from the global options."""

    workspace: Path | None = None
    json: bool = False
    quiet: bool = False

    def say(self, message: str) -> None:
        """A line for people, on stderr."""
        if not self.quiet:
            print(message, file=sys.stderr, flush=True)

    def task(self, name: str, total: int | None = None) -> Bar | Lines:
        """Progress of long work: a bar on a terminal, plain lines elsewhere."""
        if sys.stderr.isatty() and not self.quiet:
            return Bar(name, total)
        return Lines(self, name, total)

    def answer(self, answer: Answer) -> int:
        """Print what a command found and give its exit code."""
        if self.json:
            print(json.dumps(answer.values, ensure_ascii=False, default=str), flush=True)
        else:
            for line in answer.lines:
                print(line)
            sys.stdout.flush()
        return answer.code

    def error(self, error: EverlearnError) -> int:
        """Print an error in one line and give its exit code."""
        if self.json:
            values = {"code": error.code, "message": error.message, "remedy": error.remedy}
            print(json.dumps({"error": values}, ensure_ascii=False), flush=True)
        print(f"everlearn: {error.message}" + (f"\n  {error.remedy}" if error.remedy else ""), file=sys.stderr)
        return error.exit_code


class Bar:
    """A rich progress bar."""

    def __init__(self, name: str, total: int | None) -> None:
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Terminal(stderr=True), transient=True)
        self._task = self._progress.add_task(name, total=total)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def advance(self, steps: int = 1) -> None:
        self._progress.advance(self._task, steps)


class Lines:
    """A line every few seconds, for logs."""

    EVERY = 5.0  # seconds

    def __init__(self, console: Console, name: str, total: int | None) -> None:
        self._console, self._name, self._total = console, name, total
        self._done = 0
        self._next = time.monotonic() + self.EVERY

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        if time.monotonic() >= self._next:
            of = f" of {self._total}" if self._total else ""
            self._console.say(f"{self._name}: {self._done}{of}")
            self._next = time.monotonic() + self.EVERY


def table(rows: list[list[Any]], head: list[str] | None = None) -> list[str]:
    """Rows as aligned plain text; wide characters (Korean) count double."""
    shown = [[str(cell) for cell in row] for row in ([head] if head else []) + rows]
    if not shown:
        return []
    widths = [max(width(row[i]) for row in shown) for i in range(len(shown[0]))]
    lines = [
        "  ".join(cell + " " * (w - width(cell)) for cell, w in zip(row, widths, strict=True)).rstrip() for row in shown
    ]
    if head:
        lines.insert(1, "  ".join("─" * w for w in widths))
    return lines


def width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    import unicodedata

    return sum(
        2 if unicodedata.east_asian_width(char) in "WF" else 0 if unicodedata.combining(char) else 1 for char in text
    )

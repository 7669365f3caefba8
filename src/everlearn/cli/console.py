"""Where words go: answers to stdout, progress and messages to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.errors import EverlearnError
from everlearn.text import finite

if TYPE_CHECKING:
    from everlearn.logs import RunLog
    from everlearn.types import ProgressTask
    from everlearn.workspace import Workspace

TOLD = ("model", "champion", "decision", "memory_digest", "model_digest", "snapshot", "verified")
"""Words of an answer that a log may keep; numbers it keeps anyway. No label, path or name."""


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
    open: ExitStack = field(default_factory=ExitStack)
    log: RunLog | None = None

    def say(self, message: str) -> None:
        """A line for people, on stderr."""
        if not self.quiet:
            print(message, file=sys.stderr, flush=True)

    def task(self, name: str, total: int | None = None) -> ProgressTask:
        """Progress of long work: a bar on a terminal, plain lines elsewhere."""
        if sys.stderr.isatty() and not self.quiet:
            return Bar(name, total)
        return Lines(self, name, total)

    def begin(self, workspace: Workspace, verb: str) -> None:
        """Log this command to the workspace's training_logs/, however it ends."""
        from everlearn import logs

        folder = workspace.root / "training_logs"
        settings = workspace.config.log
        logs.setup(settings.level, folder, settings.retention_days, people="CRITICAL")
        self.log = self.open.enter_context(logs.run(folder, verb))

    def note(self, values: Mapping[str, Any]) -> None:
        """Keep the numbers and digests of an answer in the log."""
        if self.log is None:
            return
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float) and value is not True}
        self.log.metrics({key: float(value) for key, value in numbers.items() if value is not False}, step=0)
        self.log.note(answer={key: values[key] for key in TOLD if key in values})

    def answer(self, answer: Answer) -> int:
        """Print what a command found and give its exit code."""
        if self.json:
            as_json(answer.values)
        else:
            for line in answer.lines:
                print(line)
            sys.stdout.flush()
        return answer.code

    def error(self, error: EverlearnError) -> int:
        """Print an error in one line and give its exit code."""
        if self.json:
            values = {"code": error.code, "message": error.message, "remedy": error.remedy}
            as_json({"error": values})
        print(f"everlearn: {error.message}" + (f"\n  {error.remedy}" if error.remedy else ""), file=sys.stderr)
        return error.exit_code


def as_json(values: dict[str, Any]) -> None:
    """One JSON object in one line on stdout. What no JSON can say (NaN, infinity) is null."""
    try:
        text = json.dumps(values, ensure_ascii=False, default=_plain, allow_nan=False)
    except ValueError:
        text = json.dumps(finite(values), ensure_ascii=False, default=_plain)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text))  # in ASCII, where the terminal knows no more
    print(text, flush=True)


def _plain(value: Any) -> Any:
    """What the json module does not know: NumPy's numbers and arrays as numbers, times (UTC) in ISO 8601, all else
    (paths) as text."""
    if isinstance(value, datetime):
        return value.isoformat() + ("" if value.tzinfo else "Z")
    return value.tolist() if hasattr(value, "tolist") else str(value)


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

    def __exit__(self, *error: object) -> None:
        pass

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        if time.monotonic() >= self._next:
            of = f" of {self._total}" if self._total else ""
            self._console.say(f"{self._name}: {self._done}{of}")
            self._next = time.monotonic() + self.EVERY

"""What happened, for machines in `training_logs/` and for people on stderr; secrets never reach either.

    training_logs/everlearn-YYYYMMDD.jsonl                         every record, one JSON object a line
    training_logs/errors/errors-YYYYMMDD.jsonl                     the failures alone, with their traceback
    training_logs/experiments/training_{experiment}_{YYYYMMDD}.json  one document for each run
    training_logs/metrics/training_{experiment}_{YYYYMMDD}.csv       its numbers: time, step, name, value

Use `logging.getLogger("everlearn.ROOM")`; facts go into `extra={...}` and become fields of the JSON object. People are
named by ids, never by labels or file names: that is the caller's part.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from everlearn.errors import EverlearnError, StoreFault
from everlearn.naming import render_log_name
from everlearn.types import Scalar
from everlearn.workspace import write_whole

LOGGER = logging.getLogger("everlearn")
GONE = "***"

# --- secrets --------------------------------------------------------------------------------------------------------

_SENSITIVE = (
    r"passw(?:or)?d|passphrase|pwd|secret|token|(?:api|access|private|account)[_-]?key|credential|authorization|signature"
    r"|cookie"
)
_SECRET_NAME = re.compile(_SENSITIVE, re.IGNORECASE)
_VALUE = r"\"[^\"]*\"|'[^']*'|(?!(?:bearer|basic)\b)[^\s,;&})\]\"']+"
# Every repetition is bounded or stands at the end, so a long line takes linear time.
_PATTERNS = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), instead)
    for pattern, instead in (
        (r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", GONE),
        (r"(://)[^\s\"'<>]{0,1000}@", rf"\1{GONE}@"),  # user:password@host; a password may hold slashes and at signs
        (r"\b(bearer|basic)(\s{1,4})[\w.~+/=-]{8,}", rf"\1\2{GONE}"),
        (rf"((?:{_SENSITIVE})[\w.-]{{0,40}}[\"']?\s{{0,4}}[:=]\s{{0,4}})(?:{_VALUE})", rf"\1{GONE}"),
        (r"\b(?:A3T[A-Z0-9]|AKIA|ASIA|AGPA|AIDA|AROA|ANPA|ANVA)[A-Z0-9]{12,}\b", GONE),
        (r"\b(?:gh[opsur]_|github_pat_|glpat-|hf_|sk-|xox[abprs]-|AIza)[\w-]{10,}", GONE),
        (r"\beyJ[\w-]{8,2000}\.[\w-]{1,4000}\.[\w-]*", GONE),  # a JSON web token
    )
)


def redact(text: str) -> str:
    """The text without what looks like a secret, and without the values of secret environment variables."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET_NAME.search(name):
            text = text.replace(value, GONE).replace(quote(value, safe=""), GONE)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def clean(value: Any, name: str = "") -> Any:
    """A value as JSON can hold it, without secrets."""
    if getattr(value, "ndim", None) == 0:  # a number of numpy's
        value = value.item()
    if isinstance(value, bool | int | None) or (isinstance(value, float) and abs(value) < float("inf")):
        return value  # a count of tokens is no token
    if name and _SECRET_NAME.search(name):
        return GONE
    if isinstance(value, Mapping):
        return {redact(str(key)): clean(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [clean(item) for item in value]
    return redact(str(value))


# --- records --------------------------------------------------------------------------------------------------------

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(9), *range(10, 32), *range(127, 160), 0x2028, 0x2029)}


class _Plain(logging.Formatter):
    """For people: one line, so that a hostile file name cannot write lines of its own; then the traceback, if any."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"everlearn: {record.levelname.lower()}: {record.getMessage().translate(_CONTROL)}"
        if record.exc_info and not isinstance(record.exc_info[1], EverlearnError):
            line += "\n" + self.formatException(record.exc_info)
        return redact(line)


class _Lines(logging.Handler):
    """Appends JSON lines to one file a day. Each line is one write, so processes can share the file."""

    def __init__(self, folder: Path, stem: str, level: int) -> None:
        super().__init__(level)
        self._folder, self._stem = folder, stem
        self._failed = False

    def emit(self, record: logging.LogRecord) -> None:
        when = datetime.fromtimestamp(record.created, UTC)
        try:
            line = json.dumps(self._fields(record, when), ensure_ascii=False) + "\n"
            _append(self._folder / f"{self._stem}-{when:%Y%m%d}.jsonl", line)
        except Exception as error:  # a log that cannot be written must not stop the work; it is said once
            if not self._failed:
                self._failed = True
                print(redact(f"everlearn: the log in {self._folder} cannot be written: {error}"), file=sys.stderr)  # noqa: T201

    def _fields(self, record: logging.LogRecord, when: datetime) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": redact(record.getMessage()),
        }
        extra = {name: value for name, value in vars(record).items() if name not in _OWN}
        fields |= {name: value for name, value in clean(extra).items() if name not in fields}
        if record.exc_info and record.exc_info[1]:
            fields["error"] = _describe(record.exc_info[1])
        return fields


def nameless(text: str) -> str:
    """The text without paths and quoted words, which may name people; ids stay."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\S*[/\\]\S*", "…", text)


def _describe(error: BaseException) -> dict[str, Any]:
    """An expected error needs no traceback, and its message names files: both are left out of the log."""
    if isinstance(error, EverlearnError):
        message = redact(nameless(str(error)))
        return {"type": type(error).__name__, "code": error.code, "message": message, "traceback": ""}
    lines = traceback.format_exception(error)
    return {
        "type": type(error).__name__,
        "code": "fault",
        "message": redact(str(error)),
        "traceback": redact("".join(lines)),
    }


def _append(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        data = text.encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(handle, data) :]
    finally:
        os.close(handle)


def setup(
    level: str = "INFO", folder: Path | None = None, retention_days: int = 3650, *, people: str = "WARNING"
) -> None:
    """Send Everlearn's records to `folder` (training_logs/; None: nowhere) and, from `people` on, to stderr.

    Calling it again replaces what was set. Logs in the folder older than `retention_days` are removed.
    """
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
        handler.close()
    plain = logging.StreamHandler()
    plain.setFormatter(_Plain())
    plain.setLevel(people)
    LOGGER.addHandler(plain)
    LOGGER.propagate = False
    LOGGER.setLevel(min(plain.level, logging.getLevelNamesMapping()[level]) if folder else plain.level)
    if folder:
        LOGGER.addHandler(_Lines(folder, "everlearn", logging.getLevelNamesMapping()[level]))
        LOGGER.addHandler(_Lines(folder / "errors", "errors", logging.ERROR))
        sweep(folder, retention_days)


_FILES = ("everlearn-*.jsonl", "errors/errors-*.jsonl", "experiments/training_*.json", "metrics/training_*.csv")


def sweep(folder: Path, retention_days: int) -> int:
    """Remove our own log files last written more than `retention_days` ago; how many. Other files are left alone."""
    oldest = time.time() - retention_days * 86_400
    removed = 0
    for pattern in _FILES:
        for path in folder.glob(pattern):
            with suppress(OSError):  # another process may sweep too
                if not path.is_symlink() and path.is_file() and path.stat().st_mtime < oldest:
                    path.unlink()
                    removed += 1
    return removed


# --- runs -----------------------------------------------------------------------------------------------------------


class RunLog:
    """The document and the numbers of one run; a `types.Tracker`. Whole and valid JSON after a kill at any moment.

    Where the day has such a run already, the experiment gets a number: `training_learn-2_20250704.json`.
    """

    def __init__(self, folder: Path, experiment: str, facts: Mapping[str, Any] | None = None) -> None:
        """folder: training_logs/. Raises StoreFault where it cannot be written."""
        began = datetime.now(UTC)
        self._clock = time.monotonic()
        self._document: dict[str, Any] = {
            "experiment": experiment,
            "began": began.isoformat(timespec="milliseconds"),
            "ended": None,
            "seconds": None,
            "status": "running",
            "process": os.getpid(),
            "params": {},
            "metrics": {},
            "artifacts": [],
            **clean(dict(facts or {})),
        }
        self.path = self._claim(folder / "experiments", experiment, began)
        self.csv = folder / "metrics" / f"{self.path.stem}.csv"

    def params(self, values: Mapping[str, Scalar]) -> None:
        self._document["params"] |= clean(values)
        self._write()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """One row of the CSV for each; the document keeps the latest."""
        rows = io.StringIO()
        writer = csv.writer(rows, lineterminator="\n")
        if not self.csv.exists():
            writer.writerow(["time", "step", "name", "value"])
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        writer.writerows([now, step, redact(name), repr(float(value))] for name, value in values.items())
        try:
            _append(self.csv, rows.getvalue())
        except OSError as error:
            raise StoreFault(f"{self.csv} cannot be written: {error.strerror}.", "Is the disk full?") from error
        self._document["metrics"] |= clean({name: float(value) for name, value in values.items()})

    def artifact(self, path: Path) -> None:
        self._document["artifacts"].append(redact(str(path)))
        self._write()

    def note(self, **facts: Any) -> None:
        """More about the run, such as what it answered."""
        self._document |= clean(facts)
        self._write()

    def finish(self, status: str = "done", error: BaseException | None = None) -> None:
        if error is not None:
            self._document["error"] = {key: value for key, value in _describe(error).items() if key != "traceback"}
        ended = datetime.now(UTC).isoformat(timespec="milliseconds")
        seconds = round(time.monotonic() - self._clock, 3)
        self._document |= {"status": status, "ended": ended, "seconds": seconds}
        self._write()

    def _bytes(self) -> bytes:
        return json.dumps(self._document, ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace")

    def _write(self) -> None:
        write_whole(self.path, self._bytes())

    def _claim(self, folder: Path, experiment: str, when: datetime) -> Path:
        """Make the document under the first free name: written whole, then linked, which fails where one is taken."""
        part = folder / f".{os.getpid()}-{time.monotonic_ns()}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(part, self._bytes())
            for number in itertools.count(1):
                path = folder / render_log_name(experiment if number == 1 else f"{experiment}-{number}", when.date())
                with suppress(FileExistsError):
                    try:
                        path.hardlink_to(part)
                    except PermissionError:  # a disk without links
                        path.touch(exist_ok=False)
                        part.replace(path)
                    return path
        except OSError as error:
            raise StoreFault(f"{folder} cannot be written: {error.strerror}.", "Is the disk full or locked?") from error
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        raise AssertionError("a free name is always found")


@contextmanager
def run(folder: Path, experiment: str, facts: Mapping[str, Any] | None = None) -> Iterator[RunLog]:
    """A run, logged from its beginning to its end, however it ends; its failure goes into errors/ too."""
    log = RunLog(folder, experiment, facts)
    LOGGER.info("%s began", experiment, extra={"run": log.path.name})
    try:
        yield log
    except BaseException as error:
        ordinary = isinstance(error, Exception) and getattr(error, "exit_code", 2) != 1
        status = "failed" if ordinary else "interrupted" if isinstance(error, KeyboardInterrupt) else "ended"
        if ordinary:
            _log_failure(folder, experiment, error, log)
        with suppress(EverlearnError):  # the error in hand is the one to tell
            log.finish(status, error)
        raise
    log.finish()
    LOGGER.info("%s done", experiment, extra={"run": log.path.name})


def _log_failure(folder: Path, experiment: str, error: BaseException, log: RunLog) -> None:
    """Into errors/ directly: people are told by whoever catches the error, and once is enough."""
    information = (type(error), error, error.__traceback__)
    record = LOGGER.makeRecord(
        LOGGER.name, logging.ERROR, __file__, 0, "%s failed", (experiment,), information, extra={"run": log.path.name}
    )
    _Lines(folder / "errors", "errors", logging.ERROR).emit(record)

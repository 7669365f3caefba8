"""Commands in processes of their own that can be killed: forked from a server that has loaded everything already."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import multiprocessing
import os
import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "tests.child",
        "everlearn.cli.main",
        "everlearn.stages",
        "everlearn.stages.care",
        "everlearn.stages.prove",
        "everlearn.stages.use",
        "everlearn.model.basis",
        "everlearn.model.bundle",
        "everlearn.erasure",
        "everlearn.loop",
        "everlearn.augment.make",
        "everlearn.validate.suspects",
        "alembic.command",
        "sqlalchemy.dialects.sqlite",
        "cv2",
    ]
)

KILLED = -signal.SIGKILL


def start(said: Path, *words: object, **conditions: Any) -> BaseProcess:
    """Start `everlearn WORDS --json`. said: the file for what it prints. conditions: of `_run`."""
    process = _context.Process(target=_run, args=(str(said), [*map(str, words), "--json"], conditions))
    process.start()
    return process


def everlearn(folder: Path, *words: object, **conditions: Any) -> tuple[int, dict[str, Any]]:
    """Run a command to its end; its exit code (negative: the signal) and what it said."""
    said = folder / "said.json"
    said.unlink(missing_ok=True)
    process = start(said, *words, **conditions)
    process.join(120)
    assert process.exitcode is not None, "it does not end"
    return process.exitcode, json.loads(said.read_text() or "{}") if said.exists() else {}


def _run(
    said: str,
    words: list[str],
    conditions: dict[str, Any],
) -> None:
    """fault: where to die; interrupt: where Ctrl-C is pressed; batch: images a transaction; file_limit: largest file in
    bytes, as a full disk; powerless: without the rights of root over files; environment: variables, because the server
    that children are forked from has those of the test that started it."""
    from everlearn import faults
    from everlearn.cli.main import run
    from everlearn.collect import take
    from everlearn.validate import judge

    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    take.BATCH = judge.BATCH = conditions.get("batch", 4)
    os.environ.update(conditions.get("environment", {}))
    if fault := conditions.get("fault"):
        os.environ["EVERLEARN_FAULT"] = fault
    if place := conditions.get("interrupt"):
        faults.point = lambda name: os.kill(os.getpid(), signal.SIGINT) if name == place else None
    if limit := conditions.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    if conditions.get("powerless"):
        _give_up_rights()
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()) as told:
        code = run(words)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    Path(said).write_text(out.getvalue())
    Path(said).with_suffix(".err").write_text(told.getvalue())
    os._exit(code)


def powerless(check: Callable[[], None]) -> None:
    """Run a check as somebody whom files can refuse: as root in a child without root's rights, else right here."""
    if os.geteuid() != 0:
        check()
        return
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _give_up_rights()
            check()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the check failed in the child; see above"


def _give_up_rights() -> None:
    """root obeys the rights of files, as everybody else does (capset(2))."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder tree in which nothing may be written."""
    places = [folder, *(path for path in folder.rglob("*") if not path.is_symlink())]
    modes = {path: path.stat().st_mode for path in places}
    for path, mode in modes.items():
        path.chmod(mode & 0o555)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)

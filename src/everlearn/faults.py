"""Named places where tests kill the process, to show that running again mends everything.

`EVERLEARN_FAULT=collect.stored:3` kills the process at the third passing of that point, as `kill -9` would. Where
several processes have the variable, `engine.part:1@FILE` kills only the one that can make FILE. Without the variable a
point costs one dictionary look-up.
"""

from __future__ import annotations

import os
import signal

_passes: dict[str, int] = {}


def point(name: str) -> None:
    """Die here if the environment says so."""
    wanted, _, once = os.environ.get("EVERLEARN_FAULT", "").partition("@")
    if not wanted or wanted.partition(":")[0] != name:
        return
    _passes[name] = _passes.get(name, 0) + 1
    if _passes[name] >= int(wanted.partition(":")[2] or 1) and (not once or _first(once)):
        os.kill(os.getpid(), signal.SIGKILL)


def _first(path: str) -> bool:
    """Whether this process made the file."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

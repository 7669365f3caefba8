"""Named places where tests kill the process, to show that running again mends everything.

`EVERLEARN_FAULT=collect.stored:3` kills the process at the third passing of that point, as `kill -9` would. Without
the variable a point costs one dictionary look-up.
"""

from __future__ import annotations

import os
import signal

_passes: dict[str, int] = {}


def point(name: str) -> None:
    """Die here if the environment says so."""
    wanted = os.environ.get("EVERLEARN_FAULT")
    if not wanted or wanted.partition(":")[0] != name:
        return
    _passes[name] = _passes.get(name, 0) + 1
    if _passes[name] >= int(wanted.partition(":")[2] or 1):
        os.kill(os.getpid(), signal.SIGKILL)

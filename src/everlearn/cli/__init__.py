"""The command line: thin commands over the rooms. `everlearn VERB --help` is the reference; DESIGN §6 the contract.

Exit codes: 0 done; 1 ran to the end and the answer is no; 2 bad usage, input or configuration; 70 a fault of ours;
130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave the process with its exit code."""
    from everlearn.cli.main import run

    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))

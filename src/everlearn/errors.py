"""Every error that Everlearn raises on purpose. Each says in one line what was wrong and what to do about it.

`EverlearnError` and its kinds are for people: the command line prints `message` and `remedy` and exits with
`exit_code`. Anything else that escapes is a fault of ours (exit 70).
"""

from __future__ import annotations


class EverlearnError(Exception):
    """message: one line that names the setting and the value; remedy: one line that says what to do."""

    code = "error"
    exit_code = 2

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message if not remedy else f"{message} {remedy}")
        self.message = message
        self.remedy = remedy


class BadInput(EverlearnError):
    """A file, value or argument that cannot be used as it is."""

    code = "bad_input"


class TooFew(BadInput):
    """Nothing is wrong but the number of samples: more may come."""

    code = "too_few"


class BadConfig(EverlearnError):
    """everlearn.yaml or an environment variable says something that cannot be."""

    code = "bad_config"


class Missing(EverlearnError):
    """What was asked for by name is not there."""

    code = "missing"


class NotInstalled(EverlearnError):
    """An optional part is needed; the remedy is the `pip install` line."""

    code = "not_installed"


class StoreFault(EverlearnError):
    """The disk or the bucket refused: full, read-only, out of reach."""

    code = "store"


class ClusterFault(EverlearnError):
    """A cluster that is out of reach, or whose workers cannot do the work."""

    code = "cluster"


class Busy(EverlearnError):
    """Another process works on this workspace."""

    code = "busy"


class Corrupt(EverlearnError):
    """What is on disk is not what was written; the remedy names `everlearn doctor`."""

    code = "corrupt"


class AnswerIsNo(EverlearnError):
    """The work was done and the answer is no: a gate failed, a proof does not match."""

    code = "no"
    exit_code = 1

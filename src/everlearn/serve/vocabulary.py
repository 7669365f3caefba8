"""The labels that a reviewer is offered, counted now and then: counting them all takes longer than an answer may."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from everlearn.catalog import known
from everlearn.workspace import Workspace

SECONDS = 2.0
SHARE = 20
"""Counting may take one of so many parts of the time."""


@dataclass(frozen=True, slots=True)
class Words:
    """labels: with how often each is given, the most frequent first; classes: what a detector tells apart of them;
    version: changes with the labels."""

    labels: dict[str, int]
    classes: tuple[str, ...]
    version: str


class Vocabulary:
    """One for an application."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._words = Words({}, (), "")
        self._until = 0.0

    def words(self) -> Words:
        """The labels as they were at most a moment ago; always with what was said here since."""
        with self._lock:
            if time.monotonic() >= self._until:
                began = time.monotonic()
                with self._workspace.catalog.read() as tx:
                    self._words = _words(known.labels(tx))
                took = time.monotonic() - began
                self._until = time.monotonic() + max(SECONDS, SHARE * took)
            return self._words

    def said(self, labels: Iterable[str]) -> None:
        """Somebody gave these: a new one is offered with the next image."""
        with self._lock:
            new = dict.fromkeys((label for label in labels if label not in self._words.labels), 1)
            if new:
                self._words = _words({**self._words.labels, **new})


def _words(labels: dict[str, int]) -> Words:
    version = hashlib.sha256("\n".join(sorted(labels)).encode()).hexdigest()[:12]
    return Words(labels, tuple(known.classes(labels)), version)

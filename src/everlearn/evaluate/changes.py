"""What differs between two configurations: a comparison says something about one variable only where one differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from everlearn.evaluate.figures import Result

MOST = 12
"""Changes that a line of text names."""
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Change(Result):
    """One variable. path: `stages.0.optimizer.learning_rate`; before, after: its values, None where it is not set."""

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.path} {_shown(self.before)} -> {_shown(self.after)}"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    """Every variable whose value differs, in the order of their paths; lists are compared place by place."""
    a, b = dict(_flat(before)), dict(_flat(after))
    return tuple(
        Change(path, _given(a.get(path, _ABSENT)), _given(b.get(path, _ABSENT)))
        for path in sorted(a.keys() | b.keys(), key=_natural)
        if not _same(a.get(path, _ABSENT), b.get(path, _ABSENT))
    )


def told(found: Sequence[Change], of: str = "variable") -> str:
    """One line for people: whether one variable was changed, and which."""
    if not found:
        return f"No {of} was changed: what differs is chance."
    if len(found) == 1:
        return f"One {of} changed: {found[0]}."
    named = "; ".join(map(str, found[:MOST])) + (f"; and {len(found) - MOST} more" if len(found) > MOST else "")
    return f"{len(found)} {of}s changed: {named}. The comparison cannot say which one did it."


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and value:
        for place, item in enumerate(value):
            yield from _flat(item, f"{path}.{place}")
    else:
        yield path, value


def _same(a: Any, b: Any) -> bool:
    """As JSON sees it: 1 and 1.0 are one number, true is none, and what is not set is null."""
    if a is _ABSENT or b is _ABSENT:
        return _given(a) is None and _given(b) is None
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _given(value: Any) -> Any:
    return None if value is _ABSENT else value


def _natural(path: str) -> list[tuple[int, int, str]]:
    """stages.2 before stages.10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in path.split(".")]


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:59] + "…"

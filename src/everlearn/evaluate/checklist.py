"""The six things that a careful engineer has done before a model is trusted, each ticked from evidence and not by hand.

What is evidence for what is decided by `stages.checking`, which reads the catalog; here are the words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from everlearn.evaluate.figures import Result
from everlearn.evaluate.words import WORDS, Lang

Name = Literal["baseline", "plan", "records", "overfitting", "criterion", "saved"]
ITEMS: tuple[Name, ...] = ("baseline", "plan", "records", "overfitting", "criterion", "saved")
"""Baseline measured, tuning planned, records kept, overfitting watched, selection criterion stated, model saved."""


@dataclass(frozen=True, slots=True)
class Item(Result):
    """One box. done: ticked. code: `check_{name}_{code}` in `words` is the sentence that `details` completes: the
    evidence, or what would be evidence."""

    name: Name
    done: bool
    code: str
    details: Mapping[str, str] = field(default_factory=dict)

    def title(self, lang: Lang = "en") -> str:
        return WORDS[lang][f"check_{self.name}"]

    def evidence(self, lang: Lang = "en") -> str:
        return WORDS[lang][f"check_{self.name}_{self.code}"].format(**self.details)

    def to_json(self) -> dict[str, Any]:
        return {"item": self.name, "title": self.title(), "done": self.done, "evidence": self.evidence()}


def lines(items: Sequence[Item], lang: Lang = "en") -> list[str]:
    """For people: a box, what it is, and the evidence below it."""
    found = []
    for one in items:
        found += [f"[{'x' if one.done else ' '}] {one.title(lang)}", f"    {one.evidence(lang)}"]
    return found

"""Named targets, and the decision that follows from them, the comparison and the reported mistakes.

The defaults are in `MODEL_TARGETS` and `DATA_TARGETS`; a configuration may name its own. Failed data gates stop a
turn before anything is learned, so they are judged on their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from everlearn.errors import BadConfig
from everlearn.evaluate.compare import MOST
from everlearn.evaluate.figures import Result
from everlearn.evaluate.words import WORDS, Lang

if TYPE_CHECKING:
    from everlearn.evaluate.compare import Comparison

MODEL_TARGETS: Mapping[str, float] = {
    "accuracy": 0.95,
    "precision": 0.90,
    "recall": 0.85,
    "f1": 0.87,
    "training_seconds": 7200,
    "memory_bytes": 8e9,
    "best_epoch": 100,
    "gpu_utilisation": 0.90,
}
DATA_TARGETS: Mapping[str, float] = {"quality": 0.8, "label_accuracy": 0.95, "diversity": 0.7, "class_balance": 0.6}
AT_MOST = frozenset({"training_seconds", "memory_bytes", "best_epoch", "ece", "mae", "mse", "rmse", "forgetting"})
"""Figures whose target is an upper bound; all others have a lower one."""
OPTIONAL: Mapping[str, str] = {
    name: WORDS["en"][f"no_{name}"] for name in ("best_epoch", "gpu_utilisation", "forgetting", "label_accuracy")
}
"""Figures that may not exist, and why; their gates are then skipped. Any other missing value fails."""


@dataclass(frozen=True, slots=True)
class Gate(Result):
    """passed: whether it lets the model through, which a skipped gate does. reason: why a value is missing, or None."""

    name: str
    value: float | None
    target: float
    at_most: bool
    passed: bool
    skipped: bool = False
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        found = {"value": self.value, "target": self.target, "pass": self.passed}
        return found if self.reason is None else found | {"skipped": self.skipped, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Decision(Result):
    """What to do with a candidate, and why. code: `why_{code}` in `words` is the sentence that `details` completes.
    points: whether its amount is in hundredths, of accuracy or mAP."""

    outcome: Literal["promote", "hold"]
    code: Literal[
        "gates", "first", "not_compared", "worse", "undecided", "harm", "reported", "better", "not_worse", "champion"
    ]
    details: Mapping[str, str] = field(default_factory=dict)
    points: bool = False

    def why(self, lang: Lang) -> str:
        unit = WORDS[lang]["unit_points"] if self.points else ""
        return WORDS[lang][f"why_{self.code}"].format(**self.details, unit=unit)

    @property
    def reason(self) -> str:
        """One line."""
        return self.why("en")

    def to_json(self) -> dict[str, Any]:
        return {"outcome": self.outcome, "code": self.code, "reason": self.reason}


def judge(
    values: Mapping[str, float | None],
    targets: Mapping[str, float],
    optional: Mapping[str, str] = OPTIONAL,
) -> dict[str, Gate]:
    """One gate for each target, in the targets' order. values: measured figures by name; None or absent: not measured.

    optional: figures that may be missing, with the reason shown then.
    """
    return {name: _gate(name, values.get(name), target, optional) for name, target in targets.items()}


def _gate(name: str, value: float | None, target: float, optional: Mapping[str, str]) -> Gate:
    if isinstance(target, bool) or not isinstance(target, int | float) or not math.isfinite(target):
        raise BadConfig(f"The target of gate {name} is {target!r}.", "It must be a number.")
    at_most = name in AT_MOST
    if value is None or not math.isfinite(value):
        skipped = name in optional
        return Gate(name, None, target, at_most, skipped, skipped, optional.get(name, WORDS["en"]["no_value"]))
    return Gate(name, float(value), target, at_most, value <= target if at_most else value >= target)


def failed(gates: Mapping[str, Gate]) -> list[str]:
    """A line for each gate that does not let through: what it is, what was measured, what is asked for."""
    return [
        f"{gate.name} is missing ({gate.reason})"
        if gate.value is None
        else f"{gate.name} {gate.value:.4g} {'>' if gate.at_most else '<'} {gate.target:.4g}"
        for gate in gates.values()
        if not gate.passed
    ]


def decide(
    gates: Mapping[str, Gate],
    comparison: Comparison | None,
    regressions: Mapping[str, bool],
    *,
    first: bool,
) -> Decision:
    """Promote or hold. regressions: id of each reported mistake -> whether the candidate answers it right.

    The first champion needs only the absolute gates. Later ones must also be better than the champion or shown not to
    be worse by more than the margin, harm no class and no camera, and answer every reported mistake.
    """
    if stops := failed(gates):
        return Decision("hold", "gates", {"what": ", ".join(stops)})
    if first:
        return Decision("promote", "first")
    if comparison is None:
        return Decision("hold", "not_compared")
    points = comparison.points
    if comparison.verdict == "worse":
        return Decision("hold", "worse", {"amount": _amount(comparison, -comparison.difference)}, points)
    if comparison.verdict == "undecided":
        needed = f"> {MOST:,}" if comparison.needed is None else f"{comparison.needed:,}"
        return Decision("hold", "undecided", {"n": f"{comparison.n:,}", "needed": needed})
    if harmed := comparison.vetoes:
        named = ", ".join(f"{v.name or '?'} ({100 * v.difference:+.1f} %)" for v in harmed[:5])
        return Decision("hold", "harm", {"count": str(len(harmed)), "what": named})
    if wrong := sorted(case for case, answered in regressions.items() if not answered):
        counts = {"count": str(len(wrong)), "of": str(len(regressions))}
        return Decision("hold", "reported", counts | {"what": ", ".join(wrong[:5])})
    if comparison.verdict == "better":
        return Decision("promote", "better", {"amount": _amount(comparison, comparison.difference)}, points)
    return Decision("promote", "not_worse", {"amount": _amount(comparison, comparison.margin)}, points)


def _amount(comparison: Comparison, value: float) -> str:
    """Of accuracy and mAP in points (hundredths); of the mean absolute error in the target's unit."""
    return f"{100 * value:.2f}" if comparison.points else f"{value:.4g}"

"""Several models against one baseline, on the same images: with each further comparison one more may seem better by
chance, so the p-values are corrected by Holm's step-down (Holm 1979), which bounds the chance of any wrong verdict.

Each comparison has alpha / m of the error, m the number of comparisons. Where Holm's procedure rejects equality at a
later step, that comparison is judged with its step's larger share: its interval then holds 1 - alpha / (m - step).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from everlearn.errors import BadInput
from everlearn.evaluate.compare import Comparison
from everlearn.evaluate.figures import Result


@dataclass(frozen=True, slots=True)
class Several(Result):
    """baseline: what the others were compared with. models: name -> its comparison with the baseline; the p-value in it
    is its own, `corrected` has Holm's."""

    baseline: str
    models: Mapping[str, Comparison]
    corrected: Mapping[str, float]

    @property
    def best(self) -> str:
        """The model shown to be better with the largest difference; the baseline where none is."""
        better = {name: one.difference for name, one in self.models.items() if one.verdict == "better"}
        return max(better, key=lambda name: better[name]) if better else self.baseline


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the order given: the i-th smallest of m times (m - i + 1), never below an
    earlier one, at most 1."""
    corrected, floor = [0.0] * len(p_values), 0.0
    for step, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        floor = max(floor, min(1.0, p_values[i] * (len(p_values) - step)))
        corrected[i] = floor
    return corrected


def several(baseline: str, models: Mapping[str, Callable[[float], Comparison]], alpha: float) -> Several:
    """Compare each model with the baseline. models: name -> the comparison at the alpha that it is given. Raises
    BadInput where there is nothing to compare."""
    if not models:
        raise BadInput("There is nothing to compare the baseline with.", "Name two models or more.")
    share = alpha / len(models)
    found = {name: compared(share) for name, compared in models.items()}
    names = sorted(found, key=lambda name: found[name].p_value)
    for step, name in enumerate(names):
        stepped = models[name](alpha / (len(names) - step)) if step else found[name]
        if stepped.p_value > stepped.alpha:
            break
        if stepped.verdict in ("better", "worse"):
            found[name] = stepped
    corrected = dict(zip(found, holm([one.p_value for one in found.values()]), strict=True))
    return Several(baseline, found, corrected)

"""Regression targets as integers: fixed point on a declared step and range, so that their sums are exact too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import BadConfig, BadInput

LEVELS = 2**20
"""At most so many steps in the range: then Σy² of 8 million samples and Σφy fit int64."""
ROWS = 2**23


@dataclass(frozen=True, slots=True)
class RegressionTarget:
    """Values in [low, high], held as the nearest of low + k * step. Raises BadConfig where these cannot be."""

    low: float
    high: float
    step: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.low, self.high, self.step))) or not self.low < self.high:
            raise BadConfig(f"the target's range [{self.low}, {self.high}] is empty.", "Give low < high, both finite.")
        if self.step <= 0 or (self.high - self.low) / self.step > LEVELS:
            raise BadConfig(
                f"the target's step {self.step} does not suit its range of {self.high - self.low:g}.",
                f"Give a positive step, at most {LEVELS} steps in the range.",
            )

    @property
    def top(self) -> int:
        return round((self.high - self.low) / self.step)

    def fixed(self, values: Sequence[str | float]) -> NDArray[np.int64]:
        """(N,) numbers, also as text -> (N,) steps above low. Raises BadInput naming the first row that is not one."""
        try:
            numbers = np.array(values, dtype=np.float64)
        except ValueError:
            row = next(i for i, value in enumerate(values) if not _is_number(value))
            raise BadInput(f"row {row}: {values[row]!r} is not a number.", "A regression label is a number.") from None
        steps = np.rint((numbers - self.low) / self.step)
        bad = ~(np.isfinite(numbers) & (numbers >= self.low) & (numbers <= self.high))
        if bad.any():
            row = int(np.argmax(bad))
            raise BadInput(f"row {row}: {values[row]} is not within [{self.low}, {self.high}].", "Widen the range.")
        return steps.astype(np.int64)

    def value(self, steps: NDArray[Any]) -> NDArray[np.float64]:
        """Steps above low -> values, clipped to the range."""
        return np.clip(self.low + np.asarray(steps, np.float64) * self.step, self.low, self.high)


def _is_number(value: str | float) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True

"""A number with its interval, how results become JSON, and the bootstrap that all intervals here come from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

LEVEL = 0.95
"""How often an interval is meant to hold the true value."""


def plain(value: Any) -> Any:
    """Results as dicts, lists, strings, numbers and None. A number that is none (NaN, infinity) becomes None."""
    if isinstance(value, Result):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat() if isinstance(value, date) else value


class Result:
    """What every result of this room can do: become JSON."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Figure(Result):
    """A measured value and its 95 % interval, in the value's own unit; low and high are None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {"value": plain(self.value), "interval": None if self.low is None else [self.low, plain(self.high)]}


def resampled_weights(units: Ints, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each row is drawn, `resamples` times: (N,) weights each.

    units: (N,) the resampling unit of each row, 0..U-1. Rows of one unit (one video, one session) are drawn
    together, since they are not independent (cluster bootstrap; Davison & Hinkley 1997, 3.8).
    """
    rng = np.random.default_rng(seed)
    count = int(units.max()) + 1
    for _ in range(resamples):
        drawn = np.bincount(rng.integers(count, size=count), minlength=count)
        yield drawn[units].astype(np.float64)


def units_of(groups: Sequence[str | None] | None, rows: int) -> Ints:
    """The resampling unit of each row: its group, or the row by itself where there is no group. -> (N,)"""
    if groups is None:
        return np.arange(rows)
    names = {name: number for number, name in enumerate(sorted({g for g in groups if g is not None}))}
    alone = iter(range(len(names), len(names) + rows))
    return np.array([next(alone) if g is None else names[g] for g in groups], dtype=np.int64)


def bias_corrected(value: float, resampled: Floats, level: float = LEVEL) -> tuple[float, float]:
    """The bias-corrected percentile interval (Efron 1981; Efron & Tibshirani 1993, 14.3 with a = 0).

    Macro averages of resamples are biased against the value they are drawn around; plain
    percentiles would carry that bias twice. The correction is held within two standard errors.
    """
    from scipy.stats import norm

    resampled = resampled[np.isfinite(resampled)]
    if not resampled.size or not math.isfinite(value):
        return math.nan, math.nan
    below = np.mean(resampled < value) + np.mean(resampled == value) / 2
    shift = float(np.clip(norm.ppf(below), -2, 2))
    tail = norm.ppf((1 - level) / 2)
    low, high = np.quantile(resampled, norm.cdf([2 * shift + tail, 2 * shift - tail]))
    return min(float(low), value), max(float(high), value)


def reflected(value: float, resampled: Floats, level: float = LEVEL) -> tuple[float, float]:
    """The basic bootstrap interval of a figure that is never below 0 (Davison & Hinkley 1997, 5.6).

    A calibration error is a sum of absolute values, so that noise only ever adds to it: resamples lie above the
    sample as the sample lies above the truth, and the interval reaches as far below as they lie above.
    """
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return min(max(0.0, 2 * value - float(high)), value), max(2 * value - float(low), value)


def wilson(right: Floats | Ints, n: Floats | Ints, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Wilson's score interval of right/n, for many rows at once (Wilson 1927). NaN where n is 0."""
    from scipy.stats import norm

    z = float(norm.ppf((1 + level) / 2))
    n = np.where(n > 0, n, np.nan)
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return np.clip(middle - half, 0.0, share), np.clip(middle + half, share, 1.0)


def exact_share(right: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The Clopper-Pearson interval of right/n: never too narrow, also where everything was right."""
    from scipy.stats import binomtest

    found = binomtest(right, n).proportion_ci(level, method="exact")
    return float(found.low), float(found.high)

"""Is the candidate better than the champion, on the same images?

Definitions. The difference is candidate minus champion, in accuracy; for `regress` it is the champion's mean absolute
error minus the candidate's: positive is always better. alpha is the error allowed over the whole life of a test set;
the k-th decision on the same test set may spend `alpha_at(alpha, k)` of it.
- *better*: the test (McNemar exact; Wilcoxon) rejects equality at alpha_k, and the interval lies above 0.
- *equivalent*: not shown better, but the interval lies above -margin: shown not to be worse by more than the margin
  (non-inferiority, the lower of the two one-sided tests of Schuirmann 1987, at alpha_k / 2). A loss that is proven
  but smaller than the margin is of this kind.
- *worse*: the test rejects at alpha_k, the interval lies below 0 and not above -margin.
- *undecided*: none of these. `needed` says how many more images like these would decide, with a power of 80 %.
The interval holds 1 - alpha_k. It is the paired bootstrap's, widened where an interval that needs no resampling
(Tango's score interval; Student's t) reaches further: with few images that differ the bootstrap has no spread, and two
models equal on 30 images are not thereby shown to be equal.

A *veto* names a class or camera that is shown to be harmed, by a one-sided exact sign test on its images (or errors),
with Holm's correction over all of them. Vetoes protect, so each look has the whole alpha for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from everlearn.errors import BadInput
from everlearn.evaluate.figures import Result, units_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from everlearn.evaluate.figures import Floats, Ints

Verdict = Literal["better", "worse", "equivalent", "undecided"]
MARGIN = 0.02
"""How much accuracy (0-1) may be lost; for `regress` the share of the champion's mean absolute error."""
ALPHA = 0.05
RESAMPLES = 10_000
POWER = 0.8
MOST = 100_000_000
"""`needed` never looks further than this many images."""


@dataclass(frozen=True, slots=True)
class Veto(Result):
    """A class or camera shown to be harmed. lost, gained: images that only the champion, only the candidate got right
    (for `regress`: got nearer; for `detect`: with fewer errors). difference: (gained - lost) / images; for `detect` of
    the mAP50. p_value: Holm-corrected."""

    kind: Literal["class", "camera"]
    name: str
    images: int
    lost: int
    gained: int
    difference: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Comparison(Result):
    """The answer. interval: holds 1 - alpha; alpha: what this look may spend; lost, gained: as in `Veto`;
    margin: in the difference's own unit; needed: more images that would decide, 0 once decided, None if no number
    below `MOST` would. measure: what was compared."""

    verdict: Verdict
    difference: float
    interval: tuple[float, float]
    p_value: float
    n: int
    needed: int | None
    vetoes: tuple[Veto, ...]
    champion: float
    candidate: float
    lost: int
    gained: int
    margin: float
    alpha: float
    look: int
    task: Literal["classify", "regress", "detect"]
    measure: Literal["accuracy", "mae", "map50", "map50_95"] = "accuracy"

    @property
    def points(self) -> bool:
        """Whether the difference is one of shares, and told in hundredths."""
        return self.task != "regress"

    @property
    def non_inferior(self) -> bool:
        return self.interval[0] > -self.margin


def alpha_at(alpha: float, look: int) -> float:
    """What the look-th decision on the same test set may spend: 6 alpha / (pi look)^2, which sums to alpha over any
    number of looks (Bonferroni over an unbounded sequence; Foster & Stine 2008 call it alpha spending)."""
    if look < 1 or not 0 < alpha < 1:
        raise BadInput(f"alpha is {alpha} at look {look}.", "alpha lies between 0 and 1, and looks count from 1.")
    return 6 * alpha / (math.pi * look) ** 2


def compare(
    champion: ArrayLike,
    candidate: ArrayLike,
    *,
    labels: Sequence[str] | None = None,
    cameras: Sequence[str | None] | None = None,
    groups: Sequence[str | None] | None = None,
    margin: float = MARGIN,
    alpha: float = ALPHA,
    look: int = 1,
    seed: int = 0,
) -> Comparison:
    """Compare two classifiers. champion, candidate: (N,) whether each answered image i right.

    labels, cameras: (N,) for the vetoes. groups: (N,) images of one group (a video) are not independent: they are
    resampled together, and McNemar's test becomes its clustered form. look: which use of this test set this is.
    """
    before, after = np.asarray(champion, bool), np.asarray(candidate, bool)
    _check(before, after, margin)
    n, spend = len(before), alpha_at(alpha, look)
    change = after.astype(np.int64) - before  # (N,) -1 lost, 0, +1 gained
    lost, gained = int((change < 0).sum()), int((change > 0).sum())
    low, high = tango(lost, gained, n, spend)
    booted = _counted(lost, gained, n, spend, seed) if groups is None else _resampled(change, groups, spend, seed)
    interval = min(low, booted[0]), max(high, booted[1])
    p_value = mcnemar(lost, gained) if groups is None else clustered_mcnemar(change, units_of(groups, n))
    verdict = verdict_of(p_value, interval, margin, spend)

    def decided(total: int) -> bool:
        reach = tango(lost * total / n, gained * total / n, total, spend, POWER)
        return reach[0] > -margin or reach[1] < 0

    return Comparison(
        verdict=verdict,
        difference=(gained - lost) / n,
        interval=interval,
        p_value=p_value,
        n=n,
        needed=0 if verdict != "undecided" else images_needed(decided, n),
        vetoes=vetoes(change, labels, cameras, alpha),
        champion=float(before.mean()),
        candidate=float(after.mean()),
        lost=lost,
        gained=gained,
        margin=margin,
        alpha=spend,
        look=look,
        task="classify",
    )


def compare_errors(
    champion: ArrayLike,
    candidate: ArrayLike,
    *,
    cameras: Sequence[str | None] | None = None,
    groups: Sequence[str | None] | None = None,
    margin: float = MARGIN,
    alpha: float = ALPHA,
    look: int = 1,
    seed: int = 0,
) -> Comparison:
    """Compare two regressors. champion, candidate: (N,) absolute errors on the same images, in the target's unit.

    The test is Wilcoxon's signed-rank test; margin: a share of the champion's mean absolute error.
    """
    from scipy.stats import norm, t

    before, after = np.asarray(champion, np.float64), np.asarray(candidate, np.float64)
    _check(before, after, margin)
    n, spend = len(before), alpha_at(alpha, look)
    change = before - after  # (N,) positive: nearer than before
    allowed = margin * float(before.mean())
    mean, spread = float(change.mean()), float(change.std(ddof=1)) if n > 1 else math.inf
    half = float(t.ppf(1 - spend / 2, n - 1)) * spread / math.sqrt(n) if n > 1 else math.inf
    booted = _resampled(change, groups, spend, seed)
    interval = min(mean - half, booted[0]), max(mean + half, booted[1])
    p_value = signed_rank(change)
    verdict = verdict_of(p_value, interval, allowed, spend)
    z = float(norm.ppf(1 - spend / 2) + norm.ppf(POWER))

    def decided(total: int) -> bool:
        reach = z * spread / math.sqrt(total)
        return mean - reach > -allowed or mean + reach < 0

    return Comparison(
        verdict=verdict,
        difference=mean,
        interval=interval,
        p_value=p_value,
        n=n,
        needed=0 if verdict != "undecided" else images_needed(decided, n),
        vetoes=vetoes(np.sign(change).astype(np.int64), None, cameras, alpha),
        champion=float(before.mean()),
        candidate=float(after.mean()),
        lost=int((change < 0).sum()),
        gained=int((change > 0).sum()),
        margin=allowed,
        alpha=spend,
        look=look,
        task="regress",
        measure="mae",
    )


def mcnemar(lost: int, gained: int) -> float:
    """McNemar's exact two-sided p: of the images that only one model got right, half should be each one's (1947)."""
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def clustered_mcnemar(change: Ints, units: Ints) -> float:
    """McNemar's test for images in groups. change: (N,) -1, 0, +1; units: (N,) group numbers.

    With s the sum of each group, (sum s)^2 / sum s^2 is chi-squared with one degree of freedom (Durkalski et al.
    2003). With 16 groups or fewer that differ, all their sign flips are counted instead, which is exact.
    """
    from scipy.stats import norm

    sums = np.bincount(units, change)
    sums = sums[sums != 0]
    if not sums.size:
        return 1.0
    if sums.size > 16:
        return float(2 * norm.sf(abs(sums.sum()) / math.sqrt(sums @ sums)))
    flips = 1 - 2 * ((np.arange(2**sums.size)[:, None] >> np.arange(sums.size)) & 1)  # (2^G, G)
    return float(np.mean(np.abs(flips @ sums) >= abs(sums.sum())))


def signed_rank(change: Floats) -> float:
    """Wilcoxon's signed-rank test, two-sided; images without a change drop out."""
    from scipy.stats import wilcoxon

    change = np.sort(change[change != 0])
    return float(wilcoxon(change).pvalue) if change.size else 1.0


def tango(lost: float, gained: float, n: float, alpha: float, power: float = 0.5) -> tuple[float, float]:
    """Tango's score interval of the paired difference (gained - lost) / n, holding 1 - alpha (Tango 1998, eq. 4-6).

    It stays wide where no image differs. With a power above one half it is widened to what images like these would
    have to show for a decision to be reached that often.
    """
    from scipy.stats import norm

    z = float(norm.ppf(1 - alpha / 2) + norm.ppf(power))

    def score(d: float) -> float:
        b = -lost - gained + (2 * n - gained + lost) * d
        q = (math.sqrt(max(b * b + 8 * n * lost * d * (1 - d), 0.0)) - b) / (4 * n)  # share lost, were d the truth
        spread = n * (2 * q + d * (1 - d))
        return (
            (gained - lost - n * d) / math.sqrt(spread)
            if spread > 0
            else math.copysign(math.inf, gained - lost - n * d)
        )

    def edge(inside: float, outside: float) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if abs(score(middle)) <= z else (inside, middle)
        return outside

    found = (gained - lost) / n
    return edge(found, -1.0), edge(found, 1.0)


def vetoes(
    change: Ints, labels: Sequence[str] | None, cameras: Sequence[str | None] | None, alpha: float = ALPHA
) -> tuple[Veto, ...]:
    """The classes and cameras shown to be harmed. change: (N,) -1, 0, +1.

    A one-sided exact sign test each, and Holm's correction over them.
    """
    from scipy.stats import binom

    found = [veto for kind, names in (("class", labels), ("camera", cameras)) for veto in _counts(kind, names, change)]
    changed = [veto.lost + veto.gained for veto in found]
    p_values = [float(binom.sf(v.lost - 1, n, 0.5)) if n else 1.0 for v, n in zip(found, changed, strict=True)]
    return holm(found, p_values, changed, alpha)


def holm(found: Sequence[Veto], p_values: Sequence[float], changed: Sequence[int], alpha: float) -> tuple[Veto, ...]:
    """Those that are shown, with their corrected p-values, the surest first.

    changed: how many independent changes speak of each. Holm's step-down (1979) over those of them with enough
    changes to be able to show harm at all (Tarone 1990), so that thousands of untouched classes do not hide one that is
    harmed.
    """
    order = sorted(range(len(found)), key=lambda i: (-changed[i], found[i].kind, found[i].name))
    able = [i for rank, i in enumerate(order, 1) if changed[i] and 0.5 ** changed[i] <= alpha / rank]
    shown, floor = [], 0.0
    for step, i in enumerate(sorted(able, key=lambda i: p_values[i])):
        floor = max(floor, min(1.0, p_values[i] * (len(able) - step)))
        if floor > alpha:
            break
        shown.append(replace(found[i], p_value=floor))
    return tuple(shown)


def _counts(kind: str, names: Sequence[str | None] | None, change: Ints) -> list[Veto]:
    if names is None:
        return []
    known, row = np.unique([name or "" for name in names], return_inverse=True)
    images, lost, gained = np.bincount(row), np.bincount(row, change < 0), np.bincount(row, change > 0)
    return [
        Veto(kind, str(name), int(n), int(b), int(c), float((c - b) / n), 1.0)  # type: ignore[arg-type]
        for name, n, b, c in zip(known, images, lost, gained, strict=True)
    ]


def verdict_of(p_value: float, interval: tuple[float, float], margin: float, alpha: float) -> Verdict:
    if p_value <= alpha and interval[0] > 0:
        return "better"
    if interval[0] > -margin:
        return "equivalent"
    if p_value <= alpha and interval[1] < 0:
        return "worse"
    return "undecided"


def _counted(lost: int, gained: int, n: int, alpha: float, seed: int) -> tuple[float, float]:
    """The paired bootstrap of independent images: only the three counts matter, and they are multinomial."""
    drawn = np.random.default_rng(seed).multinomial(n, [lost / n, gained / n, (n - lost - gained) / n], RESAMPLES)
    low, high = np.quantile((drawn[:, 1] - drawn[:, 0]) / n, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def _resampled(
    change: Floats | Ints, groups: Sequence[str | None] | None, alpha: float, seed: int
) -> tuple[float, float]:
    """The paired bootstrap of the mean change, whole groups drawn together."""
    units = units_of(groups, len(change))
    sums, sizes = np.bincount(units, change), np.bincount(units)
    order = np.lexsort((sizes, sums))  # the interval must not depend on the order the images came in
    sums, sizes = sums[order], sizes[order]
    rng = np.random.default_rng(seed)
    resamples = max(1000, min(RESAMPLES, 50_000_000 // len(sums)))
    means = np.empty(resamples)
    for i in range(resamples):
        drawn = rng.integers(len(sums), size=len(sums))
        means[i] = sums[drawn].sum() / sizes[drawn].sum()
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def images_needed(decided: Callable[[int], bool], n: int) -> int | None:
    """The least number of images beyond n that decides."""
    high = n + 1
    while not decided(high):
        high *= 2
        if high > MOST:
            return None
    low = max(n, high // 2)
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high - n


def _check(before: NDArray[np.generic], after: NDArray[np.generic], margin: float) -> None:
    if before.shape != after.shape or before.ndim != 1 or not before.size:
        raise BadInput(
            f"The models have {before.size} and {after.size} answers.", "Both must have answered the same test images."
        )
    if not 0 < margin < 1:
        raise BadInput(f"margin is {margin}.", "It lies between 0 and 1, for example 0.02.")

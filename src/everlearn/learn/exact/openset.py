"""Open set: "unknown" as an answer, from scores of the known and of impostors. Arithmetic on arrays, no state.

A row is accepted where its score is above a threshold. Impostors are rows that no class should claim: negatives, and
every kept row scored without its own class. The user says which share of impostors may be accepted (FAR, the
false-accept rate); the threshold is the lowest that keeps it, with a stated confidence; the share of the known that is
then refused (FRR, the false-reject rate) follows.

The threshold is an order statistic of the impostors. Accepting above the j-th highest of n accepts a share of new
impostors like these that is distributed as Beta(j, n + 1 - j) at most, whatever their distribution (Wilks 1941; Vovk
2012, arXiv:1209.2673: conformal prediction with a confidence), and its quantile is the Clopper-Pearson bound of j - 1
accepted among n. The j that is taken depends on n alone, so that choosing it voids nothing. "Like these" is the one
assumption: impostors of one person are no news of each other, so many images of few strangers promise less than they
seem to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import BadInput

Floats = NDArray[np.float64]
CONFIDENCE = 0.95
_DIGITS = 5  # of a threshold: the last bits of a score differ between machines


@dataclass(frozen=True, eq=False)
class Curve:
    """What each threshold does: rows scored above thresholds[t] are accepted.

    thresholds: (T,) ascending, from -inf (all are accepted) to the highest score (none is). false_accept: (T,) share of
    the impostors accepted; false_reject: (T,) share of the known refused. NaN where there are none of them.
    """

    thresholds: Floats
    false_accept: Floats
    false_reject: Floats

    def at(self, false_accept: float) -> float:
        """The least share of the known refused where at most this share of the impostors is accepted."""
        return float(self.false_reject[self.false_accept <= false_accept].min(initial=1.0))


@dataclass(frozen=True)
class Cut:
    """A threshold and what it promises: accept what scores above `threshold`.

    asked: the false-accept rate that was asked for. promised: the rate that new impostors keep with `confidence`; above
    `asked` where there are too few impostors, and 1.0 without any (all is then accepted, at threshold -inf).
    false_accept, false_reject: as seen on the impostors and on the known, NaN without any. impostors, known: how many.
    needed: impostors from which on the rate asked for can be promised.
    """

    threshold: float
    asked: float
    confidence: float
    promised: float
    false_accept: float
    false_reject: float
    impostors: int
    known: int
    needed: int

    @property
    def kept(self) -> bool:
        """Whether the rate asked for is promised."""
        return self.promised <= self.asked


def curve(known: NDArray[np.floating], impostors: NDArray[np.floating]) -> Curve:
    """False-accept and false-reject rates over all thresholds. known, impostors: scores, in any order."""
    genuine, strange = _ascending(known), _ascending(impostors)
    thresholds = np.unique(np.concatenate([[-np.inf], genuine, strange]))
    with np.errstate(invalid="ignore"):
        refused = np.searchsorted(genuine, thresholds, side="right") / np.float64(len(genuine))
        accepted = 1 - np.searchsorted(strange, thresholds, side="right") / np.float64(len(strange))
    refused[thresholds == -np.inf] *= 0.0  # at -inf all are accepted, also what scores -inf
    if len(strange):
        accepted[0] = 1.0
    return Curve(thresholds, accepted, refused)


def separation(known: NDArray[np.floating], impostors: NDArray[np.floating]) -> float:
    """AUROC: how often a known row scores above an impostor, ties half. NaN without either."""
    genuine, strange = _ascending(known), _ascending(impostors)
    if not len(genuine) or not len(strange):
        return float("nan")
    below = np.searchsorted(strange, genuine, side="left") + np.searchsorted(strange, genuine, side="right")
    return float(below.sum()) / (2 * len(genuine) * len(strange))


def cut(
    known: NDArray[np.floating], impostors: NDArray[np.floating], false_accept: float, confidence: float = CONFIDENCE
) -> Cut:
    """The lowest threshold that keeps the false-accept rate asked for, with this confidence; else the one nearest to it.

    With too few impostors (below ln(1 - confidence) / ln(1 - false_accept): 299 for 1 % at 95 %) it is the highest
    impostor, and `promised` says what that keeps. A function of the two sets of scores; the threshold has five
    digits, rounded up. Raises BadInput for a rate or a confidence outside (0, 1).
    """
    if not (0 < false_accept < 1 and 0 < confidence < 1):
        raise BadInput(
            f"a false-accept rate of {false_accept} with confidence {confidence} cannot be kept.",
            "Give both between 0 and 1.",
        )
    from scipy.stats import beta, binom

    genuine, strange = _ascending(known), _ascending(impostors)
    n = len(strange)
    needed = int(np.ceil(np.log1p(-confidence) / np.log1p(-false_accept)))
    if not n:
        return Cut(-np.inf, false_accept, confidence, 1.0, np.nan, _share(genuine, -np.inf), 0, len(genuine), needed)
    # P(Beta(j, n + 1 - j) <= rate) = P(Binomial(n, rate) >= j): the last j of which that is `confidence`
    rank = max(1, int(binom.ppf(1 - confidence, n, false_accept)))
    while rank > 1 and binom.sf(rank - 1, n, false_accept) < confidence:
        rank -= 1
    threshold = _rounded_up(float(strange[n - rank]))
    promised = float(beta.ppf(confidence, rank, n + 1 - rank))
    accepted = n - int(np.searchsorted(strange, threshold, side="right"))
    return Cut(threshold, false_accept, confidence, promised, accepted / n, _share(genuine, threshold), n, len(genuine),
               needed)  # fmt: skip


def without_own(scores: NDArray[np.floating], own: NDArray[np.integer]) -> Floats:
    """(N, C) scores, (N,) column of each row's own class (-1 for a negative) -> (N,) scores as impostors.

    The highest score among the classes that are not its own; -inf where there is no other.
    """
    found = np.array(scores, np.float64)
    has = np.flatnonzero(own >= 0)
    found[has, own[has]] = -np.inf
    return found.max(axis=1, initial=-np.inf)


def _ascending(scores: NDArray[np.floating]) -> Floats:
    found = np.sort(np.asarray(scores, np.float64).reshape(-1))
    if len(found) and np.isnan(found[-1]):
        raise BadInput("a score is not a number.", "Leave out rows that could not be scored.")
    return found


def _share(genuine: Floats, threshold: float) -> float:
    """Of the known, refused."""
    if not len(genuine):
        return float("nan")
    return 0.0 if threshold == -np.inf else float(np.searchsorted(genuine, threshold, side="right") / len(genuine))


def _rounded_up(value: float) -> float:
    if not np.isfinite(value) or value == 0:
        return value
    unit = 10.0 ** (np.floor(np.log10(abs(value))) + 1 - _DIGITS)
    found = float(np.ceil(value / unit) * unit)
    return found if found >= value else value

"""Open set: "unknown" as an answer, by a distance from the sums and a threshold from scores. Arithmetic on arrays.

The distance is between directions: the cosine of the angle, seen from the middle of all classes, between a row and the
mean of a class, where the shared within-class covariance is round. That is Mahalanobis distance on features brought to
unit length (Mahalanobis++, arXiv:2505.18032; in speaker verification WCCN and cosine scoring, Dehak et al. 2011). The
covariance follows from the sums; of it the leading directions are kept and the rest is taken as even (probabilistic
PCA, Tipping & Bishop 1999), so that the distance is C + r columns of one matrix and exports like a head. On real
features it parted known from unknown better than Mahalanobis distance, relative Mahalanobis (arXiv:2106.09022), which
is nearly linear in phi where the covariance is shared, or the largest score of a head (benchmarks/open_set.py).

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

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import BadInput

Floats = NDArray[np.float64]
Rate = float | Literal["equal"]
"""A false-accept rate to keep; or the threshold at which both errors are as frequent, where none was asked for."""
CONFIDENCE = 0.95
RANK = 128
SHRINKAGE = 0.3
"""Added to the covariance, as a share of its mean variance."""
_DENSE = 512  # up to so many dimensions all eigenvectors are computed
_TURNS = 4  # of subspace iteration beyond that
_REFUSED, _BELOW = 0.1, 1e-3  # share of the known that `equal` refuses at most; room below the lowest that it accepts
_DIGITS = 5  # of a threshold: the last bits of a score differ between machines


@dataclass(frozen=True, eq=False)
class Distance:
    """scores (N, C) in [-1, 1]: cosines of rows and class means about `origin`, in the inverse covariance
    flat * I - damp damp^T.

    origin: (D,), the mean of the class means. means: (D, C), less origin. damp: (D, r). classes: those with rows.
    """

    origin: Floats
    means: Floats
    flat: float
    damp: Floats
    classes: int

    def inverse(self, z: Floats) -> Floats:
        """(D, N) -> the inverse covariance times it."""
        return self.flat * z - self.damp @ (self.damp.T @ z)

    @cached_property
    def weights(self) -> Floats:
        """(D, C): score = (x - origin) @ weights / length(x - origin). A class at the origin itself has 0."""
        found = self.inverse(self.means)
        length = np.sqrt(np.maximum(np.einsum("dc,dc->c", self.means, found), 0))
        return found / np.where(length > 0, length, np.inf)

    def length(self, z: Floats) -> Floats:
        """(N, D) rows less origin -> (N,) sqrt(z^T S^-1 z) = sqrt(flat |z|^2 - |z damp|^2)."""
        inside = z @ self.damp
        square = self.flat * np.einsum("nd,nd->n", z, z) - np.einsum("nr,nr->n", inside, inside)
        return np.sqrt(np.maximum(square, np.finfo(float).tiny))

    def scores(self, x: Floats) -> Floats:
        """(N, D) -> (N, C)."""
        z = x - self.origin
        return (z @ self.weights) / self.length(z)[:, None]

    def impostor_scores(self, x: Floats, own: NDArray[np.integer]) -> Floats:
        """(N, D) rows and (N,) their own columns -> (N, C) scores as if their own class had never been learned.

        Its mean leaves the origin too: else the other classes would lie on the far side of it, and every impostor would
        look easier than a stranger is. Its own column is -inf. With two classes the origin stays.
        """
        share = 1 / (self.classes - 1) if self.classes > 2 else 0.0  # the origin goes to -share * own mean
        z = x - self.origin
        right = self.inverse(self.means)
        between, cross = self.means.T @ right, z @ right  # (C, C), (N, C): inner products
        mine = cross[np.arange(len(x)), own][:, None]
        self_own = np.diagonal(between)[own][:, None]
        moved = share**2 * self_own
        rows = self.length(z)[:, None] ** 2 + 2 * share * mine + moved
        columns = np.diagonal(between)[None] + 2 * share * between[own] + moved
        found = cross + share * mine + share * between[own] + moved
        found /= np.sqrt(np.maximum(rows * columns, np.finfo(float).tiny))
        found[np.arange(len(x)), own] = -np.inf
        return found


def distance(gram: Floats | Any, sums: Floats, counts: NDArray[Any]) -> Distance:
    """The distance from sums over rows: gram (D, D) Σ x x^T, sums (D, C) Σ x per class, counts (C,).

    gram may be anything with its length, its diagonal and its product with a matrix. In any coordinates; every row
    counts in one class (negatives are a class of their own, and part of the origin).
    Classes with counts 0 lie at the origin and score 0. Raises BadInput where there is no row.
    """
    n = np.asarray(counts, np.float64)
    present = n > 0
    if not present.any():
        raise BadInput("there are no rows to measure a distance from.", "Learn samples first.")
    means = np.zeros_like(sums, dtype=np.float64)
    means[:, present] = sums[:, present] / n[present]
    origin = means[:, present].mean(axis=1)
    degrees = max(1.0, n.sum() - present.sum())
    d, rank = len(gram), min(RANK, len(gram))
    variances = np.maximum(gram.diagonal() - np.einsum("dc,dc->d", means, sums), 0) / degrees
    mean_variance = float(variances.mean()) or 1.0

    def covariance(y: Floats) -> Floats:
        found: Floats = (gram @ y - means @ (sums.T @ y)) / degrees
        return found

    values, vectors = _leading(covariance, d, rank)
    rest = max(0.0, float(variances.sum() - values.sum())) / (d - rank) if d > rank else float(values[-1])
    flat = 1 / (rest + SHRINKAGE * mean_variance)
    damp = vectors * np.sqrt(np.maximum(flat - 1 / (values + SHRINKAGE * mean_variance), 0))
    centred = np.where(present, means - origin[:, None], 0.0)
    return Distance(origin, centred, flat, damp, int(present.sum()))


def _leading(apply: Callable[[Floats], Floats], d: int, rank: int) -> tuple[Floats, Floats]:
    """The largest eigenvalues, descending, and their vectors (D, rank), of a positive semidefinite map."""
    if d <= _DENSE:
        values, vectors = np.linalg.eigh(apply(np.eye(d)))
    else:  # from a fixed start: a function of the sums alone
        basis = np.random.default_rng(0).normal(size=(d, rank + 16))
        for _ in range(_TURNS):
            basis, _ = np.linalg.qr(apply(basis))
        image = apply(basis)
        values, turned = np.linalg.eigh(basis.T @ image)
        vectors = basis @ turned
    return np.maximum(values[::-1][:rank], 0), vectors[:, ::-1][:, :rank]


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

    asked: the false-accept rate that was asked for, 1.0 where none was. promised: the rate that new impostors keep with
    `confidence`; above `asked` where there are too few impostors, and 1.0 without any (all is then accepted, at
    threshold -inf).
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
    """The lowest threshold that keeps the false-accept rate asked for, with this confidence; else the nearest to it.

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


def equal(known: NDArray[np.floating], impostors: NDArray[np.floating], confidence: float = CONFIDENCE) -> Cut:
    """The threshold at which as large a share of the known is refused as of the impostors accepted (equal error rate),
    or most nearly so; a lower one where that would refuse more than a tenth of the known. For a handful of examples,
    of which no low rate could be promised: among few classes that are alike, one class's examples are impostors that no
    stranger is as hard as. `promised` is what the impostors show all the same (Clopper & Pearson)."""
    from scipy.special import betaincinv  # the quantile of Beta; scipy.stats takes half a second to import

    genuine, strange = _ascending(known), _ascending(impostors)
    if not len(genuine) or not len(strange):
        found = cut(genuine, strange, 0.5, confidence)
        return replace(found, asked=1.0)
    along = curve(genuine, strange)
    apart = np.abs(along.false_reject - along.false_accept)[1:]  # without -inf
    best = 1 + np.flatnonzero(apart <= apart.min() + 1e-12)
    above = along.thresholds[min(best[-1] + 1, len(along.thresholds) - 1)]
    # where several do equally well, nearer to the known: strangers are harder than one of few classes is as an impostor
    threshold = float(0.25 * along.thresholds[best[0]] + 0.75 * above)
    threshold = _rounded_up(min(threshold, float(genuine[int(_REFUSED * len(genuine))]) - _BELOW))
    accepted = len(strange) - int(np.searchsorted(strange, threshold, side="right"))
    left = len(strange) - accepted
    upper = float(betaincinv(accepted + 1, left, confidence)) if left else 1.0
    return Cut(threshold, 1.0, confidence, upper, accepted / len(strange), _share(genuine, threshold), len(strange),
               len(genuine), 1)  # fmt: skip


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

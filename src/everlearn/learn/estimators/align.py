"""One classifier for several domains (cameras, sites), each aligned to the one that asks, when it is solved.

Each domain has exact sums of its labelled rows, and of rows that were only seen. From them follow its mean, its spread
and its correlations R, and with these a linear map that makes the rows of one domain look, in these moments, like those
of another. The map is applied to the sums (A^T G A, A^T Q), never to rows, so what is held stays a pure function of the
set of rows: any order, any portions, forgotten exactly. For a domain t the rows of domain c are taken as

    none    x
    mean    x - mean_c                                             what asks is centred likewise
    scale   (x - mean_c) / spread_c
    coral   (x - mean_c) / spread_c (R_c + r I)^-1/2 (R_t + r I)^1/2    CORAL: Sun, Feng & Saenko 2016, arXiv:1511.05547

with r = ridge (1 + D / n): with fewer rows than features, correlations are mostly noise, and aligning noise does harm.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
import scipy.linalg as sl
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from everlearn.learn.estimators.base import unchanged_if_refused
from everlearn.learn.estimators.centred import Floats, Moments, Scaling, Searched, Settings, Solution, scaling, search
from everlearn.learn.estimators.encode import BadArray, Encoder, portions
from everlearn.learn.estimators.exact import ExactClassifier, value_of
from everlearn.learn.estimators.learned import sums
from everlearn.learn.estimators.parted import Mark, part_of
from everlearn.learn.estimators.several import SeveralBase
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.calibrate import OutOfFold, temperature
from everlearn.learn.exact.head import softmax
from everlearn.learn.exact.threads import single_blas

Way = Literal["none", "mean", "scale", "coral"]
WAYS: tuple[Way, ...] = ("none", "mean", "scale", "coral")
"""From the simplest on: of equals the first is taken."""
LABELLED, SEEN = "labelled", "seen"
_PRIOR = 10.0  # rows of the whole that each domain's moments are blended with: one row alone has no spread
_OBSERVED = "-"  # the label of rows without one


class AlignedClassifier(ClassifierMixin, SeveralBase):  # type: ignore[misc]
    """Ridge classification over several domains, by sums that are aligned to the domain that asks.

    estimator: an ExactClassifier that carries the settings; its `head` and `unknown` are not used here.
    align: `none`, `mean`, `scale`, `coral`, or `auto`: for a domain with labelled rows, the way with the least log loss
        on them, held out; for others what `unlabelled` says.
    unlabelled: for domains without labelled rows. Alignment takes it that the mix of classes is about the same in all
        domains; where it is not, `none` may be better.
    ridge: the larger, the nearer is `coral` to `scale`.
    """

    _heads: dict[tuple[Any, ...], _Aligned]  # those that are solved, by domain and settings
    _picture: _Picture | None
    _names: _Names
    _kind: ExactClassifier  # what knows the type of the labels

    def __init__(
        self, estimator: ExactClassifier | None = None, *, align: str = "auto", unlabelled: str = "coral",
        ridge: float = 5.0,
    ) -> None:  # fmt: skip
        self.estimator = estimator
        self.align = align
        self.unlabelled = unlabelled
        self.ridge = ridge

    def fit(self, X: ArrayLike, y: ArrayLike, domain: Any, ids: Any = None, groups: Any = None) -> Self:
        """Forget all and learn X (N, D) with y (N,) of a domain; ids and groups as for ExactClassifier."""
        return self._learn(X, y, domain, ids, groups, fresh=True)

    def partial_fit(self, X: ArrayLike, y: ArrayLike, domain: Any, ids: Any = None, groups: Any = None) -> Self:
        """Learn rows of one domain, or of a domain for each row. All or nothing.

        A row that was observed by its id is labelled now. Raises BadArray naming what cannot be learned.
        """
        return self._learn(X, y, domain, ids, groups, fresh=not hasattr(self, "_rows"))

    def observe(self, X: ArrayLike, domain: Any, ids: Any = None, groups: Any = None) -> Self:
        """Take in what a domain looks like, without labels."""
        return self._learn(X, None, domain, ids, groups, fresh=not hasattr(self, "_rows"))

    def forget(
        self, X: ArrayLike | None = None, y: ArrayLike | None = None, *, domain: Any = None, ids: Any = None,
        groups: Any = None,
    ) -> Self:  # fmt: skip
        """Become what never learned these rows: X, y (None: as observed) and domain as they were learned, or ids, or
        all of one domain. All or nothing. Raises BadArray naming the first row that is not held."""
        check_is_fitted(self)
        if X is not None:
            rows, parts = self._batch(*self._marked(self._checked(X), y, domain)[1:], ids, groups)
            self._rows.forget(rows, parts)
        elif ids is not None:
            self._rows.forget(*self._rows.find(map(str, ids)))
        elif domain is not None:
            self._known(str(domain))
            for kind in (LABELLED, SEEN):
                self._rows.parts.pop((str(domain), kind), None)
        else:
            raise BadArray("nothing is named to be forgotten.", "Give X, y and domain, or ids, or a domain.")
        self._after()
        return self

    def predict(self, X: ArrayLike, domain: str) -> NDArray[Any]:
        """(N, D) rows of a domain -> (N,) labels. Raises BadArray where nothing of the domain was learned or seen."""
        found = self._scores(X, domain)
        return self.classes_[found.argmax(axis=1)]

    def predict_proba(self, X: ArrayLike, domain: str) -> Floats:
        """(N, C), calibrated on held-out rows: of the domain where it has labelled ones, else of the others as they
        look there, which cannot know how well the alignment does."""
        found = self._scores(X, domain) / self._solved(domain).temperature
        found = np.exp(found - found.max(axis=1, keepdims=True))
        return found / found.sum(axis=1, keepdims=True)

    def decision_function(self, X: ArrayLike, domain: str) -> Floats:
        """(N, C) scores as classes_; for two classes (N,), > 0 for classes_[1]."""
        found = self._scores(X, domain)
        return found[:, 1] - found[:, 0] if len(self.classes_) == 2 else found

    def score(self, X: ArrayLike, y: ArrayLike, domain: str) -> float:  # type: ignore[override]
        """Accuracy."""
        return float((self.predict(X, domain) == np.asarray(y)).mean())

    @property
    def domains_(self) -> tuple[str, ...]:
        """Sorted names of the domains of which anything is held."""
        check_is_fitted(self)
        return tuple(sorted({domain for domain, _ in self._rows.parts}))

    @property
    def classes_(self) -> NDArray[Any]:
        """Classes with a labelled row, in the order of their values."""
        check_is_fitted(self)
        return self._names.values

    def way(self, domain: str) -> Way:
        """How the others are aligned to this domain."""
        return self._solved(domain).way

    def losses(self, domain: str) -> dict[Way, float]:
        """Log loss on held-out labelled rows of the domain, by way; {} where the way was not chosen by it."""
        return self._solved(domain).losses

    # inside

    def _learn(self, X: ArrayLike, y: ArrayLike | None, domain: Any, ids: Any, groups: Any, fresh: bool) -> Self:
        with unchanged_if_refused(self):
            array = self._checked(X, fresh)
            kind, array, marks = self._marked(array, y, domain)
            self._rows.learn(*self._batch(array, marks, ids, groups))
        self._kind = kind
        self._after()
        return self

    def _marked(
        self, array: NDArray[Any], y: ArrayLike | None, domain: Any
    ) -> tuple[ExactClassifier, NDArray[Any], list[Mark]]:
        if domain is None or (not isinstance(domain, str) and np.ndim(domain) != 1):
            raise BadArray(f"domain={domain!r} is no name.", "Give the domain's name, or one for each row.")
        domains = [domain] * len(array) if isinstance(domain, str) else list(map(str, domain))
        check_consistent_length(array, domains)
        kind = _of_type(self._kind)
        if y is None:
            return kind, array, [Mark((name, SEEN), _OBSERVED) for name in domains]
        labels = kind._encoded(column_or_1d(y, warn=True))
        check_consistent_length(array, labels)
        return kind, array, [Mark((name, LABELLED), label) for name, label in zip(domains, labels)]

    def _scores(self, X: ArrayLike, domain: str) -> Floats:
        solved, array = self._solved(domain), self._checked(X)
        found = np.empty((len(array), len(self._names.columns)))
        for part in portions(len(array)):
            found[part] = solved.scores(self._rows.empty.encoder.phi(array[part]))
        return found[:, self._names.order]

    def _solved(self, domain: str) -> _Aligned:
        check_is_fitted(self)
        self._known(domain)
        asked = (domain, self.align, self.unlabelled, self.ridge)
        if asked not in self._heads:
            if self._picture is None:
                self._picture = _Picture.of(self)
            ways = self._candidates(domain)
            tried = [self._picture.solve(domain, way, self.ridge, self._made._settings()) for way in ways]
            cached = self._rows.cached(lambda part: str if part[1] == LABELLED else None)
            for one in tried:
                one.calibrate(cached, self._names.columns)
            best = min(tried, key=lambda one: one.loss)  # the first of equals
            best.losses = {one.way: one.loss for one in tried} if len(tried) > 1 else {}
            self._heads[asked] = best
        return self._heads[asked]

    def _candidates(self, domain: str) -> Sequence[Way]:
        for name in (self.align, self.unlabelled):
            if name not in (*WAYS, "auto") or (name == "auto" and name is self.unlabelled is not self.align):
                raise BadArray(f"align {name!r} is not known.", f"Give one of {', '.join(WAYS)}.")
        if not 0 < self.ridge < np.inf:
            raise BadArray(f"ridge={self.ridge!r} cannot be.", "Give a number > 0.")
        if not len(self._names.columns):
            raise BadArray("no row is labelled.", "Learn labelled rows of any domain.")
        if {name for name, kind in self._rows.parts if kind == LABELLED} == {domain}:
            return ["none"]  # there is nothing to be aligned
        if self.align != "auto":
            return [self.align]  # type: ignore[list-item]
        part = self._rows.parts.get((domain, LABELLED))
        if part is not None and len(part.held.owners) and np.count_nonzero(part.memory.fold_counts) > 1:
            return WAYS
        return [self.unlabelled]  # type: ignore[list-item]

    def _known(self, domain: str) -> None:
        if domain not in self.domains_:
            known = ", ".join(self.domains_) or "none"
            raise BadArray(f"nothing of domain {domain!r} is held (held: {known}).", f"observe(X, domain={domain!r})")

    def _begin(self) -> None:
        super()._begin()
        self._kind = _of_type(None)
        self._after()

    def _after(self) -> None:
        self._heads, self._picture = {}, None
        self._names = _Names.of({name for (_, kind), learned in self._rows if kind == LABELLED
                                 for name in learned.memory.columns})  # fmt: skip

    def _join(self, held: Mark, said: Mark) -> Mark | None:
        if held.part[0] != said.part[0] or (held.part == said.part and held != said):
            return None
        return held if held.part[1] == LABELLED else said

    def _refuse_other(self, other: Self) -> None:
        self._kind._refuse_other(other._kind)

    def _adopt(self, other: Self) -> None:
        self._kind._adopt(other._kind)

    def _labels(self) -> dict[str, Any]:
        return self._kind._labels()

    def _restore(self, labels: dict[str, Any]) -> None:
        self._kind._restore(labels)


def _of_type(other: ExactClassifier | None) -> ExactClassifier:
    """What knows the type of the labels, as another does."""
    made = ExactClassifier()
    made._begin()
    if other is not None:
        made._adopt(other)
    return made


@dataclass(frozen=True)
class _Names:
    """columns: sorted names of the classes' sums; values: the classes; order: the column of each."""

    columns: tuple[str, ...]
    values: NDArray[Any]
    order: NDArray[np.intp]

    @classmethod
    def of(cls, names: Collection[str]) -> _Names:
        columns = tuple(sorted(names))
        values = np.array([value_of(name) for name in columns])
        order = np.argsort(values, kind="stable")
        return cls(columns, values[order], order)


@dataclass(frozen=True, eq=False)
class _Map:
    """Rows of one domain, in steps less `origin`, as they look in the domain that asks."""

    origin: Floats
    scaling: Scaling
    turn: Floats | None

    def __call__(self, x: Floats) -> Floats:
        z = self.scaling(x - self.origin)
        return z if self.turn is None else z @ self.turn

    def moments(self, of: Moments) -> Moments:
        """The same of sums of x - origin."""
        z = self.scaling.moments(of)
        if self.turn is None:
            return z
        return Moments(z.n, z.x @ self.turn, self.turn.T @ z.xx @ self.turn, self.turn.T @ z.xy, z.y, z.yy)


@dataclass(frozen=True, eq=False)
class _Picture:
    """The sums of all domains in float64. labelled: per fold, columns as names; whole: of all rows of a domain, blended
    with a few of all domains; both less `origin`, one for all, near the mean."""

    encoder: Encoder
    names: tuple[str, ...]
    origin: Floats
    labelled: dict[str, list[Moments]]
    whole: dict[str, Moments]
    rows: dict[str, float]
    roots: dict[str, tuple[Floats, Floats]] = field(default_factory=dict)  # of R: eigenvalues and eigenvectors

    @classmethod
    def of(cls, model: AlignedClassifier) -> _Picture:
        names, encoder = model._names.columns, model._rows.empty.encoder
        origin, labelled = None, dict[str, list[Moments]]()
        whole = dict[str, Moments]()
        for (domain, kind), learned in model._rows:
            found = sums(learned.memory, encoder, False, True)
            origin = found.origin.astype(np.float64) if origin is None else origin
            here = [_placed(part, found.origin - origin, learned.memory.columns, names) for part in found.parts]
            if kind == LABELLED:
                labelled[domain] = here
            for part in here:
                whole[domain] = whole[domain] + part if domain in whole else part
        assert origin is not None
        rows = {domain: part.n for domain, part in whole.items()}
        everything = sum(list(whole.values())[1:], next(iter(whole.values())))
        prior = everything.times(_PRIOR / everything.n)
        return cls(encoder, names, origin, labelled, {name: part + prior for name, part in whole.items()}, rows)

    def solve(self, domain: str, way: Way, ridge: float, settings: Settings) -> _Aligned:
        with single_blas():
            maps = {name: self._map(name, domain, way, ridge) for name in {*self.labelled, domain}}
            folds = len(next(iter(self.labelled.values())))
            mapped = {name: [maps[name].moments(part) for part in parts] for name, parts in self.labelled.items()}
            parts = [_sum([mapped[name][fold] for name in sorted(mapped)]) for fold in range(folds)]
        return _Aligned(way, domain, maps, search(parts, settings, every=True), parts, self.encoder)

    def _map(self, source: str, target: str, way: Way, ridge: float) -> _Map:
        base, none = np.zeros(len(self.names)), np.ones(len(self.origin))
        if way == "none":
            return _Map(self.origin, Scaling(np.zeros_like(none), none, base, True), None)
        own = scaling(self.whole[source], Settings())
        inverse = none if way == "mean" else own.inverse
        turn = None
        if way == "coral" and source != target:
            r = ridge * (1 + len(none) / min(self.rows[source], self.rows[target]))
            turn = self._power(source, r, -0.5) @ self._power(target, r, 0.5)
        return _Map(self.origin, Scaling(own.mean, inverse, base, True), turn)

    def _power(self, domain: str, ridge: float, exponent: float) -> Floats:
        """(R + ridge I)^exponent."""
        if domain not in self.roots:
            whole = self.whole[domain]
            own = scaling(whole, Settings())
            centred = Scaling(own.mean, own.inverse, np.zeros(len(self.names)), True).moments(whole)
            self.roots[domain] = sl.eigh(centred.xx / whole.n, driver="evd")
        values, vectors = self.roots[domain]
        return (vectors * (np.maximum(values, 0) + ridge) ** exponent) @ vectors.T


@dataclass(eq=False)
class _Aligned:
    """What answers for one domain."""

    way: Way
    domain: str
    maps: dict[str, _Map]
    searched: Searched
    parts: list[Moments]
    encoder: Encoder
    temperature: float = 1.0
    loss: float = float("inf")
    losses: dict[Way, float] = field(default_factory=dict)

    def scores(self, phi: NDArray[np.int8], source: str | None = None, of: Solution | None = None) -> Floats:
        """(N, C) of rows of a domain (this one), by a solution (of all rows)."""
        x = self.encoder.values(phi)
        return (of or self.searched.whole).scores(self.maps[source or self.domain](x))

    def calibrate(self, cached: Cached, names: tuple[str, ...]) -> None:
        """By held-out rows of the domain, or of all domains where it has none."""
        sources = np.array([part_of(id)[0] for id in cached.ids])
        if len(names) < 2 or not len(sources):
            return
        own = np.flatnonzero(sources == self.domain)
        if len(own):
            ids, labels = ([texts[row] for row in own.tolist()] for texts in (cached.ids, cached.labels))
            cached, sources = Cached(ids, cached.phi[own], labels, cached.folds[own]), sources[own]
        view = _View(names, (), cached, 1.0, self, sources)
        self.temperature = temperature(view) or 1.0
        self.loss = replace(view, temperature=self.temperature).loss() if len(own) else self.loss


@dataclass(frozen=True, eq=False)
class _View(OutOfFold):
    """Out-of-fold scores of each row as it looks in the domain that asks. sources: (N,) domains of the cached rows."""

    aligned: _Aligned | None = None
    sources: NDArray[Any] | None = None

    def scores(self, every: int = 1) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        assert self.aligned is not None and self.sources is not None
        held = sum(part.y for part in self.aligned.parts)
        for fold, solution in enumerate(self.aligned.searched.held_out):
            if solution is None:
                continue
            missing, rows = held - self.aligned.parts[fold].y <= 0, self.cached.rows(fold, every)
            for source in sorted(set(self.sources[rows])):
                at = rows[self.sources[rows] == source]
                for part in portions(len(at)):
                    found = self.aligned.scores(self.cached.phi[at[part]], str(source), solution)
                    found[:, missing] = -np.inf
                    yield at[part], found.astype(np.float32)

    def loss(self) -> float:
        """Mean log loss of the rows whose class is known without them; to nine digits, so that rounding decides
        nothing."""
        total, count = 0.0, 0
        for rows, scores in self.scores():
            chance = softmax(scores, self.temperature)[np.arange(len(rows)), self.labels[rows]].astype(np.float64)
            known = np.isfinite(scores[np.arange(len(rows)), self.labels[rows]])
            total -= float(np.log(np.maximum(chance[known], 1e-12)).sum())
            count += int(known.sum())
        return float(f"{total / count:.9g}") if count else float("inf")


def _placed(of: Moments, by: Floats, own: tuple[str, ...], names: tuple[str, ...]) -> Moments:
    """Sums about another origin, `by` lower, with columns as names; labels that are none of them are left out."""
    d, at = len(of.x), [(own.index(name), column) for column, name in enumerate(names) if name in own]
    xy, y = np.zeros((d, len(names))), np.zeros(len(names))
    xy[:, [new for _, new in at]] = of.xy[:, [old for old, _ in at]]
    y[[new for _, new in at]] = of.y[[old for old, _ in at]]
    shift = Scaling(-by, np.ones(d), np.zeros(len(names)), True)
    return shift.moments(Moments(of.n, of.x, of.xx, xy, y, float(y.sum())))


def _sum(parts: Sequence[Moments]) -> Moments:
    return sum(parts[1:], parts[0])

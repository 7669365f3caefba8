"""The tests behind a verdict against scipy and their own definitions; how often a verdict errs, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize_scalar

from everlearn.errors import BadInput
from everlearn.evaluate import compare as module
from everlearn.evaluate.compare import (
    alpha_at,
    clustered_mcnemar,
    compare,
    compare_errors,
    mcnemar,
    signed_rank,
    tango,
    vetoes,
)


def pair(lost: int, gained: int, same: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers of two models with these counts."""
    change = np.repeat([-1, 1, 0], [lost, gained, same])
    return change <= 0, change >= 0


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert mcnemar(5, 15) == pytest.approx(stats.binomtest(5, 20).pvalue)
    assert mcnemar(0, 0) == 1


@pytest.mark.parametrize(("lost", "gained", "n"), [(2, 12, 50), (9, 14, 400), (0, 0, 30), (0, 6, 40), (30, 10, 90)])
def test_tango_is_where_the_score_test_of_the_likelihood_stops_rejecting(lost: int, gained: int, n: int) -> None:
    """At each end the score statistic, with the share that maximises the likelihood, is the critical value."""
    for d in tango(lost, gained, n, 0.05):

        def minus_likelihood(q: float, d: float = d) -> float:  # q: share lost; q + d: share gained
            parts = ((lost, q), (gained, q + d), (n - lost - gained, 1 - 2 * q - d))
            return -sum(count * math.log(max(share, 1e-300)) for count, share in parts if count)

        q = minimize_scalar(
            minus_likelihood, bounds=(max(0, -d), (1 - d) / 2), method="bounded", options={"xatol": 1e-12}
        ).x
        z = (gained - lost - n * d) / math.sqrt(n * (2 * q + d - d * d))
        assert abs(z) == pytest.approx(stats.norm.ppf(0.975), rel=1e-3)


def test_tango_mirrors() -> None:
    low, high = tango(lost=1, gained=3, n=44, alpha=0.05)
    assert low < 2 / 44 < high
    assert (-high, -low) == pytest.approx(tango(lost=3, gained=1, n=44, alpha=0.05))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_a_model_against_itself(right: list[bool]) -> None:
    found = compare(right, right, labels=["a"] * len(right), cameras=[None] * len(right))
    assert (found.difference, found.p_value, found.vetoes) == (0, 1, ())
    assert found.interval[0] < 0 < found.interval[1]
    assert found.verdict == ("equivalent" if found.interval[0] > -found.margin else "undecided")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 300), st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_the_images_does_not_matter(lost, gained, same, random, grouped) -> None:  # type: ignore[no-untyped-def]
    before, after = pair(lost, gained, same)
    order = list(range(len(before)))
    random.shuffle(order)
    labels = np.array([f"c{i % 3}" for i in range(len(before))])
    groups = np.array([f"v{i // 4}" for i in range(len(before))])
    one = compare(before, after, labels=list(labels), groups=list(groups) if grouped else None)
    two = compare(
        before[order], after[order], labels=list(labels[order]), groups=list(groups[order]) if grouped else None
    )
    assert one == two


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 2000))
def test_seen_from_the_other_side(lost: int, gained: int, same: int) -> None:
    there, back = compare(*pair(lost, gained, same)), compare(*reversed(pair(lost, gained, same)))
    assert there.difference == -back.difference
    assert there.p_value == pytest.approx(back.p_value)
    assert not (there.verdict == "better" and back.verdict == "better")
    if there.verdict == "worse":
        assert back.verdict == "better"


@pytest.mark.parametrize(
    ("lost", "gained", "same", "verdict"),
    [
        (5, 60, 935, "better"),
        (60, 5, 935, "worse"),
        (20, 20, 3960, "equivalent"),
        (60, 20, 19_920, "equivalent"),  # a loss of 0.2 points is proven, and is within the margin of 2
        (10, 10, 80, "undecided"),
        (0, 0, 30, "undecided"),  # equal on 30 images is not shown to be equal
    ],
)
def test_verdicts(lost: int, gained: int, same: int, verdict: str) -> None:
    found = compare(*pair(lost, gained, same))
    assert found.verdict == verdict
    assert (found.needed == 0) == (verdict != "undecided")
    assert found.non_inferior == (verdict in ("better", "equivalent"))


def test_needed_images_decide() -> None:
    found = compare(*pair(10, 10, 80))
    assert found.needed is not None
    assert found.needed > 0
    times = (100 + found.needed) / 100
    assert compare(*pair(round(10 * times), round(10 * times), round(80 * times))).verdict == "equivalent"
    harm = compare(*pair(7, 4, 89))
    assert harm.verdict == "undecided"
    assert harm.needed
    on_the_margin = compare(*pair(4, 2, 94))
    assert on_the_margin.verdict == "undecided"
    assert (on_the_margin.needed or 0) > 100


def test_alpha_is_spent_and_never_more() -> None:
    spent = [alpha_at(0.05, look) for look in range(1, 5000)]
    assert sum(spent) < 0.05
    assert sum(spent) == pytest.approx(0.05, abs=1e-4)
    assert spent == sorted(spent, reverse=True)
    first, tenth = compare(*pair(5, 20, 975)), compare(*pair(5, 20, 975), look=10)
    assert (first.verdict, tenth.verdict) == ("better", "equivalent")
    assert tenth.interval[0] < first.interval[0]


def test_better_errs_seldom_and_harm_is_not_called_equivalent() -> None:
    """1,000 candidates as good as the champion, and 1,000 that are worse by just the margin."""
    rng = np.random.default_rng(0)
    n, margin = 400, 0.02
    verdicts = {"same": [], "harmed": []}  # type: ignore[var-annotated]
    for name, lost in (("same", 0.05), ("harmed", 0.05 + margin)):
        for b, c, rest in rng.multinomial(n, [lost, 0.05, 1 - lost - 0.05], 1000):
            p_value, interval = mcnemar(b, c), tango(b, c, n, 0.05)
            booted = module._counted(b, c, n, 0.05, 0) if interval[0] > -margin or p_value < 0.05 else interval
            reach = min(interval[0], booted[0]), max(interval[1], booted[1])
            verdicts[name].append(module.verdict_of(p_value, reach, margin, 0.05))
            assert rest == n - b - c
    assert verdicts["same"].count("better") / 1000 <= 0.025 + 0.01
    assert verdicts["same"].count("worse") / 1000 <= 0.025 + 0.01
    assert verdicts["harmed"].count("equivalent") / 1000 <= 0.025 + 0.01
    assert verdicts["harmed"].count("better") == 0


def test_equivalent_is_reached_where_it_should_be() -> None:
    rng = np.random.default_rng(1)
    reached = [tango(b, c, 3000, 0.05)[0] > -0.02 for b, c, _ in rng.multinomial(3000, [0.03, 0.03, 0.94], 300)]
    assert np.mean(reached) > 0.9


def test_grouped_images_err_seldom() -> None:
    """Videos of ten frames that are won or lost as a whole: the naive test errs in a fifth and more of the cases."""
    rng = np.random.default_rng(0)
    units = np.repeat(np.arange(60), 10)
    naive, grouped = 0, 0
    for _ in range(400):
        change = np.repeat(rng.choice([-1, 0, 1], 60, p=[0.15, 0.7, 0.15]), 10)
        naive += mcnemar(int((change < 0).sum()), int((change > 0).sum())) <= 0.05
        grouped += clustered_mcnemar(change, units) <= 0.05
    assert naive / 400 > 0.2
    assert grouped / 400 < 0.08


def test_few_groups_are_counted_exactly() -> None:
    change = np.array([1, 1, 1, 1, 1])
    assert clustered_mcnemar(change, np.arange(5)) == pytest.approx(mcnemar(0, 5))
    assert clustered_mcnemar(np.zeros(5, int), np.arange(5)) == 1
    assert clustered_mcnemar(change, np.zeros(5, int)) == 1  # one group shows nothing
    found = compare(*pair(0, 20, 20), groups=["one video"] * 40)
    assert found.verdict != "better"


def test_veto_names_the_harmed_class_among_thousands() -> None:
    labels = [f"c{i:04d}" for i in range(2000)] * 5 + ["hurt"] * 30
    change = np.concatenate([np.zeros(10_000, int), np.full(20, -1), np.zeros(10, int)])
    change[::97] = 1
    found = vetoes(change, labels, ["door"] * len(labels))
    assert [(v.kind, v.name) for v in found] == [("class", "hurt")]
    assert found[0].lost >= 19
    assert found[0].p_value < 0.001


def test_holm_agrees_with_scipy() -> None:
    rng = np.random.default_rng(3)
    labels = [f"c{i}" for i in np.repeat(np.arange(6), 60)]
    change = np.concatenate([rng.choice([-1, 1], 60, p=[p, 1 - p]) for p in (0.5, 0.5, 0.7, 0.75, 0.9, 0.4)])
    raw = [stats.binomtest(int((part < 0).sum()), 60, alternative="greater").pvalue for part in change.reshape(6, 60)]
    order = np.argsort(raw)
    holm = np.minimum(np.maximum.accumulate(np.array(raw)[order] * (6 - np.arange(6))), 1)
    expected = {f"c{i}": p for i, p in zip(order, holm, strict=True) if p <= 0.05}
    assert {v.name: v.p_value for v in vetoes(change, labels, None)} == pytest.approx(expected)
    assert len(expected) >= 2


def test_vetoes_err_seldom() -> None:
    rng = np.random.default_rng(0)
    labels, cameras = [f"c{i % 20}" for i in range(600)], [f"cam{i % 3}" for i in range(600)]
    false = [bool(vetoes(rng.choice([-1, 0, 1], 600, p=[0.1, 0.8, 0.1]), labels, cameras)) for _ in range(300)]
    assert np.mean(false) <= 0.05 + 0.02


def test_regressors() -> None:
    rng = np.random.default_rng(0)
    before = rng.exponential(2, 500)
    assert compare_errors(before, before * 0.8).verdict == "better"
    assert compare_errors(before, before * 1.2).verdict == "worse"
    assert compare_errors(before, before * 1.001).verdict == "equivalent"
    unsure = compare_errors(before[:40], rng.permutation(before[:40]))
    assert unsure.verdict == "undecided"
    assert unsure.needed
    same = compare_errors(before, before, cameras=["door"] * 500)
    assert (same.difference, same.p_value, same.verdict) == (0, 1, "equivalent")
    change = before - rng.exponential(2, 500)
    assert signed_rank(change) == pytest.approx(stats.wilcoxon(change).pvalue)
    assert compare_errors(before, before * 1.2, cameras=["door"] * 500).vetoes[0].name == "door"


def test_regression_verdict_errs_seldom() -> None:
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(300):
        before, after = rng.gamma(2, 1, (2, 60))
        change = before - after
        half = stats.t.ppf(0.975, 59) * change.std(ddof=1) / math.sqrt(60)
        interval = change.mean() - half, change.mean() + half
        false += module.verdict_of(signed_rank(change), interval, 0.04, 0.05) == "better"
    assert false / 300 <= 0.025 + 0.02


def test_bad_input_is_said() -> None:
    with pytest.raises(BadInput, match="same test images"):
        compare([True], [True, False])
    with pytest.raises(BadInput, match=r"margin is 1\.5"):
        compare([True], [True], margin=1.5)
    with pytest.raises(BadInput, match="alpha is"):
        compare([True], [True], look=0)

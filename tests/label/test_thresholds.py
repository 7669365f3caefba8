"""The promise of automatic boxes: of those that are written, the stated share is right on images held back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy.stats import beta, binom

from everlearn.label.boxes import Weighed, judge
from everlearn.label.thresholds import Reviewed, audited, lower, needed, prove, worth
from everlearn.types import Box

TARGET, NOISE, REPEATED = 0.95, 0.2, 30


def world(
    seed: int, groups: int, right: Callable[[float], float], *, classes: Sequence[str] = ("a",), size: float = 1.0,
    together: float = 0.0,
) -> list[Reviewed]:  # fmt: skip
    """Images in groups of `size` on average. right: trust to the chance that a box is right; together: the share of
    boxes whose luck is their group's."""
    rng = np.random.default_rng(seed)
    made = []
    for group in range(groups):
        luck = rng.random()
        for _ in range(1 if size <= 1 else int(rng.geometric(1 / size))):
            boxes, truth = [], []
            for place in range(int(rng.integers(1, 4))):
                name = classes[int(rng.integers(len(classes)))]
                sure = float(rng.beta(4, 1.3))
                at = (name, 0.1 + 0.2 * place, 0.1, 0.1, 0.1)
                boxes.append(Box(*at, sure))
                if (luck if rng.random() < together else rng.random()) < right(sure):
                    truth.append(Box(*at))
            boxes.sort(key=lambda box: -(box.confidence or 0))
            made.append(Reviewed(f"{group}", Weighed(tuple(boxes)), tuple(truth), frozenset(classes)))
    return made


def precision(images: Sequence[Reviewed]) -> Callable[[float], float]:
    """Threshold to the precision of the boxes of `a` that it writes on these images."""
    rows = []
    for one in images:
        boxes = judge(one.seen, {"a": 0.0}, NOISE).boxes
        if boxes:
            there = {box.x for box in one.truth}
            rows.append((min(box.confidence or 0 for box in boxes), len(boxes), sum(box.x in there for box in boxes)))
    least, of, right = np.array(rows).T
    return lambda threshold: float(right[least >= threshold].sum() / of[least >= threshold].sum())


def cliff(sure: float) -> float:
    return 0.998 if sure > 0.7 else 0.7


def flat(sure: float) -> float:
    return TARGET - 0.005


@pytest.mark.parametrize(
    ("right", "groups", "size", "together", "given"),
    [
        pytest.param(cliff, 350, 1.0, 0.0, 0.5, id="images apart"),
        pytest.param(cliff, 250, 3.0, 0.8, 0.5, id="errors in bursts"),
        pytest.param(flat, 120, 1.0, 0.0, 0.0, id="just too bad"),
        pytest.param(lambda sure: 0.93, 12, 10.0, 1.0, 0.0, id="a few bursts, each right or wrong as a whole"),
    ],
)
def test_the_promise_holds_on_images_held_back(
    right: Callable[[float], float], groups: int, size: float, together: float, given: float
) -> None:
    """A promise at 95 % may be broken once in 20 times, and no more often than chance allows."""
    reached = precision(world(10_000, 1500, right, size=size, together=together))
    proofs = []
    for seed in range(REPEATED):
        found = prove(world(seed, groups, right, size=size, together=together), ["a"], TARGET, NOISE)
        proofs.append(found.classes["a"].threshold)
    thresholds = [one for one in proofs if one is not None]
    assert sum(reached(one) < TARGET for one in thresholds) <= binom.ppf(0.999, REPEATED, 0.05)
    assert len(thresholds) >= given * REPEATED, "a promise is not kept by promising nothing"


def test_each_class_has_its_own_threshold() -> None:
    def right(name: str) -> Callable[[float], float]:
        return (lambda sure: 0.999) if name == "good" else (lambda sure: 0.999 if sure > 0.75 else 0.5)

    good, hard = (world(n, 700, right(name), classes=(name,)) for n, name in enumerate(("good", "hard")))
    both = [Reviewed(f"{name}{one.group}", one.seen, one.truth, frozenset({"good", "hard"}))
            for name, some in (("g", good), ("h", hard)) for one in some]  # fmt: skip
    found = prove(both, ["good", "hard", "rare"], TARGET, NOISE)
    easy, other, rare = (found.classes[name] for name in ("good", "hard", "rare"))
    assert easy.threshold is not None
    assert other.threshold is not None
    assert easy.threshold < 0.6 < other.threshold
    assert (rare.threshold, rare.too_few, rare.needs) == (None, True, 59)
    assert found.right.low > 0.9
    assert found.images[0] > found.images[1] / 2


def test_59_boxes_without_an_error_are_the_least_that_prove_095() -> None:
    assert needed(0.95) == 59
    images = [one for n in range(3) for one in world(n, 1000, lambda sure: 1.0) if len(one.seen.boxes) == 1]
    apart = [Reviewed(str(n), one.seen, one.truth, one.about) for n, one in enumerate(images)]
    apart = [one for one in apart if (one.seen.boxes[0].confidence or 0) >= NOISE]
    assert prove(apart[:58], ["a"], TARGET, NOISE).classes["a"].too_few
    proof = prove(apart[:59], ["a"], TARGET, NOISE).classes["a"]
    assert proof.threshold is not None
    assert (proof.boxes, proof.precision) == (59, 1.0)
    one_group = [Reviewed("0", one.seen, one.truth, one.about) for one in apart[:200]]
    assert prove(one_group, ["a"], TARGET, NOISE).classes["a"].too_few, "one burst is one thing"


def test_boxes_of_a_class_that_was_not_looked_for_count_neither_way() -> None:
    ghosts = [Reviewed(str(n), one.seen, (), frozenset({"b"})) for n, one in enumerate(world(1, 100, cliff))]
    found = prove(ghosts, ["a"], TARGET, NOISE).classes["a"]
    assert (found.boxes, found.too_few) == (0, True)
    looked = [Reviewed(one.group, one.seen, (), frozenset({"a"})) for one in ghosts]
    found = prove(looked, ["a"], TARGET, NOISE).classes["a"]
    assert (found.threshold, found.too_few) == (None, False), "there is evidence against it"


def test_a_box_twice_on_one_thing_is_right_once() -> None:
    def twice(one: Reviewed) -> Reviewed:
        boxes = [box for box in one.seen.boxes for box in (box, box)]
        return Reviewed(one.group, Weighed(tuple(boxes)), one.truth, one.about)

    doubled = [twice(one) for one in world(1, 300, lambda sure: 1.0)]
    assert prove(doubled, ["a"], TARGET, NOISE).classes["a"].threshold is None


def test_a_declared_trust_holds_only_until_there_is_evidence() -> None:
    few, many = (world(1, n, lambda sure: 0.5) for n in (10, 400))
    assert prove(few, ["a"], TARGET, NOISE, {"a": 0.5}).images[0] > 0
    assert prove(many, ["a"], TARGET, NOISE, {"a": 0.5}).images[0] == 0


def test_what_is_missed_is_counted_on_what_would_be_written() -> None:
    blind = [
        Reviewed(str(n), one.seen, (*one.truth, Box("a", 0.8, 0.8, 0.1, 0.1)), one.about)
        for n, one in enumerate(world(1, 400, lambda sure: 1.0))
    ]
    missed = prove(blind, ["a"], TARGET, NOISE).missed
    share = missed.hits / missed.of
    assert missed.low < share < missed.high
    assert share == pytest.approx(1 / 3, abs=0.05)


def test_bounds_are_exact_for_boxes_apart_and_wider_in_groups() -> None:
    ones, apart = np.ones(100, np.intp), np.arange(100)
    right = ones.copy()
    right[:3] = 0
    exact = beta.ppf(0.05, 97, 4)
    assert lower(apart, ones, right, 0.05) <= exact
    assert lower(apart, ones, right, 0.05) == pytest.approx(exact, abs=0.01)
    assert lower(apart, ones, ones, 0.05) == pytest.approx(0.05 ** (1 / 100))
    assert lower(apart // 5, ones, ones, 0.05) == pytest.approx(0.05 ** (1 / 20))
    assert lower(apart // 5, ones, right, 0.05) < lower(apart, ones, right, 0.05)
    assert worth(apart // 5, ones) == pytest.approx(20)
    large = np.where(apart < 60, 0, apart)
    assert worth(large, ones) < 100 / 20, "one group of 60 is hardly more than one"
    assert lower(apart[:0], ones[:0], ones[:0], 0.05) == 0


def test_the_audit_is_a_fixed_share_and_a_larger_one_keeps_the_smaller() -> None:
    ids = [f"{n:032x}" for n in range(20_000)]
    small, large = ({id for id in ids if audited(id, share)} for share in (0.05, 0.2))
    assert small < large
    assert len(small) / len(ids) == pytest.approx(0.05, abs=0.01)
    assert not any(audited(id, 0.0) for id in ids)
    assert all(audited(id, 1.0) for id in ids)

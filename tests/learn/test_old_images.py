"""Old images that are seen again: a choice that the budget bounds, that nobody's order changes, and that is fair to
classes."""

from __future__ import annotations

import hashlib
import random

from hypothesis import given
from hypothesis import strategies as st

from everlearn.learn.old_images import Old, chosen


def _id(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


IMAGES = st.lists(
    st.tuples(st.integers(1, 50), st.lists(st.sampled_from("abc"), max_size=4)), max_size=40
).map(lambda rows: [Old(_id(n), size, tuple(labels)) for n, (size, labels) in enumerate(rows)])  # fmt: skip


@given(IMAGES, st.integers(0, 600), st.randoms(use_true_random=False))
def test_the_budget_holds_and_no_order_matters(images: list[Old], budget: int, draw: random.Random) -> None:
    found = chosen(images, budget)
    sizes = {one.id: one.bytes for one in images}
    assert sum(sizes[id] for id in found) <= budget
    assert found == sorted(set(found))
    mixed = list(images)
    draw.shuffle(mixed)
    assert chosen(mixed, budget) == found
    if sum(sizes.values()) <= budget:
        assert set(found) == set(sizes)
    else:  # nothing more would fit
        left = budget - sum(sizes[id] for id in found)
        assert all(size > left for id, size in sizes.items() if id not in found)


def test_a_rare_class_and_empty_images_have_their_turn() -> None:
    images = [Old(_id(n), 10, ("cat",)) for n in range(1000)]
    rare = [Old(_id(n), 10, ("dog", "cat")) for n in range(1000, 1005)]
    empty = [Old(_id(n), 10, ()) for n in range(1005, 1010)]
    found = set(chosen([*images, *rare, *empty], 200))
    assert {one.id for one in (*rare, *empty)} <= found
    assert len(found) == 20


def test_a_larger_budget_keeps_what_a_smaller_one_chose_of_one_class() -> None:
    images = [Old(_id(n), 1, ("cat",)) for n in range(100)]
    assert set(chosen(images, 10)) <= set(chosen(images, 30))

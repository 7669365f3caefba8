"""What is odd about boxes, and what is not."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.types import Box
from everlearn.validate.boxes import ENOUGH, Drawn, duplicates, examine, robust_z
from everlearn.validate.scores import class_balance


def usual(number: int, label: str = "cat", first: int = 0) -> list[Drawn]:
    """Images with one box each, of sizes and shapes that vary as they do in life."""
    rng = np.random.default_rng(number)
    found = []
    for at in range(number):
        width, height = np.exp(rng.normal(math.log(0.2), 0.4, 2))
        box = Box(label, 0.1, 0.1, min(float(width), 0.8), min(float(height), 0.8))
        found.append(Drawn(f"{first + at:032x}", (box,), 640, 480, f"cam{at % 2}"))
    return found


def test_counts() -> None:
    cat, dog = Box("cat/tom", 0, 0, 0.5, 0.5), Box("dog", 0.5, 0.5, 0.5, 0.5)
    images = [
        Drawn("a", (cat, cat, dog), 100, 100, "door", ("cow",)),
        Drawn("b", (), 100, 100, "door"),
        Drawn("c", (dataclasses.replace(cat, width=0.03),), 100, 100, "gate"),
    ]
    found = examine(images)
    assert (found.images, found.empty, found.boxes, found.most, found.tiny) == (3, 1, 4, 3, 1)
    assert found.classes == {"cat": 3, "dog": 1, "cow": 0}
    assert found.cameras == {"door": (2, 3), "gate": (1, 1)}
    assert found.balance == pytest.approx(class_balance({"1": "cat", "2": "cat", "3": "cat", "4": "dog"}).value)
    assert found.above == ("a", "c")
    assert found.odd == {"a": ["cat: duplicate"]}
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.to_json()["per_image"] == pytest.approx(1.333)
    assert examine([]).to_json()["boxes"] == 0
    assert (examine([]).accuracy, examine([]).balance) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        (Box("cat", 0.5, 0.5, 0.6, 0.2), "outside"),
        (Box("cat", -0.01, 0.5, 0.2, 0.2), "outside"),
        (Box("cat", 0.5, 0.5, 0.0, 0.2), "no_area"),
        (Box("cat", 0.1, 0.1, 0.001, 0.001), "size"),
        (Box("cat", 0.1, 0.1, 0.8, 0.01), "aspect"),
    ],
)
def test_what_is_odd_is_named(box: Box, reason: str) -> None:
    found = examine([*usual(200), Drawn("f" * 32, (box,), 640, 480)])
    assert found.odd == {"f" * 32: [f"cat: {reason}"]}
    assert found.reasons == {reason: 1}


def test_what_varies_as_things_do_is_not_odd() -> None:
    assert examine(usual(1000)).odd == {}


def test_what_the_edge_cuts_may_be_small_and_of_any_shape_but_not_too_large() -> None:
    cut = [Drawn("f" * 32, (Box("cat", 0.0, 0.1, 0.001, 0.001), Box("cat", 0.0, 0.999, 0.9, 0.001)), 640, 480)]
    same = [Drawn(f"{n:032x}", (Box("cat", 0.1, 0.1, 0.2, 0.2),), 100, 100) for n in range(50)]
    assert examine([*same, *cut]).odd == {}
    whole = Drawn("f" * 32, (Box("cat", 0.0, 0.0, 1.0, 1.0),), 100, 100)
    assert examine([*same, whole]).odd == {whole.id: ["cat: size"]}


def test_a_few_boxes_tell_nothing_of_what_is_usual() -> None:
    wild = Drawn("f" * 32, (Box("cat", 0.1, 0.1, 0.8, 0.001),), 640, 480)
    assert examine([*usual(ENOUGH - 2), wild]).odd == {}
    assert examine([*usual(ENOUGH * 4, "dog"), wild]).odd == {}
    assert list(examine([*usual(ENOUGH * 2), wild]).odd) == ["f" * 32]


def test_boxes_that_are_all_alike_may_differ_a_little() -> None:
    same = [Drawn(f"{n:032x}", (Box("cat", 0.1, 0.1, 0.2, 0.2),), 100, 100) for n in range(50)]
    larger = Drawn("f" * 32, (Box("cat", 0.1, 0.1, 0.24, 0.24),), 100, 100)
    assert examine([*same, larger]).odd == {}


def test_duplicates_are_of_one_class_and_nearly_one_place() -> None:
    one = Box("person/courier", 0.1, 0.1, 0.4, 0.4)
    again, near, other = (
        Box("person/kim", 0.1, 0.1, 0.4, 0.41),
        Box("person", 0.15, 0.1, 0.4, 0.4),
        Box("cat", 0.1, 0.1, 0.4, 0.4),
    )
    assert duplicates([one, near, other, again]) == [3]
    assert duplicates([one]) == duplicates([]) == []


BOXES = st.builds(
    Box, st.sampled_from(["a", "b", "a/c"]), *[st.floats(-0.1, 0.9)] * 2, *[st.sampled_from([0.0, 0.05, 0.1, 0.5])] * 2
)
IMAGES = st.lists(
    st.builds(
        Drawn, st.uuids().map(lambda one: one.hex), st.lists(BOXES, max_size=3).map(tuple), *[st.integers(0, 99)] * 2
    ),
    max_size=30, unique_by=lambda one: one.id,
)  # fmt: skip


@given(IMAGES, st.randoms())
def test_the_order_does_not_matter(images, random) -> None:
    found = examine(images)
    random.shuffle(images)
    again = examine(images)
    assert (list(found.odd.items()), found) == (list(again.odd.items()), again)
    assert 0 <= found.accuracy <= 1
    assert 0 <= found.balance <= 1


def test_robust_z_forgives_what_is_far_out() -> None:
    values = np.r_[np.random.default_rng(0).normal(0, 1, 999), 1e6]
    assert np.std(robust_z(values)[:-1]) == pytest.approx(1, rel=0.1)

"""What several data sets say of one image: joined where they looked for different things, whatever came first."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.catalog import Database, labels, samples, scenes
from everlearn.catalog.labels import Said
from everlearn.types import Box, Scene
from tests.catalog.rows import id_of, row

ID = id_of(1)
CAT, NEAR, FAR = (Box("cat", x, 0.2, 0.3, 0.3) for x in (0.2, 0.2004, 0.6))
DOG = Box("dog", 0.5, 0.5, 0.2, 0.2)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([Scene((CAT,), ("cat",)), Scene((DOG,), ("dog",))], Scene((CAT, DOG), ("cat", "dog"))),
        ([Scene((CAT,), ("cat",)), Scene((), ("dog",))], Scene((CAT,), ("cat", "dog"))),
        ([Scene((CAT,), ("cat",)), Scene((), ("cat",))], None),  # one says there is none
        ([Scene((CAT,), ("cat",)), Scene((FAR,), ("cat",))], None),
        ([Scene((CAT,), ("cat",)), Scene((CAT, FAR), ("cat",))], None),
        ([Scene((CAT, DOG), ("cat", "dog")), Scene((CAT,), ("cat",))], Scene((CAT, DOG), ("cat", "dog"))),
        ([Scene((CAT,)), Scene((DOG,))], Scene((CAT, DOG))),
        ([Scene((CAT,)), Scene(())], Scene((CAT,))),
        ([Scene((CAT,)), Scene((DOG,), ("dog", "cow"))], Scene((CAT, DOG), ("cat", "cow", "dog"))),
        ([Scene((Box("cat/tom", 0.2, 0.2, 0.3, 0.3),)), Scene((CAT,))], None),  # who is right about the part?
    ],
)
def test_joined(given: list[Scene], wanted: Scene | None) -> None:
    assert scenes.joined(given) == scenes.joined(given[::-1]) == (wanted and scenes.canonical(wanted))


def test_boxes_that_differ_by_rounding_are_one() -> None:
    found = scenes.joined([Scene((CAT,), ("cat",)), Scene((NEAR, DOG), ("cat", "dog"))])
    assert found is not None
    assert len(found.boxes) == 2


BOXES = st.builds(
    Box, st.sampled_from(["a", "b", "b/c"]), *[st.integers(0, 4).map(lambda n: n / 10)] * 2, st.just(0.5), st.just(0.5)
)
SCENES = st.builds(Scene, st.lists(BOXES, max_size=3).map(tuple), st.none() | st.sampled_from([("a",), ("b",), ()]))


@given(st.lists(SCENES, min_size=1, max_size=4))
def test_the_order_does_not_matter(given: list[Scene]) -> None:
    found = scenes.joined(given)
    assert all(scenes.joined(order) == found for order in itertools.permutations(given))
    if len({scenes.label_of(one) for one in given}) == 1:
        assert found == scenes.canonical(given[0])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_sample_gets_what_its_data_sets_say_together(database: Database, order: tuple[int, ...]) -> None:
    """And where one contradicts, it goes to a person; a person's own word stands alone."""
    given = [Scene((CAT,), ("cat",)), Scene((DOG,), ("dog",)), Scene((), ("cow",))]
    by = ("yolo", "coco", "labelstudio")
    with database.write() as tx:
        samples.add(tx, [row(1, quality=1.0, status="validated")])
        names = scenes.keep(tx, given)
        for at in order:
            labels.say(tx, [Said(ID, names[at], by[at])])  # type: ignore[arg-type]
        one = samples.get(tx, ID)
        assert one.label is not None
        assert scenes.some(tx, [one.label])[one.label] == scenes.canonical(Scene((CAT, DOG), ("cat", "cow", "dog")))
        assert (one.label_by, one.status) == ("coco", "labelled")
        scenes.clear(tx)
        assert scenes.of(tx, [ID])

        (other,) = scenes.keep(tx, [Scene((FAR,), ("cat",))])
        labels.say(tx, [Said(ID, other, "voc")])
        one = samples.get(tx, ID)
        assert (one.label, one.queue_reason) == (None, "conflict")
        labels.say(tx, [Said(ID, other, "person")])
        assert samples.get(tx, ID).label == other
        labels.undo(tx, ID)
        assert samples.get(tx, ID).queue_reason == "conflict"

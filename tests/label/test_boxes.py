"""Several models, neighbouring frames, doubts, and classes that nobody looked for."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.catalog.scenes import overlap
from everlearn.label.boxes import Around, Weighed, fill, join, judge, neighbours, trust, weigh
from everlearn.types import Box, Scene

CAT, DOG = Box("cat", 0.1, 0.1, 0.2, 0.2, 0.9), Box("dog", 0.6, 0.6, 0.2, 0.2, 0.8)


def moved(box: Box, by: float = 0.0, confidence: float | None = None, label: str | None = None) -> Box:
    return Box(label or box.label, box.x + by, box.y, box.width, box.height, confidence or box.confidence)


def test_overlap() -> None:
    assert overlap(CAT, CAT) == pytest.approx(1)
    assert overlap(CAT, DOG) == 0
    assert overlap(CAT, moved(CAT, 0.1)) == pytest.approx(1 / 3)


def test_boxes_that_models_agree_on_are_one_in_their_weighted_middle() -> None:
    (one,) = join([[moved(CAT, 0, 0.9)], [moved(CAT, 0.03, 0.3)]], [{"cat"}, {"cat"}])
    assert (one.votes, one.of) == (2, 2)
    assert trust(one.box) == pytest.approx((0.9 + 0.3) / 2)
    assert one.box.x == pytest.approx(0.1 + 0.03 * 0.3 / 1.2)


def test_a_model_that_does_not_see_what_it_knows_lowers_the_confidence() -> None:
    (one,) = join([[CAT], []], [{"cat"}, {"cat", "dog"}])
    assert (one.votes, one.of, trust(one.box)) == (1, 2, pytest.approx(0.45))
    (one,) = join([[CAT], []], [{"cat"}, {"dog"}])
    assert (one.votes, one.of, trust(one.box)) == (1, 1, pytest.approx(0.9)), "it cannot know"


def test_one_model_alone_is_as_it_was_but_for_what_it_says_twice() -> None:
    again = moved(CAT, 0.01, 0.4)
    assert [one.box for one in join([[again, CAT, DOG]], [{"cat", "dog"}])] == [CAT, DOG]


def test_classes_stay_apart_and_parts_of_labels_meet() -> None:
    assert len(join([[CAT], [moved(CAT, label="dog")]], [{"cat"}, {"dog"}])) == 2
    whole = moved(CAT, 0, 0.6, "cat/tom")
    (one,) = join([[CAT], [whole]], [{"cat"}, {"cat/tom"}])
    assert (one.box.label, one.votes) == ("cat/tom", 2)


@given(st.lists(st.lists(st.tuples(st.integers(0, 6), st.floats(0.05, 1)), max_size=6), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_joined_boxes_lie_inside_and_do_not_depend_on_the_order_of_boxes(
    said: list[list[tuple[int, float]]],
) -> None:
    found = [[Box("a", place / 10, 0.1, 0.3, 0.3, confidence) for place, confidence in some] for some in said]
    knows = [{"a"}] * len(found)
    joint = join(found, knows)
    for one in joint:
        assert 0 <= one.box.x <= one.box.x + one.box.width <= 1 + 1e-9
        assert 0 < trust(one.box) <= 1
        assert 1 <= one.votes <= one.of == len(found)
    assert [trust(one.box) for one in joint] == sorted((trust(one.box) for one in joint), reverse=True)
    assert join([some[::-1] for some in found], knows) == joint


# --- frames ---------------------------------------------------------------------------------------------------------


def test_only_frames_of_one_camera_that_are_near_in_time_are_neighbours() -> None:
    noon = datetime(2025, 7, 4, 12)
    at = {"a": 0, "b": 4, "c": 30, "d": 33}
    frames = [(id, "door", noon + timedelta(seconds=s)) for id, s in at.items()]
    frames += [("e", "gate", noon + timedelta(seconds=34))]
    found = neighbours(frames, 5)
    assert found == {
        "a": Around(None, "b"), "b": Around("a", None), "c": Around(None, "d"), "d": Around("c", None)
    }  # fmt: skip


def test_what_neighbours_show_raises_and_what_flickers_is_lowered() -> None:
    box = moved(CAT, 0, 0.6)

    def trusted(before: list[Box] | None, after: list[Box] | None) -> float:
        return trust(weigh([box], before, after).boxes[0])

    assert trusted(None, None) == 0.6
    assert trusted([moved(CAT, 0.05)], [CAT]) == pytest.approx(0.6 + 0.4 * 0.9 / 2)
    assert trusted([CAT], []) == pytest.approx(0.6 + 0.4 * 0.45 / 2), "it came or went"
    assert trusted([], []) == pytest.approx(0.3)
    assert trusted([], None) == 0.6, "there may have been nothing yet"
    assert trusted([moved(CAT, label="dog")], [DOG]) == pytest.approx(0.3), "another class is no support"


@given(st.floats(0.05, 0.99), st.floats(0.05, 0.99), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5))
@settings(max_examples=80, deadline=None)
def test_trust_grows_with_what_it_is_made_of(low: float, high: float, before: float, after: float, more: float) -> None:
    low, high = sorted((low, high))

    def trusted(c: float, q: float) -> float:
        sides = [[moved(CAT, 0.02, value)] if value else [] for value in (q, after)]
        return trust(weigh([moved(CAT, 0, c)], *sides).boxes[0])

    assert trusted(low, before) <= trusted(high, before) < 1
    assert trusted(low, before) <= trusted(low, min(1.0, before + more))


def test_what_both_neighbours_show_and_this_frame_does_not_may_be_missed() -> None:
    seen = weigh([DOG], [CAT], [moved(CAT, 0.04, 0.7)])
    (missed,) = seen.missed
    assert missed.label == "cat"
    assert missed.x == pytest.approx(0.12)
    assert trust(missed) == pytest.approx(0.35)
    assert not weigh([CAT], [CAT], [CAT]).missed
    assert not weigh([], [CAT], [moved(CAT, 0.5)]).missed, "two things"
    assert not weigh([], [moved(CAT, 0, 0.3)], [CAT]).missed, "nobody is sure of it"
    assert not weigh([], [CAT], None).missed


# --- verdicts -------------------------------------------------------------------------------------------------------

THRESHOLDS = {"cat": 0.8, "dog": 0.7}


def test_an_image_is_labelled_by_itself_only_where_nothing_is_in_doubt() -> None:
    sure = judge(Weighed((CAT, DOG)), THRESHOLDS, 0.2)
    assert (sure.boxes, sure.doubts) == ((CAT, DOG), ())
    noisy = judge(Weighed((CAT, moved(DOG, 0, 0.1))), THRESHOLDS, 0.2)
    assert (noisy.boxes, noisy.doubts) == ((CAT,), ())
    for doubt in (
        Weighed((CAT, moved(DOG, 0, 0.5))),
        Weighed((CAT,), missed=(DOG,)),
        Weighed((CAT, moved(CAT, 0.01, 0.75, "dog"))),
        Weighed((CAT, moved(DOG, label="bird"))),
    ):
        verdict = judge(doubt, THRESHOLDS, 0.2)
        assert verdict.boxes == ()
        assert len(verdict.doubts) == 1
        assert set(verdict.drawn) == {*doubt.boxes, *doubt.missed}


def test_what_is_least_certain_is_the_most_urgent() -> None:
    order = [judge(Weighed((moved(CAT, 0, c),)), {}, 0.2).urgency for c in (0.99, 0.9, 0.3, 0.5)]
    assert order == sorted(order)
    assert judge(Weighed(()), {}, 0.2).urgency == 0
    assert judge(Weighed((), missed=(CAT,)), {}, 0.2).urgency == 1


# --- missing labels -------------------------------------------------------------------------------------------------


def test_an_old_class_on_a_new_image_is_filled_in_where_it_is_sure() -> None:
    star = Box("star", 0.4, 0.4, 0.1, 0.1)
    found = fill(Scene((star,)), {"star"}, [CAT, moved(DOG, 0, 0.1)], {"cat", "dog", "star"}, THRESHOLDS, 0.2)
    assert found == Scene((star, CAT), ("cat", "dog", "star"))
    doubtful = fill(Scene((star,)), {"star"}, [CAT, moved(DOG, 0, 0.5)], {"cat", "dog", "star"}, THRESHOLDS, 0.2)
    assert doubtful == Scene((star, CAT), ("cat", "star")), "a training masks what is unknown"
    unknown = fill(Scene((star,)), {"star"}, [], {"star", "ring"}, THRESHOLDS, 0.2)
    assert unknown.about == ("star",), "nobody can tell that there is no ring"


def test_a_labelled_thing_is_not_filled_in_as_another() -> None:
    star = moved(CAT, label="star")
    found = fill(Scene((star,)), {"star"}, [CAT], {"cat", "star"}, THRESHOLDS, 0.2)
    assert found == Scene((star,), ("cat", "star"))


def test_what_was_looked_for_is_never_filled_in() -> None:
    assert fill(Scene(()), {"cat"}, [CAT], {"cat"}, THRESHOLDS, 0.2) == Scene((), ("cat",))

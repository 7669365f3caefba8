from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from everlearn.dataset.balance import balanced, class_weights, over, under
from everlearn.errors import BadConfig, BadInput

SETS = st.dictionaries(st.text("0123456789abcdef", min_size=4, max_size=8), st.sampled_from("abcd"), min_size=1)


@given(SETS, st.randoms())
def test_every_class_counts_alike_and_order_does_not_matter(labels, random):
    counts = Counter(labels.values())
    shuffled = list(labels)
    random.shuffle(shuffled)
    for draw, each in ((over, max(counts.values())), (under, min(counts.values()))):
        drawn = draw(list(labels), list(labels.values()))
        assert Counter(labels[id] for id in drawn) == dict.fromkeys(counts, each)
        assert drawn == draw(shuffled, [labels[id] for id in shuffled])
    assert set(over(list(labels), list(labels.values()))) == set(labels)
    times = Counter(over(list(labels), list(labels.values())))
    for label in counts:
        seen = [times[id] for id in labels if labels[id] == label]
        assert max(seen) - min(seen) <= 1


def test_a_class_of_one_sample():
    ids, labels = ["1", "2", "3", "4"], ["a", "a", "a", "b"]
    assert over(ids, labels) == ["1", "2", "3", "4", "4", "4"]
    assert len(under(ids, labels)) == 2
    assert "4" in under(ids, labels)


def test_drawing_under_is_stable_as_data_grows():
    ids = [f"{n:04x}" for n in range(40)]
    labels = ["a"] * 30 + ["b"] * 10
    before = set(under(ids, labels))
    after = set(under([*ids, "ffff"], [*labels, "b"]))
    assert before < after


@given(st.lists(st.sampled_from("abcd"), min_size=1))
def test_weights_agree_with_scikit_learn(labels):
    theirs = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    assert class_weights(labels) == pytest.approx(dict(zip(sorted(set(labels)), theirs, strict=True)))


def test_modes():
    ids, labels = ["1", "2", "3"], ["a", "a", "b"]
    assert balanced("none", ids, labels).ids == ids
    assert balanced("none", ids, labels).weights == {}
    assert balanced("over", ids, labels).ids == ["1", "2", "3", "3"]
    assert len(balanced("under", ids, labels).ids) == 2
    assert balanced("weights", ids, labels).weights == {"a": 0.75, "b": 1.5}
    assert balanced("over", [], []).ids == []
    assert balanced("under", [], []).ids == []
    assert balanced("weights", [], []).weights == {}


def test_what_cannot_be_balanced_is_refused():
    with pytest.raises(BadConfig, match=r"dataset\.balance is 'both'"):
        balanced("both", [], [])
    with pytest.raises(BadInput, match="2 ids and 1 labels"):
        over(["1", "2"], ["a"])
    with pytest.raises(BadInput, match="twice"):
        under(["1", "1"], ["a", "b"])

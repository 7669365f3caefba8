"""A fading memory is the exact one while nothing fades, follows a world that changes, and promises no more."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from everlearn import ExactClassifier, FadingClassifier
from everlearn.learn.estimators.encode import BadArray


def world(n: int, turned: int = 0, seed: int = 0):
    """Four clusters, whose labels are turned by so many."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, n)
    x = np.array([[0, 0], [0, 4], [4, 0], [4, 4]])[y] @ [[1, 0, 1, 0.5], [0, 1, 1, -0.5]] + rng.normal(size=(n, 4))
    return x, np.array(list("abcd"))[(y + turned) % 4]


def test_with_an_endless_half_life_it_is_the_exact_memory():
    x, y = world(200)
    x += 1e4  # nothing is lost to cancellation
    exact = ExactClassifier(head="ridge").fit(x, y)
    fading = FadingClassifier(half_life=np.inf)
    for rows in np.array_split(np.arange(200), 3):
        fading.partial_fit(x[rows], y[rows])
    np.testing.assert_allclose(fading.decision_function(x), exact.decision_function(x), atol=1e-6)
    np.testing.assert_array_equal(fading.predict(x), exact.predict(x))
    assert fading.weight_ == pytest.approx(200)


@pytest.mark.parametrize("asked_before", [True, False])
def test_time_alone_changes_no_answer(asked_before):
    x, y = world(200)
    fading, now = (FadingClassifier(half_life=1, per="step").fit(x, y) for _ in range(2))
    wanted = now.decision_function(x)
    if asked_before:
        fading.decision_function(x)
    fading.step(30)
    assert fading.weight_ < 1e-6
    np.testing.assert_allclose(fading.decision_function(x), wanted, atol=1e-8)
    with pytest.raises(BadArray, match="has faded away"):
        clone(now).fit(x, y).step(1e5).predict(x)


def test_a_refused_fit_changes_nothing():
    x, y = world(100)
    model = FadingClassifier().fit(x, y)
    wanted = model.decision_function(x)
    with pytest.raises(BadArray):
        model.fit(x * np.nan, y)
    np.testing.assert_array_equal(model.decision_function(x), wanted)


def test_portions_do_not_matter_the_order_does():
    x, y = world(300)
    made = FadingClassifier(half_life=50, estimator=ExactClassifier(alpha=1e-3))
    whole, by_turns = clone(made).fit(x, y), clone(made)
    for rows in np.array_split(np.arange(300), 7):
        by_turns.partial_fit(x[rows], y[rows])
    np.testing.assert_allclose(by_turns.decision_function(x), whole.decision_function(x), atol=1e-8)
    back = clone(made).fit(x[::-1], y[::-1])
    assert np.abs(back.decision_function(x) - whole.decision_function(x)).max() > 0.01
    assert whole.weight_ == pytest.approx((1 - 0.5 ** (300 / 50)) / (1 - 0.5 ** (1 / 50)))


def progressive(model, turns):
    """Accuracy on each next twenty rows before they are learned, in the last two thirds of each world."""
    found = []
    for turned in turns:
        x, y = world(600, turned, seed=turned)
        right = []
        for start in range(0, 600, 20):
            rows = slice(start, start + 20)
            if hasattr(model, "classes_"):
                right.append((model.predict(x[rows]) == y[rows]).mean())
            model.partial_fit(x[rows], y[rows])
        found.append(np.mean(right[-20:]))
    return found


def test_it_follows_a_world_that_changes():
    fading = progressive(FadingClassifier(half_life=100), [0, 1, 2])
    still = progressive(ExactClassifier(), [0, 1, 2])
    assert min(fading) > 0.9
    assert still[0] > 0.9
    assert max(still[1:]) < 0.7


def test_steps_of_time():
    x, y = world(200)
    other = world(200, 1)[1]
    model = FadingClassifier(half_life=2, per="step").fit(x, y)
    answers = model.decision_function(x)
    assert model.weight_ == 200
    model.step().step()
    assert model.weight_ == pytest.approx(100)
    np.testing.assert_allclose(model.decision_function(x), answers, atol=1e-9)  # fading alone changes no answer
    model.step(20).partial_fit(x, other)
    assert model.score(x, other) > 0.9


def test_classes_may_come_and_any_kind_of_label():
    x, y = world(200)
    first = y < "c"
    model = FadingClassifier(half_life=500).partial_fit(x[first], y[first])
    model.predict(x)
    model.partial_fit(x[~first], y[~first])
    assert model.classes_.tolist() == ["a", "b", "c", "d"]
    assert model.score(x, y) > 0.85
    numbers = FadingClassifier().fit(x, np.where(first, 10, 9))
    assert numbers.classes_.tolist() == [9, 10]
    assert ((numbers.decision_function(x) > 0) == (numbers.predict(x) == 10)).all()
    again = pickle.loads(pickle.dumps(numbers))
    np.testing.assert_array_equal(again.predict(x), numbers.predict(x))


def test_it_says_what_it_gives_up():
    x, y = world(50)
    model = FadingClassifier().fit(x, y)
    with pytest.raises(BadArray, match=r"cannot forget.*Fit anew on the rows that may stay"):
        model.forget(x[:1], y[:1])
    with pytest.raises(BadArray, match="no digest"):
        model.digest()
    assert not hasattr(model, "merge")
    for options in ({"half_life": 0}, {"half_life": float("nan")}, {"per": "day"}):
        with pytest.raises(BadArray, match="cannot be"):
            FadingClassifier(**options).fit(x, y)
    with pytest.raises(BadArray, match="per='row' cannot be"):
        model.step()
    weight = model.weight_
    x[3, 1] = np.nan
    with pytest.raises(BadArray, match="row 3"):
        model.partial_fit(x, y)
    assert model.weight_ == weight
    with pytest.raises(NotFittedError):
        FadingClassifier().predict(x)

"""Several cameras in one classifier: aligned by sums alone, and so exact in any order, and forgettable."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from everlearn import AlignedClassifier, ExactClassifier
from everlearn.errors import BadInput, Corrupt, Missing
from everlearn.learn.estimators.align import WAYS
from everlearn.learn.estimators.encode import BadArray

FAST = settings(max_examples=25, deadline=None)
CENTRES = np.random.default_rng(0).normal(size=(4, 8)) * 2
NAMES = np.array(list("abcd"))
TURN = np.eye(8) * np.linspace(0.4, 2.5, 8) + 0.5 * np.roll(np.eye(8), 1, axis=1)


def seen(n: int, camera: str, seed: int = 0, mix=None):
    """Rows of four classes as a camera shows them: the yard's are moved, stretched and mixed."""
    rng = np.random.default_rng([seed, len(camera)])
    y = rng.choice(4, n, p=mix)
    x = CENTRES[y] + rng.normal(size=(n, 8))
    return (x @ TURN + 5 if camera == "yard" else x), NAMES[y]


@st.composite
def histories(draw):
    """Rows of two cameras, labelled or observed, in portions; some come twice, some are forgotten."""
    n = draw(st.integers(2, 10))
    said = [(row, label) for row in range(n) for label in (True, False) if draw(st.booleans())] or [(0, True)]
    order = draw(st.permutations(said + draw(st.lists(st.sampled_from(said), max_size=2))))
    cuts = sorted(draw(st.lists(st.integers(0, len(order)), max_size=3)))
    gone = draw(st.sets(st.sampled_from(sorted({row for row, _ in said}))))
    return [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(order)])], sorted(gone)


@given(histories())
@FAST
def test_any_order_and_forgotten_is_never_seen(history):
    portions, gone = history
    x, y = np.concatenate([seen(5, "door")[0], seen(5, "yard")[0]]), np.concatenate([seen(5, "door")[1]] * 2)
    domain = np.array(["door"] * 5 + ["yard"] * 5)

    def teach(model, portion):
        for with_label in (True, False):
            rows = [row for row, label in portion if label == with_label]
            if rows and with_label:
                model.partial_fit(x[rows], y[rows], domain[rows], ids=rows)
            elif rows:
                model.observe(x[rows], domain[rows], ids=rows)
        return model

    whole = [one for portion in portions for one in portion]
    by_turns, merged, at_once = AlignedClassifier(), AlignedClassifier(), teach(AlignedClassifier(), whole)
    for portion in portions:
        teach(by_turns, portion)
        merged = merged + teach(AlignedClassifier(), portion)
    assert by_turns.digest() == merged.digest() == at_once.digest()
    if any(label for _, label in whole):
        for camera in at_once.domains_:
            np.testing.assert_array_equal(by_turns.predict(x, camera), merged.predict(x, camera))
            np.testing.assert_array_equal(by_turns.predict_proba(x, camera), at_once.predict_proba(x, camera))
    never = teach(AlignedClassifier().observe(x[:0], "door"), [one for one in whole if one[0] not in gone])
    assert by_turns.forget(ids=gone).digest() == never.digest()
    assert by_turns.samples_ == len({row for row, _ in whole} - set(gone))


@pytest.mark.parametrize(
    ("way", "least", "most"), [("none", 0, 0.85), ("mean", 0.8, 1), ("scale", 0.9, 1), ("coral", 0.9, 1)]
)
def test_a_camera_without_a_label(way, least, most):
    x, y = seen(400, "door")
    model = AlignedClassifier(align=way).fit(x, y, "door").observe(seen(400, "yard")[0], "yard")
    new, wanted = seen(400, "yard", seed=1)
    assert least <= model.score(new, wanted, "yard") <= most
    assert model.way("yard") == way
    assert model.score(*seen(400, "door", seed=1), "door") > 0.95
    np.testing.assert_allclose(model.predict_proba(new, "yard").sum(axis=1), 1)
    assert model.decision_function(new, "yard").shape == (400, 4)


def test_the_map_makes_one_domain_look_like_the_other():
    """With many rows and next to no ridge: equal means and equal correlations."""
    x, y = seen(4000, "door")
    model = AlignedClassifier(align="coral", ridge=1e-9).fit(x, y, "door").observe(seen(4000, "yard")[0], "yard")
    solved = model._solved("yard")
    encoder = model._rows.empty.encoder
    here, there = (
        solved.maps[camera](encoder.values(encoder.phi(seen(4000, camera)[0]))) for camera in ("yard", "door")
    )
    np.testing.assert_allclose(here.mean(axis=0), there.mean(axis=0), atol=0.03)  # it is blended with ten rows of all
    np.testing.assert_allclose(np.cov(here.T), np.cov(there.T), atol=0.05)
    # and the sums are those of the mapped rows
    total = sum(part.xx for part in solved.parts)
    np.testing.assert_allclose(total, there.T @ there, rtol=1e-6, atol=1e-3)


def test_labels_choose_the_way():
    x, y = seen(300, "door")
    model = AlignedClassifier().fit(x, y, "door").observe(seen(200, "yard")[0], "yard")
    assert (model.way("yard"), model.losses("yard"), model.way("door")) == ("coral", {}, "none")
    few, names = seen(40, "yard", seed=2)
    model.partial_fit(few, names, "yard")
    losses = model.losses("yard")
    assert tuple(losses) == WAYS
    assert losses[model.way("yard")] < 0.3 < np.log(4)
    assert model.way("yard") == min(losses, key=losses.get) != "none"
    assert model.score(*seen(300, "yard", seed=3), "yard") > 0.9
    same = AlignedClassifier().fit(x, y, "door").partial_fit(*seen(100, "door", seed=5), "roof")
    assert same.score(*seen(300, "door", seed=3), "roof") > 0.95
    assert same.set_params(align="mean").way("roof") == "mean"


def test_one_domain_alone_is_an_exact_classifier():
    x, y = seen(200, "door")
    alone = ExactClassifier(head="ridge").fit(x, y)
    model = AlignedClassifier().fit(x, y, "door")
    np.testing.assert_allclose(model.decision_function(x, "door"), alone.decision_function(x), atol=1e-9)
    np.testing.assert_allclose(model.predict_proba(x, "door"), alone.predict_proba(x), atol=1e-6)


def test_a_camera_is_forgotten_whole():
    x, y = seen(60, "door")
    other = seen(60, "yard")[0]
    alone = AlignedClassifier().fit(x, y, "door")
    model = AlignedClassifier().fit(x, y, "door").observe(other, "yard").partial_fit(other[:5], y[:5], "yard")
    assert model.forget(domain="yard").digest() == alone.digest()
    assert model.domains_ == ("door",)
    assert model.observe(other, "yard").forget(other, domain="yard").digest() == alone.digest()
    with pytest.raises(BadArray, match=r"'yard' is held .*observe\(X, domain='yard'\)"):
        model.predict(other, "yard")


def test_a_single_row_of_a_camera_does_little():
    x, y = seen(300, "door")
    model = AlignedClassifier().fit(x, y, "door").observe(seen(1, "roof", seed=4)[0], "roof")
    assert model.score(*seen(300, "door", seed=1), "roof") > 0.9


def test_a_refused_portion_changes_nothing():
    x, y = seen(20, "door")
    model = AlignedClassifier().fit(x, y, "door", ids=range(20)).observe(x, "yard", ids=range(20, 40))
    before, answers = model.digest(), model.predict(x, "yard")
    bad = x.copy()
    bad[4, 0] = np.inf
    for call, said in (
        (lambda: model.partial_fit(x[:3], y[:3], "yard", ids=[50, 51, 2]), "row 2: id '2' is held with other"),
        (lambda: model.partial_fit(x[:1] + 1, y[:1], "yard", ids=[20]), "row 0: id '20' is held with other"),
        (lambda: model.partial_fit(x[:1], y[1:2] + "x", "door", ids=[0]), "row 0: id '0'"),
        (lambda: model.observe(bad, "yard"), "row 4"),
        (lambda: model.partial_fit(x, range(20), "door"), "cannot be learned here"),
        (lambda: model.observe(x, None), "is no name"),
        (lambda: model.forget(), "nothing is named"),
        (lambda: model.forget(domain="roof"), "nothing of domain 'roof'"),
        (lambda: model.forget(x[:1], y[:1], domain="door"), "row 0"),
        (lambda: model.merge(AlignedClassifier().fit(x, range(20), "door")), "two types"),
        (lambda: clone(model).set_params(align="x").fit(x, y, "a").observe(x, "b").predict(x, "b"), "'x' is not known"),
        (lambda: clone(model).set_params(ridge=0).fit(x, y, "a").observe(x, "b").predict(x, "b"), "ridge=0"),
        (lambda: AlignedClassifier().observe(x, "b").predict(x, "b"), "no row is labelled"),
    ):
        with pytest.raises(BadInput, match=said):
            call()
        assert model.digest() == before
        np.testing.assert_array_equal(model.predict(x, "yard"), answers)
    with pytest.raises(ValueError, match="inconsistent"):
        model.observe(x, ["yard"])
    with pytest.raises(NotFittedError):
        AlignedClassifier().predict(x, "door")


def test_a_file_holds_it_all(tmp_path: Path):
    x, y = seen(60, "door")
    model = AlignedClassifier(ExactClassifier(scale=20.0, keep=0.5), unlabelled="mean").fit(x, y, "door")
    model.observe(seen(60, "yard")[0], "yard", ids=range(60))
    model.save(tmp_path / "cameras")
    for other in (
        AlignedClassifier.load(tmp_path / "cameras"),
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
    ):
        assert other.digest() == model.digest()
        assert other.way("yard") == "mean"
        np.testing.assert_array_equal(other.predict(x, "yard"), model.predict(x, "yard"))
    with pytest.raises(Missing):
        AlignedClassifier.load(tmp_path / "none")
    (tmp_path / "bad").write_bytes((tmp_path / "cameras").read_bytes()[:-100])
    with pytest.raises(Corrupt):
        AlignedClassifier.load(tmp_path / "bad")

from __future__ import annotations

import numpy as np
import pytest

from everlearn.errors import BadInput, Corrupt, Missing, StoreFault
from everlearn.learn.exact.head import Head
from everlearn.learn.exact.target import RegressionTarget


def head(classes=("a", "b\nc", "한국"), **options):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(6, len(classes) or 1)).astype(np.float32)
    return Head("ridge", classes, weights, rng.normal(size=len(classes) or 1).astype(np.float32), **options)


def test_scores_and_probabilities():
    phi = np.random.default_rng(1).integers(-127, 128, (9000, 6), dtype=np.int8)
    made = head(temperature=50.0)
    np.testing.assert_allclose(made.scores(phi), phi @ made.weights + made.bias, rtol=1e-4, atol=1e-4)
    found = made.probabilities(phi)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert np.array_equal(found.argmax(axis=1), made.scores(phi).argmax(axis=1))
    assert made.probabilities(phi[:0]).shape == (0, 3)
    with pytest.raises(BadInput, match="row 0"):
        made.scores(phi.astype(np.float32))
    with pytest.raises(BadInput, match="values"):
        made.values(phi)


def test_values_stay_in_range():
    made = head((), target=RegressionTarget(-1, 1, 0.5))
    phi = np.random.default_rng(1).integers(-127, 128, (50, 6), dtype=np.int8)
    wanted = np.clip(-1 + 0.5 * made.scores(phi)[:, 0], -1, 1)
    np.testing.assert_allclose(made.values(phi), wanted)
    with pytest.raises(BadInput, match="probabilities"):
        made.probabilities(phi)


@pytest.mark.parametrize(
    "made",
    [
        head(temperature=3.0, calibrated=True),
        head(("only",)),
        head((), target=RegressionTarget(0, 9, 0.25), quantiles={0.5: 1.25, 0.9: 2.0}),
    ],
)
def test_saved_and_loaded_is_the_same(tmp_path, made):
    made.save(tmp_path / "head")
    back = Head.load(tmp_path / "head")
    assert np.array_equal(back.weights, made.weights)
    assert np.array_equal(back.bias, made.bias)
    names = ("kind", "classes", "temperature", "calibrated", "target", "quantiles")
    assert [getattr(back, name) for name in names] == [getattr(made, name) for name in names]
    assert [p.name for p in tmp_path.iterdir()] == ["head"]


def test_damage_pickles_and_absence(tmp_path):
    path = tmp_path / "head"
    with pytest.raises(Missing):
        Head.load(path)
    with pytest.raises(StoreFault):
        head().save(tmp_path / "no" / "head")
    head().save(path)
    whole = path.read_bytes()
    for data in (b"", whole[:100], whole[: len(whole) // 2], whole[:-1], b"x" * 100):
        path.write_bytes(data)
        with pytest.raises(Corrupt):
            Head.load(path)
    np.savez(tmp_path / "pickle.npz", weights=np.array([{}], dtype=object))
    with pytest.raises(Corrupt):
        Head.load(tmp_path / "pickle.npz")
    path.write_bytes(whole)
    with np.load(path) as file:
        np.savez_compressed(tmp_path / "bomb.npz", **file)
    with pytest.raises(Corrupt):
        Head.load(tmp_path / "bomb.npz")

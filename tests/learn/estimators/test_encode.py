"""The same integer for a value whatever its type, its place and the cores at work: single operations decide it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from everlearn.learn.estimators.encode import BadArray, Encoder, refuse_gaps
from everlearn.learn.exact.sums import LIMIT

EDGE = np.arange(LIMIT) + 0.5  # between two steps


def one_by_one(encoder: Encoder, x: np.ndarray) -> np.ndarray:
    """The definition, in float64."""
    x = x.astype(np.float64)
    if encoder.scale:
        with np.errstate(over="ignore"):
            shares = np.clip(x / np.array(encoder.scale), -1, 1)
    else:
        mantissa, exponent = np.frexp(1 + np.abs(x))
        shares = np.sign(x) * np.minimum((exponent + 2 * mantissa - 2) / 12, 1)
    return np.rint(shares * LIMIT).astype(np.int8)


def near(edges: np.ndarray) -> np.ndarray:
    """Each edge in float32 and its seven neighbours, of both signs."""
    steps = edges.astype(np.float32).view(np.int32)[:, None] + np.arange(-3, 4, dtype=np.int32)
    return np.concatenate([steps.reshape(-1).view(np.float32), -steps.reshape(-1).view(np.float32)])


@pytest.mark.parametrize("scale", [(), (3.0,), (1e-12,), (1e17,), (1e-30,)])
def test_a_guess_never_decides_at_an_edge(scale):
    octaves = EDGE / LIMIT * 12
    whole = np.floor(octaves)
    edges = EDGE / LIMIT * scale[0] if scale else 2.0**whole * (1 + octaves - whole) - 1
    extremes = [0.0, -0.0, 1e-45, -1e-38, 3.4e38, -3.4e38]
    x = np.concatenate([near(edges), np.array(extremes, np.float32)])[:, None]
    for given_x in (x, x.astype(np.float64), edges[:, None], np.nextafter(edges, 0)[:, None]):
        encoder = Encoder(1, 1, scale)
        np.testing.assert_array_equal(encoder.phi(given_x), one_by_one(encoder, given_x))
    assert Encoder(1, 1, scale).phi(np.array([[1e300], [-1e300]])).ravel().tolist() == [LIMIT, -LIMIT]


@given(arrays.arrays(st.sampled_from([np.float32, np.float64]), st.tuples(st.integers(0, 40), st.just(7)),
                     elements={"allow_nan": False, "allow_infinity": False}), st.booleans())  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_any_numbers_of_one_plane_are_their_definition(x, scaled):
    encoder = Encoder(7, 1, tuple(np.geomspace(1e-3, 1e9, 7).tolist()) if scaled else ())
    np.testing.assert_array_equal(encoder.phi(x), one_by_one(encoder, x))
    np.testing.assert_array_equal(encoder.phi(x[::-2]), one_by_one(encoder, x)[::-2])


@pytest.mark.parametrize(
    "options", [{"planes": 1}, {"planes": 3}, {"planes": 1, "features": "cosine", "dimensions": 20}]
)
def test_rows_do_not_know_each_other(options):
    x = np.random.default_rng(0).normal(size=(1500, 90)).astype(np.float32)
    encoder = Encoder(90, **options)
    whole = encoder.phi(x)
    np.testing.assert_array_equal(whole, np.concatenate([encoder.phi(x[at : at + 7]) for at in range(0, len(x), 7)]))
    np.testing.assert_array_equal(whole, encoder.phi(x.astype(np.float64)))


@pytest.mark.parametrize(("bad", "found"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_the_first_row_with_a_gap_is_named(bad, found):
    x = np.zeros((3000, 3), np.float32)
    refuse_gaps(x)
    x[[1203, 2999], 1] = bad
    with pytest.raises(BadArray, match=f"X row 1203 holds {found}"):
        refuse_gaps(x)
    with pytest.raises(BadArray, match=f"y row 5 holds {found}"):
        refuse_gaps(np.array([0.0] * 5 + [bad]), "y")

from __future__ import annotations

import sys
import types
from itertools import product

import numpy as np
import pytest

from everlearn.errors import BadInput
from everlearn.learn.exact import sums
from everlearn.learn.exact.sums import GramSum, check_phi, smallest


def joint(phi):
    if phi.size < 10_000:
        return phi.astype(np.int64).T @ phi.astype(np.int64)
    return (phi.astype(np.float64).T @ phi.astype(np.float64)).astype(np.int64)  # exact below 2^53, and quick


@pytest.mark.parametrize(
    ("n", "d"), [*product((0, 1, 1040, 1041, 4161), (1, 7, 70)), (3, 512), (1041, 513), (50, 1100)]
)
def test_equals_int64_arithmetic(n, d):
    phi = np.random.default_rng(n + d).integers(-127, 128, (n, d), dtype=np.int8)
    gram = GramSum(d)
    gram.add(phi)
    assert np.array_equal(gram.dense(), joint(phi))
    assert np.array_equal(gram.diagonal(), np.diagonal(joint(phi)))
    assert np.array_equal(np.triu(gram.triangle()), np.triu(joint(phi)))
    assert np.array_equal(np.concatenate(list(gram.upper())), joint(phi)[np.triu_indices(d)])
    assert list(gram.sizes()) == [len(piece) for piece in gram.upper()]


def test_extremes_are_exact_beyond_int32():
    """140,000 rows of +-127 pass 2^31: the panels widen to int64, and back-subtraction ends at zero."""
    phi = np.full((140_000, 3), 127, np.int8)
    phi[:, 1] = -127
    gram = GramSum(3)
    gram.add(phi)
    wanted = 140_000 * 127**2
    assert gram.dense().tolist() == [[wanted, -wanted, wanted], [-wanted, wanted, -wanted], [wanted, -wanted, wanted]]
    assert gram.panels[0].dtype == np.int64
    gram.add(phi, -1)
    assert not gram.dense().any()


def test_float32_blocks_are_as_long_as_they_may_be():
    assert sums.EXACT_ROWS * 127**2 < 2**24 <= (sums.EXACT_ROWS + 1) * 127**2


def test_combining_and_flat_pieces_restore_the_sum():
    phi = np.random.default_rng(0).integers(-127, 128, (90, 700), dtype=np.int8)
    a, b, whole, back = (GramSum(700) for _ in range(4))
    a.add(phi[:20])
    b.add(phi[20:])
    whole.add(phi)
    a.combine(b)
    assert np.array_equal(a.dense(), whole.dense())
    back.fill_upper((piece.astype(np.int32) for piece in whole.upper()), np.dtype(np.int32))
    assert np.array_equal(back.dense(), whole.dense())
    back.add(phi[:1])
    whole.add(phi[:1])
    assert np.array_equal(back.dense(), whole.dense())
    assert np.array_equal(np.triu(whole.triangle(minus=b)), np.triu(whole.dense() - b.dense()))


def test_smallest_type_that_holds():
    assert [smallest(-v, v).str for v in (127, 128, 32_768, 2**31)] == ["|i1", "<i2", "<i4", "<i8"]


@pytest.mark.parametrize(
    ("phi", "found"),
    [
        (np.zeros((2, 4), np.int8), "shape"),
        (np.array([[0, 1, 2], [3, np.nan, 5]]), "row 1 holds NaN"),
        (np.array([[0, 1, 2], [0, 0, 0], [np.inf, 4, 5]]), "row 2 holds NaN or infinity"),
        (np.array([[0.0, 1, 2]]), "row 0 holds float64"),
        (np.array([[0, 1, 2], [3, -128, 5]], np.int8), "row 1 holds -128"),
        (np.array([[0, 1, 2], [3, 128, 5]]), "row 1 is out of range"),
        (np.array([[0, 1, 2], [3, 200, 5]], np.uint8), "row 1 is out of range"),
        (np.array([["a", "b", "c"]]), "row 0 holds"),
    ],
)
def test_what_is_no_phi_is_refused_by_row(phi, found):
    with pytest.raises(BadInput, match=found):
        check_phi(phi, 3)


def test_other_integer_types_are_taken():
    assert check_phi(np.array([[127, -127]], np.int64), 2).dtype == np.int8


def test_an_int8_product_is_used_only_where_it_proves_exact(monkeypatch):
    """A kernel that saturates in int16, as seen without VNNI, is found out; a right one is taken."""

    class Array:
        def __init__(self, values):
            self.values = values

        def numpy(self):
            return self.values

    def right(a, b):
        return Array(a.values.astype(np.int32) @ b.values.astype(np.int32))

    def saturating(a, b):
        return Array(np.clip(right(a, b).values, -(2**15), 2**15 - 1))

    phi = np.random.default_rng(0).integers(-127, 128, (1100, 600), dtype=np.int8)
    for kernel, taken in ((saturating, False), (right, True)):
        monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(from_numpy=Array, _int_mm=kernel))
        sums.int8_product.cache_clear()
        assert (sums.int8_product() is not None) == taken
        gram = GramSum(600)
        gram.add(phi)
        assert np.array_equal(gram.dense(), joint(phi))
    sums.int8_product.cache_clear()


def test_the_real_int8_product_gives_the_same_bits():
    """Where torch is; on a machine without VNNI the proof fails and floats do the work, with the same bits."""
    pytest.importorskip("torch", reason="torch is not installed: only float sums are tested")
    sums.int8_product.cache_clear()
    phi = np.random.default_rng(0).choice(np.array([-127, -126, 0, 126, 127], np.int8), (70_000, 40))
    gram = GramSum(40)
    gram.add(phi)
    assert np.array_equal(gram.dense(), joint(phi))
    sums.int8_product.cache_clear()

from __future__ import annotations

import os
import subprocess
import sys
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


def right(a, b):
    return a.T.astype(np.int32) @ b.astype(np.int32)


def saturating(a, b):
    """As without VNNI: a is shifted to be unsigned, and the products of neighbouring rows are added in int16."""
    up, b = a.astype(np.int32) + 128, b.astype(np.int32)
    pairs = (np.clip(up[at : at + 2].T @ b[at : at + 2], -(2**15), 2**15 - 1) for at in range(0, len(a), 2))
    return sum(pairs) - 128 * b.sum(axis=0)


def test_an_int8_product_is_used_only_where_it_proves_exact(monkeypatch):
    import torch  # noqa: F401  an int8 product is looked for only where it is loaded

    phi = np.random.default_rng(0).integers(-127, 128, (1100, 600), dtype=np.int8)
    monkeypatch.setattr(sums, "_PROOF_BYTES", 600 * 61 * 2)
    for kernel, taken in ((saturating, False), (right, True)):
        monkeypatch.setattr(sums, "_on_cpu", lambda _, kernel=kernel: kernel)
        assert (sums.int8_product(600) is not None) == taken
        gram = GramSum(600)
        gram.add(phi)
        assert np.array_equal(gram.dense(), joint(phi))


def test_a_kernel_that_breaks_on_wide_strides_alone_is_found_out():
    assert sums._proves_exact(right, 40)
    assert not sums._proves_exact(lambda a, b: right(a, b) + (b.strides[0] > 700), 900)
    assert not sums._proves_exact(lambda a, b: right(a, b) // (1 + (len(a) > 65_000)), 40)  # an accumulator too short


EXTREMES = """
import hashlib, sys
import numpy as np
from everlearn.learn.exact import sums
if sys.argv[1] == "torch":
    import torch
rng = np.random.default_rng(0)
gram = sums.GramSum(1100)
for rows in (1041, 3000, 70):
    gram.add(rng.choice(np.array([-127, -126, 0, 126, 127], np.int8), (rows, 1100)))
gram.add(rng.integers(-127, 128, (2000, 2200), dtype=np.int8)[::2, ::2], -1)
print(hashlib.sha256(gram.dense().tobytes()).hexdigest(), sums.int8_product(1100) is not None)
"""


def child(kind: str, **environment: str) -> list[str]:
    command = [sys.executable, "-c", EXTREMES, kind]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_floats_and_integers_with_and_without_vnni_give_the_same_bits():
    """Where the machine's kernel is masked and saturates, the proof fails and floats do the work."""
    floats, whole, masked = child("floats"), child("torch"), child("torch", ONEDNN_MAX_CPU_ISA="AVX2")
    assert floats[1] == "False"
    assert floats[0] == whole[0] == masked[0]


@pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="no GPU on this machine")
def test_the_gpu_gives_the_same_bits():
    import torch

    torch.cuda.init()
    assert sums._proved(sums._on_cuda, 700) is not None
    phi = np.random.default_rng(0).choice(np.array([-127, -126, 0, 126, 127], np.int8), (70_001, 700))
    gram = GramSum(700)
    gram.add(phi)
    assert np.array_equal(gram.dense(), joint(phi))


def test_many_sums_at_once_are_each_its_own():
    rng = np.random.default_rng(1)
    phis = [rng.integers(-127, 128, (n, 530), dtype=np.int8) for n in (0, 700, 5000)]
    grams = [GramSum(530) for _ in phis]
    sums.add_each(grams, phis)
    assert [np.array_equal(gram.dense(), joint(phi)) for gram, phi in zip(grams, phis)] == [True] * 3
    sums.add_each(grams, phis, -1)
    assert not any(gram.dense().any() for gram in grams)

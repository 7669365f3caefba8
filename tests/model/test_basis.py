"""phi is a pure function of the pixels: bits do not depend on neighbours, batches or threads."""

import copy
import hashlib
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from everlearn.errors import BadConfig, BadInput
from everlearn.model.backbone import Rows, load_backbone
from everlearn.model.basis import Basis


@pytest.fixture(scope="module")
def basis() -> Basis:
    return Basis(load_backbone("patches"))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blocks of colour: integers only, the same on every machine."""
    y, x = np.mgrid[:height, :width]
    return np.stack([(x * 7 + seed) % 256, (y * 5 + x // 3) % 256, (x * y + 31 * seed) % 256], -1).astype(np.uint8)


def test_golden_phi(basis):
    """Changes only where the basis is meant to change: every stored memory is of another basis then."""
    phi = basis.phi([picture(64, 64), picture(32, 32, 1), picture(100, 80, 2)])
    assert (
        hashlib.sha256(phi.tobytes()).hexdigest() == "93a36711c79932ff713fc77040292db772781fd0c076bcb719590e5e3d6338b4"
    )
    assert basis.digest == "59d90001773ccdacad2f5c7697d7b1459a7720aa1c51fde245c58125c8dd7cf6"


def test_golden_phi_of_the_small_patches():
    small = Basis(load_backbone("patches:small"), dimensions=2048)
    phi = small.phi([picture(64, 64), picture(32, 32, 1), picture(100, 80, 2)])
    assert (
        hashlib.sha256(phi.tobytes()).hexdigest() == "0c25d31bd803927deeb21567916c3c7b64488ceae04b74e45dd2267a2d79191f"
    )
    assert small.digest == "cfb7fd59c461073f0baa122b027e231ead40d672b0ad71f87d8db78ab6af81c8"


def test_neither_neighbours_nor_threads_change_a_bit(basis):
    images = [picture(20 + 3 * n, 64 - n, n) for n in range(37)]
    phi = basis.phi(images)
    np.testing.assert_array_equal(phi, basis.phi(images, workers=1))
    np.testing.assert_array_equal(phi, basis.phi(images[::-1], workers=2)[::-1])
    for n in (0, 17, 36):
        np.testing.assert_array_equal(phi[n], basis.phi([images[n]])[0])


def test_grey_is_three_equal_channels(basis):
    grey = picture(28, 28)[:, :, 2]
    np.testing.assert_array_equal(basis.phi([grey]), basis.phi([np.repeat(grey[:, :, None], 3, axis=2)]))


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (8, 8), (28, 28), (4000, 100), (63, 65)])
def test_any_size(basis, shape):
    phi = basis.phi([picture(*shape)])
    assert phi.shape == (1, basis.dimensions)
    assert phi.dtype == np.int8
    assert phi.min() >= -127
    assert (phi[:, -1] == 127).all()


def test_a_copy_is_the_same_and_runs(basis):
    images = [picture(30, 30)]
    phi = basis.phi(images)
    for one in (pickle.loads(pickle.dumps(basis)), copy.deepcopy(basis)):
        assert one.digest == basis.digest
        np.testing.assert_array_equal(one.phi(images), phi)


def test_no_images(basis):
    assert basis.phi([]).shape == (0, basis.dimensions)


@settings(max_examples=15, deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 80), st.integers(1, 80), st.just(3))))
def test_any_pixels_alone_as_among_others(image):
    basis = _small()
    np.testing.assert_array_equal(basis.phi([image])[0], basis.phi([picture(9, 9), image, picture(50, 3)])[1])


def _small(known: list[Basis] = []) -> Basis:  # noqa: B006
    if not known:
        known.append(Basis(load_backbone("patches"), dimensions=64))
    return known[0]


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 4), np.uint8), np.zeros((0, 3, 3), np.uint8), np.zeros((4, 4, 3)), np.zeros(5, np.uint8)]
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(BadInput, match="uint8"):
        _small().phi([image])


def test_features_are_about_as_alike_as_the_backbones(basis):
    first, second, third = basis.features([picture(64, 64), picture(66, 65), picture(64, 64)[::-1, ::-1]])
    assert np.linalg.norm(first) == pytest.approx(1, abs=0.1)
    assert first @ second > first @ third


@pytest.mark.parametrize("dimensions", [0, 15, 16385])
def test_dimensions_out_of_range(dimensions):
    with pytest.raises(BadConfig, match="dimensions"):
        Basis(Rows(), dimensions=dimensions)


def test_digest_follows_what_decides_phi():
    digests = {
        Basis(Rows(), dimensions=d, seed=s, width=w).digest for d in (64, 65) for s in (0, 1) for w in (0.5, 1.0)
    }
    assert len(digests) == 8
    assert Basis(Rows(), dimensions=64).digest == Basis(Rows(), dimensions=64).digest


def test_rows_of_numbers():
    basis = Basis(Rows(), dimensions=256)
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=40) for _ in range(5)]
    phi = basis.phi(rows)
    np.testing.assert_array_equal(phi[2], basis.phi([rows[2]])[0])
    np.testing.assert_array_equal(phi, basis.phi([row * 1024 for row in rows]))  # direction counts, length does not
    assert basis.phi([np.zeros(3), np.full(7, 1e30)]).shape == (2, 256)


@pytest.mark.parametrize("row", [np.zeros((2, 2)), np.array([np.nan]), np.zeros(20_000), np.array(["a"])])
def test_rows_that_are_none(row):
    with pytest.raises(BadInput):
        Basis(Rows(), dimensions=64).phi([row])

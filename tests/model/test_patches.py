"""The backbone against a plain float64 version of the same formulas, and its exactness."""

import numpy as np
import pytest

from everlearn.model import patches
from everlearn.model.graph import Graph, session
from everlearn.model.patches import Patches, Scale

SMALL = (Scale(32, 1, 3, 9), Scale(16, 1, 2, 6))


def run(backbone: Patches, images: np.ndarray) -> np.ndarray:
    graph = Graph()
    found = backbone.build(graph, graph.input("images", np.uint8, ["N", backbone.size, backbone.size, 3]))
    graph.output("features", found, np.float32, ["N", backbone.dimensions])
    return session(graph.model()).run(None, {"images": images})[0]


def plainly(backbone: Patches, image: np.ndarray) -> np.ndarray:
    """The features of one image in float64, without any rounding; (dimensions,), each scale of length 1."""
    x, found = image.astype(np.float64), []
    with np.load(patches.DICTIONARY, allow_pickle=False) as file:
        whitening = file["basis"].reshape(len(file["basis"]), -1) * float(file["basis_scale"])
        filters = file["filters"] * file["filter_scale"][:, None]
    filters = filters[: backbone.dimensions // sum(2 * scale.cells**2 for scale in backbone.scales)]
    for number, scale in enumerate(backbone.scales):
        if number:
            half = len(x) // 2
            x = np.floor(x.reshape(half, 2, half, 2, 3).mean((1, 3)) + 0.5)
        windows = np.lib.stride_tricks.sliding_window_view(x, (6, 6), axis=(0, 1))[:: scale.stride, :: scale.stride]
        flat = windows.transpose(0, 1, 3, 4, 2).reshape(scale.positions**2, -1)
        flat = (flat - flat.mean(1, keepdims=True)) / np.sqrt(flat.var(1, keepdims=True) + patches.CONTRAST)
        answers = flat @ whitening.T @ filters.T
        both = np.concatenate([answers, -answers], 1)
        pooled = scale.pooling() @ np.maximum(both - patches.THRESHOLD, 0)
        found.append(np.sqrt(pooled / pooled.sum()).ravel())
    return np.concatenate(found)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """A noise, a ramp, a disc in colour, and a flat image."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:32, :32]
    disc = np.where(((x - 12) ** 2 + (y - 18) ** 2 < 70)[..., None], (200, 40, 90), (30, 60, 35))
    ramp = np.stack([x * 8, y * 8, x * 4 + y * 4], -1)
    return np.stack([rng.integers(0, 256, (32, 32, 3)), ramp, disc, np.full((32, 32, 3), 77)]).astype(np.uint8)


def test_integer_arithmetic_agrees_with_the_formulas(images):
    backbone = Patches(scales=SMALL, filters=100)
    found = run(backbone, images) / patches.LENGTH
    for got, image in zip(found[:3], images[:3], strict=True):
        wanted = plainly(backbone, image)
        assert got @ wanted / np.linalg.norm(got) / np.linalg.norm(wanted) > 0.999
        assert np.linalg.norm(got) == pytest.approx(np.sqrt(2), abs=0.01)


def test_mirror_images_have_the_same_features(images):
    backbone = Patches(scales=SMALL, filters=100, mirror=True)
    found = run(backbone, images)
    np.testing.assert_array_equal(run(backbone, np.ascontiguousarray(images[:, :, ::-1])), found)
    assert backbone.digest != Patches(scales=SMALL, filters=100).digest
    one_sided = run(Patches(scales=SMALL, filters=100), images)
    for both, one in zip(found[:3], one_sided[:3], strict=True):
        assert both @ one > 0.5 * np.linalg.norm(both) * np.linalg.norm(one)


def test_flat_colour_has_no_features(images):
    assert not run(Patches(scales=SMALL, filters=100), images[3:]).any()


def test_every_sum_stays_where_float32_is_exact():
    backbone = Patches()
    assert np.abs(backbone._basis.astype(np.int64)).reshape(len(backbone._basis), -1).sum(1).max() * 255 < 2**24
    assert not backbone._basis.reshape(len(backbone._basis), -1).sum(1).any()  # flat colour is answered with 0
    assert 255**2 * 3 * patches.PATCH**2 < 2**24
    weights = backbone._both_signs().astype(np.int64)
    pairs = np.abs(weights).reshape(-1, 2, weights.shape[1]).sum(1)  # AVX2 adds two products in 16 bits
    assert pairs.max() * 255 <= 2**15 - 1


def test_the_threshold_is_carried_exactly_enough():
    backbone = Patches()
    carried = -backbone._both_signs()[-1, : len(backbone._filters)] * backbone._filter_scale * 127 / patches.UNIT
    np.testing.assert_allclose(carried, patches.THRESHOLD, atol=0.05)


def test_cells_cover_every_patch():
    for scale in patches.SCALES:
        pooling = scale.pooling()
        assert pooling.shape == (scale.cells**2, scale.positions**2)
        assert pooling.any(axis=0).all()
        assert (pooling.sum(1) == scale.window**2).all()


def test_the_digest_names_every_constant(monkeypatch):
    digests = {Patches().digest, Patches(filters=100).digest, Patches(scales=SMALL[1:]).digest}
    monkeypatch.setattr(patches, "THRESHOLD", 0.25)
    assert len({*digests, Patches().digest}) == 4

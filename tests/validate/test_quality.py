"""Good pictures of every kind pass, spoiled ones fail for the right reason, at any size."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from everlearn.image import decode
from everlearn.validate.quality import QualityLimits, examine, small_grey

FACES = "data/lfw_10x10/images"


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def photo(side: int = 200) -> np.ndarray:
    """Sharp-edged shapes of all sizes before one another: what natural pictures are made of."""
    rng, picture = np.random.default_rng(3), np.full((side, side, 3), 128, np.uint8)
    for radius in np.geomspace(side / 3, side / 60, 150):
        centre = tuple(int(value) for value in rng.integers(0, side, 2))
        cv2.circle(picture, centre, int(radius), tuple(int(value) for value in rng.integers(0, 256, 3)), -1)
    return picture


def reasons(pixels: np.ndarray, limits: QualityLimits | None = None) -> set[str]:
    return {finding.reason for finding in examine(pixels, limits).findings}


def test_a_good_photo_is_fit_at_any_size() -> None:
    for side in (32, 100, 200, 1200):
        judged = examine(photo(side))
        assert judged.fit
        assert judged.score > 0.9
        assert (judged.width, judged.height) == (side, side)


@pytest.mark.parametrize("side", [100, 200, 1200])
def test_what_is_spoiled_fails_for_its_reason(side: int) -> None:
    good = photo(side)
    blurred = cv2.GaussianBlur(good, (0, 0), side * 0.04)
    assert reasons(blurred) == {"blurry"}
    assert "dark" in reasons((good * 0.2).astype(np.uint8))
    assert "bright" in reasons((245 + good * 0.04).astype(np.uint8))
    assert reasons((118 + good * 0.05).astype(np.uint8)) == {"low_contrast"}
    assert reasons(good[: side // 5]) == {"odd_aspect"}
    assert all(examine(spoiled).score < 0.8 for spoiled in (blurred, (good * 0.2).astype(np.uint8)))


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_flat_picture_scores_nothing(level: int) -> None:
    judged = examine(np.full((64, 64, 3), level, np.uint8))
    assert judged.score == 0
    assert {"low_contrast", "low_information", "blurry"} <= {finding.reason for finding in judged.findings}
    assert judged.information == judged.sharpness == judged.contrast == 0


def test_too_small() -> None:
    assert "too_small" in reasons(photo(32)[:7, :7])
    assert examine(photo(32)[:4, :4]).size_score == 0.5
    assert "too_small" not in reasons(photo(32)[:8, :8])


def test_the_reason_comes_with_its_value_and_limit() -> None:
    (finding,) = examine(photo()[:40]).findings
    assert (finding.reason, finding.value, finding.limit) == ("odd_aspect", 0.2, 0.35)
    assert str(finding) == "odd_aspect (0.2, limit 0.35)"


def test_limits_are_settings() -> None:
    assert reasons(photo(), QualityLimits(min_side=201)) == {"too_small"}
    black = np.zeros((50, 50, 3), np.uint8)
    off = QualityLimits(min_brightness=0, min_contrast=0, min_information=0, min_sharpness=0)
    assert examine(black, off).fit


@pytest.mark.parametrize("factor", [1, 4])
def test_digits_pass(factor: int) -> None:
    """8 x 8 pixels, white on black, as they are and enlarged by repeating pixels: legitimately mostly black."""
    images = np.kron((load_digits().images * 255 / 16).astype(np.uint8), np.ones((1, factor, factor), np.uint8))
    judged = [examine(rgb(image)) for image in images]
    assert np.mean([one.fit for one in judged]) > 0.999
    assert np.mean([one.score for one in judged]) > 0.95
    strokes = [examine(255 - rgb(image)) for image in images]  # ink on paper
    assert np.mean([one.fit for one in strokes]) > 0.999


def test_blurred_digits_fail() -> None:
    images = np.kron((load_digits().images[:200] * 255 / 16).astype(np.uint8), np.ones((1, 4, 4), np.uint8))
    assert np.mean([not examine(rgb(cv2.GaussianBlur(image, (0, 0), 3))).fit for image in images]) > 0.95


@pytest.mark.parametrize("name", ["data/sign_digits", FACES, "data/raccoon_voc/images"])
def test_real_photos_pass_and_blurred_ones_fail(shared: Path, name: str) -> None:
    paths = sorted(path for path in (shared / name).rglob("*") if path.suffix.lower() in (".jpg", ".png"))[::7]
    pictures = [decode(path.read_bytes()).pixels for path in paths]
    judged = [examine(picture) for picture in pictures]
    assert np.mean([one.fit for one in judged]) > 0.98
    assert np.mean([one.score for one in judged]) > 0.95
    blurred = [cv2.GaussianBlur(picture, (0, 0), max(picture.shape) * 0.03) for picture in pictures]
    assert np.mean([examine(picture).fit for picture in blurred]) < 0.02


def test_mnist_passes(shared: Path) -> None:
    judged = [examine(rgb(image)) for image in np.load(shared / "data/mnist.npz")["x_train"][::30]]
    assert np.mean([one.fit for one in judged]) > 0.999
    assert np.mean([one.score for one in judged]) > 0.95


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_any_picture_gets_scores_between_0_and_1(height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = pixels.copy()
    judged = examine(pixels)
    parts = (judged.sharpness_score, judged.exposure_score, judged.contrast_score, judged.size_score)
    assert judged.score == min(parts)
    assert all(0 <= part <= 1 for part in parts)
    assert 0 <= judged.information <= 8
    assert examine(pixels, None, small_grey(pixels)) == judged
    assert np.array_equal(pixels, before)

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.augment.transforms import (
    Blur,
    Brightness,
    Contrast,
    Erase,
    Flip,
    Noise,
    Rotate,
    Shift,
    apply,
    apply_to_boxes,
    chain,
    generator,
)
from everlearn.config import Augment
from everlearn.types import Box

ALL = (Flip(1), Rotate(45), Shift(0.3), Contrast(0.5), Brightness(0.5), Blur(0.1), Noise(0.2), Erase(0.4))
GEOMETRY = (Flip(1), Rotate(25), Shift(0.1))  # so little that no mirror image of the dot comes in


def noise(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def dot(height, width, x, y):
    """A soft dot on black, whose centre of mass is (x, y)."""
    rows, columns = np.mgrid[:height, :width]
    grey = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 2.0**2))
    return np.repeat(grey[..., None], 3, 2).round().astype(np.uint8)


def centre(image):
    grey = image.sum(2).astype(float)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    return (grey * columns).sum() / grey.sum(), (grey * rows).sum() / grey.sum()


@settings(deadline=None)
@given(st.sampled_from(ALL), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_every_transform_keeps_form_and_input_and_follows_its_generator(transform, height, width, seed):
    image, points = noise(seed, height, width), np.array([[0.0, 0.0], [width - 1, height - 1]])
    copy = image.copy()
    once, moved = transform(image, points, np.random.default_rng(seed))
    again, moved_again = transform(image, points, np.random.default_rng(seed))
    assert np.array_equal(image, copy)
    assert (points == [[0, 0], [width - 1, height - 1]]).all()
    assert once.shape == image.shape
    assert once.dtype == np.uint8
    assert once.flags.c_contiguous
    assert np.array_equal(once, again)
    assert np.array_equal(moved, moved_again)
    without, none = transform(image, None, np.random.default_rng(seed))
    assert none is None
    assert np.array_equal(without, once)


@pytest.mark.parametrize("transform", ALL)
def test_every_transform_does_something(transform):
    image = noise(1, 24, 32)
    assert not np.array_equal(transform(image, None, np.random.default_rng(1))[0], image)


@settings(deadline=None)
@given(st.sampled_from([*GEOMETRY, None]), st.integers(0, 2**32))
def test_points_move_with_the_pixels(transform, seed):
    x, y = 30.0, 27.0  # off the centre of a 70 x 50 image, and far enough from its border
    transforms = GEOMETRY[:2] if transform is None else (transform,)
    image, points = apply(transforms, dot(50, 70, x, y), np.array([[x, y]]), np.random.default_rng(seed))
    assert centre(image) == pytest.approx(points[0], abs=0.05)


def test_what_flip_and_shift_do_to_the_last_pixel():
    image = noise(2, 6, 9)
    flipped, points = Flip(1)(image, np.array([[0.0, 2.0]]), np.random.default_rng(0))
    assert np.array_equal(flipped, image[:, ::-1])
    assert points.tolist() == [[8.0, 2.0]]
    for seed in range(20):
        shifted, points = Shift(0.4)(image, np.array([[4.0, 3.0]]), np.random.default_rng(seed))
        x, y = points[0].astype(int)
        if 0 <= x < 9 and 0 <= y < 6:
            assert (shifted[y, x] == image[3, 4]).all()
    assert Flip(0)(image, None, np.random.default_rng(0))[0] is image


def test_a_rotation_by_nothing_and_by_half_a_turn():
    class Fixed:
        def uniform(self, low, high):
            return high

    image = noise(3, 7, 10)
    assert np.array_equal(Rotate(0)(image, None, Fixed())[0], image)
    turned, points = Rotate(180)(image, np.array([[1.0, 2.0]]), Fixed())
    assert np.abs(turned.astype(int) - image[::-1, ::-1]).max() <= 1
    assert points[0] == pytest.approx([8, 4])
    counter_clockwise, points = Rotate(90)(dot(41, 41, 30, 20), np.array([[30.0, 20.0]]), Fixed())
    assert points[0] == pytest.approx([20, 10])
    assert centre(counter_clockwise) == pytest.approx(points[0], abs=0.1)


def test_strengths_are_the_most_that_happens():
    grey = np.full((16, 16, 3), 100, np.uint8)
    half = noise(4, 16, 16) // 2 + 60
    for seed in range(40):
        rng = np.random.default_rng
        assert np.abs(Brightness(0.1)(grey, None, rng(seed))[0].astype(int) - 100).max() <= 26
        spread = Contrast(0.2)(half, None, rng(seed))[0].std() / half.std()
        assert 0.79 <= spread <= 1.21
        assert Noise(0.02)(grey, None, rng(seed))[0].std() <= 0.02 * 255 * 1.15
        erased = Erase(0.3)(noise(5, 20, 30), None, rng(seed))[0]
        changed = (erased != noise(5, 20, 30)).any(2)
        assert changed.mean() <= 0.35
        if changed.any():
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            box = erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert (box == box[0, 0]).all()
    big = noise(7, 300, 1300)  # of two strips
    spread = Noise(0.1)(big, None, np.random.default_rng(1))[0].astype(float) - big
    assert spread[:260].std() == pytest.approx(spread[280:].std(), rel=0.05)
    assert Brightness(1)(np.full((4, 4, 3), 250, np.uint8), None, np.random.default_rng(3))[0].max() <= 255


def test_blur_takes_detail_and_keeps_the_mean():
    image = noise(6, 40, 40)
    blurred = Blur(0.05)(image, None, np.random.default_rng(2))[0]
    assert blurred.std() < image.std()
    assert blurred.mean() == pytest.approx(image.mean(), abs=2)


def test_boxes_move_with_the_pixels():
    image = np.zeros((40, 80, 3), np.uint8)
    image[10:20, 8:24] = 255
    boxes = [Box("door", 8 / 80, 10 / 40, 16 / 80, 10 / 40, 0.5)]
    for transforms in ((Flip(1),), (Shift(0.1),), (Flip(1), Shift(0.1))):
        moved, [box] = apply_to_boxes(transforms, image, boxes, np.random.default_rng(3))
        rows, columns = np.flatnonzero(moved.any((1, 2))), np.flatnonzero(moved.any((0, 2)))
        assert (box.label, box.confidence) == ("door", 0.5)
        edges = [columns[0] / 80, rows[0] / 40, (columns[-1] + 1) / 80, (rows[-1] + 1) / 40]
        assert [box.x, box.y, box.x + box.width, box.y + box.height] == pytest.approx(edges)
    turned, [box] = apply_to_boxes((Rotate(20),), image, boxes, np.random.default_rng(3))
    inside = np.zeros((40, 80), bool)
    top, left = int(np.floor(box.y * 40)), int(np.floor(box.x * 80))
    inside[top : int(np.ceil((box.y + box.height) * 40)) + 1, left : int(np.ceil((box.x + box.width) * 80)) + 1] = True
    assert turned[~inside].max() <= 8
    assert apply_to_boxes((Flip(1),), image, [], np.random.default_rng(0))[1] == []


def test_a_box_that_has_left_the_image_is_gone():
    image, corner = np.zeros((40, 40, 3), np.uint8), [Box("a", 0, 0, 0.01, 0.01), Box("b", 0.4, 0.4, 0.2, 0.2)]
    lost = [
        [box.label for box in apply_to_boxes((Shift(0.3),), image, corner, np.random.default_rng(seed))[1]]
        for seed in range(12)
    ]
    assert ["b"] in lost
    assert ["a", "b"] in lost


def test_the_settings_choose_the_transforms():
    everything = Augment(rotation=9, shift=0.1, brightness=0.2, contrast=0.3, noise=0.4, blur=0.5, erase=0.6, flip=True)
    assert chain(everything) == (
        Flip(0.5), Rotate(9), Shift(0.1), Contrast(0.3), Brightness(0.2), Blur(0.5), Noise(0.4), Erase(0.6)
    )  # fmt: skip
    assert Flip() not in chain(Augment())
    nothing = dict.fromkeys(("rotation", "shift", "brightness", "contrast", "noise", "blur", "erase"), 0)
    assert chain(Augment(**nothing)) == ()


def test_each_copy_has_its_own_generator():
    first = generator("ab" * 16, 0).random(4).tolist()
    assert generator("ab" * 16, 0).random(4).tolist() == first
    assert generator("ab" * 16, 1).random(4).tolist() != first
    assert generator("cd" * 16, 0).random(4).tolist() != first

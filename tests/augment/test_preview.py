import numpy as np
import torch

from everlearn.augment.preview import GAP, LINE, altered, grid, jpeg
from everlearn.augment.training import augmenter
from everlearn.image import decode
from everlearn.learn.network.recipe import Augmentation

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def test_a_row_begins_with_the_image_and_goes_on_with_its_versions():
    one = augmenter(Augmentation(rotation=20, brightness=0.3))
    rows = altered(one, IMAGES, versions=4, seed=2)
    assert [len(row) for row in rows] == [5, 5, 5]
    assert all(np.array_equal(row[0], image) for row, image in zip(rows, IMAGES, strict=True))
    assert len({image.tobytes() for row in rows for image in row}) == 15
    again = altered(one, IMAGES, versions=4, seed=2)
    assert np.array_equal(np.array(rows), np.array(again))
    assert not np.array_equal(np.array(rows), np.array(altered(one, IMAGES, versions=4, seed=3)))


def test_mixed_images_are_shown_mixed():
    mixes = augmenter(Augmentation(cutmix=1.0))
    shown = np.array(altered(mixes, IMAGES, versions=6))[:, 1:]  # (3, 6, 32, 32, 3)
    from_others = [(shown[row] == IMAGES[row - 1]).all(-1).any() for row in range(3)]
    assert all(from_others)


def test_a_grid_holds_every_image_and_its_name():
    found = grid([list(IMAGES), list(IMAGES[:2])], names=["a", "둘"])
    assert found.shape == (2 * (32 + GAP + LINE) + GAP, 3 * (32 + GAP) + GAP, 3)
    top = GAP + LINE
    assert np.array_equal(found[top : top + 32, GAP : GAP + 32], IMAGES[0])
    second = top + 32 + GAP + LINE
    assert np.array_equal(found[second : second + 32, GAP + 36 : GAP + 68], IMAGES[1])
    assert (found[second : second + 32, GAP + 72 :] == 255).all()  # no third in that row
    assert found[:LINE].min() < 128 and found[second - LINE : second - GAP].min() < 128  # letters
    assert grid([list(IMAGES)]).shape == (32 + 2 * GAP, 3 * 36 + GAP, 3)
    assert grid([]).size >= 0


def test_large_images_become_small():
    large = np.full((300, 150, 3), 7, np.uint8)
    assert grid([[large]], side=96).shape == (96 + 2 * GAP, 96 + 2 * GAP, 3)


def test_names_that_cannot_be_printed_do_not_stop_the_picture():
    data = jpeg(augmenter(Augmentation(noise=0.1)), IMAGES, ["", "\u202e\n\x00", "x" * 500], versions=2)
    assert data[:2] == b"\xff\xd8"
    assert decode(data).pixels.shape == (3 * (32 + GAP + LINE) + GAP, 3 * 36 + GAP, 3)


def test_a_preview_leaves_torchs_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    jpeg(augmenter(Augmentation(mixup=1.0, rotation=5)), IMAGES)
    assert torch.equal(torch.rand(2), expected)

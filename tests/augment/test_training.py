import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from everlearn.augment.draws import COLUMNS, Column, draws
from everlearn.augment.training import TrainingAugmenter, augmenter
from everlearn.errors import BadInput
from everlearn.learn.network.recipe import Augmentation, load, shipped

SINGLE = {
    "rotation": 30, "shift": 0.2, "scale": 0.3, "flip": True, "brightness": 0.4, "contrast": 0.5, "noise": 0.2,
    "blur": 0.05, "erase": 0.4, "policy": "trivialaugment",
}  # fmt: skip
ALL = Augmentation(**{**SINGLE, "policy": "randaugment"})


def images(count, height=20, width=28, seed=0):
    """(N, 3, H, W) uint8, smooth enough that a resampled pixel is near its neighbours."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 5, 5, 3)).astype(np.uint8)
    fine = np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) for one in coarse])
    return torch.from_numpy(fine).permute(0, 3, 1, 2)


def keys(*values):
    return np.array(values, np.int64)


def test_numbers_are_drawn_evenly_and_each_by_itself():
    found = draws(np.arange(20_000, dtype=np.int64))
    assert found.shape == (20_000, COLUMNS)
    assert found.min() >= 0 and found.max() < 1
    assert np.allclose(found.mean(0), 0.5, atol=0.01)
    assert np.allclose(found.std(0), 12**-0.5, atol=0.005)
    together = np.corrcoef(np.concatenate([found, np.roll(found, 1, 0)], 1).T)  # columns, and images in a row
    assert np.abs(together - np.eye(2 * COLUMNS)).max() < 0.04
    assert np.array_equal(draws(keys(7, 5))[1], draws(keys(5))[0])
    assert np.array_equal(draws(keys(5), 3)[0], draws(keys(5))[0, :3])


@pytest.mark.parametrize("setting", [*({name: value} for name, value in SINGLE.items()), ALL.model_dump()], ids=str)
def test_an_image_depends_on_its_key_alone(setting):
    one = augmenter(Augmentation.model_validate(setting))
    assert one is not None and not one.mixes
    given_images, given_keys = images(12), np.arange(100, 112)
    before = given_images.clone()
    together = one.many(given_images, given_keys)
    assert torch.equal(given_images, before)
    assert together.shape == given_images.shape and together.dtype == torch.uint8
    back = one.many(given_images.flip(0), given_keys[::-1].copy()).flip(0)
    alone = torch.stack([one.one(image, int(key)) for image, key in zip(given_images, given_keys, strict=True)])
    packed = one.many(given_images.contiguous(), given_keys)  # another layout in memory
    torch.manual_seed(5)
    np.random.default_rng(5)
    cv2.setRNGSeed(5)
    again = one.many(given_images, given_keys)
    for other in (back, alone, packed, again):
        assert torch.equal(other, together)
    assert not torch.equal(one.many(given_images, given_keys + 1), together)
    changed = [not torch.equal(a, b) for a, b in zip(together, given_images, strict=True)]
    assert sum(changed) >= 4  # half of them where it mirrors; a policy may choose nothing


def test_one_draws_its_key_from_torch():
    one, image = augmenter(ALL), images(1)[0]
    torch.manual_seed(3)
    first, second = one.one(image), one.one(image)
    torch.manual_seed(3)
    assert torch.equal(one.one(image), first)
    assert not torch.equal(first, second)


def test_what_is_off_changes_nothing():
    given_images = images(4)
    assert augmenter(Augmentation()) is None
    out = TrainingAugmenter(Augmentation()).many(given_images, np.arange(4))
    assert torch.equal(out, given_images)
    assert out.data_ptr() != given_images.data_ptr()
    assert augmenter(ALL).many(given_images[:0], keys()).shape == (0, 3, 20, 28)


def test_a_setting_more_does_not_change_what_the_others_draw():
    few, more = (augmenter(Augmentation(rotation=20, erase=0.3, noise=n)) for n in (0.0, 0.5))
    drawn = draws(np.arange(9))
    assert np.array_equal(few.plan(drawn, 20, 28).matrices, more.plan(drawn, 20, 28).matrices)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**63 - 1))
def test_geometry_is_that_of_torchvision(key):
    """The same turn, size and shift by v2.functional.affine give the same pixels, away from the border."""
    wanted = Augmentation(rotation=25, shift=0.1, scale=0.2)
    image = images(1, 48, 48)[0]
    drawn = 2 * draws(keys(key))[0] - 1
    ours = augmenter(wanted).one(image, key)
    theirs = F.affine(
        image, angle=-25 * drawn[Column.ANGLE], scale=1 + 0.2 * drawn[Column.SCALE], shear=[0.0, 0.0],
        translate=[4.8 * drawn[Column.RIGHT], 4.8 * drawn[Column.DOWN]], interpolation=InterpolationMode.BILINEAR,
    )  # fmt: skip
    middle = (slice(None), slice(18, 30), slice(18, 30))
    assert (ours[middle].int() - theirs[middle].int()).abs().max() <= 6


def test_nothing_black_comes_in_at_the_border():
    bright = torch.full((6, 3, 32, 32), 200, dtype=torch.uint8)
    out = augmenter(Augmentation(rotation=180, shift=0.5, scale=0.5)).many(bright, np.arange(6))
    assert torch.equal(out, bright)


def test_a_mirrored_image_is_its_mirror_image_exactly():
    given_images = images(40)
    out = augmenter(Augmentation(flip=True)).many(given_images, np.arange(40))
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(out, given_images, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(out, given_images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 10 <= sum(mirrored) <= 30


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_never_mirror(name):
    for stage in load(name).stages:
        matrices = TrainingAugmenter(stage.augmentation).plan(draws(np.arange(200)), 64, 64).matrices
        assert matrices is None or (np.linalg.det(matrices[:, :2, :2]) > 0).all()


def test_strengths_are_the_most_that_happens():
    grey = torch.full((400, 3, 16, 16), 100, dtype=torch.uint8)
    key = np.arange(400)
    light = augmenter(Augmentation(brightness=0.2)).many(grey, key).float().mean((1, 2, 3)) - 100
    assert light.abs().max() <= 51.5 and light.min() < -45 and light.max() > 45
    assert torch.equal(augmenter(Augmentation(contrast=0.9)).many(grey, key), grey)  # about the image's own mean
    noisy = augmenter(Augmentation(noise=0.1)).many(grey, key).float()
    deviations = noisy.std((1, 2, 3))
    assert deviations.max() < 28 and deviations.min() < 3 and 11 < deviations.mean() < 15
    assert (noisy.mean((1, 2, 3)) - 100).abs().max() < 4
    assert np.unique(noisy[0].numpy()).size > 3 and not torch.equal(noisy[:, 0], noisy[:, 1])
    spotted = images(400, 32, 32)
    erased = augmenter(Augmentation(erase=0.3)).many(spotted, key)
    areas = (erased != spotted).any(1).float().mean((1, 2))
    assert areas.max() <= 0.33 and areas.max() > 0.25 and areas.min() < 0.02
    edges = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), dtype=np.uint8)
    sharp = torch.from_numpy(edges).permute(0, 3, 1, 2)
    blurred = augmenter(Augmentation(blur=0.2)).many(sharp, np.arange(50))
    assert blurred.float().std() < 0.6 * sharp.float().std()


def test_a_hundred_stages_of_light_are_cut_not_wrapped():
    out = augmenter(Augmentation(brightness=1, contrast=0.9, noise=1)).many(
        torch.full((64, 3, 8, 8), 250, dtype=torch.uint8), np.arange(64)
    )
    up = draws(np.arange(64))[:, Column.BRIGHTNESS] > 0.95
    assert up.any() and (out[torch.from_numpy(up)].float().mean((1, 2, 3)) > 128).all()


@pytest.mark.parametrize(
    ("given_images", "given_keys"),
    [
        (torch.zeros(2, 3, 8, 8), keys(1, 2)),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), keys(1, 2)),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), keys(1)),
    ],
)
def test_what_is_no_batch_of_images_is_refused(given_images, given_keys):
    with pytest.raises(BadInput):
        augmenter(ALL).many(given_images, given_keys)


def test_threads_change_nothing():
    """OpenCV and torch divide a large image among their threads."""
    large, found = images(2, 500, 480), []
    before = cv2.getNumThreads(), torch.get_num_threads()
    try:
        for threads in (1, 3):
            cv2.setNumThreads(threads)
            torch.set_num_threads(threads)
            found.append(augmenter(ALL).many(large, keys(3, 4)))
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])
    assert torch.equal(*found)

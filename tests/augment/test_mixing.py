import numpy as np
import pytest
import torch

from everlearn.augment.mixing import mixed
from everlearn.augment.training import augmenter
from everlearn.learn.network.recipe import Augmentation


def batch(count=8):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.random((count, 3, 16, 16), dtype=np.float32))
    return images, torch.eye(count)


@pytest.mark.parametrize("alphas", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}], ids=str)
def test_the_same_key_gives_the_same_and_torchs_generator_goes_on(alphas):
    images, targets = batch()
    before = images.clone(), targets.clone()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = mixed(images, targets, 7, **alphas)
    assert torch.equal(torch.rand(3), expected)
    again = mixed(images, targets, 7, **alphas)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip((images, targets), before, strict=True))
    assert any(not torch.equal(mixed(images, targets, key, **alphas)[0], first[0]) for key in (8, 9))
    assert torch.allclose(first[1].sum(1), torch.ones(8))


def test_mixup_mixes_pixels_and_labels_by_the_same_share():
    images, targets = batch()
    shares = []
    for key in range(300):
        now, labels = mixed(images, targets, key, mixup=0.4)
        share = float(labels[0, 0])
        shares.append(share)
        if key < 20:
            assert torch.allclose(now, share * images + (1 - share) * images.roll(1, 0), atol=1e-5)
    assert 0.45 < np.mean(shares) < 0.55
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.02)  # of Beta(0.4, 0.4)


def test_cutmix_labels_say_how_much_was_cut():
    images, targets = batch()
    for key in range(20):
        now, labels = mixed(images, targets, key, cutmix=1.0)
        own = (now == images).all(1)
        other = (now == images.roll(1, 0)).all(1)
        assert (own | other).all()
        assert float(own[0].float().mean()) == pytest.approx(float(labels[0, 0]), abs=1e-6)
        rows, columns = np.nonzero(~own[0].numpy())
        if len(rows):  # one rectangle
            assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


def test_both_come_where_both_are_wanted():
    images, targets = batch()
    kinds = {
        bool((now == images).any()) for key in range(20) for now in [mixed(images, targets, key, mixup=1, cutmix=1)[0]]
    }
    assert kinds == {True, False}


def test_nothing_to_mix():
    images, targets = batch(1)
    assert mixed(images, targets, 1, mixup=1)[0] is images
    images, targets = batch()
    assert mixed(images, targets, 1)[0] is images
    assert not augmenter(Augmentation(rotation=10)).mixes
    one = augmenter(Augmentation(cutmix=1))
    assert one.mixes
    assert not torch.equal(one.batch(images, targets, 3)[0], images)


def test_a_batch_keeps_its_layout():
    images = batch()[0].contiguous(memory_format=torch.channels_last)
    for alphas in ({"mixup": 1.0}, {"cutmix": 1.0}):
        assert mixed(images, torch.eye(8), 1, **alphas)[0].is_contiguous(memory_format=torch.channels_last)

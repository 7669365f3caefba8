"""The sweep over learning rates: reads curves whose answer is known, and leaves the network as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from everlearn.errors import TooFew
from everlearn.learn.network import recipe as recipes
from everlearn.learn.network.loading import Data
from everlearn.learn.network.rate_finder import find_rate, read
from everlearn.model.trainable import build

torch.set_num_threads(1)
STAGE = recipes.load("baseline").stages[0]


def digits() -> Data:
    held = load_digits()
    images = np.repeat((held.images[:400] * 15.9).astype(np.uint8)[..., None], 3, 3)
    return Data(images, held.target[:400].astype(np.int64), tuple("0123456789"))


def test_a_known_curve_is_read_right() -> None:
    """Flat, then falling fastest at 0.003, lowest at 0.03, and over 1 from 0.3 on."""
    rates = np.geomspace(1e-5, 10, 120)
    place = np.log10(rates)
    losses = 2.3 - 1.5 / (1 + np.exp(-5 * (place - np.log10(0.003)))) + 3 / (1 + np.exp(-8 * (place - np.log10(0.5))))
    found = read(rates.tolist(), losses.tolist())
    assert found.steepest == pytest.approx(0.003, rel=0.3)
    assert found.diverged is not None and 0.2 < found.diverged < 0.6
    assert found.suggestion == pytest.approx(min(found.steepest, found.diverged / 10), rel=0.05)
    assert found.steepest < found.lowest < found.diverged
    never = read(rates.tolist(), (2.3 - 1.5 / (1 + np.exp(-5 * (place - np.log10(0.003))))).tolist())
    assert never.diverged is None and never.suggestion == pytest.approx(0.003, rel=0.3)


def test_a_sweep_suggests_a_rate_that_learns_and_changes_nothing() -> None:
    network = build("cnn:depth=1,width=8", classes=10, size=8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    drawn = torch.random.get_rng_state()
    found = find_rate(network, digits(), STAGE, steps=60)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert 1e-3 < found.suggestion < 0.3
    assert len(found.rates) == len(found.losses) == len(found.smooth)
    again = find_rate(network, digits(), STAGE, steps=60)
    assert again == found, "the same seed, the same sweep"


def test_nothing_to_learn_from() -> None:
    data = digits().some(np.arange(1))
    with pytest.raises(TooFew):
        find_rate(build("cnn:depth=1,width=8", classes=10, size=8), data, STAGE)

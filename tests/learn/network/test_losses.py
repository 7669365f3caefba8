"""Losses, against torch's and scikit-learn's own formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import hamming_loss, log_loss, mean_absolute_error, mean_squared_error
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from everlearn.errors import BadInput
from everlearn.learn.network.judging import judge
from everlearn.learn.network.loading import Data
from everlearn.learn.network.losses import class_weights, criterion, plain, smoothed
from everlearn.learn.network.recipe import Loss
from everlearn.learn.network.runtime import runtime

LOGITS = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) * 2
COLUMNS = torch.randint(0, 5, (40,), generator=torch.Generator().manual_seed(1))
COUNTS = torch.tensor([100.0, 50, 25, 20, 5])
LABELS = (torch.rand(40, 5, generator=torch.Generator().manual_seed(2)) > 0.6).float()
NUMBERS = torch.randn(40, generator=torch.Generator().manual_seed(3)) * 3


def test_cross_entropy() -> None:
    found = criterion(Loss())(LOGITS, COLUMNS)
    assert float(found) == pytest.approx(log_loss(COLUMNS.numpy(), LOGITS.double().softmax(1).numpy()), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_label_smoothing(name: str, smoothing: float) -> None:
    """(1 - s) of the label, s spread over all; of a focal loss with gamma 0 the same."""
    found = criterion(Loss(name=name, label_smoothing=smoothing, gamma=0.0))(LOGITS, COLUMNS)  # type: ignore[arg-type]
    assert torch.allclose(found, F.cross_entropy(LOGITS, COLUMNS, label_smoothing=smoothing), rtol=1e-6)
    shares = smoothed(F.one_hot(COLUMNS, 5).float(), smoothing)
    by_hand = -(shares * LOGITS.log_softmax(1)).sum(1).mean()
    assert torch.allclose(found, by_hand, rtol=1e-6)


def test_focal_leaves_alone_what_is_known() -> None:
    p = LOGITS.softmax(1)[torch.arange(40), COLUMNS]
    found = criterion(Loss(name="focal", gamma=2.0))(LOGITS, COLUMNS)
    assert torch.allclose(found, (-((1 - p) ** 2) * p.log()).mean(), rtol=1e-5)
    sure = torch.tensor([[9.0, 0.0]])
    assert criterion(Loss(name="focal"))(sure, torch.tensor([0])) < 1e-6 * criterion(Loss())(sure, torch.tensor([0]))


def test_class_weights_are_those_of_scikit_learn() -> None:
    labels = np.repeat(np.arange(5), COUNTS.int().numpy())
    wanted = compute_class_weight("balanced", classes=np.arange(5), y=labels)
    assert np.allclose(class_weights(COUNTS).numpy(), wanted)
    assert class_weights(torch.tensor([10.0, 0.0, 10.0])).tolist() == [1.0, 0.0, 1.0]
    with pytest.raises(BadInput):
        class_weights(torch.zeros(3))


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weighted(name: str, smoothing: float) -> None:
    """A mean over images, each times the weight of its class: whole columns and their shares give the same."""
    loss = criterion(Loss(name=name, class_weights=True, gamma=0.0, label_smoothing=smoothing), COUNTS)  # type: ignore[arg-type]
    weights = class_weights(COUNTS)
    each = F.cross_entropy(LOGITS, COLUMNS, weights, reduction="none", label_smoothing=smoothing)
    assert torch.allclose(loss(LOGITS, COLUMNS), each.mean(), rtol=1e-5)
    assert torch.allclose(loss(LOGITS, F.one_hot(COLUMNS, 5).float()), each.mean(), rtol=1e-5)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "bce"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_parts_of_a_batch_add_up(name: str, weighted: bool) -> None:
    loss = criterion(Loss(name=name, class_weights=weighted, label_smoothing=0.1), COUNTS)  # type: ignore[arg-type]
    parts = [loss(LOGITS[at : at + 8], COLUMNS[at : at + 8]) * 8 / 40 for at in range(0, 40, 8)]
    assert torch.allclose(sum(parts, torch.zeros(())), loss(LOGITS, COLUMNS), rtol=1e-6)


def test_several_labels_at_once() -> None:
    found = criterion(Loss(name="bce"))(LOGITS, LABELS)
    p = LOGITS.double().sigmoid().numpy()
    by_class = [log_loss(LABELS[:, column].numpy(), p[:, column]) for column in range(5)]
    assert float(found) == pytest.approx(np.mean(by_class), rel=1e-5)
    smooth = criterion(Loss(name="bce", label_smoothing=0.2))(LOGITS, LABELS)
    assert torch.allclose(smooth, F.binary_cross_entropy_with_logits(LOGITS, LABELS * 0.8 + 0.1))
    one_of = criterion(Loss(name="bce"))(LOGITS, COLUMNS)
    assert torch.allclose(one_of, F.binary_cross_entropy_with_logits(LOGITS, F.one_hot(COLUMNS, 5).float()))


def test_numbers() -> None:
    outputs, wanted = LOGITS[:, :1], NUMBERS.numpy()
    given = outputs[:, 0].numpy()
    assert float(criterion(Loss(name="mse"))(outputs, NUMBERS)) == pytest.approx(mean_squared_error(wanted, given))
    assert float(criterion(Loss(name="mae"))(outputs, NUMBERS)) == pytest.approx(mean_absolute_error(wanted, given))
    for delta in (0.5, 2.0):
        off = np.abs(wanted - given)
        by_hand = np.where(off <= delta, off**2 / 2, delta * (off - delta / 2)).mean()
        found = criterion(Loss(name="huber", delta=delta))(outputs, NUMBERS)
        assert float(found) == pytest.approx(by_hand, rel=1e-5)


def test_stages_are_compared_by_the_plain_loss() -> None:
    for name, wanted in (("cross_entropy", "cross_entropy"), ("focal", "cross_entropy"), ("bce", "bce"),
                         ("mae", "mse"), ("huber", "mse"), ("mse", "mse")):  # fmt: skip
        found = plain(Loss(name=name, label_smoothing=0.3, class_weights=True))  # type: ignore[arg-type]
        assert (found.name, found.label_smoothing, found.class_weights) == (wanted, 0.0, False)


def test_judged() -> None:
    """Accuracy, the share of labels answered right, R²; over batches of any size."""
    here, rows = runtime(cpu=True), LOGITS.numpy()
    network = torch.nn.Identity()
    classes = tuple("abcde")
    found = judge(network, Data(rows, COLUMNS.numpy(), classes), criterion(Loss()), here, 7)
    assert found.accuracy == pytest.approx(float((LOGITS.argmax(1) == COLUMNS).float().mean()))
    assert found.loss == pytest.approx(float(F.cross_entropy(LOGITS, COLUMNS)), rel=1e-5)
    several = judge(network, Data(rows, LABELS.numpy(), classes), criterion(Loss(name="bce")), here, 7)
    assert several.accuracy == pytest.approx(1 - hamming_loss(LABELS.numpy(), rows > 0))
    assert several.loss == pytest.approx(float(F.binary_cross_entropy_with_logits(LOGITS, LABELS)), rel=1e-5)
    from sklearn.metrics import r2_score

    numbers = judge(network, Data(rows, NUMBERS.numpy()), criterion(Loss(name="mse")), here, 7)
    assert numbers.accuracy == pytest.approx(r2_score(NUMBERS.numpy(), rows[:, 0]), rel=1e-5)
    assert numbers.loss == pytest.approx(mean_squared_error(NUMBERS.numpy(), rows[:, 0]), rel=1e-5)

"""A student learns what a teacher says."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from everlearn.augment.training import augmenter  # noqa: E402
from everlearn.errors import BadInput  # noqa: E402
from everlearn.learn.fit import fit  # noqa: E402
from everlearn.learn.network.distilling import Distil, Networks, known, softened, told  # noqa: E402
from everlearn.learn.network.loading import Batches, Data  # noqa: E402
from everlearn.learn.network.recipe import Augmentation, Optimizer, Stage  # noqa: E402
from everlearn.model.trainable import build  # noqa: E402

CLASSES = ("a", "b", "c")
STAGE = Stage(epochs=4, batch_size=16, optimizer=Optimizer(learning_rate=0.01))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows(count: int = 240, seed: int = 0) -> tuple[Data, np.ndarray]:
    """Images whose brightness tells the class, with labels that are wrong for a third; and the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, count)
    images = np.clip(rng.normal(60 + 60 * truth[:, None, None, None], 12, (count, 8, 8, 3)), 0, 255).astype(np.uint8)
    noisy = np.where(rng.random(count) < 0.33, (truth + 1) % 3, truth)
    return Data(images, noisy.astype(np.int64), CLASSES), truth


def network(seed: int = 0):
    return build("cnn:depth=1,width=4", classes=3, size=8, seed=seed)


def test_the_loss_is_hintons() -> None:
    p, logits = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[1.0, 0.5, -1.0]])
    soft = (p.log() / 3).softmax(1)
    wanted = 9 * (soft * (soft.log() - (logits / 3).log_softmax(1))).sum()
    assert softened(p, logits, 3.0).item() == pytest.approx(wanted.item(), abs=1e-6)
    assert softened(p, p.log(), 3.0).item() == pytest.approx(0, abs=1e-6)
    label = torch.tensor([[1.0, 0, 0]])

    def criterion(outputs, targets):
        return torch.nn.functional.cross_entropy(outputs, targets)

    beside = torch.cat([label, p], 1)
    for alpha in (0.0, 0.25, 1.0):
        found = Distil(3.0, alpha).loss(torch.zeros(1), beside, logits, 1, criterion)
        assert found.item() == pytest.approx((alpha * wanted + (1 - alpha) * criterion(logits, label)).item(), abs=1e-5)


def test_a_student_of_a_teacher_that_knows_better_than_the_labels_is_better() -> None:
    data, truth = rows()
    held_out = Data(data.inputs, truth.astype(np.int64), CLASSES)
    said = np.full((len(truth), 3), 0.02, np.float32)
    said[np.arange(len(truth)), truth] = 0.96
    student, alone = network(1), network(1)
    found = fit(student, told(data, said), held_out, STAGE, method=Distil(2.0, 1.0))
    fit(alone, data, held_out, STAGE)
    assert found.val_accuracy > 0.95
    assert 0.4 < found.history[-1].train_accuracy < 0.8, "it is held against the labels, a third of which are wrong"


def test_mixing_mixes_what_the_teacher_says_with_the_labels() -> None:
    data, _ = rows(32)
    said = np.random.default_rng(0).dirichlet(np.ones(3), 32).astype(np.float32)
    settings = Augmentation(mixup=1.0)
    plain = Batches(told(data, said), STAGE, 0, 0)[0].targets
    mixed = Batches(told(data, said), STAGE, 0, 0, augmenter(settings))[0].targets
    assert plain.shape == mixed.shape == (16, 6)
    assert torch.allclose(mixed[:, :3].sum(1), torch.ones(16)) and torch.allclose(mixed[:, 3:].sum(1), torch.ones(16))
    assert not torch.allclose(mixed, plain)


def test_the_teacher_is_asked_about_augmented_pixels_where_a_stage_augments() -> None:
    data, _ = rows(64)
    seen = []

    class Asked(Networks):
        def __call__(self, images):
            seen.append(images.clone())
            return super().__call__(images)

    teacher = Asked([(network(5), 1.0, np.eye(3, dtype=np.float32))])
    method = Distil(4.0, 0.9, teacher)
    augmenters = method.watching(augmenter)
    said = np.full((64, 3), 1 / 3, np.float32)
    quick = STAGE.model_copy(update={"epochs": 1})
    for settings, asked in ((Augmentation(), 0), (Augmentation(brightness=0.5), 4)):
        seen.clear()
        stage = quick.model_copy(update={"augmentation": settings})
        fit(network(), told(data, said), data, stage, method=method, augment=augmenters(settings))
        assert len(seen) == asked
    original = torch.from_numpy(data.inputs).permute(0, 3, 1, 2).float() / 255
    assert not any((original == one).flatten(1).all(1).any() for one in seen[0]), "the pixels were changed"


def test_of_a_class_that_the_teacher_does_not_know_the_label_is_learned() -> None:
    said = torch.tensor([[0.5, 0.3, 0.0], [0.6, 0.4, 0.0]])
    shares = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])
    found = known(said, shares, torch.tensor([1.0, 1.0, 0.0]))
    assert torch.allclose(found[0], torch.tensor([0.625, 0.375, 0])) and torch.allclose(found[1], shares[1])
    mixed = known(said[:1], torch.tensor([[0.5, 0, 0.5]]), torch.tensor([1.0, 1.0, 0.0]))
    assert torch.allclose(mixed, torch.tensor([[0.3125, 0.1875, 0.5]]))


def test_what_cannot_be() -> None:
    data, _ = rows(12)
    with pytest.raises(BadInput, match=r"Answers are \(12, 2\)"):
        told(data, np.zeros((12, 2)))
    with pytest.raises(BadInput, match="temperature is 0"):
        Distil(0.0)
    with pytest.raises(BadInput, match=r"alpha 1\.5"):
        Distil(alpha=1.5)

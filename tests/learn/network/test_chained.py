"""Two tasks in one network: the first's answer is an input of the second, and both are learned together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from everlearn.errors import BadInput  # noqa: E402
from everlearn.learn.fit import fit  # noqa: E402
from everlearn.learn.network.chained import Both, Chained, Joint, answered  # noqa: E402
from everlearn.learn.network.recipe import Loss, Optimizer, Stage  # noqa: E402
from everlearn.model.chained_bundle import ChainedModel, TrainedChain, export_chained  # noqa: E402
from everlearn.model.network_bundle import Scale  # noqa: E402
from everlearn.model.trainable import build  # noqa: E402

KINDS = ("low", "high")
STAGE = Stage(epochs=6, batch_size=16, optimizer=Optimizer(learning_rate=0.01))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def digits(numbers: bool = False, first: int = 0, last: int = 300) -> Both:
    """8 x 8 scans of the digits 0 to 3. First: 0 and 1 are low, 2 and 3 high; second: the digit, or as a number."""
    from sklearn.datasets import load_digits

    found = load_digits(n_class=4)
    images = np.repeat((found.images[first:last, :, :, None] * 15.9).astype(np.uint8), 3, axis=3)
    target = found.target[first:last].astype(np.int64)
    wanted = ((target - 1.5) / 1.1).astype(np.float32) if numbers else target
    names = () if numbers else ("0", "1", "2", "3")
    return Both(images, wanted, names, None, (target >= 2).astype(np.int64), KINDS)


def chain(columns: int = 4) -> Chained:
    return Chained(build("cnn:depth=2,width=8", classes=2, size=8), columns)


def test_both_tasks_are_learned_together_and_exported_in_one_file(tmp_path: Path) -> None:
    network, data, held_out = chain(), digits(last=250), digits(first=250, last=400)
    found = fit(network, data, held_out.judged, STAGE, method=Joint(network))
    assert found.val_accuracy > 0.9, "the second task is what is judged"
    assert found.history[-1].train_accuracy > 0.8, "of the second task, in the steps"
    first, second = answered(network, held_out)
    assert (first.argmax(1) == held_out.first).mean() > 0.9
    assert (second.argmax(1) == held_out.targets).mean() == pytest.approx(found.val_accuracy)

    trained = TrainedChain(network, KINDS, held_out.classes)
    export_chained(trained, tmp_path / "chain.onnx", card={"name": "chain"})
    model = ChainedModel(tmp_path / "chain.onnx")
    images = list(held_out.inputs[:20])
    assert model.first == KINDS and model.classes == held_out.classes
    for one, wanted in zip(model.both(images), (first[:20], second[:20]), strict=True):
        assert np.allclose(one, wanted, atol=1e-4)
    assert np.allclose(model.table(images), second[:20], atol=1e-4), "it serves the second task as any file does"


def test_the_first_tasks_answer_decides_in_the_second() -> None:
    """Both heads are set by hand: the second looks at nothing but what the first says."""
    network = chain(2).eval()
    with torch.no_grad():
        network.second.weight.zero_()
        network.second.weight[:, -2:] = torch.eye(2) * 50
        network.second.bias.zero_()
    first, second = network.both(torch.rand(8, 3, 8, 8))
    assert (first.argmax(1) == second.argmax(1)).all()
    second.sum().backward()
    assert network.network.head.weight.grad.abs().sum() >= 0


def test_the_seconds_error_reaches_the_firsts_head() -> None:
    network = chain()
    _, second = network.both(torch.rand(8, 3, 8, 8))
    torch.nn.functional.cross_entropy(second, torch.zeros(8, dtype=torch.long)).backward()
    assert network.network.head.weight.grad.abs().sum() > 0


def test_a_weight_of_zero_leaves_a_task_out() -> None:
    network, data = chain(), digits(last=120)
    before = network.network.head.weight.clone()
    fit(network, data, data.judged, STAGE.model_copy(update={"epochs": 2}), method=Joint(network, (1.0, 0.0)))
    first, second = answered(network, data)
    assert (first.argmax(1) == data.first).mean() > (second.argmax(1) == data.targets).mean()
    assert not torch.equal(before, network.network.head.weight)
    with pytest.raises(BadInput, match="weights are"):
        Joint(network, (0.0, 0.0))


def test_a_number_given_a_class(tmp_path: Path) -> None:
    network, data, held_out = chain(1), digits(numbers=True, last=250), digits(numbers=True, first=250, last=400)
    stage = STAGE.model_copy(update={"loss": Loss(name="mse"), "epochs": 8, "ema": 0.9})
    found = fit(network, data, held_out.judged, stage, method=Joint(network))
    assert found.val_accuracy > 0.6  # R²
    trained = TrainedChain(network, KINDS, (), Scale(1.5, 1.1, 0, 3))
    export_chained(trained, tmp_path / "chain.onnx")
    first, value = ChainedModel(tmp_path / "chain.onnx").both(list(held_out.inputs))
    assert np.abs(value[:, 0] - (held_out.targets * 1.1 + 1.5)).mean() < 0.7
    assert (first.argmax(1) == held_out.first).mean() > 0.8


def test_what_cannot_be() -> None:
    data = digits(last=20)
    with pytest.raises(BadInput, match="0 labels of the first task"):
        Both(data.inputs, data.targets, data.classes)
    with pytest.raises(BadInput, match="no columns"):
        Both(data.inputs, data.targets, data.classes, None, data.first + 1, KINDS)
    with pytest.raises(BadInput, match="does not answer"):
        TrainedChain(chain(), ("a",), data.classes)

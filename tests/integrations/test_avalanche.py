"""The exact memory on Avalanche's own benchmarks, metrics, plugins and checkpoints, with real digits."""

from __future__ import annotations

import copy
import importlib
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of libraries that Avalanche loads
    import torch
    from avalanche.benchmarks import nc_benchmark, ni_benchmark
    from avalanche.checkpointing import maybe_load_checkpoint, save_checkpoint
    from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics, loss_metrics, timing_metrics
    from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
    from avalanche.training.supervised import Naive
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from everlearn.errors import BadInput, NotInstalled
from everlearn.evaluate.forgetting import forgetting
from everlearn.integrations.avalanche import ExactModel, ExactStrategy
from everlearn.learn.exact.fit import fit
from everlearn.model.basis import Basis
from everlearn.model.patches import Patches, Scale

pytestmark = pytest.mark.filterwarnings("ignore:No loggers specified")
ORDERS = (list(range(10)), [9, 3, 5, 1, 0, 2, 4, 8, 7, 6])
STREAM = "Top1_Acc_Stream/eval_phase/test_stream/Task000"
FORGETTING = "StreamForgetting/eval_phase/test_stream"


@pytest.fixture(scope="module")
def basis() -> Basis:
    return Basis(Patches(scales=(Scale(16, 1, 2, 6),), filters=48), dimensions=256)


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """600 real digits, (600, 1, 8, 8) in [0, 1], and their classes."""
    data = load_digits()
    return torch.tensor(data.images[:600] / 16, dtype=torch.float32)[:, None], torch.tensor(data.target[:600])


def sides(digits: tuple[torch.Tensor, torch.Tensor]) -> tuple[TensorDataset, TensorDataset]:
    x, y = digits
    test = torch.arange(len(x)) % 4 == 0
    return TensorDataset(x[~test], y[~test]), TensorDataset(x[test], y[test])


def classes_in(order: Sequence[int], digits: tuple[torch.Tensor, torch.Tensor], experiences: int = 5) -> Any:
    return nc_benchmark(*sides(digits), experiences, task_labels=False, shuffle=False, fixed_class_order=list(order))


def strategy(basis: Basis, **options: Any) -> ExactStrategy:
    evaluator = EvaluationPlugin(
        accuracy_metrics(minibatch=True, epoch=True, experience=True, stream=True),
        forgetting_metrics(experience=True, stream=True),
        loss_metrics(epoch=True, stream=True),
        timing_metrics(epoch=True, experience=True),
    )
    return ExactStrategy(backbone=basis, **{"evaluator": evaluator, **options})


def learned(basis: Basis, benchmark: Any, **options: Any) -> ExactStrategy:
    found = strategy(basis, **options)
    for experience in benchmark.train_stream:
        found.train(experience)
    return found


def direct(model: ExactModel, data: TensorDataset) -> list[bool]:
    """Whether each answer is right, by the basis and the head alone."""
    x, y = data.tensors
    images = [np.rint(one[0].numpy() * 255).astype(np.uint8) for one in x]
    head = fit(model.memory).head
    answers = np.array(head.classes)[head.scores(model.basis.phi(images)).argmax(axis=1)]
    return (answers == np.array([str(c) for c in y.tolist()])).tolist()


def test_avalanches_figures_are_ours(basis, digits):
    benchmark, mine, history = classes_in(ORDERS[1], digits), strategy(basis), []
    _, test = sides(digits)
    for step, experience in enumerate(benchmark.train_stream):
        mine.train(experience)
        figures = mine.eval(benchmark.test_stream)
        right = direct(mine.model, test)
        assert figures[STREAM] == pytest.approx(np.mean(right))
        known = {}
        for number, one in enumerate(benchmark.test_stream[: step + 1]):
            of_it = np.isin(test.tensors[1], one.classes_in_this_experience)
            known[str(number)] = float(np.mean(np.array(right)[of_it]))
            assert figures[f"Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp00{number}"] == pytest.approx(
                known[str(number)]
            )
        history.append(known)
    assert figures[STREAM] > 0.97
    ours = forgetting(history).forgetting
    assert ours is not None
    assert figures[FORGETTING] == pytest.approx(ours.value)
    assert figures["Time_Epoch/train_phase/train_stream/Task000"] > 0


def test_any_order_and_any_batches_give_the_digest_of_learning_all_at_once(basis, digits):
    at_once = learned(basis, classes_in(ORDERS[0], digits, 1))
    digests = {
        learned(basis, classes_in(order, digits, steps), train_mb_size=size).digest()
        for order, steps, size in ((ORDERS[0], 5, 64), (ORDERS[1], 5, 512), (ORDERS[1][::-1], 10, 17))
    }
    assert digests == {at_once.digest()}
    assert learned(basis, classes_in(ORDERS[0][:8], digits, 4)).digest() not in digests


def test_what_repeats_by_task_is_learned_once(basis, digits):
    train, test = sides(digits)
    few = TensorDataset(train.tensors[0][:50], train.tensors[1][:50])
    tasks = ni_benchmark(train, test, 3, task_labels=True, shuffle=False)
    mine = learned(basis, tasks)
    assert mine.memory.samples == len(train)
    mine.train(nc_benchmark(few, test, 1, task_labels=True).train_stream)
    assert mine.memory.samples == len(train) + len(few)


def test_forgetting_an_experience_leaves_the_memory_that_never_saw_it(basis, digits):
    benchmark = classes_in(ORDERS[0], digits)
    mine, never = learned(basis, benchmark), strategy(basis)
    mine.eval(benchmark.test_stream)
    mine.forget(benchmark.train_stream[2])
    for experience in (*benchmark.train_stream[:2], *benchmark.train_stream[3:]):
        never.train(experience)
    assert mine.digest() == never.digest()
    figures = mine.eval(benchmark.test_stream)
    assert figures["Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp002"] == 0
    assert figures["Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp001"] > 0.95
    with pytest.raises(BadInput, match="not held"):
        mine.forget(benchmark.train_stream[2])


def test_an_experience_that_was_learned_in_part_stays_whole(basis, digits):
    train, test = sides(digits)
    some = TensorDataset(train.tensors[0][:100], train.tensors[1][:100])
    more = TensorDataset(train.tensors[0][:160], train.tensors[1][:160])
    mine = learned(basis, nc_benchmark(some, test, 1, task_labels=False), train_mb_size=32)
    before = mine.digest()
    with pytest.raises(BadInput, match=r"not held|holds|would keep"):
        mine.forget(nc_benchmark(more, test, 1, task_labels=False).train_stream[0])
    assert mine.digest() == before


class Calls(SupervisedPlugin):  # type: ignore[misc]
    """Notes which callbacks are looked up, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith(("before_", "after_")):
            self.seen.append(name)
        return super().__getattribute__(name)


def test_plugins_are_called_as_by_avalanches_own(basis, digits):
    benchmark, mine, theirs = classes_in(ORDERS[0], digits), Calls(), Calls()
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    naive = Naive(
        model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1), train_mb_size=100, eval_mb_size=100,
        plugins=[theirs], evaluator=None,
    )  # fmt: skip
    exact = strategy(basis, plugins=[mine], train_mb_size=100, eval_mb_size=100)
    for calls in (mine, theirs):
        calls.seen.clear()
    for one in (exact, naive):
        one.train(benchmark.train_stream[0])
        one.eval(benchmark.test_stream)
    assert "before_update" in mine.seen
    assert mine.seen == theirs.seen


def test_a_batch_is_answered_before_it_is_learned(basis, digits):
    benchmark, mine = classes_in(ORDERS[0], digits), strategy(basis)
    first = mine.train(benchmark.train_stream[0])
    assert first["Loss_Epoch/train_phase/train_stream/Task000"] == pytest.approx(np.log(2))  # nothing known: a guess
    mine.eval(benchmark.test_stream)
    again = mine.train(benchmark.train_stream[0])
    assert again["Top1_Acc_Epoch/train_phase/train_stream/Task000"] > 0.95


def test_evaluation_while_training(basis, digits):
    benchmark = classes_in(ORDERS[0], digits)
    mine = strategy(basis, eval_every=0)
    figures = mine.train(benchmark.train_stream[0], eval_streams=[benchmark.test_stream])
    assert figures["Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp000"] == 1
    assert figures["Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp001"] == 0  # not learned yet, but asked about


def test_an_early_stop_is_obeyed(basis, digits):
    class Stop(SupervisedPlugin):  # type: ignore[misc]
        def after_update(self, strategy: Any, **kwargs: Any) -> None:
            strategy.stop_training()

    benchmark = classes_in(ORDERS[0], digits)
    mine = strategy(basis, plugins=[Stop()], train_mb_size=30)
    mine.train(benchmark.train_stream[0])
    assert mine.memory.samples == 30


def test_a_checkpoint_goes_on_where_it_stopped(basis, digits, tmp_path: Path):
    benchmark = classes_in(ORDERS[0], digits)
    mine = strategy(basis)
    for experience in benchmark.train_stream[:3]:
        mine.train(experience)
        mine.eval(benchmark.test_stream)
    save_checkpoint(mine, str(tmp_path / "checkpoint.pkl"))
    other, start = maybe_load_checkpoint(strategy(basis), str(tmp_path / "checkpoint.pkl"))
    assert start == 3
    for experience in benchmark.train_stream[start:]:
        other.train(experience)
    assert other.digest() == learned(basis, benchmark).digest()
    assert other.eval(benchmark.test_stream)[STREAM] > 0.97
    assert copy.deepcopy(other.model)(digits[0][:5]).argmax(1).tolist() == digits[1][:5].tolist()


def test_a_frozen_network_as_backbone(digits):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3), torch.nn.BatchNorm2d(32), torch.nn.ReLU(), torch.nn.MaxPool2d(2)
    )
    before = copy.deepcopy(network.state_dict())
    benchmark = classes_in(ORDERS[1], digits)
    mine = ExactStrategy(
        backbone=network, dimensions=256, evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[])
    )
    for experience in benchmark.train_stream:
        mine.train(experience)
    assert mine.eval(benchmark.test_stream)[STREAM] > 0.93
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        network[0].bias += 1
    other = ExactStrategy(backbone=network, dimensions=256)
    assert other.memory.basis_digest != mine.memory.basis_digest  # another network, another memory


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (torch.full((2, 1, 8, 8), 1.5), r"in \[0, 1\]"),
        (torch.full((2, 1, 8, 8), float("nan")), r"in \[0, 1\]"),
        (torch.zeros(2, 4, 8, 8), "shape"),
        (torch.zeros(2, 8), "shape"),
    ],
)
def test_what_are_no_pixels_is_refused(basis, images, match):
    with pytest.raises(BadInput, match=match):
        ExactModel(basis).phi(images)


def test_pixels_come_in_many_forms(basis, digits):
    x = digits[0][:4]
    phi = ExactModel(basis).phi(x)
    bytes_ = (x * 255).round().to(torch.uint8)
    np.testing.assert_array_equal(ExactModel(basis).phi(bytes_), phi)
    np.testing.assert_array_equal(ExactModel(basis).phi(bytes_[:, 0]), phi)
    np.testing.assert_array_equal(ExactModel(basis).phi(x.expand(-1, 3, -1, -1)), phi)
    undone = ExactModel(basis, pixels=lambda batch: (batch * 0.5 + 0.25).clamp(0, 1))
    np.testing.assert_array_equal(undone.phi((x - 0.25) / 0.5), phi)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "avalanche.training.templates", None)
    monkeypatch.delitem(sys.modules, "everlearn.integrations.avalanche")
    with pytest.raises(NotInstalled) as error:
        importlib.import_module("everlearn.integrations.avalanche")
    assert "everlearn[avalanche]" in error.value.remedy

"""The training loop: it learns, it stops where it should, and parts of a step are the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from everlearn.errors import BadConfig, BadInput, TooFew
from everlearn.learn.fit import Epoch, Fit, Quiet, Watches, fit
from everlearn.learn.network import training as fitting
from everlearn.learn.network.loading import Data
from everlearn.learn.network.recipe import Loss, Optimizer, Schedule, Stage
from everlearn.learn.network.runtime import runtime
from everlearn.model.trainable import build

SIDE = 16
ADAM = Optimizer(name="adamw", learning_rate=0.01)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def bars(rows: int, seed: int = 0, classes: int = 3) -> Data:
    """Bars that lie, stand or lean, in noise."""
    rng = np.random.default_rng(seed)
    targets = np.arange(rows) % classes
    y, x = np.mgrid[:SIDE, :SIDE]
    images = rng.normal(110, 25, (rows, SIDE, SIDE, 3))
    for row, target in enumerate(targets):
        at = rng.integers(4, 12)
        line = (y - at, x - at, (x - y) + at - 8)[target % 3]
        images[row][np.abs(line) <= 1] += 90
    return Data(images.clip(0, 255).astype(np.uint8), targets.astype(np.int64), tuple("abcdef"[:classes]))


def rows(count: int = 60, seed: int = 0, noise: float = 0.05) -> Data:
    """Numbers of a line."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(count, 4)).astype(np.float32)
    return Data(inputs, (inputs @ [1, -2, 0.5, 0] + rng.normal(0, noise, count)).astype(np.float32))


def network(norm: str = "none", classes: int = 3, seed: int = 0, width: int = 8) -> nn.Module:
    return build(f"cnn:depth=2,width={width},dropout=0,norm={norm}", classes=classes, size=SIDE, seed=seed)


TRAIN, VALIDATION = bars(60), bars(30, seed=1)


def trained(stage: Stage, net: nn.Module | None = None, **options: Any) -> tuple[nn.Module, Fit]:
    net = network() if net is None else net
    options = {"run": runtime(cpu=True), **options}
    found = fit(net, options.pop("train", TRAIN), options.pop("validation", VALIDATION), stage, **options)
    return net, found


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


class Notes(Quiet):
    def __init__(self, stop: int = 0) -> None:
        self.said: list[str] = []
        self.rates: list[float] = []
        self.found: list[Epoch] = []
        self.facts: dict[str, Any] = {}
        self.stop = stop

    def begin(self, stage: Stage, facts: dict[str, Any]) -> None:
        self.facts = facts

    def step(self, epoch: int, step: int, steps: int, loss: float, learning_rate: float) -> None:
        self.rates.append(learning_rate)

    def epoch(self, found: Epoch) -> bool | None:
        self.found.append(found)
        return found.epoch == self.stop

    def say(self, text: str) -> None:
        self.said.append(text)


# --- learning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "bce"])
def test_it_learns(loss: Any) -> None:
    stage = Stage(epochs=8, batch_size=10, optimizer=ADAM, loss=Loss(name=loss), schedule=Schedule(name="one_cycle"))
    notes = Notes()
    _, found = trained(stage, network("batch"), watch=notes)
    assert found.val_accuracy >= 0.9
    assert [one.epoch for one in found.history] == list(range(1, 9))
    assert found.history[-1].train_loss < found.history[0].train_loss / 2
    assert found.stopped == "epochs"
    assert notes.facts["steps"] == 6
    assert len(notes.rates) == 48
    assert notes.found == found.history
    assert all(one.images_per_second > 0 for one in found.history)


def test_it_learns_numbers() -> None:
    stage = Stage(epochs=40, batch_size=15, loss=Loss(name="huber"), optimizer=Optimizer(learning_rate=0.05))
    _, found = trained(stage, nn.Linear(4, 1), train=rows(), validation=rows(seed=1))
    assert found.val_accuracy > 0.98, "R²"
    assert math.isnan(found.history[0].train_accuracy)


def test_it_learns_several_labels_at_once() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(90, 4)).astype(np.float32)
    data = Data(inputs, (inputs[:, :3] > 0).astype(np.float32), ("a", "b", "c"))
    stage = Stage(epochs=30, batch_size=15, loss=Loss(name="bce"), optimizer=Optimizer(learning_rate=0.1))
    _, found = trained(stage, nn.Linear(4, 3), train=data.some(np.arange(60)), validation=data.some(np.arange(60, 90)))
    assert found.val_accuracy > 0.95
    with pytest.raises(BadInput, match="bce"):
        trained(Stage(), nn.Linear(4, 3), train=data, validation=data)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_one_step_is_that_of_torch(name: Any) -> None:
    """One batch, by hand: forward, loss, backward, update."""
    stage = Stage(epochs=1, batch_size=60, optimizer=Optimizer(name=name, learning_rate=0.01, weight_decay=0),
                  schedule=Schedule(name="constant"))  # fmt: skip
    net = network()
    by_hand, settings = (
        network(),
        {"sgd": {"momentum": 0.9}, "rmsprop": {"momentum": 0.9}, "adamw": {"weight_decay": 0}},
    )
    made = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
    }
    optimizer = made[name](by_hand.parameters(), lr=0.01, **settings.get(name, {}))
    images = torch.from_numpy(TRAIN.inputs).permute(0, 3, 1, 2).float() / 255
    loss = nn.functional.cross_entropy(by_hand(images), torch.from_numpy(TRAIN.targets))
    loss.backward()
    optimizer.step()
    _, found = trained(stage, net)
    assert apart(found.last, weights(by_hand)) < 1e-5
    assert found.history[0].train_loss == pytest.approx(loss.item(), rel=1e-5)


# --- determinism and parts --------------------------------------------------------------------------------------------


def full(**changes: Any) -> Stage:
    return Stage(**{"epochs": 3, "batch_size": 12, "optimizer": ADAM, "ema": 0.9, "dropout": 0.3, "clip": 1.0,
                    "sampling": "balanced", "schedule": Schedule(warmup_epochs=1), **changes})  # fmt: skip


def dropping() -> nn.Module:
    net = network("batch")
    net.set_dropout(0.3)  # type: ignore[operator]
    return net


def test_the_same_seed_gives_the_same_bits() -> None:
    one, first = trained(full(), dropping(), seed=4)
    torch.manual_seed(99)  # what others draw
    torch.rand(1000)
    two, second = trained(full(), dropping(), seed=4)
    assert equal(weights(one), weights(two))
    assert equal(first.last, second.last)
    assert [one.val_loss for one in first.history] == [one.val_loss for one in second.history]
    _, other = trained(full(), dropping(), seed=5)
    assert not equal(first.last, other.last)


def test_what_others_draw_is_left_alone() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    trained(full(epochs=1))
    assert torch.equal(torch.rand(3), wanted)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("at", [1, 5, 7, 11])
@pytest.mark.parametrize(
    "changes", [{}, {"schedule": Schedule(name="plateau", patience=0), "snapshots": 1, "ema": 0.0}]
)
def test_going_on_from_any_state_gives_the_same_bits(at: int, changes: dict[str, Any], tmp_path: Any) -> None:
    """The state is written and read as a checkpoint is."""
    from everlearn.learn.network import checkpoint

    _, whole = trained(full(**changes), dropping(), seed=2)
    steps = 0

    def keep(state: Callable[[], dict[str, Any]], ended: bool) -> None:
        nonlocal steps
        steps += 1
        if steps == at:
            checkpoint.save(tmp_path / "state.pt", state())
            raise Stopped

    with pytest.raises(Stopped):
        trained(full(**changes), dropping(), seed=2, keep=keep)
    again = build("cnn:depth=2,width=8,dropout=0.3,norm=batch", classes=3, size=SIDE, seed=77)  # other weights
    net, found = trained(full(**changes), again, seed=2, saved=checkpoint.load(tmp_path / "state.pt"))
    assert equal(found.last, whole.last)
    assert equal(found.best, whole.best)
    assert equal(weights(net), whole.best)
    assert [one.val_loss for one in found.history] == [one.val_loss for one in whole.history]
    assert [one.train_loss for one in found.history] == [one.train_loss for one in whole.history]


@pytest.mark.parametrize("weighted", [False, True])
def test_accumulated_batches_are_one_large_batch(weighted: bool) -> None:
    """Up to rounding, where no norm looks at a batch."""
    loss = Loss(class_weights=weighted)
    uneven = TRAIN.some(np.arange(60)[np.r_[0:60:3, 1:30:3]])
    settings: dict[str, Any] = {"epochs": 2, "optimizer": Optimizer(name="sgd", learning_rate=0.05), "loss": loss}
    _, whole = trained(Stage(batch_size=12, **settings), train=uneven)
    _, parts = trained(Stage(batch_size=4, accumulate=3, **settings), train=uneven)
    assert apart(whole.last, parts.last) < 1e-6
    assert apart(whole.last, weights(network())) > 1e-3, "it has moved"
    assert parts.history[0].train_loss == pytest.approx(whole.history[0].train_loss, rel=1e-5)


def test_clip_bounds_the_step() -> None:
    """Plain gradient descent moves by rate x gradient, which is at most `clip` long."""
    begun = weights(network())
    for clip in (0.01, None):
        settings = Optimizer(name="sgd", learning_rate=1.0, momentum=0, weight_decay=0)
        stage = Stage(epochs=1, batch_size=60, optimizer=settings, schedule=Schedule(name="constant"), clip=clip)
        _, found = trained(stage)
        moved = math.sqrt(
            sum(float(((found.last[name] - begun[name]) ** 2).sum()) for name, _ in network().named_parameters())
        )
        assert (moved == pytest.approx(0.01, rel=1e-3)) if clip else (moved > 0.02)


class Small(nn.Module):
    """A GPU that has room for `most` images at once."""

    def __init__(self, most: int, norm: str = "none") -> None:
        super().__init__()
        self.inner, self.most, self.largest = network(norm), most, 0

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        self.largest = max(self.largest, len(images))
        found: Tensor = self.inner(images)
        return found


def test_a_full_gpu_takes_a_step_in_parts() -> None:
    """Simulated: the network raises what torch raises. The step is as large as before, so the weights are the same."""
    stage = Stage(epochs=2, batch_size=24, optimizer=Optimizer(name="sgd", learning_rate=0.05))
    notes = Notes()
    net, found = trained(stage, Small(7), watch=notes)
    plain, whole = trained(stage)
    assert apart(weights(net.inner), weights(plain)) < 1e-6  # type: ignore[arg-type]
    assert net.largest == 6
    assert len(notes.said) == 2, "once for each halving: 24, 12, 6"
    assert "12 at a time" in notes.said[0]
    assert "6 at a time" in notes.said[1]
    assert found.history[0].train_loss == pytest.approx(whole.history[0].train_loss, rel=1e-5)
    assert found.history[0].train_accuracy == whole.history[0].train_accuracy, "no image is counted twice"


def test_a_gpu_too_small_for_one_image_is_said() -> None:
    with pytest.raises(BadConfig, match="1 images") as error:
        trained(Stage(epochs=1, batch_size=4), Small(0))
    assert "size" in error.value.remedy


# --- stopping and keeping ---------------------------------------------------------------------------------------------


def test_patience_stops_and_the_best_weights_are_kept() -> None:
    """A rate that is far too high after a good beginning: later epochs are worse."""
    stage = Stage(
        epochs=50, batch_size=10, patience=2, optimizer=ADAM, schedule=Schedule(name="constant"), select="loss"
    )
    net, found = trained(stage, network("batch"))
    assert found.stopped == "patience"
    assert len(found.history) == found.best_epoch + 2 < 50
    losses = [one.val_loss for one in found.history]
    assert found.val_loss == min(losses) == losses[found.best_epoch - 1]
    assert equal(weights(net), found.best)
    assert not equal(found.best, found.last)
    from everlearn.learn.network.judging import judge
    from everlearn.learn.network.losses import criterion

    again = judge(net, VALIDATION, criterion(Loss()), runtime(cpu=True))
    assert (again.loss, again.accuracy) == (found.val_loss, found.val_accuracy), "what it has is what was judged"


def test_somebody_may_ask_to_stop() -> None:
    other = Notes()
    _, found = trained(Stage(epochs=9, batch_size=20), watch=Watches(Notes(stop=2), other))
    assert (found.stopped, len(found.history), len(other.found)) == ("asked", 2, 2)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_loss_that_is_no_number(ema: float) -> None:
    """Of the first epoch the weights are good; then the rate explodes."""

    class Explodes(fitting.Rate):
        def at(self, step: int) -> float:
            return 1.0 if step < 6 else 1e12

    notes = Notes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "Rate", Explodes)
        stage = Stage(epochs=5, batch_size=10, optimizer=Optimizer(name="sgd", learning_rate=0.02), ema=ema)
        net, found = trained(stage, watch=notes)
    assert found.stopped == "diverged"
    assert found.best_epoch == 1
    assert len(notes.said) == 1
    assert "no number" in notes.said[0]
    assert "epoch 2" in notes.said[0]
    assert "learning_rate" in notes.said[0]
    assert all(torch.isfinite(one).all() for one in found.best.values())
    assert equal(weights(net), found.best)


def test_a_loss_that_is_no_number_from_the_beginning() -> None:
    begun = weights(network())
    net, found = trained(Stage(epochs=3, batch_size=10, optimizer=Optimizer(name="sgd", learning_rate=1e12)))
    assert (found.stopped, found.best_epoch) == ("diverged", 0)
    assert equal(weights(net), begun), "the weights are those it began with"


def test_ema_is_the_average_of_the_weights() -> None:
    seen: list[dict[str, Tensor]] = []

    def keep(state: Callable[[], dict[str, Any]], ended: bool) -> None:
        if not ended:
            seen.append(state()["network"])

    _, found = trained(Stage(epochs=2, batch_size=20, optimizer=ADAM, ema=0.8), keep=keep)
    mean = seen[0]
    for count, now in enumerate(seen[1:], 1):
        decay = min(0.8, (1 + count) / (10 + count))
        mean = {name: decay * mean[name] + (1 - decay) * now[name] for name in now}
    assert apart(found.last, mean) < 1e-6
    assert apart(found.last, seen[-1]) > 1e-4


def test_snapshots_are_the_ends_of_cycles() -> None:
    ends: list[dict[str, Tensor]] = []
    stage = Stage(epochs=6, batch_size=20, optimizer=ADAM, snapshots=3)
    _, found = trained(stage, keep=lambda state, ended: ends.append(state()["network"]) if ended else None)
    assert len(found.snapshots) == 3
    assert all(equal(one, ends[at]) for one, at in zip(found.snapshots, (1, 3, 5), strict=True))


@pytest.mark.parametrize("part", ["backbone", "half"])
def test_what_is_frozen_stays(part: str) -> None:
    net = network("batch")
    before = weights(net)
    net.freeze(part)  # type: ignore[operator]
    notes = Notes()
    trained(Stage(epochs=2, batch_size=20, optimizer=ADAM, freeze=part), net, watch=notes)  # type: ignore[arg-type]
    frozen = {name for name, one in net.named_parameters() if not one.requires_grad}
    moved = {name for name, value in weights(net).items() if not torch.equal(value, before[name])}
    assert frozen
    assert not frozen & moved
    assert {"head.weight", "head.bias"} <= moved
    assert notes.facts["trained"] == sum(one.numel() for one in net.parameters() if one.requires_grad)
    if part == "backbone":
        assert all(name.startswith("head.") for name in moved), "the norms' statistics stay as well"


# --- what cannot be ---------------------------------------------------------------------------------------------------


def test_too_few_images() -> None:
    nothing = TRAIN.some(np.arange(0))
    with pytest.raises(TooFew, match="validation"):
        trained(Stage(epochs=1), validation=nothing)
    with pytest.raises(TooFew, match="1 training"):
        trained(Stage(epochs=1), train=TRAIN.some(np.arange(1)))


@pytest.mark.parametrize("sampling", ["natural", "balanced", "over", "under"])
def test_a_class_with_one_image(sampling: Any) -> None:
    few = TRAIN.some(np.r_[0:60:3, 1:60:3, 2])
    stage = Stage(epochs=1, batch_size=8, sampling=sampling, loss=Loss(class_weights=True))
    _, found = trained(stage, network("batch"), train=few)
    assert math.isfinite(found.val_loss)


def test_a_class_without_an_image() -> None:
    few = TRAIN.some(np.r_[0:60:3, 1:60:3])
    _, found = trained(Stage(epochs=1, batch_size=8, sampling="over", loss=Loss(class_weights=True)), train=few)
    assert math.isfinite(found.val_loss)


def test_losses_must_fit_the_targets() -> None:
    with pytest.raises(BadInput, match="cross_entropy, focal or bce"):
        trained(Stage(loss=Loss(name="mse")))
    with pytest.raises(BadInput, match="mse, mae or huber"):
        trained(Stage(), nn.Linear(4, 1), train=rows(), validation=rows())


def test_a_state_of_another_network_is_refused() -> None:
    states: list[dict[str, Any]] = []
    trained(Stage(epochs=1, batch_size=20), keep=lambda state, ended: states.append(state()))
    with pytest.raises(BadInput, match="training cannot go on"):
        trained(Stage(epochs=1, batch_size=20), network(width=12), saved=states[0])

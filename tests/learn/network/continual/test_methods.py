from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from everlearn.errors import BadInput
from everlearn.learn.fit import fit
from everlearn.learn.network.continual.derpp import DerPlusPlus
from everlearn.learn.network.continual.ewc import Ewc, fisher
from everlearn.learn.network.continual.experiences import Learned, learn_experiences, learn_one, together
from everlearn.learn.network.continual.lwf import Lwf, distilled
from everlearn.learn.network.continual.method import answers, pixels, shown
from everlearn.learn.network.continual.naive import Naive
from everlearn.learn.network.continual.replay import Replay
from everlearn.learn.network.continual.reservoir import Reservoir, budget_for
from everlearn.learn.network.loading import Data
from everlearn.learn.network.recipe import Optimizer, Schedule, Stage
from everlearn.model.trainable import build

CLASSES = tuple("0123456789")
SHAPE = (8, 8, 3)
STAGE = Stage(
    epochs=4, batch_size=32, schedule=Schedule(name="constant"),
    optimizer=Optimizer(name="sgd", learning_rate=0.1, momentum=0, weight_decay=0),
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def steps() -> tuple[list[Data], list[Data]]:
    """Ten digits in five steps of two: what is learned, and what is asked."""
    digits = load_digits()
    x = np.repeat((digits.images * 15.9).astype(np.uint8)[..., None], 3, axis=3)
    y = digits.target.astype(np.int64)
    sides = [np.arange(len(y)) % 3 > 0, np.arange(len(y)) % 3 == 0]
    rows = [[np.flatnonzero(side & (y // 2 == step)) for step in range(5)] for side in sides]
    train, test = ([Data(x[some], y[some], CLASSES) for some in side] for side in rows)
    return train, test


def network(outputs: int = 10, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 48), nn.ReLU(), nn.Linear(48, outputs))


def reservoir(folder, samples: int = 100, width: int = 10) -> Reservoir:
    return Reservoir(folder, budget_for(samples, SHAPE, width=width), SHAPE)


def test_replay_keeps_what_plain_training_forgets_and_joint_training_is_above(tmp_path, steps):
    train, test = steps
    found = {
        "naive": learn_experiences(network(), train, test, STAGE),
        "replay": learn_experiences(network(), train, test, STAGE, Replay(reservoir(tmp_path / "a"))),
        "der++": learn_experiences(network(), train, test, STAGE, DerPlusPlus(reservoir(tmp_path / "b"))),
        "joint": learn_experiences(network(), train, test, STAGE, joint=True),
    }
    assert found["naive"].final < 0.3
    assert found["naive"].forgetting > 0.8
    for name in ("replay", "der++"):
        assert found[name].final > 0.75
        assert found[name].forgetting < 0.2
    assert found["joint"].final > max(found["replay"].final, found["der++"].final) - 0.02
    for one in found.values():
        assert one.accuracy[0, 0] > 0.95
        assert np.isnan(one.accuracy[np.triu_indices(5, 1)]).all()
        assert (one.seconds > 0).all()


def test_the_prior_is_what_keeps_new_classes_from_taking_over(tmp_path, steps):
    train, test = steps
    by = {
        prior: learn_experiences(network(), train, test, STAGE, Replay(reservoir(tmp_path / str(prior)), prior=prior))
        for prior in (True, False)
    }
    assert by[True].forgetting < by[False].forgetting


def test_accuracy_and_forgetting_are_as_defined():
    nan = np.nan
    found = Learned(np.array([[0.9, nan, nan], [0.5, 0.8, nan], [0.6, 0.2, 1.0]]), np.ones(3))
    assert found.final == pytest.approx(0.6)
    assert found.forgetting == pytest.approx(((0.9 - 0.6) + (0.8 - 0.2)) / 2)
    assert Learned(np.array([[0.9]]), np.ones(1)).forgetting == 0


def test_the_epoch_that_is_best_on_all_seen_so_far_is_kept(steps):
    train, test = steps
    net = network()
    kept = learn_one(net, train[0], test[0], STAGE, Naive())
    right = answers(net, shown(test[0])).argmax(1).numpy() == test[0].targets
    assert kept.val_accuracy == max(one.val_accuracy for one in kept.history) == pytest.approx(right.mean())


def test_every_held_image_is_drawn_as_often_and_a_draw_follows_from_its_turn(tmp_path, steps):
    method = Replay(reservoir(tmp_path, 60, 0), batch=16)
    method.after(network(), steps[0][0])
    method.before(network(), steps[0][1])
    drawn = [method.draw(turn) for turn in range(15)]
    assert np.bincount(np.concatenate(drawn)).tolist() == [4] * 60
    assert all(len(set(one.tolist())) > 12 for one in drawn)
    again = Replay(reservoir(tmp_path, 60, 0), batch=16)
    again.restore(method.state())
    for turn in (14, 3, 7):  # in any order, in another process
        assert np.array_equal(again.draw(turn), drawn[turn])
    found = method.replay(16, 3)
    assert np.array_equal(found.targets, method.reservoir.targets[drawn[3]])
    assert len(Replay(method.reservoir, batch=1000).draw(0)) == 60


def test_nothing_is_replayed_before_anything_is_held(tmp_path, steps):
    method = DerPlusPlus(reservoir(tmp_path))
    method.before(network(), steps[0][0])
    assert method.replay(8, 0) is None
    logits, targets = torch.randn(4, 10), torch.tensor([0, 1, 0, 1])
    assert torch.equal(method.loss(torch.zeros(4, 3, 8, 8), targets, logits, 4, F.cross_entropy),
                       F.cross_entropy(logits, targets))  # fmt: skip


def test_the_loss_of_replay_adds_the_log_of_each_class_share(tmp_path):
    method = Replay(reservoir(tmp_path, 4, 0), prior=True)
    x = np.random.default_rng(0).integers(0, 256, (8, *SHAPE), np.uint8)
    method.after(network(), Data(x[:4], np.array([0, 0, 1, 1]), CLASSES[:2]))
    method.before(network(), Data(x[4:], np.array([2, 2, 2, 1]), CLASSES[:3]))
    logits, targets = torch.randn(6, 4), torch.tensor([2, 2, 2, 1, 0, 1])
    p = torch.tensor([2 / 6 * 0.5, 4 / 6 * 0.25 + 2 / 6 * 0.5, 4 / 6 * 0.75])
    p = torch.cat([p, p.min()[None]])  # a class without an image
    wanted = F.cross_entropy(logits + p.log(), targets)
    assert torch.allclose(method.loss(torch.zeros(6), targets, logits, 4, F.cross_entropy), wanted)
    plain = Replay(method.reservoir, prior=False)
    plain.before(network(), Data(x[4:], np.array([2, 2, 2, 1]), CLASSES[:3]))
    assert torch.equal(
        plain.loss(torch.zeros(6), targets, logits, 4, F.cross_entropy), F.cross_entropy(logits, targets)
    )


def test_the_loss_of_derpp_is_its_equation(tmp_path, steps):
    train, _ = steps
    net = network()
    method = DerPlusPlus(reservoir(tmp_path, 40), alpha=0.3, beta=0.7, prior=False)
    method.after(net, train[0])
    method.before(net, train[1])
    old = method.replay(8, 0)
    images = torch.cat([pixels(train[1].inputs[:8]), pixels(old.inputs)])
    targets = torch.cat([torch.from_numpy(train[1].targets[:8]), torch.from_numpy(old.targets)])
    other = network(seed=1)
    logits = other(images)
    noted = net(pixels(old.inputs)).half().float()
    wanted = (
        F.cross_entropy(logits[:8], targets[:8])
        + 0.3 * F.mse_loss(logits[8:], noted)
        + 0.7 * F.cross_entropy(logits[8:], targets[8:])
    )
    assert torch.allclose(method.loss(images, targets, logits, 8, F.cross_entropy), wanted, rtol=1e-4)


def test_a_head_that_grows_gets_its_new_columns_noted_with_the_experience_that_brought_them(tmp_path, steps):
    train, _ = steps
    net = build("cnn:depth=1,width=8,head=cosine", classes=2, size=8)
    method = DerPlusPlus(reservoir(tmp_path, 50))
    method.after(net, train[0])
    assert method.reservoir.logits.shape[1] == 2
    before = answers(net, shown(train[1])[:5])
    net.grow(4)
    assert torch.equal(answers(net, shown(train[1])[:5])[:, :2], before)  # what is known stays as it is
    method.before(net, train[1])
    old = method.replay(4, 0)
    loss = method.loss(torch.empty(0), torch.tensor([2, 3, *old.targets]), torch.zeros(2 + len(old.targets), 4), 2,
                       F.cross_entropy)  # fmt: skip
    assert torch.isfinite(loss)
    noted = dict(zip(method.reservoir.keys, method.reservoir.logits, strict=True))
    method.after(net, train[1])
    assert method.reservoir.logits.shape[1] == 4
    assert not np.isnan(method.reservoir.logits).any()
    for key, row in zip(method.reservoir.keys, method.reservoir.logits, strict=True):
        if key in noted:
            assert np.array_equal(row[:2], noted[key])


def test_lwf_holds_what_is_said_of_the_old_columns_alone():
    net = network()
    method = Lwf(alpha=2.0, temperature=2.0)
    x = torch.rand(6, 3, 8, 8)
    data = Data(np.zeros((6, *SHAPE), np.uint8), np.array([0, 1, 2, 0, 1, 2]), CLASSES)
    method.before(net, data)
    targets = torch.tensor([3, 4, 3, 4, 3, 4])
    logits = net(x)
    assert torch.equal(method.loss(x, targets, logits, 6, F.cross_entropy), F.cross_entropy(logits, targets))
    method.after(net, data)
    said = net(x).detach()
    method.before(net, Data(data.inputs, data.targets + 3, CLASSES))
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    logits = net(x)
    p = F.softmax(said[:, :3] / 2, 1)
    wanted = 4 * (p * (p.log() - F.log_softmax(logits[:, :3] / 2, 1))).sum(1).mean()
    of_new = F.cross_entropy(logits[:, 3:], targets - 3)
    found = method.loss(x, targets, logits, 6, F.cross_entropy) - of_new
    assert torch.allclose(found, 2.0 * wanted, atol=1e-5)
    assert float(distilled(said, said, 2.0)) == pytest.approx(0, abs=1e-6)


def test_lwf_forgets_less_than_plain_training(steps):
    train, test = steps
    plain, held = (
        learn_experiences(network(), train[:2], test[:2], STAGE, method) for method in (None, Lwf(alpha=5.0))
    )
    assert held.accuracy[1, 0] > plain.accuracy[1, 0]


def test_ewc_estimates_the_fisher_matrix_and_holds_what_mattered():
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2, bias=False))
    with torch.no_grad():
        net[1].weight.zero_()
    x = np.random.default_rng(0).integers(0, 256, (400, *SHAPE), np.uint8)
    data = Data(x, np.zeros(400, np.int64), CLASSES[:2])
    found = fisher(net, data, 400)["1.weight"]
    exact = pixels(x).flatten(1).square().mean(0) * 0.25  # x^2 p (1 - p), here the same for every answer
    assert torch.allclose(found, exact.expand(2, -1), rtol=1e-4)
    method = Ewc(strength=10.0, samples=50)
    method.after(net, data)
    method.before(net, data)
    logits, targets = torch.randn(4, 2), torch.tensor([0, 1, 0, 1])
    plain = F.cross_entropy(logits, targets)
    assert torch.equal(method.loss(torch.empty(0), targets, logits, 4, F.cross_entropy), plain)
    with torch.no_grad():
        net[1].weight += 0.5
    extra = method.loss(torch.empty(0), targets, logits, 4, F.cross_entropy) - plain
    assert extra.item() == pytest.approx(10 / 2 * 0.25 * float(method.importance["1.weight"].sum()), rel=1e-4)


def test_ewc_goes_on_from_its_state_with_a_head_that_has_grown(steps):
    train, _ = steps
    net = build("cnn:depth=1,width=8", classes=2, size=8)
    method = Ewc(samples=20)
    method.after(net, train[0])
    again = Ewc(samples=20)
    again.restore(method.state())
    net.grow(4)
    again.before(net, train[1])
    logits, targets = torch.zeros(2, 4), torch.tensor([2, 3])
    assert torch.isfinite(again.loss(torch.empty(0), targets, logits, 2, F.cross_entropy))
    before = method.importance["head.weight"]
    again.after(net, train[1])
    assert again.importance["head.weight"].shape[0] == 4
    assert (again.importance["head.weight"][:2] >= before).all()
    assert again.known == {0, 1, 2, 3}


@pytest.mark.parametrize("kind", ["replay", "der++", "lwf", "ewc"])
def test_a_killed_experience_goes_on_to_the_same_bits(tmp_path, steps, kind):
    train, test = steps
    start = network()
    first = {"replay": Replay, "der++": DerPlusPlus, "lwf": lambda _: Lwf(), "ewc": lambda _: Ewc(samples=20)}[kind]
    method = first(reservoir(tmp_path))
    learn_one(start, train[0], None, STAGE, method)
    state = copy.deepcopy(dict(method.state()))

    def run(saved=None, keep=None):
        net, again = copy.deepcopy(start), first(reservoir(tmp_path))
        again.restore(state)
        again.before(net, train[1])
        fit(net, train[1], test[1], STAGE, method=again, saved=saved, keep=keep)
        return net.state_dict()

    class Stop(Exception):
        pass

    saved = []

    def stop(made, ended):
        saved.append(copy.deepcopy(made()))
        if len(saved) == 11:
            raise Stop

    with pytest.raises(Stop):
        run(keep=stop)
    whole, resumed = run(), run(saved=saved[-1])
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_data_that_lies_elsewhere_is_read_by_its_rows(tmp_path, steps):
    train, test = steps
    x = np.concatenate([shown(one) for one in train])
    ends = np.cumsum([len(one) for one in train])
    parts = [
        Data(x, one.targets, CLASSES, np.arange(end - len(one), end)) for one, end in zip(train, ends, strict=True)
    ]
    assert np.array_equal(shown(together(parts)), x)
    found = [
        learn_experiences(network(), some[:2], test[:2], STAGE, DerPlusPlus(reservoir(tmp_path / name)))
        for name, some in (("plain", train), ("elsewhere", parts))
    ]
    assert np.array_equal(found[0].accuracy, found[1].accuracy, equal_nan=True)


def test_what_does_not_match_is_refused(steps):
    train, test = steps
    with pytest.raises(BadInput, match="4 tests"):
        learn_experiences(network(), train, test[:4], STAGE)
    with pytest.raises(BadInput, match="joint"):
        learn_experiences(network(), train, test, STAGE, Lwf(), joint=True)

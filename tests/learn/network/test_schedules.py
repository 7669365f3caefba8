"""Schedules, value by value, and against torch's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from everlearn.learn.network.optimizers import optimizer
from everlearn.learn.network.recipe import Optimizer, Schedule
from everlearn.learn.network.schedules import Rate


def rates(steps: int, epochs: int, cycles: int = 1, **settings: Any) -> list[float]:
    rate = Rate(Schedule(**settings), steps, epochs, cycles)
    return [rate.at(step) for step in range(steps * epochs)]


def of_torch(kind: Any, steps: int, **options: Any) -> list[float]:
    made = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, found = kind(made, **options), []
    for _ in range(steps):
        found.append(float(made.param_groups[0]["lr"]))
        made.step()
        schedule.step()
    return found


def test_constant() -> None:
    assert rates(4, 2, name="constant") == [1.0] * 8


def test_cosine_is_that_of_torch() -> None:
    wanted = of_torch(torch.optim.lr_scheduler.CosineAnnealingLR, 20, T_max=20, eta_min=0.1)
    assert rates(5, 4, name="cosine", final=0.1) == pytest.approx(wanted)


def test_step_is_that_of_torch() -> None:
    wanted = of_torch(torch.optim.lr_scheduler.StepLR, 18, step_size=6, gamma=0.5)
    assert rates(3, 6, name="step", step_epochs=2, factor=0.5) == pytest.approx(wanted)


def test_one_cycle_rises_for_three_tenths_and_falls() -> None:
    found = rates(10, 10, name="one_cycle", final=0.01)
    assert found[0] == pytest.approx(0.04)
    assert found.index(max(found)) == 30
    assert max(found) == 1.0
    assert found[:31] == sorted(found[:31])
    assert found[30:] == sorted(found[30:], reverse=True)
    assert found[-1] == pytest.approx(0.01, abs=2e-3)
    assert found[65] == pytest.approx((1 + 0.01) / 2, abs=1e-9), "half-way down"


def test_warm_up_rises_evenly_and_then_the_schedule_begins() -> None:
    found = rates(4, 5, name="cosine", warmup_epochs=1, final=0.0)
    assert found[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert found[4:] == pytest.approx([(1 + math.cos(math.pi * step / 16)) / 2 for step in range(16)])
    assert rates(4, 2, name="constant", warmup_epochs=0.5)[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert all(0 < rate <= 1 for rate in rates(4, 2, name="cosine", warmup_epochs=9)), "longer than the stage"


def test_cycles_begin_anew() -> None:
    found = rates(4, 6, cycles=3, name="cosine", final=0.0)
    assert found[0:8] == found[8:16] == found[16:24]
    assert found[8] == 1.0 > found[7]


def test_plateau_cuts_where_nothing_falls() -> None:
    rate = Rate(Schedule(name="plateau", patience=2, factor=0.5), 3, 20)
    seen = []
    for loss in (1.0, 0.9, 0.95, 0.92, 0.91, 0.91, 0.91, 0.91, 0.5, 0.5):
        seen.append(rate.at(0))
        rate.judged(loss)
    assert seen == [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25]
    again = Rate(rate.schedule, 3, 20)
    again.load_state_dict(rate.state_dict())
    assert again == rate


def network() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    )


@pytest.mark.parametrize(
    ("settings", "kind", "has"),
    [
        ({"name": "sgd", "momentum": 0.8, "nesterov": True}, torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
        ({"name": "sgd", "momentum": 0.0, "nesterov": True}, torch.optim.SGD, {"momentum": 0.0, "nesterov": False}),
        ({"name": "adam"}, torch.optim.Adam, {}),
        ({"name": "adamw"}, torch.optim.AdamW, {}),
        ({"name": "rmsprop", "momentum": 0.5}, torch.optim.RMSprop, {"momentum": 0.5}),
    ],
)
def test_optimizers(settings: dict[str, Any], kind: type, has: dict[str, Any]) -> None:
    """Matrices decay; biases and norms do not; what is frozen is left out; n processes take n times the rate."""
    net = network()
    net[0].weight.requires_grad_(False)  # type: ignore[union-attr,operator]
    made = optimizer(net, Optimizer(learning_rate=0.1, weight_decay=0.3, **settings), processes=3)
    assert type(made) is kind
    decays, rest = made.param_groups
    assert (decays["weight_decay"], rest["weight_decay"]) == (0.3, 0.0)
    assert [tuple(one.shape) for one in decays["params"]] == [(2, 4)]
    assert sorted(one.numel() for one in rest["params"]) == [2, 4, 4, 4]
    for group in made.param_groups:
        assert group["lr"] == pytest.approx(0.3)
        assert {name: group[name] for name in has} == has

"""Schedules: the learning rate at each step, as a share of its highest. All but plateau are functions of the step
alone, so a resumed run needs to know nothing but the step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from everlearn.learn.network.recipe import Schedule


@dataclass
class Rate:
    """The learning rate of a stage. steps: in an epoch; epochs: of the stage; cycles: how often it starts anew.

    lowest, waited, cut: what plateau remembers; they go into checkpoints.
    """

    schedule: Schedule
    steps: int
    epochs: int
    cycles: int = 1
    lowest: float = field(default=math.inf)
    waited: int = 0
    cut: float = 1.0

    def at(self, step: int) -> float:
        """step: from the beginning of the stage; of `steps` x `epochs`."""
        total = max(1, self.steps * self.epochs)
        length = math.ceil(total / self.cycles)
        here, warm = step % length, min(round(self.schedule.warmup_epochs * self.steps), length - 1)
        if here < warm:
            return (here + 1) / (warm + 1)
        done = (here - warm) / max(1, length - warm)  # 0 ... 1
        name, final = self.schedule.name, self.schedule.final
        if name == "cosine":  # Loshchilov & Hutter 2017, eq. 5 (arXiv:1608.03983)
            return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2
        if name == "one_cycle":  # Smith & Topin 2018 (arXiv:1708.07120): up for 30 % of the steps, then down
            return _one_cycle(done, final)
        if name == "step":
            return float(self.schedule.factor ** ((step - warm) // (self.steps * self.schedule.step_epochs)))
        return self.cut if name == "plateau" else 1.0

    def judged(self, loss: float) -> None:
        """After an epoch: plateau cuts the rate where the validation loss has not fallen for `patience` epochs."""
        if self.schedule.name != "plateau":
            return
        if loss < self.lowest * (1 - 1e-4):
            self.lowest, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > self.schedule.patience:
            self.cut, self.waited = self.cut * self.schedule.factor, 0

    def state_dict(self) -> dict[str, Any]:
        return {"lowest": self.lowest, "waited": self.waited, "cut": self.cut}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.lowest, self.waited, self.cut = float(state["lowest"]), int(state["waited"]), float(state["cut"])


def _one_cycle(done: float, final: float, rising: float = 0.3, first: float = 0.04) -> float:
    if done < rising:
        return first + (1 - first) * (1 - math.cos(math.pi * done / rising)) / 2
    return final + (1 - final) * (1 + math.cos(math.pi * (done - rising) / (1 - rising))) / 2

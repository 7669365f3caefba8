"""What a training tells while it goes, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from everlearn.learn.network.recipe import Stage

Weights = dict[str, Tensor]
Stopped = Literal["epochs", "patience", "diverged", "asked"]
"""Why a stage ended: all epochs done, no better one for `patience`, a loss that is no number, or somebody asked."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the training images, and what the network was worth after it. epoch: from 1.

    train_loss, train_accuracy: of the steps, as augmented and regularised. val_loss: the plain loss, the same in all
    stages. val_accuracy: of numbers R². learning_rate: at the last step. seconds: with judging.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True, eq=False)
class Fit:
    """What came of a stage. The network holds the best weights, `best`; `last` are those of the last step.

    best_epoch: from 1; 0 where no epoch was finished. snapshots: the weights at the end of each cycle of the schedule.
    """

    history: list[Epoch]
    best_epoch: int
    val_loss: float
    val_accuracy: float
    seconds: float
    stopped: Stopped
    best: Weights
    last: Weights
    snapshots: list[Weights] = field(default_factory=list)


class Watch(Protocol):
    """Whoever looks on: a terminal, trackers, a search that prunes."""

    def begin(self, stage: Stage, facts: dict[str, Any]) -> None: ...
    def step(self, epoch: int, step: int, steps: int, loss: float, learning_rate: float) -> None: ...
    def epoch(self, found: Epoch) -> bool | None:
        """True: stop after this epoch."""
        ...

    def end(self, found: Fit) -> None: ...
    def say(self, text: str) -> None: ...


class Quiet:
    """A watch that nobody keeps."""

    def begin(self, stage: Stage, facts: dict[str, Any]) -> None:
        pass

    def step(self, epoch: int, step: int, steps: int, loss: float, learning_rate: float) -> None:
        pass

    def epoch(self, found: Epoch) -> bool | None:
        return None

    def end(self, found: Fit) -> None:
        pass

    def say(self, text: str) -> None:
        pass


QUIET = Quiet()


class Says(Quiet):
    """Passes on what is said: how each stage ended, and what went wrong. say: where to."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def say(self, text: str) -> None:
        self._say(text)


class Watches:
    """Several at once. One that asks to stop is enough."""

    def __init__(self, *watches: Watch) -> None:
        self._watches = watches

    def begin(self, stage: Stage, facts: dict[str, Any]) -> None:
        for one in self._watches:
            one.begin(stage, facts)

    def step(self, epoch: int, step: int, steps: int, loss: float, learning_rate: float) -> None:
        for one in self._watches:
            one.step(epoch, step, steps, loss, learning_rate)

    def epoch(self, found: Epoch) -> bool | None:
        asked = [one.epoch(found) for one in self._watches]  # each is told
        return any(asked)

    def end(self, found: Fit) -> None:
        for one in self._watches:
            one.end(found)

    def say(self, text: str) -> None:
        for one in self._watches:
            one.say(text)


Keep = Callable[[Callable[[], dict[str, Any]], bool], None]
"""Offered a way to get the state after each step; True: an epoch has ended. It decides whether to save, and raises
KeyboardInterrupt where somebody wants to stop."""

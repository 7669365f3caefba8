"""One experience after another: what is new is learned, and then all that was ever learned is asked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from everlearn.errors import BadInput
from everlearn.learn.fit import Fit, fit
from everlearn.learn.network.continual.method import Method, answers, shown
from everlearn.learn.network.continual.naive import Naive
from everlearn.learn.network.loading import Data
from everlearn.learn.network.recipe import Stage

_GLANCE = 32  # images that a network is judged on where nobody asks how good it is


@dataclass(frozen=True, eq=False)
class Learned:
    """accuracy: (E, E), row k: after experience k, on the tests of each up to k; nan beyond. seconds: (E,) of learning
    each, with what a method does before and after."""

    accuracy: NDArray[np.float64]
    seconds: NDArray[np.float64]

    @property
    def final(self) -> float:
        """Mean accuracy over all experiences, after the last."""
        return float(self.accuracy[-1].mean())

    @property
    def forgetting(self) -> float:
        """Mean over all experiences but the last: the best accuracy it ever had, less what is left of it after the last
        one (Chaudhry et al. 2018, arXiv:1801.10112, eq. 3). 0 with one experience."""
        if len(self.accuracy) < 2:
            return 0.0
        return float(np.mean(np.nanmax(self.accuracy[:-1, :-1], axis=0) - self.accuracy[-1, :-1]))


def learn_experiences(
    network: nn.Module, experiences: Sequence[Data], tests: Sequence[Data], stage: Stage, method: Method | None = None,
    *, validations: Sequence[Data] | None = None, joint: bool = False, seed: int = 0, **options: Any,
) -> Learned:  # fmt: skip
    """Teach a network several experiences in turn, each for one stage, and measure what it keeps.

    method: None for plain fine-tuning. validations: of each experience; of an experience's epochs, the one that is best
    on all those so far is kept; None: the last. joint: the upper bound instead: the network as it was at first learns
    all experiences so far at once. options: of `learn.fit.fit`.

    Raises BadInput where the numbers of experiences differ, and as `fit`.
    """
    if len(tests) != len(experiences) or len(validations or experiences) != len(experiences):
        raise BadInput(f"{len(experiences)} experiences have {len(tests)} tests.", "Give one for each.")
    if joint and method is not None:
        raise BadInput("joint training has all images at once and no method.", "Leave one of them out.")
    method = method or Naive()
    begin = {name: value.clone() for name, value in network.state_dict().items()}
    accuracy = np.full((len(experiences),) * 2, np.nan)
    seconds = np.zeros(len(experiences))
    for number, data in enumerate(experiences):
        began = time.perf_counter()
        if joint:
            network.load_state_dict(begin)
            data = together(experiences[: number + 1])
        judged = together(validations[: number + 1]) if validations else None
        learn_one(network, data, judged, stage, method, seed=seed + number, **options)
        seconds[number] = time.perf_counter() - began
        for test in range(number + 1):
            said = answers(network, shown(tests[test])).argmax(1).numpy()
            accuracy[number, test] = np.mean(said == tests[test].targets)
    return Learned(accuracy, seconds)


def learn_one(
    network: nn.Module, data: Data, validation: Data | None, stage: Stage, method: Method,
    keys: Sequence[str] | None = None, **options: Any,
) -> Fit:  # fmt: skip
    """One experience. The network holds the epoch that is best on the validation data afterwards, or the last one where
    there are none; the method has taken up what it needs for the next. keys: a name for each image. options: of `fit`.
    """
    method.before(network, data)
    found = fit(network, data, validation or _few(data), stage, method=method, **options)
    if validation is None:
        network.load_state_dict(found.last)
    method.after(network, data, keys)
    return found


def together(parts: Sequence[Data]) -> Data:
    """All rows of several, one after another."""
    if len(parts) == 1:
        return parts[0]
    inputs, targets = np.concatenate([shown(one) for one in parts]), np.concatenate([one.targets for one in parts])
    return Data(inputs, targets, max((one.classes for one in parts), key=len))


def _few(data: Data) -> Data:
    return data.some(np.arange(min(_GLANCE, len(data))))

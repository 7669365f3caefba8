"""A learning rate by trying: one short training whose rate rises from step to step until it diverges.

L. N. Smith, "Cyclical learning rates for training neural networks" (WACV 2017, arXiv:1506.01186), section 3.3. The loss
is smoothed and looked at against the logarithm of the rate: where it falls steepest the rate does most good; a tenth of
the rate at which it turns to rise is still stable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from everlearn.errors import BadInput, TooFew
from everlearn.learn.network.loading import Augmenter, Batch, Batches, Data
from everlearn.learn.network.losses import criterion
from everlearn.learn.network.optimizers import optimizer
from everlearn.learn.network.runtime import Runtime, runtime, seeded

if TYPE_CHECKING:
    from everlearn.learn.network.recipe import Stage

LOW, HIGH = 1e-5, 10.0
STEPS = 120
SPREAD = 4.0
"""Steps over which a loss is smoothed."""
RUNNING = 0.9
"""Share of the losses before in the running mean that ends the sweep."""
DIVERGED = 4.0
"""Times the lowest loss so far: enough is seen."""
TOGETHER = 64
"""Images whose mean loss a step should be: with smaller batches the sweep is made several times, and averaged."""
SWEEPS = 4
"""At most."""
BEGIN = 5
"""Steps whose mean is not to be trusted yet."""


@dataclass(frozen=True)
class RateFound:
    """rates, losses, smooth: of each step. suggestion: the rate to train with; steepest: where the loss fell fastest;
    diverged: where it turned to rise for good, None where it never did."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smooth: tuple[float, ...]
    suggestion: float
    steepest: float
    lowest: float
    diverged: float | None

    def to_json(self) -> dict[str, Any]:
        return {"rate": self.suggestion, "steepest": self.steepest, "lowest": self.lowest, "diverged": self.diverged}


def find_rate(
    network: nn.Module, data: Data, stage: Stage, *, seed: int = 0, augment: Augmenter | None = None,
    run: Runtime | None = None, steps: int = STEPS, low: float = LOW, high: float = HIGH, sweeps: int | None = None,
) -> RateFound:  # fmt: skip
    """Sweep the learning rate of a stage, from low to high, by so many steps. The network is left as it was.
    sweeps: how often; None: so often that a step is a mean over `TOGETHER` images.

    Raises TooFew where there is nothing to learn from, BadInput where the loss is no number from the beginning.
    """
    if len(data) < 2:
        raise TooFew(f"There are {len(data)} training images.", "Collect and label more.")
    run = run or runtime()
    before = {name: value.detach().to("cpu", copy=True) for name, value in network.state_dict().items()}
    rates = np.geomspace(low, high, steps)
    swept: list[list[float]] = []
    for sweep in range(sweeps or max(1, min(SWEEPS, TOGETHER // stage.batch_size))):
        try:
            with seeded(seed + sweep):
                swept.append(list(_sweep(network, data, stage, seed + sweep, augment, run, rates)))
        finally:
            network.load_state_dict(before)
    reached = min(len(one) for one in swept)  # what one of them did not stand is too high
    if reached <= 2 * BEGIN:
        raise BadInput(
            f"The loss is no number after {reached} steps at a learning rate of {low:g}.",
            "Look at the images and labels, or set clip: 1.",
        )
    losses = [float(np.mean(one)) for one in zip(*(one[:reached] for one in swept), strict=True)]
    return read(rates[:reached].tolist(), losses)


def read(rates: Sequence[float], losses: Sequence[float]) -> RateFound:
    """What a sweep says. Of the smoothed losses l over log rates r: steepest is the lowest dl/dr before the minimum;
    diverged the rate from which on half of what was gained is lost again, for good."""
    smooth = smoothed(losses)
    least = BEGIN + int(np.argmin(smooth[BEGIN:]))
    slope = np.gradient(smooth, np.log(rates))
    fall = slice(BEGIN, max(BEGIN + 1, least))
    steep = BEGIN + int(np.argmin(slope[fall]))
    lost = (smooth[BEGIN] + smooth[least]) / 2
    below = least + int(np.flatnonzero(smooth[least:] <= lost)[-1])  # the last rate that was still good
    diverged = float(rates[below + 1]) if below + 1 < len(rates) else None
    suggestion = float(rates[steep])
    if diverged is not None:
        suggestion = min(suggestion, diverged / 10)
    return RateFound(
        tuple(rates), tuple(losses), tuple(float(one) for one in smooth), float(f"{suggestion:.2g}"),
        float(rates[steep]), float(rates[least]), diverged,
    )  # fmt: skip


def smoothed(losses: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A mean over the steps on both sides, the near ones most (a Gaussian of `SPREAD` steps). A running mean would lag
    behind, and the rate seem higher than it was."""
    from scipy.ndimage import gaussian_filter1d

    found: np.ndarray[Any, np.dtype[np.float64]] = gaussian_filter1d(np.array(losses, np.float64), SPREAD)
    return found


def _sweep(
    network: nn.Module, data: Data, stage: Stage, seed: int, augment: Augmenter | None, run: Runtime,
    rates: Sequence[float] | np.ndarray[Any, np.dtype[np.float64]],
) -> Iterator[float]:  # fmt: skip
    """The loss before the step at each rate, until the loss is four times its lowest, or no number."""
    network.to(run.device)
    if data.images:
        network.to(memory_format=torch.channels_last)
    network.train()
    loss_of = criterion(stage.loss, data.counts())
    made = optimizer(network, stage.optimizer, run.processes)
    mean, best = 0.0, math.inf
    for step, (rate, batch) in enumerate(zip(rates, _endless(data, stage, seed, augment), strict=False), 1):
        torch.manual_seed(seed * 100_003 + step)  # what dropout draws
        batch = batch.to(run.device)
        loss = loss_of(network(batch.inputs), batch.targets)
        now = float(loss.detach())
        if not math.isfinite(now):
            return
        yield now
        mean = RUNNING * mean + (1 - RUNNING) * now
        here = mean / (1 - RUNNING**step)
        best = min(best, here) if step > BEGIN else math.inf
        if here > DIVERGED * best:
            return
        for group in made.param_groups:
            group["lr"] = float(rate) * run.processes
        loss.backward()  # type: ignore[no-untyped-call]
        if stage.clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), stage.clip)
        made.step()
        made.zero_grad(set_to_none=True)


def _endless(data: Data, stage: Stage, seed: int, augment: Augmenter | None) -> Iterator[Batch]:
    """Epoch after epoch."""
    epoch = 0
    while True:
        made = Batches(data, stage, seed, epoch, augment)
        for step in range(len(made)):
            yield made[step]
        epoch += 1

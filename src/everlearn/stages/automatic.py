"""A recipe that is found by measuring: network, resolution, batch, learning rate and epochs for this data, in the time
and memory there are; and a learning rate found by a sweep.

1. Which networks and resolutions can be trained at all: some steps of each are timed, and what they keep in memory is
   counted.
2. Which of those learn most in the same time: a race in rounds, of which the better half goes on (successive halving,
   Jamieson & Talwalkar 2016, arXiv:1502.07943), each with the rate that its sweep suggests.
3. Whether augmentation helps the winner, which batch it trains fastest with, and which rate then.

The validation side judges the race; the test side is not touched.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from everlearn import track
from everlearn.catalog import runs, samples
from everlearn.catalog.tables import sample
from everlearn.dataset.build import build as build_snapshot
from everlearn.errors import BadInput
from everlearn.evaluate import search_plots
from everlearn.learn.network import recipe as recipes
from everlearn.learn.network.recipe import Augmentation, Loss, Optimizer, Recipe, Schedule, Stage
from everlearn.stages import training
from everlearn.stages.tuned import RECIPE, write_recipe
from everlearn.workspace import CHECKPOINTS, write_whole

if TYPE_CHECKING:
    from everlearn.learn.network.rate_finder import RateFound
    from everlearn.stages.trials import Bench
    from everlearn.types import Progress
    from everlearn.workspace import Workspace

MINUTES = 10.0
SIZES = (16, 24, 32, 48, 64, 96, 128, 160, 224)
NETWORKS = ("cnn:depth=2,width=8", "cnn:depth=3,width=16", "cnn:depth=4,width=32", "cnn:depth=4,width=64")
BATCHES = (16, 32, 64, 128)
RESOLUTIONS, RACERS = 3, 6
"""At most that many resolutions are timed, and networks at a resolution raced."""
CHOOSING = 0.3
"""Share of the time that choosing may take; the rest is for training."""
EPOCHS = (8, 120)
"""What cannot be trained for so few is too slow; more are not planned."""
NEARLY = 0.9
"""A smaller batch that is so much as fast as the fastest takes more steps in the same time: it is preferred."""
SWEEP = (30, 80)
"""Steps of a sweep, at least and at most."""
SOME = 512
"""Images that a racer must be able to see in a round, where there are so many."""
STATES = 4
"""Numbers for each weight: itself, its gradient, and the two means that AdamW keeps."""
GENTLE = Augmentation(rotation=10, shift=0.08, scale=0.1, brightness=0.15, contrast=0.15)


@dataclass(frozen=True)
class Racer:
    """A network at a resolution. image: seconds for one training image; memory: bytes of a step; score: on the
    validation side, after the last round it was in."""

    network: str
    size: int
    image: float = 0.0
    memory: int = 0
    rate: float = 0.0
    score: float | None = None
    augmented: bool = False

    @property
    def name(self) -> str:
        return f"{self.network} at {self.size} px"


@dataclass(frozen=True)
class Chosen:
    """The recipe, why it is that one, and where it is written. run: of kind `auto`."""

    run: str
    recipe: Recipe
    path: Path
    why: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"run": self.run, "recipe": str(self.path), "why": list(self.why)}


def choose(
    workspace: Workspace, progress: Progress, *, minutes: float | None = None, memory_gb: float | None = None,
    anew: bool = False,
) -> Chosen:  # fmt: skip
    """Find a recipe that trains within so many minutes, choosing included, and so much memory (None: half of what is
    free). The same question on the same data has its answer already, unless anew. Raises TooFew, BadInput."""
    training.check_parts()
    from everlearn.learn.network.runtime import runtime
    from everlearn.stages.trials import Bench

    minutes = MINUTES if minutes is None else minutes
    with workspace.lock():
        snapshot = build_snapshot(workspace)
        bench = Bench(workspace, snapshot.number, progress)
    device = str(runtime().device)
    config = {"data": bench.sides.digest(), "minutes": minutes, "memory_gb": memory_gb, "device": device}
    known = None if anew else _known(workspace, config)
    if known is not None:
        progress.say(f"{known.run} chose this already for the same data, time and memory; --anew chooses again.")
        for line in known.why:
            progress.say(line)
        return known
    with track.run(
        workspace, "auto", config=config, snapshot=snapshot.number, mirrored=False, say=progress.say
    ) as following:
        chooser = _Chooser(bench, 60 * minutes, _memory(memory_gb, device), progress)
        recipe = chooser.recipe()
        path = workspace.root / CHECKPOINTS / following.name / RECIPE
        write_recipe(path, recipe, f"Chosen by {following.name} for {minutes:g} minutes.")
        following.artifact(path)
        following.note({"why": chooser.why, "recipe": path.relative_to(workspace.root).as_posix(),
                        "raced": [_plain(one) for one in chooser.raced]})  # fmt: skip
        return Chosen(following.name, recipe, path, tuple(chooser.why))


def find_rate(
    workspace: Workspace, recipe: Recipe, progress: Progress, *, begin: Mapping[str, Any] | None = None
) -> tuple[RateFound, str, Path]:
    """Sweep the learning rate of a recipe's first stage; nothing is trained. begin: a saved stage to start from, as it
    was read. Returns also the run and where the picture is. Raises TooFew, BadInput."""
    training.check_parts()
    from everlearn.augment.training import augmenter
    from everlearn.learn.network.rate_finder import find_rate as sweep
    from everlearn.model.trainable import from_stage_file
    from everlearn.stages.trials import Bench

    with workspace.lock():
        snapshot = build_snapshot(workspace)
        bench = Bench(workspace, snapshot.number, progress)
    stage = recipe.stages[0]
    config = {"recipe": json.loads(recipe.model_dump_json()), "stage": stage.name}
    with track.run(workspace, "rate", config=config, snapshot=snapshot.number, mirrored=False) as following:
        network = bench.network(recipe) if begin is None else from_stage_file(begin, base=workspace.root)
        network.grow(max(1, len(bench.classes)))
        data, _ = bench.data(network)
        network.set_dropout(stage.dropout) if stage.dropout is not None else None
        network.freeze(stage.freeze)
        augment = augmenter(stage.augmentation) if data.images else None
        found = sweep(network, data, stage, seed=recipe.seed, augment=augment)
        marks = {"suggestion": found.suggestion, "steepest": found.steepest}
        if found.diverged is not None:
            marks["diverged"] = found.diverged
        path = workspace.root / track.PLOTS / following.name / "rate.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, search_plots.rates(found.rates, found.losses, found.smooth, marks))
        following.artifact(path)
        following.note(found.to_json())
        return found, following.name, path


class _Chooser:
    """Measures, races, and says why."""

    def __init__(self, bench: Bench, seconds: float, memory: int, progress: Progress) -> None:
        self._bench, self._seconds, self._memory, self._progress = bench, seconds, memory, progress
        self._began = time.monotonic()
        self._images = len(bench.sides.train)
        self.why: list[str] = []
        self.raced: list[Racer] = []

    def recipe(self) -> Recipe:
        side = _side(self._bench)
        kinds = "numbers" if self._bench.sides.numbers else f"{len(self._bench.classes)} classes"
        self._say(f"{self._images} images of {kinds}, half of them {side} px or more on their shorter side.")
        racers = self._possible(side)
        winner = self._race(racers)
        winner = self._augmented(winner)
        batch = self._batch(winner)
        rate = self._rate(winner, batch, self._left() / 10)
        epochs = self._epochs(winner)
        return self._made(winner, batch, rate, epochs)

    # --- what is possible -----------------------------------------------------------------------------------------

    def _possible(self, side: int) -> list[Racer]:
        """Timed, and quick and small enough; the slowest of them first dropped where they are many."""
        found: list[Racer] = []
        slowest = (1 - CHOOSING) * self._seconds / (EPOCHS[0] * max(1, self._images))  # seconds for an image
        measured = 0
        for size in _sizes(side):
            for network in NETWORKS:
                one = self._measured(network, size, BATCHES[1])
                measured += 1
                if one.image <= slowest and one.memory <= self._memory:
                    found.append(one)
                    continue
                what = "memory" if one.memory > self._memory else "time"
                if not found and network == NETWORKS[0] and size == _sizes(side)[0]:
                    self._say(f"Even the smallest, {one.name}, is too much for the {what} allowed; it is taken.")
                    found.append(one)
                break  # larger ones need more
        found.sort(key=lambda one: one.image)
        if len(found) > RACERS:
            found = [found[round(at)] for at in np.linspace(0, len(found) - 1, RACERS)]
        self._say(
            f"Of {measured} networks and resolutions that were timed, {len(found)} are possible; the fastest takes "
            f"{1000 * found[0].image:.2g} ms an image, the slowest {1000 * found[-1].image:.2g} ms."
        )
        return found

    def _measured(self, network: str, size: int, batch: int) -> Racer:
        """Three steps on noise, the best of them; the same as on images."""
        import torch
        from torch.nn import functional as F

        from everlearn.learn.network.optimizers import optimizer
        from everlearn.learn.network.runtime import runtime

        device = runtime().device
        made = self._bench.network(Recipe(network=network, size=size, stages=(Stage(),)))
        made.to(device).train()
        steps = optimizer(made, Optimizer())
        images = torch.rand(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
        times, kept = [], 0
        for _ in range(3):
            began = time.perf_counter()
            with _counted() as sizes:
                loss = F.mse_loss(made(images), torch.zeros(batch, max(1, len(self._bench.classes)), device=device))
            loss.backward()  # type: ignore[no-untyped-call]
            steps.step()
            steps.zero_grad(set_to_none=True)
            float(loss.detach())  # waits for the device
            times.append(time.perf_counter() - began)
            kept = sum(sizes.values())
        weights = sum(one.numel() * one.element_size() for one in made.parameters())
        return Racer(network, size, min(times) / batch, kept + STATES * weights)

    # --- the race -------------------------------------------------------------------------------------------------

    def _race(self, racers: list[Racer]) -> Racer:
        """Rounds of the same time for each; the better half goes on to twice as much."""
        allowed = (CHOOSING * self._seconds - (time.monotonic() - self._began)) * 0.7
        while True:
            each = max(0.0, allowed) / max(1, int(np.ceil(np.log2(len(racers)))))
            if len(racers) == 1 or racers[-1].image * min(self._images, SOME) <= each / len(racers):
                break
            racers = racers[:-1]  # it would not see enough in its part of the time
        racers = [replace(one, rate=self._rate(one, BATCHES[1], each / (4 * len(racers)), sweeps=1)) for one in racers]
        while True:
            slice_of_time = each / len(racers)
            racers = [self._tried(one, slice_of_time) for one in racers]
            racers.sort(key=lambda one: -(one.score if one.score is not None else -np.inf))
            self.raced += racers
            told = "; ".join(f"{one.name} {one.score:.3f}" for one in racers if one.score is not None)
            self._say(f"After {slice_of_time:.1f} s of training each: {told}.")
            if len(racers) <= 2:
                break
            racers = racers[: -(-len(racers) // 2)]
        self._say(f"{racers[0].name} learned most in the same time.")
        return racers[0]

    def _tried(self, racer: Racer, seconds: float, augmented: bool = False) -> Racer:
        """A whole short training, its schedule as long as it is: what is learned in so many seconds."""
        from everlearn.augment.training import augmenter
        from everlearn.learn.fit import fit

        network = self._bench.network(Recipe(network=racer.network, size=racer.size, stages=(Stage(),)))
        data, validation = self._bench.data(network)
        images = int(seconds / max(1e-9, racer.image))
        epochs = max(1, min(EPOCHS[1], images // max(1, self._images)))
        if images < self._images:
            order = np.random.default_rng(0).permutation(self._images)
            data = data.some(np.sort(order[: max(2 * BATCHES[1], images)]))
        stage = self._stage(racer.rate, BATCHES[1], epochs, augmented)
        found = fit(network, data, validation, stage, augment=augmenter(stage.augmentation))
        if not found.history:
            return replace(racer, score=None, augmented=augmented)
        image = sum(one.seconds for one in found.history) / (len(found.history) * len(data))
        return replace(racer, score=found.val_accuracy, image=image, augmented=augmented)

    def _augmented(self, winner: Racer) -> Racer:
        """Trained twice more for as long, as they are and changed a little: that pays where there are epochs enough."""
        seconds = max(0.0, CHOOSING * self._seconds - (time.monotonic() - self._began)) / 2
        plain, changed = self._tried(winner, seconds), self._tried(winner, seconds, augmented=True)
        helps = (changed.score or 0.0) >= (plain.score or 0.0)
        self._say(
            f"With images turned, shifted and brightened a little {_score(changed.score)}, as they are "
            f"{_score(plain.score)}: {'changed' if helps else 'as they are'}."
        )
        return changed if helps else plain

    def _rate(self, racer: Racer, batch: int, seconds: float, sweeps: int | None = None) -> float:
        """As its sweep suggests. A sweep that would take too long has fewer steps, or is not made at all."""
        from everlearn.augment.training import augmenter
        from everlearn.learn.network.rate_finder import SWEEPS, TOGETHER
        from everlearn.learn.network.rate_finder import find_rate as sweep

        network = self._bench.network(Recipe(network=racer.network, size=racer.size, stages=(Stage(),)))
        data, _ = self._bench.data(network)
        sweeps = sweeps or max(1, min(SWEEPS, TOGETHER // batch))
        steps = min(SWEEP[1], int(seconds / max(1e-9, racer.image * batch * sweeps)))
        if steps < SWEEP[0]:
            return Optimizer().learning_rate
        stage = self._stage(1.0, batch, 1, racer.augmented)
        try:
            return sweep(
                network, data, stage, augment=augmenter(stage.augmentation), steps=steps, sweeps=sweeps
            ).suggestion
        except BadInput:
            return Optimizer().learning_rate

    def _batch(self, winner: Racer) -> int:
        """The smallest that is nearly as fast as the fastest, fits, and leaves ten steps to an epoch."""
        able = [batch for batch in BATCHES if batch * 10 <= self._images] or [BATCHES[0]]
        measured = {batch: self._measured(winner.network, winner.size, batch) for batch in able}
        fits = {batch: one for batch, one in measured.items() if one.memory <= self._memory} or {
            able[0]: measured[able[0]]
        }
        fastest = min(one.image for one in fits.values())
        batch = min(batch for batch, one in fits.items() if fastest >= NEARLY * one.image)
        speeds = ", ".join(f"{batch}: {1 / one.image:.0f}" for batch, one in measured.items())
        self._say(f"Images a second by batch: {speeds}; {batch} is the smallest that is nearly the fastest.")
        return batch

    # --- the recipe -----------------------------------------------------------------------------------------------

    def _epochs(self, winner: Racer) -> int:
        """As many as the time that is left has room for, with a tenth kept back."""
        possible = int(0.9 * self._left() / max(1e-9, winner.image * self._images))
        return max(1, min(EPOCHS[1], possible))

    def _made(self, winner: Racer, batch: int, rate: float, epochs: int) -> Recipe:
        took = epochs * winner.image * self._images / 60
        self._say(
            f"Chosen: {winner.name}, batch {batch}, learning rate {rate:.2g} by a sweep, {epochs} epochs, about "
            f"{took:.1f} minutes and {winner.memory * batch / BATCHES[1] / 2**20:.0f} MiB for a step's values."
        )
        stage = self._stage(rate, batch, epochs, winner.augmented)
        return Recipe(name="auto", network=winner.network, size=winner.size, stages=(stage,))

    def _stage(self, rate: float, batch: int, epochs: int, augmented: bool) -> Stage:
        return Stage(
            name="training", description="Chosen by measuring.", epochs=epochs, batch_size=batch,
            optimizer=Optimizer(name="adamw", learning_rate=rate, weight_decay=0.02),
            schedule=Schedule(name="one_cycle"), augmentation=GENTLE if augmented else Augmentation(),
            loss=Loss(name="mse" if self._bench.sides.numbers else "cross_entropy"),
        )  # fmt: skip

    def _left(self) -> float:
        return max(0.0, self._seconds - (time.monotonic() - self._began))

    def _say(self, text: str) -> None:
        self.why.append(text)
        self._progress.say(text)


class _counted:
    """Counts what a forward pass keeps for the backward one, in bytes; each tensor once."""

    def __enter__(self) -> dict[int, int]:
        import torch

        self._sizes: dict[int, int] = {}

        def keep(tensor: Any) -> Any:
            self._sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        self._hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        self._hooks.__enter__()
        return self._sizes

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)


def _memory(gb: float | None, device: str) -> int:
    """Bytes allowed: what was said, or half of what is free now."""
    if gb is not None:
        return int(gb * 1e9)
    import psutil
    import torch

    free = torch.cuda.mem_get_info()[0] if device.startswith("cuda") else psutil.virtual_memory().available
    return int(free // 2)


def _side(bench: Bench) -> int:
    """The median of the shorter sides of the training images, in pixels."""
    ids = [one.id for one in bench.sides.train]
    with bench.workspace.catalog.read() as tx:
        found = [
            min(row.width, row.height)
            for chunk in samples.chunks(ids)
            for row in tx.execute(sa.select(sample.c.width, sample.c.height).where(sample.c.id.in_(chunk)))
            if row.width and row.height
        ]
    return int(np.median(found)) if found else SIZES[2]


def _sizes(side: int) -> list[int]:
    """Some of those that make nothing larger than it is, from small to large."""
    able = [size for size in SIZES if size <= side] or [SIZES[0]]
    return sorted({able[round(at)] for at in np.linspace(0, len(able) - 1, RESOLUTIONS)})


def _known(workspace: Workspace, config: Mapping[str, Any]) -> Chosen | None:
    """What was chosen before for the same."""
    for one in reversed(list(_done(workspace))):
        path = workspace.root / CHECKPOINTS / one.name / RECIPE
        if path.is_file() and all(one.config.get(key) == value for key, value in config.items()):
            return Chosen(one.name, recipes.load(path), path, tuple(one.result.get("why", ())))
    return None


def _done(workspace: Workspace) -> Iterator[runs.Run]:
    with workspace.catalog.read() as tx:
        yield from [one for one in runs.every(tx, kind="auto") if one.status == "done"]


def _plain(one: Racer) -> dict[str, Any]:
    return {"network": one.network, "size": one.size, "ms_per_image": 1000 * one.image, "bytes": one.memory,
            "rate": one.rate, "score": one.score}  # fmt: skip


def _score(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.3f}"

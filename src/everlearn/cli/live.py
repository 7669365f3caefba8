"""Training, seen from a terminal: a `learn.fit.Watch`.

On a terminal: a bar for the stages and one for the epoch at hand, losses with a line of their past, accuracy, learning
rate, images a second, time left, memory. Elsewhere: a line for each epoch. With --quiet: nothing.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType

    from everlearn.cli.console import Console
    from everlearn.learn.fit import Epoch, Fit
    from everlearn.learn.network.recipe import Recipe, Stage

BLOCKS = "▁▂▃▄▅▆▇█"
SPARK = 32
"""Losses shown as a line, the last so many epochs."""
PER_SECOND = 4
"""How often the picture is drawn anew; between two drawings a step costs the writing of four numbers."""


def sparkline(values: Sequence[float], width: int = SPARK) -> str:
    """The last values as one line of blocks, lowest to highest; what is no number is a gap."""
    shown = values[-width:]
    there = [value for value in shown if math.isfinite(value)]
    if not there:
        return ""
    low, span = min(there), max(there) - min(there)
    return "".join(
        BLOCKS[round((value - low) / span * (len(BLOCKS) - 1)) if span else 0] if math.isfinite(value) else " "
        for value in shown
    )


def duration(seconds: float) -> str:
    """1:02:03, 4:05, or 0:07; nothing where it is not known."""
    if not math.isfinite(seconds):
        return ""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def number(value: float, digits: int = 4) -> str:
    """As people read a loss or a share; an en dash where it is none."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


class Lines:
    """A line for each epoch, where there is no terminal."""

    def __init__(self, say: Callable[[str], None], stages: Sequence[str] = ()) -> None:
        """stages: the names of the recipe's stages; a run that goes on begins somewhere among them."""
        self._say, self._stages = say, stages
        self._epochs, self._score = 0, ""

    def begin(self, stage: Stage, facts: dict[str, Any]) -> None:
        self._epochs, self._score = stage.epochs, scored(stage)
        self._say(begun(stage, facts, self._stages))

    def step(self, epoch: int, step: int, steps: int, loss: float, learning_rate: float) -> None:
        pass

    def epoch(self, found: Epoch) -> bool | None:
        self._say(
            f"  epoch {found.epoch}/{self._epochs}: loss {number(found.train_loss)}, validation loss "
            f"{number(found.val_loss)}, {self._score} {number(found.val_accuracy)}, rate {found.learning_rate:.3g}, "
            f"{found.images_per_second:,.0f} images/s"
        )
        return None

    def end(self, found: Fit) -> None:
        pass

    def say(self, text: str) -> None:
        self._say(text)


def begun(stage: Stage, facts: Mapping[str, Any], stages: Sequence[str]) -> str:
    """The line that a stage begins with; the batch and the learning rate of several processes are shown."""
    several = f" in {facts['processes']} processes" if facts.get("processes", 1) > 1 else ""
    of = f" {stages.index(stage.name) + 1}/{len(stages)}," if stage.name in stages else ""
    text = f"Stage{of} {stage.name}: {stage.epochs} epochs"
    if facts:
        rate = facts.get("learning_rate") or stage.optimizer.learning_rate
        text += (
            f" of {facts.get('images', 0):,} images, batch {facts.get('batch', stage.batch_size)}, learning rate "
            f"{rate:.3g}{several} on {facts.get('device', 'cpu')}"
        )
    return text + "."


class Display:
    """The live picture on a terminal, there while a stage is trained; what is said stands above it."""

    def __init__(
        self, stages: Sequence[str] = (), *, memory: Callable[[], int | None] = lambda: None,
        file: TextIO | None = None,
    ) -> None:  # fmt: skip
        """stages: as for `Lines`. memory: bytes in use, asked when the picture is drawn. file: the terminal."""
        from rich.console import Console as Terminal
        from rich.live import Live

        self._stages, self._memory = stages, memory
        self._now: Stage | None = None
        self._facts: Mapping[str, Any] = {}
        self._epoch, self._at = 1, (0, 1, math.nan, math.nan)  # step, steps, loss, learning rate
        self._history: list[Epoch] = []
        self._began = self._epoch_began = time.monotonic()
        self.console = Terminal(file=file or sys.stderr, force_terminal=True if file else None)
        self._live = Live(
            get_renderable=self.picture, console=self.console, refresh_per_second=PER_SECOND, transient=True
        )

    def begin(self, stage: Stage, facts: dict[str, Any]) -> None:
        self._now, self._facts, self._history = stage, facts, []
        self._epoch, self._at = 1, (0, int(facts.get("steps", 1)) or 1, math.nan, math.nan)
        self._began = self._epoch_began = time.monotonic()
        self.say(begun(stage, facts, self._stages))
        self._live.start(refresh=True)

    def stop(self) -> None:
        """Take the picture away. A stage's end does so; whoever is interrupted must."""
        self._live.stop()

    def step(self, epoch: int, step: int, steps: int, loss: float, learning_rate: float) -> None:
        if epoch != self._epoch:
            self._epoch, self._epoch_began = epoch, time.monotonic()
        self._at = (step, steps, loss, learning_rate)

    def epoch(self, found: Epoch) -> bool | None:
        self._history.append(found)
        return None

    def end(self, found: Fit) -> None:
        self.stop()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def left(self) -> float:
        """Seconds to the end of the stage, if no epoch is saved by patience; not a number before the first epoch."""
        if self._now is None or not self._history:
            step, steps, *_ = self._at
            gone = time.monotonic() - self._epoch_began
            return gone / step * (steps * self._now.epochs - step) if self._now and step else math.nan
        recent = [one.seconds for one in self._history[-5:]]
        done = self._history[-1].epoch
        gone = time.monotonic() - self._epoch_began if self._epoch > done else 0.0
        return max(0.0, sum(recent) / len(recent) * (self._now.epochs - done) - gone)

    def picture(self) -> RenderableType:
        """What stands on the terminal now."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if self._now is None:
            return Text("")
        step, steps, loss, rate = self._at
        epochs = self._now.epochs
        bars = Table.grid(padding=(0, 1))
        bars.add_column(width=7)
        bars.add_column(width=32)
        bars.add_column(no_wrap=True)
        done = self._history[-1].epoch if self._history else 0
        part = step / steps if self._epoch > done else 0.0
        if self._now.name in self._stages and len(self._stages) > 1:
            before, all_ = self._stages.index(self._now.name), len(self._stages)
            where = f"{before + 1}/{all_} {self._now.name}"
            bars.add_row("stages", ProgressBar(all_, before + (done + part) / epochs, width=32), where)
        bars.add_row("epochs", ProgressBar(epochs, done + part, width=32), f"{min(done + 1, epochs)}/{epochs}")
        bars.add_row("steps", ProgressBar(steps, step, width=32), f"{step}/{steps}")
        lines = self._lines(self._now, loss, rate)
        return Group(bars, *(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))

    def _lines(self, stage: Stage, loss: float, rate: float) -> Iterator[str]:
        last = self._history[-1] if self._history else None
        past = [one.train_loss for one in self._history]
        held = [one.val_loss for one in self._history]
        yield f"train loss       {number(loss):>8}  {sparkline(past)}"
        if last is not None:
            best = max(self._history, key=lambda one: -math.inf if math.isnan(one.val_accuracy) else one.val_accuracy)
            yield f"validation loss  {number(last.val_loss):>8}  {sparkline(held)}"
            yield f"{scored(stage)} {number(last.val_accuracy)}, best {number(best.val_accuracy)} in epoch {best.epoch}"
        facts = []
        if math.isfinite(rate):
            facts.append(f"rate {rate:.3g}")
        if speed := self._speed(last):
            facts.append(f"{speed:,.0f} images/s")
        if left := duration(self.left()):
            facts.append(f"{left} left")
        if memory := self._memory():
            facts.append(f"{memory / 1e9:.2f} GB")
        yield " · ".join(facts)

    def _speed(self, last: Epoch | None) -> float:
        """Images a second of this epoch so far; of the last one at its beginning."""
        step, steps, *_ = self._at
        gone = time.monotonic() - self._epoch_began
        if step < 2 or gone < 1 or (last is not None and last.epoch >= self._epoch):
            return last.images_per_second if last else 0.0
        return float(self._facts.get("images", 0)) * step / steps / gone


def scored(stage: Stage) -> str:
    """What the validation side's figure is called: of numbers it is R²."""
    if isinstance(stage, Detecting):
        return "validation mAP50"
    return "validation R²" if stage.loss.name in ("mse", "mae", "huber") else "validation accuracy"


@dataclass(frozen=True)
class Detecting:
    """A detector's training, as the one stage that it is."""

    epochs: int
    batch_size: int
    name: str = "detector"


class OfDetector:
    """A `DetectionWatch` that shows a detector's training as any other is shown."""

    def __init__(self, shown: Display | Lines) -> None:
        self._shown, self._images = shown, 0

    def begin(self, job: Any, facts: Mapping[str, Any]) -> None:
        self._images = int(facts.get("images", 0))
        told = {"batch": job.batch, "learning_rate": job.lr0, **facts}
        self._shown.begin(Detecting(job.epochs, job.batch), told)  # type: ignore[arg-type]

    def step(self, epoch: int, step: int, steps: int, loss: float, learning_rate: float) -> None:
        self._shown.step(epoch, step, steps, loss, learning_rate)

    def epoch(self, found: Any) -> bool | None:
        from types import SimpleNamespace

        return self._shown.epoch(SimpleNamespace(  # type: ignore[arg-type]
            epoch=found.epoch, train_loss=sum(found.losses.values()), val_loss=sum(found.val_losses.values()),
            val_accuracy=found.map50, learning_rate=found.learning_rate, seconds=found.seconds,
            images_per_second=self._images / max(found.seconds, 1e-9),
        ))  # fmt: skip

    def say(self, text: str) -> None:
        self._shown.say(text)

    def end(self) -> None:
        """The picture goes."""
        if isinstance(self._shown, Display):
            self._shown.stop()


def detecting(console: Console) -> OfDetector:
    """Like `display`, for a detector."""
    return OfDetector(_fitting(console, ()))


def display(console: Console, recipe: Recipe) -> Display | Lines:
    """What fits where stderr goes: the live picture on a terminal, lines elsewhere, nothing with --quiet."""
    return _fitting(console, [stage.name for stage in recipe.stages])


def _fitting(console: Console, stages: Sequence[str]) -> Display | Lines:
    if console.quiet or not sys.stderr.isatty():
        return Lines(console.say, stages)
    picture = Display(stages, memory=_memory)
    console.open.callback(picture.stop)  # however the command ends
    return picture


def _memory() -> int:
    """Bytes of this process (resident set size)."""
    import psutil

    return int(psutil.Process().memory_info().rss)

"""A training on a terminal, in a file, and with --quiet."""

from __future__ import annotations

import io
import math
import os
import pty
import subprocess
import sys
from typing import Any

import pytest

from everlearn.cli import live
from everlearn.cli.console import Console
from everlearn.learn.fit import Epoch
from everlearn.learn.network.recipe import Loss, Recipe, Stage

FACTS: dict[str, Any] = {
    "images": 640,
    "steps": 20,
    "batch": 64,
    "learning_rate": 0.02,
    "processes": 2,
    "device": "cpu",
}
STAGE = Stage(name="fine_tuning", epochs=10)
STAGES = ("baseline", "augmentation", "regularization", "fine_tuning", "polishing")
RECIPE = Recipe(stages=tuple(Stage(name=name) for name in STAGES))


def one(epoch: int, loss: float, accuracy: float = 0.5) -> Epoch:
    return Epoch(epoch, loss, accuracy, loss * 1.5, accuracy, 0.005, 4.0, 160.0)


def drawn(display: live.Display, width: int = 80) -> str:
    """The picture as it stands, as plain text."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(display.picture())
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_picture_has_what_a_person_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    display = live.Display(STAGES, memory=lambda: 1_250_000_000, file=io.StringIO())
    assert drawn(display).strip() == ""
    display.begin(STAGE, FACTS)
    clock[0] += 2
    display.step(1, 10, 20, 2.5, 0.001)
    first = drawn(display)
    assert "4/5 fine_tuning" in first and "10/20" in first and "2.5000" in first
    assert "0:38 left" in first  # half an epoch in 2 s, nine and a half to go
    assert "160 images/s" in first  # 320 of 640 images in 2 s
    for epoch, (loss, accuracy) in enumerate([(2.0, 0.3), (1.0, 0.8), (0.5, 0.7)], 1):
        display.epoch(one(epoch, loss, accuracy))
    display.step(4, 5, 20, 0.4, 0.005)
    then = drawn(display)
    assert "█▃▁" in then
    assert "validation accuracy 0.7000, best 0.8000 in epoch 2" in then
    assert "rate 0.005" in then and "1.25 GB" in then and "4/10" in then
    assert "0:28 left" in then  # seven epochs of 4 s
    assert max(len(line) for line in drawn(display, 40).splitlines()) <= 40
    display.stop()


def test_a_line_for_each_epoch_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    watch = live.display(Console(), RECIPE)
    watch.begin(STAGE, FACTS)
    watch.step(1, 1, 20, 2.0, 0.1)
    assert watch.epoch(one(1, 2.0)) is None
    watch.epoch(one(2, 1.0))
    watch.say("Stage 4 is kept.")
    watch.begin(Stage(name="numbers", epochs=3, loss=Loss(name="mse")), {})
    watch.epoch(one(1, math.nan, -0.5))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "Stage 4/5, fine_tuning: 10 epochs of 640 images, batch 64, learning rate 0.02 in 2 processes on cpu.",
        "  epoch 1/10: loss 2.0000, validation loss 3.0000, validation accuracy 0.5000, rate 0.005, 160 images/s",
        "  epoch 2/10: loss 1.0000, validation loss 1.5000, validation accuracy 0.5000, rate 0.005, 160 images/s",
        "Stage 4 is kept.",
        "Stage numbers: 3 epochs.",
        "  epoch 1/3: loss –, validation loss –, validation R² -0.5000, rate 0.005, 160 images/s",
    ]


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    watch = live.display(Console(quiet=True), RECIPE)
    watch.begin(STAGE, FACTS)
    watch.epoch(one(1, 1.0))
    watch.say("nothing")
    assert capsys.readouterr() == ("", "")


ON_A_TERMINAL = """
import sys, time
from types import SimpleNamespace as Some
from everlearn.cli.console import Console
from everlearn.cli.live import display
stage = Some(name="baseline", epochs=2, batch_size=8, loss=Some(name="focal"), optimizer=Some(learning_rate=0.1))
console = Console()
with console.open:
    watch = display(console, Some(stages=[stage]))
    assert "torch" not in sys.modules
    watch.begin(stage, {"images": 80, "steps": 10, "batch": 8, "learning_rate": 0.1})
    for epoch in (1, 2):
        for step in range(1, 11):
            watch.step(epoch, step, 10, 1 / step, 0.1)
        watch.epoch(Some(epoch=epoch, train_loss=0.25, val_loss=0.5, val_accuracy=0.75, seconds=1.0,
                         images_per_second=80.0))
        time.sleep(0.3)
    watch.say("[bold]홍길동 \\u2026")
    raise SystemExit(3)
"""


def test_on_a_real_terminal_it_is_drawn_and_leaves_only_what_was_said() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL], stderr=theirs, stdout=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "90", "LINES": "30"},
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        seen += part
    os.close(ours)
    out, _ = process.communicate()
    text = seen.decode()
    assert process.returncode == 3, text
    assert out == b""
    assert "validation accuracy 0.7500, best 0.7500 in epoch 1" in text
    assert "Stage 1/1, baseline: 2 epochs of 80 images, batch 8" in text
    assert "[bold]홍길동 …" in text  # as it was said: no markup
    assert "\x1b[?25h" in text  # the cursor is there again
    assert "\x1b[2K" in text  # and the picture is gone


def test_a_step_costs_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PER_SECOND", 1e-3)
    display = live.Display(STAGES, file=io.StringIO())
    drawn: list[int] = []
    monkeypatch.setattr(display._live, "get_renderable", lambda: drawn.append(1) or "")
    display.begin(STAGE, FACTS)
    before = len(drawn)
    for step in range(1000):
        display.step(1, step, 1000, 0.5, 0.1)
    assert len(drawn) == before  # drawn by the clock, never by a step
    display.stop()


@pytest.mark.parametrize(
    ("values", "line"),
    [([], ""), ([1.0], "▁"), ([3, 2, 1], "█▅▁"), ([1, math.nan, 2], "▁ █"), ([math.nan], ""), ([5, 5], "▁▁")],
)
def test_a_line_of_blocks(values: list[float], line: str) -> None:
    assert live.sparkline(values) == line
    assert len(live.sparkline(list(range(100)))) == live.SPARK


@pytest.mark.parametrize(
    ("seconds", "told"), [(7, "0:07"), (245, "4:05"), (3723, "1:02:03"), (math.nan, ""), (0, "0:00")]
)
def test_durations(seconds: float, told: str) -> None:
    assert live.duration(seconds) == told

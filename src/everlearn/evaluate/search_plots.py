"""Plots of a search: how it went, and which settings mattered; and of a sweep over learning rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from everlearn.evaluate.plots import BLUE, FAINT, INK, ORANGE, Format, axes_of, canvas_of, readable


def history(
    scores: Sequence[tuple[int, float | None, str]], baseline: float | None, measure: str, form: Format = "png"
) -> bytes:
    """Each trial's score by its number, pruned ones hollow, failed ones at the bottom; the best so far as a line.

    scores: (number, value, done | pruned | failed).
    """
    from matplotlib.ticker import MaxNLocator

    with canvas_of(6.4, 3.6, form) as (canvas, done):
        axes = axes_of(canvas, "trial", measure)
        whole = [(number, value) for number, value, status in scores if status == "done" and value is not None]
        cut = [(number, value) for number, value, status in scores if status == "pruned" and value is not None]
        if whole:
            numbers, values = (np.array(one) for one in zip(*whole, strict=True))
            axes.step(numbers, np.maximum.accumulate(values), where="post", color=ORANGE, label="best so far")
            axes.plot(numbers, values, "o", color=BLUE, markersize=4, label="done")
        if cut:
            axes.plot(*zip(*cut, strict=True), "o", color=BLUE, markersize=4, fillstyle="none", label="pruned")
        if failed := [number for number, _, status in scores if status == "failed"]:
            bottom = axes.get_ylim()[0]
            axes.plot(failed, [bottom] * len(failed), "x", color=INK, markersize=5, label="failed", clip_on=False)
        if baseline is not None:
            axes.axhline(baseline, color=FAINT, dashes=(4, 3), label="untuned")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, loc="lower right")
    return done[0]


def importance(shares: Mapping[str, float], form: Format = "png") -> bytes:
    """A bar for each setting: its share in how much the scores differ."""
    with canvas_of(6.0, max(1.6, 0.4 * len(shares) + 0.9), form) as (canvas, done):
        axes = axes_of(canvas, "share in the differences of the score", "")
        names = list(shares)[::-1]
        axes.barh([readable(name, 40) for name in names], [shares[name] for name in names], color=BLUE, height=0.6)
        for row, name in enumerate(names):
            axes.text(shares[name], row, f" {shares[name]:.2f}", va="center", color=INK, size=8)
        axes.set_xlim(0, 1.1)
        axes.tick_params(axis="y", length=0)
    return done[0]


def rates(
    tried: Sequence[float], losses: Sequence[float], smooth: Sequence[float], marks: Mapping[str, float],
    form: Format = "png",
) -> bytes:  # fmt: skip
    """Loss against learning rate, as it was and smoothed. marks: rates to be pointed at, by their names."""
    with canvas_of(6.0, 3.6, form) as (canvas, done):
        axes = axes_of(canvas, "learning rate", "loss")
        axes.plot(tried, losses, ".", color=FAINT, markersize=4)
        axes.plot(tried, smooth, color=BLUE, linewidth=1.8)
        for place, (name, rate) in enumerate(marks.items()):
            colour = ORANGE if place == 0 else INK
            axes.axvline(rate, color=colour, linewidth=1.4 if place == 0 else 0.8, dashes=(4, 3))
            axes.text(rate, 0.98 - 0.08 * place, f" {name} {rate:.2g}", color=colour, size=8, va="top",
                      transform=axes.get_xaxis_transform())  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")  # without formulas
        axes.xaxis.set_minor_formatter(lambda rate, _: "")
        finite = [one for one in smooth if np.isfinite(one)]
        if finite:
            low, high = min(finite), max(finite[0], float(np.median(finite)))
            axes.set_ylim(low - 0.1 * (high - low + 1e-9), high + 0.6 * (high - low + 1e-9))
    return done[0]

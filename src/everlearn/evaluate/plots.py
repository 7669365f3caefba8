"""Plots as SVG or PNG bytes, and thumbnails. Colours are Okabe & Ito's, told apart by every kind of colour vision.

Drawn on figures of their own, without pyplot: no global state, no display needed. Names from users are drawn as they
are (no formulas), without what cannot be printed, and cut where long.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from everlearn.evaluate.words import WORDS
from everlearn.text import FONTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from everlearn.evaluate.forgetting import Forgetting
    from everlearn.evaluate.metrics import Bin, ClassScore, Confusion
    from everlearn.evaluate.open_set import OpenSet
    from everlearn.types import Image

Format = Literal["svg", "png"]
BLUE, ORANGE = "#0072B2", "#D55E00"
INK, FAINT = "#374151", "#d1d5db"
EN = WORDS["en"]
MANY = 30
"""Classes above which a matrix has no room for numbers."""
SIDE = 112
"""Longest side of a thumbnail, in pixels."""


def readable(name: str, most: int = 0) -> str:
    """A name without control and direction characters; cut to `most` characters where that is not 0."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return shown if not most or len(shown) <= most else shown[: most - 1] + "…"


def confusion_matrix(
    confusion: Confusion, words: Mapping[str, str] = EN, form: Format = "svg", *, normalised: bool = False
) -> bytes:
    """Rows are true classes, columns answers; the colour is the share of the row, the number the count, or where it is
    normalised the share in hundredths. Of many classes there is no room for numbers, and not every one is named."""
    from matplotlib.colors import PowerNorm

    many = len(confusion.classes) > MANY
    names = [readable(name, 14) for name in confusion.classes]
    counts = np.array(confusion.matrix).reshape(len(names), len(names))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 9.0 if many else max(3.2, (0.5 if normalised else 0.42) * len(names) + 1.6)
    with canvas_of(size, size, form) as (canvas, done):
        axes = axes_of(canvas, words["predicted"], words["true"])
        if many:  # the scale is of roots, or the few mistakes would not show beside the many right answers
            shown_as = shares if normalised else counts
            drawn = axes.imshow(shown_as, cmap="Blues", norm=PowerNorm(0.5, 0, max(1, shown_as.max())))
            canvas.colorbar(drawn, shrink=0.4, label=words["share" if normalised else "count"])
        else:
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15)
        for row, column in () if many else np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.6 else INK
            shown = f"{100 * shares[row, column]:.0f}" if normalised else str(counts[row, column])
            axes.text(column, row, shown, ha="center", va="center", color=colour, size=8)
        places = range(0, len(names), -(-len(names) // 40) if many else 1)
        turned = 90 if many else 45 if _long(names) else 0
        ends: Any = "right" if turned == 45 else "center"
        axes.set_xticks(places, [names[place] for place in places], rotation=turned, ha=ends, size=6 if many else None)
        axes.set_yticks(places, [names[place] for place in places], size=6 if many else None)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return done[0]


def reliability(bins: Sequence[Bin], words: Mapping[str, str] = EN, form: Format = "svg") -> bytes:
    """Accuracy against confidence; on the diagonal the model is as often right as it says."""
    with canvas_of(4.2, 4, form) as (canvas, done):
        axes = axes_of(canvas, words["confidence"], words["accuracy"])
        low = max(0.0, min([*(b.confidence for b in bins), *(b.accuracy for b in bins)]) - 0.05)
        axes.plot([low, 1], [low, 1], color=FAINT, dashes=(4, 3), label=words["calibrated"])
        most = max(b.count for b in bins)
        for b in bins:
            axes.plot([b.confidence] * 2, [b.confidence, b.accuracy], color=ORANGE, linewidth=1, alpha=0.7)
            axes.scatter(b.confidence, b.accuracy, s=12 + 50 * b.count / most, color=BLUE, zorder=3)
        axes.set_xlim(low, 1.02)
        axes.set_ylim(low, 1.02)
        axes.legend(frameon=False, loc="best")
    return done[0]


def class_bars(
    classes: Sequence[ClassScore], words: Mapping[str, str] = EN, form: Format = "svg", most: int = 20
) -> bytes:
    """Recall with its interval of the lowest classes, the lowest on top."""
    tested = [(c.recall, c) for c in classes if c.recall is not None]
    shown = [c for _, c in sorted(tested, key=lambda pair: (pair[0], pair[1].name))[:most]]
    with canvas_of(6, 0.26 * len(shown) + 0.9, form) as (canvas, done):
        axes = axes_of(canvas, words["recall"].split(" (")[0], "")
        for row, score in enumerate(shown):
            axes.plot(score.interval or (), [row, row], color=BLUE, alpha=0.45, linewidth=3, solid_capstyle="round")
            axes.scatter(score.recall or 0.0, row, color=BLUE, s=22, zorder=3)
        axes.set_yticks(range(len(shown)), [readable(c.name, 22) for c in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.grid(axis="x", color=FAINT, linewidth=0.6)
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
    return done[0]


def over_versions(
    found: Forgetting, versions: Sequence[str], words: Mapping[str, str] = EN, form: Format = "svg"
) -> bytes:
    """Mean accuracy and forgetting of each version, each line named at its end."""
    with canvas_of(6.4, 3, form) as (canvas, done):
        axes = axes_of(canvas, words["version"], "")
        lines = ((found.accuracy, BLUE, words["mean_accuracy"]), (found.curve, ORANGE, words["forgetting"].lower()))
        for values, colour, name in lines:
            points = [(x, y) for x, y in enumerate(values) if y is not None]
            axes.plot(
                *zip(*points, strict=True), color=colour, marker="o", markersize=4, label=name
            ) if points else None
        axes.axhline(0, color=FAINT, linewidth=0.8)
        step = max(1, len(versions) // 10)
        axes.set_xticks(range(0, len(versions), step), [readable(v, 10) for v in versions[::step]])
        axes.set_ylim(min(-0.04, *(v for v in found.curve if v is not None), 0), 1.04)
        axes.legend(frameon=False, loc="center right")
    return done[0]


def false_accepts(found: OpenSet, words: Mapping[str, str] = EN, form: Format = "svg") -> bytes:
    """Share of the known refused against share of strangers accepted, one point for each threshold."""
    with canvas_of(5.2, 3.6, form) as (canvas, done):
        axes = axes_of(canvas, words["false_accept"], words["false_reject"])
        least = 1.0
        for points, colour, name in ((found.curve, BLUE, "on_test"), (found.learned, ORANGE, "out_of_fold")):
            pairs = [(p["false_accept"], p["false_reject"]) for p in points]
            known = [(a, r) for a, r in pairs if a is not None and r is not None]
            if known:
                axes.plot(*zip(*known, strict=True), color=colour, linewidth=1.6, drawstyle="steps-post",
                          label=words[name])  # fmt: skip
                least = min([least, *(a for a, _ in known if a > 0)])
        if found.asked:
            axes.axvline(found.asked, color=FAINT, dashes=(4, 3), label=words["asked"])
            least = min(least, found.asked)
        axes.set_xscale("symlog", linthresh=max(least, 1e-4))
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.02, 1.02)
        if axes.lines:
            axes.legend(frameon=False, loc="upper right")
    return done[0]


def thumbnail(pixels: Image, side: int = SIDE) -> bytes:
    """(H, W, 3) -> a JPEG of at most `side` pixels each way; tiny images are enlarged in whole pixels."""
    from PIL import Image as Pillow

    picture = Pillow.fromarray(shrunk(pixels, side))
    times = side // max(picture.size)
    if times > 1:
        picture = picture.resize((picture.width * times, picture.height * times), Pillow.Resampling.NEAREST)
    kept = io.BytesIO()
    picture.save(kept, "JPEG", quality=82, optimize=True)
    return kept.getvalue()


def shrunk(pixels: Image, side: int = SIDE) -> Image:
    """(H, W, 3) -> the same picture of at most `side` pixels each way, never enlarged: all that a thumbnail needs."""
    from PIL import Image as Pillow

    picture = Pillow.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8)).convert("RGB")
    picture.thumbnail((side, side), Pillow.Resampling.LANCZOS)
    return np.asarray(picture)


def _long(names: Sequence[str]) -> bool:
    return max((len(drawable(name)) for name in names), default=0) > 3


@cache
def _fonts() -> list[str]:
    """Those that this machine has: first the known ones, then others that by their names have Korean."""
    from matplotlib import font_manager

    there = set(font_manager.get_font_names())
    others = sorted(name for name in there - set(FONTS) if _KOREAN.search(name))
    return [name for name in FONTS if name in there] + others


_KOREAN = re.compile(r"CJK|Nanum|Source Han|Baekmuk|UnDotum|Gothic Neo|Batang|Gulim|Dotum|D2Coding| KR$")


@cache
def font_files() -> list[str]:
    """The files of the fonts that pictures are lettered in, the first that has all letters of a text first."""
    from matplotlib import font_manager

    return [str(font_manager.findfont(name)) for name in _fonts()]


@cache
def _drawable() -> frozenset[int]:
    """Code points that one of the fonts has."""
    from matplotlib import font_manager

    return frozenset(code for file in font_files() for code in font_manager.get_font(file).get_charmap())


def drawable(text: str) -> str:
    """The text in letters that can be drawn here. Hangul that no font has is romanised, other letters become boxes."""
    if all(ord(char) in _drawable() or char.isspace() for char in text):
        return text
    return "".join(char if ord(char) in _drawable() or char.isspace() else romanised(char) for char in text)


_INITIALS, _VOWELS, _FINALS = (
    "g kk n d tt r m b pp s ss  j jj ch k t p h",
    "a ae ya yae eo e yeo ye o wa wae oe yo u wo we wi yu eu ui i",
    " k k k n n n t l k m l l l p l m p p t t ng t t k t p t",
)


def romanised(char: str) -> str:
    """A Hangul syllable in Latin letters (Revised Romanization, syllable by syllable); a box for all else. A syllable's
    code point is 0xAC00 + (initial * 21 + vowel) * 28 + final (Unicode 3.12)."""
    place = ord(char) - 0xAC00
    if not 0 <= place < 19 * 21 * 28:
        return "\N{WHITE SQUARE}"
    parts = ((_INITIALS, place // (21 * 28)), (_VOWELS, place // 28 % 21), (_FINALS, place % 28))
    return "".join(letters.split(" ")[number] for letters, number in parts)


@contextmanager
def canvas_of(width: float, height: float, form: Format) -> Iterator[tuple[Canvas, list[bytes]]]:
    """A figure of that size in inches; its bytes are in the list once the block is left."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    style: Any = {
        "font.family": _fonts(),
        "font.size": 9,
        "text.parse_math": False,  # a class may be called "$x$"
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": FAINT,
        "xtick.color": INK,
        "ytick.color": INK,
        "svg.fonttype": "none",  # letters stay letters: small files, and the viewer's own fonts for all scripts
        "svg.hashsalt": "everlearn",
    }
    done: list[bytes] = []
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas = Canvas(figsize=(width, height), layout="constrained")
        yield canvas, done
        if form == "png":  # an SVG has the letters, and the viewer's fonts draw them
            _in_drawable_letters(canvas)
        kept = io.BytesIO()
        plain = {"metadata": {"Date": None}} if form == "svg" else {"dpi": 150, "facecolor": "white"}
        canvas.savefig(kept, format=form, **({"transparent": True} | plain if form == "svg" else plain))
        done.append(kept.getvalue())


def _in_drawable_letters(canvas: Canvas) -> None:
    from matplotlib.text import Text

    for axes in canvas.axes:
        for axis in (axes.xaxis, axes.yaxis):
            names = [label.get_text() for label in axis.get_ticklabels()]
            if names != [drawable(name) for name in names]:  # an axis writes its labels anew when it is drawn
                axis.set_ticks(axis.get_ticklocs(), [drawable(name) for name in names])
    for text in canvas.findobj(Text):
        text.set_text(drawable(text.get_text()))


def axes_of(canvas: Canvas, x: str, y: str) -> Axes:
    axes = canvas.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return axes

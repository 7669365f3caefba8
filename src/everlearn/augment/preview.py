"""A picture of what augmentation does: a row for each image, as it is on the left, altered to its right."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from everlearn.image import encode_jpeg, thumbnail
from everlearn.text import FONTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.types import Image

SIDE, GAP, LINE = 96, 4, 18  # pixels: of a cell's longer side, between cells, of a line of text
_INK = (55, 65, 81)


class Augmenter(Protocol):
    """`training.TrainingAugmenter` is one."""

    mixes: bool

    def many(self, images: Any, keys: NDArray[np.int64]) -> Any: ...
    def batch(self, images: Any, targets: Any, key: int) -> tuple[Any, Any]: ...


def grid(rows: Sequence[Sequence[Image]], *, names: Sequence[str] = (), side: int = SIDE) -> Image:
    """(H, W, 3): the images, none larger than `side`, with the name of each row above it where names are given."""
    line = LINE if names else 0
    side = min(side, max((max(image.shape[:2]) for shown in rows for image in shown), default=0))
    cell = side + GAP
    columns = max(map(len, rows), default=0)
    found = np.full((len(rows) * (cell + line) + GAP, columns * cell + GAP, 3), 255, np.uint8)
    for row, shown in enumerate(rows):
        top = row * (cell + line) + GAP
        if names:
            found[top - GAP // 2 : top - GAP // 2 + line] = _line(names[row], found.shape[1])
        for column, image in enumerate(shown):
            small, left = thumbnail(image, side), column * cell + GAP
            found[top + line : top + line + small.shape[0], left : left + small.shape[1]] = small
    return found


def altered(augmenter: Augmenter, images: Image, *, versions: int = 7, seed: int = 0) -> list[list[Image]]:
    """(N, S, S, 3) -> N rows: the image, and so many versions of it; where the augmenter mixes, mixed among the N."""
    import torch

    given = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    rows: list[list[Image]] = [[image] for image in images]
    for version in range(versions):
        first = (seed * versions + version) * len(images)
        changed = augmenter.many(given, np.arange(first, first + len(images), dtype=np.int64))
        if augmenter.mixes:
            mixed, _ = augmenter.batch(changed.float() / 255, torch.eye(len(images)), first)
            changed = (mixed * 255).round().to(torch.uint8)
        for row, image in zip(rows, changed.permute(0, 2, 3, 1).numpy(), strict=True):
            row.append(image)
    return rows


def jpeg(
    augmenter: Augmenter, images: Image, names: Sequence[str] = (), *, versions: int = 7, seed: int = 0
) -> bytes:  # fmt: skip
    """The whole picture as a JPEG file's bytes, for a page or the disk. images: (N, S, S, 3) uint8; names: of each."""
    return encode_jpeg(grid(altered(augmenter, images, versions=versions, seed=seed), names=names))


def _line(text: str, width: int) -> Image:
    """(LINE, width, 3): a line of text, black on white, cut at the end."""
    canvas = Pillow.new("RGB", (width, LINE), "white")
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    ImageDraw.Draw(canvas).text((GAP, LINE // 2), shown, fill=_INK, font=_font(shown), anchor="lm")
    return np.asarray(canvas)


def _font(text: str) -> Any:
    """The first of our fonts that has all of these letters, else the first."""
    from matplotlib.ft2font import FT2Font

    paths = _paths()
    if not paths:
        return ImageFont.load_default()
    has_all = (path for path in paths if all(FT2Font(path).get_char_index(ord(char)) for char in text))
    return ImageFont.truetype(next(has_all, paths[0]), 12)


@cache
def _paths() -> list[str]:
    from matplotlib import font_manager

    there: dict[str, str] = {}
    for one in font_manager.fontManager.ttflist:
        if one.style == "normal" and one.weight in (400, "normal", "regular"):
            there.setdefault(one.name, one.fname)
    return [there[name] for name in FONTS if name in there]

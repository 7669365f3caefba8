"""Images side by side, with what they are and what was said of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from everlearn.errors import BadInput
from everlearn.evaluate.plots import BLUE, INK, ORANGE, canvas_of, readable, shrunk

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST = 32
"""Images on one picture."""


@dataclass(frozen=True, eq=False)
class Shown:
    """Images to look at. images: (N, H, W, 3) uint8 RGB, as the network got them; labels: (N,) what they are; answers:
    (N,) what was said, None where nothing was; confidence: (N,) 0-1; right: (N,) whether that counts as right, by
    default where label and answer are the same."""

    images: NDArray[Any]
    labels: Sequence[str]
    answers: Sequence[str] | None = None
    confidence: Sequence[float] | None = None
    right: Sequence[bool] | None = None

    def __post_init__(self) -> None:
        for name in ("labels", "answers", "confidence", "right"):
            told = getattr(self, name)
            if told is not None and len(told) != len(self.images):
                raise BadInput(f"{name} has {len(told)} entries where there are {len(self.images)} images.")


def picture_grid(shown: Shown, most: int = MOST) -> bytes:
    """The first images as a PNG. A right answer stands in blue, a wrong one in orange with what it should be."""
    count = min(most, len(shown.images))
    if not count:
        raise BadInput("There is no image to show.")
    columns = min(8, count)
    rows = math.ceil(count / columns)
    with canvas_of(1.25 * columns + 0.1, (1.62 if shown.answers else 1.45) * rows + 0.1, "png") as (canvas, done):
        places = canvas.subplots(rows, columns, squeeze=False).ravel()
        for place in places:
            place.set_axis_off()
        for number, place in zip(range(count), places, strict=False):
            place.imshow(shrunk(shown.images[number], 160), interpolation="nearest")
            title, colour = _title(shown, number)
            place.set_title(title, size=7.5, color=colour, pad=3)
    return done[0]


def _title(shown: Shown, number: int) -> tuple[str, str]:
    label = readable(shown.labels[number], 14)
    if shown.answers is None:
        return label, INK
    answer = readable(shown.answers[number], 14)
    right = shown.labels[number] == shown.answers[number] if shown.right is None else shown.right[number]
    sure = "" if shown.confidence is None else f" {100 * shown.confidence[number]:.0f} %"
    return (f"{answer}{sure}\n", BLUE) if right else (f"{answer}{sure}\nis {label}", ORANGE)

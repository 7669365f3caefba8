"""What is drawn for an image: a table of numbers in [0, 1), a row for each image, a column for each question.

A row is a function of the image's key alone, a column of its place alone. So it does not matter which images stand
beside this one, how many there are, or which other settings are on: raising the noise does not turn an image further.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio


class Column(IntEnum):
    """Which number answers which question."""

    ANGLE = 0
    RIGHT = 1
    DOWN = 2
    SCALE = 3
    MIRROR = 4
    CONTRAST = 5
    BRIGHTNESS = 6
    BLUR = 7
    NOISE = 8
    AREA = 9
    ASPECT = 10
    TOP = 11
    LEFT = 12
    GRAIN = 13
    POLICY = 14  # and the five after it: which, how strong and which way, for each of two operations


COLUMNS = 20


def draws(keys: NDArray[np.int64], columns: int = COLUMNS) -> NDArray[np.float64]:
    """(N,) keys -> (N, columns) in [0, 1).

    A counter is mixed with the key by SplitMix64 (Steele, Lea & Flood, "Fast Splittable Pseudorandom Number
    Generators", OOPSLA 2014); the upper 53 bits are the number. No state, so nothing to seed for each image.
    """
    with np.errstate(over="ignore"):  # modulo 2**64 is meant
        start = _mixed(keys.astype(np.uint64) + np.uint64(_GOLDEN))[:, None]  # keys in a row are now far apart
        steps = np.arange(1, columns + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
        return (_mixed(start + steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))

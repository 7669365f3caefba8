"""What an image looks like, in 512 numbers: near-copies of one scene point the same way, two digits do not.

Histograms of oriented gradients (Dalal & Triggs 2005) on a 32 x 32 grey picture: 8 directions in 8 x 8 overlapping
cells. It needs no model, so what the diversity score says does not change with the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from everlearn.validate.quality import small_grey

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIMENSIONS = 512
_SIDE, _CELLS, _DIRECTIONS = 32, 8, 8


def describe(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, 3) uint8 RGB, or its `quality.small_grey` (h, w) -> (512,) of length 1; all zeros where it is flat."""
    grey = small_grey(picture) if picture.ndim == 3 else picture
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small.astype(np.float32), (0, 0), 0.8)
    across, down = cv2.Sobel(small, cv2.CV_32F, 1, 0).ravel(), cv2.Sobel(small, cv2.CV_32F, 0, 1).ravel()
    along = np.maximum(_COMPASS @ np.stack([across, down]), 0)  # (8, 1024): the part of the gradient in each direction
    strength = along**2 / (np.hypot(across, down) + 1e-6)
    cells = np.sqrt(np.maximum(_POOL @ strength.reshape(_DIRECTIONS, _SIDE, _SIDE) @ _POOL.T, 0)).ravel()
    length = float(np.linalg.norm(cells))
    return np.asarray(cells / length if length > 1e-3 else np.zeros(DIMENSIONS), dtype=np.float32)


def _compass() -> NDArray[np.float32]:
    angles = 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def _pool() -> NDArray[np.float32]:
    """(8, 32): averages over cells of 4 pixels whose borders are softened, so that a small shift changes little."""
    place = np.arange(_SIDE)
    soft = np.exp(-((place[:, None] - place[None]) ** 2) / (2 * 2.0**2))
    soft /= soft.sum(1, keepdims=True)
    return soft.reshape(_CELLS, _SIDE // _CELLS, _SIDE).mean(1).astype(np.float32)


_COMPASS, _POOL = _compass(), _pool()

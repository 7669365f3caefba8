"""Real handwritten digits as image folders, for the documents' hidden set-up."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from everlearn.config import Config
from everlearn.workspace import Workspace


def write(folder: str, labels: Iterable[int], start: int = 0, stop: int = 60, *, loose: bool = False) -> None:
    """FOLDER/LABEL/digit_N.png of the start-th to the stop-th image of each label; loose: all in FOLDER itself."""
    data = load_digits()
    for label in labels:
        place = Path(folder) if loose else Path(folder, str(label))
        place.mkdir(parents=True, exist_ok=True)
        for row in np.flatnonzero(data.target == label)[start:stop]:
            pixels = Image.fromarray((data.images[row] * 15.9).astype(np.uint8))
            pixels.resize((32, 32), Image.Resampling.BICUBIC).save(place / f"digit_{row}.png")


def small(folder: str, **settings: object) -> Workspace:
    """A workspace whose memory is narrow, so that it learns in no time."""
    return Workspace.create(Path(folder), Config(learn={"dimensions": 512}, **settings))  # type: ignore[arg-type]

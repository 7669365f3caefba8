"""Crops: the boxes of samples, as members of a memory of their own.

A crop's id is its sample's id and the box on the grid, so it says by itself whose it is and where it lies; nothing has
to be kept to find the crops of a sample that is forgotten.
"""

from __future__ import annotations

import re

from everlearn.catalog.scenes import STEPS
from everlearn.types import Box, SampleId

CropId = str
"""SAMPLE@ and x, y, width, height in steps of the grid, six hex digits each: `…c3@1b0a3f2dc6c00f42401e8480`."""
MARK = "@"
_FORM = re.compile(r"([0-9a-f]{32})@([0-9a-f]{6})([0-9a-f]{6})([0-9a-f]{6})([0-9a-f]{6})")


def crop_id(sample: SampleId, box: Box) -> CropId:
    """The same box, whatever it is called, is the same crop."""
    left, top, right, bottom = (
        round(value * STEPS) for value in (box.x, box.y, box.x + box.width, box.y + box.height)
    )  # fmt: skip
    return sample + MARK + "".join(f"{value:06x}" for value in (left, top, right - left, bottom - top))


def sample_of(id: SampleId | CropId) -> SampleId:
    """Whose crop it is; a sample is its own."""
    return id.partition(MARK)[0]


def box_of(id: SampleId | CropId) -> Box | None:
    """Where the crop lies in its image; None for a whole sample."""
    found = _FORM.fullmatch(id)
    if found is None:
        return None
    x, y, width, height = (int(digits, 16) / STEPS for digits in found.groups()[1:])
    return Box("", x, y, width, height)

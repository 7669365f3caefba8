"""Boxes, points and masks move with the pixels of a training image.

`marked` takes plain arrays; `transform` is the same as a torchvision transform, for pipelines and data sets that hold
`tv_tensors`. Points are (x, y), (0, 0) the centre of the upper left pixel; boxes are left, top, right and bottom edge,
0 the edge of the image itself: the left edge of the first pixel is 0, its centre as a point is 0 too, as torchvision
has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from everlearn.augment.draws import draws
from everlearn.augment.training import TrainingAugmenter, warped
from everlearn.augment.transforms import around, corners
from everlearn.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Pairs = Sequence[tuple[int, int]]
"""Rows of points that are each other's mirror image: left eye and right eye."""

FACE: Pairs = ((0, 1), (3, 4))
"""Of five landmarks: the eyes, and the corners of the mouth. The nose is its own."""

_KeyPoints: type[Any] | None = getattr(tv_tensors, "KeyPoints", None)  # torchvision >= 0.23


@dataclass(frozen=True, eq=False)
class Marked:
    """image: (3, H, W) uint8. boxes: (B, 4) float64, those that still show something, cut at the border; kept: (B,)
    which of the boxes given they are. points: (K, 2) float64, in their order; one that left the image lies outside."""

    image: Tensor
    boxes: NDArray[np.float64]
    kept: NDArray[np.int64]
    points: NDArray[np.float64]


def marked(
    augmenter: TrainingAugmenter, image: Tensor, key: int, *,
    boxes: NDArray[np.floating] | None = None, points: NDArray[np.floating] | None = None, pairs: Pairs = (),
) -> Marked:  # fmt: skip
    """The image that `augmenter.one` makes of this key, and where its marks are now.

    image: (3, H, W) uint8; boxes: (B, 4) and points: (K, 2) in pixels. A turned box becomes the upright one around it.
    pairs: points that change places where the image is mirrored, so that the left eye stays the left one.
    Raises BadInput.
    """
    height, width = image.shape[-2:]
    change = _change(augmenter, key, height, width)
    sides, there = _boxes(np.zeros((0, 4)) if boxes is None else boxes, change, height, width)
    where = _points(np.zeros((0, 2)) if points is None else points, change, pairs)
    return Marked(augmenter.one(image, key), sides[there], np.flatnonzero(there), where)


def transform(augmenter: TrainingAugmenter, pairs: Pairs = ()) -> v2.Transform:
    """As a torchvision transform: images (tv_tensors.Image, or plain uint8 tensors), BoundingBoxes, KeyPoints and Mask
    of one sample change together; it draws from torch's own generator. A box that is lost has no area: let
    `v2.SanitizeBoundingBoxes` follow, which takes its label away too."""
    return _Transform(augmenter, pairs)


class _Transform(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    def __init__(self, augmenter: TrainingAugmenter, pairs: Pairs) -> None:
        super().__init__()
        self.augmenter, self.pairs = augmenter, tuple(pairs)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        if odd := [one for one in flat_inputs if not isinstance(one, torch.Tensor)]:
            raise BadInput(f"A {type(odd[0]).__name__} cannot be augmented.", "Put v2.ToImage() before.")
        key = int(torch.randint(2**63 - 1, ()))
        height, width = v2.functional.get_size(flat_inputs[0])
        return {"key": key, "change": _change(self.augmenter, key, height, width)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        change: _Change = params["change"]
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            return _moved_boxes(inpt, change)
        if _KeyPoints is not None and isinstance(inpt, _KeyPoints):
            flat = inpt.reshape(-1, 2).double().numpy()
            now = torch.from_numpy(_points(flat, change, self.pairs)).reshape(inpt.shape)
            return tv_tensors.wrap(now.to(inpt.dtype), like=inpt)
        if isinstance(inpt, tv_tensors.Mask):
            return tv_tensors.wrap(_moved_mask(inpt, change), like=inpt)
        image = self.augmenter.one(inpt.as_subclass(torch.Tensor), params["key"])
        return tv_tensors.wrap(image, like=inpt) if isinstance(inpt, tv_tensors.Image) else image


@dataclass(frozen=True, slots=True)
class _Change:
    matrix: NDArray[np.float64]  # (3, 3)
    mirrored: bool


def _change(augmenter: TrainingAugmenter, key: int, height: int, width: int) -> _Change:
    plan = augmenter.plan(draws(np.array([key], np.int64)), height, width)
    return _Change(np.eye(3) if plan.matrices is None else plan.matrices[0], bool(plan.mirrored[0]))


def _points(points: NDArray[np.floating], change: _Change, pairs: Pairs = ()) -> NDArray[np.float64]:
    if points.ndim != 2 or points.shape[1] != 2:
        raise BadInput(f"Points are {points.shape}.", "Give (K, 2): x and y of each.")
    moved = points @ change.matrix[:2, :2].T + change.matrix[:2, 2]
    if change.mirrored:
        order = np.arange(len(points))
        for left, right in pairs:
            order[[left, right]] = right, left
        moved = moved[order]
    return moved


def _boxes(
    boxes: NDArray[np.floating], change: _Change, height: int, width: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise BadInput(f"Boxes are {boxes.shape}.", "Give (B, 4): left, top, right and bottom edge of each.")
    return around(_points(corners(boxes), change), height, width)


def _moved_boxes(boxes: Any, change: _Change) -> Any:
    if getattr(tv_tensors, "is_rotated_bounding_format", lambda _: False)(boxes.format):
        raise BadInput(f"Boxes are {boxes.format}.", "Give upright ones: XYXY, XYWH or CXCYWH.")
    convert, plain = v2.functional.convert_bounding_box_format, tv_tensors.BoundingBoxFormat.XYXY
    sides, _ = _boxes(convert(boxes, new_format=plain).double().numpy(), change, *boxes.canvas_size)
    now = tv_tensors.BoundingBoxes(torch.from_numpy(sides), format=plain, canvas_size=boxes.canvas_size)
    found = convert(now, new_format=boxes.format)
    return tv_tensors.wrap((found if boxes.is_floating_point() else found.round()).to(boxes.dtype), like=boxes)


def _moved_mask(mask: Tensor, change: _Change) -> Tensor:
    """(..., H, W): each pixel keeps one of the values that are there."""
    found = np.ascontiguousarray(mask.as_subclass(torch.Tensor).numpy())
    out = np.empty_like(found)
    for layer, to in zip(found.reshape(-1, *found.shape[-2:]), out.reshape(-1, *found.shape[-2:])):
        values = layer.view(np.uint8) if layer.dtype == np.bool_ else layer.astype(np.float64)
        now = np.empty_like(values)
        warped(values, change.matrix, now, cv2.INTER_NEAREST)
        to[:] = now.astype(found.dtype)
    return torch.from_numpy(out)

"""Where an image lies in a network's input, and which of many boxes are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from everlearn.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.types import Image

Fitting = Literal["letterbox", "corner", "stretch"]
"""letterbox: the aspect is kept, the picture stands in the middle; corner: in the left upper corner; stretch: the whole
input is filled, the aspect is not kept."""

_FIRST = 1000  # candidates of an image that are looked at first: their best 300 are nearly always among these
_FAR = 1e6  # px: what lies farther out is no box of this image


@dataclass(frozen=True, slots=True)
class Placed:
    """The picture's left upper corner and its size within the input, all in pixels."""

    left: int
    top: int
    width: int
    height: int

    @classmethod
    def of(cls, image: Image, size: tuple[int, int], fit: Fitting) -> Placed:
        """size: of the input, (height, width). The roundings are those of Ultralytics' LetterBox."""
        height, width = image.shape[:2]
        if fit == "stretch":
            return cls(0, 0, size[1], size[0])
        ratio = min(size[0] / height, size[1] / width)
        inner = max(round(width * ratio), 1), max(round(height * ratio), 1)
        if fit == "corner":
            return cls(0, 0, *inner)
        return cls(round((size[1] - inner[0]) / 2 - 0.1), round((size[0] - inner[1]) / 2 - 0.1), *inner)

    def shares(self, corners: NDArray[Any]) -> NDArray[np.float64]:
        """(K, 4) x1 y1 x2 y2 in pixels of the input -> in shares of the picture's sides, cut at its border."""
        found = corners.astype(np.float64)
        found[:, 0::2] = (found[:, 0::2] - self.left) / self.width
        found[:, 1::2] = (found[:, 1::2] - self.top) / self.height
        return found.clip(0, 1)


def letterbox(
    image: Image, size: tuple[int, int], fit: Fitting = "letterbox", pad: tuple[int, int, int] = (114, 114, 114)
) -> Image:
    """An image of any size -> (height, width, 3), bilinear, `pad` around it; equal to Ultralytics' LetterBox, byte for
    byte."""
    import cv2

    image = checked(image)
    placed = Placed.of(image, size, fit)
    image = _resized(image, placed)
    right, bottom = size[1] - placed.left - placed.width, size[0] - placed.top - placed.height
    if not (right or bottom or placed.left or placed.top):
        return image
    border = (placed.top, bottom, placed.left, right)
    return np.asarray(cv2.copyMakeBorder(image, *border, cv2.BORDER_CONSTANT, value=pad), np.uint8)


def shrunk(image: Image, size: tuple[int, int], fit: Fitting = "letterbox") -> Image:
    """What a detector needs of an image, and no more: its letterbox is the same as the image's, but a photo of many
    megapixels need not be kept for it. Boxes are shares of the sides and so the same."""
    image = checked(image)
    placed = Placed.of(image, size, fit)
    return _resized(image, placed) if placed.width * placed.height < image.shape[0] * image.shape[1] else image


def checked(image: Image) -> Image:
    """(height, width, 3) uint8; grey ones become so. Raises BadInput for anything else."""
    found = np.asarray(image)
    grey = found.ndim == 2
    if found.dtype != np.uint8 or not found.size or not (grey or (found.ndim == 3 and found.shape[2] == 3)):
        raise BadInput(
            f"An image must be (height, width, 3) uint8; this is {found.shape} {found.dtype}.",
            "Decode it with everlearn.",
        )
    return np.repeat(found[:, :, None], 3, axis=2) if grey else found


def _resized(image: Image, placed: Placed) -> Image:
    import cv2

    if image.shape[:2] == (placed.height, placed.width):
        return np.ascontiguousarray(image)
    return np.asarray(cv2.resize(image, (placed.width, placed.height), interpolation=cv2.INTER_LINEAR), np.uint8)


def surest(
    corners: NDArray[Any], scores: NDArray[Any], classes: NDArray[Any], overlap: float, most: int
) -> NDArray[np.intp]:
    """The boxes that are kept, the surest first, at most so many: greedy non-maximum suppression within each class.

        IoU(a, b) = |a ∩ b| / |a ∪ b| > overlap  ->  the less sure one of one class is dropped

    corners: (K, 4) x1 y1 x2 y2; classes: (K,). Ties keep their order.
    """
    import cv2

    suppress: Any = cv2.dnn.NMSBoxesBatched  # its stubs know lists alone
    order = np.argsort(-scores, kind="stable")
    if overlap >= 1:
        return order[:most]
    first = _FIRST
    while True:
        # What is kept of the first n does not depend on those after them.
        some = order[:first]
        boxes = corners[some].astype(np.float64).clip(-_FAR, _FAR)
        boxes[:, 2:] -= boxes[:, :2]  # x, y, width, height
        names = classes[some].astype(np.int32)
        kept = np.asarray(suppress(boxes, scores[some].astype(np.float32), names, 0.0, overlap), np.intp)
        if len(kept) >= most or len(some) == len(order):
            return some[np.sort(kept.reshape(-1))][:most]
        first *= 4

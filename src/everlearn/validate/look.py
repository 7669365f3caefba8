"""One decode, and everything that is to be known of an image from it; many images at a time, in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import cv2

from everlearn.image import MAX_PIXELS, BadImage, decode
from everlearn.validate.descriptor import describe
from everlearn.validate.duplicates import Fingerprint, fingerprint
from everlearn.validate.quality import Quality, QualityLimits, examine, small_grey

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Key = TypeVar("Key")
_PORTION = 16  # images a thread takes at a time


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What one look at an image's bytes tells. descriptor: (512,), see `descriptor.describe`."""

    quality: Quality
    fingerprint: Fingerprint
    descriptor: NDArray[np.float32]


def look(data: bytes, limits: QualityLimits | None = None, max_pixels: int = MAX_PIXELS) -> Look:
    """Decode once, measure everything. Raises BadImage."""
    pixels = decode(data, max_pixels=max_pixels).pixels
    grey = small_grey(pixels)
    return Look(examine(pixels, limits, grey), fingerprint(grey), describe(grey))


def examine_many(
    images: Iterable[tuple[Key, Callable[[], bytes]]], limits: QualityLimits | None = None, workers: int | None = None
) -> Iterator[tuple[Key, Look | BadImage]]:
    """(key, read) -> (key, what was seen, or why nothing was), in the same order.

    Threads: OpenCV and Pillow release the interpreter's lock. At most 4 portions of 16 images a worker are under way,
    whatever the number of images. An OSError from `read` is raised.
    """
    workers = workers or os.cpu_count() or 1
    before, waiting = cv2.getNumThreads(), iter(images)
    cv2.setNumThreads(1)  # the threads here are one an image

    def work(portion: list[tuple[Key, Callable[[], bytes]]]) -> list[tuple[Key, Look | BadImage]]:
        return [(key, _look_or_why_not(read, limits)) for key, read in portion]

    under_way: deque[Future[list[tuple[Key, Look | BadImage]]]] = deque()
    try:
        with ThreadPoolExecutor(workers) as pool:
            while portion := list(islice(waiting, _PORTION)):
                under_way.append(pool.submit(work, portion))
                if len(under_way) >= 4 * workers:
                    yield from under_way.popleft().result()
            while under_way:
                yield from under_way.popleft().result()
    finally:
        cv2.setNumThreads(before)


def _look_or_why_not(read: Callable[[], bytes], limits: QualityLimits | None) -> Look | BadImage:
    try:
        return look(read(), limits)
    except BadImage as error:
        return error

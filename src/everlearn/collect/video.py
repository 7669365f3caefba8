"""Frames of a video as a stream: at a chosen rate, or where the picture has changed.

A frame's bytes are a JPEG of quality 95 without colour subsampling: a sixth of a PNG's size, and the same bytes for
the same frame each time, which makes its digest a stable identity.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.collect.files import Entry, refused
from everlearn.collect.options import SourceOptions
from everlearn.errors import BadInput
from everlearn.image import MAX_PIXELS
from everlearn.types import Found, Refused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong with a video is said by us, once
JPEG_QUALITY = 95
LOOKS_PER_SECOND = 5.0
"""How often the picture is compared when frames are taken on scene change."""

_1904 = datetime(1904, 1, 1)


def frames(entry: Entry, options: SourceOptions, start: datetime | None = None) -> Iterator[Found | Refused]:
    """Frames of one video file, one in memory at a time; a Refused where it is broken, or ended too soon.

    start: when the video began, else what its container says (UTC), else the frames have no time. All frames are of
    one group, named by the video's size and its first and last MiB, so that a renamed copy keeps its group.
    Raises BadInput for a rate or gap that is not above 0.
    """
    import cv2

    wanted = frame_rule(options)
    try:
        kind = _container(entry.target)
        group = _fingerprint(entry)
        start = start or (_mp4_created(entry.target) if kind == "mp4" else None)
    except (OSError, BadInput) as error:
        yield refused(entry.path, error.message if isinstance(error, BadInput) else f"cannot be read: {error.strerror}")
        return
    with _capture(entry.target) as video:
        width, height = video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if not video.isOpened() or not 0 < width * height <= MAX_PIXELS:
            yield refused(entry.path, "a video that cannot be opened: damaged, or of a kind that is not supported")
            return
        promised, rate = video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)
        rate = rate if 0 < rate < 1000 else 25.0
        seen = taken = 0
        at = 0.0
        while video.grab():
            at = _seconds(video.get(cv2.CAP_PROP_POS_MSEC), seen, rate, at)
            seen += 1
            if not wanted.due(at):
                continue
            readable, pixels = video.retrieve()
            if readable and wanted.takes(pixels, at):
                taken += 1
                yield _frame(entry, pixels, at, start, group)
    if not seen:
        yield refused(entry.path, "a video without a single frame that can be read")
    elif seen < 0.98 * promised - 2:  # containers count to a frame or two
        yield refused(entry.path, f"ends after {seen} of {promised:.0f} frames: truncated; {taken} frames were taken")


def frame_rule(options: SourceOptions) -> _Ticks | _Changes:
    """Which frames are taken. Raises BadInput for a rate, a threshold or a gap that cannot be."""
    return _Changes(options) if options.on_scene_change else _Ticks(options.frames_per_second)


def _frame(entry: Entry, pixels: NDArray[np.uint8], at: float, start: datetime | None, group: str) -> Found:
    stem = entry.name.rpartition(".")[0]
    return Found(
        uri=f"{entry.path}#t={at:.3f}",
        name=f"{stem}_t{at:09.3f}.jpg",
        read=partial(bytes, _jpeg(pixels)),  # now: a batch of raw frames would fill the memory
        size=entry.size,
        modified=entry.modified,
        captured_at=start + timedelta(seconds=at) if start else None,
        time_from="video" if start else None,
        group=group,
    )


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    import cv2

    full_colour = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *full_colour])
    if not done:
        raise BadInput("A frame could not be written as JPEG.", "")
    return bytes(data)


@contextmanager
def _capture(path: str) -> Iterator[Any]:
    import cv2

    # FFmpeg alone: OpenCV's other readers take `a%02d.jpg` for a series of images.
    video = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    try:
        yield video
    finally:
        video.release()


def _seconds(milliseconds: float, index: int, rate: float, before: float) -> float:
    """The frame's own time stamp; by its number where the container gives none that goes forward."""
    at = milliseconds / 1000
    if not math.isfinite(at) or at < 0 or (index > 0 and at <= before):
        at = index / rate
    return max(at, before)


class _Ticks:
    """Every 1/rate seconds, by the video's own clock."""

    def __init__(self, rate: float) -> None:
        if not 0 < rate <= 1000:
            raise BadInput(f"frames_per_second is {rate}.", "Use a number above 0.")
        self.rate = rate
        self.next = 0

    def due(self, at: float) -> bool:
        return at * self.rate >= self.next - 1e-6

    def takes(self, pixels: NDArray[np.uint8], at: float) -> bool:
        self.next = math.floor(at * self.rate + 1e-6) + 1
        return True


class _Changes:
    """Where the colours differ from those of the last frame taken, so that a slow change counts as well.

    Measure: the earth mover's distance of the two histograms of a channel, as a share of the whole range; the largest
    of the three channels. Unlike a difference bin by bin it does not jump where light flickers across a bin's edge.
    """

    def __init__(self, options: SourceOptions) -> None:
        if not 0 < options.scene_threshold < 1 or not options.scene_gap >= 0:
            said = f"scene_threshold is {options.scene_threshold} and scene_gap is {options.scene_gap}."
            raise BadInput(said, "Use a threshold between 0 and 1 and a gap of seconds.")
        self.threshold, self.gap = options.scene_threshold, options.scene_gap
        self.looked = self.taken = -math.inf
        self.last: NDArray[np.float64] | None = None

    def due(self, at: float) -> bool:
        return at - self.taken >= self.gap - 1e-6 and at - self.looked >= 1 / LOOKS_PER_SECOND - 1e-6

    def takes(self, pixels: NDArray[np.uint8], at: float) -> bool:
        import cv2
        import numpy as np

        self.looked = at
        small = cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA).reshape(-1, 3)
        histograms = np.stack([np.bincount(channel, minlength=256) for channel in small.T])
        colours = histograms.cumsum(axis=1) / len(small)  # (3, 256), distribution functions
        if self.last is not None and float(np.abs(colours - self.last).mean(axis=1).max()) < self.threshold:
            return False
        self.last, self.taken = colours, at
        return True


def _container(path: str) -> str:
    """`mp4`, `avi` or `mkv`, by the first bytes. FFmpeg would also read play lists, which name other files.

    Raises BadInput for anything else.
    """
    head = _head(path, 12)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"):
        return "mp4"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "mkv"
    raise BadInput("not a video, by its first bytes")


def _head(path: str, count: int) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(count)


def _fingerprint(entry: Entry) -> str:
    with Path(entry.target).open("rb") as file:
        digest = hashlib.sha256(str(entry.size).encode())
        digest.update(file.read(1 << 20))
        file.seek(max(0, entry.size - (1 << 20)))
        digest.update(file.read(1 << 20))
    return f"video-{digest.hexdigest()[:24]}"


def _mp4_created(path: str) -> datetime | None:
    """creation_time of `moov/mvhd` (ISO/IEC 14496-12, 8.2.2); None where it is not set, as many cameras leave it."""
    with Path(path).open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        at, looked = 0, 0
        while at + 8 <= end and looked < 1000:
            looked += 1
            file.seek(at)
            head = file.read(16)
            size, kind, skip = int.from_bytes(head[:4], "big"), head[4:8], 8
            if size == 1 and len(head) == 16:
                size, skip = int.from_bytes(head[8:], "big"), 16
            if kind == b"moov":
                at += skip
                continue
            if kind == b"mvhd":
                file.seek(at + skip)
                body = file.read(12)
                wide = body[:1] == b"\x01"
                seconds = int.from_bytes(body[4 : 12 if wide else 8], "big")
                created = _1904 + timedelta(seconds=seconds) if seconds < 1 << 34 else _1904
                return created if created.year >= 1990 else None
            if size < 8:
                return None
            at += size
    return None

"""When and where an image was taken, and which images must not be parted (DESIGN section 7). Pure functions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from everlearn.types import Found, SampleId, TimeFrom


def when_and_camera(
    found: Found, exif_time: datetime | None, exif_camera: str | None
) -> tuple[datetime | None, TimeFrom | None, str | None]:
    """What is believed of a thing's time and camera.

    Time: EXIF, else what the source says (a CSV, a file name, a video), else the file's own time; None where even that
    is unknown. It is what the camera's clock showed, without a zone; a file's time is UTC.
    Camera: what the source says, since a person chose that word, else EXIF.
    """
    camera = found.camera or exif_camera or None
    if exif_time is not None:
        return exif_time.replace(tzinfo=None), "exif", camera
    if found.captured_at is not None:
        return found.captured_at.replace(tzinfo=None), found.time_from or "name", camera
    if found.modified >= 0:
        try:
            return datetime.fromtimestamp(found.modified, UTC).replace(tzinfo=None), "file", camera
        except (OverflowError, ValueError, OSError):  # a damaged file system's year 50,000
            return None, None, camera
    return None, None, camera


def group_of(
    found: Found,
    sample: SampleId,
    when: datetime | None,
    time_from: TimeFrom | str | None,
    camera: str | None,
    minutes: float = 5,
) -> str:
    """The name of the group that a sample belongs to, the same wherever and whenever it is collected.

    A declared session or video; else the same camera in the same fixed bucket of time, by EXIF or a name (never the
    file system's time, which copying changes); else the sample alone. Images whose camera is unknown count as of one
    camera: to part a burst would be worse than to keep strangers together.
    """
    if found.group is not None:
        return found.group
    if when is None or time_from not in ("exif", "name", "video") or minutes <= 0:
        return sample
    start = when - (when - datetime.min) % timedelta(minutes=minutes)
    return f"{camera or 'camera unknown'}@{start.isoformat(timespec='minutes')}"

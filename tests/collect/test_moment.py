"""Capture time, camera and group."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from everlearn.collect.moment import group_of, when_and_camera
from everlearn.types import Found

EXIF = datetime(2025, 7, 4, 13, 30, 22)
NAME = datetime(2024, 1, 1)


def found(**said: object) -> Found:
    return Found("/a.jpg", "a.jpg", lambda: b"", **said)  # type: ignore[arg-type]


def test_exif_goes_before_names_and_names_before_the_file() -> None:
    everything = found(captured_at=NAME, time_from="name", modified=86400.0)
    assert when_and_camera(everything, EXIF, None) == (EXIF, "exif", None)
    assert when_and_camera(everything, None, None) == (NAME, "name", None)
    assert when_and_camera(found(captured_at=NAME, time_from="video"), None, None) == (NAME, "video", None)
    assert when_and_camera(found(modified=86400.0), None, None) == (datetime(1970, 1, 2), "file", None)
    assert when_and_camera(found(), None, None) == (None, None, None)
    assert when_and_camera(found(modified=1e18), None, None) == (None, None, None)


def test_time_is_what_the_cameras_clock_showed() -> None:
    seoul = EXIF.replace(tzinfo=timezone(timedelta(hours=9)))
    assert when_and_camera(found(), seoul, None)[0] == EXIF


def test_the_camera_a_person_named_goes_before_exif() -> None:
    assert when_and_camera(found(camera="door"), None, "Phone 12")[2] == "door"
    assert when_and_camera(found(), None, "Phone 12")[2] == "Phone 12"


def test_groups() -> None:
    at = datetime(2025, 7, 4, 13, 34, 59)
    assert group_of(found(group="session 1"), "id", at, "exif", "door") == "session 1"
    assert group_of(found(), "id", at, "exif", "door") == "door@2025-07-04T13:30"
    assert group_of(found(), "id", at, "name", None) == "camera unknown@2025-07-04T13:30"
    assert group_of(found(), "id", at, "file", "door") == "id"
    assert group_of(found(), "id", None, None, "door") == "id"
    assert group_of(found(), "id", at + timedelta(seconds=1), "exif", "door") == "door@2025-07-04T13:35"


@given(st.datetimes(), st.datetimes(), st.integers(1, 600))
def test_one_bucket_never_spans_more_than_its_minutes(one: datetime, other: datetime, minutes: int) -> None:
    same = group_of(found(), "a", one, "exif", "c", minutes) == group_of(found(), "b", other, "exif", "c", minutes)
    if same:
        assert abs(one - other) < timedelta(minutes=minutes)
    assert group_of(found(), "a", one, "exif", "c", minutes) == group_of(found(), "b", one, "exif", "c", minutes)
    assert group_of(found(), "a", one, "exif", "c", minutes) != group_of(found(), "a", one, "exif", "d", minutes)


def test_file_time_is_utc() -> None:
    at = datetime(2025, 7, 4, 13, 30, tzinfo=UTC)
    assert when_and_camera(found(modified=at.timestamp()), None, None)[0] == at.replace(tzinfo=None)

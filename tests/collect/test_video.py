"""Frames of videos that OpenCV writes here, whole and broken."""

import os
from datetime import datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

from everlearn.collect.files import Entry
from everlearn.collect.options import SourceOptions
from everlearn.collect.sources import open_source
from everlearn.collect.video import _mp4_created, frames
from everlearn.errors import BadInput
from everlearn.types import Found, Refused

FOURCC = {"mp4": "mp4v", "avi": "MJPG", "mkv": "mp4v", "mov": "mp4v"}


def film(path: Path, seconds: float = 4.0, rate: float = 10.0) -> Path:
    """One colour a second, with a small block that moves in every frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*FOURCC[path.suffix[1:]]), rate, (160, 120))
    assert writer.isOpened()
    for number in range(round(seconds * rate)):
        hue = 45 * int(number / rate)
        picture = cv2.cvtColor(np.full((120, 160, 3), (hue, 200, 200), np.uint8), cv2.COLOR_HSV2BGR)
        picture[10:20, number % 140 : number % 140 + 10] = 255
        writer.write(picture)
    writer.release()
    return path


def take(path: Path, **options: object) -> tuple[list[Found], list[Refused]]:
    items = list(open_source(str(path), SourceOptions(**options)).items())  # type: ignore[arg-type]
    return [i for i in items if isinstance(i, Found)], [i for i in items if isinstance(i, Refused)]


@pytest.mark.parametrize("kind", ["mp4", "avi", "mkv", "mov"])
def test_frames_at_a_rate(tmp_path: Path, kind: str) -> None:
    path = film(tmp_path / f"door.{kind}")
    found, refused = take(path)
    assert refused == []
    assert [item.uri for item in found] == [f"{path}#t={second}.000" for second in range(4)]
    assert [item.name for item in found] == [f"door_t0000{second}.000.jpg" for second in range(4)]
    for second, item in enumerate(found):
        picture = cv2.imdecode(np.frombuffer(item.read(), np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture.shape == (120, 160, 3)
        hue = cv2.cvtColor(picture[60:61, 80:81], cv2.COLOR_BGR2HSV)[0, 0, 0]
        assert abs(int(hue) - 45 * second) <= 2
    assert len(take(path, frames_per_second=2.5)[0]) == 10
    assert len(take(path, frames_per_second=100)[0]) == 40
    assert len(take(path, frames_per_second=0.25)[0]) == 1


def test_the_same_frame_is_the_same_bytes_and_the_same_group_under_another_name(tmp_path: Path) -> None:
    path = film(tmp_path / "door.mp4")
    first, second = take(path)[0], take(path)[0]
    assert [item.read() for item in first] == [item.read() for item in second]
    renamed = path.rename(tmp_path / "other.mp4")
    assert {item.group for item in take(renamed)[0]} == {item.group for item in first}
    other = take(film(tmp_path / "third.mp4", seconds=2))[0]
    assert len({item.group for item in first}) == 1
    assert {item.group for item in other}.isdisjoint({item.group for item in first})


def test_scene_change(tmp_path: Path) -> None:
    path = film(tmp_path / "door.mp4")
    times = [float(item.uri.partition("#t=")[2]) for item in take(path, on_scene_change=True)[0]]
    assert len(times) == 4
    assert all(0 <= at - second <= 0.21 for second, at in enumerate(times))
    assert len(take(path, on_scene_change=True, scene_gap=2.5)[0]) == 2
    assert len(take(path, on_scene_change=True, scene_threshold=0.9)[0]) == 1


def test_time_comes_from_the_name(tmp_path: Path) -> None:
    start = datetime(2025, 7, 4, 13, 30, 22)
    (tmp_path / "hong").mkdir()
    film(tmp_path / "hong" / "VID_20250704_133022.mp4")
    found, _ = take(tmp_path, labels_from="folder", camera="door")
    assert [item.captured_at for item in found] == [start + timedelta(seconds=second) for second in range(4)]
    assert {(item.label, item.camera, item.time_from) for item in found} == {("hong", "door", "video")}


def test_time_comes_from_the_container_or_is_unknown(tmp_path: Path) -> None:
    path = film(tmp_path / "door.mp4")
    assert take(path)[0][0].captured_at is None
    data = bytearray(path.read_bytes())
    at = data.index(b"mvhd") + 8
    when = datetime(2025, 7, 4, 13, 30, 22)
    data[at : at + 4] = int((when - datetime(1904, 1, 1)).total_seconds()).to_bytes(4, "big")
    path.write_bytes(data)
    assert _mp4_created(str(path)) == when
    assert take(path)[0][1].captured_at == when + timedelta(seconds=1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0\1moov\0\0\0\0",
        b"\0\0\0\0moov",
        b"\0\0\0\x08moov" * 5000,
        b"\0\0\0\1free" + b"\xff" * 8,
        b"x" * 100,
    ],
)
def test_hostile_boxes_end(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    assert _mp4_created(str(path)) is None


def test_a_truncated_video_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    path = film(tmp_path / "door.avi")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found, refused = take(path)
    assert 1 <= len(found) < 4
    assert [item.reason.partition("frames")[0] for item in refused] == [refused[0].reason.partition("frames")[0]]
    assert "truncated" in refused[0].reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a video"),
        (b"just text", "not a video"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n", "not a video"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not a video"),
        (b"\0\0\0\x18ftypmp42" + os.urandom(500), "cannot be opened"),
        (b"RIFF\0\0\0\0AVI " + b"\0" * 500, "cannot be opened"),
        (b"\x1a\x45\xdf\xa3" + b"\xff" * 500, "cannot be opened"),
    ],
)
def test_broken_videos_are_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.mp4").write_bytes(data)
    film(tmp_path / "fine.mp4", seconds=1)
    found, refused = take(tmp_path)
    assert len(found) == 1
    assert len(refused) == 1
    assert reason in refused[0].reason


def test_a_name_is_never_taken_for_a_series_of_images(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"a{number}.jpg"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "a%01d.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    assert "cannot be opened" in take(tmp_path / "a%01d.mp4")[1][0].reason


@pytest.mark.parametrize(
    "options",
    [{"frames_per_second": 0}, {"frames_per_second": float("nan")}, {"on_scene_change": True, "scene_threshold": 1}],
)
def test_options_that_cannot_be(tmp_path: Path, options: dict[str, object]) -> None:
    path = film(tmp_path / "door.mp4", seconds=1)
    entry = Entry(str(path), "door.mp4", str(path), path.stat().st_size)
    with pytest.raises(BadInput):
        next(frames(entry, SourceOptions(**options)))  # type: ignore[arg-type]

"""Broken and odd images go through collect and validate: a reason for each, no crash, every good one in."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from tests.cli.command import Everlearn, ever, picture, pixels

__all__ = ["ever"]

LONG = "a" * 250


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _png(width: int, height: int, body: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _saved(image: Pillow.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _good(seed: int) -> Pillow.Image:
    return Pillow.fromarray(pixels(seed))


def _rotated(seed: int, orientation: int) -> bytes:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    return _saved(_good(seed), "JPEG", quality=95, exif=exif.tobytes())


def _wrong_exif() -> bytes:
    return _saved(_good(31), "JPEG", quality=95, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 64)


def good_files() -> dict[str, bytes]:
    """Odd, but a viewer shows them: all of these must come in and be found fit."""
    good = {
        "rgb.png": _saved(_good(1), "PNG"),
        "한국어 이름 😀.png": _saved(_good(2), "PNG"),
        "cmyk.jpg": _saved(_good(3).convert("CMYK"), "JPEG", quality=95),
        "sixteen.png": cv2.imencode(".png", pixels(4).astype(np.uint16) * 257)[1].tobytes(),
        "palette.png": _saved(_good(5).quantize(64), "PNG"),
        "alpha.png": _saved(Pillow.fromarray(np.dstack([pixels(6), np.full((48, 48), 200, np.uint8)])), "PNG"),
        "grey.png": _saved(_good(7).convert("L"), "PNG"),
        "moving.gif": _saved(_good(8), "GIF", save_all=True, append_images=[_good(80), _good(81)]),
        "really a png.jpg": _saved(_good(9), "PNG"),
        "progressive.jpg": _saved(_good(10), "JPEG", quality=95, progressive=True),
        "a.webp": _saved(_good(11), "WEBP", lossless=True),
        "a.tiff": _saved(_good(12), "TIFF"),
        "a.bmp": _saved(_good(13), "BMP"),
        "exif broken.jpg": _wrong_exif(),
        "no ending": _saved(_good(14), "PNG"),
        "-rf.png": _saved(_good(15), "PNG"),
        "$(touch pwned);`id`.png": _saved(_good(16), "PNG"),
        "..png": b"",  # hidden: passed over, and counted by nobody
        "CON.png": _saved(_good(17), "PNG"),
        "polyglot.png": _saved(_good(18), "PNG") + b"PK\x03\x04" + b"<script>alert(1)</script>" * 10,
        f"{LONG}.png": _saved(_good(19), "PNG"),
    }
    good.update({f"rotation {n}.jpg": _rotated(20 + n, n) for n in range(1, 9)})
    return good


def refused_files() -> dict[str, bytes]:
    """Refused at the door, by name, size or first bytes."""
    return {
        "empty.png": b"",
        "line\nbreak.png": _saved(_good(40), "PNG"),
        "bell\x07.png": _saved(_good(41), "PNG"),
        "notes.docx": b"no image",
        "script.sh": b"#!/bin/sh\ntouch pwned\n",
        "not a video.mp4": b"text in the clothes of a film",
    }


def quarantined_files() -> dict[str, tuple[bytes, set[str]]]:
    """Taken in by their name, then set aside: the reasons that may be given."""
    jpeg, png = _saved(_good(50), "JPEG", quality=95), _saved(_good(51), "PNG")
    broken = bytearray(png)
    broken[len(png) // 2] ^= 0xFF
    flood = zlib.compress(b"\0" * 40_000_000)
    black, flat = np.zeros((48, 48, 3), np.uint8), np.full((48, 48, 3), 128, np.uint8)
    blurred = cv2.GaussianBlur(pixels(52, 96, 3), (0, 0), 20)
    html = b"<!doctype html><script>alert(1)</script>"
    return {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], {"truncated", "damaged"}),
        "truncated.png": (png[: len(png) // 2], {"truncated", "damaged"}),
        "flipped bit.png": (bytes(broken), {"damaged"}),
        "text.jpg": (b"just some text\n" * 10, {"not_an_image"}),
        "page.png": (html, {"not_an_image", "unsupported"}),
        "film.jpg": (b"\0\0\0\x18ftypisom" + bytes(64), {"unsupported"}),
        "bomb by header.png": (_png(30_000, 30_000, zlib.compress(b"\0" * 1000)), {"too_large"}),
        "bomb by data.png": (_png(20_000, 20_000, flood), {"too_large"}),
        "bomb.gif": (b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(20), {"too_large", "damaged", "truncated"}),
        "lies.png": (_png(48, 48, flood), {"damaged", "dark"}),
        "negative.bmp": (
            b"BM" + struct.pack("<IIIIii", 60, 0, 54, 40, -5, 2**31 - 1) + bytes(40),
            {"damaged", "too_large"},
        ),
        "black.png": (_saved(Pillow.fromarray(black), "PNG"), {"dark", "contrast", "information"}),
        "flat.png": (_saved(Pillow.fromarray(flat), "PNG"), {"contrast", "low_contrast", "information"}),
        "blurred.png": (_saved(Pillow.fromarray(blurred), "PNG"), {"blurry", "low_sharpness"}),
        "tiny.png": (_saved(_good(53).resize((3, 3)), "PNG"), {"small", "too_small"}),
        "bone.png": (_saved(_good(54).resize((200, 12)), "PNG"), {"aspect", "odd_aspect"}),
    }


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "corpus"
    root.mkdir()
    files = good_files() | refused_files() | {name: data for name, (data, _) in quarantined_files().items()}
    for name, data in files.items():
        (root / name).write_bytes(data)
    outside = picture(tmp_path / "outside.png", 60)
    (root / "leads outside.png").symlink_to(outside)
    (root / "leads nowhere.png").symlink_to(root / "gone.png")
    (root / "loop").symlink_to(root)
    (root / "itself.png").symlink_to("itself.png")
    os.mkfifo(root / "pipe.png")
    pipe = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(root)  # the name of a socket may be 107 bytes long
    pipe.bind("socket.png")
    os.chdir(here)
    _bury(root)
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe.png")).touch()
    yield root
    pipe.close()
    shutil.rmtree(root)


def _bury(root: Path) -> None:
    """A good picture below a path of more than 4,096 characters, which no system call takes."""
    data = _saved(_good(61), "PNG")
    handle = os.open(root, os.O_RDONLY)
    for n in range(20):
        name = f"{n:02d}{LONG}"[:240]
        os.mkdir(name, dir_fd=handle)
        below = os.open(name, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = below
    file = os.open("deep.png", os.O_WRONLY | os.O_CREAT, dir_fd=handle)
    os.write(file, data)
    os.close(file)
    os.close(handle)


LINKS = {"leads outside.png", "leads nowhere.png", "loop", "itself.png", "pipe.png", "socket.png"}


def test_a_reason_for_each_and_every_good_image_in(ever: Everlearn, corpus: Path, tmp_path: Path) -> None:
    ever.init()
    before = _tree(tmp_path)
    said = ever("collect", corpus, "--labels-from", "none")
    good = {name: data for name, data in good_files().items() if not name.startswith(".")}
    bad = quarantined_files()
    assert said["collected"] == len(good) + len(bad)
    assert said["duplicates"] == said["suppressed"] == 0
    expected = set(refused_files()) | LINKS
    assert said["refused"] == len(said["rejected"]) == len(expected) + 2  # + the undecodable name, + the deep path
    for one in said["rejected"]:
        assert set(one) == {"path", "reason"}
        assert one["path"].isprintable()
        assert one["reason"].isprintable()
        assert one["reason"]
    judged = ever("validate")
    listed = {one["sample"]: one for one in ever("data", "--status", "quarantined", "--limit", 1000)["samples"]}
    from everlearn.catalog.samples import id_of

    for name, (data, reasons) in bad.items():
        assert listed.pop(id_of(data), {"reason": None})["reason"] in reasons, name
    assert not listed, "a good image is set aside"
    assert judged["validated"] == len(good)
    assert sum(judged["quarantined"].values()) == len(bad)
    counts = ever("data")["counts"]
    assert counts["validated"] == len(good)
    assert counts["quarantined"] == len(bad)
    assert sum(counts.values()) == said["collected"]
    assert {path for path in _tree(tmp_path) - before if not path.startswith("workspace")} == set()
    assert not Path("pwned").exists()
    again = ever("collect", corpus, "--labels-from", "none")
    assert (again["collected"], again["duplicates"]) == (0, said["collected"])
    assert ever("doctor")["lost"] == []


def test_a_turned_photograph_lies_as_its_upright_twin(ever: Everlearn, tmp_path: Path) -> None:
    """EXIF rotations of one picture show the same: all but one are near duplicates."""
    ever.init()
    shown = pixels(70, 96)
    for orientation in range(1, 9):
        stored = shown
        stored = stored[:, ::-1] if orientation in (2, 3, 6, 7) else stored
        stored = stored[::-1] if orientation in (3, 4, 7, 8) else stored
        stored = stored.transpose(1, 0, 2) if orientation in (5, 6, 7, 8) else stored
        exif = Pillow.Exif()
        exif[0x0112] = orientation
        data = _saved(Pillow.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif.tobytes())
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / f"{orientation}.png").write_bytes(data)
    assert ever("collect", tmp_path / "photos", "--labels-from", "none")["collected"] == 8
    assert ever("validate")["quarantined"] == {"near_duplicate": 7}


def test_the_same_image_in_several_folders(ever: Everlearn, tmp_path: Path) -> None:
    """The same label twice is one sample; two labels are a question for a person, whichever came first."""
    root = tmp_path / "images"
    picture(root / "a" / "1.png", 1)
    picture(root / "a" / "again.png", 1)
    picture(root / "a" / "2.png", 2)
    picture(root / "b" / "2.png", 2)
    ever.init()
    said = ever("collect", root, "--labels-from", "folder")
    assert (said["collected"], said["duplicates"]) == (2, 2)
    ever("validate")
    (waiting,) = ever("review")["items"]
    assert waiting["reason"] == "conflict"
    assert waiting["label"] is None
    assert ever("data")["counts"]["labelled"] == 1
    ever("label", waiting["sample"][:12], "b")
    assert ever("data")["counts"]["labelled"] == 2
    ever("collect", root, "--labels-from", "folder")
    assert ever("review")["items"] == [], "a person has answered; the files do not ask again"


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", "a/../../b", "..", "~", "x" * 5000, "%2e%2e/"])
def test_labels_and_cameras_lead_nowhere(ever: Everlearn, tmp_path: Path, name: str) -> None:
    before = _tree(tmp_path)
    ever.init()
    picture(tmp_path / "one.png", 1)
    ever("collect", tmp_path / "one.png", "--label", name, "--camera", name, "--group", name)
    ever("validate")
    (one,) = ever("data", "--status", "labelled")["samples"]
    assert one["label"] == name
    assert Path(one["path"]).resolve().is_relative_to(tmp_path / "workspace" / "new_data" / "validated")
    assert {path for path in _tree(tmp_path) - before if not path.startswith("workspace")} == {"one.png"}


def test_a_hostile_table_of_features(ever: Everlearn, tmp_path: Path) -> None:
    ever.init("--backbone", "features", settings="backbone: features\n")
    rows = [
        "label,x,y",
        "a,1,2",
        "b,nan,1",
        "c,inf,1",
        "d,1",
        "=cmd|' /C calc'!A0,3,4",
        "e,1e400,2",
        "f,0x1,1",
        'g,"5",6',
    ]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    said = ever("collect", tmp_path / "rows.csv")
    assert said["collected"] == 3
    assert said["refused"] == 5
    assert ever("validate")["validated"] == 3
    for number, data in enumerate([b"", b"\0" * 100, b"PAR1", b"PAR1" + bytes(1000) + b"PAR1"]):
        (tmp_path / f"{number}.parquet").write_bytes(data)
        assert "error" in ever("collect", tmp_path / f"{number}.parquet", code=2)


def _tree(root: Path) -> set[str]:
    found = set()
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if name != "corpus"]
        found |= {os.path.relpath(os.path.join(folder, name), root) for name in files}  # noqa: PTH118
    return found


def test_the_corpus_is_what_it_says() -> None:
    assert len({*good_files(), *refused_files(), *quarantined_files()}) == sum(
        map(len, (good_files(), refused_files(), quarantined_files()))
    )
    json.dumps(sorted(good_files()))

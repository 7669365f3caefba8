"""What the camera wrote into the file: which way is up, when it was taken, and by which camera."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

_TAGS = {0x010F: "make", 0x0110: "model", 0x0112: "orientation", 0x0132: "time", 0x8769: "photo"}
_PHOTO_TAGS = {0x9003: "taken", 0x9010: "offset", 0x9011: "taken offset", 0xA431: "serial"}


def read_exif(raw: bytes) -> tuple[int, datetime | None, str | None]:
    """Orientation (1 where unknown), time and camera. Broken EXIF is no EXIF."""
    tags: dict[str, Any] = {}
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(raw[:4])
    if order is not None and len(raw) >= 8:
        tags = _directory(raw, order, struct.unpack_from(order + "I", raw, 4)[0], _TAGS)
        if isinstance(tags.get("photo"), int):
            tags |= _directory(raw, order, tags["photo"], _PHOTO_TAGS)
    captured_at = _time(tags.get("taken"), tags.get("taken offset")) or _time(tags.get("time"), tags.get("offset"))
    make, model, serial = (_text(tags.get(name)) for name in ("make", "model", "serial"))
    if model.lower().startswith(make.lower()):  # "Canon", "Canon EOS 5D"
        make = ""
    camera = " ".join(word for word in (make, model) if word)
    if camera and serial:
        camera += f" #{serial}"
    orientation = tags.get("orientation")
    valid = isinstance(orientation, int) and 1 <= orientation <= 8
    return int(orientation) if valid and orientation else 1, captured_at, camera or None


def _directory(raw: bytes, order: str, at: int, wanted: Mapping[int, str]) -> dict[str, Any]:
    """The wanted tags of one directory of a TIFF structure (TIFF 6.0, page 14): texts as bytes, numbers as int.

    Own, because Pillow's takes longer than decoding a small image does.
    """
    found: dict[str, Any] = {}
    if at + 2 > len(raw):
        return found
    for entry in range(at + 2, at + 2 + 12 * struct.unpack_from(order + "H", raw, at)[0], 12):
        if entry + 12 > len(raw):
            break
        tag, kind, count = struct.unpack_from(order + "HHI", raw, entry)
        if tag not in wanted:
            continue
        if kind == 2:  # text; up to four bytes lie in the entry itself
            place = entry + 8 if count <= 4 else struct.unpack_from(order + "I", raw, entry + 8)[0]
            found[wanted[tag]] = raw[place : place + min(count, 256)]
        elif kind in (3, 4) and count == 1:
            found[wanted[tag]] = struct.unpack_from(order + ("H" if kind == 3 else "I"), raw, entry + 8)[0]
    return found


def _time(value: Any, offset: Any) -> datetime | None:
    digits = re.fullmatch(r"(\d{4}):(\d\d):(\d\d) (\d\d):(\d\d):(\d\d)", _text(value), re.ASCII)
    try:
        time = datetime(*map(int, digits.groups())) if digits else None  # type: ignore[arg-type]
    except ValueError:
        time = None
    if time is None:
        return None
    zone = re.fullmatch(r"([+-])(\d\d):(\d\d)", _text(offset))
    if zone is None or int(zone[2]) > 14:
        return time
    minutes = int(f"{zone[1]}{int(zone[2]) * 60 + int(zone[3])}")
    return time.replace(tzinfo=timezone(timedelta(minutes=minutes)))


def _text(value: Any) -> str:
    """An EXIF text without its padding and without anything that could upset a terminal or a file name."""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if not isinstance(value, str):
        return ""
    return "".join(letter for letter in value if letter.isprintable()).strip()[:64].strip()

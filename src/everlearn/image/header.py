"""What a file's header says, before any pixel is decoded: format, size, oddities, and whether the file is whole."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from everlearn.errors import BadInput

Format = Literal["jpeg", "png", "bmp", "webp", "tiff", "gif", "ppm"]
Reason = Literal["empty", "truncated", "not_an_image", "too_large", "unsupported", "damaged"]

_MAX_PARTS = 100_000  # chunks or segments of one file: real files have a few hundred
_MAX_SCANS = 500  # of a progressive JPEG: real files have about ten


class BadImage(BadInput):
    """Bytes that are no image we can show. reason: one word for the catalog; message: one line for people."""

    def __init__(self, reason: Reason, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.reason: Reason = reason


@dataclass(slots=True)
class Header:
    """What the header says, before any pixel is decoded. plain: OpenCV can be trusted with it."""

    format: Format
    width: int = 0
    height: int = 0
    plain: bool = False
    deep: bool = False  # 16 bits a channel, in a kind that Pillow would cut to 8
    exif: bytes = b""  # a TIFF structure
    upright: bool = False  # turned by the reader already
    animated: bool = False
    trailing: int = 0


_STARTS: Mapping[bytes, Format] = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"BM": "bmp",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
}
_OTHERS: Mapping[str, bytes] = {
    "HEIC or AVIF": rb"....ftyp(heic|heix|hevc|mif1|msf1|avif|avis)",
    "a video": rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI |\0\0\x01[\xb3\xba]",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "a BigTIFF": rb"II\+\0|MM\0\+",
    "a PDF": rb"%PDF",
    "a Photoshop document": rb"8BPS",
    "an SVG drawing": rb"\s*(<\?xml[^>]*>\s*)?<svg",
    "a portable float or any map": rb"P[Ff7]\s",
    "an icon": rb"\0\0[\x01\x02]\0[^\0]\0",
}


def format_of(data: bytes) -> Format:
    """The image format by its first bytes. Raises BadImage (`not_an_image`, `unsupported`)."""
    for start, found in _STARTS.items():
        if data.startswith(start):
            return found
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if re.match(rb"P[1-6][\s#]", data):
        return "ppm"
    for name, pattern in _OTHERS.items():
        if re.match(pattern, data, re.DOTALL):
            raise BadImage("unsupported", f"The file is {name}, which is not read.", "Convert it to JPEG or PNG.")
    raise BadImage("not_an_image", f"The file begins with {data[:8]!r}, which no image format does.")


def read_header(data: bytes) -> Header:
    found = format_of(data)
    if found == "jpeg":
        return _jpeg_header(data)
    if found == "png":
        return _png_header(data)
    header = Header(found)
    if found in ("webp", "bmp") and len(data) >= 12:  # both give their length
        length = struct.unpack_from("<I", data, 4)[0] + 8 if found == "webp" else struct.unpack_from("<I", data, 2)[0]
        if found == "webp" and length > len(data):
            raise truncated()
        header.trailing = max(0, len(data) - length) if length else 0
    if found == "tiff":
        header.exif = data
    elif found == "webp":
        header.exif = _riff_chunk(data, b"EXIF").removeprefix(b"Exif\0\0")
    return header


def _riff_chunk(data: bytes, wanted: bytes) -> bytes:
    """The body of a chunk of a WebP file, empty where there is none."""
    at = 12
    for _ in range(_MAX_PARTS):
        if at + 8 > len(data):
            break
        name, length = struct.unpack_from("<4sI", data, at)
        if name == wanted:
            return data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    return b""


_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STANDS_ALONE = np.zeros(256, dtype=bool)  # after FF: a datum (00), fill (FF), or a marker without a length
_STANDS_ALONE[[0x00, 0x01, *range(0xD0, 0xD9), 0xFF]] = True


def _jpeg_header(data: bytes) -> Header:
    """Walk the markers to the end-of-image marker: OpenCV fills what is missing with grey and does not say so.

    ITU-T T.81 annex B. As libjpeg does, garbage between segments is skipped.
    """
    header, at, scans = Header("jpeg"), 2, 0
    adobe: int | None = None
    precision = components = kind = 0
    values = np.frombuffer(data, dtype=np.uint8)
    places = np.flatnonzero(values[:-1] == 0xFF)
    places = places[~_STANDS_ALONE[values[places + 1]]]
    for _ in range(_MAX_PARTS):
        number = int(places.searchsorted(at))
        if number == len(places):
            raise truncated()
        place = int(places[number])
        marker, at = data[place + 1], place + 2
        if marker == 0xD9:
            break
        if at + 2 > len(data):
            raise truncated()
        length = struct.unpack_from(">H", data, at)[0]
        body, at = data[at + 2 : at + length], at + max(length, 2)
        if marker in _SOF:
            if len(body) < 6 or header.width:
                raise BadImage("damaged", "The JPEG's frame header is broken.")
            kind = marker
            precision, header.height, header.width, components = struct.unpack_from(">BHHB", body)
        elif marker == 0xE1 and body[:6] == b"Exif\0\0" and not header.exif:
            header.exif = body[6:]
        elif marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif marker == 0xDA:
            scans += 1
    else:
        raise BadImage("damaged", f"The JPEG has more than {_MAX_PARTS:,} parts.")
    if not 0 < scans <= _MAX_SCANS or not header.width or not header.height:
        raise BadImage("damaged", f"The JPEG has {scans} scans and the size {header.width} x {header.height}.")
    if precision != 8 or kind not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
        raise BadImage("unsupported", f"The JPEG is of kind SOF{kind - 0xC0} with {precision} bits.", "Save it anew.")
    header.plain = kind <= 0xC2 and (components == 1 or (components == 3 and adobe in (None, 1)))
    header.trailing = len(data) - at
    return header


def _png_header(data: bytes) -> Header:
    """Walk the chunks to IEND and check their sums: half a PNG is not shown as a whole one. RFC 2083."""
    header, at, view = Header("png"), 8, memoryview(data)
    odd = False
    depth = kind = -1
    for _ in range(_MAX_PARTS):
        if at + 12 > len(data):
            raise truncated()
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise truncated()
        critical = not name[0] & 0x20
        if critical and zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise BadImage("damaged", f"The PNG's chunk {name!r} does not match its checksum.")
        if at == 8 and (name != b"IHDR" or length != 13):
            raise BadImage("damaged", "The PNG does not begin with its header.")
        if name == b"IHDR":
            header.width, header.height, depth, kind = struct.unpack_from(">IIBB", data, at + 8)
        elif name == b"tRNS":
            odd = True
        elif name == b"acTL":
            odd, header.animated = True, struct.unpack_from(">I", data, at + 8)[0] > 1 if length >= 4 else False
        elif name == b"eXIf":
            header.exif = data[at + 8 : end - 4]
        at = end
        if name == b"IEND":
            break
    else:
        raise BadImage("damaged", f"The PNG has more than {_MAX_PARTS:,} parts.")
    if not header.width or not header.height:
        raise BadImage("damaged", "The PNG's header gives no size.")
    header.plain = depth == 8 and kind in (0, 2) and not odd
    header.deep = depth == 16 and not odd
    header.trailing = len(data) - at
    return header


def check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        message = f"The image is {width:,} x {height:,}; max_pixels is {max_pixels:,}."
        raise BadImage("too_large", message, "Shrink it, or raise max_pixels.")


def truncated() -> BadImage:
    return BadImage("truncated", "The file ends before the image does.", "Copy it again from where it came from.")

"""The one decode: from a file's bytes to the pixels a viewer shows, or one reason why not.

Every room that looks at images starts here, so all of them see the same pixels. The path is chosen by the file's header
alone and is therefore the same each time: OpenCV for plain 8-bit JPEG and PNG (its bytes equal Pillow's, at twice the
speed), Pillow for everything odd. The header is read before any pixel is, so a decompression bomb costs nothing.

What a viewer does, and so do we: EXIF orientation is applied; transparent pixels lie on white; CMYK is turned to RGB
without colour management (Adobe's inverted values are turned back); 16 bits become 8 by exact rounding; of an animation
the first frame counts. Colour profiles are not applied.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from PIL import Image as Pillow

from everlearn.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.types import Image

Format = Literal["jpeg", "png", "bmp", "webp", "tiff", "gif", "ppm"]
Reason = Literal["empty", "truncated", "not_an_image", "too_large", "unsupported", "damaged"]

ENDINGS: Mapping[str, Format] = {
    "jpg": "jpeg",
    "jpeg": "jpeg",
    "png": "png",
    "bmp": "bmp",
    "webp": "webp",
    "tif": "tiff",
    "tiff": "tiff",
    "gif": "gif",
    "ppm": "ppm",
    "pgm": "ppm",
}
"""File-name endings that are taken for images, in lower case without the dot, and what they promise."""

MAX_PIXELS = 80_000_000
"""Width times height above which a file is refused unread (240 MB as RGB)."""
MAX_BYTES = 100_000_000
"""File size above which a file is refused unread."""

cv2.utils.logging.setLogLevel(
    cv2.utils.logging.LOG_LEVEL_ERROR
)  # errors only: what is odd about a file is said by us, once, not by the TIFF reader
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # for good: filters are not thread-safe

_MAX_PARTS = 100_000  # chunks or segments of one file: real files have a few hundred
_MAX_SCANS = 500  # of a progressive JPEG: real files have about ten


class BadImage(BadInput):
    """Bytes that are no image we can show. reason: one word for the catalog; message: one line for people."""

    def __init__(self, reason: Reason, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """An image as a viewer shows it, and what its file says of itself.

    pixels: (height, width, 3) uint8 RGB, contiguous, after EXIF rotation. format: by content, never by name.
    captured_at: EXIF DateTimeOriginal, else DateTime; with a time zone only where the file gives the offset.
    camera: EXIF make and model, and the body's serial number where it is given.
    animated: there are more frames than the one shown. trailing: bytes that follow the image (polyglots, some phones).
    """

    pixels: Image
    format: Format
    captured_at: datetime | None = None
    camera: str | None = None
    animated: bool = False
    trailing: int = 0

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


@dataclass(slots=True)
class _Header:
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


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Decoded:
    """Decode one image file. Raises BadImage, and nothing else, for bytes that are not a whole image.

    Reasons: `empty`; `not_an_image`; `unsupported` (an image, of a kind we do not read); `too_large` (more than
    `max_bytes`, or more than `max_pixels` by its header); `truncated` (it ends too soon); `damaged`.
    """
    if not data:
        raise BadImage("empty", "The file has no bytes.", "Copy it again from where it came from.")
    if len(data) > max_bytes:
        message = f"The file has {len(data):,} bytes; max_bytes is {max_bytes:,}."
        raise BadImage("too_large", message, "Shrink it, or raise max_bytes.")
    header = _header(data)
    _check_size(header.width, header.height, max_pixels)
    if header.plain:
        pixels = _with_opencv(data, cv2.IMREAD_COLOR_RGB)
    elif header.deep:
        pixels = _from_16_bits(_with_opencv(data, cv2.IMREAD_UNCHANGED))
    else:
        pixels = _with_pillow(data, header, max_pixels)
    if header.width and pixels.shape[:2] != (header.height, header.width):
        raise BadImage("damaged", "The header gives another size than the pixels have.")
    orientation, captured_at, camera = _exif(header.exif)
    pixels = np.ascontiguousarray(pixels) if header.upright else _upright(pixels, orientation)
    return Decoded(pixels, header.format, captured_at, camera, header.animated, header.trailing)


def stamp(data: bytes) -> tuple[datetime | None, str | None]:
    """Capture time and camera as the file's header tells them, without decoding; None where it does not tell."""
    try:
        _, captured_at, camera = _exif(_header(data).exif)
    except BadImage:
        return None, None
    return captured_at, camera


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


def misnamed(name: str, found: Format) -> bool:
    """Whether a file's ending promises another format than its content has. Not an error: content decides."""
    return ENDINGS.get(PurePath(name).suffix[1:].lower(), found) != found


def thumbnail(pixels: Image, side: int) -> Image:
    """(H, W, 3) -> the same picture with its longer side at most `side`; never enlarged."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def encode_jpeg(pixels: Image, quality: int = 90) -> bytes:
    """(H, W, 3) uint8 RGB -> a JPEG file's bytes. quality: 0-100."""
    return _encode(pixels, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_png(pixels: Image) -> bytes:
    """(H, W, 3) uint8 RGB -> a PNG file's bytes, without loss."""
    return _encode(pixels, ".png", [])


def _encode(pixels: Image, ending: str, options: list[int]) -> bytes:
    done, encoded = cv2.imencode(ending, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise BadInput(f"An image of shape {pixels.shape} cannot be written as {ending}.")
    return encoded.tobytes()


# ---------------------------------------------------------------------------------------------- headers

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


def _header(data: bytes) -> _Header:
    found = format_of(data)
    if found == "jpeg":
        return _jpeg_header(data)
    if found == "png":
        return _png_header(data)
    header = _Header(found)
    if found in ("webp", "bmp") and len(data) >= 12:  # both give their length
        length = struct.unpack_from("<I", data, 4)[0] + 8 if found == "webp" else struct.unpack_from("<I", data, 2)[0]
        if found == "webp" and length > len(data):
            raise _truncated()
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


def _jpeg_header(data: bytes) -> _Header:
    """Walk the markers to the end-of-image marker: OpenCV fills what is missing with grey and does not say so.

    ITU-T T.81 annex B. As libjpeg does, garbage between segments is skipped.
    """
    header, at, scans = _Header("jpeg"), 2, 0
    adobe: int | None = None
    precision = components = kind = 0
    values = np.frombuffer(data, dtype=np.uint8)
    places = np.flatnonzero(values[:-1] == 0xFF)
    places = places[~_STANDS_ALONE[values[places + 1]]]
    for _ in range(_MAX_PARTS):
        number = int(places.searchsorted(at))
        if number == len(places):
            raise _truncated()
        place = int(places[number])
        marker, at = data[place + 1], place + 2
        if marker == 0xD9:
            break
        if at + 2 > len(data):
            raise _truncated()
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


def _png_header(data: bytes) -> _Header:
    """Walk the chunks to IEND and check their sums: half a PNG is not shown as a whole one. RFC 2083."""
    header, at, view = _Header("png"), 8, memoryview(data)
    odd = False
    depth = kind = -1
    for _ in range(_MAX_PARTS):
        if at + 12 > len(data):
            raise _truncated()
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise _truncated()
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


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        message = f"The image is {width:,} x {height:,}; max_pixels is {max_pixels:,}."
        raise BadImage("too_large", message, "Shrink it, or raise max_pixels.")


def _truncated() -> BadImage:
    return BadImage("truncated", "The file ends before the image does.", "Copy it again from where it came from.")


# ---------------------------------------------------------------------------------------------- pixels


def _with_opencv(data: bytes, flags: int) -> NDArray[Any]:
    """(H, W, 3) uint8 RGB, or with IMREAD_UNCHANGED what the file holds, in OpenCV's BGR order."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise BadImage("damaged", "The image's data cannot be decoded.")
    return pixels


def _with_pillow(data: bytes, header: _Header, max_pixels: int) -> NDArray[np.uint8]:
    """Everything that is not plain: (H, W, 3) uint8 RGB. Fills in what of the header only Pillow knows."""
    try:
        with Pillow.open(io.BytesIO(data), formats=[header.format]) as picture:
            _check_size(*picture.size, max_pixels)
            if _deep_tiff(picture):
                return _from_16_bits(_with_opencv(data, cv2.IMREAD_UNCHANGED))
            header.upright = header.format == "tiff"
            picture.load()
            _check_size(*picture.size, max_pixels)  # a GIF's frame may be larger than its canvas
            pixels = _rgb(picture)
            if header.format in ("gif", "webp"):
                header.animated = bool(getattr(picture, "is_animated", False))
            return pixels
    except BadInput:
        raise
    except Pillow.DecompressionBombError as error:
        raise BadImage("too_large", f"The image is too large: {error}.") from error
    except MemoryError:
        raise BadImage("too_large", "The image does not fit into memory.") from None
    except Exception as error:  # Pillow's readers raise whatever the bytes make them raise
        if "truncated" in str(error) or isinstance(error, EOFError):
            raise _truncated() from error
        raise BadImage("damaged", f"The image cannot be decoded: {_one_line(error)}") from error


def _deep_tiff(picture: Pillow.Image) -> bool:
    """A TIFF of 16-bit colours, of which Pillow would keep the upper 8 bits."""
    tags: Mapping[int, Any] = getattr(picture, "tag_v2", {})
    return picture.mode in ("RGB", "RGBA") and 16 in tuple(tags.get(258, ()))


def _rgb(picture: Pillow.Image) -> NDArray[np.uint8]:
    """Any Pillow mode -> (H, W, 3) uint8."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM"):
        return _from_16_bits(np.asarray(picture).astype(np.uint16), inverted=_white_is_zero(picture))
    if picture.mode in ("I", "F", "LAB"):
        message = f"The image holds {picture.mode} values, and what a viewer shows of them is not defined."
        raise BadImage("unsupported", message, "Save it with 8 or 16 bits.")
    if picture.has_transparency_data:
        return _on_white(np.asarray(picture.convert("RGBA")))
    return np.array(picture.convert("RGB"))


def _white_is_zero(picture: Pillow.Image) -> bool:
    tags: Mapping[int, Any] = getattr(picture, "tag_v2", {})
    return tags.get(262) == 0


def _from_16_bits(values: NDArray[Any], inverted: bool = False) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 1|3|4) in OpenCV's order, 16 bits -> (H, W, 3) uint8 RGB: 65535 -> 255, rounded exactly."""
    if values.dtype == np.uint16:
        values = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if values.dtype != np.uint8:
        raise BadImage("unsupported", f"The image holds {values.dtype} values.", "Save it with 8 or 16 bits.")
    if inverted:
        values = 255 - values
    channels = 1 if values.ndim == 2 else values.shape[2]
    if channels == 1:
        return np.ascontiguousarray(np.broadcast_to(values.reshape(*values.shape[:2], 1), (*values.shape[:2], 3)))
    if channels == 2:
        values = values[..., [0, 0, 0, 1]]
    if channels in (2, 4):
        return _on_white(values[..., [2, 1, 0, 3]])
    return np.ascontiguousarray(values[..., 2::-1])


def _on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 4) -> (H, W, 3): lay it on white, as image viewers and browsers do."""
    colour, alpha = rgba[..., :3].astype(np.uint32), rgba[..., 3:].astype(np.uint32)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------- EXIF


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo the camera's orientation, 1-8 as EXIF tag 0x0112 defines them."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


_TAGS = {0x010F: "make", 0x0110: "model", 0x0112: "orientation", 0x0132: "time", 0x8769: "photo"}
_PHOTO_TAGS = {0x9003: "taken", 0x9010: "offset", 0x9011: "taken offset", 0xA431: "serial"}


def _exif(raw: bytes) -> tuple[int, datetime | None, str | None]:
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
    try:
        time = datetime.strptime(_text(value), "%Y:%m:%d %H:%M:%S")
    except ValueError:
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

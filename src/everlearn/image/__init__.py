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
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image as Pillow

from everlearn.errors import BadInput
from everlearn.image.exif import read_exif
from everlearn.image.header import BadImage, Format, Header, Reason, check_size, format_of, read_header, truncated

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.types import Image

__all__ = [
    "ENDINGS", "MAX_BYTES", "MAX_PIXELS", "BadImage", "Decoded", "Format", "Reason", "decode", "encode_jpeg",
    "encode_png", "format_of", "misnamed", "stamp", "thumbnail",
]  # fmt: skip

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
    header = read_header(data)
    check_size(header.width, header.height, max_pixels)
    if header.plain:
        pixels = _with_opencv(data, cv2.IMREAD_COLOR_RGB)
    elif header.deep:
        pixels = _from_16_bits(_with_opencv(data, cv2.IMREAD_UNCHANGED))
    else:
        pixels = _with_pillow(data, header, max_pixels)
    if header.width and pixels.shape[:2] != (header.height, header.width):
        raise BadImage("damaged", "The header gives another size than the pixels have.")
    orientation, captured_at, camera = read_exif(header.exif)
    pixels = np.ascontiguousarray(pixels) if header.upright else _upright(pixels, orientation)
    return Decoded(pixels, header.format, captured_at, camera, header.animated, header.trailing)


def stamp(data: bytes) -> tuple[datetime | None, str | None]:
    """Capture time and camera as the file's header tells them, without decoding; None where it does not tell."""
    try:
        _, captured_at, camera = read_exif(read_header(data).exif)
    except BadImage:
        return None, None
    return captured_at, camera


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


def _with_opencv(data: bytes, flags: int) -> NDArray[Any]:
    """(H, W, 3) uint8 RGB, or with IMREAD_UNCHANGED what the file holds, in OpenCV's BGR order."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise BadImage("damaged", "The image's data cannot be decoded.")
    return pixels


def _with_pillow(data: bytes, header: Header, max_pixels: int) -> NDArray[np.uint8]:
    """Everything that is not plain: (H, W, 3) uint8 RGB. Fills in what of the header only Pillow knows."""
    try:
        with Pillow.open(io.BytesIO(data), formats=[header.format]) as picture:
            check_size(*picture.size, max_pixels)
            if _deep_tiff(picture):
                return _from_16_bits(_with_opencv(data, cv2.IMREAD_UNCHANGED))
            header.upright = header.format == "tiff"
            picture.load()
            check_size(*picture.size, max_pixels)  # a GIF's frame may be larger than its canvas
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
            raise truncated() from error
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


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo the camera's orientation, 1-8 as EXIF tag 0x0112 defines them."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

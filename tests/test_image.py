"""The one decode: every odd image as a viewer shows it, every broken one with its reason, and never a crash."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageOps

from everlearn.image import BadImage, Decoded, decode, encode_jpeg, encode_png, format_of, misnamed, stamp, thumbnail


def scene(height: int = 60, width: int = 80) -> np.ndarray:
    """A smooth colour picture without symmetry, so that every rotation of it is another one."""
    coarse = np.random.default_rng(7).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


def saved(pixels: np.ndarray | Pillow.Image, kind: str, **options: object) -> bytes:
    picture = pixels if isinstance(pixels, Pillow.Image) else Pillow.fromarray(pixels)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, kind: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks)


def reason(data: bytes, **options: int) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data, **options)
    assert "\n" not in str(caught.value)
    return caught.value.reason


# ---- broken


def test_no_bytes() -> None:
    assert reason(b"") == "empty"


def test_zero_bytes_and_text() -> None:
    assert reason(b"\0" * 1000) == "not_an_image"
    assert reason("안녕하세요, not a picture\n".encode() * 20) == "not_an_image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM"])
def test_truncated_anywhere(kind: str) -> None:
    data = saved(scene(), kind)
    reasons = {reason(data[:length]) for length in range(1, len(data) - 1, max(1, len(data) // 40))}
    assert reasons <= {"truncated", "damaged", "not_an_image", "empty"}
    assert reason(data[: len(data) // 2]) == "truncated"


def test_a_jpeg_with_a_thumbnail_of_its_own_is_still_seen_to_be_truncated() -> None:
    """The thumbnail in the EXIF block ends with an end-of-image marker too."""
    exif = b"Exif\0\0" + saved(scene(8, 8), "JPEG")
    whole = saved(scene(), "JPEG", exif=exif)
    assert decode(whole).width == 80
    assert reason(whole[:-200]) == "truncated"


def test_a_progressive_jpeg_cut_after_its_first_scan() -> None:
    whole = saved(scene(), "JPEG", progressive=True)
    assert decode(whole).width == 80
    second_scan = whole.index(b"\xff\xda", whole.index(b"\xff\xda") + 2)
    assert reason(whole[:second_scan]) == "truncated"


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = png(30_000, 30_000, chunk(b"IDAT", zlib.compress(b"\0" * 1000)), chunk(b"IEND", b""))
    assert reason(bomb) == "too_large"
    assert reason(saved(scene(), "JPEG"), max_pixels=80 * 60 - 1) == "too_large"
    assert reason(saved(scene(), "TIFF"), max_pixels=80 * 60 - 1) == "too_large"
    assert reason(saved(scene(), "PNG"), max_bytes=100) == "too_large"


def test_png_that_lies() -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in scene())
    end = chunk(b"IEND", b"")
    good = png(80, 60, chunk(b"IDAT", zlib.compress(rows)), end)
    assert np.array_equal(decode(good).pixels, scene())
    assert reason(png(80, 60, chunk(b"IDAT", zlib.compress(rows[:5000])), end)) == "damaged"  # whole, but too few rows
    flipped = bytearray(good)
    flipped[60] ^= 1
    assert reason(bytes(flipped)) == "damaged"  # its checksum says so
    assert reason(png(0, 60, chunk(b"IDAT", zlib.compress(rows)), end)) == "damaged"


@pytest.mark.parametrize(
    "start",
    [
        b"\0\0\0\x18ftypheic",
        b"\0\0\0\x18ftypisom",
        b"%PDF-1.7",
        b"<svg xmlns=",
        b"8BPS\0\1",
        b"Pf\n1 1\n",
        b"II+\0\x08",
    ],
)
def test_other_formats_are_named(start: bytes) -> None:
    assert reason(start + b"\0" * 100) == "unsupported"


def test_values_without_a_defined_look() -> None:
    assert reason(saved(Pillow.fromarray(np.ones((9, 9), np.float32)), "TIFF")) == "unsupported"


# ---- odd


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_rotations(kind: str, orientation: int) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    data = saved(scene(), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    with Pillow.open(io.BytesIO(data)) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    assert np.array_equal(decode(data).pixels, expected)
    assert decode(data).pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_a_rotation_that_does_not_exist_is_none(orientation: int) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decode(saved(scene(), "PNG", exif=exif)).pixels, scene())


@pytest.mark.parametrize("ending", [".png", ".tif", ".ppm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_rounded_not_cut(ending: str, channels: int) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (40, 50, 3), dtype=np.uint16)
    deep = deep if channels == 3 else deep[..., 0]
    written = cv2.imencode(".pgm" if (ending, channels) == (".ppm", 1) else ending, deep)[1].tobytes()
    expected = np.round(deep / 257).astype(np.uint8)
    expected = expected[..., ::-1] if channels == 3 else np.repeat(expected[..., None], 3, axis=2)
    assert np.array_equal(decode(written).pixels, expected)


def test_16_bits_with_alpha() -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (40, 50, 4), dtype=np.uint16)
    shown = decode(cv2.imencode(".png", deep)[1].tobytes()).pixels
    alpha = deep[..., 3:] / 65535
    assert np.abs(shown - (deep[..., 2::-1] / 257 * alpha + 255 * (1 - alpha))).max() < 1.5


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_transparency_lies_on_white(kind: str) -> None:
    rgba = np.dstack([scene(), np.full((60, 80), 255, np.uint8)])
    rgba[:30, :, 3] = 0
    rgba[30:40, :, 3] = 128
    shown = decode(saved(rgba, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))).pixels
    assert (shown[:30] == 255).all()
    assert np.array_equal(shown[40:], scene()[40:])
    assert np.abs(shown[30:40] - (scene()[30:40] * (128 / 255) + 127)).max() <= 1


def test_a_transparent_colour_and_a_transparent_palette() -> None:
    pixels = scene()
    pixels[:10] = (1, 2, 3)
    assert (decode(saved(pixels, "PNG", transparency=(1, 2, 3))).pixels[:10] == 255).all()
    palette = Pillow.fromarray(np.zeros((8, 8), np.uint8), "P")
    palette.putpalette([10, 20, 30] * 256)
    assert (decode(saved(palette, "PNG", transparency=0)).pixels == 255).all()
    assert (decode(saved(palette, "PNG")).pixels == (10, 20, 30)).all()


MODES = {
    "JPEG": ["1", "L", "CMYK", "YCbCr"],
    "PNG": ["1", "L", "P"],
    "TIFF": ["1", "L", "P", "CMYK", "YCbCr"],
    "BMP": ["1", "L", "P"],
    "GIF": ["1", "L", "P"],
    "WEBP": ["L", "P"],
    "PPM": ["1", "L"],
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes])
def test_every_mode_of_every_format(kind: str, mode: str) -> None:
    picture = Pillow.fromarray(scene()).convert(mode)
    data = saved(picture, kind, **({"quality": 100} if kind in ("JPEG", "WEBP") else {}))
    shown = decode(data).pixels
    assert shown.shape == (60, 80, 3)
    assert shown.dtype == np.uint8
    lossy = 14 if kind in ("JPEG", "WEBP") else 0
    assert np.abs(shown.astype(int) - np.asarray(picture.convert("RGB"))).mean() <= lossy


def test_cmyk_of_adobe_is_not_a_negative() -> None:
    picture = Pillow.fromarray(np.full((32, 32, 3), (250, 240, 230), np.uint8)).convert("CMYK")
    data = saved(picture, "JPEG", quality=95)
    assert b"Adobe" in data
    assert np.abs(decode(data).pixels.astype(int) - (250, 240, 230)).max() < 6


def test_the_first_frame_of_an_animation() -> None:
    frames = [Pillow.fromarray(np.full((9, 9, 3), value, np.uint8)) for value in (50, 200)]
    for kind, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        shown = decode(saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **options))
        assert shown.animated
        assert (shown.pixels == 50).all()
    assert not decode(saved(frames[0], "GIF")).animated


def test_a_polyglot_is_its_image_and_the_rest_is_counted() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("evil.txt", "hello")
    for kind in ("JPEG", "PNG", "WEBP", "BMP"):
        alone = saved(scene(), kind)
        both = decode(alone + archive.getvalue())
        assert both.trailing == len(archive.getvalue())
        assert np.array_equal(both.pixels, decode(alone).pixels)
        assert decode(alone).trailing == 0


def test_content_decides_not_the_ending() -> None:
    assert decode(saved(scene(), "PNG")).format == format_of(saved(scene(), "PNG")) == "png"
    assert misnamed("a.JPG", "png")
    assert not misnamed("a.JPEG", "jpeg")
    assert not misnamed("no-ending", "png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_what_the_camera_wrote(kind: str) -> None:
    exif = Pillow.Exif()
    exif[0x010F], exif[0x0110], exif[0x0132] = "Canon\0", "Canon EOS 5D", "2020:01:01 00:00:00"
    photo = exif.get_ifd(0x8769)
    photo[0x9003], photo[0x9011], photo[0xA431] = "2025:07:04 13:30:22", "+09:00", "0042"
    shown = decode(saved(scene(), kind, exif=exif.tobytes()))
    assert shown.captured_at == datetime(2025, 7, 4, 13, 30, 22, tzinfo=timezone(timedelta(hours=9)))
    assert shown.camera == "Canon EOS 5D #0042"
    assert stamp(saved(scene(), kind, exif=exif.tobytes())) == (shown.captured_at, shown.camera)
    assert stamp(b"nothing") == (None, None)


@pytest.mark.parametrize("value", ["0000:00:00 00:00:00", "yesterday", "", "2025:13:40 99:99:99"])
def test_a_time_that_is_none(value: str) -> None:
    exif = Pillow.Exif()
    exif[0x0132], exif[0x010F] = value, "A\x1b[31m\nB"
    shown = decode(saved(scene(), "JPEG", exif=exif))
    assert shown.captured_at is None
    assert shown.camera == "A[31mB"


def test_both_decoders_show_the_same(shared: Path) -> None:
    """OpenCV and Pillow agree on every byte of plain JPEGs, so the faster one may be taken."""
    for path in sorted((shared / "data/lfw_10x10/images").rglob("*.jpg"))[::5]:
        data = path.read_bytes()
        with Pillow.open(io.BytesIO(data)) as picture:
            assert np.array_equal(decode(data).pixels, np.asarray(picture.convert("RGB")))


def test_encoders_and_thumbnails() -> None:
    assert np.array_equal(decode(encode_png(scene())).pixels, scene())
    assert np.abs(decode(encode_jpeg(scene(), 95)).pixels.astype(int) - scene()).mean() < 4
    assert thumbnail(scene(), 40).shape == (30, 40, 3)
    assert thumbnail(scene(), 400).shape == (60, 80, 3)
    assert thumbnail(scene(1, 900), 30).shape == (1, 30, 3)


# ---- anything at all

SEEDS = [
    saved(scene(24, 32), "JPEG"),
    saved(scene(24, 32), "JPEG", progressive=True),
    saved(Pillow.fromarray(scene(24, 32)).convert("CMYK"), "JPEG"),
    saved(scene(24, 32), "PNG"),
    saved(Pillow.fromarray(scene(24, 32)).convert("P"), "PNG"),
    saved(scene(24, 32), "WEBP"),
    saved(scene(24, 32), "TIFF"),
    saved(scene(24, 32), "GIF"),
    saved(scene(24, 32), "BMP"),
    saved(scene(24, 32), "PPM"),
]


def whole_or_refused(data: bytes) -> None:
    try:
        shown = decode(data, max_pixels=1_000_000)
    except BadImage:
        return
    assert isinstance(shown, Decoded)
    assert shown.pixels.shape == (shown.height, shown.width, 3)
    assert shown.pixels.dtype == np.uint8


@given(st.binary(max_size=300), st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]), st.integers(0, 40))
@settings(max_examples=150, deadline=None)
def test_any_exif(junk: bytes, start: bytes, entries: int) -> None:
    """Broken EXIF is no EXIF: the picture is shown all the same."""
    count = struct.pack(("<" if start[:2] == b"II" else ">") + "H", entries)
    plain = saved(scene(24, 32), "PNG")
    shown = decode(plain[:33] + chunk(b"eXIf", start + count + junk) + plain[33:])
    assert sorted(shown.pixels.shape) == [3, 24, 32]


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_bytes(data: bytes) -> None:
    whole_or_refused(data)


@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_mutated_images(seed: bytes, changes: list[tuple[float, int]], early: bool) -> None:
    """early: in the headers, where the traps are."""
    data = bytearray(seed)
    for place, value in changes:
        data[int(place * (min(len(data), 64) if early else len(data)))] = value
    whole_or_refused(bytes(data))


@given(st.sampled_from(SEEDS), st.floats(0, 1), st.floats(0, 1), st.binary(max_size=20))
@settings(max_examples=200, deadline=None)
def test_spliced_images(seed: bytes, start: float, end: float, middle: bytes) -> None:
    first, second = int(min(start, end) * len(seed)), int(max(start, end) * len(seed))
    whole_or_refused(seed[:first] + middle + seed[second:])

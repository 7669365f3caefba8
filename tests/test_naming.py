import contextlib
import unicodedata
from datetime import date, datetime

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from everlearn.errors import BadInput
from everlearn.naming import (
    NameParts,
    clean_label,
    compile_pattern,
    escape,
    label_from_pattern,
    parse_log_name,
    parse_model_name,
    parse_name,
    render_log_name,
    render_model_name,
    render_name,
    time_in_name,
    unescape,
)

WHEN = datetime(2025, 7, 4, 13, 30, 22)
ANY_TEXT = st.text(st.characters(exclude_categories=()), min_size=1, max_size=60)  # lone surrogates too
MOMENTS = st.datetimes(min_value=datetime(1, 1, 1)).map(lambda when: when.replace(microsecond=0))


def test_the_names_of_the_design() -> None:
    assert render_name("person001", WHEN, "camera", "jpg") == "person001_20250704_133022_camera.jpg"
    assert render_name(None, WHEN, "camera", ".JPG", "1a2b") == "unlabelled_20250704_133022_camera_1a2b.jpg"
    assert parse_name("person001_20250704_133022_camera.jpg") == NameParts("person001", WHEN, "camera", "jpg")
    assert render_name("홍길동", WHEN, "현관", "png") == "홍길동_20250704_133022_현관.png"


@given(st.none() | ANY_TEXT, MOMENTS, ANY_TEXT, st.sampled_from(["jpg", "png", "npy"]), st.none() | ANY_TEXT)
def test_what_is_rendered_is_read_back(
    label: str | None, when: datetime, source: str, ext: str, suffix: str | None
) -> None:
    name = render_name(label, when, source, ext, suffix)
    parts = parse_name(name)
    assert parts is not None
    assert parts.when == when
    assert parts.ext == ext
    if not parts.shortened:
        assert parts.label == label
    if "==" not in name:
        assert parts.source == source
        assert parts.suffix == suffix


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_a_name_is_safe_on_every_file_system(label: str, source: str, suffix: str) -> None:
    name = render_name(label, WHEN, source, "jpg", suffix)
    assert len(name.encode("utf-8")) <= 255  # and no lone surrogate is left, or this would raise
    assert not set(name) & set('/\\:*?"<>| \n\r\t\0%#')
    assert ".." not in name
    assert name[0] not in ".-~"
    assert name.isprintable()
    assert unicodedata.normalize("NFC", name) == name
    assert name.partition(".")[0].lower() not in ("con", "nul", "aux", "prn", "com1", "lpt9")
    assert parse_name(unicodedata.normalize("NFD", name)) == parse_name(name)  # as HFS+ gives it back


@given(ANY_TEXT, ANY_TEXT)
def test_two_labels_never_share_a_name(one: str, other: str) -> None:
    assume(one != other)
    assert render_name(one, WHEN, "c", "jpg") != render_name(other, WHEN, "c", "jpg")


@pytest.mark.parametrize(
    ("label", "escaped"),
    [
        ("a/b", "a=2Fb"),
        ("..", "=2E=2E"),
        ("-rf", "=2Drf"),
        ("nul.x", "=6Eul.x"),
        ("unlabelled", "=75nlabelled"),
        ("new york", "new=20york"),
        ("a=b", "a=3Db"),
        ("under_score", "under_score"),
    ],
)
def test_escapes(label: str, escaped: str) -> None:
    assert escape(label) == escaped
    assert unescape(escaped) == label


def test_a_label_that_looks_like_a_name() -> None:
    for label in ("a_20250704_133022_cam", "20250704_133022", "x_20200101_000000_20200101_000000"):
        for suffix in (None, "20250704", "133022"):
            parts = parse_name(render_name(label, WHEN, "20250704", "jpg", suffix))
            assert parts == NameParts(label, WHEN, "20250704", "jpg", suffix)


def test_a_very_long_label_is_cut_with_a_digest() -> None:
    one, other = "가" * 500, "가" * 499 + "나"
    name = render_name(one, WHEN, "camera", "jpg")
    parts = parse_name(name)
    assert len(name.encode()) < 200
    assert name != render_name(other, WHEN, "camera", "jpg")
    assert parts is not None
    assert parts.shortened
    assert parts.label is None
    assert parts.source == "camera"


@given(st.text(max_size=80))
def test_parsing_never_fails(name: str) -> None:
    parse_name(name), parse_model_name(name), parse_log_name(name), time_in_name(name), unescape(name)


@pytest.mark.parametrize(
    "name", ["cat.jpg", "a_20251399_000000_c.jpg", "a_20250704_133022.jpg", "=zz_20250704_133022_c.jpg"]
)
def test_names_of_another_form(name: str) -> None:
    assert parse_name(name) is None


def test_render_refuses_what_cannot_be_a_name() -> None:
    for bad in (("", "c", "jpg", None), ("a", "", "jpg", None), ("a", "c", "j/g", None), ("a", "c", "jpg", "")):
        with pytest.raises(BadInput):
            render_name(bad[0], WHEN, bad[1], bad[2], bad[3])


def test_clean_label() -> None:
    assert clean_label(unicodedata.normalize("NFD", " 홍길동 ")) == "홍길동"
    for bad in ("", "  ", "a\nb", "a\x00", "\udcff"):
        with pytest.raises(BadInput) as error:
            clean_label(bad)
        assert "\n" not in error.value.message
        assert error.value.message.isprintable()


@pytest.mark.parametrize(
    ("name", "when"),
    [
        ("IMG_20250704_133022.jpg", WHEN),
        ("IMG-20250704-133022-001.jpg", WHEN),
        ("PXL_20250704_133022123.jpg", WHEN),
        ("2025-07-04 13.30.22.png", WHEN),
        ("20250704133022.jpg", WHEN),
        ("Screenshot 2025-07-04 at 13.30.22.png", WHEN),
        ("2025-07-04T13:30:22.jpg", WHEN),
        ("IMG_20250704.jpg", None),
        ("frame_123456789012345678.jpg", None),
        ("20251304_133022.jpg", None),
        ("cat.1.jpg", None),
    ],
)
def test_time_in_name(name: str, when: datetime | None) -> None:
    assert time_in_name(name) == when


@pytest.mark.parametrize(
    ("pattern", "name", "label"),
    [
        ("{label}.{n}.jpg", "cat.12.jpg", "cat"),
        ("{label}.{n}.jpg", "big.cat.12.JPG", "big.cat"),
        ("{label}.{n}.jpg", "cat.x.jpg", None),
        ("{label}_{date}_{time}_{camera}.{ext}", "hong_gil_dong_20250704_133022_front_door.png", "hong_gil_dong"),
        ("{label}_*.jpg", "cat_01.5.jpg", "cat"),
        ("*_{date}_{time}_{label}.{ext}", "front_door_2025-07-04_13-30-22_홍길동.jpeg", "홍길동"),
        ("{label}/{camera}/*.jpg", "deep/below/cat/door/1.jpg", "cat"),
        ("{label}/{camera}/*.jpg", "door/1.jpg", None),
        ("[{label}] (+).jpg", "[a] (+).jpg", "a"),
    ],
)
def test_label_from_pattern(pattern: str, name: str, label: str | None) -> None:
    assert label_from_pattern(name, pattern) == label


def test_a_pattern_gives_time_camera_and_group() -> None:
    found = compile_pattern("{group}-{label}_{date}{time}_{camera}.{ext}").match("s1-cat_20250704133022_door.jpg")
    assert found is not None
    assert (found.label, found.when, found.camera, found.group) == ("cat", WHEN, "door", "s1")


@pytest.mark.parametrize(
    "pattern", ["{labe}.jpg", "{label", "label}", "{label}{n}.jpg", "{label}_{label}", "*{label}.jpg", "*.jpg", "{}"]
)
def test_a_bad_pattern_says_so(pattern: str) -> None:
    with pytest.raises(BadInput) as error:
        label_from_pattern("cat.1.jpg", pattern)
    assert repr(pattern) in error.value.message
    assert "{label}" in error.value.remedy


@given(st.text("{}*label.n_", max_size=30), st.text("label.n_1", max_size=40))
def test_any_pattern_matches_or_is_refused(pattern: str, name: str) -> None:
    with contextlib.suppress(BadInput):
        label_from_pattern(name, pattern)


@given(st.from_regex(r"[a-zA-Z가-힣_ -]{1,30}", fullmatch=True), st.integers(0, 10**9))
def test_labels_come_back_through_a_pattern(label: str, n: int) -> None:
    assert label_from_pattern(f"{label}.{n}.jpg", "{label}.{n}.jpg") == label


def test_no_name_makes_a_pattern_slow() -> None:
    """With backtracking between the stars this would take longer than the universe has."""
    assert label_from_pattern("_a" * 499 + "!", "*_" * 30 + "{label}_*_*_*_{n}.jpg") is None


def test_model_and_log_names() -> None:
    assert render_model_name(1, 12, WHEN) == "model_v1.12_20250704.onnx"
    assert parse_model_name("model_v1.12_20250704.onnx") == (1, 12, date(2025, 7, 4))
    assert parse_model_name("model_v1_20250704.onnx") is None
    assert render_log_name("day one", WHEN) == "training_day=20one_20250704.json"
    assert parse_log_name("training_day=20one_20250704.json") == ("day one", date(2025, 7, 4))


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.dates())
def test_model_names_are_read_back(major: int, minor: int, day: date) -> None:
    assert parse_model_name(render_model_name(major, minor, day)) == (major, minor, day)


@given(st.text(min_size=1, max_size=30), st.dates())
def test_log_names_are_read_back(experiment: str, day: date) -> None:
    name = render_log_name(experiment, day)
    assert "==" in name or parse_log_name(name) == (experiment, day)

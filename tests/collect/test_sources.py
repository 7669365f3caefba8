"""Folders and files as sources, with everything that file systems can hold."""

import os
import tracemalloc
import unicodedata
from datetime import datetime
from pathlib import Path

import pytest

from everlearn.collect.files import DEEPEST, SORTED_BELOW, entry_at, printable, read_regular
from everlearn.collect.options import SourceOptions
from everlearn.collect.sources import open_source
from everlearn.errors import BadInput, Missing
from everlearn.types import Found, Refused
from tests.child import powerless

JPEG = b"\xff\xd8\xff\xe0 not a whole one"


def put(path: Path, data: bytes = JPEG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def collect(spec: Path | str, **options: object) -> tuple[dict[str, Found], dict[str, str]]:
    """Found by name, and the reason of what was refused by the end of its path."""
    items = list(open_source(str(spec), SourceOptions(**options)).items())  # type: ignore[arg-type]
    found = {item.name: item for item in items if isinstance(item, Found)}
    refused = {item.path.rpartition("/")[2]: item.reason for item in items if isinstance(item, Refused)}
    assert len(found) + len(refused) == len(items)
    for path, reason in refused.items():
        assert path.isprintable()
        assert reason.isprintable()
    return found, refused


def test_a_folder_is_read_to_its_depth(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", JPEG + b"a")
    put(tmp_path / "b" / "c" / "d.PNG")
    put(tmp_path / "no_ending")
    put(tmp_path / "notes.txt", b"hello")
    for hidden in (".hidden.jpg", ".git/x.jpg", "Thumbs.db", "LICENSE", "b/README.md", "__MACOSX/y.jpg", "Desktop.ini"):
        put(tmp_path / hidden)
    found, refused = collect(tmp_path)
    assert set(found) == {"a.jpg", "d.PNG", "no_ending.jpg"}
    assert refused == {"notes.txt": "neither an image nor a video, by its name and its first bytes"}
    assert found["a.jpg"].read() == JPEG + b"a"
    assert found["a.jpg"].uri == str(tmp_path / "a.jpg")
    assert found["a.jpg"].size == len(JPEG) + 1
    assert found["a.jpg"].modified == (tmp_path / "a.jpg").stat().st_mtime
    assert found["a.jpg"].label is None
    assert open_source(str(tmp_path)).estimate() == 4


def test_labels_from_folders(tmp_path: Path) -> None:
    put(tmp_path / "train" / "cat" / "1.jpg")
    put(tmp_path / "test" / unicodedata.normalize("NFD", "고양이") / "2.jpg")
    put(tmp_path / "stray.jpg")
    found, _ = collect(tmp_path, labels_from="folder")
    assert {name: (item.label, item.label_by) for name, item in found.items()} == {
        "1.jpg": ("cat", "folder"),
        "2.jpg": ("고양이", "folder"),
        "stray.jpg": (None, None),
    }
    only, _ = collect(tmp_path / "train" / "cat", labels_from="folder")
    assert only["1.jpg"].label == "cat"


def test_labels_from_file_names(tmp_path: Path) -> None:
    put(tmp_path / "cat.1.jpg")
    put(tmp_path / "dog.jpg")
    found, refused = collect(tmp_path, labels_from="filename", pattern="{label}.{n}.jpg")
    assert found["cat.1.jpg"].label == "cat"
    assert found["cat.1.jpg"].label_by == "filename"
    assert refused == {"dog.jpg": "its name does not fit the pattern {label}.{n}.jpg"}
    detected, _ = collect(tmp_path, pattern="{label}.{n}.jpg")
    assert detected["cat.1.jpg"].label == "cat"


def test_names_of_our_own_form_are_read_without_a_pattern(tmp_path: Path) -> None:
    put(tmp_path / "person001_20250704_133022_camera.jpg")
    put(tmp_path / "unlabelled_20250704_133022_camera.jpg")
    put(tmp_path / "x.jpg")
    found, refused = collect(tmp_path, labels_from="filename")
    item = found["person001_20250704_133022_camera.jpg"]
    assert (item.label, item.camera, item.time_from) == ("person001", "camera", "name")
    assert item.captured_at == datetime(2025, 7, 4, 13, 30, 22)
    assert found["unlabelled_20250704_133022_camera.jpg"].label is None
    assert set(refused) == {"x.jpg"}


def test_time_in_a_name_and_what_a_pattern_says_beside_the_label(tmp_path: Path) -> None:
    put(tmp_path / "cat" / "door-s1-IMG_20250704_133022.jpg")
    found, _ = collect(tmp_path, labels_from="folder", pattern="{camera}-{group}-*.jpg")
    item = found["door-s1-IMG_20250704_133022.jpg"]
    assert (item.label, item.camera, item.group, item.time_from) == ("cat", "door", "s1", "name")
    assert item.captured_at == datetime(2025, 7, 4, 13, 30, 22)


def test_what_a_person_says_goes_first(tmp_path: Path) -> None:
    put(tmp_path / "cat" / "1.jpg")
    item = collect(tmp_path, labels_from="folder", label=" dog ", camera="door", group="g")[0]["1.jpg"]
    assert (item.label, item.label_by, item.camera, item.group) == ("dog", "option", "door", "g")
    with pytest.raises(BadInput):
        open_source(str(tmp_path), SourceOptions(label="a\nb"))


def test_a_single_file(tmp_path: Path) -> None:
    path = put(tmp_path / "cat" / "1.jpg")
    put(tmp_path / "cat" / "2.jpg")
    found, _ = collect(path, labels_from="folder")
    assert list(found) == ["1.jpg"]
    assert found["1.jpg"].label == "cat"
    assert open_source(str(path)).estimate() == 1


def test_sources_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(Missing):
        open_source(str(tmp_path / "nothing\nhere"))
    for bad in ("ftp://host/x", "s3://bucket/table.csv", "/dev/null", "a" * 5000, "a\0b"):
        with pytest.raises(BadInput):
            open_source(bad)
    with pytest.raises(BadInput):
        open_source(str(tmp_path), SourceOptions(labels_from="elsewhere"))  # type: ignore[arg-type]
    with pytest.raises(BadInput):
        open_source(str(tmp_path), SourceOptions(labels_from="filename", pattern="*.jpg"))


def test_excluded_folders_are_not_entered(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg")
    put(tmp_path / "workspace" / "new_data" / "b.jpg")
    assert set(collect(tmp_path, exclude=(str(tmp_path / "workspace"),))[0]) == {"a.jpg"}


def test_odd_names(tmp_path: Path) -> None:
    put(tmp_path / "홍길동.jpg")
    put(tmp_path / "new\nline.jpg")
    put(tmp_path / "a\x1b[31mred.jpg")
    put(tmp_path / "bad\nfolder" / "x.jpg")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.jpg")).write_bytes(JPEG)
    found, refused = collect(tmp_path)
    assert set(found) == {"홍길동.jpg"}
    assert set(refused) == {"new\\nline.jpg", "a\\x1b[31mred.jpg", "bad\\nfolder", "\\udcff\\udcfe.jpg"}
    assert all("rename it" in reason for reason in refused.values())


def test_links(tmp_path: Path) -> None:
    outside = put(tmp_path / "outside" / "secret.jpg")
    root = tmp_path / "source"
    put(root / "a" / "real.jpg")
    put(root / ".store" / "kept.jpg")
    (root / "inside.jpg").symlink_to(root / ".store" / "kept.jpg")
    (root / "leak.jpg").symlink_to(outside)
    (root / "leak_folder").symlink_to(outside.parent)
    (root / "up.jpg").symlink_to("../outside/secret.jpg")
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "above").symlink_to(tmp_path)
    (root / "sideways").symlink_to(root / "a")
    (root / "dangling.jpg").symlink_to(root / "none.jpg")
    (root / "self.jpg").symlink_to(root / "self.jpg")
    found, refused = collect(root)
    assert set(found) == {"real.jpg", "inside.jpg"}
    assert found["inside.jpg"].read() == JPEG
    assert refused == {
        "leak.jpg": "a link that leads outside of the source",
        "leak_folder": "a link that leads outside of the source",
        "up.jpg": "a link that leads outside of the source",
        "loop": "a loop of symbolic links",
        "above": "a loop of symbolic links",
        "sideways": "a link to a folder is not followed: what lies in it is read where it lies",
        "dangling.jpg": "it is not there, or a link that leads nowhere",
        "self.jpg": "a loop of symbolic links",
    }
    (tmp_path / "by_link").symlink_to(root)
    assert set(collect(tmp_path / "by_link")[0]) == {"real.jpg", "inside.jpg"}


def test_a_file_swapped_for_a_link_after_the_walk_is_not_read(tmp_path: Path) -> None:
    secret = put(tmp_path / "secret.jpg")
    path = put(tmp_path / "source" / "a.jpg")
    found, _ = collect(tmp_path / "source")
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(OSError):
        found["a.jpg"].read()


def test_pipes_never_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert collect(tmp_path)[1] == {"pipe.jpg": "not a regular file"}
    with pytest.raises(BadInput):
        read_regular(str(tmp_path / "pipe.jpg"), 100)
    with pytest.raises(BadInput):
        open_source(str(tmp_path / "pipe.jpg"))


def test_empty_and_too_large_files(tmp_path: Path) -> None:
    put(tmp_path / "empty.jpg", b"")
    put(tmp_path / "large.jpg", b"x" * 101)
    path = put(tmp_path / "grows.jpg", b"x" * 100)
    found, refused = collect(tmp_path, max_bytes=100)
    assert refused == {"empty.jpg": "an empty file", "large.jpg": "101 bytes, more than the limit of 100"}
    path.write_bytes(b"x" * 200)
    with pytest.raises(BadInput):
        found["grows.jpg"].read()


def test_permission_denied(tmp_path: Path) -> None:
    put(tmp_path / "shut" / "a.jpg")
    (tmp_path / "shut").chmod(0)

    def check() -> None:
        assert collect(tmp_path)[1] == {"shut": "permission denied"}
        with pytest.raises(BadInput, match="Permission denied"):
            open_source(str(tmp_path / "shut"))

    try:
        powerless(check)
    finally:
        (tmp_path / "shut").chmod(0o700)


def test_paths_longer_than_the_system_allows(tmp_path: Path) -> None:
    """Made step by step from inside, as a path from the root could not name it."""
    put(tmp_path / "fine.jpg")
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=folder)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(os.open("deep.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    items = list(open_source(str(tmp_path)).items())
    assert [item.name for item in items if isinstance(item, Found)] == ["fine.jpg"]
    refused = [item for item in items if isinstance(item, Refused)]
    assert len(refused) == 1
    assert "longer than the system allows" in refused[0].reason
    assert len(refused[0].path) < 1000


def test_folders_nested_too_deeply(tmp_path: Path) -> None:
    put(tmp_path / "/".join(["d"] * (DEEPEST + 5)) / "x.jpg")
    found, refused = collect(tmp_path)
    assert found == {}
    assert refused == {"d": f"folders are nested deeper than {DEEPEST} levels"}


def test_a_large_folder_streams_in_flat_memory(tmp_path: Path) -> None:
    """Twenty times the files take no more memory than one time does."""

    def peak(folder: Path, count: int) -> int:
        folder.mkdir()
        for number in range(count):
            os.close(os.open(folder / f"{number}.jpg", os.O_CREAT | os.O_WRONLY))
        source = open_source(str(folder))
        tracemalloc.start()
        items = source.items()
        first = next(items)
        assert isinstance(first, Refused)
        assert 1 + sum(1 for _ in items) == count
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    small = peak(tmp_path / "small", SORTED_BELOW + 1)
    assert peak(tmp_path / "large", 20_000) < 1.5 * small


@pytest.mark.parametrize(
    "path", ["../x.jpg", "/etc/passwd", "a/../../x.jpg", "link/x.jpg", "..\\x.jpg", "", "a\0b", "a\nb"]
)
def test_a_path_in_an_annotation_stays_inside(tmp_path: Path, path: str) -> None:
    put(tmp_path / "x.jpg")
    put(tmp_path / "set" / "a" / "y.jpg")
    (tmp_path / "set" / "link").symlink_to(tmp_path)
    with pytest.raises(BadInput):
        entry_at(path, str(tmp_path / "set"))
    assert entry_at("a/../a/y.jpg", str(tmp_path / "set")).below == "a/y.jpg"
    assert entry_at("a\\y.jpg", str(tmp_path / "set")).name == "y.jpg"


def test_printable() -> None:
    assert printable("a\n\x1b\u202e\udcff한.jpg") == "a\\n\\x1b\\u202e\\udcff한.jpg"
    assert len(printable("x" * 5000)) < 1000

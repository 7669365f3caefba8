"""The folder that Ultralytics trains on: what it reads there, and that writing it again moves nothing."""

from pathlib import Path

import pytest
import yaml

from everlearn.catalog import samples
from everlearn.dataset.yolo_folder import write
from everlearn.errors import BadInput, Missing
from everlearn.types import Box
from tests.make import make_workspace

BOXES = (
    Box("person/courier", 0.1, 0.2, 0.3, 0.4),
    Box("고양이", 0.0, 0.0, 1.0, 0.0416667),
    Box("person", 0.5, 0.5, 1e-7, 0.5),
)
CLASSES = ["person", "고양이"]


@pytest.fixture
def workspace(tmp_path):
    return make_workspace(tmp_path, 4, ("a",))


def ids_of(workspace):
    with workspace.catalog.read() as tx:
        return [one.id for batch in samples.batches(tx) for one in batch]


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.stat() for path in folder.rglob("*") if path.is_file()}


def test_images_are_linked_once_and_texts_say_the_boxes_exactly(workspace, tmp_path):
    a, b, c, d = ids_of(workspace)
    out = tmp_path / "out"
    path = write(workspace, out, {"train": [(a, BOXES), (b, ())], "validation": [(c, BOXES[:1])]}, CLASSES)
    assert yaml.safe_load(path.read_text()) == {
        "train": "images/train", "val": "images/val", "nc": 2, "names": {0: "person", 1: "고양이"}
    }  # fmt: skip
    assert (out / "labels" / "train" / f"{a}.txt").read_text().splitlines() == [
        "0 0.25000000 0.40000000 0.3000000 0.4000000",
        "0 0.50000005 0.75000000 0.0000001 0.5000000",
        "1 0.50000000 0.02083335 1.0000000 0.0416667",
    ]
    assert (out / "labels" / "train" / f"{b}.txt").read_text() == ""
    first = tree(out)
    assert sum(stat.st_nlink > 1 for stat in first.values()) == 3
    (out / "labels" / "train.cache").write_bytes(b"old")
    (out / "images" / "train" / ".x.part").write_bytes(b"half")
    (out / "labels" / "train" / f"{a}.txt").write_text("0 0.2")  # killed in the middle of it
    write(workspace, out, {"train": [(a, BOXES)], "validation": [(c, BOXES[:1])], "test": [(d, ())]}, CLASSES)
    second = tree(out)
    assert {name for name in first if name not in second} == {f"{kind}/train/{b}.{end}" for kind, end in
                                                              (("images", "png"), ("labels", "txt"))}  # fmt: skip
    kept = [name for name in first if name.startswith("images") and b not in name] + [f"labels/val/{c}.txt"]
    assert all(first[name].st_ino == second[name].st_ino and first[name].st_mtime_ns == second[name].st_mtime_ns
               for name in kept)  # fmt: skip
    assert len((out / "labels" / "train" / f"{a}.txt").read_text().splitlines()) == 3


def test_ultralytics_reads_it(workspace, tmp_path, monkeypatch):
    data = pytest.importorskip("ultralytics.data.utils")
    monkeypatch.setattr(data, "check_font", lambda *_: None)  # it would fetch one for Korean names
    a, b, c, _ = ids_of(workspace)
    path = write(workspace, tmp_path / "out", {"train": [(a, BOXES), (b, ())], "validation": [(c, BOXES[:1])]}, CLASSES)
    said = data.check_det_dataset(str(path), autodownload=False)
    assert (said["names"], said["nc"]) == ({0: "person", 1: "고양이"}, 2)
    images = sorted(str(path) for path in Path(said["train"]).iterdir())
    seen = {}
    for image, text in zip(images, data.img2label_paths(images), strict=True):
        _, rows, *_, missing, found, _, corrupt, message = data.verify_image_label(
            (image, text, "", False, 2, 0, 0, False)
        )
        assert (missing, found, corrupt, message) == (0, 1, 0, "")
        seen[Path(image).stem] = rows.round(6).tolist()
    assert seen[b] == []
    assert seen[a][0] == pytest.approx([0, 0.25, 0.4, 0.3, 0.4])
    assert len(seen[a]) == 3


def test_a_jpeg_without_its_end_is_not_linked(tmp_path):
    """Ultralytics mends it, and must not mend the store's own file."""
    workspace = make_workspace(tmp_path, 3, ("a",))
    with workspace.catalog.read() as tx:
        [jpeg] = [one for batch in samples.batches(tx) for one in batch if one.key.endswith("jpg")]
    file = workspace.store.path(jpeg.key)
    file.write_bytes(file.read_bytes()[:-2])
    write(workspace, tmp_path / "out", {"train": [(jpeg.id, ())]}, ["x"])
    assert (tmp_path / "out" / "images" / "train" / f"{jpeg.id}.jpg").stat().st_nlink == 1
    assert yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())["val"] == "images/train"


def test_what_cannot_be_written(workspace, tmp_path):
    a = ids_of(workspace)[0]
    with pytest.raises(BadInput, match="dog"):
        write(workspace, tmp_path / "out", {"train": [(a, [Box("dog", 0, 0, 1, 1)])]}, CLASSES)
    with pytest.raises(BadInput, match="twice"):
        write(workspace, tmp_path / "out", {"train": [(a, ()), (a, ())]}, CLASSES)
    with pytest.raises(Missing):
        write(workspace, tmp_path / "out", {"train": [("0" * 32, ())]}, CLASSES)

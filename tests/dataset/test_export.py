import csv
import json
import os
import subprocess
import sys
from datetime import datetime

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everlearn.catalog import samples, snapshots
from everlearn.catalog.samples import Sample
from everlearn.config import Config, Dataset
from everlearn.dataset.build import build
from everlearn.dataset.export import MARK, export, read
from everlearn.errors import BadInput, Corrupt, Missing, StoreFault
from everlearn.image import encode_png
from everlearn.types import Member
from everlearn.workspace import Workspace
from tests.make import Quiet, add_image, make_workspace, picture

FORMATS = ("imagefolder", "yolo", "coco", "csv")
HALVES = Config(dataset=Dataset(test=0.3, validation=0.3))
AWKWARD = ("a/b", "..", "A", "a", "con", "한글 이름", 'x,"y"', "=cmd", "l" * 300, "unlabelled", "🙂", "b=2F", "-rf")


@pytest.fixture
def workspace(tmp_path):
    return make_workspace(tmp_path, 8, ("a", "b", "c"), HALVES)


def expected(workspace, snapshot):
    with workspace.catalog.read() as tx:
        members = list(snapshots.members(tx, snapshot.number))
        rows = samples.some(tx, [one.id for one in members])
    return [
        (m.id, m.label, m.split, m.fold, m.camera, rows[m.id].group_key, rows[m.id].captured_at, m.parent)
        for m in members
    ]


def said(items):
    return [(i.id, i.label, i.split, i.fold, i.camera, i.group, i.time, i.parent) for i in items]


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored(workspace, id):
    with workspace.catalog.read() as tx:
        key = samples.get(tx, id).key
    with workspace.store.open(key) as file:
        return file.read()


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_exported_reads_back(workspace, tmp_path, format):
    snapshot, progress = build(workspace), Quiet()
    report = export(workspace, snapshot, tmp_path / "out", format, progress)
    items = list(read(tmp_path / "out"))
    assert said(items) == expected(workspace, snapshot)
    for item in items:
        assert (tmp_path / "out" / item.path).read_bytes() == stored(workspace, item.id)
    sizes = sum((tmp_path / "out" / item.path).stat().st_size for item in items)
    assert (report.samples, report.classes, report.bytes) == (24, 3, sizes)
    assert (report.path, progress.steps) == (tmp_path / "out", 24)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "workspace"]
    before = tree(tmp_path / "out")
    export(workspace, snapshot, tmp_path / "out", format, Quiet())
    assert tree(tmp_path / "out") == before


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_label_camera_and_time_reads_back(tmp_path_factory, data):
    text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=90)
    tmp_path = tmp_path_factory.mktemp("any")
    workspace = Workspace.create(tmp_path / "workspace", Config())
    for number in range(data.draw(st.integers(1, 4))):
        when = data.draw(st.none() | st.datetimes(datetime(1970, 1, 1)))
        label = data.draw(st.sampled_from(AWKWARD) | text)
        camera, group = data.draw(text), data.draw(text)
        id, key, came = f"{number:032x}", f"new_data/validated/{number}.npy", datetime(2025, 1, 1)
        one = Sample(id, "row", key, 1, "", when, "exif", camera, group, came)
        (workspace.root / one.key).write_bytes(bytes([number]))
        with workspace.catalog.write() as tx:
            samples.add(tx, [one])
            there = snapshots.latest(tx)
            members = list(snapshots.members(tx, there.number)) if there else []
            snapshot = snapshots.build(tx, [*members, Member(one.id, label, "train", number)])
    export(workspace, snapshot, tmp_path / "out", "csv", Quiet())
    assert said(read(tmp_path / "out")) == expected(workspace, snapshot)
    workspace.catalog.close()


@pytest.mark.parametrize("format", FORMATS)
def test_no_label_leads_out_of_the_folder_or_into_another_class(tmp_path, format):
    workspace = make_workspace(tmp_path, 3, AWKWARD, Config(dataset=Dataset(test=0, validation=0)))
    snapshot = build(workspace)
    export(workspace, snapshot, tmp_path / "out", format, Quiet())
    items = list(read(tmp_path / "out"))
    assert said(items) == expected(workspace, snapshot)
    assert {item.label for item in items} == set(AWKWARD)
    for item in items:
        assert os.path.realpath(tmp_path / "out" / item.path).startswith(str(tmp_path / "out") + os.sep)
    if format in ("imagefolder", "yolo"):
        assert len({item.path.rpartition("/")[0] for item in items}) == len(AWKWARD)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "workspace"]


def test_a_file_name_tells_the_time_only_where_a_camera_did(tmp_path):
    workspace = make_workspace(tmp_path, 1, ("a",))
    add_image(workspace, stored(workspace, next(iter(all_ids(workspace)))) + b"x", "a", captured_at=None)
    add_image(workspace, stored(workspace, next(iter(all_ids(workspace)))) + b"yy", "a", time_from="file")
    export(workspace, build(workspace), tmp_path / "out", "imagefolder", Quiet())
    names = [(i.time_from, i.path.rpartition("/")[2]) for i in read(tmp_path / "out")]
    assert len(names) == 3
    for time_from, name in names:
        assert name.startswith("a_20250704_133022_") == (time_from == "exif")


def all_ids(workspace):
    with workspace.catalog.read() as tx:
        return [one.id for batch in samples.batches(tx) for one in batch]


def test_every_side_of_an_image_folder_has_every_class(tmp_path):
    workspace = make_workspace(tmp_path, 2, [f"class{n:02d}" for n in range(12)], HALVES)
    for format, names in (("imagefolder", ["test", "train", "validation"]), ("yolo", ["test", "train", "val"])):
        export(workspace, build(workspace), tmp_path / format, format, Quiet())
        sides = [path for path in (tmp_path / format).iterdir() if path.is_dir()]
        assert sorted(path.name for path in sides) == names
        assert {tuple(sorted(p.name for p in side.iterdir())) for side in sides} == {
            tuple(f"class{n:02d}" for n in range(12))
        }


def test_yolo_numbers_classes_as_ultralytics_does(tmp_path):
    workspace = make_workspace(tmp_path, 4, ("b", "A/x", "~z"), Config(dataset=Dataset(test=0, validation=0)))
    export(workspace, build(workspace), tmp_path / "out", "yolo", Quiet())
    said_by = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    folders = sorted(path.name for path in (tmp_path / "out" / "train").iterdir())
    by_path = {item.path.split("/")[1]: item.label for item in read(tmp_path / "out")}
    assert [said_by["names"][n] for n in range(3)] == [by_path[name] for name in folders]
    assert (said_by["train"], said_by["nc"], "val" in said_by) == ("train", 3, False)


def test_coco_alone_says_everything(workspace, tmp_path):
    snapshot = build(workspace)
    export(workspace, snapshot, tmp_path / "out", "coco", Quiet())
    found = []
    for path in (tmp_path / "out" / "annotations").iterdir():
        data = json.loads(path.read_text())
        names = {one["id"]: one["name"] for one in data["categories"]}
        assert list(names.values()) == ["a", "b", "c"]
        boxes = {one["image_id"]: one for one in data["annotations"]}
        assert len(boxes) == len(data["images"]) == len(data["annotations"])
        for image in data["images"]:
            box, more = boxes[image["id"]], image["everlearn"]
            assert box["whole_image"]
            assert box["bbox"] == [0, 0, image["width"], image["height"]]
            assert (tmp_path / "out" / path.stem.removeprefix("instances_") / image["file_name"]).is_file()
            assert datetime.fromisoformat(image["date_captured"]) == datetime.fromisoformat(more["time"])
            found.append((more["id"], names[box["category_id"]], more["split"], more["fold"], more["camera"],
                          more["group"], datetime.fromisoformat(more["time"]), more["parent"]))  # fmt: skip
    assert sorted(found) == expected(workspace, snapshot)


def test_sizes_are_measured_where_the_catalog_has_none(workspace, tmp_path):
    ids = all_ids(workspace)
    with workspace.catalog.write() as tx:
        samples.change(tx, [{"id": id, "width": None} for id in ids])
    export(workspace, build(workspace), tmp_path / "out", "coco", Quiet())
    for path in (tmp_path / "out" / "annotations").iterdir():
        assert {one["width"] for one in json.loads(path.read_text())["images"]} == {24}


def test_only_an_export_of_ours_is_replaced(workspace, tmp_path):
    snapshot, out = build(workspace), tmp_path / "out"
    out.mkdir()
    export(workspace, snapshot, out, "csv", Quiet())  # an empty folder is taken
    export(workspace, snapshot, out, "imagefolder", Quiet())
    assert not (out / "files").exists()
    (out / "train" / "a" / "mine.txt").write_text("notes")
    with pytest.raises(BadInput, match="not empty"):
        export(workspace, snapshot, out, "csv", Quiet())
    (out / "train" / "a" / "mine.txt").unlink()
    (out / "train" / "a" / "link").symlink_to(tmp_path)
    with pytest.raises(BadInput, match="not empty"):
        export(workspace, snapshot, out, "csv", Quiet())
    (out / "train" / "a" / "link").unlink()
    (out / MARK).write_text("{")
    with pytest.raises(BadInput, match="not empty"):
        export(workspace, snapshot, out, "csv", Quiet())
    full = tmp_path / "full"
    full.mkdir()
    (full / "photo.jpg").write_bytes(b"x")
    with pytest.raises(BadInput, match="not empty"):
        export(workspace, snapshot, full, "csv", Quiet())
    assert (full / "photo.jpg").read_bytes() == b"x"
    with pytest.raises(BadInput, match="is a file"):
        export(workspace, snapshot, full / "photo.jpg", "csv", Quiet())


def test_the_workspace_itself_is_no_place(workspace, tmp_path):
    snapshot = build(workspace)
    link = tmp_path / "link"
    link.symlink_to(workspace.root / "new_data")
    places = [
        workspace.root,
        workspace.root.parent,
        workspace.root / "new_data",
        workspace.root / "new_data/validated/x",
    ]
    for place in (*places, workspace.root / ".git", link / "collected"):
        with pytest.raises(BadInput, match="belongs to the workspace"):
            export(workspace, snapshot, place, "csv", Quiet())


def test_a_format_that_is_not_there(workspace, tmp_path):
    with pytest.raises(BadInput, match="'tar'"):
        export(workspace, build(workspace), tmp_path / "out", "tar", Quiet())


def test_rows_of_features_are_no_images(workspace, tmp_path):
    with workspace.catalog.write() as tx:
        samples.change(tx, [{"id": id, "kind": "row"} for id in [one.id for b in samples.batches(tx) for one in b]])
    with pytest.raises(BadInput, match="row of features"):
        export(workspace, build(workspace), tmp_path / "out", "imagefolder", Quiet())
    assert not (tmp_path / "out").exists()
    assert export(workspace, build(workspace), tmp_path / "out", "csv", Quiet()).samples == 24


def test_a_changed_or_missing_file_is_told_and_leaves_the_old_export(workspace, tmp_path):
    snapshot, out = build(workspace), tmp_path / "out"
    export(workspace, snapshot, out, "csv", Quiet())
    before = tree(out)
    with workspace.catalog.read() as tx:
        one = next(samples.batches(tx))[3]
    path = workspace.root / one.key
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(Corrupt, match=one.id):
        export(workspace, snapshot, out, "csv", Quiet())
    path.unlink()
    with pytest.raises(Missing):
        export(workspace, snapshot, out, "csv", Quiet())
    assert tree(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "workspace"]


def test_a_folder_that_cannot_be_written(workspace, tmp_path):
    (tmp_path / "shut").write_text("a file where a folder is needed")
    with pytest.raises(StoreFault, match="cannot be written"):
        export(workspace, build(workspace), tmp_path / "shut" / "out", "csv", Quiet())


KILLED = """
import sys
from pathlib import Path
from tests.make import Quiet
from everlearn.catalog import snapshots
from everlearn.dataset.export import export
from everlearn.workspace import Workspace
workspace = Workspace.open(sys.argv[1])
with workspace.catalog.read() as tx:
    snapshot = snapshots.get(tx, sys.argv[3])
export(workspace, snapshot, Path(sys.argv[2]), "csv", Quiet())
"""


def test_a_killed_export_is_mended_by_the_next(workspace, tmp_path):
    first, out = build(workspace), tmp_path / "out"
    export(workspace, first, out, "csv", Quiet())
    before = tree(out)
    add_image(workspace, (workspace.root / "everlearn.yaml").read_bytes(), "a")
    second = build(workspace)
    for point in ("export.written", "export.moved", "export.batch"):
        words = [sys.executable, "-c", KILLED, str(workspace.root), str(out), str(second.number)]
        done = subprocess.run(words, env={**os.environ, "EVERLEARN_FAULT": point, "PYTHONPATH": "src:."}, check=False)
        assert done.returncode == -9
        if point != "export.moved":  # there the next one brings the old one back
            assert tree(out) == before
    export(workspace, second, out, "csv", Quiet())
    assert said(read(out)) == expected(workspace, second)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "workspace"]


def test_an_index_of_another_hand_is_refused(workspace, tmp_path):
    with pytest.raises(Missing, match=r"index\.csv"):
        next(read(tmp_path))
    export(workspace, build(workspace), tmp_path / "out", "csv", Quiet())
    path = tmp_path / "out" / "index.csv"
    rows = list(csv.reader(path.open(newline="")))
    for column, bad in ((0, "../../etc/passwd"), (0, "/etc/passwd"), (3, "exam"), (4, "one"), (7, "noon")):
        changed = [rows[0], [*rows[1][:column], bad, *rows[1][column + 1 :]]]
        csv.writer(path.open("w", newline="")).writerows(changed)
        with pytest.raises(Corrupt):
            list(read(tmp_path / "out"))
    path.write_text("id,label\n1,a\n")
    with pytest.raises(Corrupt, match="columns"):
        list(read(tmp_path / "out"))


@pytest.mark.parametrize("mode", ["over", "under", "weights", "none"])
def test_the_index_tells_a_trainer_how_to_balance_the_classes(tmp_path, mode):
    config = Config(dataset=Dataset(test=0, validation=0, balance=mode))
    workspace = make_workspace(tmp_path, 4, ("few", "many"), config)
    for seed in range(8):
        add_image(workspace, encode_png(picture(1000 + seed)), "many")
    export(workspace, build(workspace), tmp_path / "out", "csv", Quiet())
    with (tmp_path / "out" / "index.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    seen = {label: sum(int(r["times"]) for r in rows if r["label"] == label) for label in ("few", "many")}
    weights = {r["label"]: float(r["weight"]) for r in rows}
    assert seen == {
        "over": {"few": 12, "many": 12}, "under": {"few": 4, "many": 4},
        "weights": {"few": 4, "many": 12}, "none": {"few": 4, "many": 12},
    }[mode]  # fmt: skip
    assert weights == (
        {"few": 2.0, "many": pytest.approx(2 / 3, abs=1e-5)} if mode == "weights" else {"few": 1, "many": 1}
    )

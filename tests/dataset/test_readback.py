"""What is exported and collected again by the readers of data sets is the same data set."""

from datetime import datetime, timedelta

import pytest

from everlearn.catalog import samples, snapshots
from everlearn.collect.options import SourceOptions
from everlearn.collect.sources import open_source
from everlearn.collect.take import take
from everlearn.config import Config, Dataset
from everlearn.dataset.build import build, fold_of, side_of
from everlearn.dataset.export import export
from everlearn.types import Found
from everlearn.workspace import Workspace
from tests.make import Quiet, make_workspace

CONFIG = Config(dataset=Dataset(test=0.3, validation=0.2))
LABELS = ("cat", "a/b", "한글 이름", 'x, "y"')
FILE_TIME = datetime(2019, 2, 3, 4, 5, 6)


@pytest.fixture
def workspace(tmp_path):
    """Images in sessions of two; the last was dated by its file alone."""
    workspace = make_workspace(tmp_path, 6, LABELS, CONFIG)
    with workspace.catalog.write() as tx:
        rows = [one for batch in samples.batches(tx) for one in batch]
        samples.change(tx, [{"id": o.id, "group_key": f"session {n // 2}"} for n, o in enumerate(rows)])
        samples.change(tx, [{"id": rows[-1].id, "captured_at": FILE_TIME, "time_from": "file"}])
    return workspace


def held(workspace, config=CONFIG):
    with workspace.catalog.read() as tx:
        return sorted(
            (one.id, one.label, one.camera, one.captured_at, one.group_key,
             side_of(one.group_key, config.dataset), fold_of(one.group_key, config.learn.folds))
            for batch in samples.batches(tx) for one in batch
        )  # fmt: skip


@pytest.mark.parametrize("format", ["imagefolder", "yolo", "coco", "csv"])
def test_by_the_index_everything_comes_back(workspace, tmp_path, format):
    snapshot = build(workspace)
    export(workspace, snapshot, tmp_path / "out", format, Quiet())
    fresh = Workspace.create(tmp_path / "fresh", CONFIG)
    source = open_source(str(tmp_path / "out"), SourceOptions(labels_from="csv"))
    result = take(fresh, "out", source, Quiet())
    assert result.collected == 24
    assert held(fresh) == held(workspace)
    with workspace.catalog.read() as tx:
        before = [(m.id, m.label, m.split, m.fold, m.camera) for m in snapshots.members(tx, snapshot.number)]
    assert before == [(id, label, split, fold, camera) for id, label, camera, _, _, split, fold in held(fresh)]


@pytest.mark.parametrize(("format", "by"), [("imagefolder", "folder"), ("yolo", "folder"), ("coco", "coco")])
def test_without_the_index_labels_and_times_come_back(tmp_path, format, by):
    workspace = make_workspace(tmp_path, 6, ("cat", "dog", "한글"), CONFIG)
    with workspace.catalog.write() as tx:
        last = [one for batch in samples.batches(tx) for one in batch][-1].id
        samples.change(tx, [{"id": last, "captured_at": FILE_TIME, "time_from": "file"}])
    export(workspace, build(workspace), tmp_path / "out", format, Quiet())
    fresh = Workspace.create(tmp_path / "fresh", CONFIG)
    take(fresh, "out", open_source(str(tmp_path / "out"), SourceOptions(labels_from=by)), Quiet())
    rows = [(one[0], one[1], one[3].replace(microsecond=0)) for one in held(fresh)]
    assert rows == [(one[0], one[1], one[3]) for one in held(workspace)]
    assert (last, FILE_TIME) in [(id, time) for id, _, time in rows]


def test_coco_boxes_are_the_whole_image(workspace, tmp_path):
    export(workspace, build(workspace), tmp_path / "out", "coco", Quiet())
    items = list(open_source(str(tmp_path / "out"), SourceOptions(labels_from="coco")).items())
    assert len(items) == 24
    for item in items:
        assert isinstance(item, Found)
        [box] = item.boxes
        assert (box.label, box.x, box.y, box.width, box.height) == (item.label, 0, 0, 1, 1)


def test_times_without_a_camera_do_not_make_groups(tmp_path):
    """All that is exported at one time must not come back as one burst, on one side."""
    workspace = make_workspace(tmp_path, 4, ("a", "b"), CONFIG)
    with workspace.catalog.write() as tx:
        ids = [one.id for batch in samples.batches(tx) for one in batch]
        samples.change(tx, [{"id": id, "captured_at": None, "time_from": None, "group_key": id} for id in ids])
        samples.change(tx, [{"id": id, "collected_at": FILE_TIME + timedelta(seconds=1)} for id in ids])
    export(workspace, build(workspace), tmp_path / "out", "imagefolder", Quiet())
    fresh = Workspace.create(tmp_path / "fresh", CONFIG)
    take(fresh, "out", open_source(str(tmp_path / "out"), SourceOptions(labels_from="folder")), Quiet())
    assert [one[4] for one in held(fresh)] == sorted(ids)

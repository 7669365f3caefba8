import os
import subprocess
import sys

import numpy as np
import pytest

from everlearn.augment.make import PREVIEW, SET_ASIDE, augment, children, source_of
from everlearn.catalog import labels, samples, snapshots
from everlearn.catalog.tables import sample
from everlearn.config import Augment, Config, Dataset
from everlearn.dataset.build import build, side_of
from everlearn.errors import BadConfig, Corrupt, Missing
from everlearn.files import change
from everlearn.image import decode
from everlearn.label.person import say
from everlearn.workspace import AUGMENTED, QUARANTINED, Workspace
from tests.make import START, Quiet, add_image, make_workspace

CONFIG = Config(dataset=Dataset(test=0.3, validation=0.2), augment=Augment(copies=2))


@pytest.fixture
def workspace(tmp_path):
    return make_workspace(tmp_path, 8, ("a", "b"), CONFIG)


def side(workspace):
    return lambda one: side_of(one.group_key, workspace.config.dataset)


def run(workspace, **options):
    return augment(workspace, Quiet(), side=side(workspace), **options)


def everything(workspace):
    with workspace.catalog.read() as tx:
        return {one.id: one for batch in samples.batches(tx) for one in batch}


def copies(workspace):
    return [one for one in everything(workspace).values() if one.parent_id]


def files(workspace, below=AUGMENTED):
    return {key for key in workspace.store.keys(below) if key != PREVIEW}


def orphans(workspace):
    """Files that no row names."""
    return sorted(files(workspace) - {one.key for one in everything(workspace).values()})


def data(workspace, key):
    with workspace.store.open(key) as file:
        return file.read()


def test_training_images_alone_get_copies_that_take_after_them(workspace):
    report = run(workspace)
    rows = everything(workspace)
    training = [o for o in rows.values() if not o.parent_id and side(workspace)(o) == "train"]
    assert report.augmented == 2 * len(training) == len(copies(workspace)) > 0
    assert len(training) < 16
    for one in copies(workspace):
        parent = rows[one.parent_id]
        assert parent in training
        assert (one.label, one.label_by, one.status) == (parent.label, "parent", "labelled")
        assert (one.group_key, one.camera, one.captured_at, one.quality) == (
            parent.group_key, parent.camera, parent.captured_at, parent.quality
        )  # fmt: skip
        assert one.key.rpartition(".")[2] == parent.key.rpartition(".")[2]
        pixels, original = (decode(data(workspace, key)).pixels for key in (one.key, parent.key))
        assert pixels.shape == original.shape
        assert not np.array_equal(pixels, original)
    assert files(workspace) == {one.key for one in copies(workspace)}
    with workspace.catalog.read() as tx:
        members = list(snapshots.members(tx, build_of(workspace).number))
    assert {m.split for m in members if m.parent} == {"train"}
    assert len([m for m in members if m.parent]) == report.augmented


def build_of(workspace):
    return build(workspace)


def test_a_second_run_does_nothing(workspace):
    run(workspace)
    before, there = everything(workspace), {key: data(workspace, key) for key in files(workspace)}
    preview = data(workspace, PREVIEW)
    report = run(workspace)
    assert (report.augmented, report.relabelled, report.set_aside, report.restored) == (0, 0, 0, 0)
    assert everything(workspace) == before
    assert {key: data(workspace, key) for key in files(workspace)} == there
    assert data(workspace, PREVIEW) == preview


def test_the_copies_do_not_depend_on_when_the_images_came(tmp_path):
    one = make_workspace(tmp_path / "1", 5, ("a", "b"), CONFIG)
    other = Workspace.create(tmp_path / "2", CONFIG)
    ids = sorted(everything(one), reverse=True)
    for number, id in enumerate(ids):
        row = everything(one)[id]
        add_image(other, data(one, row.key), row.label, row.key[-3:], captured_at=row.captured_at, camera=row.camera)
        if number % 3 == 0:
            run(other)
    run(one)
    run(other)
    assert build(one).digest == build(other).digest
    assert files(one) == files(other)


def test_copies_follow_a_new_label_and_its_files_with_it(workspace):
    run(workspace)
    child = copies(workspace)[0]
    before = build(workspace)
    for label, times in (("c", 2), ("b", 2), ("c", 2)):
        say(workspace, child.parent_id, label)
        with workspace.catalog.read() as tx:
            assert build_members(workspace, child.id) is None  # until it follows, it is in no snapshot
            assert samples.get(tx, child.id).label != label
        assert run(workspace).relabelled == times
        now = everything(workspace)[child.id]
        assert (now.label, now.queued, now.status) == (label, False, "labelled")
        assert now.key.startswith(f"{AUGMENTED}/{label}_")
        assert files(workspace) == {one.key for one in copies(workspace)}
    assert build(workspace).samples == before.samples


def build_members(workspace, id):
    snapshot = build(workspace)
    with workspace.catalog.read() as tx:
        return next((m for m in snapshots.members(tx, snapshot.number) if m.id == id), None)


def test_copies_of_other_settings_are_set_aside_and_come_back(workspace):
    first = run(workspace)
    standing = {one.id for one in copies(workspace)}
    before = build(workspace).digest
    other = run(workspace, settings=Augment(rotation=30), copies=1)
    assert (other.augmented, other.set_aside) == (first.augmented // 2, first.augmented)
    rows = everything(workspace)
    assert {rows[id].refusal for id in standing} == {SET_ASIDE}
    assert {rows[id].status for id in standing} == {"quarantined"}
    assert {rows[id].key.rpartition("/")[0] for id in standing} == {QUARANTINED}
    back = run(workspace)
    assert (back.augmented, back.restored, back.set_aside) == (0, first.augmented, other.augmented)
    assert build(workspace).digest == before
    fewer = run(workspace, copies=1)
    assert (fewer.augmented, fewer.set_aside) == (0, first.augmented // 2)
    none = run(workspace, copies=0)
    assert (none.set_aside, none.preview) == (first.augmented // 2, None)
    assert PREVIEW not in set(workspace.store.keys(AUGMENTED))
    assert build_count(workspace) == 16
    more = run(workspace, copies=3)
    assert (more.augmented, more.restored) == (first.augmented // 2, first.augmented)


def build_count(workspace):
    return build(workspace).samples


def test_copies_die_with_their_parent(workspace):
    run(workspace)
    parent = copies(workspace)[0].parent_id
    with workspace.catalog.read() as tx:
        dying = children(tx, [parent])
    assert len(dying) == 2
    with workspace.catalog.write() as tx:
        samples.erase(tx, [parent])
    assert not [one for one in copies(workspace) if one.parent_id == parent]
    assert orphans(workspace) == sorted(one.key for one in dying)
    with change(workspace) as changed:
        changed.discard(orphans(workspace))
    assert orphans(workspace) == []


def test_rows_unlabelled_and_refused_images_have_no_copies(tmp_path):
    workspace = make_workspace(tmp_path, 3, ("a",), Config(dataset=Dataset(test=0, validation=0)))
    ids = sorted(everything(workspace))
    with workspace.catalog.write() as tx:
        samples.change(tx, [{"id": ids[0], "kind": "row"}])
        samples.change(tx, [{"id": ids[1], "refusal": "blurred"}])
        samples.restate(tx, ids)
        labels.say(tx, [labels.Said(ids[2], None, "person")])
    assert run(workspace).augmented == 0
    assert not copies(workspace)


def test_the_preview_shows_parents_and_their_copies(workspace):
    report = run(workspace)
    assert report.preview == PREVIEW == "new_data/augmented/preview.png"
    grid = decode(data(workspace, PREVIEW)).pixels
    parents = sorted({one.parent_id for one in copies(workspace)})[:8]
    assert grid.shape == (len(parents) * 28 + 4, 3 * 28 + 4, 3)
    first = decode(data(workspace, everything(workspace)[parents[0]].key)).pixels
    assert np.array_equal(grid[4:28, 4:28], first)
    assert orphans(workspace) == []


def test_copies_that_would_be_no_different_are_refused(workspace):
    zero = Augment(rotation=0, shift=0, brightness=0, contrast=0, noise=0, blur=0, erase=0)
    with pytest.raises(BadConfig, match="every strength is 0"):
        run(workspace, settings=zero)
    assert run(workspace, settings=zero, copies=0).augmented == 0


def test_one_and_the_same_copy_is_kept_once(workspace):
    """A tiny rotation of most images changes no pixel, or the same ones: what is left must still settle."""
    faint = Augment(rotation=0.3, shift=0, brightness=0, contrast=0, noise=0, blur=0, erase=0)
    run(workspace, settings=faint, copies=12)
    assert len({one.id for one in copies(workspace)}) == len(copies(workspace))
    assert files(workspace) == {one.key for one in copies(workspace)}
    before = build(workspace).digest
    fainter = Augment(rotation=0.3000001, shift=0, brightness=0, contrast=0, noise=0, blur=0, erase=0)
    run(workspace, settings=fainter, copies=12)
    run(workspace, settings=faint, copies=12)
    assert build(workspace).digest == before
    assert orphans(workspace) == []


def test_an_image_that_has_become_unreadable_is_named(workspace):
    one = next(o for o in everything(workspace).values() if side(workspace)(o) == "train")
    (workspace.root / one.key).write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(Corrupt, match=one.id):
        run(workspace)


def test_a_person_sees_no_time_that_was_not(tmp_path):
    workspace = make_workspace(tmp_path, 2, ("a",), Config(dataset=Dataset(test=0, validation=0)))
    untimed = add_image(
        workspace, data(workspace, next(iter(files(workspace, "new_data")))) + b"x", "a", captured_at=None
    )
    run(workspace)
    [one, _] = [o for o in copies(workspace) if o.parent_id == untimed.id]
    assert (one.captured_at, one.collected_at) == (None, START)


KILLED = """
import sys
from tests.make import Quiet
from everlearn.augment.make import augment
from everlearn.dataset.build import side_of
from everlearn.workspace import Workspace
workspace = Workspace.open(sys.argv[1])
augment(workspace, Quiet(), side=lambda one: side_of(one.group_key, workspace.config.dataset))
"""


def test_killed_anywhere_running_again_completes_it(tmp_path):
    undisturbed = make_workspace(tmp_path / "1", 8, ("a", "b"), CONFIG)
    run(undisturbed)
    workspace = make_workspace(tmp_path / "2", 8, ("a", "b"), CONFIG)
    for point in ("augment.stored:1", "augment.stored:7", "store.temp_written:3", "files.before_commit",
                  "augment.committed"):  # fmt: skip
        environment = {**os.environ, "EVERLEARN_FAULT": point, "PYTHONPATH": "src:."}
        done = subprocess.run([sys.executable, "-c", KILLED, str(workspace.root)], env=environment, check=False)
        assert done.returncode == -9, point
    run(workspace)
    assert build(workspace).digest == build(undisturbed).digest
    assert files(workspace) == files(undisturbed)
    assert orphans(workspace) == []


def test_a_copy_is_never_copied(workspace):
    run(workspace)
    with workspace.catalog.read() as tx:
        parents = {row.parent_id for row in tx.execute(sample.select().where(sample.c.parent_id.is_not(None)))}
    assert not parents & {one.id for one in copies(workspace)}
    run(workspace, settings=Augment(rotation=5))
    assert all(everything(workspace)[one.parent_id].parent_id is None for one in copies(workspace))


def test_bent_faces_are_copies_like_others(shared, tmp_path):
    weights, people = shared / "weights" / "yunet_n_dynamic.onnx", shared / "data" / "lfw_10x10" / "images"
    if not weights.is_file() or not people.is_dir():
        pytest.skip(f"no YuNet weights ({weights}) or no faces ({people})")
    workspace = make_workspace(tmp_path, 1, ("a", "b"), Config(dataset=Dataset(test=0.0, validation=0.0)))
    face = sorted(people.glob("*/*.jpg"))[0].read_bytes()
    parent = add_image(workspace, face, "a", "jpg")
    nothing = dict.fromkeys(("rotation", "shift", "brightness", "contrast", "noise", "blur"), 0)
    bends = Augment(**nothing, bend=0.1, landmarks=str(weights))
    assert run(workspace, settings=bends, copies=2).augmented == 2  # of the face alone: the others show none
    assert {one.parent_id for one in copies(workspace)} == {parent.id}
    original = decode(face).pixels.astype(int)
    for one in copies(workspace):
        changed = np.abs(decode(data(workspace, one.key)).pixels - original).mean()
        assert 0.5 < changed < 40
    before = files(workspace)
    assert run(workspace, settings=bends, copies=2).augmented == 0
    assert files(workspace) == before
    missing = Augment(bend=0.1, landmarks="none.onnx")
    with pytest.raises(Missing, match=r"none\.onnx"):
        run(workspace, settings=missing)
    assert files(workspace) == before


def test_bending_needs_what_finds_landmarks():
    with pytest.raises(ValueError, match="landmarks"):
        Augment(bend=0.1)


def test_settings_that_bend_nothing_leave_older_copies_alone():
    assert source_of(Augment(), 0) == source_of(Augment(landmarks="yunet.onnx"), 0) == "augment c2996e6da0b28b9d 0"
    assert source_of(Augment(bend=0.1, landmarks="yunet.onnx"), 0) != source_of(Augment(), 0)

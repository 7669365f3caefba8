"""Files follow their rows, and a kill at any point leaves nothing that `doctor` cannot mend."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from everlearn.catalog import labels, samples
from everlearn.catalog.samples import Sample
from everlearn.catalog.tables import sample
from everlearn.config import Config
from everlearn.files import Change, change, new_keys
from everlearn.stages import care
from everlearn.stages.care import DATA
from everlearn.types import SILENT
from everlearn.workspace import Workspace
from tests.catalog.rows import row

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "w", Config())


def id_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def add(workspace: Workspace, data: bytes, label: str | None = None, **columns: Any) -> Sample:
    """A sample with its file, taken in as `collect` does."""
    one = row(0, id=id_of(data), key=".jpg", group_key=id_of(data), label=label, camera="door", **columns)
    with change(workspace) as changed:
        key = new_keys(changed.tx, [one])[one.id]
        workspace.store.put(key, io.BytesIO(data))
        values = {slot: getattr(one, slot) for slot in one.__slots__} | {"key": key}
        samples.add(changed.tx, [Sample(**values)])
        if label is not None:
            labels.say(changed.tx, [labels.Said(one.id, label, "folder")])
    return got(workspace, one.id)


def got(workspace: Workspace, id: str) -> Sample:
    with workspace.catalog.read() as tx:
        return samples.get(tx, id)


def relabel(workspace: Workspace, label: str, *ids: str) -> None:
    with change(workspace) as changed:
        labels.say(changed.tx, [labels.Said(id, label, "person") for id in ids])
        changed.refile(ids)


def agrees(workspace: Workspace) -> None:
    """Every row has its own file, and every file its row."""
    with workspace.catalog.read() as tx:
        rows = {row.key: row.id for row in tx.execute(sa.select(sample.c.key, sample.c.id))}
    assert {key for folder in DATA for key in workspace.store.keys(folder)} == set(rows)
    for key, id in rows.items():
        with workspace.store.open(key) as file:
            assert id_of(file.read()) == id


def test_a_file_is_named_after_its_row(workspace: Workspace) -> None:
    one = add(workspace, b"1")
    assert one.key == "new_data/collected/unlabelled_20250704_133022_door.jpg"
    relabel(workspace, "홍 1", one.id)
    assert got(workspace, one.id).key == "new_data/collected/홍=201_20250704_133022_door.jpg"
    agrees(workspace)


def test_a_file_lies_in_the_folder_of_how_it_stands(workspace: Workspace) -> None:
    one = add(workspace, b"1", "cat")
    for values, folder in (
        ({"quality": 0.9, "refusal": None}, "validated"),
        ({"quality": 0.9, "refusal": "dark"}, "quarantined"),
        ({"quality": 0.9, "refusal": None}, "validated"),
        ({"quality": None, "refusal": "damaged"}, "quarantined"),
        ({"quality": None, "refusal": None}, "collected"),
    ):
        with change(workspace) as changed:
            samples.change(changed.tx, [{"id": one.id, **values}])
            changed.refile([one.id])
        assert got(workspace, one.id).key == f"new_data/{folder}/cat_20250704_133022_door.jpg"
        agrees(workspace)


def test_names_that_would_collide_are_set_apart(workspace: Workspace) -> None:
    made = [add(workspace, bytes([n]), "cat") for n in range(5)]
    assert len({one.key for one in made}) == 5
    assert made[1].key == f"new_data/collected/cat_20250704_133022_door_{made[1].id[:8]}.jpg"
    relabel(workspace, "dog", *(one.id for one in made))
    agrees(workspace)


def test_an_id_whose_beginning_collides_too_is_written_out(workspace: Workspace) -> None:
    rows = [row(n, id="abcdefab" + str(n) * 24, key=".jpg", camera="c") for n in range(3)]
    with workspace.catalog.write() as tx:
        keys = new_keys(tx, rows)
    assert len(set(keys.values())) == 3
    assert keys[rows[2].id].endswith(f"_{rows[2].id}.jpg")


def test_labels_that_differ_in_case_alone_do_not_share_a_name_where_case_is_folded(workspace: Workspace) -> None:
    first, second = add(workspace, b"1", "Cat"), add(workspace, b"2", "cat")
    assert first.key.casefold() != second.key.casefold()
    with workspace.catalog.write() as tx:
        keys = new_keys(tx, [row(n, key=".jpg", label=label) for n, label in enumerate(("DOG", "dog", "Dog"))])
    assert len({key.casefold() for key in keys.values()}) == 3


def test_a_change_of_case_alone_renames_to_a_name_of_its_own(workspace: Workspace) -> None:
    one = add(workspace, b"1", "cat")
    relabel(workspace, "Cat", one.id)
    assert got(workspace, one.id).key == f"new_data/collected/Cat_20250704_133022_door_{one.id[:8]}.jpg"
    agrees(workspace)


def test_labels_that_swap_lose_nothing(workspace: Workspace) -> None:
    one, two = add(workspace, b"1", "cat"), add(workspace, b"2", "dog")
    with change(workspace) as changed:
        labels.say(changed.tx, [labels.Said(one.id, "dog", "person"), labels.Said(two.id, "cat", "person")])
        changed.refile([one.id, two.id])
    agrees(workspace)


def test_a_name_that_becomes_free_is_not_given_away_before_the_commit(workspace: Workspace) -> None:
    """Else the old file's removal would take the new one with it, and a rollback would find another's bytes."""
    one, two = add(workspace, b"1", "cat"), add(workspace, b"2", "dog")
    with change(workspace) as changed:
        for word in (labels.Said(one.id, "cow", "person"), labels.Said(two.id, "cat", "person")):
            labels.say(changed.tx, [word])
            changed.refile([word.sample_id])
        for label in ("a", "b", "a", "b", "a", "b", "a"):
            labels.say(changed.tx, [labels.Said(one.id, label, "person")])
            changed.refile([one.id])
    agrees(workspace)


def test_what_another_has_taken_meanwhile_is_not_removed(workspace: Workspace) -> None:
    one = add(workspace, b"1", "cat")
    with change(workspace) as changed:
        changed.discard([one.key, "new_data/collected/nothing.jpg"])
    agrees(workspace)


def test_a_change_that_fails_leaves_rows_and_files_as_they_were(workspace: Workspace) -> None:
    one = add(workspace, b"1", "cat")

    def half(changed: Change) -> None:
        labels.say(changed.tx, [labels.Said(one.id, "dog", "person")])
        changed.refile([one.id])
        raise RuntimeError

    with pytest.raises(RuntimeError), change(workspace) as changed:
        half(changed)
    assert got(workspace, one.id) == one
    care.doctor(workspace, SILENT)
    agrees(workspace)


KILLED = """
import sys
from everlearn.catalog import labels, samples
from everlearn.files import change
from everlearn.workspace import Workspace
workspace = Workspace.open(sys.argv[1])
with change(workspace) as changed:
    ids = [one.id for batch in samples.batches(changed.tx) for one in batch]
    labels.say(changed.tx, [labels.Said(id, "dog", "person") for id in ids])
    changed.refile(ids)
"""


POINTS = [("files.copied", 1), ("files.copied", 3), ("files.before_commit", 1), ("files.committed", 1)]


@pytest.mark.parametrize(("point", "passing"), [*POINTS, ("files.removed", 1), ("files.removed", 3)])
def test_a_kill_anywhere_is_mended(workspace: Workspace, point: str, passing: int) -> None:
    made = [add(workspace, bytes([n]), "cat") for n in range(5)]
    environment = {**os.environ, "EVERLEARN_FAULT": f"{point}:{passing}", "PYTHONPATH": str(ROOT / "src")}
    killed = subprocess.run([sys.executable, "-c", KILLED, workspace.root], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    found = care.doctor(workspace, SILENT, deep=True)
    assert found.lost == []
    agrees(workspace)
    committed = point in ("files.committed", "files.removed")
    assert {got(workspace, one.id).label for one in made} == ({"dog"} if committed else {"cat"})
    assert care.doctor(workspace, SILENT, deep=True).mended == []
    environment.pop("EVERLEARN_FAULT")
    subprocess.run([sys.executable, "-c", KILLED, workspace.root], env=environment, check=True)
    agrees(workspace)
    assert all("/dog_" in got(workspace, one.id).key for one in made)


# what doctor finds


def test_doctor_finds_a_file_under_another_name(workspace: Workspace) -> None:
    one = add(workspace, b"1", "cat")
    (workspace.root / one.key).rename(workspace.root / "new_data/validated/renamed by hand.jpg")
    assert care.doctor(workspace, SILENT).lost == []
    assert got(workspace, one.id).key == "new_data/validated/renamed by hand.jpg"
    agrees(workspace)


def test_doctor_finds_a_file_whose_name_another_took(workspace: Workspace) -> None:
    one = add(workspace, b"1", "cat")
    (workspace.root / one.key).rename(workspace.root / "new_data/collected/copy.jpg")
    (workspace.root / one.key).write_bytes(b"another")
    assert care.doctor(workspace, SILENT).lost == []
    with workspace.store.open(got(workspace, one.id).key) as file:
        assert file.read() == b"1"


def test_doctor_throws_no_stranger_away(workspace: Workspace) -> None:
    for folder, data in (("collected", b"1"), ("validated", b"2")):
        (workspace.root / "new_data" / folder / "mine.jpg").write_bytes(data)
    found = care.doctor(workspace, SILENT)
    assert len(found.mended) == 2
    assert sorted(path.read_bytes() for path in (workspace.root / ".everlearn/found").iterdir()) == [b"1", b"2"]
    agrees(workspace)


def test_doctor_says_what_is_lost(workspace: Workspace) -> None:
    one, two = add(workspace, b"1", "cat"), add(workspace, b"2", "cat")
    (workspace.root / one.key).unlink()
    (workspace.root / two.key).write_bytes(b"changed")
    assert care.doctor(workspace, SILENT).lost == [f"the file of sample {one.id} is gone"]
    assert set(care.doctor(workspace, SILENT, deep=True).lost) == {
        f"the file of sample {one.id} is gone",
        f"the file of sample {two.id} is changed",
    }

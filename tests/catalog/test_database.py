"""Migrations in place, one writer at a time, and clear words for what disks and servers do."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from everlearn.catalog import Database, answers, labels, samples, snapshots
from everlearn.catalog.database import _revisions
from everlearn.catalog.samples import Place
from everlearn.catalog.tables import metadata, sighting
from everlearn.errors import BadConfig, Corrupt, EverlearnError, NotInstalled, StoreFault
from everlearn.types import Member
from tests.catalog.rows import id_of, row

ADD_TEN = """
import sys
from everlearn.catalog import Database, turns
database = Database(sys.argv[1])
database.migrate()
for _ in range(10):
    with database.write() as tx:
        turns.set_to(tx, "count", turns.setting_of(tx, "count", 0) + 1)
"""


def start(script: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload,no-any-return]


def finished(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said


# --- migrations ---------------------------------------------------------------------------------------------------


def test_the_newest_migration_makes_the_tables_of_the_code(database: Database) -> None:
    with database.read() as tx:
        context = MigrationContext.configure(tx, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    assert database.revision() == _revisions()[-1]


def test_an_old_catalog_is_brought_up_to_date_with_all_that_is_in_it(url: str) -> None:
    database = Database(url)
    database._upgrade("0001")
    kept = row("kept", quality=0.5, label="홍", label_by="folder", status="labelled", measured={"a": 1.5})
    with database.write() as tx:
        samples.add(tx, [kept, row("child", parent_id=kept.id)])
        labels.say(tx, [labels.Said(kept.id, "홍", "folder")])
        tx.execute(sighting.insert(), [{"uri": "/a.jpg", "size": 1, "modified": 1.5, "sample_id": kept.id}])
        taken = snapshots.build(tx, [Member(kept.id, "홍", "train", 2, kept.camera)])
    database.close()
    database = Database(url)
    assert database.revision() == "0001"
    database.migrate()
    assert database.revision() == _revisions()[-1]
    with database.write() as tx:
        assert samples.get(tx, kept.id) == kept
        assert samples.get(tx, id_of("child")).parent_id == kept.id
        assert [event["label"] for event in labels.history(tx, kept.id)] == ["홍"]
        assert samples.seen(tx, [Place("/a.jpg", 1, 1.5)]) == {"/a.jpg": kept.id}
        assert snapshots.digest(snapshots.members(tx, 1)) == taken.digest
        answers.report(tx, kept.id, wrong="a", right="b", version="v1.0")  # the new tables are there
        with pytest.raises(sa.exc.IntegrityError):
            answers.report(tx, "nobody", wrong="a", right="b", version="v1.0")  # and foreign keys are on again
    database.close()


def test_a_catalog_of_a_newer_everlearn_is_left_alone(database: Database) -> None:
    with database.write() as tx:
        tx.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Corrupt, match=r"revision 9999, newer than this Everlearn\. Upgrade"):
        database.migrate()
    assert database.revision() == "9999"


def test_a_migration_that_fails_leaves_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import command

    upgrade = command.upgrade

    def broken(*arguments: object) -> None:
        upgrade(*arguments)  # type: ignore[arg-type]
        raise StoreFault("no power")

    monkeypatch.setattr(command, "upgrade", broken)
    database = Database(url)
    with pytest.raises(StoreFault, match="no power"):
        database.migrate()
    assert database.revision() is None
    with database.read() as tx:
        assert not sa.inspect(tx).has_table("sample")
    database.close()


def test_processes_that_come_at_once_make_the_tables_once_and_write_in_turn(url: str) -> None:
    finished([start(ADD_TEN, url) for _ in range(4)])
    database = Database(url)
    with database.read() as tx:
        from everlearn.catalog import turns

        assert turns.setting_of(tx, "count") == 40
    database.close()


# --- transactions -------------------------------------------------------------------------------------------------


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    def half(tx: sa.Connection) -> None:
        samples.add(tx, [row(1)])
        raise RuntimeError

    with pytest.raises(RuntimeError), database.write() as tx:
        half(tx)
    with database.read() as tx:
        assert samples.known(tx, [id_of(1)]) == set()


def test_a_reader_has_one_view_and_is_not_kept_waiting(database: Database) -> None:
    with database.read() as reader:
        assert samples.known(reader, [id_of(1)]) == set()
        with database.write() as writer:
            samples.add(writer, [row(1)])
        assert samples.known(reader, [id_of(1)]) == set()
    with database.read() as reader:
        assert samples.known(reader, [id_of(1)]) == {id_of(1)}


def test_a_second_writer_waits_for_the_first(database: Database) -> None:
    order = []
    first = threading.Event()

    def second() -> None:
        first.wait()
        with database.write():
            order.append("second")

    other = threading.Thread(target=second)
    other.start()
    with database.write():
        first.set()
        other.join(0.3)
        order.append("first")
    other.join()
    assert order == ["first", "second"]


def test_a_writer_that_waits_too_long_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everlearn.catalog.database.BUSY_SECONDS", 1)
    first, second = Database(url), Database(url)
    first.migrate()
    with first.write(), pytest.raises(StoreFault, match="locked by another program"), second.write():
        pass
    first.close()
    second.close()


def test_no_value_of_a_row_stands_in_an_error(database: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError) as error, database.write() as tx:
        samples.add(tx, [row(1, camera="secret-camera"), row(1, camera="secret-camera")])
    assert "secret-camera" not in str(error.value)


def test_what_was_deleted_leaves_the_files(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'catalog.db'}")
    database.migrate()
    with database.write() as tx:
        samples.add(tx, [row(n, camera="Hong-Gildong-was-here") for n in range(50)])
    with database.write() as tx:
        samples.erase(tx, [id_of(n) for n in range(50)])
    database.scrub()
    for file in tmp_path.iterdir():
        assert b"Hong-Gildong" not in file.read_bytes(), file.name
    database.close()


def test_postgres_is_scrubbed_too(database: Database) -> None:
    database.scrub()
    with database.write() as tx:
        samples.add(tx, [row(1)])


# --- SQLite's settings, and its faults ----------------------------------------------------------------------------


def made(folder: Path) -> Database:
    database = Database(f"sqlite:///{folder / 'catalog.db'}")
    database.migrate()
    return database


def test_sqlite_is_set_up_on_every_connection(tmp_path: Path) -> None:
    database = made(tmp_path)
    with database.read() as one, database.read() as two:
        for tx in (one, two):
            settings = {name: tx.exec_driver_sql(f"PRAGMA {name}").scalar() for name in
                        ("journal_mode", "foreign_keys", "secure_delete", "synchronous")}  # fmt: skip
            assert settings == {"journal_mode": "wal", "foreign_keys": 1, "secure_delete": 1, "synchronous": 2}
    database.close()


@pytest.mark.parametrize("at", [0, 4096 * 3])
def test_a_damaged_file_is_told_in_a_line(tmp_path: Path, at: int) -> None:
    database = made(tmp_path)
    with database.write() as tx:
        samples.add(tx, [row(n) for n in range(500)])
    database.scrub()
    database.close()
    with (tmp_path / "catalog.db").open("r+b") as file:
        file.seek(at)
        file.write(b"\xab" * 4096 * 40)
    database = Database(f"sqlite:///{tmp_path / 'catalog.db'}")
    with pytest.raises(Corrupt, match=r"catalog\.db is damaged"), database.read() as tx:
        list(samples.batches(tx))
    database.close()


@pytest.mark.parametrize("kind", ["folder", "no folder"])
def test_a_place_where_no_file_can_be(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "catalog.db" if kind == "folder" else tmp_path / "none" / "catalog.db"
    if kind == "folder":
        path.mkdir()
    with pytest.raises(StoreFault, match="cannot be opened"):
        Database(f"sqlite:///{path}").migrate()


READ_ONLY = """
import os, sys
from everlearn.catalog import Database, samples
from everlearn.errors import StoreFault
Database("sqlite://").migrate()  # all is imported while it may be read
os.setgroups([]); os.setgid(65534); os.setuid(65534)
database = Database(sys.argv[1])
database.migrate()
with database.read() as tx:
    assert samples.counts(tx)["new"] == 1
try:
    with database.write() as tx:
        samples.erase(tx, ["0"])
except StoreFault as fault:
    assert "cannot be written" in str(fault), fault
else:
    raise SystemExit("it was written")
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user or to mount")


@needs_root
@pytest.mark.parametrize("writer", [False, True])
def test_what_may_not_be_written_can_be_read(writer: bool) -> None:
    """By another user than the owner, who has it open meanwhile or not."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        database = made(folder)
        with database.write() as tx:
            samples.add(tx, [row(1)])
        if not writer:
            database.close()
        for path in (folder, *folder.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        source = Path(__file__).resolve().parents[2] / "src"
        home = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
        finished([start(READ_ONLY, f"sqlite:///{folder / 'catalog.db'}", env=home)])
        database.close()


FILL = """
import sys
from tests.catalog.rows import row
from everlearn.catalog import Database, samples
from everlearn.errors import StoreFault
database = Database(sys.argv[1])
database.migrate()
try:
    for part in range(200):
        with database.write() as tx:
            samples.add(tx, [row((part, n), thumbnail=bytes(1000)) for n in range(100)])
        print(part + 1, flush=True)
except StoreFault as fault:
    assert "full" in str(fault), fault
else:
    raise SystemExit("the disk was not full")
"""


@needs_root
@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount")
def test_a_full_disk_is_told_and_costs_only_the_batch_at_hand(tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", tmp_path], check=False).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        url = f"sqlite:///{tmp_path / 'catalog.db'}"
        root = Path(__file__).resolve().parents[2]
        process = start(
            FILL, url, cwd=root, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": f"{root}/src:{root}"}
        )
        out, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        database = Database(url)
        with database.read() as tx:
            assert samples.counts(tx)["new"] == 100 * len(out.split())
        database.close()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# --- addresses ----------------------------------------------------------------------------------------------------


def test_addresses_that_cannot_be() -> None:
    for url, kind in (
        ("postgresql+nothing://u:hunter2@h/d", BadConfig),
        ("postgresql+pg8000://u:hunter2@h/d", NotInstalled),
        ("postgresql://u:hunter2@h:port/d", BadConfig),
        ("hunter2", BadConfig),
    ):
        with pytest.raises(kind) as error:
            Database(url)
        assert "hunter2" not in str(error.value)


def test_a_server_that_is_not_there_is_named_without_the_password() -> None:
    pytest.importorskip("psycopg")
    database = Database("postgres://kim:hunter2@127.0.0.1:1/nothing")
    assert database.url.drivername == "postgresql+psycopg"
    with pytest.raises(StoreFault, match="server up") as error:
        database.migrate()
    assert "hunter2" not in str(error.value)
    assert "\n" not in error.value.message


def test_a_server_that_lets_nobody_write(postgres_url: str) -> None:
    owner = Database(postgres_url)
    with owner.write() as tx:
        tx.exec_driver_sql("CREATE ROLE guest LOGIN")
    try:
        guest = Database(postgres_url.replace("postgres@", "guest@"))
        with pytest.raises(EverlearnError, match="cannot be written: permission denied"):
            guest.migrate()
        guest.close()
    finally:
        with owner.write() as tx:
            tx.exec_driver_sql("DROP ROLE guest")
        owner.close()


def test_sqlite_really_is_the_file_named(tmp_path: Path) -> None:
    folder = tmp_path / "a?b=c%41 #문"
    folder.mkdir()
    database = Database(sa.URL.create("sqlite", database=str(folder / "catalog.db")))
    database.migrate()
    database.close()
    connection = sqlite3.connect(folder / "catalog.db")
    assert connection.execute("SELECT count(*) FROM sample").fetchone() == (0,)
    connection.close()

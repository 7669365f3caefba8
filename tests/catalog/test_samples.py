"""The samples' table: what goes in comes out, on both databases."""

from __future__ import annotations

import dataclasses

import pytest
import sqlalchemy as sa

from everlearn.catalog import Database, labels, samples, snapshots
from everlearn.catalog.samples import Place
from everlearn.catalog.tables import label_event, member, sample, sighting
from everlearn.errors import BadInput, Missing
from everlearn.types import STATUSES, Member
from tests.catalog.rows import WHEN, id_of, row

MANY = 2 * samples.BATCH + 1


def test_every_column_comes_back_as_it_went_in(database: Database) -> None:
    parent = row("parent")
    full = row(
        "full", kind="row", key="new_data/사람 '\"%_\\.npy", bytes=5 << 33, parent_id=parent.id, width=3, height=4,
        quality=0.1 + 0.2, measured={"sharpness": 1e-300, "λ": [1, None, "ß"]}, hash=b"\0\xff", thumbnail=bytes(256),
        descriptor=b"d", refusal="dark", refusal_value=0.3, refusal_limit=1 / 3, twin_of=id_of("x"), released=True,
        label="홍길동\U0001f600", label_by="person", queued=True, queue_reason="conflict", urgency=2.0, suspect="s",
        learned=True, status="quarantined",
    )  # fmt: skip
    with database.write() as tx:
        samples.add(tx, [full, parent])  # the child first: it is put after its parent
    with database.read() as tx:
        assert samples.get(tx, full.id) == full
        light = samples.some(tx, [full.id, parent.id])
    assert light[parent.id] == parent
    assert light[full.id] == dataclasses.replace(full, **dict.fromkeys(samples.LIGHT))
    assert full.time == WHEN


def test_measurements_that_are_no_numbers_are_nothing(database: Database) -> None:
    with database.write() as tx:
        samples.add(tx, [row(1, measured={"a": [float("nan"), 1.5], "b": float("inf")})])
        assert samples.get(tx, id_of(1)).measured == {"a": [None, 1.5], "b": None}


def test_a_beginning_of_an_id_is_enough_where_it_is_one(database: Database) -> None:
    twins = [row("a", id="ab" + "0" * 30), row("b", id="ab" + "1" * 30, key="other.jpg")]
    with database.write() as tx:
        samples.add(tx, twins)
    with database.read() as tx:
        assert samples.get(tx, "AB0").id == twins[0].id
        for text, kind in (("ab", BadInput), ("", BadInput), ("x%", BadInput), ("ac", Missing), ("f" * 40, Missing)):
            with pytest.raises(kind):
                samples.get(tx, text)


def test_more_than_one_statement_holds(database: Database) -> None:
    ids = sorted(id_of(n) for n in range(MANY))
    with database.write() as tx:
        samples.add(tx, [row(n) for n in range(MANY)])
        samples.change(tx, [{"id": id, "quality": 0.5, "measured": {"n": 1}} for id in ids])
        samples.restate(tx, ids)
    with database.read() as tx:
        assert samples.known(tx, [*ids, id_of("stranger")]) == set(ids)
        assert sorted(samples.some(tx, ids)) == ids
        assert [one.id for batch in samples.batches(tx, size=100) for one in batch] == ids
        odd = [one.id for batch in samples.batches(tx, sample.c.id.in_(ids[:7]), light=False, size=3) for one in batch]
        assert odd == ids[:7]
        assert samples.counts(tx) == dict.fromkeys(STATUSES, 0) | {"validated": MANY}
    with database.write() as tx:
        samples.erase(tx, ids[1:])
        assert [one.id for batch in samples.batches(tx) for one in batch] == ids[:1]


def test_a_batch_may_be_changed_while_the_next_is_read(database: Database) -> None:
    with database.write() as tx:
        samples.add(tx, [row(n) for n in range(25)])
        seen = 0
        for batch in samples.batches(tx, sample.c.status == "new", size=10):
            samples.change(tx, [{"id": one.id, "status": "validated"} for one in batch])
            seen += len(batch)
        assert seen == 25


def test_changes_name_the_same_columns(database: Database) -> None:
    with database.write() as tx, pytest.raises(AssertionError):
        samples.change(tx, [{"id": "a", "label": "x"}, {"id": "b", "status": "new"}])
    with database.write() as tx:
        samples.change(tx, [])


def test_two_files_never_share_a_name_even_where_case_is_folded(database: Database) -> None:
    with database.write() as tx:
        samples.add(tx, [row(1, key="a/Cat.jpg")])
    with pytest.raises(sa.exc.IntegrityError), database.write() as tx:
        samples.add(tx, [row(2, key="a/cat.JPG")])
    with database.write() as tx:
        samples.change(tx, [{"id": id_of(1), "key": "b/Dog.jpg"}])
        samples.add(tx, [row(2, key="a/cat.JPG")])
    with pytest.raises(sa.exc.IntegrityError), database.write() as tx:
        samples.change(tx, [{"id": id_of(2), "key": "B/dog.jpg"}])


def test_refusals_and_queue_are_in_order(database: Database) -> None:
    reasons = ["dark", "Blurred", "_odd", "dark", "ähnlich"]
    rows = [row(n, refusal=reason, status="quarantined") for n, reason in enumerate(reasons)]
    rows += [row(f"q{n}", quality=1.0, queued=True, urgency=n % 3, status="queued") for n in range(7)]
    with database.write() as tx:
        samples.add(tx, rows)
    with database.read() as tx:
        assert list(samples.refusals(tx).items()) == [("Blurred", 1), ("_odd", 1), ("dark", 2), ("ähnlich", 1)]
        queue = samples.queue(tx, 5)
    assert [(one.urgency, one.id) for one in queue] == sorted(
        ((one.urgency, one.id) for one in rows[5:]), reverse=True
    )[:5]


def test_erasing_takes_everything_that_hangs_on_a_sample(database: Database) -> None:
    with database.write() as tx:
        samples.add(tx, [row("parent", quality=1.0), row("other"), row("child", parent_id=id_of("parent"))])
        labels.say(tx, [labels.Said(id_of("parent"), "x", "folder"), labels.Said(id_of("child"), "x", "parent")])
        samples.sight(tx, [(Place("/a.jpg", 1, 1.0), id_of("parent"))])
        snapshots.build(tx, [Member(id_of("parent"), "x", "train", 0)])
        samples.erase(tx, [id_of("parent")])
        assert samples.known(tx, [id_of(name) for name in ("parent", "other", "child")]) == {id_of("other")}
        for table in (label_event, sighting, member):
            assert tx.execute(sa.select(sa.func.count()).select_from(table)).scalar() == 0


def test_places_are_recognised_until_they_change(database: Database) -> None:
    modified = 1751628622.123456789
    with database.write() as tx:
        samples.add(tx, [row(1), row(2)])
        first, second = Place("/a b'.jpg", 6 << 32, modified), Place("/b.jpg", 2, 2.0)
        samples.sight(tx, [(first, id_of(1)), (second, id_of(2))])
    with database.read() as tx:
        asked = [first, Place("/b.jpg", 3, 2.0), Place("/c.jpg", 1, 1.0), Place("/d.jpg", -1, -1.0)]
        assert samples.seen(tx, asked) == {"/a b'.jpg": id_of(1)}
    with database.write() as tx:
        samples.sight(tx, [(second, id_of(1)), (Place("/b.jpg", 3, 2.0), id_of(2))])
        assert samples.seen(tx, asked)["/b.jpg"] == id_of(2)
        samples.sight(tx, [])


def test_an_object_is_recognised_by_its_etag_whatever_its_time(database: Database) -> None:
    there = Place("s3://b/a.jpg", 5, 1.0, "one")
    with database.write() as tx:
        samples.add(tx, [row(1)])
        samples.sight(tx, [(there, id_of(1))])
        assert samples.seen(tx, [there._replace(modified=9.0)]) == {there.uri: id_of(1)}
        assert samples.seen(tx, [there._replace(etag="two")]) == {}
        assert samples.seen(tx, [there._replace(size=6)]) == {}
        assert samples.treated(tx, [there.uri], "tag:a=b") == set()
        samples.treat(tx, [there.uri], "tag:a=b")
        assert samples.treated(tx, [there.uri], "tag:a=b") == {there.uri}
        assert samples.treated(tx, [there.uri], "tag:a=c") == set()
        samples.sight(tx, [(there._replace(etag="two"), id_of(1))])
        assert samples.treated(tx, [there.uri], "tag:a=b") == set(), "it holds something else now"


def test_a_name_that_is_no_text_is_refused_in_a_line(database: Database) -> None:
    with pytest.raises(BadInput, match="no text"), database.write() as tx:
        samples.add(tx, [row(1, camera="\udcff")])

"""Snapshots: the same members, the same digest, on every database."""

from __future__ import annotations

import hashlib
import random

import pytest
import sqlalchemy as sa

from everlearn.catalog import Database, labels, samples, snapshots
from everlearn.catalog.tables import snapshot
from everlearn.errors import Missing
from everlearn.types import Member
from tests.catalog.rows import id_of, row

LABELS = ("cat", "Cat", "_x", "é", "고양이", "z", "A")


def members(count: int, shift: int = 0) -> list[Member]:
    made = [
        Member(id_of(n), LABELS[(n + shift) % 7], ("train", "test", "validation")[n % 3], n % 5, "문 door")  # type: ignore[arg-type]
        for n in range(count)
    ]
    return sorted(made, key=lambda one: one.id)


@pytest.fixture
def full(database: Database) -> Database:
    """With 60 labelled samples, put in without order."""
    order = list(range(60))
    random.Random(1).shuffle(order)
    with database.write() as tx:
        samples.add(tx, [row(n, quality=1.0) for n in order])
        labels.say(tx, [labels.Said(id_of(n), LABELS[n % 7], "folder") for n in order])
    return database


def test_the_digest_is_the_same_on_every_database(full: Database) -> None:
    with full.write() as tx:
        built = snapshots.build(tx, members(60))
        read = list(snapshots.members(tx, 1, size=7))
    assert read == members(60)
    assert built.digest == snapshots.digest(read)
    assert built.digest == "1ca72e0536dcc03f1185448302ebd085630ccc7e42ff2be6f96e6d5123a71a89"
    assert (built.number, built.samples, built.classes) == (1, 60, tuple(sorted(LABELS)))
    assert built.splits == {"train": 20, "test": 20, "validation": 20}


def test_a_digest_changes_with_each_thing_it_covers() -> None:
    first = Member("a" * 32, "x\t'", "train", 1)
    others = [Member("b" * 32, "x\t'", "train", 1), Member("a" * 32, "x", "train", 1)]
    others += [Member("a" * 32, "x\t'", "test", 1), Member("a" * 32, "x\t'", "train", 2)]
    assert len({snapshots.digest([one]) for one in [first, *others]}) == 5
    assert snapshots.digest([]) == hashlib.sha256(b"everlearn snapshot 1\n").hexdigest()


def test_nothing_changed_is_the_same_snapshot(full: Database) -> None:
    with full.write() as tx:
        assert snapshots.build(tx, members(60)) == snapshots.build(tx, members(60))
        assert len(snapshots.every(tx)) == 1


def test_old_snapshots_stay_what_they_were(full: Database) -> None:
    """Grown, shrunk, relabelled and back again: each still gives its own members."""
    states = [members(40), members(60), members(50, shift=1), members(10), members(40)]
    with full.write() as tx:
        built = [snapshots.build(tx, state) for state in states]
        assert [one.number for one in built] == [1, 2, 3, 4, 5]
        for one, state in zip(built, states, strict=True):
            assert list(snapshots.members(tx, one.number, size=9)) == state
            assert snapshots.get(tx, one.number).digest == snapshots.digest(state)
        assert snapshots.every(tx) == built
        assert snapshots.latest(tx) == built[-1]
        assert snapshots.get(tx, built[0].digest.upper()[:12]).number == 5, "the newest of a digest"


def test_names_that_are_not_one_snapshot(full: Database) -> None:
    with full.write() as tx:
        snapshots.build(tx, members(3))
        for name in ("", "%", "_", "7", 7, "zz", "²", "99999999999999999999"):
            with pytest.raises(Missing):
                snapshots.get(tx, name)


def test_what_the_memory_holds_is_learned_and_nothing_else(full: Database) -> None:
    with full.write() as tx:
        for number, state in enumerate([members(40), members(20), members(60)], 1):
            snapshots.build(tx, state)
            snapshots.mark_learned(tx, number)
            there = [one for batch in samples.batches(tx) for one in batch]
            assert {one.id for one in there if one.learned} == {one.id for one in state}
            assert all(one.status == samples.status_of(one) for one in there)
            assert samples.counts(tx)["learned"] == len(state)
        spoken = id_of(3)  # a person spoke while it was learned
        samples.change(tx, [{"id": spoken, "label": "another", "learned": False}])
        samples.restate(tx, [spoken])
        snapshots.mark_learned(tx, 3)
        assert samples.get(tx, spoken).status == "labelled"


def test_forgetting_reduces_every_snapshot_that_held_a_sample(full: Database) -> None:
    with full.write() as tx:
        for state in (members(40), members(60), members(50)):
            snapshots.build(tx, state)
        gone = [id_of(5), id_of(45), id_of(55)]
        snapshots.forget(tx, gone)
        reduced = tx.execute(sa.select(snapshot.c.reduced).order_by(snapshot.c.number)).scalars().all()
        assert reduced == [1, 3, 2]
        for number, count in ((1, 40), (2, 60), (3, 50)):
            left = list(snapshots.members(tx, number))
            assert left == [one for one in members(count) if one.id not in gone]
        rebuilt = snapshots.build(tx, [one for one in members(50) if one.id not in gone])
        assert rebuilt.number == 4
        assert rebuilt.digest == snapshots.digest(snapshots.members(tx, 4))


def test_a_reduced_snapshot_is_not_taken_for_the_whole_one(full: Database) -> None:
    with full.write() as tx:
        snapshots.build(tx, members(20))
        snapshots.forget(tx, [id_of(3)])
        again = snapshots.build(tx, members(20))
        assert again.number == 2
        assert list(snapshots.members(tx, 2)) == members(20)

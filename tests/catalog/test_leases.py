"""Leases: an image is looked at by one person at a time, whatever the database and however many ask at once."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import sqlalchemy as sa

from everlearn.catalog import Database, leases, samples
from everlearn.catalog.tables import lease, now
from tests.catalog.rows import id_of, row

WAITING = {"quality": 0.9, "queued": True, "queue_reason": "unsure", "status": "queued"}


def _queue(database: Database, number: int) -> list[str]:
    """Images that wait, in the order in which they are given."""
    with database.write() as tx:
        samples.add(tx, [row(n, **WAITING, urgency=1 - n / number) for n in range(number)])
    return [id_of(n) for n in range(number)]


def _take(database: Database, who: str, **more: object) -> str | None:
    with database.write() as tx:
        found = leases.take(tx, who, **more)  # type: ignore[arg-type]
    return found[0].id if found else None


def _expire(database: Database, id: str) -> None:
    with database.write() as tx:
        gone = now() - timedelta(seconds=1)
        assert tx.execute(lease.update().where(lease.c.sample_id == id).values(until=gone)).rowcount == 1


def test_the_most_urgent_that_nobody_has(database: Database) -> None:
    with database.write() as tx:  # neither waits for anybody who looks at images
        samples.add(tx, [row("labelled", quality=0.9, label="a", status="labelled"), row("row", kind="row", **WAITING)])
    assert _take(database, "mina") is None
    first, second, third = _queue(database, 3)
    assert _take(database, "mina") == first
    assert _take(database, "joon") == second
    assert _take(database, "mina") == first, "who asks again gets their own again"
    assert _take(database, "mina", having=[first]) == third
    assert _take(database, "joon", having=[second]) is None
    with database.read() as tx:
        assert leases.counts(tx, "joon") == leases.Counts(queued=4, mine=1, others=2)
        assert leases.counts(tx, "sora") == leases.Counts(queued=4, mine=0, others=3)


def test_a_lease_runs_out(database: Database) -> None:
    (first,) = _queue(database, 1)
    assert _take(database, "mina") == first
    assert _take(database, "joon") is None
    _expire(database, first)
    with database.write() as tx:
        assert leases.renew(tx, "mina", [first]) == [first], "nobody took it: it is hers again"
    _expire(database, first)
    assert _take(database, "joon") == first
    with database.write() as tx:
        assert leases.renew(tx, "mina", [first, id_of("nothing")]) == []
        assert leases.claim(tx, first, "mina") is None
        assert leases.give_back(tx, "mina", [first]) == 0
        held = leases.held(tx, first)
    assert held is not None
    assert held.who == "joon"


def test_given_back_at_once_or_in_a_moment(database: Database) -> None:
    first, second = _queue(database, 2)
    assert _take(database, "mina") == first
    with database.write() as tx:
        assert leases.give_back(tx, "mina", [first], seconds=60) == 1
    assert _take(database, "joon") == second, "for a moment it is kept for a page that is loaded again"
    assert _take(database, "mina") == first
    with database.write() as tx:
        assert leases.give_back(tx, "mina", [first, second]) == 1
    assert _take(database, "joon", having=[second]) == first


def test_skipped_images_are_left_out(database: Database) -> None:
    first, second = _queue(database, 2)
    assert _take(database, "mina", skipped=[first]) == second
    assert _take(database, "mina", having=[second], skipped=[first]) is None
    many = [id_of(f"other {n}") for n in range(3 * leases.MOST_SKIPPED)]
    assert _take(database, "mina", having=[second], skipped=[first, *many]) == first, "the oldest are forgotten"
    with database.write() as tx:
        samples.erase(tx, [first, second])
        assert tx.execute(sa.select(lease)).all() == [], "an erased sample takes its lease along"


def test_threads_never_get_the_same_image(database: Database) -> None:
    there = _queue(database, 24)

    def person(name: str) -> list[str]:
        mine: list[str] = []
        while (one := _take(database, name, having=mine)) is not None:
            mine.append(one)
        return mine

    with ThreadPoolExecutor(4) as pool:
        found = [id for ids in pool.map(person, ["mina", "joon", "sora", "hana"]) for id in ids]
    assert sorted(found) == sorted(there)


PERSON = """
import json, sys
from everlearn.catalog import Database, leases
database, name, mine = Database(sys.argv[1]), sys.argv[2], []
while True:
    with database.write() as tx:
        found = leases.take(tx, name, having=mine)
    if found is None:
        break
    mine.append(found[0].id)
print(json.dumps(mine))
"""


def test_processes_never_get_the_same_image(database: Database, url: str) -> None:
    there = _queue(database, 40)
    people = [
        subprocess.Popen([sys.executable, "-c", PERSON, url, name], stdout=subprocess.PIPE, text=True)
        for name in ("mina", "joon")
    ]
    found = [id for person in people for id in json.loads(person.communicate(timeout=60)[0])]
    assert sorted(found) == sorted(there)

"""Where samples are from, and what becomes of that when they go."""

from __future__ import annotations

from everlearn.catalog import Database, origins, samples
from everlearn.catalog.origins import Origin, together
from tests.catalog.rows import id_of, row

ROOMS = Origin("doorway/rooms", "3", "CC BY 4.0", "https://example.org/3")


def test_a_source_says_where_it_is_from_and_goes_with_its_last_sample(database: Database) -> None:
    with database.write() as tx:
        samples.add(tx, [row(1, source="/data/a"), row(2, source="/data/a"), row(3, source="/data/b")])
        origins.keep(tx, "/data/a", Origin("doorway/rooms", "2"))
        origins.keep(tx, "/data/a", ROOMS)
        origins.keep(tx, "/data/b", Origin(licence="MIT"))
        origins.keep(tx, "/data/empty", Origin(licence="GPL"))
        assert origins.every(tx)["/data/a"] == ROOMS
        assert origins.counts(tx) == {"/data/a": 2, "/data/b": 1}
        assert origins.licences(tx) == ["CC BY 4.0", "MIT"]
        samples.erase(tx, [id_of(3)])
        origins.clear(tx)
        assert list(origins.every(tx)) == ["/data/a"]
        assert origins.licences(tx) == ["CC BY 4.0"]


def test_parts_of_a_data_set_are_one() -> None:
    found = together([ROOMS, Origin("doorway/rooms", "3", "MIT"), Origin()])
    assert found == Origin("doorway/rooms", "3", "CC BY 4.0, MIT", "https://example.org/3")
    assert not together([])

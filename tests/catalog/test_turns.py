"""Turns, settings, and what must not come back."""

from __future__ import annotations

import sqlalchemy as sa

from everlearn.catalog import Database, turns
from everlearn.catalog.tables import suppressed
from tests.catalog.rows import id_of


def test_turns_are_counted(database: Database) -> None:
    with database.write() as tx:
        assert [turns.begin(tx) for _ in range(3)] == [1, 2, 3]
        turns.end(tx, 2, "promoted", {"accuracy": float("nan"), "문": [1]})
        found = turns.every(tx)
    assert [one["number"] for one in found] == [1, 2, 3]
    assert found[0]["ended_at"] is None
    assert (found[1]["decision"], found[1]["summary"]) == ("promoted", {"accuracy": None, "문": [1]})
    assert found[1]["started_at"] <= found[1]["ended_at"]


def test_settings_hold_any_plain_value(database: Database) -> None:
    with database.write() as tx:
        assert turns.setting_of(tx, "a", "default") == "default"
        for value in ({"x": [1, None, "문"]}, 0, "", False, None):
            turns.set_to(tx, "a", value)
            assert turns.setting_of(tx, "a", "default") == value


def test_forgotten_content_is_known_again_and_its_marks_tell_nothing(database: Database) -> None:
    ids = [id_of(n) for n in range(1100)]
    with database.write() as tx:
        assert turns.are_suppressed(tx, ids) == set()
        turns.suppress(tx, [])
        turns.suppress(tx, ids[:600])
        turns.suppress(tx, ids[500:1000])
        assert turns.are_suppressed(tx, ids) == set(ids[:1000])
        marks = set(tx.execute(sa.select(suppressed.c.mark)).scalars())
    assert len(marks) == 1000
    assert not any(id in mark for id in ids[:20] for mark in marks)
    with database.write() as tx:  # another catalog's key knows nothing
        turns.set_to(tx, "suppression_key", "00" * 32)
        assert turns.are_suppressed(tx, ids) == set()

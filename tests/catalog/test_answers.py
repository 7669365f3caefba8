"""Recorded answers and reported mistakes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from everlearn.catalog import Database, answers, samples
from everlearn.errors import Missing
from tests.catalog.rows import id_of, row

START = datetime(2025, 7, 4)


def said(n: int, **columns: Any) -> dict[str, Any]:
    values = {"id": f"{n:016x}", "at": START + timedelta(seconds=n), "version": f"v1.{n % 2}", "content": id_of(n % 3),
              "key": f"new_data/collected/answer_{n}.png", "label": "문", "value": None, "confidence": 1 / 3,
              "camera": "door"}  # fmt: skip
    return {**values, **columns}


def test_answers_are_kept_found_and_erased(database: Database) -> None:
    with database.write() as tx:
        answers.keep(tx, [])
        answers.keep(tx, [said(n) for n in range(1100)])
        assert answers.get(tx, said(7)["id"]) == {**said(7), "boxes": None, "feedback": None}
        assert [one["id"] for one in answers.recent(tx, 3)] == [said(n)["id"] for n in (1099, 1098, 1097)]
        assert [one["id"] for one in answers.recent(tx, 2, "v1.0")] == [said(n)["id"] for n in (1098, 1096)]
        answers.change(tx, said(7)["id"], feedback="wrong", key=None)
        assert answers.get(tx, said(7)["id"])["feedback"] == "wrong"
        assert len(answers.of_content(tx, [id_of(1), id_of("x")])) == 367
        answers.erase(tx, [id_of(0), id_of(1)])
        assert {one["content"] for one in answers.recent(tx, 2000)} == {id_of(2)}
        with pytest.raises(Missing):
            answers.get(tx, said(7)["id"])


def test_an_answers_file_belongs_to_it(database: Database) -> None:
    with database.write() as tx:
        samples.add(tx, [row(1)])
        answers.keep(tx, [said(1), said(2, key=None)])
        known = {row(1).key, said(1)["key"]}
        assert samples.keys(tx, [*known, "stranger.png"]) == known


def test_the_newest_report_on_a_sample_holds(database: Database) -> None:
    with database.write() as tx:
        samples.add(tx, [row(1), row(2)])
        answers.report(tx, id_of(1), wrong="a", right=None, version="v1.0")
        answers.report(tx, id_of(2), wrong=None, right="b", version="v1.0")
        answers.report(tx, id_of(1), wrong="a", right="c", version="v1.1")
        found = answers.cases(tx)
        assert [(one["sample_id"], one["right"]) for one in found] == [(id_of(2), "b"), (id_of(1), "c")]
        samples.erase(tx, [id_of(1)])
        assert [one["sample_id"] for one in answers.cases(tx)] == [id_of(2)]

"""Runs and their numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from everlearn.catalog import Database, runs
from everlearn.errors import Missing

NOON = datetime(2026, 11, 21, 15, 3, 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """The time stands still until it is moved by so many seconds."""
    at = [NOON]
    monkeypatch.setattr(runs, "now", lambda: at[0])

    def move(seconds: float) -> None:
        at[0] += timedelta(seconds=seconds)

    return move


def test_names_are_readable_and_unique(database: Database, clock: Callable[[float], None]) -> None:
    with database.write() as tx:
        assert runs.begin(tx, "train") == "train-20261121-150301"
        assert runs.begin(tx, "train") == "train-20261121-150301-2"
        assert runs.begin(tx, "trial", parent="train-20261121-150301") == "trial-20261121-150301"
        for number in range(3, 13):
            assert runs.begin(tx, "train") == f"train-20261121-150301-{number}"
        assert [one.number for one in runs.every(tx)] == list(range(1, 14))  # -10 after -9, not after -1
        clock(1)
        assert runs.begin(tx, "train") == "train-20261121-150302"


def test_a_run_from_its_beginning_to_its_end(database: Database, clock: Callable[[float], None]) -> None:
    config = {"recipe": {"name": "five-stage", "seed": 0}, "class": "문", "share": 0.1 + 0.2, "bad": float("inf")}
    with database.write() as tx:
        name = runs.begin(tx, "train", snapshot=3, config=config)
        one = runs.get(tx, name)
        assert one.config == {**config, "bad": None}
        assert (one.status, one.at, one.ended_at, one.seconds, one.result) == ("running", NOON, None, None, {})
        runs.note(tx, name, {"stages": ["baseline"]}, config={"processes": 2})
        clock(90)
        runs.end(tx, name, result={"accuracy": 0.98}, version="v1.1")
    with database.read() as tx:
        one = runs.get(tx)
        assert one.name == name
        assert (one.status, one.seconds, one.version, one.snapshot) == ("done", 90.0, "v1.1", 3)
        assert one.result == {"stages": ["baseline"], "accuracy": 0.98}
        assert one.config["processes"] == 2
        assert one.config["share"] == 0.1 + 0.2


def test_an_interrupted_run_goes_on_under_its_name(database: Database, clock: Callable[[float], None]) -> None:
    with database.write() as tx:
        name = runs.begin(tx, "train")
        clock(5)
        runs.end(tx, name, "interrupted", {"stage": 2})
        assert runs.get(tx, name).status == "interrupted"
        runs.resume(tx, name)
        assert (runs.get(tx, name).status, runs.get(tx, name).ended_at) == ("running", None)
        assert runs.get(tx, name).result == {"stage": 2}


def test_children_and_kinds(database: Database) -> None:
    with database.write() as tx:
        search = runs.begin(tx, "tune")
        trials = [runs.begin(tx, "trial", parent=search) for _ in range(3)]
        fold = runs.begin(tx, "fold", parent=runs.begin(tx, "crossval"))
        assert [one.name for one in runs.every(tx, parent=search)] == trials
        assert [one.name for one in runs.every(tx, kind="fold")] == [fold]
        assert runs.get(tx, kind="trial").name == trials[-1]
        assert runs.get(tx).name == fold
        with pytest.raises(sa.exc.IntegrityError), tx.begin_nested():
            runs.begin(tx, "trial", parent="nobody")


def test_numbers_step_by_step(database: Database) -> None:
    with database.write() as tx:
        name, other = runs.begin(tx, "train"), runs.begin(tx, "train")
        for step in (2, 1, 10):
            runs.metrics(tx, name, step, {"val_loss": 1 / step, "val_accuracy": 0.1 * step})
        runs.metrics(tx, name, 2, {"val_loss": 0.25})  # told again after a resumed kill
        runs.metrics(tx, name, 3, {})
        runs.metrics(tx, other, 1, {"val_loss": 9.0, "recall/문": 1.0})
    with database.read() as tx:
        assert runs.series(tx, name) == {
            "val_accuracy": [(1, 0.1), (2, 0.2), (10, 1.0)],
            "val_loss": [(1, 1.0), (2, 0.25), (10, 0.1)],
        }
        assert list(runs.series(tx, other)) == ["recall/문", "val_loss"]
        assert runs.series(tx, "nobody") == {}


def test_what_is_no_number_comes_back_as_none(database: Database) -> None:
    with database.write() as tx:
        name = runs.begin(tx, "train")
        runs.metrics(tx, name, 1, {"loss": math.nan, "rate": math.inf})
        found = runs.series(tx, name)
        assert math.isnan(found["loss"][0][1])
        assert found["rate"] == [(1, math.inf)]


def test_a_run_that_is_not_there(database: Database) -> None:
    with database.write() as tx:
        with pytest.raises(Missing, match="no run yet"):
            runs.get(tx)
        with pytest.raises(Missing, match="no run of kind tune yet"):
            runs.get(tx, kind="tune")
        for call in (
            lambda: runs.get(tx, "train-1"),
            lambda: runs.end(tx, "train-1"),
            lambda: runs.note(tx, "train-1", {"a": 1}),
            lambda: runs.resume(tx, "train-1"),
        ):
            with pytest.raises(Missing, match="no run train-1"):
                call()
        with pytest.raises(sa.exc.IntegrityError), tx.begin_nested():
            runs.metrics(tx, "train-1", 1, {"loss": 1.0})

"""Versions, aliases, evaluations, deployments and history."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa

from everlearn.catalog import Database, samples, snapshots, versions
from everlearn.catalog.versions import CHAMPION
from everlearn.errors import Missing
from everlearn.types import Member
from tests.catalog.rows import id_of, row

NOON = datetime(2025, 7, 4, 12)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """One hour goes by between any two entries; the first is made at noon."""
    times = (NOON + timedelta(hours=n) for n in range(1000))
    monkeypatch.setattr(versions, "now", lambda: next(times))
    return times


def facts(name: str, **columns: Any) -> dict[str, Any]:
    values = {"parent": None, "snapshot": None, "learner": "exact", "backbone": "patches", "licence": "Apache-2.0",
              "config": {"dimensions": 16}, "code_version": "0.1.0", "memory_digest": "a" * 64, "model_digest": None,
              "metrics": None, "key": f"models/{name}.onnx"}  # fmt: skip
    return {**values, "name": name, **columns}


def test_names_count_up_and_another_basis_begins_anew(database: Database) -> None:
    with database.write() as tx:
        assert versions.next_name(tx, major=True) == "v1.0"
        for _ in range(11):
            versions.add(tx, facts(versions.next_name(tx, major=False)))
        assert versions.next_name(tx, major=False) == "v1.11"
        assert versions.next_name(tx, major=True) == "v2.0"
        assert [one.name for one in versions.every(tx)] == [f"v1.{n}" for n in range(11)]
        assert [one.number for one in versions.every(tx)] == list(range(1, 12))


def test_a_version_is_found_by_name_alias_and_default(database: Database) -> None:
    with database.write() as tx:
        with pytest.raises(Missing, match="no model yet"):
            versions.get(tx)
        samples.add(tx, [row(1)])
        taken = snapshots.build(tx, [Member(id_of(1), "x", "train", 0)])
        metrics = {"accuracy": 0.1 + 0.2, "bad": float("nan")}
        first = versions.add(tx, facts("v1.0", snapshot=taken.number, metrics=metrics))
        second = versions.add(tx, facts("v1.1", parent="v1.0"))
        assert first.metrics == {"accuracy": 0.1 + 0.2, "bad": None}
        assert versions.get(tx) == second == versions.newest(tx)
        versions.point(tx, CHAMPION, "v1.0")
        versions.point(tx, CHAMPION, "v1.0")
        versions.point(tx, "문", "v1.0")
        versions.point(tx, "Zoo", "v1.0")
        assert versions.get(tx) == versions.get(tx, "1.0") == versions.get(tx, "문") == versions.champion(tx) == first
        assert versions.aliases(tx) == {"v1.0": ["Zoo", CHAMPION, "문"]}
        versions.change(tx, "v1.1", retired=True, tags=["b", "a"])
        assert versions.get(tx, "v1.1").tags == ["b", "a"]
        assert versions.newest(tx) == first
        versions.unpoint(tx, CHAMPION)
        assert versions.champion(tx) is None
        with pytest.raises(Missing):
            versions.get(tx, "v9.9")


def test_an_alias_needs_its_version(database: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError), database.write() as tx:
        versions.point(tx, CHAMPION, "v1.0")


def test_history_says_what_was_in_production_when(database: Database, clock: object) -> None:
    acts = ["registered", "promoted", "registered", "held", "promoted", "rolled back", "withdrawn", "retired"]
    names = ["v1.0", "v1.0", "v1.1", "v1.1", "v1.1", "v1.0", "v1.0", "v1.0"]
    with database.write() as tx:
        for act, name in zip(acts, names, strict=True):
            versions.record(tx, act, name, f"{act} 때문에", forced=act == "promoted", details={"x": [1]})
        found = [versions.in_production(tx, NOON + timedelta(hours=n, minutes=30)) for n in range(-1, 8)]
        assert [line and line["version"] for line in found] == [
            None, None, "v1.0", "v1.0", "v1.0", "v1.1", "v1.0", None, None,
        ]  # fmt: skip
        assert found[2]
        assert (found[2]["reason"], found[2]["details"], found[2]["forced"]) == ("promoted 때문에", {"x": [1]}, True)
        exactly = versions.in_production(tx, NOON + timedelta(hours=1))
        assert exactly == found[2]
        seoul = (NOON + timedelta(hours=1, minutes=30)).replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=9)))
        assert versions.in_production(tx, seoul) == found[2], "a moment with a zone is the same moment"
        assert [line["action"] for line in versions.past(tx)] == acts


def test_evaluations_and_deployments_are_kept_in_order(database: Database) -> None:
    with database.write() as tx:
        for name in ("v1.0", "v1.1"):
            versions.add(tx, facts(name))
        ids = [versions.evaluated(tx, name, {"accuracy": n / 3}, champion=None) for n, name in
               enumerate(["v1.0", "v1.1", "v1.0"])]  # fmt: skip
        assert ids == sorted(ids)
        assert [line["id"] for line in versions.evaluations(tx)] == ids
        assert [line["result"]["accuracy"] for line in versions.evaluations(tx, "v1.0")] == [0.0, 2 / 3]
        versions.deployed(tx, "v1.0", "/srv/model.onnx", ids[0])
        versions.deployed(tx, "v1.1", "s3://b/model.onnx", None)
        assert [(line["version"], line["evaluation"]) for line in versions.deployments(tx)] == [
            ("v1.0", ids[0]),
            ("v1.1", None),
        ]

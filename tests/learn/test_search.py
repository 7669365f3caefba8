"""A study in a database: claimed once, shared, gone on with, and the same for the same seed."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from everlearn.errors import BadConfig, BadInput, StoreFault
from everlearn.learn.network import recipe as recipes
from everlearn.learn.search import ATTEMPTS, Pruner, Sampler, Search
from everlearn.learn.space import Space, space
from everlearn.learn.studies import names, sqlite

WRITTEN = ("learning_rate=0.0001..0.1:log", "batch_size=16,32,64,128")


def spaced() -> Space:
    return space(recipes.load("baseline"), WRITTEN)


def opened(path: Path, sampler: Sampler = "tpe", pruner: Pruner = "none", name: str = "s", **more: Any) -> Search:
    return Search.open(sqlite(path / "s.db"), name, spaced(), sampler=sampler, pruner=pruner, **more)


def worth(values: Mapping[str, Any]) -> float:
    """Best at 0.01 and 64."""
    return 1 - (math.log10(values["learning_rate"]) + 2) ** 2 / 4 - abs(math.log2(values["batch_size"]) - 6) / 20


def run(search: Search, most: int = 1000) -> None:
    for _ in range(most):
        trial = search.claim()
        if trial is None:
            return
        trial.done(worth(trial.values))


def test_trial_0_is_the_recipe_itself_and_the_best_is_found(tmp_path: Path) -> None:
    search = opened(tmp_path)
    search.plan(12)
    run(search)
    first, *others = search.outcomes()
    assert first.number == 0 and first.values == {"learning_rate": 0.002, "batch_size": 32}
    assert len(others) == 11 and all(0.0001 <= one.values["learning_rate"] <= 0.1 for one in others)
    best = search.best
    assert best is not None and best.value == max(one.value for one in search.outcomes()) and best.value > first.value
    shares = search.importance()
    assert set(shares) == {"learning_rate", "batch_size"} and next(iter(shares)) == "learning_rate"


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_searches_the_same_also_in_two_goes(tmp_path: Path, sampler: Sampler) -> None:
    once, twice = opened(tmp_path, sampler, name="a", seed=3), opened(tmp_path, sampler, name="b", seed=3)
    other = opened(tmp_path, sampler, name="c", seed=4)
    for search in (once, twice, other):
        search.plan(8)
    run(once)
    run(twice, 6)
    twice = opened(tmp_path, sampler, name="b", seed=3)  # as another process would
    run(twice)
    run(other)
    assert [one.values for one in once.outcomes()] == [one.values for one in twice.outcomes()]
    assert [one.values for one in once.outcomes()] != [one.values for one in other.outcomes()]


def test_grid_is_each_point_once_and_more_can_be_added(tmp_path: Path) -> None:
    search = opened(tmp_path, "grid")
    assert search.plan(5) == 5
    run(search)
    assert search.plan(None) == 21 and search.waiting == 16
    run(search)
    found = [tuple(one.values.values()) for one in search.outcomes()][1:]
    assert sorted(found) == sorted(tuple(one.values()) for one in spaced().grid())
    assert search.plan(None) == 21 and search.claim() is None, "done is done"


def test_two_who_share_a_study_never_try_the_same(tmp_path: Path) -> None:
    first, second = opened(tmp_path, "random"), opened(tmp_path, "random")
    first.plan(6)
    second.plan(6)
    claimed = []
    while (one := first.claim()) is not None:
        claimed.append(one)
        if (other := second.claim()) is not None:
            claimed.append(other)
    assert sorted(one.number for one in claimed) == list(range(6))
    assert first.running == 6 and first.recover() == [], "they are alive"
    for one in claimed:
        one.done(0.5)
    assert [one.status for one in second.outcomes()] == ["done"] * 6


def test_places_planned_twice_at_once_are_tried_once(tmp_path: Path) -> None:
    """As when two machines begin in the same moment: neither sees what the other plans."""
    search = opened(tmp_path, "random")
    search.plan(3)
    for place in range(3):
        search._enqueue(place, {}, 0)
    run(search)
    assert [one.status for one in search.outcomes()] == ["done"] * 3


def dies(path: Path) -> int:
    """Another process claims a trial and is killed. Returns how it ended."""
    child = os.fork()
    if child == 0:
        try:
            trial = opened(path, "random").claim()
            assert trial is not None
            trial.begun(f"run of {trial.number}")
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def test_a_killed_trial_is_tried_again_and_one_that_kills_is_given_up(tmp_path: Path) -> None:
    search = opened(tmp_path, "random")
    search.plan(1)
    for attempt in range(1, ATTEMPTS + 1):
        assert dies(tmp_path) == signal.SIGKILL
        assert search.running == 1
        assert search.recover() == ["run of 0"] and search.running == 0
        assert search.waiting == (1 if attempt < ATTEMPTS else 0)
    (only,) = search.outcomes()
    assert only.status == "failed" and "died 3 times" in str(only.error)


def test_what_is_given_back_or_fails(tmp_path: Path) -> None:
    search = opened(tmp_path, "random")
    search.plan(3)
    for _ in range(2 * ATTEMPTS):  # Ctrl-C is nobody's fault, however often
        trial = search.claim()
        assert trial is not None
        trial.back()
    while (trial := search.claim()) is not None:
        if trial.number == 1:
            trial.failed("out of memory", epochs=2)
        else:
            trial.done(trial.number / 10)
    statuses = {one.number: (one.status, one.error) for one in search.outcomes()}
    assert statuses == {0: ("done", None), 1: ("failed", "out of memory"), 2: ("done", None)}
    assert search.best is not None and search.best.number == 2


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_what_falls_behind_is_pruned_however_many_epochs_it_has(tmp_path: Path, pruner: Pruner) -> None:
    search = opened(tmp_path, "random", pruner)
    search.plan(14)
    while (trial := search.claim()) is not None:
        good = trial.number < 8
        score, epochs = (0.9 if good else 0.1) + trial.number / 1000, 5 if good else 20
        for epoch in range(1, epochs + 1):
            if trial.report(epoch / epochs, score * epoch / epochs):
                break
        trial.pruned() if trial.behind else trial.done(score)
    pruned = [one.number for one in search.outcomes() if one.status == "pruned"]
    assert pruned and min(pruned) >= (8 if pruner == "median" else 1)
    assert search.outcomes()[0].status == "done", "the recipe itself is never pruned"


def test_a_study_is_not_shared_by_different_searches(tmp_path: Path) -> None:
    opened(tmp_path, about={"data": "one"})
    assert names(sqlite(tmp_path / "s.db")) == ["s"]
    with pytest.raises(BadInput, match="data, sampler"):
        opened(tmp_path, "random", about={"data": "two"})
    with pytest.raises(BadConfig, match="not a URL") as told:
        Search.open("postgres//user:secret@host", "s", spaced())
    assert "secret" not in str(told.value)
    with pytest.raises(StoreFault):
        Search.open(sqlite(tmp_path / "no" / "folder.db"), "s", spaced())


def test_a_server_is_shared_beside_the_catalog(postgres_url: str) -> None:
    """Optuna's tables and ours have one name in common; on a server they lie in a schema of their own."""
    import sqlalchemy as sa

    from everlearn.catalog import Database

    Database(postgres_url).migrate()
    searches = [Search.open(postgres_url, "s", spaced(), sampler="random") for _ in range(2)]
    searches[0].plan(4)
    for search in searches * 2:
        trial = search.claim()
        assert trial is not None
        trial.done(worth(trial.values))
    assert len({one.number for one in searches[1].outcomes() if one.status == "done"}) == 4
    Database(postgres_url).migrate()
    tables = sa.inspect(
        sa.create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    ).get_table_names()
    assert "studies" not in tables and "run" in tables

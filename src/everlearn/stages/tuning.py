"""A search for better settings of a recipe: trials, one after another or side by side, on one machine or on several.

The validation side chooses, the test side is never touched. A search is a study in a database (`learn.search`); trials
are runs of kind `trial` under a run of kind `tune`. A search that was killed goes on with what remains when the same is
asked for again, and several processes or machines that ask for the same share it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from everlearn import engine, track
from everlearn.catalog import runs
from everlearn.dataset.build import build as build_snapshot
from everlearn.learn import space as spaces
from everlearn.learn.network import recipe as recipes
from everlearn.stages import saved, sides, training
from everlearn.stages.tuned import Tuned, found_by, line
from everlearn.workspace import CHECKPOINTS

if TYPE_CHECKING:
    from everlearn.learn.network.recipe import Recipe
    from everlearn.learn.search import Search
    from everlearn.stages.trials import Bench
    from everlearn.types import Progress, Snapshot
    from everlearn.workspace import Workspace

STUDIES = "studies.db"
TRIALS = 20
POLL = 0.5  # seconds between two looks at what others are doing


@dataclass(frozen=True)
class Asked:
    """What is searched for, and how. stage: that stage alone, from the best weights of those before it; None: the whole
    recipe. trials: with the recipe as it is, which is trial 0; None: 20, the whole grid, or as many as the time allows.

    study: a name to share it by; storage: the address of the database; None: the workspace's own.
    """

    space: tuple[str, ...] = spaces.DEFAULT
    stage: str | None = None
    sampler: Literal["grid", "random", "tpe"] = "tpe"
    pruner: Literal["none", "median", "hyperband"] = "median"
    trials: int | None = None
    minutes: float | None = None
    seed: int = 0
    jobs: int = 1
    study: str | None = None
    storage: str | None = None
    keep: bool = False
    anew: bool = False

    @property
    def places(self) -> int | None:
        """None: as many as there are on the grid, or as time allows."""
        if self.trials is None and (self.sampler == "grid" or self.minutes is not None):
            return None
        return self.trials or TRIALS


def tune(workspace: Workspace, recipe: Recipe, asked: Asked, progress: Progress) -> Tuned:
    """Search, or go on with a search. Raises BadConfig for a space that the recipe cannot hold, TooFew, BadInput where
    no trial comes to an end, StoreFault for the database of the study."""
    training.check_parts()
    from everlearn.learn.search import Search

    space = spaces.space(recipe, asked.space, asked.stage)
    with workspace.lock():
        snapshot = build_snapshot(workspace)
        divided = sides.of(workspace, snapshot, progress)
    about = {
        "recipe": json.loads(recipe.model_dump_json()), "stage": asked.stage, "pruner": asked.pruner,
        "data": divided.digest(),
    }  # fmt: skip
    url = _url(workspace, asked.storage)
    name = _study(url, asked, {**about, "space": space.to_json(), "sampler": asked.sampler, "seed": asked.seed})
    search = Search.open(
        url, name, space, sampler=asked.sampler, pruner=asked.pruner, seed=asked.seed,
        about={**about, "recipe": _digest(about["recipe"])},
    )  # fmt: skip
    places = search.plan(_first_places(search, asked))
    config = {**about, "study": name, "space": space.to_json(), "sampler": asked.sampler, "seed": asked.seed}
    before = _run_of(workspace, name)
    for lost in search.recover():
        interrupted(workspace, lost)
    if before is not None and not search.waiting and not search.running:
        return found_by(workspace, search, before, asked.stage, None)
    if before is not None:
        progress.say(f"Going on with {before}: {search.waiting} of {places} trials remain.")
    with track.run(
        workspace, "tune", config=config, snapshot=snapshot.number, resume=before, say=progress.say
    ) as following:
        if asked.stage is not None:
            _before(workspace, snapshot, recipe, asked.stage, following.name, progress)
        worker = Worker(
            str(workspace.root), following.name, name, url, recipe.model_dump_json(), asked, snapshot.number,
            None if asked.minutes is None else time.time() + 60 * asked.minutes,
        )  # fmt: skip
        _search(workspace, search, worker, following, progress)
        return found_by(workspace, search, following.name, asked.stage, following)


def by_stage(workspace: Workspace, recipe: Recipe, asked: Asked, progress: Progress) -> list[Tuned]:
    """One search for each stage, in their order, each from the best weights of the tuned ones before it."""
    found: list[Tuned] = []
    for one in recipe.stages:
        progress.say(f"Stage {one.name}:")
        study = asked.study and f"{asked.study}-{one.name}"
        found.append(tune(workspace, recipe, replace(asked, stage=one.name, study=study), progress))
        tuned = found[-1].recipe
        assert tuned is not None
        recipe = tuned.model_copy(update={"name": recipe.name})
    return found


# --- the work ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Worker:
    """Claims a trial and carries it out, in whatever process it is sent to. until: of `time.time`, None: no end."""

    root: str
    run: str
    study: str
    url: str
    recipe: str
    asked: Asked
    snapshot: int
    until: float | None = None
    parent: int | None = None
    threads: int | None = None

    def __call__(self, part: int) -> int | None:
        """The number of the trial that was carried out, or None where there was none to claim. part: any number."""
        if self.until is not None and time.time() > self.until:
            return None
        search, bench = self._opened()
        trial = search.claim()
        if trial is None:
            return None
        from everlearn.stages.trials import tried

        tried(bench, search, trial, self.run, keep=self.asked.keep, until=self.until, watched=self.parent)
        return trial.number

    def _opened(self) -> tuple[Search, Bench]:
        """Once in each process."""
        from everlearn.learn.search import Search
        from everlearn.stages.trials import Bench
        from everlearn.workspace import Workspace

        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        if self.run not in _OPEN:
            recipe, asked = recipes.load(json.loads(self.recipe)), self.asked
            workspace = Workspace.open(self.root)
            space = spaces.space(recipe, asked.space, asked.stage)
            bench = Bench(workspace, self.snapshot)
            about = {"recipe": _digest(json.loads(self.recipe)), "stage": asked.stage, "pruner": asked.pruner,
                     "data": bench.sides.digest()}  # fmt: skip
            search = Search.open(
                self.url, self.study, space, sampler=asked.sampler, pruner=asked.pruner, seed=asked.seed, about=about
            )
            _OPEN.clear()
            _OPEN[self.run] = search, bench
        return _OPEN[self.run]


_OPEN: dict[str, tuple[Search, Bench]] = {}


def _search(
    workspace: Workspace, search: Search, worker: Worker, following: track.Run, progress: Progress
) -> None:  # fmt: skip
    """Until every place is tried, here or by whoever shares the study, or the time is over."""
    told: set[int] = {one.number for one in search.outcomes() if one.status not in ("waiting", "running")}
    total = None if worker.asked.places is None else search.waiting + search.running
    with progress.task("trials", total) as task:

        def look() -> None:
            """Say and write down what is new."""
            outcomes = search.outcomes()
            best = search.best
            for one in outcomes:
                if one.status in ("waiting", "running") or one.number in told:
                    continue
                told.add(one.number)
                values = {"value": one.value, "best": best.value if best else None}
                following.metrics({key: value for key, value in values.items() if value is not None}, one.number)
                progress.say(line(one, best))
                task.advance()

        while not _over(worker):
            for _ in _workers(workspace, search, worker):
                look()
                _more(search, worker)
            for lost in search.recover():
                interrupted(workspace, lost)
            look()
            if not search.waiting:
                if not search.running:
                    return
                time.sleep(POLL)  # others are at work on the last ones


def _workers(workspace: Workspace, search: Search, worker: Worker) -> Iterator[int | None]:
    """What has been carried out, as it is done: in this process, in several, or on a cluster."""
    where = engine.opened(workspace.config.engine)
    if where.elsewhere:
        ahead = range(search.waiting)
        yield from (found for _, found in where.map(replace(worker, threads=1), ahead))
    elif worker.asked.jobs == 1:
        while search.waiting and not _over(worker):
            yield worker(0)
    else:
        yield from _side_by_side(search, worker)


def _side_by_side(search: Search, worker: Worker) -> Iterator[int | None]:
    """In as many processes as were asked for. One that is killed ends the round; what it had claimed is found out."""
    from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    jobs = worker.asked.jobs
    sent = replace(worker, parent=os.getpid(), threads=max(1, (os.cpu_count() or 1) // jobs))
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        under_way = {pool.submit(sent, part) for part in range(jobs)}
        try:
            while under_way:
                done, under_way = wait(under_way, POLL, return_when=FIRST_COMPLETED)
                for one in done:
                    found = one.result()
                    if found is not None and search.waiting and not _over(worker):
                        under_way.add(pool.submit(sent, 0))
                    yield found
                if not done:
                    yield None
        except BrokenProcessPool:
            return
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _over(worker: Worker) -> bool:
    return worker.until is not None and time.time() > worker.until


def _more(search: Search, worker: Worker) -> None:
    """Where the time alone sets the end, there is always another place."""
    if worker.asked.places is None and worker.asked.sampler != "grid" and not search.waiting:
        search.plan(len(search.outcomes()) + worker.asked.jobs)


def _first_places(search: Search, asked: Asked) -> int | None:
    """Where the time alone sets the end: one more than there were, for each process."""
    if asked.places is not None or asked.sampler == "grid":
        return asked.places
    return max(1, len(search.outcomes())) + asked.jobs


def _before(
    workspace: Workspace, snapshot: Snapshot, recipe: Recipe, stage: str, run: str, progress: Progress
) -> None:  # fmt: skip
    """The weights that a stage begins with: those of the stages before it, trained once for all trials."""
    from everlearn.learn.fit import QUIET
    from everlearn.learn.network import checkpoint
    from everlearn.stages.trials import BEFORE, Bench

    folder = workspace.root / CHECKPOINTS / run
    names = [one.name for one in recipe.stages]
    stages = recipe.stages[: names.index(stage)]
    if not stages or (folder / BEFORE).exists():
        return
    progress.say(f"Training what comes before it: {', '.join(one.name for one in stages)}.")
    with workspace.scratch() as scratch:
        bench = Bench(workspace, snapshot.number, progress)
        network, _ = bench.train(recipe.model_copy(update={"stages": stages}), scratch, QUIET)
    weights = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    checkpoint.save(folder / BEFORE, {"weights": weights})


# --- names and places -------------------------------------------------------------------------------------------------


def _url(workspace: Workspace, storage: str | None) -> str:
    """The one that was named; else the catalog's server, in tables of their own; else a file of the workspace."""
    from everlearn.learn.studies import sqlite

    if storage is not None:
        return storage
    if not workspace.catalog.sqlite:
        return workspace.catalog.url.render_as_string(hide_password=False)
    return sqlite(workspace.private(STUDIES))


def _study(url: str, asked: Asked, about: Mapping[str, Any]) -> str:
    """The newest study of this, or a new name."""
    from everlearn.learn.studies import names

    base = asked.study or f"tune-{_digest(about)[:10]}"
    there = {name for name in names(url) if name == base or name.removeprefix(f"{base}-").isdigit()}
    newest = base
    number = 1
    while newest in there:
        number += 1
        newest = f"{base}-{number}"
    if asked.anew or number == 1:
        return newest
    return base if number == 2 else f"{base}-{number - 1}"


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _run_of(workspace: Workspace, study: str) -> str | None:
    with workspace.catalog.read() as tx:
        found = [one.name for one in runs.every(tx, kind="tune") if one.config.get("study") == study]
    return found[-1] if found else None


def interrupted(workspace: Workspace, run: str) -> None:
    """The run of a trial whose process died. Of another machine's catalog nothing is known here."""
    with workspace.catalog.write() as tx:
        there = [one for one in runs.every(tx, kind="trial") if one.name == run and one.status == "running"]
        if there:
            runs.end(tx, run, "interrupted")
    if there:
        saved.drop(workspace, run)

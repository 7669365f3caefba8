"""A search over a space of settings, kept in a database so that it can be shared and gone on with. Optuna does it.

    search = Search.open(url, "tune-3f2a", space, sampler="tpe", pruner="median", seed=0, about={...})
    search.plan(20)
    while (trial := search.claim()) is not None:
        value = train(trial.values, each_epoch=lambda done, score: trial.report(done, score))
        trial.done(value)
    search.best

A search is a number of places, each tried once: place 0 is the recipe as it is. A place is claimed in the database, so
no two processes or machines try the same; one whose process died is claimed again. What a sampler draws follows from
the seed, the place and the trials that are done, so one process finds the same twice.
"""

from __future__ import annotations

import math
import os
import random
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import optuna
import psutil
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from everlearn.errors import BadConfig, BadInput
from everlearn.learn.space import Dimension, Searched, Value
from everlearn.learn.studies import database, quiet

Sampler = Literal["grid", "random", "tpe"]
Pruner = Literal["none", "median", "hyperband"]
Status = Literal["waiting", "running", "done", "pruned", "failed"]

REPORTS = 10
"""Places of a training at which trials are held against each other: tenths of it, however many epochs it has."""
STARTUP = 5
"""Trials before a sampler learns from them, or a pruner stops one."""
ATTEMPTS = 3
"""How often a place is begun before it is held to be what kills its process."""
SILENCE = 600.0
"""Seconds without a word from a trial of another machine before it is held to be dead."""
LARGEST = 10_000
"""Points of a grid."""


@dataclass(frozen=True)
class Outcome:
    """What became of a place. number: 0 is the recipe as it is. value: higher is better; None where there is none."""

    number: int
    values: Mapping[str, Value]
    status: Status
    value: float | None = None
    run: str | None = None
    seconds: float | None = None
    epochs: int | None = None
    error: str | None = None
    host: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"number": self.number, "values": dict(self.values), "status": self.status, "value": self.value,
                "run": self.run, "seconds": self.seconds, "epochs": self.epochs, "error": self.error}  # fmt: skip


class Trial:
    """A place that this process has claimed. One of `done`, `pruned`, `failed`, `back` ends it."""

    def __init__(self, search: Search, trial: optuna.Trial, values: Mapping[str, Value]) -> None:
        self.number, self.values = int(trial.user_attrs["place"]), values
        self._search, self._trial, self._reported = search, trial, 0
        self._best, self._told = -math.inf, time.monotonic()
        self.behind = False
        """Whether `report` has said that it is not worth going on with."""

    def begun(self, run: str) -> None:
        self._trial.set_user_attr("run", run)

    def alive(self) -> None:
        """To be called now and then, so that other machines see that somebody works on it."""
        if time.monotonic() - self._told > SILENCE / 20:
            self._told = time.monotonic()
            self._trial.set_user_attr("beat", time.time())

    def report(self, share: float, value: float) -> bool:
        """The score after this share of the training, 0..1. True: it is worse than what others had come to there, and
        not worth going on with. Of what a place has come to, the best counts."""
        self._best = max(self._best, value if math.isfinite(value) else -math.inf)
        place = min(REPORTS, math.floor(share * REPORTS + 1e-9))
        if place <= self._reported or self._best == -math.inf:
            return False
        for at in range(self._reported + 1, place + 1):
            with quiet():
                self._trial.report(self._best, at)
        self._reported = place
        with quiet():
            self.behind = self.number > 0 and place < REPORTS and self._trial.should_prune()
        return self.behind

    def done(self, value: float, **about: Any) -> None:
        self._end(TrialState.COMPLETE, about, value)

    def pruned(self, **about: Any) -> None:
        self._end(TrialState.PRUNED, about | {"value": None if self._best == -math.inf else self._best})

    def failed(self, error: str, **about: Any) -> None:
        """To Optuna it is a pruned one: what fails is worse than all else, and a sampler should learn it."""
        self._end(TrialState.PRUNED, about | {"error": error})

    def back(self) -> None:
        """Somebody else, or this process later, is to try it from the beginning."""
        with quiet():
            self._trial.set_user_attr("returned", True)
            self._search._again(self._search.study.tell(self._trial, state=TrialState.FAIL))

    def _end(self, state: TrialState, about: Mapping[str, Any], value: float | None = None) -> None:
        with quiet():
            self._trial.set_user_attr("found", dict(about))
            self._search.study.tell(self._trial, value, state)


class Search:
    """An Optuna study, and the space that it searches."""

    def __init__(self, study: optuna.Study, space: Searched, sampler: Sampler, seed: int) -> None:
        self.study, self.space, self.sampler, self.seed = study, space, sampler, seed
        self._dimensions = {one.field: one for one in space.dimensions}
        self._beats: dict[int, tuple[Any, float]] = {}

    @classmethod
    def open(
        cls, url: str, name: str, space: Searched, *, sampler: Sampler = "tpe", pruner: Pruner = "median",
        seed: int = 0, about: Mapping[str, Any] | None = None,
    ) -> Search:  # fmt: skip
        """The study of that name, or a new one. url: sqlite:///FILE, postgresql://…; about: what must be the same for
        all who share it. Raises BadInput where it is not, StoreFault, BadConfig, NotInstalled for the database."""
        with quiet():
            storage = database(url)
            study = optuna.create_study(
                storage=storage, study_name=name, direction="maximize", load_if_exists=True,
                sampler=_Placed(sampler, seed, space), pruner=_pruner(pruner),
            )  # fmt: skip
            wanted = {"space": space.to_json(), "sampler": sampler, "seed": seed, **(about or {})}
            found = study.user_attrs.get("about")
            if found is None:
                study.set_user_attr("about", wanted)
            elif changed := sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key)):
                raise BadInput(
                    f"The study {name} was begun with something else: {', '.join(changed)}.",
                    "Give the same settings and data, or another name: --study NAME",
                )
        return cls(study, space, sampler, seed)

    def plan(self, places: int | None) -> int:
        """Make it a search of so many places, or of the whole grid; more may be added to one that is done. Returns how
        many there are now."""
        if self.sampler == "grid" and len(self.space) > LARGEST:
            raise BadConfig(
                f"The grid has {len(self.space):,} points.", "List fewer values, or search by --sampler tpe or random."
            )
        grid = list(self.space.grid()) if self.sampler == "grid" else []
        if grid:
            random.Random(self.seed).shuffle(grid)  # noqa: S311 - a part of a grid should lie all over it
        most = 1 + len(grid) if grid else 10**6
        wanted = min(most, most if places is None else places)
        there = {one.user_attrs["place"] for one in self._trials() if "place" in one.user_attrs}
        for place in range(wanted):
            if place not in there:
                fixed = self.space.own() if place == 0 else grid[place - 1] if grid else {}
                inside = {field: self._dimensions[field].inside(value) for field, value in fixed.items()}
                self._enqueue(place, inside, 0)
        return max(wanted, len(there))

    def claim(self) -> Trial | None:
        """A place to try, or None where there is none left."""
        while self.waiting:
            with quiet():
                trial = self.study.ask()
                if "place" not in trial.user_attrs or self._second(trial):
                    self.study.tell(trial, state=TrialState.FAIL)  # another process was quicker
                    continue
                trial.set_user_attr("by", _me())
                return Trial(self, trial, self._suggested(trial))
        return None

    @property
    def waiting(self) -> int:
        return len(self._trials(TrialState.WAITING))

    @property
    def running(self) -> int:
        return len(self._trials(TrialState.RUNNING))

    def recover(self) -> list[str]:
        """Let the places of dead processes be claimed again; returns their runs."""
        found = []
        for one in self._trials(TrialState.RUNNING):
            if self._alive(one):
                continue
            with quiet():
                self._again(self.study.tell(one.number, state=TrialState.FAIL, skip_if_finished=True))
            if run := one.user_attrs.get("run"):
                found.append(str(run))
        return found

    def outcomes(self) -> list[Outcome]:
        """Every place, by number."""
        latest: dict[int, FrozenTrial] = {}
        for one in self._trials():
            place = one.user_attrs.get("place")
            if place is not None and not self._lost(one):
                latest.setdefault(place, one)
        gone = {one.user_attrs["place"]: one for one in self._trials() if "place" in one.user_attrs}
        return [self._outcome(place, latest.get(place, gone[place])) for place in sorted(gone)]

    @property
    def best(self) -> Outcome | None:
        """The highest value; of equal ones the first."""
        done = [one for one in self.outcomes() if one.status == "done" and one.value is not None]
        return max(done, key=lambda one: (one.value, -one.number), default=None)

    def importance(self) -> dict[str, float]:
        """Share of each field in how much the values differ, the largest first (fANOVA, Hutter et al. 2014). Empty
        where there are too few trials, or they are all alike."""
        there = [
            one
            for one in self._trials(TrialState.COMPLETE)
            if set(one.params) == set(self._dimensions) and one.value is not None
        ]
        if len({one.value for one in there}) < 2 or len(there) < STARTUP:
            return {}
        with quiet():
            alone = optuna.create_study(direction="maximize")
            alone.add_trials(there)
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.seed)
            try:
                found = optuna.importance.get_param_importances(alone, evaluator=evaluator)
            except (ValueError, RuntimeError):  # all values of a field alike
                return {}
        return {field: float(share) for field, share in found.items() if math.isfinite(share)}

    # --- inside ---------------------------------------------------------------------------------------------------

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        with quiet():
            return self.study.get_trials(deepcopy=False, states=states or None)

    def _enqueue(self, place: int, inside: Mapping[str, Any], attempt: int) -> None:
        with quiet():
            about = {"place": place, "attempt": attempt, "fixed": dict(inside)}
            self.study.enqueue_trial(dict(inside), user_attrs=about)

    def _again(self, lost: FrozenTrial) -> None:
        """Of a place that killed every process that tried it, enough is known."""
        place, attempt = lost.user_attrs["place"], int(lost.user_attrs.get("attempt", 0))
        died = [one for one in self._trials(TrialState.FAIL)
                if one.user_attrs.get("place") == place and _died(one)]  # fmt: skip
        if len(died) < ATTEMPTS:
            self._enqueue(place, lost.user_attrs["fixed"], attempt + 1)

    def _second(self, trial: optuna.Trial) -> bool:
        """Whether two processes planned the same place at the same time, and this is the later one."""
        mine = (trial.user_attrs["place"], trial.user_attrs.get("attempt", 0))
        return any(
            one.number < trial.number and (one.user_attrs.get("place"), one.user_attrs.get("attempt", 0)) == mine
            for one in self._trials()
        )

    def _suggested(self, trial: optuna.Trial) -> dict[str, Value]:
        """The recipe as it is has its own values, where the space holds them."""
        fields = trial.user_attrs["fixed"] if trial.user_attrs["place"] == 0 else self._dimensions
        return {field: _suggest(trial, self._dimensions[field]) for field in fields}

    def _alive(self, one: FrozenTrial) -> bool:
        told = one.user_attrs
        by = told.get("by") or {}
        if by.get("host") == socket.gethostname():
            return _runs(int(by["pid"]), float(by["began"]))
        beat, now = told.get("beat"), time.monotonic()
        before, seen = self._beats.get(one.number, (None, now))
        if one.number not in self._beats or before != beat:
            self._beats[one.number] = (beat, now)
            return True
        return now - seen < SILENCE

    @staticmethod
    def _lost(one: FrozenTrial) -> bool:
        return one.state == TrialState.FAIL

    def _outcome(self, place: int, one: FrozenTrial) -> Outcome:
        told = one.user_attrs
        values = {field: self._dimensions[field].outside(value) for field, value in one.params.items()}
        states: dict[TrialState, Status] = {
            TrialState.WAITING: "waiting", TrialState.RUNNING: "running", TrialState.COMPLETE: "done",
            TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
        }  # fmt: skip
        found = told.get("found") or {}
        error = found.get("error") or (f"Its process died {ATTEMPTS} times." if self._lost(one) else None)
        seconds = one.duration.total_seconds() if one.duration else None
        return Outcome(
            place, values, "failed" if error else states[one.state], found.get("value", one.value), told.get("run"),
            found.get("seconds", seconds), found.get("epochs"), error, (told.get("by") or {}).get("host"),
        )  # fmt: skip


class _Placed(optuna.samplers.BaseSampler):
    """Draws from the seed and the place of a trial, whichever process asks."""

    def __init__(self, kind: Sampler, seed: int, space: Searched) -> None:
        self._kind, self._seed = kind, seed
        self._now: tuple[int, optuna.samplers.BaseSampler] | None = None
        self._space = {one.field: _distribution(one) for one in space.dimensions}

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space if self._kind == "tpe" else {}

    def sample_relative(self, study: Any, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        return self._made(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        return self._made(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, *told: Any) -> None:
        pass

    def _made(self, trial: FrozenTrial) -> optuna.samplers.BaseSampler:
        """One for each trial: what it draws does not depend on what was drawn before."""
        if self._now is None or self._now[0] != trial.number:
            self._now = trial.number, _sampler(self._kind, self._seed, int(trial.user_attrs.get("place", 0)))
        return self._now[1]


def _sampler(kind: Sampler, seed: int, place: int) -> optuna.samplers.BaseSampler:
    drawn = random.Random(f"{seed} {place}").getrandbits(32)  # noqa: S311 - a seed
    if kind != "tpe":
        return optuna.samplers.RandomSampler(seed=drawn)
    return optuna.samplers.TPESampler(
        seed=drawn, multivariate=True, n_startup_trials=STARTUP, constant_liar=True, warn_independent_sampling=False
    )


def _pruner(kind: Pruner) -> optuna.pruners.BasePruner:
    if kind == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=REPORTS // 5)
    if kind == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=REPORTS, reduction_factor=3)
    return optuna.pruners.NopPruner()


def _distribution(one: Dimension) -> BaseDistribution:
    """Numbers to choose from are drawn by their place, so that a sampler knows which lie beside each other."""
    if one.ordered:
        return IntDistribution(0, len(one.choices) - 1)
    if one.choices:
        return CategoricalDistribution(one.choices)
    if one.whole:
        return IntDistribution(int(one.low), int(one.high), log=one.log, step=max(1, int(one.step)))
    return FloatDistribution(one.low, one.high, log=one.log, step=one.step or None)


def _suggest(trial: optuna.Trial, one: Dimension) -> Value:
    how = _distribution(one)
    if isinstance(how, CategoricalDistribution):
        return trial.suggest_categorical(one.field, how.choices)
    if isinstance(how, IntDistribution):
        return one.outside(trial.suggest_int(one.field, how.low, how.high, step=how.step, log=how.log))
    return trial.suggest_float(one.field, one.low, one.high, step=one.step or None, log=one.log)


def _died(one: FrozenTrial) -> bool:
    return "by" in one.user_attrs and "returned" not in one.user_attrs


def _me() -> dict[str, Any]:
    """This process, told apart from a later one of the same number."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "began": psutil.Process().create_time()}


def _runs(pid: int, began: float) -> bool:
    try:
        there = psutil.Process(pid)
        return abs(there.create_time() - began) < 2 and there.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True

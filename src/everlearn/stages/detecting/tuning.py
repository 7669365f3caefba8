"""A search for better settings of a detector's training: `tune` where the task is `detect`.

Each trial is trained on the training side and scored by mAP50-95 on the validation side; the test side is never
touched. Trial 0 is the settings as they are. The study is in a database (`learn.search`): a search that was killed goes
on with what remains when the same is asked for again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from everlearn import faults, track
from everlearn.catalog import runs
from everlearn.dataset.build import build
from everlearn.errors import BadConfig, BadInput, EverlearnError, StoreFault
from everlearn.evaluate import search_plots
from everlearn.learn.space import Dimension, combinations, parsed
from everlearn.stages.detecting import learning, sides
from everlearn.stages.detecting.learning import Following, Lesson
from everlearn.stages.saved import folder_of
from everlearn.stages.tuned import KEPT, Tuned
from everlearn.stages.tuning import interrupted
from everlearn.types import SILENT
from everlearn.workspace import CHECKPOINTS, write_whole

if TYPE_CHECKING:
    from everlearn.learn.search import Outcome, Search, Trial
    from everlearn.types import Progress, Snapshot
    from everlearn.workspace import Workspace

DEFAULT = ("lr0=0.0005..0.02:log", "mosaic=0..1", "scale=0..0.9", "batch=8,16,32")
OWN = ("size", "epochs", "batch", "patience", "seed")
"""Settings of the section detect that may be searched; other names are Ultralytics' own."""
FILE = "detect.yaml"


@dataclass(frozen=True)
class DetectorSpace:
    """The dimensions of a search, and the settings as they are."""

    dimensions: tuple[Dimension, ...]
    now: Mapping[str, Any]

    def to_json(self) -> dict[str, str]:
        return {one.field: str(one) for one in self.dimensions}

    def own(self) -> dict[str, Any]:
        """What the settings are now, where that lies in the space."""
        there = {one.field: self.now[one.field] for one in self.dimensions if one.field in self.now}
        return {one.field: there[one.field] for one in self.dimensions
                if one.field in there and one.holds(there[one.field])}  # fmt: skip

    def grid(self) -> Iterator[dict[str, Any]]:
        return combinations(self.dimensions)

    def __len__(self) -> int:
        return sum(1 for _ in self.grid())


def space(workspace: Workspace, written: Sequence[str] = DEFAULT) -> DetectorSpace:
    """Raises BadConfig for what no training can be told."""
    from everlearn.model.detecting import yolo

    settings = workspace.config.detect
    found = [parsed(line) for line in written]
    names = [one.field for one in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise BadConfig(f"{', '.join(sorted(twice))} stands twice in the space.", "Name each field once.")
    yolo.check_settings({name: None for name in names if name not in (*OWN, "lr0", "optimizer")})
    now = {name: getattr(settings, name) for name in OWN}
    whole = [one if one.field not in OWN else _whole(one) for one in found]
    return DetectorSpace(tuple(whole), {**yolo.defaults(), **now, **learning.options(settings.options)})


def _whole(one: Dimension) -> Dimension:
    if one.choices:
        return Dimension(one.field, choices=tuple(int(value) for value in one.choices))
    return Dimension(one.field, one.low, one.high, one.log, 0.0 if one.log else max(1.0, one.step), whole=True)


def tune(
    workspace: Workspace, progress: Progress, *, written: Sequence[str] = DEFAULT, sampler: Any = "tpe",
    pruner: Any = "median", trials: int | None = 10, minutes: float | None = None, seed: int = 0, quick: bool = False,
    anew: bool = False,
) -> Tuned:  # fmt: skip
    """Search, or go on with a search. trials: with the settings as they are, which are trial 0; None: the whole grid.
    Raises BadConfig, NotInstalled, TooFew, BadInput where no trial comes to an end."""
    learning.check_installed()
    from everlearn.learn.search import Search
    from everlearn.learn.studies import names, sqlite

    among = space(workspace, written)
    with workspace.lock():
        snapshot = build(workspace)
    divided = sides.of(workspace, snapshot)
    about = {"task": "detect", "detect": workspace.config.detect.model_dump(), "data": divided.digest(),
             "detector": learning.spec_of(workspace), "pruner": pruner, "quick": quick}  # fmt: skip
    url = sqlite(workspace.private("studies.db"))
    base = "tune-" + _digest({**about, "space": among.to_json(), "sampler": sampler, "seed": seed})[:10]
    there = [one for one in names(url) if one == base or one.startswith(f"{base}-")]
    name = base if not there else f"{base}-{len(there) + 1}" if anew else max(there, key=lambda one: (len(one), one))
    search = Search.open(url, name, among, sampler=sampler, pruner=pruner, seed=seed,
                         about={"about": _digest(about)})  # fmt: skip
    search.plan(trials)
    for lost in search.recover():
        interrupted(workspace, lost)
    given = Lesson(None, divided.train, (), divided.validation, divided.classes)
    with workspace.catalog.read() as tx:
        before = [one.name for one in runs.every(tx, kind="tune") if one.config.get("study") == name]
    until = None if minutes is None else time.time() + 60 * minutes
    config = {**about, "study": name, "space": among.to_json(), "sampler": sampler, "seed": seed}
    with track.run(workspace, "tune", config=config, snapshot=snapshot.number, resume=before[-1] if before else None,
                   say=progress.say) as following:  # fmt: skip
        with progress.task("trials", search.waiting) as task:
            while (until is None or time.time() < until) and (trial := search.claim()) is not None:
                _tried(workspace, search, trial, given, snapshot, following, quick, progress)
                task.advance()
        return _found(workspace, search, following, progress)


def _tried(
    workspace: Workspace, search: Search, trial: Trial, given: Lesson, snapshot: Snapshot, parent: track.Run,
    quick: bool, progress: Progress,
) -> None:  # fmt: skip
    """Carry a claimed trial out. What goes wrong with one stays its own, unless the settings as they are fail."""
    began = time.monotonic()
    changes = _changes(trial.values if trial.number else {}) | {"plots": False} | ({"epochs": 1} if quick else {})
    watch = _Watch(trial)
    try:
        with track.run(
            workspace, "trial", config={"place": trial.number, "values": dict(trial.values)},
            snapshot=snapshot.number, parent=parent.name, mirrored=False,
        ) as run:  # fmt: skip
            trial.begun(run.name)
            try:
                came = learning.carried_out(workspace, run, given, changes, Following(run, watch, SILENT), SILENT)
            finally:
                shutil.rmtree(folder_of(workspace, run.name), ignore_errors=True)
            run.status = "pruned" if trial.behind else "done"
            run.note({**came.summary(), "value": came.result.map50_95})
    except (StoreFault, KeyboardInterrupt):
        trial.back()
        raise
    except Exception as error:
        if isinstance(error, EverlearnError) and trial.number == 0:
            trial.back()
            raise
        trial.failed(" ".join(str(error).split())[:300] or type(error).__name__, seconds=time.monotonic() - began)
        return
    faults.point("tune.trained")
    told = {"epochs": len(came.result.history), "seconds": time.monotonic() - began}
    if trial.behind:
        trial.pruned(**told)
    else:
        trial.done(came.result.map50_95, **told)
    best = search.best
    values = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.values.items())
    pruned = " (pruned)" if trial.behind else ""
    ahead = f"; best {best.value:.4f} of trial {best.number}" if best and best.value is not None else ""
    what = values if trial.number else "the settings as they are"
    progress.say(f"trial {trial.number}: {what}: mAP50-95 {came.result.map50_95:.4f}{pruned}{ahead}")
    parent.metrics({"value": came.result.map50_95}, trial.number)


class _Watch:
    """Tells the study each epoch's score, and stops what is not worth going on with; a `DetectionWatch`."""

    def __init__(self, trial: Trial) -> None:
        self._trial, self._epochs = trial, 1

    def begin(self, job: Any, facts: Mapping[str, Any]) -> None:
        self._epochs = job.epochs

    def step(self, epoch: int, step: int, steps: int, loss: float, learning_rate: float) -> None:
        self._trial.alive()

    def epoch(self, found: Any) -> bool:
        faults.point("tune.epoch")
        behind = self._trial.report(found.epoch / self._epochs, found.map50_95)
        return behind and found.epoch < self._epochs

    def say(self, text: str) -> None:
        pass


def _changes(values: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's values as changes of a job."""
    from everlearn.stages.detecting.training import FIELDS

    own = {name: value for name, value in values.items() if name in FIELDS}
    rest = {name: value for name, value in values.items() if name not in FIELDS}
    return {**own, "settings": rest} if rest else own


def _found(workspace: Workspace, search: Search, following: track.Run, progress: Progress) -> Tuned:
    trials = search.outcomes()
    tried = tuple(one for one in trials if one.status not in ("waiting", "running"))
    best = search.best
    if best is None:
        errors = [one.error for one in tried if one.error]
        raise BadInput(
            f"None of {len(tried)} trials came to a score" + (f"; the first: {errors[0]}" if errors else "") + ".",
            "Give more time, or search a tamer space.",
        )
    untuned = trials[0].value if trials and trials[0].status == "done" else None
    folder, plots = workspace.root / CHECKPOINTS / following.name, following.plots
    for place in (folder, plots):
        place.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    write_whole(path, _section(workspace, best, len(tried)).encode())
    pictures = {
        "history.png": search_plots.history([(o.number, o.value, o.status) for o in tried], untuned, "mAP50-95")
    }
    shares = search.importance()
    if shares:
        pictures["importance.png"] = search_plots.importance(shares)
    for name, data in pictures.items():
        write_whole(plots / name, data)
        following.artifact(plots / name)
    notes = ["No trial was better than the settings as they are."] if best.number == 0 else []
    notes.append(
        "The best of several trials on the same validation images is optimistic. Put the section into everlearn.yaml, "
        "then: everlearn train; everlearn evaluate, on the test side, which nothing here has touched."
    )
    found = Tuned(
        following.name, search.study.study_name, best, untuned, None, path, tried, shares,
                  tuple(plots / name for name in pictures), None, tuple(notes))  # fmt: skip
    told = {name: value for name, value in found.to_json().items() if name in KEPT}
    following.note({**told, "trials": len(tried), "recipe": path.relative_to(workspace.root).as_posix()})
    return found


def _section(workspace: Workspace, best: Outcome, tried: int) -> str:
    """The section `detect` with the best values."""
    values = workspace.config.detect.model_dump()
    rest = learning.options(values["options"])
    for name, value in (best.values if best.number else {}).items():
        if name in OWN:
            values[name] = value
        else:
            rest[name] = value
    values["options"] = [f"{name}={value}" for name, value in rest.items()]
    head = f"# mAP50-95 {best.value:.4f} on the validation side, trial {best.number} of {tried}.\n"
    return head + yaml.safe_dump({"detect": values}, sort_keys=False, allow_unicode=True)


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()

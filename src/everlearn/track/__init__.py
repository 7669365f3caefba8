"""Where a run is written down: the catalog and `training_logs/` always, TensorBoard, MLflow and W&B if wished.

    with track.run(workspace, "train", config=recipe.model_dump(mode="json")) as run:
        run.metrics({"train_loss": 0.4, "val_loss": 0.5}, step=1)
        run.artifact(picture)
        run.note({"stages": [...]})

A mirror that fails is said once and left out; training goes on. Of a catalog that is out of reach for a while, the
numbers wait. What stands behind a slash in a metric's name (`recall/CLASS`) is for the catalog alone, and secrets are
taken out of everything (`everlearn.logs`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from everlearn.catalog import runs
from everlearn.errors import EverlearnError, NotInstalled, StoreFault
from everlearn.logs import RunLog, clean, nameless, redact
from everlearn.workspace import CHECKPOINTS

if TYPE_CHECKING:
    from everlearn.catalog import Database
    from everlearn.types import Progress, Scalar, Tracker
    from everlearn.workspace import Workspace

LOGS = "training_logs"
PLOTS = f"{LOGS}/plots"
MLFLOW_ARTIFACTS = f"{LOGS}/mlflow/artifacts"
SHOWING = "images_"
"""How the names of plots begin that show people's images. They leave this machine only where the settings say so."""
NUMBERS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds", "images_per_second")


class Run:
    """A run that is being written, to all places at once. name: its name in the catalog, `train-20261121-150301`."""

    def __init__(
        self, catalog: Catalog, mirrors: Mapping[str, Tracker], folder: Path, say: Callable[[str], None]
    ) -> None:
        """mirrors: by the name that people know them by. folder: where this run's plots belong."""
        self.name = catalog.run
        self.plots = folder
        self.status: runs.Status = "done"
        self._catalog, self._mirrors, self._say = catalog, dict(mirrors), say
        self._told = set(catalog.steps())

    def params(self, values: Mapping[str, Scalar]) -> None:
        self._catalog.params(values)
        self._each("params", clean(values))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._catalog.metrics(values, step)
        self._mirror(step, values)

    def catch_up(self) -> None:
        """Tell the mirrors what other processes wrote into the catalog (`follow`) since this was last asked."""
        for step, values in sorted(self._catalog.steps().items()):
            if step not in self._told:
                self._mirror(step, values)

    def artifact(self, path: Path) -> None:
        """A file of this run: a plot, a table."""
        self._catalog.artifact(path)
        self._each("artifact", path)

    def note(self, result: Mapping[str, Any], *, snapshot: int | None = None, version: str | None = None) -> None:
        """What came of it so far: for the catalog alone."""
        self._catalog.note(result, snapshot=snapshot, version=version)

    def finish(self, status: str = "done") -> None:
        if self._mirrors:
            self.catch_up()
        self._each("finish", status)
        self._catalog.finish(status)

    def _mirror(self, step: int, values: Mapping[str, float]) -> None:
        self._told.add(step)
        self._each("metrics", {redact(name): value for name, value in values.items() if "/" not in name}, step)

    def _each(self, verb: str, *told: Any) -> None:
        """Tell every mirror; one that fails is said and left out from then on."""
        for name, mirror in list(self._mirrors.items()):
            try:
                getattr(mirror, verb)(*told)
            except Exception as error:
                del self._mirrors[name]
                self._say(left_out(name, error))
                with suppress(Exception):
                    mirror.finish("failed")


def left_out(name: str, error: BaseException) -> str:
    """The one line about a mirror that failed."""
    why = " ".join(redact(str(error)).split())[:200] or type(error).__name__
    return f"{name} failed and is left out from here on, while the run goes on: {why}"


class Catalog:
    """The run in the catalog; a `types.Tracker`. Numbers that cannot be written now are written with the next ones."""

    def __init__(self, database: Database, run: str, root: Path) -> None:
        """root: of the workspace; files in it are named from there."""
        self.run = run
        self._database, self._root = database, root
        self._waiting: list[tuple[int, dict[str, float]]] = []

    def params(self, values: Mapping[str, Scalar]) -> None:
        with self._database.write() as tx:
            runs.note(tx, self.run, config=clean(values))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._waiting.append((step, dict(values)))
        with suppress(StoreFault):  # out of reach for now; `finish` says so, if it stays so
            self.flush()

    def artifact(self, path: Path) -> None:
        name = path.relative_to(self._root).as_posix() if path.is_relative_to(self._root) else path.name
        with self._database.write() as tx:
            kept = list(runs.get(tx, self.run).result.get("artifacts", []))
            if name not in kept:
                runs.note(tx, self.run, {"artifacts": [*kept, name]})

    def note(self, result: Mapping[str, Any], *, snapshot: int | None = None, version: str | None = None) -> None:
        with self._database.write() as tx:
            runs.note(tx, self.run, clean(result), snapshot=snapshot, version=version)

    def steps(self) -> dict[int, dict[str, float]]:
        """The numbers that are written, by step."""
        with self._database.read() as tx:
            series = runs.series(tx, self.run)
        found: dict[int, dict[str, float]] = {}
        for name, points in series.items():
            for step, value in points:
                found.setdefault(step, {})[name] = value
        return found

    def finish(self, status: str = "done") -> None:
        self.flush()
        with self._database.write() as tx:
            runs.end(tx, self.run, status)  # type: ignore[arg-type]

    def flush(self) -> None:
        """Write what waits. Raises StoreFault."""
        if not self._waiting:
            return
        with self._database.write() as tx:
            for step, values in self._waiting:
                runs.metrics(tx, self.run, step, values)
        self._waiting.clear()


@contextmanager
def run(
    workspace: Workspace,
    kind: str,
    *,
    config: Mapping[str, Any] | None = None,
    snapshot: int | None = None,
    parent: str | None = None,
    resume: str | None = None,
    mirrored: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Run]:
    """A run from its beginning to its end, however it ends: done, failed or interrupted (or as `run.status` says).

    resume: the name of a run that goes on. mirrored: False for the many small ones, such as the trials of a search,
    which only the catalog has. Raises NotInstalled where the settings name a mirror that is not there.
    """
    with workspace.catalog.write() as tx:
        if resume is None:
            name = runs.begin(tx, kind, parent=parent, snapshot=snapshot, config=clean(dict(config or {})))
        else:
            name = resume
            runs.resume(tx, name)
    catalog = Catalog(workspace.catalog, name, workspace.root)
    following: Run | None = None
    try:
        mirrors = _mirrors(workspace, catalog, parent, say) if mirrored else {}
        following = Run(catalog, mirrors, workspace.root / PLOTS / name, say)
        if config:
            following._each("params", clean(flat(config)))
        yield following
    except BaseException as error:
        ordinary = isinstance(error, Exception) and getattr(error, "exit_code", 2) != 1
        with suppress(EverlearnError):  # the error in hand is the one to tell
            catalog.note({"error": redact(nameless(str(error)))[:500]} if ordinary else {})
            (following or catalog).finish("failed" if ordinary else "interrupted")
        raise
    following.finish(following.status)


@contextmanager
def follow(workspace: Workspace, name: str) -> Iterator[Run]:
    """A run that another process began and will end, to write into the catalog from here. The mirrors are that
    process's, which passes on what came with `Run.catch_up`, at the latest when it ends."""
    catalog = Catalog(workspace.catalog, name, workspace.root)
    try:
        yield Run(catalog, {}, workspace.root / PLOTS / name, lambda text: None)
    finally:
        catalog.flush()


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Scalar]:
    """Nested settings as `stages.baseline.optimizer.name`: a list of sections goes by their names, or numbers."""
    found: dict[str, Scalar] = {}
    for key, value in values.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        elif isinstance(value, list | tuple) and value and all(isinstance(one, Mapping) for one in value):
            for number, one in enumerate(value, 1):
                found |= flat(one, f"{name}.{one.get('name', number)}.")
        else:
            found[name] = value if isinstance(value, str | int | float | bool | None) else str(value)
    return found


def _mirrors(
    workspace: Workspace, catalog: Catalog, parent: str | None, say: Callable[[str], None]
) -> dict[str, Tracker]:
    """training_logs/ and what the settings name, each opened. What cannot be opened is said and left out."""
    from everlearn.track import mirrors

    settings, root = workspace.config.track, workspace.root
    with workspace.catalog.read() as tx:
        known = dict(runs.get(tx, catalog.run).result.get("mirrors", {}))
        above = dict(runs.get(tx, parent).result.get("mirrors", {})) if parent else {}
    ways: dict[str, Callable[[], Tracker]] = {
        "training_logs": lambda: RunLog(root / LOGS, catalog.run, {"run": catalog.run}),
        "tensorboard": lambda: mirrors.TensorBoard(root / LOGS / "tensorboard" / catalog.run),
        "mlflow": lambda: mirrors.MLflow(
            catalog.run, settings, root, known=known.get("mlflow"), parent=above.get("mlflow")
        ),
        "wandb": lambda: mirrors.WandB(catalog.run, settings, root / LOGS / "wandb" / catalog.run, parent=parent),
    }
    opened: dict[str, Tracker] = {}
    for name in ("training_logs", *dict.fromkeys(settings.to)):
        try:
            opened[name] = ways[name]()
        except NotInstalled:
            raise
        except Exception as error:
            say(left_out(name, error))
    ids = {name: one.id for name, one in opened.items() if isinstance(one, mirrors.Named)}
    if ids:
        catalog.note({"mirrors": {**known, **ids}})
    return opened


def files_of(name: str, result: Mapping[str, Any]) -> list[str]:
    """Folders below the workspace that hold what was made of a run's images: checkpoints, plots, mirrors on this
    machine. For forgetting."""
    found = [f"{CHECKPOINTS}/{name}", f"{PLOTS}/{name}", f"{LOGS}/tensorboard/{name}", f"{LOGS}/wandb/{name}"]
    mlflow = (result.get("mirrors") or {}).get("mlflow")
    return [*found, f"{MLFLOW_ARTIFACTS}/{mlflow}"] if mlflow else found


# --- following a training ---------------------------------------------------------------------------------------------


class Epoch(Protocol):
    """What is told of an epoch: `learn.fit.Epoch`."""

    @property
    def epoch(self) -> int: ...


class Follow:
    """Writes a training into a run as it goes, epoch by epoch; a `learn.fit.Watch`. Steps count epochs over all stages.

    The series `stage` has the stage of each step, from 1: with it the whole history can be read back.
    """

    def __init__(self, run: Run, *, stages: int = 0, epochs: int = 0) -> None:
        """stages, epochs: those done before, of a run that goes on."""
        self._run, self._stage, self._before, self._latest = run, stages, epochs, 0

    def begin(self, stage: Any, facts: dict[str, Any]) -> None:
        self._stage = int(facts.get("stage", self._stage + 1))
        self._before, self._latest = int(facts.get("epochs_before", self._before + self._latest)), 0
        self._run.params({f"facts.{self._stage}.{key}": value for key, value in flat(facts).items()})

    def step(self, epoch: int, step: int, steps: int, loss: float, learning_rate: float) -> None:
        pass

    def epoch(self, found: Epoch) -> bool | None:
        self._latest = found.epoch
        values = {name: float(getattr(found, name)) for name in NUMBERS}
        there = {name: value for name, value in values.items() if not math.isnan(value)}  # numbers have no accuracy
        self._run.metrics({"stage": self._stage, **there}, self._before + found.epoch)
        return None

    def end(self, found: Any) -> None:
        pass

    def say(self, text: str) -> None:
        pass


class Aloud(Follow):
    """Passes on what is said as well, under the run's name: one of several trainings of an experiment."""

    def __init__(self, run: Run, progress: Progress) -> None:
        super().__init__(run)
        self._progress = progress

    def say(self, text: str) -> None:
        self._progress.say(f"{self._run.name}: {text}")

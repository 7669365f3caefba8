"""Experiments that train many times: cross-validation, 5x2 cv comparison, learning curve.

Each training is a run of its own (kind `fold`) under the experiment's run, written down as soon as it is done: an
experiment that was killed goes on where it stood when the same is asked for again, and one that is done already is not
done anew. What makes two experiments the same is their configuration, the data's digest among it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn import faults, track
from everlearn.catalog import runs
from everlearn.errors import BadInput
from everlearn.evaluate.changes import Change, changes
from everlearn.evaluate.fivebytwo import HALVES, REPEATS, FiveByTwo, five_by_two
from everlearn.evaluate.folds import CrossValidated, Fold, folds_of, summary
from everlearn.evaluate.learning_curve import LearningCurve, growing, learning_curve, nested, picture, shares
from everlearn.stages.subjects import Pool, Scored, Way, pool, way
from everlearn.workspace import write_whole

if TYPE_CHECKING:
    from everlearn.types import Progress
    from everlearn.workspace import Workspace

CURVES, HEAVY_CURVES = 5, 2
"""Curves that are drawn, one for each fold: of the exact memory, and of networks."""
POINTS, HEAVY_POINTS = 6, 4
"""Sizes on a curve, at most."""
LEAST, HEAVY_LEAST = 2, 4
"""Samples of each class that a curve begins with."""


@dataclass(frozen=True)
class Experiment:
    """run: its name; each: its trainings, as `--json` shows them; following: where it is written down while it is being
    done, None where it was done already."""

    run: str
    each: list[dict[str, Any]]
    following: track.Run | None

    def note(self, result: Mapping[str, Any]) -> None:
        if self.following is not None:
            self.following.note({**result, "error": None})


def crossval(
    workspace: Workspace, name: str, progress: Progress, *, folds: int = 5, repeats: int = 1, seed: int = 0,
    keep: bool = False, quick: bool = False, anew: bool = False,
) -> tuple[CrossValidated, Experiment]:  # fmt: skip
    """Cross-validate a way of learning over the learning side. keep: networks are kept, for an ensemble; quick: one
    epoch a stage; anew: also where the same is done already. Raises TooFew, Missing."""
    data = pool(workspace)
    one = way(workspace, name, data, progress, keep=keep, quick=quick)
    asked = {"folds": folds, "repeats": repeats, "seed": seed, "keep_models": keep}
    parts = list(folds_of(data.labels, data.groups, folds=folds, repeats=repeats, seed=seed, numbers=data.numbers))
    with _experiment(workspace, "crossval", _config(data, one.config, asked), data, anew, progress) as done:
        done.each.extend(_scored(workspace, done.run, one, parts, {}, progress))
        found = summary(
            [row["score"] for row in done.each], folds=folds, repeats=repeats, samples=len(data.members),
            measure=data.measure,
        )  # fmt: skip
        done.note(found.to_json())
    return found, done


def compare_ways(
    workspace: Workspace, first: str, second: str, progress: Progress, *, seed: int = 0, quick: bool = False,
    anew: bool = False,
) -> tuple[FiveByTwo, tuple[Change, ...], Experiment]:  # fmt: skip
    """Is the second way of learning better than the first? The 5x2 cv test over the learning side, and what differs
    between the two. Raises TooFew, Missing, BadInput where both are the same."""
    data = pool(workspace)
    ways = [way(workspace, name, data, progress, quick=quick) for name in (first, second)]
    changed = _changed(*ways)
    if not changed:
        raise BadInput(f"{first} and {second} are the same way of learning.", "Change one variable.")
    halves = list(folds_of(data.labels, data.groups, folds=HALVES, repeats=REPEATS, seed=seed, numbers=data.numbers))
    config = _config(data, {"first": ways[0].config, "second": ways[1].config}, {"seed": seed, "test": "5x2cv"})
    with _experiment(workspace, "compare", config, data, anew, progress) as done:
        sides = [
            _scored(workspace, done.run, one, halves, {"side": side}, progress)
            for side, one in zip(("first", "second"), ways, strict=True)
        ]
        found = five_by_two(
            *([row["score"] for row in side] for side in sides),
            n=len(data.members), measure=data.measure, alpha=workspace.config.gates.alpha,
        )  # fmt: skip
        done.each.extend(sides[0] + sides[1])
        done.note({**found.to_json(), "changed": [one.to_json() for one in changed]})
    return found, changed, done


def curve(
    workspace: Workspace, name: str, progress: Progress, *, curves: int | None = None, seed: int = 0,
    target: float | None = None, quick: bool = False, anew: bool = False,
) -> tuple[LearningCurve, Experiment, Path]:  # fmt: skip
    """Would more data help? Learn growing shares, test on what is held out, one curve for each of the first `curves`
    folds. Returns also where the picture is. Raises TooFew where there is too little for a curve."""
    data = pool(workspace)
    one = way(workspace, name, data, progress, quick=quick)
    curves = curves or (HEAVY_CURVES if one.heavy else CURVES)
    folds = list(folds_of(data.labels, data.groups, folds=max(CURVES, curves), seed=seed, numbers=data.numbers))
    of_class, points = (HEAVY_LEAST, HEAVY_POINTS) if one.heavy else (LEAST, POINTS)
    some = shares(min(len(fold.train) for fold in folds), max(of_class * data.classes, 10), points)
    cuts = [nested(data.labels, data.groups, fold.train, some, seed) for fold in folds[:curves]]
    kept = growing([sum(map(len, sizes)) / curves for sizes in zip(*cuts, strict=True)])
    some, cuts = [some[i] for i in kept], [[parts[i] for i in kept] for parts in cuts]
    config = _config(data, one.config, {"curves": curves, "shares": some, "seed": seed})
    with _experiment(workspace, "curve", config, data, anew, progress) as done:
        each = done.each
        with progress.task("trainings", curves * len(some)) as task:
            for fold, parts in zip(folds, cuts, strict=False):
                for share, learn in zip(some, one.growing(fold, parts), strict=True):
                    each.append(_once(workspace, done.run, {"fold": fold.name, "share": share}, learn))
                    task.advance()
        rows = [each[i * len(some) : (i + 1) * len(some)] for i in range(curves)]
        sizes = [sum(map(len, parts)) / curves for parts in zip(*cuts, strict=True)]
        found = learning_curve(
            sizes, [[_error(data, row) for row in one_curve] for one_curve in rows], samples=len(data.members),
            tested=round(sum(row[0]["tested"] for row in rows) / curves), measure=data.measure, target=target,
        )  # fmt: skip
        path = workspace.root / track.PLOTS / done.run / "curve.svg"
        if done.following is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, picture(found))
            done.following.artifact(path)
        done.note(found.to_json())
    return found, done, path


def _changed(first: Way, second: Way) -> tuple[Change, ...]:
    """What somebody chose; a digest only follows from it, and another learner's settings are not this one's."""
    if first.config["learner"] != second.config["learner"]:
        return (Change("learner", first.name, second.name),)
    return changes(*({name: one.config[name] for name in one.config if name != "basis"} for one in (first, second)))


def _error(data: Pool, row: Mapping[str, Any]) -> float:
    return float(row["score"] if data.numbers else 1 - row["score"])


def _config(data: Pool, of: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    return {**asked, "data": data.snapshot.digest, "of": dict(of)}


@contextmanager
def _experiment(
    workspace: Workspace, kind: str, config: Mapping[str, Any], data: Pool, anew: bool, progress: Progress
) -> Iterator[Experiment]:
    """The experiment as it stands there with this configuration, or from its beginning. However the block is left, its
    run says so."""
    with workspace.catalog.read() as tx:
        same = [one for one in runs.every(tx, kind=kind) if one.parent is None and _same(one.config, config)]
    last = same[-1] if same and not (anew and same[-1].status == "done") else None
    if last is not None and last.status == "done":
        yield Experiment(last.name, [], None)
        return
    if last is not None:
        progress.say(f"Going on with {last.name}, which was not finished.")
    with track.run(
        workspace,
        kind,
        config=config,
        snapshot=data.snapshot.number,
        resume=last.name if last else None,
        say=progress.say,
    ) as run:
        yield Experiment(run.name, [], run)


def _same(there: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether a run was begun with this; what was noted of it since does not count."""
    return not changes({name: there.get(name) for name in asked}, asked)


def _scored(
    workspace: Workspace, run: str, one: Way, parts: list[Fold], about: Mapping[str, Any], progress: Progress
) -> list[dict[str, Any]]:
    """Every fold's line, in order; those that are there already are not done again."""
    each = []
    with progress.task(f"folds of {one.name}", len(parts)) as task:
        for _, repeat in groupby(parts, key=lambda fold: fold.repeat):
            folds = list(repeat)
            prepared = cache(partial(one.folds, folds))  # only where a fold of this repeat remains to be done
            for fold in folds:
                each.append(_once(workspace, run, {**about, "fold": fold.name}, partial(_trained, prepared, fold)))
                task.advance()
    return each


def _trained(prepared: Callable[[], Callable[[Fold, track.Run], Scored]], fold: Fold, run: track.Run) -> Scored:
    return prepared()(fold, run)


def _once(
    workspace: Workspace, parent: str, about: Mapping[str, Any], learn: Callable[[track.Run], Scored]
) -> dict[str, Any]:
    """One training as a run under its experiment, or what it came to when it was done before."""
    with workspace.catalog.read() as tx:
        there = [one for one in runs.every(tx, kind="fold", parent=parent) if _same(one.config, about)]
        snapshot = runs.get(tx, parent).snapshot
    for one in there:
        if one.status == "done":
            return {"run": one.name, **about, **one.result}
    goes_on = there[-1].name if there else None
    with track.run(
        workspace, "fold", config=about, snapshot=snapshot, parent=parent, resume=goes_on, mirrored=False
    ) as run:
        scored = learn(run)
        values = asdict(scored)
        result = {**values.pop("details"), **values}
        faults.point("crossval.scored")
        run.metrics({"score": scored.score}, 0)
        run.note({**result, **({"error": None} if goes_on else {})})
    faults.point("crossval.kept")
    return {"run": run.name, **about, **result}

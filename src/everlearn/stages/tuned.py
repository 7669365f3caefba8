"""What a search came to: the best values, the gain, the tuned recipe as a file, the table of trials and the plots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from everlearn import faults, track
from everlearn.errors import BadInput
from everlearn.evaluate import search_plots
from everlearn.learn.space import Space
from everlearn.workspace import CHECKPOINTS, write_whole

if TYPE_CHECKING:
    from everlearn.learn.network.recipe import Recipe
    from everlearn.learn.search import Outcome, Search
    from everlearn.workspace import Workspace

RECIPE = "recipe.yaml"
KEPT = ("best", "best_trial", "value", "baseline", "gain", "importance")
"""Of what came of a search, in the catalog. The trials are runs of their own."""
OPTIMISTIC = (
    "The best of several trials on the same validation images is optimistic: part of its lead is luck. Train it and "
    "check it on the test side, which nothing here has touched: everlearn train --recipe {path}; everlearn evaluate"
)


@dataclass(frozen=True)
class Tuned:
    """What a search came to. best: the trial; recipe: with its values, None for a detector, which has settings; path:
    where they are written.

    value, baseline: of the best trial and of the recipe (or the settings) as it is: validation accuracy, of numbers R²,
    of detectors mAP50-95.
    """

    run: str
    study: str
    best: Outcome
    baseline: float | None
    recipe: Recipe | None
    path: Path
    trials: tuple[Outcome, ...]
    importance: Mapping[str, float]
    pictures: tuple[Path, ...] = ()
    stage: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        assert self.best.value is not None
        return self.best.value

    @property
    def gain(self) -> float | None:
        return None if self.baseline is None else self.value - self.baseline

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run, "study": self.study, "stage": self.stage, "best": dict(self.best.values),
            "best_trial": self.best.number, "value": self.value, "baseline": self.baseline, "gain": self.gain,
            "recipe": str(self.path), "importance": dict(self.importance),
            "trials": [one.to_json() for one in self.trials], "pictures": [str(one) for one in self.pictures],
            "notes": list(self.notes),
        }  # fmt: skip


def found_by(
    workspace: Workspace, search: Search, run: str, stage: str | None, following: track.Run | None
) -> Tuned:  # fmt: skip
    """The best values, the recipe with them, the table and the plots, all in their places."""
    trials = search.outcomes()
    tried = [one for one in trials if one.status not in ("waiting", "running")]
    best = search.best
    if best is None:
        errors = [one.error for one in tried if one.error]
        if not tried:
            raise BadInput("The time was over before a trial was.", "Give more: --time MINUTES; it goes on.")
        raise BadInput(
            f"None of {len(tried)} trials came to a score; the first: {(errors or ['pruned'])[0]}",
            "Search a tamer space, or begin with a recipe that trains: everlearn train",
        )
    space, untuned = search.space, trials[0].value if trials[0].status == "done" else None
    assert isinstance(space, Space)
    recipe = space.applied(best.values) if best.number else space.recipe
    recipe = recipe.model_copy(update={"name": f"{recipe.name[:26]}-tuned"})
    folder, plots = workspace.root / CHECKPOINTS / run, workspace.root / track.PLOTS / run
    path = folder / RECIPE
    measure = "R²" if workspace.config.task == "regress" else "accuracy"
    notes = []
    if best.number == 0:
        notes.append("No trial was better than the recipe as it is.")
    if len(tried) > 1:
        notes.append(OPTIMISTIC.format(path=path))
    shares = search.importance()
    pictures = {"history.png": search_plots.history([(o.number, o.value, o.status) for o in tried], untuned, measure)}
    if shares:
        pictures["importance.png"] = search_plots.importance(shares)
    found = Tuned(
        run, search.study.study_name, best, untuned, recipe, path, tuple(tried), shares,
        tuple(plots / name for name in pictures), stage, tuple(notes),
    )  # fmt: skip
    if following is not None or not path.exists():
        for place in (folder, plots):
            place.mkdir(parents=True, exist_ok=True)
        worth = f"validation {measure} {found.value:.4f}, untuned {_score(untuned)}"
        write_recipe(path, recipe, f"Found by {run}: {worth}; {len(tried)} trials.")
        for name, data in pictures.items():
            write_whole(plots / name, data)
    if following is not None:
        for picture in found.pictures:
            following.artifact(picture)
        values = {key: value for key, value in found.to_json().items() if key in KEPT}
        where = path.relative_to(workspace.root).as_posix()
        following.note({**values, "trials": len(tried), "recipe": where, "error": None})
    faults.point("tune.found")
    return found


def write_recipe(path: Path, recipe: Recipe, head: str) -> None:
    """As `everlearn train --recipe PATH` takes it. head: a comment."""
    values = json.loads(recipe.model_dump_json())
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, f"# {head}\n{text}".encode())


def line(one: Outcome, best: Outcome | None) -> str:
    values = ", ".join(f"{field} {_short(value)}" for field, value in one.values.items())
    what = "the recipe as it is" if one.number == 0 else values
    came = _score(one.value) + (" (pruned)" if one.status == "pruned" else "")
    came = f"failed: {one.error}" if one.status == "failed" else came
    said = f"trial {one.number}: {what}: {came}"
    return said + (f"; best {best.value:.4f} of trial {best.number}" if best and best.value is not None else "")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"

"""The command that searches for better settings: tune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from everlearn.cli.console import Answer
from everlearn.cli.data import opened
from everlearn.errors import BadInput
from everlearn.text import table

if TYPE_CHECKING:
    pass

Context = typer.Context
SHOWN = 10


def add_to(app: typer.Typer) -> None:
    app.command("tune")(tune)


def tune(
    context: Context,
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", metavar="R", help="What is tuned: a shipped recipe, or a YAML file.")
    ] = "baseline",
    space: Annotated[
        list[str] | None,
        typer.Option(
            "--space", metavar="FIELD=VALUES",
            help="FIELD=LOW..HIGH, FIELD=LOW..HIGH:log, FIELD=LOW..HIGH:STEP or FIELD=a,b,c, for any field of the "
            "recipe or of its stages. May be given several times. Default: learning_rate=0.001..0.1:log, "
            "batch_size=16,32,64,128, epochs=10..200:log.",
        ),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(help="That stage alone, from the best weights of those before it; all: one search for each."),
    ] = None,
    sampler: Annotated[Literal["grid", "random", "tpe"], typer.Option(help="How settings are chosen.")] = "tpe",
    trials: Annotated[
        int | None,
        typer.Option(min=2, help="How many, with the recipe as it is, which is trial 0. Default: 20; of a grid all."),
    ] = None,
    time: Annotated[
        float | None, typer.Option("--time", metavar="MINUTES", min=0.01, help="Stop after so long.")
    ] = None,
    prune: Annotated[bool, typer.Option("--prune/--no-prune", help="Stop trials early that fall behind.")] = True,
    pruner: Annotated[Literal["median", "hyperband"], typer.Option(help="What falling behind means.")] = "median",
    seed: Annotated[int, typer.Option(min=0, help="Of the sampler. A recipe's own seed is a field of it.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes on this machine; on a cluster: --engine ray.")] = 1,
    study: Annotated[
        str | None, typer.Option(help="A name to share the search by; default: one for the same data and settings.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The database of the studies, as postgresql://USER@HOST/NAME; default: the "
                     "catalog's server, or a file of the workspace."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the networks of all trials.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="The recipe with one epoch a stage, and epochs not searched.")
    ] = False,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Another value of the recipe, as for train."),
    ] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Begin another search, though the same is there.")] = False,
) -> Answer:  # fmt: skip
    """Search for better settings of a recipe. Every trial is trained on the training side and scored on the validation
    side; the test side is not touched. Killed, the same command goes on; several machines that give it with the same
    --storage and --study share the trials. Writes the tuned recipe and plots. Needs the extra [train]."""
    from everlearn.learn import space as spaces
    from everlearn.learn.network import recipe as recipes
    from everlearn.stages import tuning

    workspace = opened(context)
    if workspace.config.task == "detect":
        unfit = {"--stage": stage, "--study": study, "--storage": storage, "--set": change, "--keep": keep or None,
                 "--jobs": None if jobs == 1 else jobs}  # fmt: skip
        return _detector(workspace, context.obj, unfit, {
            "written": space, "sampler": sampler, "pruner": pruner if prune else "none", "trials": trials,
            "minutes": time, "seed": seed, "quick": quick or None, "anew": anew,
        })  # fmt: skip
    if storage is not None and study is None:
        raise BadInput("--storage shares a search, and needs its name.", "Name it: --study NAME")
    chosen = recipes.changed(recipes.load(recipe), change or [])
    written = tuple(space or spaces.DEFAULT)
    if quick:
        chosen = chosen.quick()
        written = tuple(line for line in written if not line.startswith("epochs="))
    asked = tuning.Asked(
        space=written, stage=None if stage == "all" else stage, sampler=sampler, pruner=pruner if prune else "none",
        trials=trials, minutes=time, seed=seed, jobs=jobs, study=study, storage=storage, keep=keep, anew=anew,
    )  # fmt: skip
    if stage == "all":
        found = tuning.by_stage(workspace, chosen, asked, context.obj)
    else:
        found = [tuning.tune(workspace, chosen, asked, context.obj)]
    lines = [line for one in found for line in _lines(one)] + list(found[-1].notes)
    values: dict[str, Any] = found[-1].to_json()
    if stage == "all":
        values["stages"] = [one.to_json() for one in found]
    return Answer(values, lines)


def _detector(workspace: Any, console: Any, unfit: dict[str, Any], asked: dict[str, Any]) -> Answer:
    """A detector has settings of its own, in the section detect. unfit: options that are for recipes."""
    from everlearn.stages.detecting import tuning

    given = [name for name, value in unfit.items() if value is not None]
    if given:
        raise BadInput(f"{', '.join(given)} is for recipes; this workspace tunes a detector.", "Leave it out.")
    values = {name: value for name, value in asked.items() if value is not None}
    if asked["sampler"] == "grid" and asked["trials"] is None:
        values["trials"] = None
    found = tuning.tune(workspace, console, **values)
    return Answer(found.to_json(), [*_lines(found), *found.notes])


def _lines(found: Any) -> list[str]:
    """The best trials first, and what was gained."""
    fields = list(dict.fromkeys(field for one in found.trials for field in one.values))
    order = sorted(found.trials, key=lambda one: (one.status != "done", -(one.value or 0.0), one.number))
    rows = [
        ["0, untuned" if one.number == 0 else str(one.number), *(_shown(one.values.get(field)) for field in fields),
         "" if one.value is None else f"{one.value:.4f}", one.status if one.error is None else f"failed: {one.error}"]
        for one in order[:SHOWN]
    ]  # fmt: skip
    lines = [f"{found.stage}:"] if found.stage else []
    lines += table(rows, ["trial", *fields, "score", ""])
    if len(order) > SHOWN:
        lines.append(f"… and {len(order) - SHOWN} more: --json has them all")
    if found.importance:
        lines.append("What mattered: " + ", ".join(f"{name} {share:.2f}" for name, share in found.importance.items()))
    gain = "" if found.gain is None else f"; untuned {found.baseline:.4f}, gain {found.gain:+.4f}"
    lines.append(f"Best: trial {found.best.number}, {found.value:.4f}{gain}. Recipe: {found.path}")
    return [*lines, *(f"picture: {one}" for one in found.pictures)]


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

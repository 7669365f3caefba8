"""Commands that train networks: train."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Literal

import typer

from everlearn.cli.console import Answer
from everlearn.cli.data import opened
from everlearn.errors import BadInput, ClusterFault
from everlearn.text import table

Context = typer.Context


def add_to(app: typer.Typer) -> None:
    app.command("train")(train)


def train(
    context: Context,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-r", metavar="R", help="A shipped recipe, or a YAML file; default: five-stage."),
    ] = None,
    begin: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="MODEL", help="Continue a saved stage: best_model_stage_5, RUN/stage_2_augmentation, or "
            "a version of `train`. See: everlearn models stages"
        ),
    ] = None,
    kind: Annotated[
        Literal["fine_tune", "regularization", "exploration"] | None,
        typer.Option("--type", help="How to continue; default: fine_tune, where no recipe is named."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One epoch a stage, every stage: a test run.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the newest unfinished run.")] = False,
    anew: Annotated[bool, typer.Option("--anew", help="Begin another run, though one like it is unfinished.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Go on although the data or the recipe have changed since.")
    ] = False,
    network: Annotated[str | None, typer.Option(help="Another network than the recipe's: cnn:width=16.")] = None,
    size: Annotated[int | None, typer.Option(help="Another side of the images, in pixels.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Other epochs, in every stage.")] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed.")] = None,
    processes: Annotated[
        int | None, typer.Option(help="Processes to train in; default: one for each visible GPU.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Another value, as stages.0.optimizer.learning_rate=0.01; "
                     "stages.*.epochs=5 for all. May be given several times."),
    ] = None,
) -> Answer:  # fmt: skip
    """Train a network in stages, and register the best weights as a version. Every stage is saved; a run that was
    killed goes on where it was. Needs the extra [train]."""
    from everlearn.learn.network import recipe as recipes
    from everlearn.learn.network.launch import follows
    from everlearn.stages import training
    from everlearn.workspace import Workspace

    if follows():  # a launcher started this process as one of several: the first does all but train, and speaks
        with suppress(ClusterFault):
            training.train(Workspace.open(context.obj.workspace), recipes.load("baseline"), context.obj, force=force)
        raise typer.Exit
    workspace = opened(context)
    if kind and recipe:
        raise BadInput("--type and --recipe both say how to train.", "Give one of them.")
    if kind and not begin:
        raise BadInput("--type continues a saved stage.", "Name it: --from best_model_stage_5")
    stage, name = (None, None) if begin is None else training.begin_with(workspace, begin)
    if stage is not None and not recipe:
        chosen = training.continued(stage, kind or "fine_tune")
    else:
        chosen = recipes.load(recipe or ("regression" if workspace.config.task == "regress" else "five-stage"))
        chosen = chosen if stage is None else training.like(chosen, stage)
    values: dict[str, Any] = {"network": network, "size": size, "seed": seed, "processes": processes}
    values = {key: value for key, value in values.items() if value is not None}
    if epochs is not None:
        values["stages.*.epochs"] = epochs
    chosen = recipes.changed(chosen, [*(f"{key}={value}" for key, value in values.items()), *(change or [])])
    chosen = chosen.quick() if quick else chosen
    with workspace.lock():
        version, found = training.train(
            workspace, chosen, context.obj, watch=_display(context.obj, chosen), begin=stage, begun_from=name,
            resume=resume, anew=anew, force=force,
        )  # fmt: skip
    rows = [
        [
            str(one.number), one.name, f"{one.val_loss:.4f}", f"{one.val_accuracy:.4f}", _signed(one.improvement),
            f"{one.best_epoch}/{len(one.history)}", f"{one.seconds:.0f} s", "kept" if one.kept else "",
        ]
        for one in found.stages
    ]  # fmt: skip
    headings = ["", "stage", "val loss", "val accuracy", "gain", "best epoch", "time", ""]
    said = f"{version.name} is what is kept. " if version else ""
    lines = [*table(rows, headings), f"{said}Run {found.run}. Then: everlearn evaluate, everlearn analyze"]
    return Answer({"model": version and version.name, **found.to_json()}, lines)


def _signed(value: float) -> str:
    return f"{value:+.4f}" if value == value else ""


def _display(console: Any, recipe: Any) -> Any:
    """Lines for each stage and epoch, or a live display on a terminal."""
    try:
        from everlearn.cli.live import display
    except ImportError:
        return _Says(console)
    return display(console, recipe)


class _Says:
    """Says what a training says, a line at a time."""

    def __init__(self, console: Any) -> None:
        self._console = console

    def begin(self, stage: Any, facts: dict[str, Any]) -> None:
        self._console.say(f"{stage.name}: {facts}")

    def step(self, *told: Any) -> None:
        pass

    def epoch(self, found: Any) -> bool | None:
        self._console.say(
            f"  epoch {found.epoch}: loss {found.train_loss:.4f}, validation loss {found.val_loss:.4f}, "
            f"accuracy {found.val_accuracy:.4f}, {found.images_per_second:.0f} images/s"
        )
        return None

    def end(self, found: Any) -> None:
        pass

    def say(self, text: str) -> None:
        self._console.say(text)

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
        typer.Option("--recipe", "-r", metavar="R", help="A shipped recipe, a YAML file, or auto: found by measuring "
                     "on this data; default: five-stage."),
    ] = None,
    begin: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="MODEL", help="Continue a saved stage: best_model (the newest training's), "
            "best_model_stage_5, RUN/stage_2_augmentation, or a version of `train`. See: everlearn models stages"
        ),
    ] = None,
    method: Annotated[
        Literal["replay", "derpp", "lwf", "ewc", "joint"] | None,
        typer.Option(help="Teach the champion's network only what is new, and hold what is old by replay, derpp, lwf "
                     "or ewc; joint: a new network from all images, what those are measured against."),
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
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Of --recipe auto: the time that choosing and training may take; "
                                   "default: 10.")
    ] = None,
    memory_gb: Annotated[
        float | None, typer.Option("--memory-gb", min=0.01, help="Of --recipe auto; default: half of what is free.")
    ] = None,
    find_rate: Annotated[
        bool, typer.Option("--find-rate", help="Suggest a learning rate by a sweep, with its plot; nothing is trained.")
    ] = False,
) -> Answer:  # fmt: skip
    """Train a network in stages, and register the best weights as a version. Every stage is saved; a run that was
    killed goes on where it was. Needs the extra [train]."""
    from everlearn.workspace import Workspace

    if Workspace.open(context.obj.workspace).config.task == "detect":
        unfit = {
            "--recipe": recipe, "--method": method, "--type": kind, "--processes": processes, "--minutes": minutes,
            "--memory-gb": memory_gb, "--find-rate": find_rate or None, "--force": force or None,
        }  # fmt: skip
        _check(None, None, None, None, resume and anew)
        asked = {"spec": network, "size": size, "epochs": 1 if quick and epochs is None else epochs, "seed": seed}
        return _detector(opened(context), context.obj, begin, unfit, asked, change or [], anew)
    from everlearn.learn.network import recipe as recipes
    from everlearn.learn.network.launch import follows
    from everlearn.stages import continual, saved, training

    if follows():  # a launcher started this process as one of several: the first does all but train, and speaks
        with suppress(ClusterFault):
            training.train(Workspace.open(context.obj.workspace), recipes.load("baseline"), context.obj, force=force)
        raise typer.Exit
    workspace = opened(context)
    _check(kind, recipe, begin, network or size, resume and anew)
    automatic = _automatic(workspace, context.obj, recipe, minutes, memory_gb, anew)
    recipe = str(automatic.path) if automatic else recipe
    stage, name = (None, None) if begin is None else saved.begin_with(workspace, begin)
    if method and method != continual.JOINT and stage is None:
        stage, name = continual.standing(workspace)
    if stage is not None and not recipe:
        chosen = saved.continued(stage, kind or "fine_tune")
    else:
        chosen = recipes.load(recipe or ("regression" if workspace.config.task == "regress" else "five-stage"))
        chosen = chosen if stage is None else saved.like(chosen, stage)
    values: dict[str, Any] = {"network": network, "size": size, "seed": seed, "processes": processes}
    values = {key: value for key, value in values.items() if value is not None}
    if epochs is not None:
        values["stages.*.epochs"] = epochs
    using: str | None = method
    if resume and not (recipe or begin or kind or method):
        chosen, stage, name, using = training.to_resume(workspace)
    chosen = recipes.changed(chosen, [*(f"{key}={value}" for key, value in values.items()), *(change or [])])
    chosen = chosen.quick(epochs or 1) if quick else chosen
    if find_rate:
        return _rate(workspace, context.obj, chosen, stage)
    with workspace.lock():
        options: dict[str, Any] = {"resume": resume, "anew": anew, "force": force}
        options |= {"watch": _display(context.obj, chosen), "begin": stage, "begun_from": name}
        if using:
            version, found = continual.train(workspace, chosen, using, context.obj, **options)
        else:
            version, found = training.train(workspace, chosen, context.obj, **options)
    rows = [
        [
            str(one.number), one.name, f"{one.val_loss:.4f}", f"{one.val_accuracy:.4f}", _signed(one.improvement),
            f"{one.best_epoch}/{len(one.history)}", f"{one.seconds:.0f} s", "kept" if one.kept else "",
        ]
        for one in found.stages
    ]  # fmt: skip
    score = "val R²" if workspace.config.task == "regress" else "val accuracy"
    headings = ["", "stage", "val loss", score, "gain", "best epoch", "time", ""]
    said = f"{version.name} is what is kept. " if version else ""
    lines = [*table(rows, headings), f"{said}Run {found.run}. Then: everlearn evaluate, everlearn analyze"]
    how = {"auto": automatic.to_json()} if automatic else {}
    return Answer({"model": version and version.name, **found.to_json(), **how}, lines)


def _check(kind: str | None, recipe: str | None, begin: str | None, another: Any, opposites: bool) -> None:
    """Options that contradict each other. another: a network or size that is asked for."""
    if kind and recipe:
        raise BadInput("--type and --recipe both say how to train.", "Give one of them.")
    if kind and not begin:
        raise BadInput("--type continues a saved stage.", "Name it: --from best_model, or as `models stages` does.")
    if begin and another:
        raise BadInput("--from brings its own network and size.", "Leave --network and --size out.")
    if opposites:
        raise BadInput("--resume and --anew are opposites.", "Give one of them.")


def _detector(
    workspace: Any, console: Any, begin: str | None, unfit: dict[str, Any], values: dict[str, Any], change: list[str],
    anew: bool,
) -> Answer:  # fmt: skip
    """A detector has one stage, and its own settings. unfit: options that are for other networks."""
    from everlearn.cli.live import detecting
    from everlearn.stages.detecting import training

    given = [name for name, value in unfit.items() if value is not None]
    if given:
        raise BadInput(
            f"{', '.join(given)} is for networks that are trained in stages; this workspace trains a detector.",
            "Use --epochs, --size, --network yolo11s.yaml, --from VERSION, --set lr0=0.005; or the section detect.",
        )
    changes = {name: value for name, value in values.items() if value is not None} | training.assigned(change)
    watch = detecting(console)
    try:
        with workspace.lock():
            found = training.train(workspace, console, begin=begin, changes=changes, watch=watch, anew=anew)
    finally:
        watch.end()
    told = found.to_json()
    one = told["stages"][0]
    lines = [
        f"{told['model']}: mAP50 {one['map50']:.4f}, mAP50-95 {one['map50_95']:.4f} on the validation side, best epoch "
        f"{one['best_epoch']} of {one['epochs']}, {one['seconds']:.0f} s.",
        f"results: {told['folder']}",
        "Then: everlearn evaluate",
    ]
    return Answer(told, lines)


def _automatic(
    workspace: Any, console: Any, recipe: str | None, minutes: float | None, memory_gb: float | None, anew: bool
) -> Any:
    """The recipe that is found by measuring, where it was asked for."""
    if recipe == "auto":
        from everlearn.stages import automatic

        return automatic.choose(workspace, console, minutes=minutes, memory_gb=memory_gb, anew=anew)
    if minutes is not None or memory_gb is not None:
        raise BadInput("--minutes and --memory-gb say what --recipe auto may take.", "Add --recipe auto.")
    return None


def _rate(workspace: Any, console: Any, recipe: Any, begin: Any) -> Answer:
    """Of --find-rate."""
    from everlearn.stages import automatic

    found, run, picture = automatic.find_rate(workspace, recipe, console, begin=begin)
    stage = recipe.stages[0].name
    turned = "" if found.diverged is None else f"; it diverges from {found.diverged:.2g} on"
    lines = [
        f"Learning rate {found.suggestion:g}: the loss falls fastest at {found.steepest:.2g}{turned}.",
        f"Then: --set stages.{stage}.optimizer.learning_rate={found.suggestion:g}",
        f"picture: {picture}",
    ]
    return Answer({"run": run, "stage": stage, **found.to_json(), "picture": str(picture)}, lines)


def _signed(value: float) -> str:
    return f"{value:+.4f}" if value == value else ""


def _display(console: Any, recipe: Any) -> Any:
    """A live picture on a terminal, a line for each epoch elsewhere."""
    from everlearn.cli.live import display

    return display(console, recipe)

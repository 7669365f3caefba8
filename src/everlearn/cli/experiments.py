"""Commands that try something out and say what it was worth: ensemble, distill, chain."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from everlearn.cli.console import Answer
from everlearn.cli.data import opened
from everlearn.errors import BadInput
from everlearn.text import table

Context = typer.Context
# What a recipe may be asked to have otherwise.
Network = Annotated[str | None, typer.Option(help="Another network than the recipe's: cnn:width=16.")]
Size = Annotated[int | None, typer.Option(help="Another side of the images, in pixels.")]
Epochs = Annotated[int | None, typer.Option(help="Other epochs, in every stage.")]
Seed = Annotated[int | None, typer.Option(help="Another seed.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Another value of the recipe, as in `train`.")
]


def add_to(app: typer.Typer) -> None:
    app.command("ensemble")(ensemble)
    app.command("distill")(distill)
    app.command("chain")(chain)


def ensemble(
    context: Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]…",
            help="Members: aliases, versions, .onnx files, or saved stages of networks (RUN/best_model_stage_3; see "
            "`models stages`). An exact memory stands for its backbone.",
        ),
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option("--backbone", help="A memory over this backbone is a member too; may be given several times."),
    ] = None,
    combine: Annotated[
        Literal["auto", "average", "vote", "majority", "weighted", "stacking", "dynamic"],
        typer.Option(
            "--combine",
            help="How answers are combined: their average (soft voting), a vote weighted by confidence, the majority, "
            "weights fitted on samples nobody had learned, a logistic regression on the members' answers (stacking), "
            "or the average of those most competent near the image; auto: what was right most often.",
        ),
    ] = "auto",
    stages: Annotated[
        str | None,
        typer.Option(
            "--stages", metavar="RUN", help="The best weights of each stage of this training, or of the newest."
        ),
    ] = None,
    snapshots: Annotated[
        str | None,
        typer.Option("--snapshots", metavar="RUN", help="The snapshots that the stages of this training took."),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option("--folds", metavar="RUN", help="The networks of a cross-validation; judged on the test side."),
    ] = None,
    bag: Annotated[
        int | None, typer.Option("--bag", metavar="N", help="Train N networks, each on a bootstrap of the groups.")
    ] = None,
    boost: Annotated[
        int | None,
        typer.Option("--boost", metavar="N", help="Train N networks, each on what those before it got wrong (SAMME)."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", metavar="R", help="Of --bag and --boost; default: baseline.")
    ] = None,
    network: Network = None,
    size: Size = None,
    epochs: Epochs = None,
    seed: Seed = None,
    change: Changes = None,
    memory: Annotated[
        bool | None,
        typer.Option(
            "--memory/--no-memory",
            help="Whether the workspace's own exact memory is a member; default: where no saved stage is one.",
        ),
    ] = None,
) -> Answer:
    """Make one version of several models: exact memories over several backbones, and networks, also of one training's
    stages, snapshots or folds, bagged or boosted. Says what each member and each way to combine them was worth on
    samples that nobody had learned; evaluate and promote it as any other."""
    from everlearn import stages as rooms
    from everlearn.stages import members

    workspace = opened(context)
    if bag is not None and boost is not None:
        raise BadInput("--bag and --boost both say what to train.", "Give one of them.")
    grown = None
    asked = (("network", network), ("size", size), ("epochs", epochs), ("seed", seed))
    if bag is not None or boost is not None:
        chosen = recipe_of(recipe or "baseline", asked, change)
        grown = members.Grown("bag" if bag is not None else "boost", bag or boost or 0, chosen)
    elif recipe or change or any(value is not None for _, value in asked):
        raise BadInput("A recipe is for --bag and --boost.", "Give one of them, or leave the recipe out.")
    named = list(models or [])
    for run, part in ((stages, "stages"), (snapshots, "snapshots"), (folds, "folds")):
        if run is not None:
            named += members.of_run(workspace, run, part)  # type: ignore[arg-type]
    with workspace.lock():
        version, made = rooms.ensemble(
            workspace, backbone or [], named, combine, context.obj, memory=memory, grown=grown
        )  # fmt: skip
    rows = [["member", name, f"{accuracy:.4f}", ""] for name, accuracy in made.worth]
    for name, (accuracy, found) in made.methods.items():
        rows.append(["combined" + (" *" if name == made.method else ""), name, f"{accuracy:.4f}", _against(found)])
    verdict = "It helps." if made.helps else "It is not shown to be better than its best member."
    lines = [
        *table(rows, ["", "", "accuracy", "against the best member"]),
        f"{version.name} by {made.method}, judged on {made.judged_on}: {made.samples}. {verdict}",
    ]
    return Answer({"model": version.name, **made.to_json()}, lines)


def distill(
    context: Context,
    teacher: Annotated[
        list[str],
        typer.Option(
            "--teacher",
            "-t",
            metavar="MODEL",
            help="An alias, a version, an .onnx file, or a saved stage of a network; several are averaged.",
        ),
    ],
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", metavar="R", help="How the student is trained.")
    ] = "baseline",
    network: Annotated[str, typer.Option(help="The student.")] = "cnn:width=8",
    temperature: Annotated[float, typer.Option(help="How much the teacher's answers are softened.")] = 4.0,
    alpha: Annotated[float, typer.Option(help="Share of the teacher in the loss; the labels have the rest.")] = 0.9,
    baseline: Annotated[
        bool, typer.Option("--baseline/--no-baseline", help="Train the same student without a teacher, to compare.")
    ] = True,
    size: Annotated[int | None, typer.Option(help="Another side of the student's images, in pixels.")] = None,
    epochs: Epochs = None,
    seed: Seed = None,
    change: Changes = None,
) -> Answer:
    """Teach a small network what a large one, or several, say of each image, and register it. Says what the teacher was
    worth to it: the same student alone, distilled, and the teacher, with their size and time for an image."""
    from everlearn import stages

    workspace = opened(context)
    chosen = recipe_of(recipe, (("network", network), ("size", size), ("epochs", epochs), ("seed", seed)), change)
    with workspace.lock():
        version, made = stages.distill(
            workspace, teacher, chosen, context.obj, temperature=temperature, alpha=alpha, baseline=baseline
        )
    rows = []
    for one, found in ((made.teacher, made.against_teacher), (made.alone, made.gain), (made.student, None)):
        if one is not None:
            known = "" if one.accuracy is None else f"{one.accuracy:.4f}"
            took = "" if one.latency is None else f"{1000 * one.latency:.2f} ms"
            rows.append([one.name, known, f"{one.bytes / 1e6:.2f} MB", took, _against(found)])
    headings = ["", "accuracy", "file", "an image", "the distilled student against it"]
    verdict = {True: " The teacher helped.", False: " The teacher is not shown to have helped.", None: ""}[made.helps]
    lines = [*table(rows, headings), f"{version.name}, judged on {made.images} validation images.{verdict}"]
    return Answer({"model": version.name, **made.to_json()}, lines)


def chain(
    context: Context,
    separator: Annotated[str, typer.Option(help="What stands between kind and name in a label.")] = "/",
    recipe: Annotated[str, typer.Option("--recipe", "-r", metavar="R", help="How it is trained.")] = "baseline",
    first_weight: Annotated[float, typer.Option(help="Weight of the loss of the kind; the other's is 1.")] = 1.0,
    network: Network = None,
    size: Size = None,
    epochs: Epochs = None,
    seed: Seed = None,
    change: Changes = None,
) -> Answer:
    """Train one network for labels in two parts, such as fruit/apple: first which kind, then which one, given the kind;
    both losses together. The version answers whole labels, and its file also says the kind."""
    from everlearn import stages

    workspace = opened(context)
    chosen = recipe_of(recipe, (("network", network), ("size", size), ("epochs", epochs), ("seed", seed)), change)
    with workspace.lock():
        version, found = stages.chain(workspace, separator, chosen, context.obj, weights=(first_weight, 1.0))
    lines = [
        *table([["kind", f"{found.first:.4f}"], ["label", f"{found.second:.4f}"]], ["", "accuracy"]),
        f"{version.name} of {len(found.kinds)} kinds, judged on {found.images} validation images.",
    ]
    return Answer({"model": version.name, **found.to_json()}, lines)


def _against(found: Any) -> str:
    if found is None:
        return ""
    low, high = found.interval
    return f"{found.difference:+.4f} ({low:+.4f} to {high:+.4f}), p = {found.p_value:.2g}: {found.verdict}"


def recipe_of(name: str, asked: Any, change: list[str] | None) -> Any:
    """A recipe with what was asked for on the command line: (field, value) pairs, None for as it is."""
    from everlearn.learn.network import recipe as recipes

    said = [f"{'stages.*.epochs' if key == 'epochs' else key}={value}" for key, value in asked if value is not None]
    return recipes.changed(recipes.load(name), [*said, *(change or [])])

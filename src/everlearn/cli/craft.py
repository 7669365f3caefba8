"""Commands of the craft: compare, crossval, curve, analyze, checklist. What is asked before a model is trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from everlearn.cli.console import Answer
from everlearn.cli.data import opened
from everlearn.errors import BadInput
from everlearn.text import table

if TYPE_CHECKING:
    from everlearn.evaluate.changes import Change
    from everlearn.evaluate.compare import Comparison
    from everlearn.evaluate.fivebytwo import FiveByTwo
    from everlearn.evaluate.several import Several
    from everlearn.stages.crossvalidating import Experiment

Context = typer.Context
Way = Annotated[
    str,
    typer.Option(
        "--recipe",
        metavar="RECIPE",
        help="What is tried: a recipe (a shipped name or a YAML file), exact for the workspace's exact memory, or "
        "exact:BACKBONE for one over another backbone.",
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="Recipes with one epoch a stage.")]
Anew = Annotated[bool, typer.Option("--anew", help="Do it again, also where the same is done already.")]
Seed = Annotated[int, typer.Option(min=0, help="Another seed divides the data in another way.")]


def add_to(app: typer.Typer) -> None:
    for command in (compare, crossval, curve, analyze, checklist):
        app.command(command.__name__)(command)


def compare(
    context: Context,
    a: Annotated[str, typer.Argument(metavar="A", help="What stands: alias, version, run or .onnx file.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What would replace it.")],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="C", help="More models; each is held against A, with correction.")
    ] = None,
    test: Annotated[
        Literal["mcnemar", "5x2cv"],
        typer.Option(
            help="mcnemar: two trained models on the same test images; 5x2cv: two ways of learning (recipes, exact, "
            "exact:BACKBONE), each trained ten times on halves of the learning side."
        ),
    ] = "mcnemar",
    seed: Seed = 0,
    quick: Quick = False,
    anew: Anew = False,
) -> Answer:
    """Compare models on the same test images, or ways of learning. Is B better than A? McNemar's exact test and a
    bootstrap interval, Holm's correction where there are more than two, and what was changed between them."""
    from everlearn import stages

    workspace = opened(context)
    if test == "5x2cv":
        if more:
            raise BadInput("--test 5x2cv compares two ways of learning.", "Name two.")
        with workspace.lock():
            return _ways(a, b, *stages.compare_ways(workspace, a, b, context.obj, seed=seed, quick=quick, anew=anew))
    if more:
        return _several(*stages.compare_all(workspace, a, [b, *more], context.obj))
    found = stages.compare(workspace, a, b, context.obj)
    return Answer({"a": a, "b": b, **found.to_json()}, [*_pair(a, b, found.found), found.told])


def _pair(a: str, b: str, found: Comparison) -> list[str]:
    low, high = found.interval
    known = found.verdict in ("better", "worse")
    lines = [
        f"{b} is {found.verdict} than {a}." if known else f"{b} and {a}: {found.verdict}.",
        f"difference {found.difference:+.4f}, interval {low:+.4f} to {high:+.4f}, p = {found.p_value:.3g}",
        f"{found.n} test images: {found.gained} gained, {found.lost} lost",
    ]
    if found.needed:
        lines.append(f"About {found.needed} more test images would decide.")
    return lines + [f"harm: {v.kind} {v.name} {v.difference:+.3f} (p = {v.p_value:.3g})" for v in found.vetoes]


def _several(found: Several, changed: dict[str, tuple[Change, ...] | None]) -> Answer:
    """The verdict's own keys are of the model with the largest difference that was shown, else of the largest."""
    from everlearn.evaluate.changes import told

    first = found.best
    if first == found.baseline:
        first = max(found.models, key=lambda name: found.models[name].difference)
    rows = [
        [name, f"{one.candidate:.4f}", f"{one.difference:+.4f}", f"{one.interval[0]:+.4f} to {one.interval[1]:+.4f}",
         f"{one.p_value:.3g}", f"{found.corrected[name]:.3g}", one.verdict]
        for name, one in found.models.items()
    ]  # fmt: skip
    head = ["model", "score", "difference", "interval", "p", "p (Holm)", f"than {found.baseline}"]
    shown = found.best != found.baseline
    best = f"Best shown: {found.best}." if shown else f"None is shown to be better than {found.baseline}."
    told_of = [f"{name}: {told(of)}" for name, of in changed.items() if of is not None]
    values = {
        "a": found.baseline, "b": first, **found.models[first].to_json(), "best": found.best,
        "models": {
            name: {**one.to_json(), "corrected": found.corrected[name], "changed": _plain(changed[name])}
            for name, one in found.models.items()
        },
        "corrected": found.corrected[first], "changed": _plain(changed[first]),
    }  # fmt: skip
    return Answer(values, [*table(rows, head), best, *told_of])


def _ways(a: str, b: str, found: FiveByTwo, changed: tuple[Change, ...], done: Experiment) -> Answer:
    from everlearn.evaluate.changes import told

    low, high = found.interval
    lines = [
        f"{b} is {found.verdict} than {a}." if found.verdict != "undecided" else f"{b} and {a}: undecided.",
        f"{found.measure} {found.first:.4f} and {found.second:.4f}: difference {found.difference:+.4f}, interval "
        f"{low:+.4f} to {high:+.4f}",
        f"combined 5x2 cv F = {found.f:.3f}, p = {found.p_value:.3g}; Dietterich's t = {found.t:+.3f}, "
        f"p = {found.dietterich:.3g}; {found.n} samples",
        told(changed),
    ]
    return Answer(
        {"a": a, "b": b, "run": done.run, **found.to_json(), "changed": _plain(changed), "each": done.each}, lines
    )


def _plain(changed: tuple[Change, ...] | None) -> list[dict[str, Any]] | None:
    return None if changed is None else [one.to_json() for one in changed]


def crossval(
    context: Context,
    recipe: Way = "exact",
    folds: Annotated[int, typer.Option(min=2, help="Parts, of which each is tested once.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="How often the data is divided anew.")] = 1,
    seed: Seed = 0,
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Keep each fold's network in model_updates/checkpoints/.")
    ] = False,
    quick: Quick = False,
    anew: Anew = False,
) -> Answer:
    """Cross-validate a recipe or the exact memory. Over the learning side, the test side is left alone; folds are
    stratified and split no group. Mean, deviation and an interval that knows that folds overlap; every fold is a run.
    Killed, it goes on where it was."""
    from everlearn import stages

    workspace = opened(context)
    with workspace.lock():
        found, done = stages.crossval(
            workspace, recipe, context.obj, folds=folds, repeats=repeats, seed=seed, keep=keep_models, quick=quick,
            anew=anew,
        )  # fmt: skip
    rows = [[one["fold"], f"{one['score']:.4f}", one["trained"], one["tested"], f"{one['seconds']:.1f} s", one["run"]]
            for one in done.each]  # fmt: skip
    told = "yolo" if workspace.config.task == "detect" and recipe == "exact" else recipe
    lines = [*table(rows, ["fold", found.measure, "learned", "tested", "time", "run"]), f"{told}: {found}."]
    return Answer({"run": done.run, "recipe": told, **found.to_json(), "each": done.each}, lines)


def curve(
    context: Context,
    recipe: Way = "exact",
    curves: Annotated[
        int | None, typer.Option(min=1, help="Curves to draw, one for each fold; default: 5, of a recipe 2.")
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            help="Say how many images would reach this score; default: gates.accuracy, gates.map50 of detectors."
        ),
    ] = None,
    seed: Seed = 0,
    quick: Quick = False,
    anew: Anew = False,
) -> Answer:
    """Would more data help? Learns growing shares of the data, fits the power law of the error, and says what twice the
    images would be worth, with an interval and a picture."""
    from everlearn import stages

    workspace = opened(context)
    if target is None and workspace.config.task != "regress":
        gates = workspace.config.gates
        target = gates.map50 if workspace.config.task == "detect" else gates.accuracy
    with workspace.lock():
        found, done, picture = stages.curve(
            workspace, recipe, context.obj, curves=curves, seed=seed, target=target, quick=quick, anew=anew
        )
    rows = [[one.samples, f"{one.score:.4f}", f"{one.deviation:.4f}"] for one in found.points]
    law = f"error(n) = {found.law.scale:.3g} n^-{found.law.slope:.2f} + {found.law.floor:.3g}"
    lines = [*table(rows, ["images", found.measure, "deviation"]), law, str(found), f"picture: {picture}"]
    values = {"run": done.run, "recipe": recipe, **found.to_json(), "answer": str(found), "picture": str(picture)}
    return Answer({**values, "each": done.each}, lines)


def analyze(
    context: Context,
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run; default: the newest that trained a network.")
    ] = None,
    all_runs: Annotated[bool, typer.Option("--runs", help="A table of all runs instead.")] = False,
) -> Answer:
    """Compare the stages of a training, or list all runs. Loss, accuracy, what each stage gained and in total, how far
    the weights moved, which classes gained, over- and under-fitting, time; with a picture."""
    from everlearn import stages

    workspace = opened(context)
    if all_runs:
        return _runs(stages.listed(workspace))
    if workspace.config.task == "detect":
        from everlearn.stages.detecting import analysing

        one = analysing.analyze(workspace, run)
        drawn = [f"picture: {one.picture}"] if one.picture else []
        return Answer(one.to_json(), [one.run.name, *table(one.rows(), list(one.head)), *one.lines(), *drawn])
    found = stages.analyze(workspace, run, context.obj)
    lines = [found.run.name, *table(found.rows(), found.head), *found.lines(), f"picture: {found.picture}"]
    return Answer(found.to_json(), lines)


def _runs(found: list[dict[str, Any]]) -> Answer:
    rows = [
        [one["run"], one["status"], one["at"].isoformat(" ", "minutes"),
         "" if one["seconds"] is None else f"{one['seconds']:.0f} s", one["parts"] or "",
         "" if one["score"] is None else f"{one['score']:.4f}", one["version"] or ""]
        for one in found
    ]  # fmt: skip
    lines = table(rows, ["run", "status", "begun (UTC)", "time", "parts", "score", "model"])
    return Answer({"runs": found, "stages": []}, lines or ["Nothing has been tried yet: everlearn train"])


def checklist(context: Context) -> Answer:
    """Tick the experiment checklist from evidence. Baseline measured, tuning planned, records kept, overfitting
    watched, selection criterion stated, model saved and versioned: each with what shows it."""
    from everlearn import stages
    from everlearn.evaluate.checklist import lines

    workspace = opened(context)
    items = stages.checklist(workspace)
    done = sum(one.done for one in items)
    return Answer(
        {"items": [one.to_json() for one in items], "done": done, "of": len(items)},
        [*lines(items), f"{done} of {len(items)}."],
    )

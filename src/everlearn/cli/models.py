"""Commands about models: learn, evaluate, predict, feedback, regressions, models, deploy, promote, rollback,
history."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from everlearn.cli.console import Answer
from everlearn.cli.data import a_folder, opened
from everlearn.errors import BadInput
from everlearn.text import table

Context = typer.Context
Model = Annotated[
    str | None,
    typer.Option("--model", help="Alias (champion, newest, …), version or .onnx file; default: champion, else newest."),
]


def add_to(app: typer.Typer) -> None:
    for command in (learn, evaluate, predict, feedback, regressions, deploy, promote, rollback, history):
        app.command(command.__name__)(command)
    app.add_typer(models, name="models")


def learn(context: Context) -> Answer:
    """Teach what is new, and register a version. Where nothing is new, no version comes of it."""
    from everlearn import stages
    from everlearn.catalog import versions

    workspace = opened(context)
    with workspace.lock():
        with workspace.catalog.read() as tx:
            before = versions.newest(tx)
        version, report = stages.learn(workspace, context.obj)
    values = {
        "model": version.name,
        "learner": report.learner,
        "samples": report.samples,
        "removed": report.removed,
        "seconds": round(report.seconds, 3),
        "memory_digest": report.memory_digest,
        "model_digest": report.model_digest,
        **report.details,
    }
    did = f"learned {report.samples}" + (f", unlearned {report.removed}" if report.removed else "")
    line = f"{version.name}: {did} in {report.seconds:.1f} s." if before is None or version.name != before.name else (
        f"{version.name} knows everything already."
    )  # fmt: skip
    return Answer(values, [line, f"memory {report.memory_digest}" if report.memory_digest else report.learner])


def evaluate(context: Context, model: Model = None) -> Answer:
    """Score a model, judge its gates, write a report. On the test side, beside the champion. Exit code 1 where a
    gate fails."""
    from everlearn import stages

    workspace = opened(context)
    with workspace.lock():
        result = stages.evaluate(workspace, model, context.obj)
    return Answer(result.values, result.lines(), code=0 if result.passed else 1)


def predict(
    context: Context,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Images, or folders of images.")],
    model: Model = None,
    record: Annotated[bool, typer.Option("--record", help="Keep each answer under an id, for feedback.")] = False,
    camera: Annotated[str | None, typer.Option(help="The camera that the images are from.")] = None,
) -> Answer:
    """Answer for images. A .onnx file as --model works without any workspace; --json also tells where each box is. Exit
    code 2 where none could be read."""
    from everlearn import stages

    alone = model is not None and model.endswith(".onnx") and not record
    workspace = None if alone else opened(context)
    found = list(stages.predict(workspace, paths, model, context.obj, record=record, camera=camera))
    rows = [[one["path"], *_told(one), one.get("id", "")] for one in found]
    unread = [one for one in found if "error" in one]
    lines = table(rows) or ["There is no image at these paths."]
    return Answer({"predictions": found}, lines, code=2 if unread and len(unread) == len(found) else 0)


def _told(one: dict[str, Any]) -> list[str]:
    if "error" in one:
        return [f"error: {one['error']}", ""]
    if "boxes" in one:
        return [_boxes(one["boxes"]), ""]
    return [f"{one['value']:.6g}", ""] if one["value"] is not None else [one["label"], f"{one['confidence']:.3f}"]


def _boxes(found: list[dict[str, Any]]) -> str:
    """The surest boxes by name; all of them are in --json."""
    shown = [f"{box['label']} {box['confidence']:.2f}" for box in found[:6]]
    left = [f"and {len(found) - 6} more"] if len(found) > 6 else []
    return ", ".join([*shown, *left]) or "nothing"


def feedback(
    context: Context,
    id: Annotated[str, typer.Argument(metavar="ID", help="A recorded answer: predict --record gives its id.")],
    right: Annotated[bool, typer.Option("--right", help="The answer was right.")] = False,
    wrong: Annotated[bool, typer.Option("--wrong", help="The answer was wrong.")] = False,
    label: Annotated[str | None, typer.Option(help="What would have been right.")] = None,
) -> Answer:
    """Say whether a recorded answer was right. It becomes a sample, and a mistake also a case for every candidate."""
    from everlearn import stages

    if sum([right, wrong, label is not None]) != 1:
        raise BadInput("Say one of --right, --wrong, --label L.", "See: everlearn feedback --help")
    workspace = opened(context)
    with workspace.lock():
        sample, case = stages.feedback(workspace, id, right=right, label=label)
    said = "It is a regression case now." if case else "Thank you."
    return Answer({"sample": sample, "case": case}, [f"Sample {sample}. {said}"])


def regressions(context: Context) -> Answer:
    """The mistakes that people have reported. Every candidate must answer them."""
    from everlearn.catalog import answers, scenes

    workspace = opened(context)
    with workspace.catalog.read() as tx:
        cases = answers.cases(tx)
        words = scenes.words(tx, {label for one in cases for label in (one["wrong"], one["right"])})
    cases = [{**one, **{name: words.get(one[name]) for name in ("wrong", "right")}} for one in cases]
    rows = [[c["sample_id"], c["wrong"] or "-", c["right"] or "-", c["version"]] for c in cases]
    return Answer({"cases": cases}, table(rows, ["sample", "said", "right", "model"]) if rows else ["None."])


models = typer.Typer(help="Versions of the model: alone it lists them; show, tag, export.", rich_markup_mode=None)


@models.callback(invoke_without_command=True)
def models_list(
    context: Context,
    tag: Annotated[str | None, typer.Option(help="Only versions with this tag.")] = None,
    minimum: Annotated[float | None, typer.Option("--min-accuracy", help="Only versions at least this good.")] = None,
) -> Answer | None:
    """Versions of the model: alone it lists them; show, tag, export."""
    if context.invoked_subcommand is not None:
        return None
    from everlearn import registry
    from everlearn.catalog import versions

    workspace = opened(context)
    found = registry.search(workspace, tag=tag, minimum=minimum)
    with workspace.catalog.read() as tx:
        aliases = versions.aliases(tx)
    listed = [_version(one, aliases.get(one.name, [])) for one in found]
    rows = [
        [o["version"], ",".join(o["aliases"]), _score(o["metrics"]), o["learner"], o["backbone"], o["snapshot"] or "",
         o["created_at"].isoformat(" ", "minutes"), "retired" if o["retired"] else ",".join(o["tags"])]
        for o in listed
    ]  # fmt: skip
    head = ["version", "alias", "score", "learner", "backbone", "snapshot", "made (UTC)", "tags"]
    lines = table(rows, head) if rows else ["No model yet: everlearn run"]
    stages = _stages(workspace)
    newest = [one for one in stages if one["run"] == stages[0]["run"]] if stages else []
    if newest:
        lines += ["", "Stages of the newest training, to continue with: everlearn train --from MODEL "
                  "(all: everlearn models stages)", *_staged(newest)]  # fmt: skip
    return Answer({"models": listed, "stages": stages}, lines)


@models.command("stages")
def models_stages(context: Context) -> Answer:
    """Every stage that a training has saved, newest run first. Continue one: everlearn train --from MODEL --type T"""
    stages = _stages(opened(context))
    lines = _staged(stages) if stages else ["Nothing was trained in stages yet: everlearn train"]
    return Answer({"models": [], "stages": stages}, lines)


def _stages(workspace: Any) -> list[dict[str, Any]]:
    from everlearn.stages.saved import list_stages

    return list_stages(workspace)


def _staged(stages: list[dict[str, Any]]) -> list[str]:
    rows = [
        [one["model"], one["name"], "kept" if one["kept"] else "best" if one["best"] else "last",
         _figure(one["val_loss"]), _figure(one["val_accuracy"]), f"{one['seconds']:.0f} s", one["version"] or ""]
        for one in stages
    ]  # fmt: skip
    return table(rows, ["model", "stage", "weights", "val loss", "val accuracy", "time", "version"])


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


@models.command("show")
def models_show(
    context: Context,
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Alias or version; default: champion, else newest.")
    ] = None,
    option: Annotated[str | None, typer.Option("--model", help="The same, as an option.")] = None,
) -> Answer:
    """One version: its card, its scores, its licence, where it lies."""
    from everlearn import registry
    from everlearn.catalog import versions

    workspace = opened(context)
    with workspace.catalog.read() as tx:
        version = versions.get(tx, _one(model, option))
    values = _listed(workspace, version)
    card = {} if version.retired else registry.card(workspace, version)
    shown = {**values, "aliases": ", ".join(values["aliases"]), "tags": ", ".join(values["tags"]), "config": None,
             "metrics": _score(values["metrics"])}  # fmt: skip
    lines = table([[key.replace("_", " "), value] for key, value in shown.items() if value])
    return Answer({"models": [{**values, "card": card}]}, lines)


@models.command("tag")
def models_tag(
    context: Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Alias or version.")],
    tags: Annotated[list[str] | None, typer.Argument(metavar="TAG…", help="Tags; alias:NAME makes an alias.")] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Take a tag or alias:NAME away.")] = None,
) -> Answer:
    """Add tags to a version, or take them away. A tag alias:NAME lets NAME stand for the version."""
    from everlearn import registry

    workspace = opened(context)
    with workspace.lock():
        version = registry.tag(workspace, model, tags or [], remove or [])
    values = _listed(workspace, version)
    told = [*(f"alias:{alias}" for alias in values["aliases"]), *values["tags"]]
    return Answer({"models": [values]}, [f"{version.name}: {', '.join(told) or 'no tags'}"])


@models.command("export")
def models_export(
    context: Context,
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to copy the bundle to.", callback=a_folder)],
    model: Model = None,
    sums: Annotated[bool, typer.Option("--sums", help="Also the exact memory's sums (personal data).")] = False,
    form: Annotated[
        str, typer.Option("--format", metavar="onnx|pt|h5", help="The whole bundle, or a network's weights alone.")
    ] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="Also a network in int8, and what that costs.")] = False,
    half: Annotated[bool, typer.Option("--half", help="Also a detector in float16, and what that costs.")] = False,
) -> Answer:
    """Copy a version's bundle. The ONNX file, the head, the classes, the card; or a network for torch or Keras."""
    from everlearn import stages

    workspace = opened(context)
    with workspace.lock():
        done = stages.export(workspace, model, out, context.obj, sums=sums, form=form, int8=int8, half=half)
    values: dict[str, Any] = {"models": [done.version.name], "files": [str(path) for path in done.files]}
    values["int8"] = done.int8 and done.int8.to_json()
    if done.forms:
        values["forms"] = [one.to_json() for one in done.forms]
    return Answer(values, done.lines())


def deploy(
    context: Context,
    to: Annotated[str | None, typer.Option(help="A folder or s3://…; default: where it was last deployed.")] = None,
    model: Model = None,
) -> Answer:
    """Copy a model to where programs look for it. With its card, each file whole; place and evaluation are recorded."""
    from everlearn import stages

    workspace = opened(context)
    with workspace.lock():
        done = stages.deploy(workspace, model, to)
    values = dataclasses.asdict(done)
    return Answer({"champion": _champion(workspace), **values}, [f"{done.version} is at {done.path}"])


def promote(
    context: Context,
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Alias or version; default: newest.")] = None,
    option: Annotated[str | None, typer.Option("--model", help="The same, as an option.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Whatever the gates say; needs --reason.")] = False,
    reason: Annotated[str, typer.Option(help="Why; written to the history.")] = "",
) -> Answer:
    """Make a version the champion. Past its gates, or by force with a reason."""
    from everlearn import registry, stages

    workspace = opened(context)
    with workspace.lock():
        name = stages.registered(workspace, _one(model, option) or "newest").name
        version = registry.promote(workspace, name, force=force, reason=reason)
    return Answer({"champion": version.name}, [f"{version.name} is the champion.", *_stale(workspace, version.name)])


def rollback(
    context: Context, reason: Annotated[str, typer.Option(help="Why; written to the history.")] = ""
) -> Answer:
    """Make the champion before this one the champion again."""
    from everlearn import registry

    workspace = opened(context)
    with workspace.lock():
        version = registry.rollback(workspace, reason)
    return Answer(
        {"champion": version.name}, [f"{version.name} is the champion again.", *_stale(workspace, version.name)]
    )


def history(
    context: Context,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Which model was in production then: 2025-07-04T13:30 (UTC).")
    ] = None,
) -> Answer:
    """What happened to the models, when and why. With --at, which one was in production then."""
    from everlearn.catalog import versions

    moment = None if at is None else _moment(at)
    workspace = opened(context)
    with workspace.catalog.read() as tx:
        past = versions.past(tx)
        then = versions.in_production(tx, moment) if moment else None
    lines = table([_event(line) for line in past], ["time (UTC)", "what", "model", "before", "why"])
    if moment:
        lines = ["  ".join(_event(then))] if then else ["No model was in production then."]
    champion = then["version"] if then else None if moment else _champion(workspace)
    return Answer({"history": past, "champion": champion, "at": then}, lines or ["Nothing yet."])


def _moment(text: str) -> datetime:
    """A time as ISO 8601 writes it, UTC where it has no zone; a whole second is meant to its end. Raises BadInput."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"--at {text!r} is no time.", "Write 2025-07-04T13:30, or …+09:00 for a time zone.") from None
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment if "." in text else moment.replace(microsecond=999_999)


def _one(argument: str | None, option: str | None) -> str | None:
    """A model may be named by its place or by --model."""
    if argument is not None and option is not None:
        raise BadInput(f"Two models are named, {argument} and {option}.", "Name one.")
    return option if argument is None else argument


def _event(line: dict[str, Any]) -> list[str]:
    forced = " (forced)" if line["forced"] else ""
    when = line["at"].isoformat(" ", "seconds")
    return [when, line["action"] + forced, line["version"], line["previous"] or "", line["reason"]]


def _stale(workspace: Any, name: str) -> list[str]:
    """A line for each place that another version was last deployed to."""
    from everlearn.catalog import versions

    with workspace.catalog.read() as tx:
        there = {row["path"]: row["version"] for row in versions.deployments(tx)}
    return [f"{path} still holds {old}: everlearn deploy" for path, old in sorted(there.items()) if old != name]


def _champion(workspace: Any) -> str | None:
    from everlearn.catalog import versions

    with workspace.catalog.read() as tx:
        found = versions.champion(tx)
    return found.name if found else None


def _version(one: Any, aliases: list[str]) -> dict[str, Any]:
    values = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
    return {"version": values.pop("name"), "aliases": aliases, **values}


def _listed(workspace: Any, version: Any) -> dict[str, Any]:
    from everlearn.catalog import versions

    with workspace.catalog.read() as tx:
        return _version(version, versions.aliases(tx).get(version.name, []))


def _score(metrics: Any) -> str:
    if not metrics:
        return "-"
    for name in ("accuracy", "r2", "map50"):
        if metrics.get(name) is not None:
            return f"{name} {metrics[name]:.4f}"
    return "-"

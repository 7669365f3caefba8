"""Commands that try something out and say what it was worth: ensemble."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from everlearn.cli.console import Answer
from everlearn.cli.data import opened
from everlearn.text import table

Context = typer.Context


def add_to(app: typer.Typer) -> None:
    app.command("ensemble")(ensemble)


def ensemble(
    context: Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]…",
            help="Further members: aliases, versions or .onnx files. An exact memory stands for its backbone.",
        ),
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option("--backbone", help="A memory over this backbone is a member too; may be given several times."),
    ] = None,
    combine: Annotated[
        Literal["auto", "average", "vote", "dynamic"],
        typer.Option(
            "--combine",
            help="How answers are combined: their average, a vote weighted by confidence, or the average of those most "
            "competent near the image; auto: what was right most often.",
        ),
    ] = "auto",
) -> Answer:
    """Make one version of several models: exact memories over several backbones, and networks. Says what each member
    and each way to combine them was worth on samples that nobody had learned; evaluate and promote it as any other."""
    from everlearn import stages

    workspace = opened(context)
    with workspace.lock():
        version, made = stages.ensemble(workspace, backbone or [], models or [], combine, context.obj)
    rows = [["member", name, f"{accuracy:.4f}", ""] for name, accuracy in made.worth]
    for name, (accuracy, found) in made.methods.items():
        low, high = found.interval
        against = f"{found.difference:+.4f} ({low:+.4f} to {high:+.4f}), p = {found.p_value:.2g}: {found.verdict}"
        rows.append(["combined" + (" *" if name == made.method else ""), name, f"{accuracy:.4f}", against])
    verdict = "It helps." if made.helps else "It is not shown to be better than its best member."
    lines = [
        *table(rows, ["", "", "accuracy", "against the best member"]),
        f"{version.name} by {made.method}, judged on {made.samples} samples nobody had learned. {verdict}",
    ]
    return Answer({"model": version.name, **made.to_json()}, lines)

"""The command upload: copies of models, reports and snapshots in a bucket."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from everlearn.cli.console import Answer
from everlearn.cli.data import Format, opened

Context = typer.Context


def add_to(app: typer.Typer) -> None:
    app.command("upload")(upload)


def upload(
    context: Context,
    to: Annotated[str, typer.Argument(metavar="URL", help="Where the copies go: s3://bucket/prefix.")],
    models: Annotated[bool, typer.Option("--models", help="The versions of the model.")] = False,
    reports: Annotated[bool, typer.Option("--reports", help="The reports of evaluations.")] = False,
    snapshot: Annotated[bool, typer.Option("--snapshot", help="The newest snapshot of the data.")] = False,
    form: Annotated[
        Format | None, typer.Option("--format", help="The snapshot's layout; default: as dataset export.")
    ] = None,
) -> Answer:
    """Copy models, reports and the newest snapshot to a bucket. What lies there already is not sent again. Without
    --models, --reports or --snapshot: all three. Copies are not reached by forget."""
    from everlearn import stages
    from everlearn.stages.uploading import PARTS

    workspace = opened(context)
    parts = [part for part, given in zip(PARTS, (models, reports, snapshot), strict=True) if given] or PARTS
    usual = Format.yolo if workspace.config.task == "detect" else Format.imagefolder
    with workspace.lock():
        done = stages.upload(workspace, to, context.obj, parts=parts, form=(form or usual).value)
    line = f"Sent {done.sent} files ({done.bytes / 1e6:.1f} MB) to {done.url}; {done.there} were there already."
    return Answer(dataclasses.asdict(done), [line])

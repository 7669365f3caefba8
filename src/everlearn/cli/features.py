"""The command features: what a backbone makes of images, as a table for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from everlearn.cli.console import Answer
from everlearn.cli.data import LabelsFrom, opened
from everlearn.errors import Missing


def add_to(app: typer.Typer) -> None:
    app.command("features")(features)


def features(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="A .parquet, .csv or .npy file; it appears when it is whole.")],
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SRC]…", help="Folders, images, videos, data sets; default: the workspace's images."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="Where features come from, such as timm:resnet18; default: the workspace's, or patches."),
    ] = None,
    phi: Annotated[
        bool, typer.Option("--phi", help="The integers that are learned on, instead of the backbone's own numbers.")
    ] = False,
    labels_from: Annotated[
        LabelsFrom | None, typer.Option(help="Where the labels of SRC come from; default: by what lies there.")
    ] = None,
) -> Answer:
    """Write a backbone's features. Of the workspace's images, or of any images without a workspace; in constant
    memory."""
    from everlearn.stages import extracting

    if not sources:
        workspace = opened(context)
        with workspace.lock():
            done = extracting.of_workspace(workspace, out, context.obj, backbone=backbone, phi=phi)
    else:
        try:
            workspace = opened(context) if context.obj.workspace or backbone is None else None
        except Missing:
            if context.obj.workspace:
                raise
            workspace = None  # there is none here, and none is needed
        by = None if labels_from in (None, LabelsFrom.auto) else labels_from.value
        done = extracting.of_sources(
            sources, out, context.obj, workspace=workspace, backbone=backbone, phi=phi, labels_from=by
        )
    lines = [
        f"{done.rows} rows of {done.dimensions} in {out}.",
        *(f"  {one.path}: {one.reason}" for one in done.named[:20]),
    ]
    lines += [f"  … and {done.refused - 20} more; --json lists them."] if done.refused > 20 else []
    values = {
        "rows": done.rows,
        "dimensions": done.dimensions,
        "path": str(out),
        "backbone": done.backbone,
        "licence": done.licence,
        "refused": done.refused,
        "rejected": [{"path": one.path, "reason": one.reason} for one in done.named],
    }
    return Answer(values, lines)

"""The command for new kinds of what a detector finds: teach."""

from __future__ import annotations

from typing import Annotated

import typer

from everlearn.cli.console import Answer
from everlearn.cli.data import opened

Context = typer.Context


def add_to(app: typer.Typer) -> None:
    app.command("teach")(teach)


def teach(
    context: Context,
    label: Annotated[
        str,
        typer.Argument(
            metavar="LABEL",
            help="What the detector finds, a slash, and which: person/courier. The first part alone: strangers, once a "
            "kind of it is known.",
        ),
    ],
    images: Annotated[list[str], typer.Argument(metavar="IMAGE…", help="Images of it, or folders of them.")],
    whole: Annotated[bool, typer.Option("--whole", help="Each image is cut out already: it is the crop.")] = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="Make it the champion at once, past no gate: it is recorded as forced.")
    ] = False,
) -> Answer:
    """Teach a kind of what the detector finds by a handful of images. The detector stays as it is; an exact memory of
    what is in its boxes learns, and a new version is registered: for `evaluate` and `promote`, as any other."""
    from everlearn import registry
    from everlearn.stages.detecting import teaching

    workspace = opened(context)
    with workspace.lock():
        found = teaching.teach(workspace, label, images, context.obj, whole=whole)
        if promote:
            registry.promote(workspace, found.version.name, force=True, reason=f"taught {found.label}")
    unseen, asked = found.unseen
    lines = [f"{found.version.name} knows {found.label}: {found.taught} of {len(found.examples)} images learned, "
             f"{found.recognised} recognised, in {found.seconds:.1f} s."]  # fmt: skip
    if asked:
        lines.append(f"By what had not learned them, {unseen} of {asked} are recognised.")
    held = [one.path for one in found.examples if one.side == "test"]
    lines += [f"  {path}: its group is held out for testing, so it was not learned" for path in held]
    lines += [f"  {one.path}: {one.reason}" for one in found.refused[:20]]
    if len(found.refused) > 20:
        lines.append(f"  … and {len(found.refused) - 20} more; --json lists them.")
    if promote:
        lines.append("It is the champion now.")
    else:
        lines.append(f"It answers where it is named, --model {found.version.name}, until it is the champion.")
        lines.append(f"Next: everlearn evaluate --model {found.version.name}, then: everlearn promote")
    return Answer({**found.to_json(), "promoted": promote}, lines)

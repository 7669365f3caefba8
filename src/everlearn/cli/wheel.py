"""Commands that turn the wheel and look after it: run, watch, status, doctor, forget, verify, demo."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from everlearn.cli.console import Answer, as_json
from everlearn.cli.data import LabelsFrom, opened
from everlearn.text import table

Context = typer.Context
LAST_TURNS = 10
"""Of which `status` says how much people had to do."""


def add_to(app: typer.Typer) -> None:
    for command in (run, watch, status, doctor, forget, verify, demo):
        app.command(command.__name__)(command)


def run(
    context: Context,
    sources: Annotated[list[str] | None, typer.Argument(metavar="[SRC…]", help="Collect from these first.")] = None,
    labels_from: Annotated[LabelsFrom | None, typer.Option(help="Where their labels come from.")] = None,
) -> Answer:
    """Turn the wheel once. Collect, validate, label, learn, evaluate, and promote what is shown to be no worse.

    Exit code 1 when the decision is not to promote. Nothing new is a turn that does nothing."""
    from everlearn import loop

    workspace = opened(context)
    with workspace.lock():
        turn = loop.turn(workspace, context.obj, sources or (), labels_from and labels_from.value)
    return Answer(turn.to_json(), turn.lines(), code=1 if turn.decision == "held" else 0)


def watch(
    context: Context,
    turns: Annotated[int | None, typer.Option(min=1, help="Stop after so many turns; default: never.")] = None,
) -> Answer | None:
    """Turn whenever there is a reason. New files in collect.sources, the clock, or drift in recorded answers; see the
    settings in watch.

    A file that is still being written is left for the next look. Ends with Ctrl-C; with --json, one object a turn."""
    from everlearn import loop

    workspace = opened(context)
    for turn in loop.watch(workspace, context.obj, turns):
        if context.obj.json:
            as_json(turn.to_json())
        else:
            print("\n".join(turn.lines()), flush=True)
    return None


def status(context: Context) -> Answer:
    """The workspace at a glance. Samples, queue, models, the last turn, and how much of each turn people had to do."""
    from everlearn import stages

    workspace = opened(context)
    found = stages.status(workspace)
    rows = [[key, "-" if value is None else value] for key, value in found.items() if not isinstance(value, dict)]
    lines = [*table(rows), "", *table([[k, v] for k, v in found["counts"].items()], ["status", "samples"])]
    shares = [[turn, f"{share:.1%}"] for turn, share in list(found["share_for_people"].items())[-LAST_TURNS:]]
    lines += ["", *table(shares, ["turn", "new images for people"])] if shares else []
    return Answer(found, lines)


def doctor(
    context: Context,
    deep: Annotated[bool, typer.Option("--deep", help="Also read every file again and compare its digest.")] = False,
) -> Answer:
    """Find and mend what a crash left behind. Exit code 1 where something is lost."""
    from everlearn import erasure, stages

    workspace = opened(context)
    with workspace.lock():
        finished = erasure.resume(workspace, context.obj)
        found = stages.doctor(workspace, context.obj, deep=deep)
    if finished is not None:
        found.mended.append(f"finished an interrupted forgetting: {finished.certificate}")
    lines = [f"mended: {line}" for line in found.mended] + [f"LOST: {line}" for line in found.lost]
    values = {"mended": found.mended, "lost": found.lost, "checked": found.checked}
    return Answer(values, lines or [f"All is well: {found.checked} files checked."], code=1 if found.lost else 0)


def forget(
    context: Context,
    label: Annotated[str | None, typer.Option(help="Everything with this label.")] = None,
    sample: Annotated[list[str] | None, typer.Option(help="This sample; may be given several times.")] = None,
    camera: Annotated[str | None, typer.Option(help="Everything from this camera.")] = None,
    source: Annotated[str | None, typer.Option(help="Everything collected from this source.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Taken at or after this time.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Taken before this time.")] = None,
) -> Answer:
    """Erase samples exactly, and write a certificate. Images, features, sums, derived files, models that knew them. All
    that is given must hold."""
    from everlearn import erasure

    workspace = opened(context)
    chosen = erasure.Selection(label, tuple(sample or ()), camera, source, since, until)
    with workspace.lock():
        done = erasure.forget(workspace, chosen, context.obj)
    lines = [
        f"Forgot {done.forgotten} samples"
        + (f"; memory {done.before[:12]} → {done.after[:12]}." if done.before and done.after else "."),
        *(f"  {line}" for line in done.notes),
        f"Certificate: {done.certificate}",
        f"Check it: everlearn verify {done.certificate}",
    ]
    return Answer(done.to_json(), lines)


def verify(
    context: Context,
    certificate: Annotated[Path, typer.Argument(metavar="CERT", help="A certificate that forget wrote.")],
    from_images: Annotated[bool, typer.Option("--from-images", help="Compute every feature again.")] = False,
) -> Answer:
    """Check a certificate. Rebuild the sums from what remains, and compare. Exit code 1 where anything differs."""
    from everlearn import erasure

    workspace = opened(context)
    with workspace.lock():
        found = erasure.verify(workspace, certificate, context.obj, from_images=from_images)
    lines = [f"{'ok ' if passed else 'NOT'} {name}" + (f": {why}" if why else "") for name, passed, why in found.checks]
    return Answer(found.to_json(), lines, code=0 if found.verified else 1)


def demo(
    context: Context,
    folder: Annotated[Path, typer.Option("--dir", help="Where to make the demo's workspace.")] = Path("demo"),
) -> Answer:
    """The wheel on real handwritten digits, offline. Three days, new classes, bad images, and one class forgotten."""
    from everlearn import demo as story

    turns = story.play(folder, context.obj)
    return Answer({"turns": turns.turns, "report": turns.report, "workspace": str(turns.workspace)}, turns.closing)

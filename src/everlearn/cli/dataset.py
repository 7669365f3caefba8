"""Commands about snapshots: dataset build, list, diff, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from everlearn.cli.console import Answer
from everlearn.cli.data import Context, Format, a_folder, opened
from everlearn.text import table

dataset = typer.Typer(help="Immutable versions of the data.", no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    app.add_typer(dataset, name="dataset")


@dataset.command("build")
def dataset_build(context: Context) -> Answer:
    """Take a snapshot of everything that is labelled. The same data gives the same snapshot."""
    from everlearn.dataset.build import build

    workspace = opened(context)
    with workspace.lock():
        snapshot = build(workspace)
    boxes = _boxes(workspace, snapshot)
    return Answer({**_snapshot(snapshot), **boxes}, [_line(snapshot), *_counts(boxes)])


@dataset.command("list")
def dataset_list(context: Context) -> Answer:
    """All snapshots, oldest first."""
    from everlearn.catalog import snapshots

    workspace = opened(context)
    with workspace.catalog.read() as tx:
        found = snapshots.every(tx)
    last = _snapshot(found[-1]) if found else {"snapshot": None, "samples": 0, "classes": [], "splits": {}}
    boxes = _boxes(workspace, found[-1]) if found else {}
    lines = [*(_line(one) for one in found), *_counts(boxes)]
    return Answer({**last, **boxes, "snapshots": [_snapshot(one) for one in found]}, lines)


@dataset.command("diff")
def dataset_diff(
    context: Context,
    a: Annotated[str, typer.Argument(help="A snapshot's number, or the beginning of its digest.")],
    b: Annotated[str, typer.Argument(help="The other one.")],
) -> Answer:
    """What changed from one snapshot to another."""
    from everlearn.catalog import snapshots
    from everlearn.dataset.diff import diff

    workspace = opened(context)
    with workspace.catalog.read() as tx:
        first, second = snapshots.get(tx, a), snapshots.get(tx, b)
    found = diff(workspace, first, second)
    changes = {name: list(getattr(found, name)) for name in ("added", "removed", "relabelled", "moved")}
    lines = [f"{name}: {len(ids)}" for name, ids in changes.items()]
    before, after = (_boxes(workspace, one).get("boxes", {}) for one in (first, second))
    moved = {name: after.get(name, 0) - before.get(name, 0) for name in sorted({*before, *after})}
    lines += [f"boxes of {name}: {number:+}" for name, number in moved.items() if number]
    boxes = {"boxes": after, "boxes_before": before} if workspace.config.task == "detect" else {}
    return Answer({**_snapshot(second), **changes, **boxes}, lines)


@dataset.command("export")
def dataset_export(
    context: Context,
    out: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is empty or not there.", callback=a_folder)],
    snapshot: Annotated[str | None, typer.Option(help="Which snapshot; default: the newest.")] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="The layout; default: imagefolder, where boxes are learned yolo.")
    ] = None,
) -> Answer:
    """Write a snapshot for other programs. Classes as ImageFolder, YOLO, COCO or CSV; boxes as YOLO, COCO, VOC, Label
    Studio or CSV. With --format dvc also DVC pointers."""
    from everlearn.catalog import snapshots
    from everlearn.dataset.export import export
    from everlearn.errors import Missing

    workspace = opened(context)
    with workspace.catalog.read() as tx:
        chosen = snapshots.get(tx, snapshot) if snapshot else snapshots.latest(tx)
    if chosen is None:
        raise Missing("There is no snapshot yet.", "Make one: everlearn dataset build")
    usual = Format.yolo if workspace.config.task == "detect" else Format.imagefolder
    done = export(workspace, chosen, out, (form or usual).value, context.obj)
    pointers = [str(path) for path in done.pointers]
    lines = [f"Wrote {done.samples} samples to {out}."] + [f"git add {path}" for path in pointers]
    return Answer({**_snapshot(chosen), "samples": done.samples, "path": str(out), "pointers": pointers}, lines)


def _snapshot(one: Any) -> dict[str, Any]:
    return {"snapshot": one.digest, "number": one.number, "samples": one.samples, "classes": list(one.classes),
            "splits": dict(one.splits)}  # fmt: skip


def _line(one: Any) -> str:
    sides = ", ".join(f"{number} {side}" for side, number in one.splits.items())
    return f"{one.number}  {one.digest[:12]}  {one.samples} samples, {len(one.classes)} classes ({sides})"


def _boxes(workspace: Any, one: Any) -> dict[str, Any]:
    """Class to its boxes, where boxes are learned."""
    from everlearn.dataset.diff import box_counts

    if workspace.config.task != "detect":
        return {}
    with workspace.catalog.read() as tx:
        return {"boxes": box_counts(tx, one.number)}


def _counts(boxes: dict[str, Any]) -> list[str]:
    said = boxes.get("boxes", {})
    return ["", *table([[name, number] for name, number in said.items()], ["class", "boxes"])] if said else []

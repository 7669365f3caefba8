"""Commands about data: init, collect, validate, release, label, augment, data."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from everlearn.cli.console import Answer
from everlearn.errors import BadInput
from everlearn.naming import is_scene
from everlearn.text import table
from everlearn.types import STATUSES

Context = typer.Context


class LabelsFrom(StrEnum):
    auto = "auto"
    folder = "folder"
    filename = "filename"
    csv = "csv"
    none = "none"
    yolo = "yolo"
    coco = "coco"
    voc = "voc"
    labelstudio = "labelstudio"


class TaskName(StrEnum):
    classify = "classify"
    regress = "regress"
    detect = "detect"


class Format(StrEnum):
    imagefolder = "imagefolder"
    yolo = "yolo"
    coco = "coco"
    voc = "voc"
    labelstudio = "labelstudio"
    csv = "csv"
    dvc = "dvc"


def add_to(app: typer.Typer) -> None:
    for command in (init, collect, validate, release, label, augment, data):
        app.command(command.__name__)(command)


LOOKS = (" status", " data", " review", " regressions", " models", " show", " history", " list", " diff", " checklist")
"""Commands that change nothing, and so are not logged."""


def opened(context: Context) -> Any:
    """The workspace that the command is about; what changes it is logged there."""
    from everlearn.workspace import Workspace

    workspace = Workspace.open(context.obj.workspace)
    workspace.say = context.obj.say
    if not context.command_path.endswith(LOOKS):
        context.obj.begin(workspace, (context.info_name or "command").replace(" ", "_"))
    return workspace


def init(
    context: Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make the workspace in.")],
    task: Annotated[TaskName, typer.Option(help="What the model does.")] = TaskName.classify,
    backbone: Annotated[
        str,
        typer.Option(
            help="Where features come from: patches, onnx:FILE, timm:NAME, torchvision:NAME, keras:NAME, features."
        ),
    ] = "patches",
    git: Annotated[bool, typer.Option("--git", help="Also make it a Git repository, with models in Git LFS.")] = False,
    catalog: Annotated[str | None, typer.Option(help="Database URL; default: catalog.db in the workspace.")] = None,
    store: Annotated[
        str | None, typer.Option(help="Where files lie, such as s3://bucket/prefix; default: here.")
    ] = None,
) -> Answer:
    """Make a workspace. It is a folder with a commented everlearn.yaml, the catalog and the folder tree."""
    from everlearn.config import check
    from everlearn.model.backbone import load_backbone
    from everlearn.workspace import Workspace

    if not backbone.startswith("onnx:") or backbone == "onnx:":  # its file may come later, a name must be right now
        load_backbone(backbone)
    given = {"task": task.value, "backbone": backbone, "catalog": catalog, "store": store}
    workspace = Workspace.create(folder, check(given, folder / "everlearn.yaml"), git=git)
    source = "TABLE.parquet" if backbone == "features" else "PHOTOS --labels-from folder"
    source = "DATASET" if task is TaskName.detect else source
    lines = [f"Made the workspace {workspace.root}.", f"Next: everlearn -w {folder} run {source}"]
    return Answer({"workspace": str(workspace.root)}, lines)


def collect(
    context: Context,
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SRC…", help="Folders, images, videos, data sets, tables; s3://bucket/prefix."),
    ],
    label: Annotated[str | None, typer.Option(help="The label of everything in these sources.")] = None,
    labels_from: Annotated[
        LabelsFrom | None,
        typer.Option(
            help="Where labels come from: names of folders or files, a labels.csv, a data set's own files, or nowhere. "
            "Default: collect.labels_from, which is auto: by what lies there."
        ),
    ] = None,
    pattern: Annotated[str | None, typer.Option(help="File-name pattern, such as '{label}.{n}.jpg'.")] = None,
    camera: Annotated[str | None, typer.Option(help="The camera that these sources are from.")] = None,
    group: Annotated[str | None, typer.Option(help="Images of one group are never split between sides.")] = None,
    after: Annotated[
        str | None,
        typer.Option(
            metavar="keep|delete|move:PREFIX|tag:KEY=VALUE",
            help="What is done with objects of a bucket once they are in the catalog; default: collect.after.",
        ),
    ] = None,
) -> Answer:
    """Take in images, videos, data sets and tables. Data sets are ImageFolder, YOLO, COCO, VOC and Label Studio, also
    at s3://BUCKET/PREFIX and roboflow://WORKSPACE/PROJECT/VERSION; tables hold features. The same bytes are never taken
    in twice."""
    from everlearn import stages

    workspace = opened(context)
    with workspace.lock():
        said = {"label": label, "labels_from": labels_from and labels_from.value, "pattern": pattern,
                "camera": camera, "group": group, "after": after}  # fmt: skip
        result = stages.collect(workspace, sources, context.obj, **said)
    rejected = [{"path": one.path, "reason": one.reason} for one in result.rejected]
    lines = [f"Collected {result.collected}, {result.duplicates} were there already, {result.refused} refused."]
    if result.suppressed:
        lines.append(f"{result.suppressed} were forgotten on request and were not taken in again.")
    if result.cut:
        lines.append(f"{result.cut} boxes reached over the edge by rounding and were cut there.")
    lines += [f"  {one.path}: {one.reason}" for one in result.rejected[:20]]
    if result.refused > 20:
        lines.append(f"  … and {result.refused - 20} more; --json lists them.")
    values = {"collected": result.collected, "duplicates": result.duplicates, "suppressed": result.suppressed,
              "cut": result.cut, "refused": result.refused, "rejected": rejected}  # fmt: skip
    return Answer(values, lines)


def validate(context: Context) -> Answer:
    """Judge what is new, and score the data set. Quality, duplicates, suspect labels: each refusal with its reason."""
    from everlearn import stages

    workspace = opened(context)
    with workspace.lock():
        result = stages.validate(workspace, context.obj)
    lines = [f"{result.validated} validated, {sum(result.quarantined.values())} in quarantine."]
    lines += table([[reason, number] for reason, number in result.quarantined.items()], ["reason", "images"])
    lines += ["", *table([[n, "-" if v is None else f"{v:.3f}"] for n, v in result.scores.items()], ["score", "0-1"])]
    lines += _boxes(result.boxes) if result.boxes else []
    for name, ids in result.culprits.items():
        if ids and not result.gates.get(name, {"pass": True})["pass"]:
            lines.append(f"{name} is pulled down by: {' '.join(ids[:8])}")
    return Answer(result.to_json(), lines)


def _boxes(found: Any) -> list[str]:
    """Classes and cameras, and what is odd."""
    lines = ["", *table([[name, number] for name, number in found.classes.items()], ["class", "boxes"])]
    lines.append(
        f"{found.boxes} boxes on {found.images} images, at most {found.most} on one; {found.empty} show nothing."
    )
    if len(found.cameras) > 1:
        rows = [[name, *counts] for name, counts in found.cameras.items()]
        lines += ["", *table(rows, ["camera", "images", "boxes"])]
    lines += [f"{found.tiny} boxes are smaller than 4 pixels."] if found.tiny else []
    if found.odd:
        reasons = ", ".join(f"{number} {name}" for name, number in found.reasons.items())
        lines.append(f"Odd boxes on {len(found.odd)} images ({reasons}):")
        lines += [f"  {id}  {'; '.join(said)}" for id, said in list(found.odd.items())[:8]]
    return lines


def release(context: Context, ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Samples.")]) -> Answer:
    """Let samples out of quarantine. Validation will not refuse them again."""
    from everlearn.label import person

    workspace = opened(context)
    with workspace.lock():
        released = person.release(workspace, ids)
    return Answer({"released": released}, [f"Released {len(released)}."])


def label(
    context: Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID LABEL…]",
            help="A sample and its label; for detect its boxes, 'LABEL X Y WIDTH HEIGHT' each in shares of the image, "
            "or nothing.",
        ),
    ] = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="Label by the model what it is sure of; queue the rest.")
    ] = False,
    undo: Annotated[str | None, typer.Option(metavar="ID", help="Take back the last word on a sample.")] = None,
    history: Annotated[str | None, typer.Option(metavar="ID", help="Who or what said which label, and when.")] = None,
    is_not: Annotated[
        str | None,
        typer.Option("--not", metavar="LABEL", help="What the sample ID is not: it is learned as a negative."),
    ] = None,
) -> Answer:
    """Label a sample, or all that the model is sure of. With --auto what it is not sure of waits for a person."""
    from everlearn import stages
    from everlearn.catalog import labels, samples, scenes
    from everlearn.label import person

    workspace = opened(context)
    if history is not None:
        with workspace.catalog.read() as tx:
            said = labels.history(tx, samples.get(tx, history).id)
            words_of = scenes.words(tx, [e["label"] for e in said])
        rows = [[e["at"].isoformat(" ", "seconds"), e["by"], e["who"] or e["version"] or "",
                 words_of.get(e["label"], "-"), "taken back" if e["revoked"] else ""] for e in said]  # fmt: skip
        return Answer({"history": said}, table(rows, ["time (UTC)", "by", "who", "label", ""]))
    if sum([auto, undo is not None, bool(words)]) != 1:
        raise BadInput("Say one of: ID LABEL, ID --not LABEL, --auto, --undo ID, --history ID.",
                       "See: everlearn label --help")  # fmt: skip
    if auto:
        with workspace.lock():
            done = stages.label(workspace, context.obj)
        lines = [f"Labelled {done.labelled} automatically; {done.queued} wait for a person (everlearn review)."]
        if done.share is not None:
            lines.append(f"Of the new images {done.share:.1%} need a person.")
        values = {"labelled": done.labelled, "queued": done.queued, "share_for_people": done.share}
        return Answer({**values, **({"proof": done.proof} if done.proof else {})}, lines)
    # What a person says waits for nobody: no lock is taken, see `files.beside`.
    if undo is not None:
        now = person.undo(workspace, undo)
        with workspace.catalog.read() as tx:
            shown = scenes.words(tx, [now]).get(now or "", "-")
        values = {"labelled": 0, "queued": queued(workspace), "label": None if is_scene(now) else now}
        return Answer(values, [f"The label is now {shown.strip()}."])
    if is_not is not None:
        if words is None or len(words) != 1:
            raise BadInput("--not takes one sample's id.", "Write: everlearn label ID --not LABEL")
        person.deny(workspace, words[0], is_not)
        return Answer({"labelled": 1, "queued": queued(workspace)}, [f"{words[0]} is not {is_not}."])
    given = words or []
    if workspace.config.task == "detect" and len(given) > 1:
        person.draw(workspace, given[0], _scene(workspace, given[1:]))
    elif len(given) == 2:
        person.say(workspace, *given)
    else:
        raise BadInput("label takes a sample's id and a label.", "Quote a label with blanks: everlearn label ID 'a b'")
    return Answer({"labelled": 1, "queued": queued(workspace)}, [f"Labelled {' '.join(given)}."])


def _scene(workspace: Any, words: list[str]) -> Any:
    """`"LABEL X Y WIDTH HEIGHT" …`, or `nothing`. All the classes that are known were looked for. Raises BadInput."""
    from everlearn.catalog import known
    from everlearn.types import Box, Scene

    boxes = []
    for word in [] if words == ["nothing"] else words:
        label, *sides = word.rsplit(maxsplit=4)
        try:
            x, y, width, height = (float(side) for side in sides)
        except ValueError:
            remedy = "Write: everlearn label ID 'raccoon 0.1 0.2 0.3 0.4' (x y width height, as shares); or: nothing"
            raise BadInput(f"{word!r} is no box.", remedy) from None
        boxes.append(Box(label, x, y, width, height))
    with workspace.catalog.read() as tx:
        return Scene(tuple(boxes), tuple(known.classes(known.labels(tx))))


def augment(
    context: Context,
    copies: Annotated[int | None, typer.Option(min=0, help="Copies of each image; default: augment.copies.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", metavar="R", help="Write no copies; show what the stages of this recipe do while they train."
        ),
    ] = None,
    stage: Annotated[str | None, typer.Option(metavar="NAME", help="With --recipe: this stage alone.")] = None,
) -> Answer:
    """Write changed copies of the training images. And a preview grid. A copy joins only its parent's training side."""
    from everlearn import stages

    if stage is not None and recipe is None:
        raise BadInput("--stage is a stage of a recipe.", "Name the recipe too: --recipe five-stage")
    if copies is not None and recipe is not None:
        raise BadInput("--recipe writes no copies.", "Leave --copies or --recipe out.")
    workspace = opened(context)
    if recipe is not None:
        with workspace.lock():
            shown = stages.preview(workspace, recipe, stage)
        lines = [f"{name}: {workspace.where(key)}" for name, key in shown.items()]
        return Answer({"augmented": 0, "preview": None, "previews": shown}, lines or ["No stage changes images."])
    with workspace.lock():
        result = stages.augment(workspace, context.obj, copies)
    lines = [f"Wrote {result.augmented} augmented images."]
    lines += [f"Preview: {result.preview}"] if result.preview else []
    return Answer({"augmented": result.augmented, "preview": result.preview, "previews": {}}, lines)


def data(
    context: Context,
    status: Annotated[str | None, typer.Option(help=f"Only these: {', '.join(STATUSES)}.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Samples listed.")] = 20,
    sources: Annotated[
        bool, typer.Option("--sources", help="Where the samples are from: each source, with version and licence.")
    ] = False,
) -> Answer:
    """How many samples stand where, and which. Negatives, which are known only by what they are not, count among them
    and once more by themselves."""
    from everlearn.catalog import labels, samples, scenes
    from everlearn.catalog.tables import sample

    if status is not None and status not in STATUSES:
        raise BadInput(f"There is no status {status}.", f"Choose one of {', '.join(STATUSES)}.")
    workspace = opened(context)
    with workspace.catalog.read() as tx:
        counts = samples.counts(tx)
        reasons = samples.refusals(tx)
        negatives = labels.negatives(tx, workspace.config.learn.unknown is not None)
        where = sample.c.status == status if status else None
        found = next(samples.batches(tx, where, size=limit), []) if limit and status else []
        told = scenes.some(tx, [one.label for one in found])
        boxes = scenes.box_counts(tx, samples.labels(tx)) if workspace.config.task == "detect" else {}
    if sources:
        return _sources(workspace)
    lines = table([[name, number] for name, number in counts.items()], ["status", "samples"])
    lines += [f"{negatives} of them are negatives."] if negatives else []
    if boxes:
        lines += ["", *table([[name, number] for name, number in boxes.items()], ["class", "boxes"])]
    shown = {name: scenes.shown(one) for name, one in told.items()}
    rows = [
        [o.id, shown.get(o.label or "-", o.label or "-"), o.camera, o.refusal or "", _value(o), workspace.where(o.key)]
        for o in found
    ]
    if rows:
        lines += ["", *table(rows, ["sample", "label", "camera", "refused for", "measured", "file"])]
    listed = [
        {"sample": o.id, "label": None if is_scene(o.label) else o.label, "camera": o.camera, "reason": o.refusal,
         "value": o.refusal_value, "limit": o.refusal_limit, "path": workspace.where(o.key),
         **_drawn(told.get(o.label or ""))}
        for o in found
    ]  # fmt: skip
    values = {"counts": counts, "negatives": negatives, "quarantined": reasons, "samples": listed}
    return Answer({**values, **({"boxes": boxes} if boxes else {})}, lines)


def _drawn(scene: Any) -> dict[str, Any]:
    """A sample's boxes, and the classes that were looked for."""
    if scene is None:
        return {}
    sides = ("label", "x", "y", "width", "height")
    return {"boxes": [{name: getattr(box, name) for name in sides} for box in scene.boxes], "about": scene.about}


def _sources(workspace: Any) -> Answer:
    """What samples are from, and what data sets say of themselves."""
    from dataclasses import asdict

    from everlearn.catalog import origins

    with workspace.catalog.read() as tx:
        counts, said = origins.counts(tx), origins.every(tx)
    found = [
        {"source": source, "samples": number, **asdict(said.get(source, origins.Origin()))}
        for source, number in counts.items()
    ]
    names = ["source", "samples", "name", "version", "licence", "url"]
    return Answer({"sources": found}, table([[one[name] or "" for name in names] for one in found], names))


def a_folder(path: Path) -> Path:
    """An address would be taken for a folder of that name. Raises BadInput."""
    if path.parts and path.parts[0].lower() == "s3:":
        raise BadInput(f"{path.parts[0]}//… is no folder.", "To a bucket: everlearn upload s3://bucket/prefix")
    return path


def queued(workspace: Any) -> int:
    from everlearn.catalog import samples

    with workspace.catalog.read() as tx:
        return samples.counts(tx)["queued"]


def _value(one: Any) -> str:
    if one.refusal is None or one.refusal_value is None:
        return ""
    limit = f" (limit {one.refusal_limit:.3g})" if one.refusal_limit is not None else ""
    return f"{one.refusal_value:.3g}{limit}"

"""A snapshot as a data set that other programs read, and that reads back without loss.

Whatever the format, `index.csv` keeps for every file its id, exact label or boxes, side, fold, camera, group and time;
`read` gives them back. The data set is made whole in a folder beside its place and then moved there: a killed export
leaves the old one as it was.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from everlearn import faults
from everlearn.catalog import origins, samples, scenes, snapshots
from everlearn.dataset.balance import balanced
from everlearn.dataset.box_layouts import BOX_LAYOUTS, class_names
from everlearn.dataset.layouts import LAYOUTS, Flat, Item, Layout
from everlearn.errors import BadInput, Corrupt, Missing, StoreFault
from everlearn.naming import is_class, is_scene
from everlearn.types import SPLITS, Box, Member, Progress, Scene, Snapshot, Split
from everlearn.workspace import FOLDERS, PRIVATE

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from everlearn.catalog.samples import Sample
    from everlearn.workspace import Workspace

Format = Literal["imagefolder", "yolo", "coco", "voc", "labelstudio", "csv", "dvc"]

INDEX = "index.csv"
MARK = "everlearn_export.json"
"""Lies in every export: by it we know our own, and only our own is ever replaced."""

COLUMNS = ("path", "id", "label", "split", "fold", "camera", "group", "time", "time_from", "parent", "times", "weight")
BOX_COLUMNS = (*COLUMNS, "boxes", "about")
"""times: how often a trainer is to see the file in an epoch, and weight: of its loss, by `dataset.balance`.
boxes: a JSON list of [label, x, y, width, height], the left upper corner and the size as shares of the image's sides;
about: a JSON list of the classes that were looked for, empty where that is not known."""
_BATCH = 500
_READERS = 8
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class ExportReport:
    """samples, bytes: of the exported files; pointers: the .dvc files that now stand for the data, for Git to keep."""

    path: Path
    format: str
    snapshot: int
    samples: int
    classes: int
    bytes: int
    pointers: tuple[Path, ...] = ()


def export(workspace: Workspace, snapshot: Snapshot, out: Path, format: Format, progress: Progress) -> ExportReport:
    """Write the snapshot's files to the folder `out`, which is new, empty, or an export of ours, which is replaced.
    Negatives stay out: in these layouts each would be a class.

    Raises BadInput on a folder that cannot be taken, an unknown format or rows of features asked for as images; Corrupt
    and Missing where a file is not what the catalog says; StoreFault; for `dvc` also NotInstalled.
    """
    layouts = _layouts(workspace)
    if format not in layouts:
        what = "boxes" if layouts is BOX_LAYOUTS else "classes"
        raise BadInput(f"{format!r} is no export format of {what}.", f"Use one of {', '.join(layouts)}.")
    out = Path(os.path.realpath(out.expanduser()))
    _check_place(workspace, out)
    if format == "dvc":
        from everlearn.dataset import dvc

        dvc.prepare(workspace, out)
    with _disk_faults(out), _replacing(out) as folder:
        report = _write(workspace, snapshot, folder, format, progress)
    report = dataclasses.replace(report, path=out)
    if format == "dvc":
        progress.say(f"dvc add {out}")
        return dataclasses.replace(report, pointers=dvc.add(workspace, out))
    return report


def read(folder: Path) -> Iterator[Item]:
    """What an export holds, in order of id. Raises Missing, or Corrupt on an index that is not ours."""
    try:
        with (folder / INDEX).open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            if tuple(rows.fieldnames or ()) not in (COLUMNS, BOX_COLUMNS):
                raise Corrupt(f"{folder / INDEX} has other columns than an export has.", "Export again.")
            for row in rows:
                yield _item(row)
    except FileNotFoundError:
        raise Missing(f"There is no {INDEX} in {folder}.", "Name a folder that `dataset export` wrote.") from None
    except (csv.Error, ValueError, KeyError, TypeError, RecursionError, BadInput) as error:
        raise Corrupt(f"{folder / INDEX} cannot be read: {error}.", "Export again.") from None


def _item(row: dict[str, str]) -> Item:
    path = PurePosixPath(row["path"])
    if path.is_absolute() or ".." in path.parts or "\\" in row["path"]:
        raise ValueError(f"the path {row['path']!a} leads outside")
    if row["split"] not in SPLITS:
        raise ValueError(f"{row['split']!r} is no side")
    scene = _scene(row) if row.get("boxes") else None
    return Item(
        id=row["id"],
        label=row["label"] if scene is None else scenes.label_of(scene),
        split=row["split"],
        fold=int(row["fold"]),
        camera=row["camera"] or None,
        group=row["group"],
        time=datetime.fromisoformat(row["time"]) if row["time"] else None,
        time_from=row["time_from"] or None,
        parent=row["parent"] or None,
        path=row["path"],
        scene=scene,
    )


def _scene(row: dict[str, str]) -> Scene:
    about = tuple(json.loads(row["about"])) if row["about"] else None
    return scenes.canonical(Scene(tuple(Box(*one) for one in json.loads(row["boxes"])), about))


# --- writing ------------------------------------------------------------------------------------------------------


def _layouts(workspace: Workspace) -> dict[str, type[Layout]]:
    return BOX_LAYOUTS if workspace.config.task == "detect" else LAYOUTS


def _write(workspace: Workspace, snapshot: Snapshot, folder: Path, format: str, progress: Progress) -> ExportReport:
    classes, sides, total = _outline(workspace, snapshot)
    balance = _balance(workspace, snapshot)
    layout = _layouts(workspace)[format](folder, classes, sides)
    columns = BOX_COLUMNS if workspace.config.task == "detect" else COLUMNS
    size = 0
    with (
        (folder / INDEX).open("w", encoding="utf-8", newline="") as file,
        ThreadPoolExecutor(_READERS) as pool,
        progress.task("export", total) as task,
    ):
        index = csv.DictWriter(file, columns, lineterminator="\r\n")
        index.writeheader()
        for batch in _batches(workspace, snapshot):
            placed = [(_placed(layout, item, one), one) for item, one in batch]
            for (item, _), (copied, width, height) in zip(
                placed, pool.map(lambda pair: _copy(workspace, folder, *pair), placed), strict=True
            ):
                layout.add(item, width, height)
                index.writerow({"path": item.path, **_row(item), **balance(item)})
                size += copied
                task.advance()
            faults.point("export.batch")
    layout.finish()
    mark: dict[str, Any] = {"everlearn_export": 1, "format": format, "snapshot": snapshot.number}
    mark |= {
        "digest": snapshot.digest,
        "samples": total,
        "files": 1 + sum(1 for _ in _files(folder)),
        "origins": _origins(workspace),
    }
    (folder / MARK).write_text(json.dumps(mark, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return ExportReport(folder, format, snapshot.number, total, len(classes), size)


def _row(item: Item) -> dict[str, Any]:
    """What stands in the index."""
    said = item.said()
    for name in ("boxes", "about"):
        if said.get(name) is not None:
            said[name] = json.dumps(said[name], ensure_ascii=False)
    return said


def _origins(workspace: Workspace) -> list[dict[str, Any]]:
    """What the data sets say of themselves that images are from: whoever gets the export must know their licences."""
    with workspace.catalog.read() as tx:
        said, counts = origins.every(tx), origins.counts(tx)
    return [dataclasses.asdict(one) for source, one in said.items() if counts.get(source)]


def _balance(workspace: Workspace, snapshot: Snapshot) -> Callable[[Item], dict[str, str]]:
    """What `dataset.balance` says of each file; it says something of the training side alone, and of boxes nothing."""
    if workspace.config.task == "detect":
        return lambda item: {"times": "1", "weight": "1"}
    with workspace.catalog.read() as tx:
        train = [
            (one.id, one.label)
            for one in snapshots.members(tx, snapshot.number)
            if one.split == "train" and is_class(one.label)
        ]
    found = balanced(workspace.config.dataset.balance, [id for id, _ in train], [label for _, label in train])
    times = Counter(found.ids)

    def said(item: Item) -> dict[str, str]:
        if item.split != "train":
            return {"times": "1", "weight": "1"}
        return {"times": str(times[item.id]), "weight": f"{found.weights.get(item.label, 1.0):.6g}"}

    return said


def _outline(workspace: Workspace, snapshot: Snapshot) -> tuple[list[str], list[Split], int]:
    """Classes and sides that there are, and the number of members: not from the snapshot's row, which may name what
    was erased since."""
    labels, sides, total = set(), set(), 0
    with workspace.catalog.read() as tx:
        for one in snapshots.members(tx, snapshot.number):
            if is_class(one.label):
                labels.add(one.label)
                sides.add(one.split)
                total += 1
        classes = {label for label in labels if not is_scene(label)} | class_names(_scenes(tx, labels))
    return sorted(classes), [side for side in SPLITS if side in sides], total


def _scenes(tx: Connection, labels: Collection[str]) -> Iterator[Scene]:
    for chunk in samples.chunks([label for label in labels if is_scene(label)]):
        yield from scenes.some(tx, chunk).values()


def _batches(workspace: Workspace, snapshot: Snapshot) -> Iterator[list[tuple[Item, Sample]]]:
    """Members with their rows, in order of id."""
    with workspace.catalog.read() as tx:
        members = (one for one in snapshots.members(tx, snapshot.number) if is_class(one.label))
        while batch := [member for _, member in zip(range(_BATCH), members, strict=False)]:
            rows = samples.some(tx, [member.id for member in batch])
            told = scenes.some(tx, {member.label for member in batch})
            yield [(_joined(member, rows[member.id], told.get(member.label)), rows[member.id]) for member in batch]


def _joined(member: Member, one: Sample, scene: Scene | None) -> Item:
    return Item(
        id=member.id,
        label=member.label,
        split=member.split,
        fold=member.fold,
        camera=one.camera,
        group=one.group_key,
        time=one.captured_at,
        time_from=one.time_from,
        parent=member.parent,
        scene=scene,
    )


def _placed(layout: Layout, item: Item, one: Sample) -> Item:
    if one.kind != "image" and not isinstance(layout, Flat):
        raise BadInput(f"Sample {item.id} is a row of features, not an image.", "Export it with --format csv.")
    ext = one.key.rpartition("/")[2].rpartition(".")[2].lower()
    return dataclasses.replace(item, path=layout.path(item, ext if re.fullmatch("[a-z0-9]{1,8}", ext) else "bin"))


def _copy(workspace: Workspace, folder: Path, item: Item, one: Sample) -> tuple[int, int, int]:
    """Returns bytes, width and height. The bytes are checked against the id on their way."""
    target = folder.joinpath(*item.path.split("/"))
    digest, size = hashlib.sha256(), 0
    with workspace.store.open(one.key) as source, target.open("xb") as file:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
    if one.time_from == "file" and one.captured_at is not None:  # the file's own time is all that is known: keep it
        stamp = one.captured_at.replace(tzinfo=UTC).timestamp()
        os.utime(target, (stamp, stamp))
    if one.kind != "image":
        return size, 0, 0
    if digest.hexdigest()[: len(item.id)] != item.id:
        raise Corrupt(
            f"The file of sample {item.id} has changed.", "Find out which others have: everlearn doctor --deep"
        )
    if one.width is None or one.height is None:
        from everlearn.image import decode

        decoded = decode(target.read_bytes(), max_bytes=size)
        return size, decoded.width, decoded.height
    return size, one.width, one.height


# --- the place ----------------------------------------------------------------------------------------------------


def _check_place(workspace: Workspace, out: Path) -> None:
    root = Path(os.path.realpath(workspace.root))
    kept = [root / folder for folder in (*FOLDERS, PRIVATE, ".git", ".dvc")]
    if root.is_relative_to(out) or any(out.is_relative_to(f) or f.is_relative_to(out) for f in kept):
        raise BadInput(f"{out} belongs to the workspace itself.", "Export to a folder of its own.")
    if not out.exists():
        return
    if not out.is_dir():
        raise BadInput(f"{out} is a file.", "Export to a folder.")
    if any(out.iterdir()) and not _is_ours(out):
        raise BadInput(
            f"{out} is not empty, and not just an export of ours.", "Remove it, or export to another folder."
        )


def _is_ours(out: Path) -> bool:
    """Every file in it was written by an export: nothing of a person's own is ever removed with it."""
    try:
        mark = json.loads((out / MARK).read_text(encoding="utf-8"))
        if not isinstance(mark, dict) or mark.get("everlearn_export") != 1:
            return False
        indexed = sum(out.joinpath(item.path).is_file() for item in read(out))
    except (OSError, ValueError, Missing, Corrupt):
        return False
    return indexed == mark.get("samples") and sum(1 for _ in _files(out)) == mark.get("files")


def _files(folder: Path) -> Iterator[str]:
    """Names of all that is no folder; links are not followed. What Ultralytics remembers of labels does not count."""
    for here, folders, names in os.walk(folder):
        yield from (name for name in names if not (name.endswith(".cache") and Path(here).name == "labels"))
        yield from (name for name in folders if Path(here, name).is_symlink())


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A new folder beside `out` that takes its place in the end. What a killed export left is cleared away."""
    part, old = out.with_name(f".{out.name}.everlearn-part"), out.with_name(f".{out.name}.everlearn-old")
    out.parent.mkdir(parents=True, exist_ok=True)
    if old.exists() and not out.exists():
        old.rename(out)
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        os.sync()  # the files before their names, in case of a power cut
        faults.point("export.written")
        if out.exists():
            out.rename(old)
            faults.point("export.moved")
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _disk_faults(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreFault(
            f"{out} cannot be written: {error.strerror or error}.", "Is the disk full or read-only?"
        ) from error

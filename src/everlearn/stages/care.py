"""What is going on in a workspace, and what a crash left behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from everlearn.augment.make import is_preview
from everlearn.catalog import answers, samples, snapshots, turns, versions
from everlearn.catalog.samples import id_of
from everlearn.catalog.tables import evaluation
from everlearn.errors import EverlearnError
from everlearn.files import refile_owed
from everlearn.stages.traces import FOUND
from everlearn.store import LocalStore
from everlearn.workspace import (
    AUGMENTED,
    COLLECTED,
    EVALUATIONS,
    PRIVATE,
    QUARANTINED,
    SCRATCH,
    VALIDATED,
    VERSIONS,
    Workspace,
    write_whole,
)

if TYPE_CHECKING:
    from everlearn.types import Progress, SampleId

DATA = (COLLECTED, VALIDATED, QUARANTINED, AUGMENTED)
BATCH = 500


def status(workspace: Workspace) -> dict[str, Any]:
    """The workspace at a glance."""
    with workspace.catalog.read() as tx:
        counts = samples.counts(tx)
        snapshot, champion, newest = snapshots.latest(tx), versions.champion(tx), versions.newest(tx)
        past = turns.every(tx)
        cases = len(answers.cases(tx))
    last = past[-1] if past else None
    return {
        "workspace": str(workspace.root),
        "task": workspace.config.task,
        "backbone": workspace.config.backbone,
        "samples": sum(counts.values()),
        "classes": len(snapshot.classes) if snapshot and workspace.config.task != "regress" else None,
        "champion": champion.name if champion else None,
        "newest": newest.name if newest else None,
        "memory_digest": newest.memory_digest if newest else None,
        "regression_cases": cases,
        "turns": len(past),
        "last_decision": last["decision"] if last else None,
        "share_for_people": shares(past),
        "counts": counts,
    }


def shares(past: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Turn to the share of its new images that a person must look at, for the turns that had any."""
    found = {str(one["number"]): (one["summary"] or {}).get("share_for_people") for one in past}
    return {number: share for number, share in found.items() if share is not None}


# what a crash left behind


@dataclass(slots=True)
class Health:
    """mended, lost: one line each; lost is what only a person can bring back. checked: files."""

    mended: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    checked: int = 0


def doctor(workspace: Workspace, progress: Progress, *, deep: bool = False) -> Health:
    """Bring folders and catalog into step. Spare copies go, rows find their files again, strangers are set aside."""
    health = Health()
    _unfinished(workspace, health)
    if moved := refile_owed(workspace):
        health.mended.append(f"moved {moved} files that were labelled during other work")
    strays = _strays(workspace, progress, health)
    _rows(workspace, progress, health, strays, deep=deep)
    _set_aside(workspace, health, strays)
    _models(workspace, health)
    _memory(workspace, health)
    return health


def _unfinished(workspace: Workspace, health: Health) -> None:
    """What writers left that were killed in the middle of a file."""
    unfinished = getattr(workspace.store, "unfinished", None)
    parts = list(unfinished()) if unfinished else []
    parts += list(workspace.root.rglob(".*.part"))
    for path in parts:
        path.unlink(missing_ok=True)
        health.mended.append(f"removed the unfinished file {path.name}")
    for folder in workspace.private("").glob(f"{SCRATCH}*"):
        shutil.rmtree(folder, ignore_errors=True)
        health.mended.append("removed unfinished work")


def _strays(workspace: Workspace, progress: Progress, health: Health) -> dict[SampleId, list[str]]:
    """Files that no row names, by the id of their content."""
    strays: dict[SampleId, list[str]] = {}
    with progress.task("doctor") as task:
        for folder in DATA:
            keys = (key for key in workspace.store.keys(folder) if not _ours(key))
            while batch := list(islice(keys, BATCH)):
                health.checked += len(batch)
                for key in sorted(set(batch) - _named(workspace, batch)):
                    with workspace.store.open(key) as file:
                        strays.setdefault(id_of(file.read()), []).append(key)
                task.advance(len(batch))
    return strays


def _ours(key: str) -> bool:
    return is_preview(key) or key.endswith("/.gitkeep")


def _named(workspace: Workspace, keys: Collection[str]) -> set[str]:
    with workspace.catalog.read() as tx:
        return samples.keys(tx, keys)


def _is_there(workspace: Workspace) -> Callable[[str], bool]:
    """Tells whether a file is there: on a disk by looking, so that memory does not grow; else from one listing."""
    store = workspace.store
    if isinstance(store, LocalStore):
        return lambda key: store.path(key).is_file()
    return {key for folder in DATA for key in store.keys(folder)}.__contains__


def _rows(
    workspace: Workspace, progress: Progress, health: Health, strays: dict[SampleId, list[str]], *, deep: bool
) -> None:
    """Every row has its file; one that has not takes a stray of the same content."""
    moved = []
    is_there = _is_there(workspace)
    with workspace.catalog.read() as tx, progress.task("doctor", sum(samples.counts(tx).values())) as task:
        for batch in samples.batches(tx):
            for one in batch:
                good = is_there(one.key) and (not deep or _digest(workspace, one.key) == one.id)
                if not good and strays.get(one.id):
                    moved.append({"id": one.id, "key": strays[one.id].pop()})
                elif not good:
                    health.lost.append(f"the file of sample {one.id} is {'changed' if is_there(one.key) else 'gone'}")
            task.advance(len(batch))
    if moved:
        with workspace.catalog.write() as tx:
            samples.change(tx, moved)
        health.mended.append(f"found the files of {len(moved)} samples under another name")


def _digest(workspace: Workspace, key: str) -> SampleId | None:
    try:
        with workspace.store.open(key) as file:
            return id_of(file.read())
    except EverlearnError:
        return None


def _set_aside(workspace: Workspace, health: Health, strays: dict[SampleId, list[str]]) -> None:
    """Spare copies of what the catalog has are removed; anything else is kept where it does not disturb."""
    with workspace.catalog.write() as tx:
        known = samples.some(tx, list(strays))
        forgotten = turns.are_suppressed(tx, list(strays))
    spare = 0
    for id, keys in strays.items():
        if id in known and keys and _digest(workspace, known[id].key) != id:
            with workspace.catalog.write() as tx:
                samples.change(tx, [{"id": id, "key": keys.pop()}])
            health.mended.append(f"found the file of sample {id} again, under whose name another one lay")
        for key in keys:
            if id in known or id in forgotten or key.startswith(AUGMENTED):
                spare += 1
            else:
                target = workspace.root / PRIVATE / FOUND / f"{id[:8]}_{key.rpartition('/')[2]}"
                target.parent.mkdir(parents=True, exist_ok=True)
                with workspace.store.open(key) as file:
                    write_whole(target, file.read())
                health.mended.append(f"set aside {target}, which no row names; collect it to take it in")
            workspace.store.remove(key)
    if spare:
        health.mended.append(f"removed {spare} spare {'copy' if spare == 1 else 'copies'}")


def _models(workspace: Workspace, health: Health) -> None:
    """Every version has its files, and every model file its version."""
    with workspace.catalog.read() as tx:
        there = versions.every(tx)
        reports = {row.report_key for row in tx.execute(sa.select(evaluation.c.report_key)) if row.report_key}
    stems = {one.key.removesuffix(".onnx") for one in there if not one.retired}
    present = [key for key in workspace.store.keys(VERSIONS) if not key.endswith("/.gitkeep")]
    for key in present:
        if not any(key == f"{stem}.onnx" or key.startswith(f"{stem}/") for stem in stems):
            workspace.store.remove(key)
            health.mended.append(f"removed {key}, which belongs to no version")
    for one in there:
        if not one.retired and one.key not in present:
            health.lost.append(f"the file of model {one.name} is gone; learn again")
    for key in list(workspace.store.keys(EVALUATIONS)):
        name = key.rpartition("/")[2]
        if name.startswith("evaluation_") and _report_key(key) not in reports:
            workspace.store.remove(key)
            health.mended.append(f"removed {key}, which belongs to no evaluation")


def _report_key(key: str) -> str:
    """The report that a file belongs to: `evaluation_v1.0_20250704` with .html, .ko.html or .json."""
    folder, _, name = key.rpartition("/")
    return f"{folder}/{name.removesuffix('.html').removesuffix('.json').removesuffix('.ko')}.html"


def _memory(workspace: Workspace, health: Health) -> None:
    """A damaged memory is removed: the next learning builds the same one again from the features."""
    from everlearn.errors import Corrupt
    from everlearn.learn.exact.memory import ExactMemory
    from everlearn.learn.streaming import readable
    from everlearn.stages.learners import STATES

    path = STATES["exact"](workspace)
    try:
        if path.exists():
            ExactMemory.load(path)
    except Corrupt:
        path.unlink()
        health.mended.append("removed a damaged memory; the next learning builds it again")
    path = STATES["river"](workspace)
    if not readable(workspace, path):
        path.unlink()
        health.mended.append("removed a damaged learner; the next learning trains it again")

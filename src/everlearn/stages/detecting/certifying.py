"""What can be checked of a detector after something was forgotten, for `verify`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from everlearn import registry, track
from everlearn.catalog import runs, snapshots, versions
from everlearn.errors import EverlearnError
from everlearn.stages.detecting import learning, sides, taught
from everlearn.stages.detecting.learning import Following, Lesson
from everlearn.stages.saved import folder_of
from everlearn.types import SILENT

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.types import Progress, Snapshot
    from everlearn.workspace import Workspace

Check = tuple[str, bool, str]
"""What is checked, whether it holds, and what is wrong where it does not."""


def checks(workspace: Workspace, again: bool, progress: Progress) -> Iterator[Check]:
    """The newest version's detector is the one that was registered. again: one that was trained from nothing is trained
    once more on what remains, and its weights compared."""
    with workspace.catalog.read() as tx:
        snapshot, newest = snapshots.latest(tx), versions.newest(tx)
    if newest is None or newest.retired or snapshot is None or newest.snapshot != snapshot.number:
        return
    yield _detector(workspace, newest, registry.card(workspace, newest).get("digest"))
    if again and (found := _again(workspace, newest, snapshot, progress)) is not None:
        yield found


def _detector(workspace: Workspace, version: Version, digest: str | None) -> Check:
    from everlearn.model.detecting.onnx import OnnxDetector

    try:
        there = taught.digest_of(OnnxDetector(registry.bundle_file(workspace, version, ".onnx")))
    except EverlearnError as error:
        return "detector", False, error.message
    return "detector", there == digest, f"{version.name} is not the detector that was registered"


def _again(workspace: Workspace, version: Version, snapshot: Snapshot, progress: Progress) -> Check | None:
    """None where the weights went on from others', began with those of a file, or came by settings that are no more."""
    from everlearn.model.detecting import weights

    name = (version.metrics or {}).get("run")
    if name is None or not taught.same_settings(workspace, version):
        return None
    if not learning.spec_of(workspace).endswith((".yaml", ".yml")):
        return None
    with workspace.catalog.read() as tx:
        made = runs.get(tx, name)
    if made.config.get("from") is not None or made.config.get("changes") or made.snapshot != snapshot.number:
        return None
    progress.say("Training the detector again on what remains, to compare.")
    divided = sides.of(workspace, snapshot)
    given = Lesson(None, divided.train, (), divided.validation, divided.classes)
    with track.run(workspace, "verify", config={"of": name}, snapshot=snapshot.number, mirrored=False) as run:
        try:
            came = learning.carried_out(workspace, run, given, {"plots": False}, Following(run, None, SILENT), SILENT)
            before = weights.load(registry.bundle_file(workspace, version, learning.WEIGHTS)).state
            after = weights.load(came.result.best).state
        finally:
            shutil.rmtree(folder_of(workspace, run.name), ignore_errors=True)
    same = before.keys() == after.keys() and all(bool((before[key] == after[key]).all()) for key in before)
    return "again", same, "trained again on what remains, its weights differ"

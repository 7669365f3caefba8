"""What a network learns of a workspace, ready to be read: the learning side of a snapshot in two, as arrays by row."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.catalog import samples, snapshots
from everlearn.errors import BadInput, TooFew
from everlearn.naming import is_class
from everlearn.types import SILENT

if TYPE_CHECKING:
    from everlearn.model.trainable import Network
    from everlearn.types import Member, Progress, Snapshot
    from everlearn.workspace import Workspace


@dataclass(frozen=True, eq=False)
class Sides:
    """What is learned and what chooses the best epoch, by sample. numbers: whether targets are numbers."""

    train: tuple[Member, ...]
    validation: tuple[Member, ...]
    classes: tuple[str, ...]
    numbers: bool

    def digest(self) -> str:
        lines = [f"{side} {one.id} {one.label}" for side, members in (("t", self.train), ("v", self.validation))
                 for one in members]  # fmt: skip
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def of(workspace: Workspace, snapshot: Snapshot, progress: Progress = SILENT) -> Sides:
    """The learning side of a snapshot, divided. Augmented copies are left out: a recipe makes its own, anew in every
    epoch. Raises TooFew where one side has nothing, BadInput where no images are held."""
    with workspace.catalog.read() as tx:
        members = [one for one in snapshots.members(tx, snapshot.number) if one.parent is None]
    numbers = workspace.config.task == "regress"
    if workspace.config.backbone == "features":
        raise BadInput("This workspace holds rows of numbers; a network learns from images.", "Use learn there.")
    usable = [one for one in members if numbers or is_class(one.label, workspace.config.learn.unknown is not None)]
    train = tuple(one for one in usable if one.split == "train")
    validation = tuple(one for one in usable if one.split == "validation")
    if len(train) < 2:
        raise TooFew(f"{len(train)} labelled images are on the training side.", "Collect and label more.")
    if not validation:
        raise TooFew(
            f"None of {len(usable)} labelled images ({_groups(workspace, usable)} groups) fell on the validation side, "
            "which chooses the best epoch. Images of one group, such as one camera's of five minutes, stay together.",
            f"Collect more groups, or raise dataset.validation (it is {workspace.config.dataset.validation:g}); where "
            "images are independent, set dataset.group_minutes: 0 before they are collected.",
        )
    classes = () if numbers else tuple(sorted({one.label for one in (*train, *validation)}))
    if not numbers:
        _warn(classes, train, progress)
        unseen = sorted({one.label for one in usable} - set(classes))
        if unseen:
            progress.say(f"The network will not know what has images on the test side alone: {', '.join(unseen[:10])}.")
    return Sides(train, validation, classes, numbers)


def _groups(workspace: Workspace, members: Sequence[Member]) -> int:
    with workspace.catalog.read() as tx:
        return len({one.group_key for one in samples.some(tx, [one.id for one in members]).values()})


def _warn(classes: Sequence[str], train: Sequence[Member], progress: Progress) -> None:
    counts = dict.fromkeys(classes, 0)
    for one in train:
        counts[one.label] += 1
    if len(classes) < 2:
        raise TooFew(f"Only one class is labelled: {classes[0] if classes else 'none'}.", "Label a second one.")
    few = sorted((number, name) for name, number in counts.items() if number < 2)
    if few:
        said = ", ".join(f"{name} ({number})" for number, name in few[:10]) + (" …" if len(few) > 10 else "")
        progress.say(f"Of these classes there is no image or one alone to train on: {said}. Collect more of them.")


def arrays_of(workspace: Workspace, network: Network) -> Any:
    """What a network takes, kept by row: squares of its size, or its backbone's features. A `stages.arrays.Arrays`."""
    from everlearn.model.backbone import runs as backbone_runs
    from everlearn.model.pixels import prepare
    from everlearn.stages.arrays import Arrays

    if network.frozen is None:
        shape = (network.size, network.size, 3)
        name = f"squares {network.size} {network.fit}"
        return Arrays(workspace, name, shape, np.uint8, lambda found: prepare(found, network.size, network.fit))
    backbone = network.frozen
    session = backbone_runs(backbone)

    def features(found: Any) -> Any:
        parts = [
            session.run(None, {"images": backbone.prepare(found[at : at + backbone.batch])})[0]
            for at in range(0, len(found), backbone.batch)
        ]
        return np.concatenate(parts)

    return Arrays(workspace, f"features {backbone.digest}", (backbone.dimensions,), np.float32, features)


def targets_of(
    workspace: Workspace, divided: Sides, classes: Sequence[str], begin: Mapping[str, Any] | None
) -> tuple[Any, dict[str, Any]]:
    """Of both sides: class columns; numbers at mean 0 and deviation 1 of the training side, as the stage files say."""
    both = (*divided.train, *divided.validation)
    if not divided.numbers:
        columns = {name: column for column, name in enumerate(classes)}
        return np.array([columns[one.label] for one in both], np.int64), {}
    values = np.array([float(one.label) for one in both])
    learned = values[: len(divided.train)]
    target = (begin or {}).get("target") or {
        "mean": float(learned.mean()), "deviation": float(learned.std()) or 1.0,
        **workspace.config.learn.target.model_dump(),
    }  # fmt: skip
    return ((values - target["mean"]) / target["deviation"]).astype(np.float32), {"target": target}

"""A trained network that learns what is new in a workspace, without all the old images, and without losing them.

What the network knows is the training side of the snapshot that its run learned; what is new is the rest. Old images
come from a reservoir under `learn.replay_bytes`, which is brought in step with the snapshot each time: a cache, filled
again where it is missing. Afterwards the exact memory is built anew on the network's features, and whichever of the two
is better on the validation side becomes the version that the gate judges.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.catalog import runs, snapshots, versions
from everlearn.dataset.build import build as build_snapshot
from everlearn.errors import BadInput, Missing, TooFew
from everlearn.learn.live import Moved
from everlearn.learn.network.continual import METHODS, opened
from everlearn.stages import saved, sides, teach, trained, training
from everlearn.stages.learners import EXACT, OnBasis, Taught
from everlearn.workspace import read_json, write_whole

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.learn.fit import Watch
    from everlearn.learn.network.continual.reservoir import Reservoir
    from everlearn.learn.network.recipe import Recipe
    from everlearn.model.trainable import Network
    from everlearn.stages.sides import Sides
    from everlearn.stages.training import Training
    from everlearn.types import Member, Progress, Snapshot
    from everlearn.workspace import Workspace

JOINT = "joint"
CHOICES = (*METHODS, JOINT)
FOLDER = "continual"


def train(
    workspace: Workspace, recipe: Recipe, method: str, progress: Progress, *, begin: Mapping[str, Any] | None = None,
    begun_from: str | None = None, watch: Watch | None = None, **options: Any,
) -> tuple[Version | None, Training]:  # fmt: skip
    """Teach a trained network what is new by a method, or with `joint` a new network (or the one to begin with)
    everything at once: what the method is measured against. begin, begun_from: as `standing` gives them; options: of
    `training.train`.

    Raises BadInput for an unknown method or another task, Missing where no network was trained, TooFew where nothing is
    new.
    """
    if method not in CHOICES:
        raise BadInput(f"There is no method {method}.", f"Choose {', '.join(CHOICES)}.")
    if workspace.config.task == "regress":
        raise BadInput("Continual methods are for classes; this workspace learns numbers.", "Use train without one.")
    options |= {"watch": watch}
    if method == JOINT:
        options |= {"begin": begin, "begun_from": begun_from, "part": training.Part(enter)}
        return training.train(workspace, recipe, progress, **options)
    if begin is None or begun_from is None:
        begin, begun_from = standing(workspace)
    snapshot = build_snapshot(workspace)
    divided = sides.of(workspace, snapshot, progress)
    old, new = since(workspace, divided, begun_from)
    progress.say(f"{len(new.train)} images are new since {begun_from}, which knows {len(old)}.")
    about = _prepared(workspace, method, begin, old, recipe, progress)
    part = training.Part(enter, new, about)
    return training.train(workspace, recipe, progress, begin=begin, begun_from=begun_from, part=part, **options)


def standing(workspace: Workspace) -> tuple[dict[str, Any], str]:
    """The network to go on with, as `saved.begin_with` gives it: the champion where it was trained, else the newest
    version that was. Raises Missing."""
    with workspace.catalog.read() as tx:
        made = [one.version for one in runs.every(tx) if one.version and one.result.get("best_file")]
        champion = versions.champion(tx)
    if champion is not None and champion.name in made:
        return saved.begin_with(workspace, champion.name)
    if not made:
        raise Missing("No network was trained here yet.", "Train the first without a method: everlearn train")
    return saved.begin_with(workspace, str(made[-1]))


def since(workspace: Workspace, divided: Sides, begun_from: str) -> tuple[list[Member], Sides]:
    """The training images that a stage's run has learned and that are still there, and what is new. Raises Missing,
    TooFew."""
    with workspace.catalog.read() as tx:
        number = runs.get(tx, begun_from.partition("/")[0]).snapshot
        if number is None:
            raise Missing(f"What {begun_from} has learned is not known.", "Train without a method.")
        learned = {one.id: one.label for one in snapshots.members(tx, number) if one.split == "train"}
    old = [one for one in divided.train if learned.get(one.id) == one.label]
    new = replace(divided, train=tuple(one for one in divided.train if learned.get(one.id) != one.label))
    if len(new.train) < 2:
        raise TooFew(f"{len(new.train)} images are new since {begun_from}.", "Collect and label more.")
    return old, new


def forget(workspace: Workspace) -> None:
    """Remove what methods keep: images of the past, and what networks said that knew them. It is made again."""
    shutil.rmtree(workspace.private(FOLDER), ignore_errors=True)


# --- what a method needs of the past ----------------------------------------------------------------------------------


def _prepared(
    workspace: Workspace, method: str, begin: Mapping[str, Any], old: Sequence[Member], recipe: Recipe,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """The method's settings, with what it needs on disk."""
    from everlearn.model.trainable import from_stage_file

    network, classes = from_stage_file(begin, base=workspace.root), [str(one) for one in begin["classes"]]
    about: dict[str, Any] = {"name": method, "known": list(range(len(classes))), "seed": recipe.seed}
    if method in ("replay", "derpp"):
        held = refilled(workspace, network, classes, old, progress, logits=method == "derpp")
        about["batch"] = recipe.stages[0].batch_size  # as many old images as new ones
        about["reservoir"] = {
            "folder": str(held.folder), "budget": held.budget, "shape": list(held.shape), "kind": held.kind,
        }  # fmt: skip
        progress.say(f"{len(held)} of {len(old)} old images are replayed.")
    if method == "ewc":
        about["state"] = str(_weighed(workspace, network, classes, old, recipe.seed, progress))
    return about


def refilled(
    workspace: Workspace, network: Network, classes: Sequence[str], old: Sequence[Member], progress: Progress, *,
    logits: bool,
) -> Reservoir:  # fmt: skip
    """The reservoir, holding images of these members alone. logits: those that the network gives are noted of each
    image that has come since, and of each column that has."""
    from everlearn.learn.network.continual.method import answers
    from everlearn.learn.network.continual.reservoir import Reservoir

    arrays = sides.arrays_of(workspace, network)
    folder = workspace.private(FOLDER) / f"reservoir-{arrays.path.stem}"
    _same_columns(folder, classes)
    held = Reservoir(folder, workspace.config.learn.replay_bytes, arrays.shape, arrays.dtype)
    ids, columns = [one.id for one in old], np.array([classes.index(one.label) for one in old], np.int64)
    held.retain(ids)
    rows = held.wanted(columns, ids, len(classes) if logits else 0)
    some = [ids[row] for row in rows]
    inputs = np.asarray(arrays.all()[arrays.rows(some, progress)]) if some else np.empty((0, *held.shape), arrays.dtype)
    said = answers(network, inputs).numpy() if logits and some else None
    held.offer(inputs, columns[rows], some, said)
    if logits:
        noted = np.full((len(held), len(classes)), np.nan, np.float32)
        noted[:, : held.width] = held.logits
        blank = np.flatnonzero(np.isnan(noted).any(axis=1))
        if len(blank):
            now = answers(network, held.inputs(blank)).numpy()
            noted[blank] = np.where(np.isnan(noted[blank]), now, noted[blank])
            held.note(noted)
    return held


def _same_columns(folder: Path, classes: Sequence[str]) -> None:
    """A reservoir counts classes as a network does; where another counts otherwise, it begins anew."""
    path = folder.with_suffix(".json")
    known = read_json(path)["classes"] if path.exists() else []
    if known != list(classes[: len(known)]):
        shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"classes": list(classes)}, ensure_ascii=False).encode())


def _weighed(
    workspace: Workspace, network: Network, classes: Sequence[str], old: Sequence[Member], seed: int, progress: Progress
) -> Path:
    """A file with how much each weight mattered for the old images (EWC)."""
    from everlearn.learn.network import checkpoint
    from everlearn.learn.network.loading import Data

    if not old:
        raise TooFew("None of the images that the network learned is left.", "Choose lwf, or train without a method.")
    arrays = sides.arrays_of(workspace, network)
    rows = arrays.rows([one.id for one in old], progress)
    targets = np.array([classes.index(one.label) for one in old], np.int64)
    method = opened({"name": "ewc", "known": [], "seed": seed})
    method.after(network, Data(arrays.all(), targets, tuple(classes), rows))
    path = workspace.private(FOLDER) / f"ewc-{_digest(network)}.pt"
    checkpoint.save(path, dict(method.state()))
    return path


# --- the network, or a memory on its features -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Memory:
    """An exact memory on a network's features. accuracy: on the validation side, of which it holds nothing."""

    taught: Taught
    accuracy: float


def enter(workspace: Workspace, snapshot: Snapshot, divided: Sides, result: Training, progress: Progress) -> Version:
    """Register the network, or the exact memory built anew on its features, whichever is better on the validation
    side; the network where they are equal."""
    began = time.monotonic() - result.seconds
    by_network = trained.taught(workspace, divided, result, progress, Moved(len(divided.train), 0))
    of_network = accuracy_of(workspace, divided, result, progress)
    by_memory = memory_on(workspace, divided, result, progress)
    if by_memory is None or by_memory.accuracy <= of_network:
        found, learner, said = by_network, f"staged:{result.recipe.name}", f"trained by {result.recipe.name}"
    else:
        found, learner, said = by_memory.taught, EXACT, f"a memory on a network trained by {result.recipe.name}"
    if by_memory is not None:
        progress.say(
            f"On the validation side: the network {of_network:.4f}, a memory on its features {by_memory.accuracy:.4f}. "
            f"Registered: {'the network' if found is by_network else 'the memory'}."
        )
    return teach.register(workspace, found, snapshot, teach.reported(learner, found, began, snapshot), said)


def accuracy_of(workspace: Workspace, divided: Sides, result: Training, progress: Progress) -> float:
    """Of the weights that a training kept, on the validation side."""
    network = trained.answering(workspace, divided, result, progress)
    ids = [one.id for one in divided.validation]
    table = network.answered(trained.inputs_of(workspace, network.network, ids, progress))
    return _right(table, network.classes, divided)


def memory_on(workspace: Workspace, divided: Sides, result: Training, progress: Progress) -> Memory | None:
    """The exact memory of the training side on the features of the network that a training kept; None for a network
    that has rows of numbers for features already."""
    from everlearn.learn.exact.cached import Cached
    from everlearn.learn.exact.fit import fit
    from everlearn.learn.exact.memory import ExactMemory
    from everlearn.learn.features import Features
    from everlearn.model.network_bundle import export_features
    from everlearn.stages.standing import basis_of

    network = trained.answering(workspace, divided, result, progress).network
    if network.rows:
        return None
    path = result.folder / f"features-{_digest(network)}.onnx"
    basis = basis_of(workspace, export_features(network, path))
    features = Features(workspace, basis)
    members = sorted(divided.train, key=lambda one: one.id)
    ids, labels = [one.id for one in members], [one.label for one in members]
    folds = np.array([one.fold for one in members], np.int64)
    phi = features.all(ids, progress)
    memory = ExactMemory(basis.digest, basis.dimensions, workspace.config.learn.folds)
    memory.add(phi, labels, folds)
    found = fit(memory, Cached(ids, phi, labels, folds), precision=workspace.config.label.precision)
    table = found.head.probabilities(features.all([one.id for one in divided.validation], progress))
    accuracy = _right(table, found.head.classes, divided)
    # the features were shaped by the labels of the training side, so folds of it would make the head too sure
    asked = [(row, one.label) for row, one in enumerate(divided.validation) if one.label in found.head.classes]
    columns = [found.head.classes.index(label) for _, label in asked]
    warmer = trained.temperature_of(table[[row for row, _ in asked]], columns) if asked else 1.0
    head = replace(found.head, temperature=found.head.temperature * warmer)
    details = {"run": result.run, "recipe": result.recipe.name, "head": found.head.kind, "alpha": found.alpha}
    card = {
        "run": result.run,
        "alpha": found.alpha,
        "accuracy_validation": accuracy,
        "automatic_labels": None,
        "knows": "The network's weights were shaped by every training image; to forget, it is trained again from what "
        "remains.",
    }
    made = Taught(
        Moved(len(ids), 0), len(ids), OnBasis(workspace, basis, head), memory.digest(),
        hashlib.sha256(f"{found.digest} {head.temperature:.9g}".encode()).hexdigest(), None,
        {**details, "accuracy_validation": accuracy}, card,
    )  # fmt: skip
    return Memory(made, accuracy)


def _digest(network: Network) -> str:
    """Names a network by its weights."""
    weights = b"".join(value.cpu().numpy().tobytes() for value in network.state_dict().values())
    return hashlib.sha256(weights).hexdigest()[:16]


def _right(table: Any, classes: Sequence[str], divided: Sides) -> float:
    """Share of the validation side that (N, C) scores answer right."""
    wanted = [one.label for one in divided.validation]
    return float(np.mean([classes[column] == label for column, label in zip(table.argmax(1), wanted, strict=True)]))

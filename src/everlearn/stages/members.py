"""Members of an ensemble, each with its answers to samples that it had not learned."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from everlearn import registry, track
from everlearn.catalog import runs
from everlearn.errors import BadInput, Missing, TooFew
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.fit import Fitted, fit
from everlearn.learn.exact.memory import ExactMemory
from everlearn.learn.features import Features
from everlearn.model.ensemble import Member, Memory, Network
from everlearn.stages import answering
from everlearn.stages.standing import basis_of, fitted, live
from everlearn.workspace import CHECKPOINTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.learn.live import Held
    from everlearn.learn.network.recipe import Recipe
    from everlearn.types import Progress, SampleId
    from everlearn.workspace import Workspace

FOLD = "fold"
NEWEST = "newest"
Part = Literal["stages", "snapshots", "folds"]
Table = Any
"""(N, C) probabilities."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A member, and its honest probabilities for all samples of the learning side, NaN where there are none.

    answer: its probabilities for any samples. own: of a network of a cross-validation, its accuracy on the fold that it
    did not learn. found, memory, cached: of a memory.
    """

    member: Member
    table: NDArray[np.floating]
    digest: str
    answer: Callable[[Sequence[SampleId]], Table]
    own: float | None = None
    found: Fitted | None = None
    memory: ExactMemory | None = None
    cached: Cached | None = None


def of_memory(workspace: Workspace, spec: str, held: Held, ids: Sequence[SampleId], progress: Progress) -> Asked:
    """An exact memory of the snapshot on this backbone: the workspace's own, where it stands at this snapshot; of
    others nothing is stored but their cached features."""
    basis, own = basis_of(workspace, spec), live(workspace)
    if own.basis is basis and own.held == held and workspace.config.learn.unknown is None:
        memory, found = own.memory, fitted(workspace, own, progress)
    else:
        phi = Features(workspace, basis).all(ids, progress)
        labels, folds = [held[id][0] for id in ids], np.array([held[id][1] for id in ids], np.int64)
        memory = ExactMemory(basis.digest, basis.dimensions, workspace.config.learn.folds)
        memory.add(phi, labels, folds)
        found = fit(memory, Cached(ids, phi, labels, folds), precision=workspace.config.label.precision)
    if found.held_out is None:
        raise TooFew(
            f"{len(ids)} samples of {len(found.head.classes)} classes are too few to judge an ensemble.",
            "Collect more.",
        )
    out, head = found.held_out, found.head

    def answer(asked: Sequence[SampleId]) -> Table:
        return head.probabilities(Features(workspace, basis).all(asked, progress))

    return Asked(
        Memory(basis, head), out.probabilities(), found.digest, answer, None, found, memory, out.cached
    )  # fmt: skip


def of_model(
    workspace: Workspace, named: answering.Named, classes: tuple[str, ...], ids: Sequence[SampleId],
    validation: set[SampleId], progress: Progress,
) -> Asked:  # fmt: skip
    """A version or an exported file, asked about the validation side."""
    from everlearn.model.bundle import OnnxModel

    data = named.file.read_bytes() if named.file else registry.bundle_file(workspace, named.version, ".onnx")
    member = Network(OnnxModel(data), classes)
    if not member.model.size or not set(member.model.classes) & set(classes):
        raise BadInput(f"{named.name} knows none of this workspace's classes.", "Name another model.")
    answers = answering.Answerer(workspace, None, None, member.model)

    def answer(asked: Sequence[SampleId]) -> Table:
        return answers.table(asked, progress) @ member.places()

    return Asked(member, _on(validation, ids, answer, len(classes)), hashlib.sha256(data).hexdigest(), answer)


def of_stage(
    workspace: Workspace, name: str, classes: tuple[str, ...], ids: Sequence[SampleId],
    validation: set[SampleId], progress: Progress,
) -> Asked:  # fmt: skip
    """A network's saved stage. One of `train` has not learned the validation side; one of a cross-validation has
    learned most of the learning side, and there is no sample there that all members could be asked about."""
    from everlearn.model.bundle import OnnxModel
    from everlearn.model.network_bundle import packed
    from everlearn.stages import ground, saved
    from everlearn.stages.trained import inputs_of

    path = saved.stage_file(workspace, name)
    trained = ground.answering(workspace, name)
    if not set(trained.classes) & set(classes):
        raise BadInput(f"{name} knows none of this workspace's classes.", "Name another stage.")
    if trained.several or not trained.network.size:
        raise BadInput(f"{name} answers several labels at once, or takes no images.", "Name another stage.")
    data = packed(trained, {"name": f"{path.parent.name}/{path.stem}"})
    member = Network(OnnxModel(data), classes)

    def answer(asked: Sequence[SampleId]) -> Table:
        if not asked:
            return np.zeros((0, len(classes)), np.float32)
        return trained.answered(inputs_of(workspace, trained.network, list(asked), progress)) @ member.places()

    run = run_of(workspace, path.parent.name)
    fold = run is not None and run.kind == FOLD
    own = float(run.result.get("score", np.nan)) if fold and run is not None else None
    table = _on(set() if fold else validation, ids, answer, len(classes))
    return Asked(member, table, hashlib.sha256(data).hexdigest(), answer, own)


def _on(
    honest: set[SampleId], ids: Sequence[SampleId], answer: Callable[[Sequence[SampleId]], Table], classes: int
) -> NDArray[np.float32]:
    table = np.full((len(ids), classes), np.nan, np.float32)
    rows = [row for row, id in enumerate(ids) if id in honest]
    if rows:
        table[rows] = answer([ids[row] for row in rows])
    return table


def known_by(workspace: Workspace, stage: str) -> tuple[str, ...]:
    """The classes of a saved stage."""
    from everlearn.learn.network import checkpoint
    from everlearn.stages import saved

    return tuple(map(str, checkpoint.load(saved.stage_file(workspace, stage)).get("classes", ())))


def run_of(workspace: Workspace, name: str) -> runs.Run | None:
    with workspace.catalog.read() as tx:
        try:
            return runs.get(tx, name)
        except Missing:
            return None


def of_run(workspace: Workspace, run: str, part: Part) -> list[str]:
    """Names of what a run has left: the best weights of its stages, the snapshots that its stages took, or the networks
    of its folds. run: a name, or `newest` for the newest run that has such. Raises Missing, BadInput where it has none.
    """
    with workspace.catalog.read() as tx:
        every = (
            [one for one in reversed(runs.every(tx)) if one.parent is None] if run == NEWEST else [runs.get(tx, run)]
        )
    for one in every:
        if found := _left(workspace, one.name, part):
            return found
    remedies = {
        "stages": "See: everlearn models stages",
        "snapshots": "Take some: everlearn train --set stages.0.snapshots=3",
        "folds": "Keep them: everlearn crossval --recipe R --keep-models",
    }
    raise BadInput(f"{'No run' if run == NEWEST else run} has {part if run == NEWEST else f'no {part}'} with networks.",
                   remedies[part])  # fmt: skip


def _left(workspace: Workspace, run: str, part: Part) -> list[str]:
    folder = workspace.root / CHECKPOINTS
    if part == "folds":
        with workspace.catalog.read() as tx:
            folds = [one for one in runs.every(tx, parent=run) if one.kind == FOLD and one.status == "done"]
        return [one.name for one in folds if (folder / one.name / str(one.result.get("best_file"))).is_file()]
    pattern = "best_model_stage_*.pt" if part == "stages" else "snapshot_*_*.pt"
    paths = sorted((folder / run).glob(pattern), key=lambda path: [int(n) for n in path.stem.split("_") if n.isdigit()])
    return [f"{run}/{path.stem}" for path in paths]


@dataclass(frozen=True)
class Grown:
    """Members that are trained for the ensemble. kind: `bag` or `boost`; count: of them, at most."""

    kind: Literal["bag", "boost"]
    count: int
    recipe: Recipe

    def config(self) -> Mapping[str, Any]:
        return {self.kind: self.count, "recipe": self.recipe.model_dump(mode="json")}

    def train(self, workspace: Workspace, run: track.Run, progress: Progress) -> tuple[list[str], list[float] | None]:
        """Names of their stages; and the weights of their votes, where they were boosted."""
        from everlearn.stages.ground import Ground

        if self.count < 2:
            raise BadInput(f"--{self.kind} {self.count} is no ensemble.", "Two or more.")
        found = Ground.of(workspace, progress)
        if not found.classes:
            raise BadInput("An ensemble classifies; this workspace is for numbers.", "Use one network.")
        return (_bagged if self.kind == "bag" else _boosted)(found, run, self.recipe, self.count)


def _bagged(ground: Any, run: track.Run, recipe: Recipe, count: int) -> tuple[list[str], None]:
    from everlearn.learn.network.bagging import bootstrap
    from everlearn.stages.ground import part

    names = []
    for member in range(count):
        one = recipe.model_copy(update={"seed": recipe.seed + member})
        rows = bootstrap(ground.groups, recipe.seed, member)
        ground.progress.say(f"Network {member + 1} of {count}, on a bootstrap sample of the groups.")
        about = {"bag": member, "seed": one.seed}
        names.append(part(ground.workspace, run, about, partial(ground.train, recipe=one, only=rows)))
    return names, None


def _boosted(ground: Any, run: track.Run, recipe: Recipe, count: int) -> tuple[list[str], list[float]]:
    from everlearn.learn.network.bagging import drawn, equal, judged
    from everlearn.stages.ground import answering as of_stage
    from everlearn.stages.ground import part

    names: list[str] = []
    votes: list[float] = []
    weights = equal(len(ground.divided.train))
    for member in range(count):
        one = recipe.model_copy(update={"seed": recipe.seed + member})
        rows = drawn(weights, recipe.seed, member)
        about = {"boost": member, "seed": one.seed}
        name = part(ground.workspace, run, about, partial(ground.train, recipe=one, only=rows))
        trained = of_stage(ground.workspace, name)
        inputs, train, _ = ground.inputs(trained.network)
        right = trained.answered(inputs[train]).argmax(axis=1) == ground.targets[0]
        found = judged(right, weights, len(ground.classes))
        ground.progress.say(
            f"Network {member + 1} of {count}: weighted error {found.error:.4f}, vote {found.weight:.2f}."
        )
        if not found.helps:
            ground.progress.say("It is no better than guessing on what was hard: boosting ends before it.")
            break
        names.append(name)
        votes.append(found.weight)
        weights = found.weights
        if found.perfect:
            ground.progress.say("It is right about every training image: there is nothing left to boost.")
            break
    if not names:
        raise BadInput("The first network is no better than guessing.", "Train longer: --epochs.")
    if len(names) < 2:
        raise BadInput(
            "The first network leaves nothing for a second one to mend.",
            "Boost smaller networks, or for fewer epochs: --network cnn:depth=2,width=8 --epochs 3; or use --bag.",
        )
    return names, votes

"""Labels in two parts, `fruit/apple`: which kind, then which one given the kind, in one network."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn import track
from everlearn.errors import BadInput
from everlearn.learn.live import Moved
from everlearn.stages import ground, teach, training
from everlearn.stages.learners import Taught
from everlearn.workspace import CHECKPOINTS

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.learn.network.recipe import Recipe
    from everlearn.model.chained_bundle import TrainedChain
    from everlearn.track import Run
    from everlearn.types import Progress
    from everlearn.workspace import Workspace

LEARNER = "chained"


@dataclass(frozen=True)
class Chaining:
    """What came of it. kinds: the first task's classes; first, second: accuracies on the validation side."""

    run: str
    kinds: tuple[str, ...]
    first: float
    second: float
    images: int

    def to_json(self) -> dict[str, Any]:
        return {"run": self.run, "kinds": list(self.kinds), "n": self.images, "first": self.first,
                "second": self.second}  # fmt: skip


def chain(
    workspace: Workspace, separator: str, recipe: Recipe, progress: Progress, *, weights: tuple[float, float] = (1, 1)
) -> tuple[Version, Chaining]:
    """Train one network for both tasks and register it: a version that answers whole labels, whose file also says the
    kind. separator: the kind is what stands before the first one in a label. weights: of the two losses.

    Raises BadInput where labels have no two kinds, or for other tasks than `classify`; TooFew.
    """
    began = time.monotonic()
    if workspace.config.task != "classify":
        raise BadInput(f"Chained labels are classes; this workspace is for {workspace.config.task}.", "Use train.")
    floor = ground.Ground.of(workspace, progress)
    if not separator or not any(separator in one for one in floor.classes):
        raise BadInput(f"No label has {separator!r} in it.", "Name what stands between kind and name: --separator /")
    of = [one.partition(separator)[0] for one in floor.classes]
    kinds = tuple(sorted(set(of)))
    if len(kinds) < 2:
        raise BadInput(f"All labels are of one kind: {kinds[0]}.", "Use train.")
    place = np.array([kinds.index(one) for one in of], np.int64)  # (C,) kind of each class
    config = {"separator": separator, "weights": list(weights), "recipe": recipe.model_dump(mode="json")}
    with ground.experiment(workspace, "chain", config, floor.snapshot, progress) as run:
        trained, result, (first, second) = _trained(floor, run, recipe, kinds, place, weights)
        found = Chaining(run.name, kinds, first, second, len(floor.divided.validation))
        run.note({**found.to_json(), "stages": training.summary(result)["stages"]})
        version = _registered(floor, trained, result, found, began)
        run.note({}, snapshot=floor.snapshot.number, version=version.name)
    return version, found


def _trained(
    floor: ground.Ground, run: Run, recipe: Recipe, kinds: tuple[str, ...], place: Any, weights: tuple[float, float]
) -> tuple[TrainedChain, training.Training, tuple[float, float]]:
    from everlearn.augment.training import augmenter
    from everlearn.learn.network import staged
    from everlearn.learn.network.chained import Both, Chained, Joint, answered
    from everlearn.learn.network.runtime import runtime
    from everlearn.model.chained_bundle import TrainedChain
    from everlearn.model.trainable import build

    network = build(
        recipe.network, classes=len(kinds), size=recipe.size, seed=recipe.seed, base=floor.workspace.root
    )  # fmt: skip
    chained, here = Chained(network, len(floor.classes), recipe.seed), runtime(recipe.precision)
    train, validation = (
        Both(one.inputs, one.targets, one.classes, one.rows, place[one.targets], kinds) for one in floor.data(network)
    )
    about = {"network": f"{LEARNER}:{recipe.network}", "classes": list(floor.classes), "kinds": list(kinds),
             "size": network.size, "task": "classify", "recipe": recipe.name, "licence": network.licence}  # fmt: skip
    folder = floor.workspace.root / CHECKPOINTS / run.name
    done = staged.train(
        staged.Job(recipe, folder, about), chained, train, validation.judged, augmenter, run=here,
        method=Joint(chained, weights), watch=track.Aloud(run, floor.progress), force=True,
    )  # fmt: skip
    training.check_something_came(folder, done, None)
    kept = max((one.number for one in done if one.kept), default=0)
    result = training.Training(run.name, folder, recipe, tuple(done), kept)
    first, second = answered(chained, validation)
    scores = (
        float((first.argmax(1) == validation.first).mean()),
        float((second.argmax(1) == validation.targets).mean()),
    )
    return TrainedChain(chained.cpu(), kinds, floor.classes), result, scores


def _registered(
    floor: ground.Ground, trained: TrainedChain, result: training.Training, found: Chaining, began: float
) -> Version:
    from everlearn.model.chained_bundle import packed_chain

    samples = len(floor.divided.train)
    about = {"run": found.run, "recipe": result.recipe.name, "accuracy_validation": found.second,
             "first_accuracy_validation": found.first}  # fmt: skip
    taught = Taught(
        Moved(samples, 0), samples, trained, None, hashlib.sha256(packed_chain(trained, {})).hexdigest(), None, about,
        {
            **about,
            "automatic_labels": None,
            "knows": "Every training image shaped these weights; none can be taken out. To forget, it is trained again "
            "from what remains.",
        },
    )  # fmt: skip
    report = teach.reported(f"{LEARNER}:{result.recipe.name}", taught, began, floor.snapshot)
    return teach.register(floor.workspace, taught, floor.snapshot, report, "two tasks chained")

"""A recipe as a way of learning: trained on some rows of the learning side, and tested on others.

The best epoch is chosen on rows that are set apart of what is learned, never on those that are tested: choosing on the
test rows would praise the recipe for its luck.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn import track
from everlearn.errors import BadInput
from everlearn.evaluate.folds import folds_of
from everlearn.learn.network import recipe as recipes
from everlearn.stages import learners, saved, sides, training
from everlearn.stages.subjects import Pool, Scored
from everlearn.workspace import CHECKPOINTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.evaluate.folds import Fold
    from everlearn.learn.network.loading import Data
    from everlearn.model.trainable import Network
    from everlearn.types import Progress
    from everlearn.workspace import Workspace

    Rows = NDArray[np.intp]

LEAST, MOST = 3, 10
"""Parts of what is learned, of which one chooses the best epoch."""


class RecipeWay:
    """A recipe. Each training has its folder in model_updates/checkpoints/, so that a killed one goes on where it was;
    it stays only where the networks are to be kept."""

    heavy = True

    def __init__(
        self, workspace: Workspace, pool: Pool, progress: Progress, name: str, *, keep: bool = False,
        quick: bool = False,
    ) -> None:  # fmt: skip
        training.check_parts()
        if workspace.config.backbone == "features":
            raise BadInput("This workspace holds rows of numbers; a network learns from images.", "Use exact there.")
        self.workspace, self.pool, self.progress, self.keep = workspace, pool, progress, keep
        self.recipe = recipes.load(name).quick() if quick else recipes.load(name)
        self.name = name
        settings = json.loads(self.recipe.model_dump_json(exclude={"name"}))
        self.config: Mapping[str, Any] = {"learner": learners.STAGED, **settings}

    def folds(self, folds: Sequence[Fold]) -> Callable[[Fold, track.Run], Scored]:
        return lambda fold, run: self._scored(fold.train, fold.test, fold.repeat, run)

    def growing(self, fold: Fold, parts: Sequence[Rows]) -> Iterator[Callable[[track.Run], Scored]]:
        for part in parts:
            yield partial(self._scored, part, fold.test, 0)

    @property
    def classes(self) -> tuple[str, ...]:
        return () if self.pool.numbers else tuple(sorted(set(self.pool.labels)))

    def _network(self, seed: int) -> Network:
        from everlearn.model.trainable import build

        columns, recipe = max(1, len(self.classes)), self.recipe
        return build(recipe.network, classes=columns, size=recipe.size, seed=seed, base=self.workspace.root)

    @cached_property
    def _inputs(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """All images as the network takes them, and where each of the pool stands among them."""
        arrays = sides.arrays_of(self.workspace, self._network(0))
        rows = arrays.rows([one.id for one in self.pool.members], self.progress)
        return arrays.all(), rows

    def _scored(self, learned: Rows, test: Rows, repeat: int, run: track.Run) -> Scored:
        from everlearn.augment.training import augmenter
        from everlearn.learn.network import staged
        from everlearn.learn.network.runtime import runtime

        began = time.monotonic()
        recipe = self.recipe.model_copy(update={"seed": self.recipe.seed + repeat})
        learn, choose = self._divided(learned)
        network, here = self._network(recipe.seed), runtime(recipe.precision)
        target = self._target(learn)
        folder = self.workspace.root / CHECKPOINTS / run.name
        about = {"network": recipe.network, "classes": list(self.classes), "size": network.size,
                 "task": self.workspace.config.task, "recipe": recipe.name, "licence": network.licence}  # fmt: skip
        if target:
            about["target"] = target
        job = staged.Job(recipe, folder, about, {"recipe": dict(self.config), "learned": self._digest(learned)})
        data, validation = (self._data(rows, target) for rows in (learn, choose))
        done = staged.train(
            job, network, data, validation, augmenter, run=here, watch=track.Aloud(run, self.progress), force=True
        )
        score = self._judged(network, test, target, here)
        kept = max((one.number for one in done if one.kept), default=0)
        found = training.Training(run.name, folder, recipe, tuple(done), kept)
        details = training.summary(found) | {"kept_models": self.keep}
        if not self.keep:
            saved.drop(self.workspace, run.name)
        return Scored(score, len(learn), len(test), time.monotonic() - began, details)

    def _divided(self, learned: Rows) -> tuple[Rows, Rows]:
        """What is learned, and what chooses the best epoch: about the share that the validation side has."""
        sides = self.workspace.config.dataset
        share = sides.validation / max(1e-9, 1 - sides.test)
        labels, groups = self.pool.labels[learned], self.pool.groups[learned]
        fewest = len(labels) if self.pool.numbers else max(Counter(labels).values())
        parts = max(2, min(int(np.clip(round(1 / max(share, 1e-9)), LEAST, MOST)), fewest))
        first = next(folds_of(labels, groups, folds=parts, seed=self.recipe.seed, numbers=self.pool.numbers))
        return learned[first.train], learned[first.test]

    def _target(self, learn: Rows) -> dict[str, Any] | None:
        """Numbers are learned at mean 0 and deviation 1 of what is learned."""
        if not self.pool.numbers:
            return None
        values = self.pool.labels[learn]
        return {"mean": float(values.mean()), "deviation": float(values.std()) or 1.0,
                **self.workspace.config.learn.target.model_dump()}  # fmt: skip

    def _data(self, rows: Rows, target: Mapping[str, Any] | None) -> Data:
        from everlearn.learn.network.loading import Data

        inputs, place = self._inputs
        labels = self.pool.labels[rows]
        if target:
            targets = ((labels - target["mean"]) / target["deviation"]).astype(np.float32)
        else:
            column = {name: number for number, name in enumerate(self.classes)}
            targets = np.array([column[label] for label in labels], np.int64)
        return Data(inputs, targets, self.classes, place[rows])

    def _judged(self, network: Network, test: Rows, target: Mapping[str, Any] | None, here: Any) -> float:
        from everlearn.learn.network.judging import answers

        found = answers(network, self._data(test, target), here).numpy()
        wanted = self.pool.labels[test]
        if target:
            said = np.clip(found[:, 0] * target["deviation"] + target["mean"], target["low"], target["high"])
            return float(np.abs(said - wanted).mean())
        return float((np.array(self.classes, dtype=object)[found.argmax(axis=1)] == wanted).mean())

    def _digest(self, rows: Rows) -> str:
        return hashlib.sha256("\n".join(self.pool.members[row].id for row in rows).encode()).hexdigest()

"""A detector as a way of learning: trained on some of the learning side, and tested on the rest.

The best epoch is chosen on images set apart of what is learned, never on those that are tested.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.errors import TooFew
from everlearn.evaluate.detection import detection
from everlearn.evaluate.folds import folds_of
from everlearn.stages.detecting import learning, prove, sides
from everlearn.stages.detecting.learning import Following, Lesson
from everlearn.stages.saved import folder_of
from everlearn.stages.subjects import EXACT, Pool, Scored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.evaluate.folds import Fold
    from everlearn.stages.detecting.sides import Labelled
    from everlearn.track import Run
    from everlearn.types import Progress
    from everlearn.workspace import Workspace

    Rows = NDArray[np.intp]

PARTS = 5
"""Of what is learned, one such part chooses the best epoch."""


class DetectorWay:
    """name: an architecture (yolo11n.yaml) or a file of weights; the workspace's own where it is none of these. Each
    training has its folder, so that a killed one goes on; it stays only where the networks are to be kept."""

    heavy = True

    def __init__(
        self, workspace: Workspace, pool: Pool, progress: Progress, name: str, *, keep: bool = False,
        quick: bool = False,
    ) -> None:  # fmt: skip
        spec = learning.spec_of(workspace) if name in (EXACT, "yolo", "") else name.removeprefix("yolo:")
        self.changes: dict[str, Any] = {"spec": spec} | ({"epochs": 1} if quick else {})
        learning.check(workspace, self.changes)
        self.workspace, self.pool, self.progress, self.keep, self.name = workspace, pool, progress, keep, spec
        self.config: Mapping[str, Any] = {
            "learner": "yolo", **workspace.config.detect.model_dump(), **self.changes
        }  # fmt: skip

    def folds(self, folds: Sequence[Fold]) -> Callable[[Fold, Run], Scored]:
        return lambda fold, run: self._scored(fold.train, fold.test, fold.repeat, run)

    def growing(self, fold: Fold, parts: Sequence[Rows]) -> Iterator[Callable[[Run], Scored]]:
        for part in parts:
            yield partial(self._scored, part, fold.test, 0)

    @cached_property
    def _scenes(self) -> list[Labelled]:
        return sides.labelled(self.workspace, self.pool.members)

    def _scored(self, learned: Rows, test: Rows, repeat: int, run: Run) -> Scored:
        from everlearn.model.detecting.yolo import YoloDetector

        began = time.monotonic()
        given = self._lesson(learned)
        changes = {**self.changes, "seed": self.workspace.config.detect.seed + repeat, "plots": False}
        came = learning.carried_out(
            self.workspace, run, given, changes, Following(run, None, self.progress), self.progress
        )
        detector = YoloDetector.open(came.result.best)
        tested = [self._scenes[row] for row in test]
        seen = prove.tested(self.workspace, detector, tested, self.progress, None)
        found = detection(seen, prove.classes_of(seen))
        folder = folder_of(self.workspace, run.name)
        shutil.rmtree(folder / learning.DATA if self.keep else folder, ignore_errors=True)
        details = {**came.summary(), "map50_95": found.map50_95.value, "kept_models": self.keep}
        return Scored(found.map50.value, len(given.train), len(test), time.monotonic() - began, details)

    def _lesson(self, learned: Rows) -> Lesson:
        labels, groups = self.pool.labels[learned], self.pool.groups[learned]
        first = next(folds_of(labels, groups, folds=PARTS, seed=self.workspace.config.detect.seed))
        train, choose = (tuple(self._scenes[row] for row in learned[rows]) for rows in (first.train, first.test))
        classes = sorted({box.label for one in (*train, *choose) for box in one.coarse})
        if not classes:
            raise TooFew(f"There is no box on {len(learned)} images of one part.", "Ask for fewer parts, or draw more.")
        return Lesson(None, train, (), choose, tuple(classes))

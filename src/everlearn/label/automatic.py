"""Automatic labels: where the model's calibrated confidence clears the threshold that keeps precision at its target.

The threshold comes with the model (chosen on out-of-fold answers so that the 95 % lower bound of the precision above it
meets the target); below it an image waits for a person, the least certain first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn import faults
from everlearn.catalog import labels, samples
from everlearn.catalog.tables import sample
from everlearn.files import change
from everlearn.naming import UNKNOWN

if TYPE_CHECKING:
    from everlearn.types import Prediction, Progress, SampleId
    from everlearn.workspace import Workspace

Predict = Callable[[Sequence["SampleId"]], Sequence["Prediction"]]
BATCH = 256


@dataclass(frozen=True, slots=True)
class Labelling:
    """labelled: by the model, now; queued: waiting for a person, in all; share: of the images that were looked at for
    the first time, how many a person must look at, None where there was none; proof: what the thresholds rest on, where
    boxes are labelled."""

    labelled: int
    queued: int
    share: float | None = None
    proof: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Sure:
    """How the model answers: `predict` gives calibrated answers for sample ids; `threshold` is the least confidence
    that labels by itself (None: never); `version` names the model; `unknown`: the answer that is no label, where there
    is one."""

    predict: Predict
    threshold: float | None
    version: str
    unknown: str | None = None


def automatic(workspace: Workspace, model: Sure | None, progress: Progress) -> Labelling:
    """Label what is validated and unlabelled, or queue it. Without a model everything is queued."""
    waiting = sample.c.status.in_(("validated", "queued")) & sample.c.label.is_(None)
    with workspace.catalog.read() as tx:
        every = (one for batch in samples.batches(tx, waiting) for one in batch)
        there = {one.id: one.status for one in every if one.queue_reason not in labels.FOR_PEOPLE}
    ids, new = list(there), {id for id, status in there.items() if status == "validated"}
    sure: set[SampleId] = set()
    with progress.task("label", len(ids)) as task:
        for start in range(0, len(ids), BATCH):
            sure |= _label(workspace, model, ids[start : start + BATCH])
            task.advance(min(BATCH, len(ids) - start))
    with workspace.catalog.read() as tx:
        return Labelling(len(sure), samples.counts(tx)["queued"], len(new - sure) / len(new) if new else None)


def _label(workspace: Workspace, model: Sure | None, ids: Sequence[SampleId]) -> set[SampleId]:
    """Returns those that were labelled."""
    answers = list(model.predict(ids)) if model else [None] * len(ids)
    threshold = model.threshold if model else None
    words: list[labels.Said] = []
    queue: list[dict[str, Any]] = []
    for id, answer in zip(ids, answers, strict=True):
        sure = answer is not None and threshold is not None and answer.confidence >= threshold
        strange = (
            model is not None and answer is not None and answer.label is not None and answer.label == model.unknown
        )
        if model and answer and sure and answer.label is not None and not strange:
            words.append(labels.Said(id, answer.label, "auto", None, answer.confidence, model.version))
        else:
            reason = "no_model" if answer is None else UNKNOWN if strange else "unsure"
            queue.append({"id": id, "queued": True, "queue_reason": reason, "urgency": _urgency(answer)})
    with change(workspace) as changed:
        there = samples.some(changed.tx, ids)  # a person may have spoken while the model was asked
        samples.change(changed.tx, [row for row in queue if there[row["id"]].label is None])
        labels.say(changed.tx, words)
        samples.restate(changed.tx, ids)
        changed.refile([word.sample_id for word in words])
    faults.point("label.committed")
    return {word.sample_id for word in words}


def _urgency(answer: Prediction | None) -> float:
    """How much an answer would teach, 0-1: the entropy of the model's answer over its greatest possible entropy."""
    if answer is None or len(answer.scores) < 2:
        return 0.5
    p = np.fromiter(answer.scores.values(), float)
    p = np.clip(p / max(p.sum(), 1e-12), 1e-12, 1)
    return float(-(p * np.log(p)).sum() / np.log(len(p)))

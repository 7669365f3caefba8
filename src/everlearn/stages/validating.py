"""What has come in is judged, labels that look wrong are held back, and the whole data set is scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.catalog import labels, samples, turns
from everlearn.dataset.build import HELD, ODD_BOX, SUSPECT, side_of
from everlearn.evaluate import gates
from everlearn.files import change
from everlearn.naming import is_class
from everlearn.stages import standing, teach
from everlearn.stages.detecting import boxes as drawn
from everlearn.validate import judge as judging

if TYPE_CHECKING:
    from everlearn.types import Member, Progress, SampleId
    from everlearn.validate.boxes import BoxQuality
    from everlearn.workspace import Workspace

LEAST_TAUGHT = 10
"""Examples to learn from that a class must have before labels of it, or in favour of it, are doubted."""
UNEVEN = ("diversity", "class_balance")
"""Scores that are low where a camera stands still, and visitors are who they are."""
NAMED = 20
"""Images named for each score that they pull down."""


@dataclass(slots=True)
class Validated:
    """scores: of the whole data set, 0-1, None where there is nothing to score; culprits: score to the samples that
    pull it down most; stops: the data gates that failed, a line each, naming images; boxes: their quality, where the
    task is `detect`."""

    validated: int
    quarantined: dict[str, int]
    scores: dict[str, float | None] = field(default_factory=dict)
    culprits: dict[str, list[SampleId]] = field(default_factory=dict)
    gates: dict[str, Any] = field(default_factory=dict)
    stops: list[str] = field(default_factory=list)
    boxes: BoxQuality | None = None

    def to_json(self) -> dict[str, Any]:
        said = {"validated": self.validated, "quarantined": self.quarantined, "scores": self.scores,
                "culprits": self.culprits, "gates": self.gates}  # fmt: skip
        return said if self.boxes is None else {**said, "boxes": self.boxes.to_json()}


def validate(workspace: Workspace, progress: Progress) -> Validated:
    """Judge what is new, hold back labels that are held wrong, and score the whole data set."""
    judged = judging.judge(workspace, side(workspace), progress)
    result = Validated(judged.validated, dict(sorted(judged.quarantined.items())))
    result.boxes = drawn.examined(workspace) if workspace.config.task == "detect" else None
    wrong = decide_suspects(workspace, progress, result.boxes)
    _score(workspace, result, wrong)
    with workspace.catalog.write() as tx:
        turns.set_to(tx, "data_scores", {"scores": result.scores, "culprits": result.culprits})
    found = data_gates(workspace, result.scores)
    result.gates = {name: gate.to_json() for name, gate in found.items()}
    for name, gate in found.items():
        if not gate.passed:
            worst = " ".join(result.culprits.get(name, [])[:5])
            result.stops.append(f"{gates.failed({name: gate})[0]}" + (f", pulled down by {worst}" if worst else ""))
    return result


def data_gates(workspace: Workspace, found: Mapping[str, float | None]) -> dict[str, gates.Gate]:
    """The data gates that the configuration sets, on these scores. What cannot be scored stops nothing. Where boxes are
    learned the usual gates of `UNEVEN` do not hold, only those that a person sets: a camera that stands still shows one
    place again and again, and more people pass than cats."""
    settings = workspace.config.gates
    targets = {name: getattr(settings, name) for name in gates.DATA_TARGETS if getattr(settings, name) is not None}
    if workspace.config.task == "detect":
        targets = {n: value for n, value in targets.items() if n not in UNEVEN or n in settings.model_fields_set}
    return gates.judge(found, targets, dict.fromkeys(targets, "there was nothing to score"))


def decide_duplicates(workspace: Workspace, without: Collection[SampleId] = ()) -> int:
    """Decide near duplicates again; returns how many are set aside now."""
    if not workspace.config.validate_.near_duplicates:
        return 0
    return sum(judging.decide_duplicates(workspace, side(workspace), without).values())


def side(workspace: Workspace) -> Callable[[str], str]:
    """Tells the side of a group."""
    return lambda group: side_of(group, workspace.config.dataset)


def decide_suspects(
    workspace: Workspace, progress: Progress, boxes: BoxQuality | None = None
) -> dict[SampleId, str] | None:
    """Labels that are held wrong, the least believed first, with what they rather are; for `detect` images with odd
    boxes, with what is odd. Those on the learning side wait for a person. boxes: as they were examined just now.

    Judged anew on everything labelled, suspects among it, so it depends on the data alone. None where the task has no
    classes, or too few examples of them to judge by; then no label is in doubt.
    """
    if workspace.config.task == "detect":
        odd = drawn.doubted(workspace, boxes or drawn.examined(workspace))
        with workspace.catalog.read() as tx:
            groups = {id: one.group_key for id, one in samples.some(tx, list(odd)).items()}
        on = side(workspace)
        _hold(workspace, odd, {id for id, group in groups.items() if on(group) != "test"}, ODD_BOX)
        return odd
    members = teach.pool(workspace)
    wrong = _suspects(workspace, members, progress)
    if wrong:  # a label that a person gave is never doubted
        with workspace.catalog.read() as tx:
            there = samples.some(tx, list(wrong))
        wrong = {id: meant for id, meant in wrong.items() if there[id].label_by not in labels.PEOPLE}
    _hold(workspace, wrong or {}, {one.id for one in members if one.split != "test"})
    return wrong


def _suspects(workspace: Workspace, members: Sequence[Member], progress: Progress) -> dict[SampleId, str] | None:
    from everlearn.validate.suspects import find

    originals = [one for one in members if one.parent is None]
    learnable = [one for one in originals if one.split != "test"]
    taught = Counter(one.label for one in learnable)
    if workspace.config.task != "classify" or sum(number >= LEAST_TAUGHT for number in taught.values()) < 2:
        return None
    memory = standing.live(workspace)
    memory.bring_to(members, progress)
    found = standing.fitted(workspace, memory, progress)
    if found.held_out is None:
        return None
    table = _probabilities(memory, found, [one.id for one in originals], progress)
    classes = {name: column for column, name in enumerate(found.head.classes)}
    rows = [row for row, one in enumerate(originals) if one.label in classes and np.isfinite(table[row]).all()]
    table, given = table[rows], np.array([classes[originals[row].label] for row in rows])
    judged = find(table, given)
    sure = table.max(axis=1) >= workspace.config.validate_.suspect_confidence
    known = np.array([taught[name] >= LEAST_TAUGHT for name in found.head.classes])
    doubted = sure & known[given] & known[judged.meant]
    return {originals[rows[at]].id: found.head.classes[judged.meant[at]] for at in judged.order if doubted[at]}


def _probabilities(memory: Any, found: Any, ids: Sequence[SampleId], progress: Progress) -> Any:
    """(N, C) honest probabilities: out of fold for what the memory holds, the head's own for the test side."""
    row = {id: number for number, id in enumerate(ids)}
    table = np.full((len(ids), len(found.head.classes)), np.nan, np.float32)
    held = found.held_out.cached.ids
    wanted = [number for number, id in enumerate(held) if id in row]
    table[[row[held[number]] for number in wanted]] = found.held_out.probabilities()[wanted]
    others = sorted(set(ids) - set(held))
    for part, phi in memory.features.batches(others, progress):
        table[[row[id] for id in part]] = found.head.probabilities(phi)
    return table


def _hold(workspace: Workspace, wrong: Mapping[SampleId, str], learning: set[SampleId], why: str = SUSPECT) -> None:
    """Bring suspects in the catalog into step. why: they wait for a person."""
    from everlearn.catalog.tables import sample

    with change(workspace) as changed:
        tx = changed.tx
        there = {one.id: one for batch in samples.batches(tx, sample.c.suspect.is_not(None)) for one in batch}
        there.update(samples.some(tx, list(wrong)))
        hold = workspace.config.validate_.hold_suspects
        rows: list[dict[str, Any]] = []
        for id, one in sorted(there.items()):
            suspect = None if one.label_by in labels.PEOPLE else wrong.get(id)  # who may have spoken since
            queued = hold and suspect is not None and id in learning
            reason, urgency = (why, 1.5) if queued else (None, 0.0)
            if one.queue_reason not in (None, *HELD):  # it waits for another reason, and goes on waiting
                queued, reason, urgency = one.queued, one.queue_reason, one.urgency
            if (one.suspect, one.queued) != (suspect, queued):
                rows.append({"id": id, "suspect": suspect, "queued": queued, "queue_reason": reason,
                             "urgency": urgency})  # fmt: skip
        samples.change(tx, rows)
        samples.restate(tx, [row["id"] for row in rows])


def _score(workspace: Workspace, result: Validated, wrong: Mapping[SampleId, str] | None) -> None:
    """The scores of DESIGN §7 over everything that is labelled, each with the images that pull it down."""
    from everlearn.validate import scores

    labelled = {one.id: one for batch in judging.labelled(workspace) for one in batch}
    result.scores = {"quality": None, "label_accuracy": None, "diversity": None, "class_balance": None}
    if not labelled:
        return
    classify = workspace.config.task == "classify"
    open_set = workspace.config.learn.unknown is not None
    classes = {id: one.label if classify else "all" for id, one in labelled.items() if is_class(one.label, open_set)}
    if not classes:
        return
    found = {
        "quality": scores.quality({id: one.quality for id, one in labelled.items()}),
        "diversity": scores.diversity(*judging.described(workspace, classes)),
    }
    if classify:
        found["class_balance"] = scores.class_balance(classes)
    if result.boxes is not None:
        found["class_balance"] = scores.Score(result.boxes.balance, result.boxes.above)
    if wrong is not None:
        found["label_accuracy"] = scores.Score(1 - len(wrong) / len(labelled), tuple(wrong))
    result.scores.update({name: score.value for name, score in found.items()})
    result.culprits = {name: list(score.worst[:NAMED]) for name, score in found.items()}

"""The exact memory of the crops of one class: what tells a courier from a neighbour once a person was found.

It is a pure function of the boxes that it is to hold, as the live memory is of a snapshot: learning, relabelling and
forgetting are the difference, added and subtracted. What it holds is written beside its sums.

Members are the boxes whose label has a second part, and of the plain ones (a person of whom nobody said which) a fixed
number, drawn by a hash of their ids: they are the strangers that `unknown` is set by. A plain box that shows a courier
after all does little harm: the threshold is an order statistic, and the strangers' one column is the mean of many.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from everlearn.catalog.crops import CropId
from everlearn.errors import BadInput, Corrupt, Missing
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.fit import Fitted, fit
from everlearn.learn.live import Held, LiveMemory
from everlearn.naming import UNKNOWN, coarse, escape, unescape
from everlearn.workspace import CHECKPOINTS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from everlearn.learn.extract import Basis
    from everlearn.types import Progress
    from everlearn.workspace import Workspace

FOLDER = f"{CHECKPOINTS}/crops"
ENDING = ".sums"
STRANGERS = 100
"""Plain boxes of a class that are learned as strangers; more where a lower false-accept rate is asked for."""


class CropMemory(LiveMemory):
    """The memory of one coarse class's crops, where it lies and what it holds."""

    def __init__(self, workspace: Workspace, basis: Basis, name: str, *, strict: bool = False) -> None:
        """name: the coarse class. strict: as for `LiveMemory`."""
        self.name = name
        path = path_of(workspace, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(workspace, basis, strict=strict, path=path)

    def keep(self) -> None:
        """Write the memory, with what it holds, whole or not at all; nothing where it is what lies there."""
        if self.stamp is None or self.stored != self.held or not self.current:
            self._keep({"held": {id: list(said) for id, said in sorted(self.held.items())}})

    def fitted(self, progress: Progress) -> Fitted:
        """The head that it gives, with `unknown` for strangers where there is anybody to tell them from."""
        ids = sorted(self.held)
        phi = self.features.all(ids, progress)
        labels = [self.held[id][0] for id in ids]
        folds = np.array([self.held[id][1] for id in ids], np.int64)
        settings = self.workspace.config
        return fit(
            self.memory, Cached(ids, phi, labels, folds), precision=settings.label.precision,
            false_accept=settings.learn.unknown or "equal",
        )  # fmt: skip

    def _held(self, metadata: Mapping[str, object]) -> Held | None:
        said = metadata.get("held")
        if not isinstance(said, dict):
            return None
        try:
            return {str(id): (str(label), int(fold)) for id, (label, fold) in said.items()}
        except (ValueError, TypeError):
            return None


def path_of(workspace: Workspace, name: str) -> Path:
    return workspace.root / FOLDER / (escape(name) + ENDING)


def names(workspace: Workspace) -> list[str]:
    """The coarse classes of which a memory lies here."""
    found = (unescape(path.name.removesuffix(ENDING)) for path in (workspace.root / FOLDER).glob(f"*{ENDING}"))
    return sorted(name for name in found if name is not None)


def drop(workspace: Workspace, but: Collection[str] = ()) -> None:
    """Remove all memories but those of these classes."""
    for name in names(workspace):
        if name not in but:
            path_of(workspace, name).unlink(missing_ok=True)
    with suppress(OSError):  # not there, or not empty
        (workspace.root / FOLDER).rmdir()


def members(said: Iterable[tuple[CropId, str, int]], false_accept: float | None) -> dict[str, Held]:
    """What the memory of each coarse class is to hold. said: id, whole label and fold of every box that may be learned.
    A class without any second part has none.

    Depends on the set of them alone: of the plain ones those with the lowest hashes are drawn.
    """
    fine: dict[str, Held] = {}
    plain: dict[str, Held] = {}
    for id, label, fold in said:
        name = coarse(label)
        if label != name:
            fine.setdefault(name, {})[id] = (label, fold)
        else:
            plain.setdefault(name, {})[id] = (UNKNOWN, fold)
    most = strangers(false_accept)
    for name, held in fine.items():
        drawn = sorted((id for id in plain.get(name, {}) if id not in held), key=_hash)[:most]
        held.update((id, plain[name][id]) for id in drawn)
    return fine


def strangers(false_accept: float | None) -> int:
    """How many plain boxes are learned of a class: enough to promise the rate with 95 % confidence, where there are."""
    if false_accept is None:
        return STRANGERS
    return min(1000, max(STRANGERS, int(np.ceil(np.log(0.05) / np.log1p(-false_accept)))))


def left_out(found: Fitted) -> dict[CropId, str | None]:
    """What each crop is answered by what was learned without its fold: a class, or None for a stranger. Without those
    that could not be answered so."""
    view = found.held_out
    if view is None:
        return {}
    best, margins = view.probabilities(), found.unknown.margins if found.unknown else None
    answers: dict[CropId, str | None] = {}
    for row, (id, scores) in enumerate(zip(view.cached.ids, best, strict=True)):
        if np.isfinite(scores).all():
            accepted = margins is None or found.head.unknown is None or bool(margins[row] > 0)
            answers[id] = view.classes[int(scores.argmax())] if accepted else None
    return answers


def sureness(found: Fitted) -> dict[str, float]:
    """Of each class, and of `unknown` where that is an answer, the probability that nine of ten crops have that are
    rightly answered so by what has not learned them; where there are none, the least that an answer can have."""
    head, view = found.head, found.held_out
    least = 1 / len(head.answers)
    sure = dict.fromkeys(head.answers, least)
    if view is None:
        return sure
    table, labels = view.probabilities(), np.asarray(view.cached.labels, dtype=object)
    rejection = head.unknown if found.unknown is not None else None
    strange = np.zeros(len(labels))
    if rejection is not None and found.unknown is not None:  # as `Head.table`: unknown beside the best class
        strange = np.exp(np.clip(-found.unknown.margins / rejection.width, -50, 50))
    for column, name in enumerate(head.classes):
        best = table.max(axis=1)
        right = (labels == name) & (table[:, column] == best) & (strange < 1)
        if right.any():
            sure[name] = max(least, _low(1 / (1 / best[right] + strange[right])))
    refused = (labels == UNKNOWN) & (strange >= 1)
    if rejection is not None and refused.any():
        sure[UNKNOWN] = max(least, _low(strange[refused] / (len(head.classes) + strange[refused])))
    return sure


def _low(values: NDArray[np.floating]) -> float:
    return float(np.quantile(values, 0.1, method="lower"))


def _hash(id: CropId) -> bytes:
    return hashlib.sha256(id.encode()).digest()


def forget(workspace: Workspace, ids: Collection[str]) -> None:
    """Remove a memory that still holds crops of these samples, or whose file cannot be read: nothing may keep what they
    looked like. What remains is learned again when it is needed next."""
    from everlearn.catalog.crops import sample_of
    from everlearn.learn.exact.memory import ExactMemory

    gone = set(ids)
    for name in names(workspace):
        path = path_of(workspace, name)
        try:
            held = ExactMemory.load(path)[1].get("held", {})
            if not gone.isdisjoint(sample_of(id) for id in held):
                path.unlink(missing_ok=True)
        except (Missing, BadInput, Corrupt):
            path.unlink(missing_ok=True)

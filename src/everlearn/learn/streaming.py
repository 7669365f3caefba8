"""A River estimator as the learner of a workspace: it learns each sample's features once, in a fixed order.

It is no exact memory. What it knows depends on the order of the samples, later ones count more, and nothing can be
taken out of it. New samples are learned in the order of their ids; where one that it knows was withdrawn, relabelled
or forgotten, it begins again and learns all that remains in that order: a model that never saw the others.

Its state is a sealed pickle in the workspace's private folder; without it, it begins again.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn import faults
from everlearn.errors import BadConfig, Corrupt
from everlearn.learn import river, sealed
from everlearn.learn.exact.head import Head
from everlearn.learn.exact.target import RegressionTarget
from everlearn.learn.features import Features
from everlearn.learn.live import Moved, learnable
from everlearn.naming import is_class
from everlearn.types import SILENT
from everlearn.workspace import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from everlearn.learn.exact.head import Kind
    from everlearn.learn.extract import Basis
    from everlearn.types import Member, Progress, SampleId
    from everlearn.workspace import Workspace

RIVER = "river:"
KEEP_EVERY = 2000
"""Samples after which the state is kept, so that a kill costs no more than these."""
_ANSWERS = 1000  # in a digest
_SCALE = np.float32(1 / 127)


@dataclass(eq=False)
class StreamAnswers:
    """What answers: a River model and the order of its columns. target: for `regress`, and classes is then ()."""

    model: Any
    classes: tuple[str, ...]
    target: RegressionTarget | None = None

    @property
    def answers(self) -> tuple[str, ...]:
        """The names of `table`'s columns."""
        return self.classes

    def table(self, phi: NDArray[Any]) -> NDArray[np.floating]:
        """phi (N, D) int8 -> (N, C) probabilities, or (N, 1) values."""
        return self.probabilities(phi) if self.target is None else self.values(phi)[:, None]

    def probabilities(self, phi: NDArray[Any]) -> NDArray[np.float32]:
        """phi (N, D) int8 -> (N, C); every row sums to 1."""
        found = [river.shares(self.model, x, self.classes) for x in river.rows(phi * _SCALE)]
        return np.array(found, np.float32).reshape(-1, len(self.classes))

    def values(self, phi: NDArray[Any]) -> NDArray[np.float64]:
        """phi (N, D) int8 -> (N,) numbers within the target's range."""
        assert self.target is not None
        found = np.array([float(self.model.predict_one(x)) for x in river.rows(phi * _SCALE)])
        return np.clip(np.nan_to_num(found, nan=self.target.low), self.target.low, self.target.high)

    def head(self, dimensions: int) -> Head | None:
        """The same answers as one matrix, which any runtime can serve; None where there is none."""
        found = river.matrix(self.model, self.classes, dimensions)
        if found is None or not all(np.isfinite(part).all() for part in found):
            return None
        weights, bias = found[0] * float(_SCALE), found[1]
        if self.target is not None:  # a head's numbers are steps above the low end
            weights, bias = weights / self.target.step, (bias - self.target.low) / self.target.step
        kind: Kind = "linear" if self.target is None else "regress"
        return Head(kind, self.classes, weights.astype(np.float32), bias.astype(np.float32), target=self.target)

    def packed(self, workspace: Workspace) -> bytes:
        """For a file that this workspace alone can read back."""
        target = self.target and [self.target.low, self.target.high, self.target.step]
        return _packed(workspace, {"classes": self.classes, "target": target}, self.model)

    @classmethod
    def unpacked(cls, workspace: Workspace, data: bytes, name: str) -> StreamAnswers:
        """Raises Corrupt, before anything is unpickled, where it was not packed here; NotInstalled."""
        about, model = _unpacked(workspace, data, name)
        target = RegressionTarget(*about["target"]) if about["target"] else None
        return cls(model, tuple(about["classes"]), target)


class StreamLearner:
    """What has learned, and what it learned in which order. held: id to label."""

    def __init__(self, workspace: Workspace, basis: Basis, path: Path) -> None:
        """path: of the state. Raises BadConfig for a name that River does not have, NotInstalled."""
        self.workspace, self.basis = workspace, basis
        settings = workspace.config.learn
        self.name, target = settings.learner.removeprefix(RIVER), settings.target
        if settings.unknown is not None:
            raise BadConfig("learn.unknown needs the exact memory.", "Set learn.learner: exact, or leave it empty.")
        regression = workspace.config.task == "regress"
        self.target = RegressionTarget(target.low, target.high, target.step) if regression else None
        self.features = Features(workspace, basis)
        self.path = path
        self.blank = river.build(self.name, regression=regression)
        self.model: Any = self.blank.clone()
        self.held: dict[SampleId, str] = {}
        self.right, self.asked = 0, 0
        """Of the samples that it was asked for before it learned them, how many it knew."""
        self._load()

    @property
    def in_order(self) -> bool:
        """Whether it learned all in one pass in the order of ids, and so is a function of the samples alone."""
        return list(self.held) == sorted(self.held)

    @property
    def answers(self) -> StreamAnswers:
        classes = () if self.target else tuple(sorted(set(self.held.values())))
        return StreamAnswers(self.model, classes, self.target)

    def wanted(self, members: Iterable[Member]) -> dict[SampleId, str]:
        """What it learns of these."""
        return {id: label for id, (label, _) in learnable(members).items() if is_class(label)}

    def bring_to(self, members: Iterable[Member], progress: Progress) -> Moved:
        """Learn what of these is new; begin again where something that it knows is not among them as it was."""
        wanted = self.wanted(members)
        gone = sum(wanted.get(id) != label for id, label in self.held.items())
        if gone:
            progress.say(f"{gone} samples that it knows are gone or changed: river:{self.name} begins again.")
            self._begin()
        come = sorted(set(wanted) - set(self.held))
        since = 0
        for ids, phi in self.features.batches(come, progress):
            for id, x in zip(ids, river.rows(phi * _SCALE)):
                self._learn(x, wanted[id])
                self.held[id] = wanted[id]
            since += len(ids)
            if since >= KEEP_EVERY:
                self.save()
                since = 0
        return Moved(len(come), gone)

    def save(self) -> None:
        """Keep the state, whole or not at all."""
        faults.point("streaming.before_save")
        about = {**self._about(), "held": list(self.held.items()), "right": self.right, "asked": self.asked}
        write_whole(self.path, _packed(self.workspace, about, self.model))
        faults.point("streaming.saved")

    def digest(self) -> str:
        """Hex SHA-256 of what it learned and what it answers for about a thousand of them, evenly chosen."""
        total = hashlib.sha256(f"{RIVER}{self.name}|{self.basis.digest}|{self.answers.classes}".encode())
        own, answers = sorted(self.held), self.answers
        total.update(json.dumps([[id, self.held[id]] for id in own]).encode())
        for ids, phi in self.features.batches(own[:: max(1, len(own) // _ANSWERS)], SILENT):
            found = answers.values(phi) if self.target else answers.probabilities(phi)
            total.update("".join(ids).encode() + np.ascontiguousarray(found, "<f4").tobytes())
        return total.hexdigest()

    def again(self, progress: Progress) -> StreamLearner:
        """Another that learns what this one holds in one pass: for `verify`. Nothing is written."""
        other = object.__new__(StreamLearner)
        other.__dict__.update(self.__dict__)
        other._begin()
        for ids, phi in self.features.batches(sorted(self.held), progress):
            for id, x in zip(ids, river.rows(phi * _SCALE)):
                other._learn(x, self.held[id])
                other.held[id] = self.held[id]
        return other

    def _learn(self, x: dict[int, float], label: str) -> None:
        if self.target is not None:
            self.model.learn_one(x, float(label))
            return
        if self.held:
            self.asked += 1
            self.right += self.model.predict_one(x) == label
        self.model.learn_one(x, label)

    def _begin(self) -> None:
        self.model, self.held, self.right, self.asked = self.blank.clone(), {}, 0, 0

    def _about(self) -> dict[str, Any]:
        """What the state must be of."""
        return {"river": self.name, "basis": self.basis.digest, "task": self.workspace.config.task}

    def _load(self) -> None:
        """A state that is of something else, or damaged, is none."""
        try:
            about, model = _unpacked(self.workspace, self.path.read_bytes(), str(self.path))
        except (FileNotFoundError, Corrupt):
            return
        if {name: about.get(name) for name in self._about()} == self._about():
            self.model, self.held = model, dict(about["held"])
            self.right, self.asked = about["right"], about["asked"]


def readable(workspace: Workspace, path: Path) -> bool:
    """Whether the state, where there is one, is what was kept."""
    try:
        sealed.unseal(workspace, path.read_bytes(), str(path))
    except FileNotFoundError:
        return True
    except Corrupt:
        return False
    return True


def _packed(workspace: Workspace, about: dict[str, Any], model: Any) -> bytes:
    return sealed.seal(workspace, json.dumps(about).encode() + b"\n" + pickle.dumps(model))


def _unpacked(workspace: Workspace, data: bytes, name: str) -> tuple[dict[str, Any], Any]:
    about, _, pickled = sealed.unseal(workspace, data, name).partition(b"\n")
    river.needed()
    try:
        return json.loads(about), pickle.loads(pickled)  # noqa: S301 - it bears the workspace's own seal
    except Exception as error:  # written by another version of River
        said = " ".join(str(error).split())[:200]
        raise Corrupt(f"{name} cannot be read by this River: {said}", "Learn again: everlearn learn") from None

"""Rows in several exact memories, by what is known of them: each row is in one part, and moves when more is known.

A part is a name of several texts: the tasks that a row is labelled for (tasks.py), or its domain and whether it is
labelled (align.py). What each part holds is a pure function of the set of rows and of what was said of each, so all
parts together are too.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from everlearn.learn.estimators import saved
from everlearn.learn.estimators.encode import BadArray
from everlearn.learn.estimators.held import Batch, Key, shown
from everlearn.learn.estimators.learned import Learned
from everlearn.learn.exact import storage
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.memory import ExactMemory

Part = tuple[str, ...]
_ABOUT = "about"


class Mark(NamedTuple):
    """What is known of a row: the part it belongs to, and its label there."""

    part: Part
    label: str


Join = Callable[[Mark, Mark], Mark | None]
"""(what is held, what is said now) -> both, or None where they contradict each other."""


class Parted:
    """make: an empty state, for each part. join: only rows with ids can be joined; others are rows of their own."""

    def __init__(self, make: Callable[[], Learned], join: Join) -> None:
        self.make, self.join = make, join
        self.empty = make()
        self.parts: dict[Part, Learned] = {}

    def __iter__(self) -> Iterator[tuple[Part, Learned]]:
        """In the order of their names."""
        return iter(sorted(self.parts.items()))

    @property
    def samples(self) -> int:
        return sum(learned.memory.samples for learned in self.parts.values())

    # all that changes it is all or nothing

    def learn(self, rows: Batch, parts: Sequence[Part]) -> set[tuple[Mark | None, Mark]]:
        """rows.labels: each row's label in its part. Returns (mark before, mark now) of what changed."""
        return self._apply(rows, self._planned(rows, parts))

    def forget(self, rows: Batch, parts: Sequence[Part], stays: Sequence[Mark | None] | None = None) -> None:
        """stays: what is still known of each row; None: nothing. Raises BadArray naming the first not held."""
        wanted: Counter[tuple[Part, Key]] = Counter()
        for row, (part, key) in enumerate(zip(parts, rows.keys)):
            wanted[part, key] += 1
            held = self.parts[part].held if part in self.parts else None
            if held is None or wanted[part, key] > held.times(key):
                what = f"id {shown(key)}" if rows.by_id else "this row with this label"
                raise BadArray(f"row {row}: {what} is not held.", "Give only rows as they were learned.")
            if rows.by_id and not held.is_same(rows, row):
                raise BadArray(f"row {row}: id {shown(key)} is held with other content.", "Give the row as learned.")
        was = [Mark(part, label) for part, label in zip(parts, rows.labels)]
        self._apply(rows, list(zip(was, stays or [None] * len(was))))

    def find(self, ids: Iterable[str]) -> tuple[Batch, list[Part]]:
        """The rows of these ids. Raises BadArray naming the first that is not held or whose features were not kept."""
        found, parts, seen = [], [], set[str]()
        for row, id in enumerate(ids):
            part = next((name for name, learned in self.parts.items() if learned.held.has(id)), None)
            if part is None or id in seen:
                raise BadArray(f"row {row}: id {id!r} is not held.", "Give each id that was learned once.")
            found.append(self.parts[part].held.find([id]))
            parts.append(part)
            seen.add(id)
        return _together(found, self.empty), parts

    def merge(self, other: Parted) -> None:
        """What the two know of one id is joined. Raises BadArray where it contradicts, or features were not kept."""
        if other is self:
            other = copy.deepcopy(self)
        mine = {key for learned in self.parts.values() for key in learned.held.slots if key[:1] == b"i"}
        both = [key[1:].decode("utf-8", "surrogatepass")
                for _, learned in other for key in learned.held.keys if key in mine]  # fmt: skip
        self.empty.memory.merge(other.empty.memory)  # raises where the two do not match
        plan: list[tuple[Mark | None, Mark | None]] = []
        rows, _ = other.find(())
        if both:
            other = copy.deepcopy(other)
            rows, parts = other.find(sorted(both))
            plan = self._planned(rows, parts)
            other.forget(rows, parts)
        for part, learned in other:
            self._at(part).merge(learned)
        self._apply(rows, plan)

    def _planned(self, rows: Batch, parts: Sequence[Part]) -> list[tuple[Mark | None, Mark | None]]:
        """(mark before, mark after) of each row. Raises BadArray."""
        if not rows.by_id:
            return [(None, Mark(part, label)) for part, label in zip(parts, rows.labels)]
        plan: list[tuple[Mark | None, Mark | None]] = []
        first: dict[Key, int] = {}  # the row of this batch that stands for the id
        for row, (key, mark) in enumerate(zip(rows.keys, map(Mark, parts, rows.labels))):
            twin = first.setdefault(key, row)
            was = plan[twin][0] if twin != row else self._mark(key)
            known = plan[twin][1] if twin != row else was
            now = mark if known is None else self.join(known, mark)
            same = twin == row or ((rows.phi[twin] == rows.phi[row]).all() and rows.folds[twin] == rows.folds[row])
            if was is not None and same:
                same = self.parts[was.part].held.is_same(rows, row, was.label)
            if now is None or not same:
                raise BadArray(f"row {row}: id {shown(key)} is held with other content.", "Forget it first.")
            plan.append((was, now))
            plan[twin] = (was, now)
            if twin != row:
                plan[row] = (now, now)
        return plan

    def _apply(self, rows: Batch, plan: Sequence[tuple[Mark | None, Mark | None]]) -> set[tuple[Mark | None, Mark]]:
        """Move rows from mark to mark."""
        for side, act in ((0, Learned.forget), (1, Learned.learn)):
            of: dict[Part, list[int]] = defaultdict(list)
            for row, move in enumerate(plan):
                mark = move[side]
                if mark is not None and move[0] != move[1]:
                    of[mark.part].append(row)
            labels = [move[side].label if move[side] else "" for move in plan]  # type: ignore[union-attr]
            for part, found in sorted(of.items()):
                act(self._at(part), _relabelled(rows, labels).take(found))
        for part in [part for part, learned in self.parts.items() if not learned.memory.samples]:
            del self.parts[part]
        return {(was, now) for was, now in plan if now is not None and was != now}

    def _at(self, part: Part) -> Learned:
        if part not in self.parts:
            self.parts[part] = self.make()
        return self.parts[part]

    def _mark(self, key: Key) -> Mark | None:
        for part, learned in self.parts.items():
            if key in learned.held.slots:
                return Mark(part, learned.held.label(key))
        return None

    # what it knows

    def cached(self, label: Callable[[Part], Callable[[str], str] | None]) -> Cached:
        """The rows whose features are kept, of the parts for which there is a naming of their labels."""
        ids, phi, labels, folds = list[str](), [self.empty.held.phi], list[str](), [np.zeros(0, np.int64)]
        for part, learned in self:
            naming = label(part)
            if naming is not None:
                found, about = learned.held.cached(), json.dumps(part)
                names = {name: naming(name) for name in set(found.labels)}
                ids += [f"{about}|{id}" for id in found.ids]
                labels += [names[name] for name in found.labels]
                phi.append(found.phi)
                folds.append(np.asarray(found.folds, np.int64))
        return Cached(ids, np.concatenate(phi), labels, np.concatenate(folds))

    def digest(self) -> str:
        """Hex SHA-256 over the basis, and over the names and the digests of all parts in order."""
        about = [["everlearn parts 1", self.empty.memory.basis_digest, self.empty.memory.folds]]
        about += [[list(part), learned.memory.digest()] for part, learned in self]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()

    # files

    def save(self, path: Path, name: str, params: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """One file: each part as an estimator is saved. Raises StoreFault."""
        header = {"estimator": name, "params": saved.plain(params), "about": about}
        with saved.packing(path) as folder:
            storage.write(folder / _ABOUT, header | {"parts": [list(part) for part, _ in self]}, [])
            for number, (_, learned) in enumerate(self):
                saved.save(folder / f"part {number}", name, params, about, learned)

    @staticmethod
    def load(
        path: Path, name: str, make: Callable[[dict[str, Any], int], Parted]
    ) -> tuple[dict[str, Any], dict[str, Any], Parted]:
        """(settings, what else there is to know, the parts). Raises Missing and Corrupt as `saved.load` does."""
        with saved.unpacking(path, name) as take:
            with storage.read(take(_ABOUT)) as file:
                header = file.header
                if header["estimator"] != name:
                    raise file.corrupt()
            parted = make(header["params"], header["about"]["inputs"])
            for number, part in enumerate(header["parts"]):
                _, _, learned = saved.load(take(f"part {number}"), name, lambda *_: parted.make())
                parted.parts[tuple(part)] = learned
        return header["params"], header["about"], parted


def part_of(id: str) -> Part:
    """The part of a row of `Parted.cached`, by its id there."""
    return tuple(json.JSONDecoder().raw_decode(id)[0])


def renamed(memory: ExactMemory, naming: Callable[[str], str]) -> ExactMemory:
    """The memory with its classes under other names, those of one name together. It shares G: to be read only."""
    view = ExactMemory(memory.basis_digest, memory.dimensions, memory.folds)
    for old, total in memory.sums.items():
        name = naming(old)
        view.sums[name] = view.sums.get(name, 0) + total.astype(np.int64)
        view.counts[name] = view.counts.get(name, 0) + memory.counts[old]
    view.gram = memory.gram
    return view


def _relabelled(rows: Batch, labels: list[str]) -> Batch:
    """The same rows with other labels; a row without an id is known by its label too."""
    if rows.by_id or labels == list(rows.labels):
        return replace(rows, labels=labels)
    contents = replace(rows, labels=labels, by_id=True).contents
    return replace(rows, labels=labels, keys=[b"r" + content for content in contents])


def _together(batches: Sequence[Batch], empty: Learned) -> Batch:
    """One batch of several, all by id."""
    phi = np.concatenate([empty.held.phi, *(batch.phi for batch in batches)])
    folds = np.concatenate([np.zeros(0, np.int64), *(batch.folds for batch in batches)])
    labels = [label for batch in batches for label in batch.labels]
    return Batch(phi, labels, folds, [key for batch in batches for key in batch.keys], True)

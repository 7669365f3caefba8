"""What a search may change in a recipe, and between which values.

    learning_rate=0.001..0.1:log          drawn evenly in its logarithm
    stages.*.optimizer.weight_decay=0..0.1
    epochs=10..200                        whole numbers
    augmentation.rotation=0..30:5         in steps of 5
    batch_size=16,32,64,128               one of these
    network=["cnn:depth=2,width=8", "cnn:depth=3,width=16"]

A field is one of the recipe's (`size`, `stages.baseline.epochs`, `stages.*.dropout`), or one of a stage
(`batch_size`, `loss.label_smoothing`), then of every stage, or of the one that is searched. `learning_rate` and
`epochs` of a whole recipe are those of its first stage; the others keep their relation to it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import yaml

from everlearn.errors import BadConfig
from everlearn.learn.network import recipe as recipes
from everlearn.learn.network.recipe import Recipe, Stage

DEFAULT = ("learning_rate=0.001..0.1:log", "batch_size=16,32,64,128", "epochs=10..200:log")
SHORT = {"learning_rate": "optimizer.learning_rate"}
RELATED = ("learning_rate", "optimizer.learning_rate", "epochs")
"""Of a whole recipe these are scaled, not set: a stage of small steps stays one."""
POINTS = 5
"""Of a range on a grid."""

Value = Any
"""What a field can hold: a number, text, True, False or None."""


@dataclass(frozen=True)
class Dimension:
    """One field and its values: a range (low, high), or `choices`. step: between values of a range; 0: any between.

    whole: whole numbers only. ordered: choices are numbers, the lower first, which a search can make use of.
    """

    field: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float = 0.0
    whole: bool = False
    choices: tuple[Value, ...] = ()

    @property
    def ordered(self) -> bool:
        return bool(self.choices) and all(_number(one) for one in self.choices)

    def holds(self, value: Value) -> bool:
        if self.choices:
            return value in self.choices
        return _number(value) and self.low <= value <= self.high and (not self.step or not self._rest(value))

    def _rest(self, value: float) -> bool:
        steps = (value - self.low) / self.step
        return abs(steps - round(steps)) > 1e-6

    def inside(self, value: Value) -> Value:
        """As a sampler has it: of ordered choices the place."""
        return self.choices.index(value) if self.ordered else value

    def outside(self, value: Value) -> Value:
        return self.choices[int(value)] if self.ordered else value

    def grid(self) -> list[Value]:
        """All choices; of a range every step where there are few, else some points at even distances."""
        if self.choices:
            return list(self.choices)
        if self.step and (self.high - self.low) / self.step < 2 * POINTS:
            steps = math.floor((self.high - self.low) / self.step + 1e-9)
            return [self._as_held(self.low + at * self.step) for at in range(steps + 1)]
        parts = [at / (POINTS - 1) for at in range(POINTS)]
        if self.log:
            found = [self.low * (self.high / self.low) ** part for part in parts]
        else:
            found = [self.low + (self.high - self.low) * part for part in parts]
        if self.step:
            found = [self.low + round((one - self.low) / self.step) * self.step for one in found]
        return list(dict.fromkeys(self._as_held(one) for one in found))

    def _as_held(self, value: float) -> Value:
        return round(value) if self.whole else float(f"{min(max(value, self.low), self.high):.6g}")

    def __str__(self) -> str:
        if self.choices:
            return ",".join(str(one) for one in self.choices)
        return f"{self.low:g}..{self.high:g}" + (":log" if self.log else f":{self.step:g}" if self.step else "")


class Searched(Protocol):
    """What a search needs of a space: its dimensions; the values to begin with; every combination; and its text."""

    @property
    def dimensions(self) -> tuple[Dimension, ...]: ...
    def to_json(self) -> dict[str, str]: ...
    def own(self) -> dict[str, Value]: ...
    def grid(self) -> Iterator[dict[str, Value]]: ...
    def __len__(self) -> int: ...


def combinations(dimensions: Sequence[Dimension]) -> Iterator[dict[str, Value]]:
    """Every point of the grid."""
    names = [one.field for one in dimensions]
    for values in product(*(one.grid() for one in dimensions)):
        yield dict(zip(names, values, strict=True))


@dataclass(frozen=True)
class Space:
    """All dimensions of a search over `recipe`. stage: the one that is searched; None: the whole recipe."""

    recipe: Recipe
    dimensions: tuple[Dimension, ...]
    stage: str | None = None

    def to_json(self) -> dict[str, str]:
        return {one.field: str(one) for one in self.dimensions}

    def applied(self, values: Mapping[str, Value]) -> Recipe:
        """The recipe with these values. Raises BadConfig where they cannot be together."""
        changes = [line for field, value in values.items() for line in self._changes(field, value)]
        return recipes.changed(self.recipe, changes)

    def own(self) -> dict[str, Value]:
        """The recipe's own values where they lie in the space: a search begins there."""
        found = {one.field: _current(self.recipe, self._path(one.field)) for one in self.dimensions}
        return {one.field: found[one.field] for one in self.dimensions if one.holds(found[one.field])}

    def grid(self) -> Iterator[dict[str, Value]]:
        """Every combination."""
        return combinations(self.dimensions)

    def __len__(self) -> int:
        """Points of the grid."""
        return math.prod(len(one.grid()) for one in self.dimensions)

    def _path(self, field: str) -> str:
        """The field as the recipe has it. Of a related one: that of the first stage."""
        if not _of_a_stage(field):
            return field
        inside = SHORT.get(field, field)
        if self.stage is not None:
            return f"stages.{self.stage}.{inside}"
        return f"stages.{0 if field in RELATED else '*'}.{inside}"

    def _changes(self, field: str, value: Value) -> list[str]:
        path = self._path(field)
        if self.stage is not None or not _of_a_stage(field) or field not in RELATED:
            return [f"{path}={json.dumps(value)}"]
        inside = SHORT.get(field, field)
        own = [_current(self.recipe, f"stages.{number}.{inside}") for number in range(len(self.recipe.stages))]
        if not _number(value):
            raise BadConfig(f"{field} is {value!r} in the space.", f"Write numbers: {field}=1..4, or {field}=1,2,4.")
        scaled = [value * one / own[0] for one in own]
        if inside == "epochs":
            scaled = [round(one) if place == 0 else max(1, round(one)) for place, one in enumerate(scaled)]
        return [f"stages.{number}.{inside}={json.dumps(one)}" for number, one in enumerate(scaled)]


def space(recipe: Recipe, written: Sequence[str] = DEFAULT, stage: str | None = None) -> Space:
    """A space from its text, each bound tried on the recipe. Raises BadConfig for what a recipe cannot hold."""
    empty = Space(recipe, (), stage)
    if stage is not None and stage not in [one.name for one in recipe.stages]:
        names = ", ".join(one.name for one in recipe.stages)
        raise BadConfig(f"Recipe {recipe.name} has no stage {stage}.", f"There: {names}.")
    found = [_checked(parsed(line), empty) for line in written]
    paths = [empty._path(one.field) for one in found]
    for path in paths:
        if paths.count(path) > 1:
            raise BadConfig(f"Two dimensions of the space are {path}.", "Name each field once.")
    return Space(recipe, tuple(found), stage)


def _of_a_stage(field: str) -> bool:
    first = field.partition(".")[0]
    return first in SHORT or (first in Stage.model_fields and first not in Recipe.model_fields)


def parsed(line: str) -> Dimension:
    """One line of a space. Raises BadConfig."""
    field, equals, text = (part.strip() for part in line.partition("="))
    remedy = "Write FIELD=LOW..HIGH, FIELD=LOW..HIGH:log, FIELD=LOW..HIGH:STEP or FIELD=a,b,c."
    if not equals or not field or not text:
        raise BadConfig(f"{line!r} is no dimension of a space.", remedy)
    if text.startswith("["):
        try:
            listed = yaml.safe_load(text)
        except yaml.YAMLError:
            listed = None
        if not isinstance(listed, list) or not all(isinstance(one, str | int | float | None) for one in listed):
            raise BadConfig(f"{text!r} is no list of values.", remedy)
        return Dimension(field, choices=_different(listed, line))
    low, dots, rest = text.partition("..")
    if not dots:
        return Dimension(field, choices=_different([yaml.safe_load(one.strip()) for one in text.split(",")], line))
    high, _, how = rest.partition(":")
    how = how.removeprefix("step=")
    try:
        ends, step = (float(low), float(high)), float(how) if how not in ("", "log") else 0.0
    except ValueError:
        raise BadConfig(f"{line!r} is no range of numbers.", remedy) from None
    if not (math.isfinite(ends[0]) and ends[0] < ends[1] < math.inf) or not 0 <= step <= ends[1] - ends[0]:
        raise BadConfig(f"{line!r} is an empty range.", "The first number must be the lower, a step fit between them.")
    if how == "log" and ends[0] <= 0:
        raise BadConfig(f"{line!r}: there is no logarithm of {ends[0]:g}.", "Begin above 0, or leave :log out.")
    return Dimension(field, *ends, log=how == "log", step=step)


def _different(values: list[Value], line: str) -> tuple[Value, ...]:
    """As numbers where they are all numbers, the lower first: YAML reads 1e-3 as text."""
    with_numbers = [_as_number(one) for one in values]
    if all(_number(one) for one in with_numbers):
        values = sorted(with_numbers)
    found = tuple(dict.fromkeys(values))
    if len(found) < 2:
        raise BadConfig(f"{line!r} leaves no choice.", "Give two different values or more.")
    return found


def _as_number(value: Value) -> Value:
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _checked(one: Dimension, empty: Space) -> Dimension:
    """Tried on the recipe, which says whether the field holds whole numbers."""
    ends = one.choices or (one.low, one.high)
    found = []
    for value in ends:
        whole = round(value) if _number(value) and float(value).is_integer() else value
        changed = empty.applied({one.field: whole})
        found.append(_current(changed, empty._path(one.field)))
    if one.choices:
        return Dimension(one.field, choices=tuple(found))
    if not all(_number(value) for value in found):
        raise BadConfig(f"{one.field} is no number, so it has no range.", f"List its values: {one.field}=a,b,c.")
    if not all(isinstance(value, int) for value in found):
        return one
    if one.step and not one.step.is_integer():
        raise BadConfig(f"{one.field} is a whole number, and {one.step:g} no step of one.", "Give a whole step.")
    return Dimension(one.field, one.low, one.high, one.log, 0.0 if one.log else max(1.0, one.step), whole=True)


def _current(recipe: Recipe, path: str) -> Value:
    """What a recipe has there; None where several stages differ."""
    found: list[Any] = [json.loads(recipe.model_dump_json())]
    for part in path.split("."):
        places = [one for place in found for one in _inside(place, part)]
        found = places
    return found[0] if found and all(one == found[0] for one in found) else None


def _inside(values: Any, part: str) -> list[Any]:
    if isinstance(values, list):
        return [one for at, one in enumerate(values) if part in ("*", str(at), one.get("name"))]
    return [values[part]] if isinstance(values, dict) and part in values else []


def _number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

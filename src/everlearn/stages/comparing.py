"""Comparing models on the same test images, and saying what else differs between them: a comparison speaks of one
variable only where one was changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from everlearn.catalog import runs, snapshots
from everlearn.errors import BadInput, Missing
from everlearn.evaluate.changes import Change, changes, told
from everlearn.evaluate.several import Several, several
from everlearn.stages import prove
from everlearn.stages.answering import answerer, named

if TYPE_CHECKING:
    from everlearn.evaluate.compare import Comparison
    from everlearn.stages.answering import Named
    from everlearn.types import Progress
    from everlearn.workspace import Workspace

SHORT = 12
"""Digits of a digest that tell data apart."""


@dataclass(frozen=True)
class Compared:
    """Two models. changed: what differs between their configurations, None where one of them has none on record."""

    found: Comparison
    changed: tuple[Change, ...] | None

    def to_json(self) -> dict[str, Any]:
        changed = None if self.changed is None else [one.to_json() for one in self.changed]
        return {**self.found.to_json(), "changed": changed}

    @property
    def told(self) -> str:
        if self.changed is None:
            return "It is not on record how one of them was made: what was changed cannot be said."
        return told(self.changed)


def compare(workspace: Workspace, a: str, b: str, progress: Progress) -> Compared:
    """Paired comparison of two models on the newest test side; b would replace a."""
    first, second = _named(workspace, a), _named(workspace, b)
    tested, paired = _ways(workspace, progress)
    before, after = tested(first), tested(second)
    return Compared(paired(before, after), _changed(workspace, first, second))


def compare_all(
    workspace: Workspace, baseline: str, models: list[str], progress: Progress
) -> tuple[Several, dict[str, tuple[Change, ...] | None]]:
    """Each of several models against one baseline, with Holm's correction; and what was changed in each of them. Raises
    BadInput where one is named twice."""
    names = [baseline, *models]
    if twice := {name for name in names if names.count(name) > 1}:
        raise BadInput(f"{', '.join(sorted(twice))} is named twice.", "Name each model once.")
    first = _named(workspace, baseline)
    tested, paired = _ways(workspace, progress)
    before = tested(first)
    ways, changed = {}, {}
    for name in models:
        one = _named(workspace, name)
        after = tested(one)
        ways[name] = partial(_at, paired, before, after)
        changed[name] = _changed(workspace, first, one)
    return several(baseline, ways, workspace.config.gates.alpha), changed


def _ways(workspace: Workspace, progress: Progress) -> tuple[Callable[[Named], Any], Callable[..., Comparison]]:
    """How a model is tested on the newest test side, and how two that were tested are compared, by the task."""
    _, members = prove.sides(workspace)
    if workspace.config.task != "detect":
        return (
            lambda one: prove.tested(workspace, answerer(workspace, one), members, progress),
            lambda before, after, alpha=None: prove.paired(workspace, before, after, 1, alpha),
        )
    from everlearn.stages.detecting import answering, sides
    from everlearn.stages.detecting import prove as detecting

    test = sides.labelled(workspace, members)

    def tested(one: Named) -> Any:
        version = one.version if one.file is None else None
        return detecting.tested(workspace, answering.detector_of(workspace, one), test, progress, version)

    return tested, lambda before, after, alpha=None: detecting.compared(workspace, before, after, 1, alpha)


def _at(paired: Callable[..., Comparison], before: Any, after: Any, alpha: float) -> Comparison:
    return paired(before, after, alpha)


def _named(workspace: Workspace, model: str) -> Named:
    """A model, also by the name of the run that made it."""
    with workspace.catalog.read() as tx:
        try:
            made = runs.get(tx, model).version
        except Missing:
            made = None
    return named(workspace, made or model)


def _changed(workspace: Workspace, a: Named, b: Named) -> tuple[Change, ...] | None:
    pair = [_configuration(workspace, one) for one in (a, b)]
    before, after = pair
    if before is None or after is None:
        return None
    if ("run" in before) != ("run" in after):  # made in two ways: the workspace's settings are what both have
        before, after = ({name: value for name, value in one.items() if name != "run"} for one in pair if one)
    elif "run" in before:
        before, after = ({"learner": one["learner"], "data": one["data"], **one["run"]} for one in pair if one)
    return changes(before, after)


def _configuration(workspace: Workspace, one: Named) -> Mapping[str, Any] | None:
    """What decided a version: its learner, its data, the settings, and those of the run that it came of."""
    if one.file is not None:
        return None
    version = one.version
    with workspace.catalog.read() as tx:
        data = snapshots.get(tx, version.snapshot).digest[:SHORT] if version.snapshot is not None else None
        made = [run for run in runs.every(tx) if run.version == version.name]
    found: dict[str, Any] = {
        **version.config, "learner": version.learner, "backbone": version.backbone, "data": data
    }  # fmt: skip
    if made:
        found["run"] = {name: value for name, value in made[-1].config.items() if not derived(name)}
    return found


def derived(name: str) -> bool:
    """Whether a run's configuration has this only to tell what followed from it."""
    return name in ("name", "description", "facts", "fingerprint", "changes") or name.startswith("facts.")

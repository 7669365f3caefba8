"""What people say: a label by hand, taking it back, letting a refused image out, answering the queue.

Nobody waits for a training to say a word: see `files.beside`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from everlearn.catalog import labels, leases, samples, scenes
from everlearn.catalog.tables import who as this_person
from everlearn.errors import BadInput
from everlearn.files import beside

if TYPE_CHECKING:
    from everlearn.catalog.leases import Lease
    from everlearn.catalog.samples import Sample
    from everlearn.types import SampleId, Scene
    from everlearn.workspace import Workspace


def say(workspace: Workspace, id: str, label: str, who: str | None = None) -> SampleId:
    """A person's label for one sample; it holds over every other word. Raises BadInput, Missing."""
    text = labels.cleaned(label, workspace.config)
    with beside(workspace) as changed:
        one = _original(samples.get(changed.tx, id))
        labels.say(changed.tx, [labels.Said(one.id, text, "person", who or this_person())])
        changed.refile([one.id])
    return one.id


def draw(workspace: Workspace, id: str, scene: Scene, who: str | None = None) -> SampleId:
    """A person's boxes for one sample, and the classes that were looked for; they hold over every other word. Raises
    BadInput, Missing."""
    if workspace.config.task != "detect":
        raise BadInput(f"Boxes are for task detect; this workspace is for {workspace.config.task}.", "Give a label.")
    with beside(workspace) as changed:
        one = _original(samples.get(changed.tx, id))
        (label,) = scenes.keep(changed.tx, [scene])
        labels.say(changed.tx, [labels.Said(one.id, label, "person", who or this_person())])
        changed.refile([one.id])
    return one.id


def deny(workspace: Workspace, id: str, label: str, who: str | None = None) -> SampleId:
    """A person says what one sample is not: it is learned as a negative, unless it is known to be something else.
    Raises BadInput, Missing."""
    text = labels.denying(label, workspace.config)
    with beside(workspace) as changed:
        one = _original(samples.get(changed.tx, id))
        labels.say(changed.tx, [labels.Said(one.id, text, "person", who or this_person())])
        changed.refile([one.id])
    return one.id


def undo(workspace: Workspace, id: str) -> str | None:
    """Take back the last word on a sample; returns the label that holds now. Raises BadInput, Missing."""
    with beside(workspace) as changed:
        one = _original(samples.get(changed.tx, id))
        label = labels.undo(changed.tx, one.id)
        changed.refile([one.id])
    return label


def ask_again(workspace: Workspace, id: str, who: str) -> Lease:
    """Take back this person's own last word on a sample; it is in the queue again, and before them. Raises BadInput,
    Missing."""
    with beside(workspace) as changed:
        one = _original(samples.get(changed.tx, id))
        said = labels.events(changed.tx, [one.id])
        if not said or said[-1].by != "person" or said[-1].who != who:
            raise BadInput(f"The last word on sample {one.id} is not yours.", "See: everlearn label --history ID")
        lease = leases.claim(changed.tx, one.id, who)
        if lease is None:
            raise BadInput(f"Somebody else looks at sample {one.id} now.", "See: everlearn label --undo ID")
        labels.undo(changed.tx, one.id)
        back = {"id": one.id, "queued": True, "queue_reason": labels.UNDONE, "urgency": 2.5}
        samples.change(changed.tx, [back])
        samples.restate(changed.tx, [one.id])
        changed.refile([one.id])
    return lease


def release(workspace: Workspace, ids: Sequence[str]) -> list[SampleId]:
    """Let samples out of quarantine; validation will not refuse them again. Raises BadInput where one is not in it,
    or where its file cannot be decoded at all."""
    with beside(workspace) as changed:
        found = [samples.get(changed.tx, id) for id in ids]
        for one in found:
            if one.status != "quarantined":
                raise BadInput(f"Sample {one.id} is {one.status}, not quarantined.", "See: everlearn data")
            if one.quality is None:
                raise BadInput(f"Sample {one.id} cannot be decoded ({one.refusal}).", "Collect a whole copy of it.")
        rows = [{"id": one.id, "refusal": None, "twin_of": None, "released": True} for one in found]
        samples.change(changed.tx, rows)
        labels.settle(changed.tx, [one.id for one in found])
        changed.refile([one.id for one in found])
    return [one.id for one in found]


def waiting(workspace: Workspace, limit: int) -> list[Sample]:
    """The review queue, most informative first."""
    with workspace.catalog.read() as tx:
        return samples.queue(tx, limit)


def _original(one: Sample) -> Sample:
    if one.parent_id is not None:
        raise BadInput(f"{one.id} was augmented from {one.parent_id}.", "Label its parent; it follows.")
    return one

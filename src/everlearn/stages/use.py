"""A model in use: answers, what people say of them, where it is deployed, and whether the world has drifted from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn import image, registry
from everlearn.catalog import answers, labels, samples, turns, versions
from everlearn.catalog.samples import Sample
from everlearn.catalog.tables import now
from everlearn.deploy import deploy as copy_to
from everlearn.errors import BadInput, Missing
from everlearn.files import change, new_keys
from everlearn.naming import is_class
from everlearn.stages import answering, learners, prove, reporting
from everlearn.stages.detecting import feedback as boxes
from everlearn.types import SILENT

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.deploy.copy import Deployed
    from everlearn.types import SampleId
    from everlearn.workspace import Workspace

DRIFT_ANSWERS = 200
"""Recorded answers that are compared with the test side's."""
DRIFT_P = 0.001


def feedback(workspace: Workspace, id: str, *, right: bool, label: str | None) -> tuple[SampleId, bool]:
    """What a person says of a recorded answer becomes a sample; a mistake becomes a regression case, and is none any
    more where the answer turns out right. Of what is only known to be wrong a negative is learned, until a person says
    what it is. Returns the sample and whether it is a case. Raises Missing, BadInput."""
    with change(workspace) as changed:
        tx = changed.tx
        answer = answers.get(tx, id)
        sample = answer["content"]
        known = bool(samples.known(tx, [sample]))
        if answer["key"] is None and not known:
            raise Missing(f"The image of answer {id} was forgotten.", "It cannot become a sample.")
        said, truth = _heard(workspace, tx, answer, right=right, label=label)
        mistake = _is_mistake(workspace, said, truth)
        if not known:
            _adopt(workspace, changed, answer)
        if truth is not None:
            labels.say(tx, [labels.Said(sample, truth, "feedback")])
        else:
            if workspace.config.task == "detect":
                boxes.propose(tx, sample, answer)
            elif workspace.config.task == "classify" and is_class(said, workspace.config.learn.unknown is not None):
                labels.say(tx, [labels.Said(sample, labels.denying(said, workspace.config), "feedback")])
            samples.change(tx, [{"id": sample, "queued": True, "queue_reason": labels.REPORTED, "urgency": 3.0}])
        answers.withdraw(tx, sample)
        if mistake:
            answers.report(tx, sample, wrong=said, right=truth, version=answer["version"])
        answers.change(tx, id, feedback="right" if right else "wrong" if label is None else "label", key=None)
        samples.restate(tx, [sample])
        changed.refile([sample])
        if answer["key"]:
            changed.discard([answer["key"]])
    return sample, mistake


def _heard(
    workspace: Workspace, tx: Any, answer: dict[str, Any], *, right: bool, label: str | None
) -> tuple[str, str | None]:  # fmt: skip
    """What was answered, and what is true, as labels; the second None where only the first is known to be wrong."""
    if workspace.config.task == "detect":
        return boxes.heard(workspace, tx, answer, right=right, label=label)
    said = answer["label"] if answer["value"] is None else labels.cleaned(str(answer["value"]), workspace.config)
    return said, said if right else None if label is None else labels.cleaned(label, workspace.config)


def _is_mistake(workspace: Workspace, said: str, truth: str | None) -> bool:
    """truth: None where it is only known that what was said is wrong."""
    if truth is None or workspace.config.task != "regress":
        return truth != said
    return not prove.close_enough(workspace, float(said), float(truth))


def _adopt(workspace: Workspace, changed: Any, answer: dict[str, Any]) -> None:
    """Make a sample of a recorded answer's image."""
    with workspace.store.open(answer["key"]) as file:
        data = file.read()
    is_row = answer["key"].endswith(".npy")
    when, _ = (None, None) if is_row else image.stamp(data)
    one = Sample(
        id=answer["content"], kind="row" if is_row else "image", key=answer["key"], bytes=len(data),
        source="feedback", captured_at=when or answer["at"], time_from="exif" if when else "file",
        camera=answer["camera"], group_key=answer["content"], collected_at=now(),
    )  # fmt: skip
    key = new_keys(changed.tx, [one])[one.id]
    workspace.store.copy(answer["key"], key)
    values = {slot: getattr(one, slot) for slot in one.__slots__} | {"key": key}
    samples.add(changed.tx, [Sample(**values)])


def deploy(workspace: Workspace, model: str | None, to: str | None) -> Deployed:
    """Copy a model to where programs look for it; by default where it was last."""
    version = answering.registered(workspace, model)
    card = registry.card(workspace, version)
    if card.get("answers") == learners.INSIDE:
        remedy = "Answer there (everlearn predict), or learn with one that becomes one graph, such as exact."
        raise BadInput(f"{version.name} ({version.learner}) answers {learners.INSIDE}.", remedy)
    if to is None:
        with workspace.catalog.read() as tx:
            past = versions.deployments(tx)
        if not past:
            raise BadInput("No model was deployed yet, so there is no last place.", "Say --to DIR or --to s3://…")
        to = past[-1]["path"].rpartition("/")[0]
    elif "://" not in to:
        to = str(Path(to).expanduser().absolute())  # the next `deploy` may be called from another folder
    return copy_to(workspace, version, to, card | {"evaluation": _newest(workspace, version)})


def _newest(workspace: Workspace, version: Version) -> dict[str, Any] | None:
    """What a version's newest evaluation found, in short."""
    with workspace.catalog.read() as tx:
        done = versions.evaluations(tx, version.name)
    if not done:
        return None
    names = ("images", *reporting.FIGURES, "forgetting", "gates", "decision")
    return {"at": done[-1]["at"], **{name: done[-1]["result"].get(name) for name in names}}


def drifted(workspace: Workspace) -> str | None:
    """Whether recorded answers are less sure than the model's answers on its test side were: a two-sample
    Kolmogorov-Smirnov test of the confidences. None where there are too few, or some of these answers were looked at
    before: looking again at every new answer would find drift by chance before long."""
    from scipy.stats import ks_2samp

    with workspace.catalog.read() as tx:
        champion = versions.champion(tx)
        if champion is None or workspace.config.task != "classify":
            return None
        recent = answers.recent(tx, DRIFT_ANSWERS, champion.name)
        looked_at = turns.setting_of(tx, "drift_looked_at")
    if len(recent) < DRIFT_ANSWERS or looked_at in {one["id"] for one in recent}:
        return None
    members = prove.test_side(workspace)
    table = answering.answerer(workspace, champion).table([one.id for one in members], SILENT)
    expected, seen = np.asarray(table.max(axis=1)), [one["confidence"] for one in recent]
    found = ks_2samp(seen, expected, alternative="greater")
    with workspace.catalog.write() as tx:
        turns.set_to(tx, "drift_looked_at", recent[0]["id"])
    return f"recorded answers have drifted (p = {found.pvalue:.2g})" if found.pvalue < DRIFT_P else None

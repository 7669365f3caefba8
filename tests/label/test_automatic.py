"""Automatic labels: above the threshold by the model, the rest to a person, the least certain first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from everlearn.catalog import labels, samples
from everlearn.config import Config
from everlearn.image import encode_png
from everlearn.label.automatic import Sure, automatic
from everlearn.label.person import say, undo, waiting
from everlearn.types import Prediction
from everlearn.workspace import Workspace
from tests.make import Quiet, add_image, picture


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace.create(tmp_path / "workspace", Config())
    for n in range(6):
        add_image(made, encode_png(picture(n)), None)
    return made


def _ids(workspace: Workspace) -> list[str]:
    with workspace.catalog.read() as tx:
        return sorted(one.id for batch in samples.batches(tx) for one in batch)


def _model(workspace: Workspace, sure: Sequence[float], threshold: float | None = 0.9) -> Sure:
    confidence = dict(zip(_ids(workspace), sure, strict=True))

    def predict(ids: Sequence[str]) -> list[Prediction]:
        return [Prediction("a", confidence[id], {"a": confidence[id], "b": 1 - confidence[id]}) for id in ids]

    return Sure(predict, threshold, "v1.0")


def test_sure_answers_label_and_the_rest_waits_least_certain_first(workspace: Workspace) -> None:
    ids = _ids(workspace)
    done = automatic(workspace, _model(workspace, [0.95, 0.9, 0.89, 0.5, 0.7, 0.99]), Quiet())
    assert (done.labelled, done.queued, done.share) == (3, 3, 0.5)
    assert [one.id for one in waiting(workspace, 10)] == [ids[3], ids[4], ids[2]]
    assert len(waiting(workspace, 2)) == 2
    with workspace.catalog.read() as tx:
        (event,) = labels.history(tx, ids[0])
    assert (event["by"], event["label"], event["confidence"], event["version"]) == ("auto", "a", 0.95, "v1.0")


@pytest.mark.parametrize("threshold", [None, 1.1])
def test_without_a_threshold_nothing_is_labelled(workspace: Workspace, threshold: float | None) -> None:
    done = automatic(workspace, _model(workspace, [1.0] * 6, threshold), Quiet())
    assert (done.labelled, done.queued) == (0, 6)


def test_without_a_model_everything_waits(workspace: Workspace) -> None:
    assert automatic(workspace, None, Quiet()).queued == 6
    assert {one.queue_reason for one in waiting(workspace, 10)} == {"no_model"}
    better = automatic(workspace, _model(workspace, [0.95] * 6), Quiet())
    assert (better.labelled, better.queued) == (6, 0), "a model that comes later answers what waited"
    assert better.share is None, "none of it was new"


def test_a_person_holds_over_the_model(workspace: Workspace) -> None:
    automatic(workspace, _model(workspace, [0.95] * 6), Quiet())
    (id, *_) = _ids(workspace)
    say(workspace, id, "b")
    automatic(workspace, _model(workspace, [0.99] * 6), Quiet())
    with workspace.catalog.read() as tx:
        assert (samples.get(tx, id).label, samples.get(tx, id).label_by) == ("b", "person")
    assert undo(workspace, id) == "a", "what the model had said holds again"


def test_a_contradiction_is_for_a_person_alone(workspace: Workspace) -> None:
    (id, *_) = _ids(workspace)
    with workspace.catalog.write() as tx:
        labels.say(tx, [labels.Said(id, "a", "folder"), labels.Said(id, "b", "csv")])
    automatic(workspace, _model(workspace, [0.99] * 6), Quiet())
    assert [one.id for one in waiting(workspace, 10)] == [id]


def test_who_speaks_while_the_model_is_asked_is_not_asked_again(workspace: Workspace) -> None:
    first, second, *_ = _ids(workspace)
    model = _model(workspace, [0.5, 0.99, 0.5, 0.5, 0.5, 0.5])

    def predict(ids: Sequence[str]) -> Sequence[Prediction]:
        say(workspace, first, "mine")
        say(workspace, second, "mine too")
        return model.predict(ids)

    done = automatic(workspace, Sure(predict, model.threshold, model.version), Quiet())
    assert done.queued == 4
    with workspace.catalog.read() as tx:
        found = samples.some(tx, [first, second])
    assert [(found[id].label, found[id].status) for id in (first, second)] == [
        ("mine", "labelled"),
        ("mine too", "labelled"),
    ]

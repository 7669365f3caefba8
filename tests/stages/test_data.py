"""Labels that are held wrong, and what a person says of them."""

from __future__ import annotations

from pathlib import Path

from everlearn.catalog import samples
from everlearn.workspace import Workspace
from tests.wheel import make, run, world, write


def test_a_label_that_a_person_has_confirmed_no_longer_counts_as_wrong(tmp_path: Path) -> None:
    root = make(tmp_path / "w").root
    run(root, "collect", write(tmp_path / "source", world()), "--labels-from", "folder")
    before = run(root, "validate").values
    doubted = before["culprits"]["label_accuracy"]
    assert doubted
    with Workspace.open(root).catalog.read() as tx:
        labels = {id: one.label for id, one in samples.some(tx, doubted).items()}
    for id, label in labels.items():
        assert run(root, "label", id, label).code == 0
    after = run(root, "validate").values
    assert not set(doubted) & set(after["culprits"]["label_accuracy"])
    assert after["scores"]["label_accuracy"] > before["scores"]["label_accuracy"]

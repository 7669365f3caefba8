from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.catalog import Database, labels, samples, snapshots
from everlearn.catalog.samples import Sample
from everlearn.dataset.build import build
from everlearn.dataset.diff import changes, diff
from everlearn.types import Member
from tests.make import START, add_image, make_workspace

MEMBERS = st.dictionaries(
    st.sampled_from([f"{n:032x}" for n in range(12)]),
    st.tuples(st.sampled_from("ab"), st.sampled_from(["train", "test"]), st.integers(0, 1)),
)


def test_what_is_added_removed_and_relabelled_is_named(tmp_path):
    workspace = make_workspace(tmp_path)
    first = build(workspace)
    with workspace.catalog.write() as tx:
        ids = [one.id for batch in samples.batches(tx) for one in batch]
        labels.say(tx, [labels.Said(ids[0], "c", "person"), labels.Said(ids[1], None, "person")])
    new = add_image(workspace, (workspace.root / "everlearn.yaml").read_bytes(), "a")
    second = build(workspace)
    found = diff(workspace, first, second)
    assert (found.added, found.removed, found.relabelled, found.moved) == ((new.id,), (ids[1],), (ids[0],), ())
    assert found.counts == {"added": 1, "removed": 1, "relabelled": 1, "moved": 0}
    back = diff(workspace, second, first)
    assert (back.added, back.removed, back.relabelled) == (found.removed, found.added, found.relabelled)
    assert diff(workspace, first, first).counts == dict.fromkeys(found.counts, 0)


def test_another_split_moves(tmp_path):
    workspace = make_workspace(tmp_path)
    first = build(workspace)
    dataset = workspace.config.dataset.model_copy(update={"split": "b"})
    workspace.config = workspace.config.model_copy(update={"dataset": dataset})
    found = diff(workspace, first, build(workspace))
    assert found.moved
    assert (found.added, found.removed, found.relabelled) == ((), (), ())


@settings(max_examples=25, deadline=None)
@given(MEMBERS, MEMBERS)
def test_changes_are_what_dictionaries_say(a, b):
    database = Database("sqlite://")
    database.migrate()
    with database.write() as tx:
        samples.add(tx, [Sample(id, "image", id, 1, "", None, None, "", "", START) for id in sorted({*a, *b})])
        one, two = (snapshots.build(tx, [Member(id, *side[id]) for id in sorted(side)]) for side in (a, b))
        found = [
            (before or after).id if before is None or after is None else after.id
            for before, after in changes(tx, one.number, two.number)
        ]
    assert found == sorted(id for id in {*a, *b} if a.get(id) != b.get(id))
    database.close()

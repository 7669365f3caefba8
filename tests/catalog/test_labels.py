"""What follows from who said what, whatever came first."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everlearn.catalog import Database, labels, samples
from everlearn.catalog.labels import Said
from everlearn.config import Config, Learn, Target
from everlearn.errors import BadInput
from everlearn.naming import denial, denied
from tests.catalog.rows import id_of, row

ID = id_of(1)


@pytest.fixture
def one(database: Database) -> Database:
    with database.write() as tx:
        samples.add(tx, [row(1, quality=1.0, status="validated")])
    return database


def said(database: Database, *words: Said) -> samples.Sample:
    with database.write() as tx:
        for word in words:
            labels.say(tx, [word])
        return samples.get(tx, ID)


def test_people_hold_over_files_and_files_over_models(one: Database) -> None:
    assert said(one, Said(ID, "dog", "auto", None, 0.99, "v1.0")).label == "dog"
    assert said(one, Said(ID, "cat", "folder")).label_by == "folder"
    assert said(one, Said(ID, "dog", "auto", None, 0.99, "v1.1")).label == "cat"
    assert said(one, Said(ID, "cow", "person", "kim"), Said(ID, "bee", "csv")).label == "cow"
    assert said(one, Said(ID, "bee", "feedback", "lee")).label == "bee"


def test_files_that_contradict_each_other_go_to_a_person(one: Database) -> None:
    found = said(one, Said(ID, "cat", "folder"), Said(ID, "dog", "csv"))
    assert (found.label, found.status, found.queue_reason, found.urgency) == (None, "queued", "conflict", 2.0)
    with one.read() as tx:
        assert [waiting.id for waiting in samples.queue(tx, 9)] == [ID]
    found = said(one, Said(ID, "cat", "person"))
    assert (found.label, found.status, found.queued, found.urgency) == ("cat", "labelled", False, 0.0)


NOT_CAT = denial("cat")


@pytest.mark.parametrize(
    ("words", "label"),
    [
        (["folder cat", "feedback -cat"], NOT_CAT),  # a person contradicts the file, whichever came first
        (["feedback -cat", "folder cat"], NOT_CAT),
        (["auto cat", "person -cat"], NOT_CAT),
        (["person cat", "feedback -cat"], NOT_CAT),  # or takes the word back
        (["feedback -cat", "person cat"], "cat"),
        (["feedback -cat", "person dog"], "dog"),  # a person says what it is: it is a negative no more
        (["person dog", "feedback -cat"], "dog"),  # it is a dog, and no cat either
        (["folder dog", "feedback -cat"], "dog"),
        (["folder cat", "feedback -cat", "feedback -cow"], NOT_CAT),
        (["feedback -cow", "feedback -cat"], NOT_CAT),  # nothing else is known: the latest
        (["auto dog", "person -cat"], "dog"),
    ],
)
def test_what_a_person_denies_is_a_negative_until_a_person_says_what_it_is(
    one: Database, words: list[str], label: str
) -> None:
    def event(word: str) -> Said:
        by, _, what = word.partition(" ")
        return Said(ID, denial(what[1:]) if what[0] == "-" else what, by)  # type: ignore[arg-type]

    found = said(one, *map(event, words))
    assert (found.label, found.status) == (label, "labelled")
    with one.read() as tx:
        assert labels.negatives(tx, open_set=False) == (label == NOT_CAT)


def test_a_denial_settles_no_contradiction_and_can_be_taken_back(one: Database) -> None:
    found = said(one, Said(ID, "cat", "folder"), Said(ID, "dog", "csv"), Said(ID, NOT_CAT, "person"))
    assert (found.label, found.queue_reason) == (None, "conflict")
    with one.write() as tx:
        labels.undo(tx, ID)
        labels.undo(tx, ID)
        assert labels.undo(tx, ID) is None
        labels.say(tx, [Said(ID, NOT_CAT, "person")])
        assert labels.undo(tx, ID) is None
        assert samples.get(tx, ID).status == "validated"


def test_a_label_is_no_denial_however_it_is_written(one: Database) -> None:
    config = Config()
    assert denied(labels.cleaned(" not cat", config)) is None
    assert labels.denying(" cat ", config) == NOT_CAT
    assert denied(NOT_CAT) == "cat"
    with pytest.raises(BadInput, match="empty"):
        labels.denying(" ", config)
    with pytest.raises(BadInput, match="cannot be denied"):
        labels.denying("3", Config(task="regress"))


def test_undo_takes_words_back_one_by_one(one: Database) -> None:
    said(one, Said(ID, "cat", "folder"), Said(ID, "dog", "person"), Said(ID, "cow", "person"))
    with one.write() as tx:
        assert [labels.undo(tx, ID) for _ in range(3)] == ["dog", "cat", None]
        assert samples.get(tx, ID).status == "validated"
        with pytest.raises(BadInput, match="nothing to undo"):
            labels.undo(tx, ID)
        past = labels.history(tx, ID)
    assert [(event["label"], event["revoked"]) for event in past] == [("cat", True), ("dog", True), ("cow", True)]


def test_undo_of_a_contradiction_leaves_the_other_word(one: Database) -> None:
    said(one, Said(ID, "cat", "folder"), Said(ID, "dog", "csv"))
    with one.write() as tx:
        assert labels.undo(tx, ID) == "cat"
        assert (samples.get(tx, ID).queued, samples.get(tx, ID).status) == (False, "labelled")


def test_a_word_of_a_file_is_said_once_and_stays_taken_back(one: Database) -> None:
    word = Said(ID, "cat", "folder")
    with one.write() as tx:
        assert labels.say(tx, [word, word]) == [ID]
        assert labels.say(tx, [word]) == []
        assert len(labels.history(tx, ID)) == 1
        assert labels.undo(tx, ID) is None
        labels.say(tx, [word])
        assert samples.get(tx, ID).label is None


def test_what_is_learned_is_not_when_its_label_changes(one: Database) -> None:
    said(one, Said(ID, "cat", "folder"))
    with one.write() as tx:
        samples.change(tx, [{"id": ID, "learned": True}])
        samples.restate(tx, [ID])
        labels.settle(tx, [ID])
        assert samples.get(tx, ID).status == "learned"
    assert said(one, Said(ID, "dog", "person")).status == "labelled"


@pytest.mark.parametrize("reason", ["suspect", "reported"])
def test_what_waits_for_a_person_waits_whatever_is_settled_meanwhile(one: Database, reason: str) -> None:
    said(one, Said(ID, "cat", "folder"))
    with one.write() as tx:
        samples.change(tx, [{"id": ID, "queued": True, "queue_reason": reason, "urgency": 1.5, "suspect": "dog"}])
        labels.settle(tx, [ID])
    found = said(one, Said(ID, "cow", "auto"), Said(ID, "cat", "csv"))
    assert (found.queued, found.queue_reason, found.suspect) == (True, reason, "dog")
    found = said(one, Said(ID, "cat", "person"))
    assert (found.label, found.queued, found.suspect) == ("cat", False, None)


def test_many_are_settled_in_several_statements(database: Database) -> None:
    many = 2 * samples.BATCH + 3
    with database.write() as tx:
        samples.add(tx, [row(n, quality=1.0, status="validated") for n in range(many)])
        words = [Said(id_of(n), f"c{n % 3}", "folder") for n in range(many)]
        assert labels.say(tx, words) == sorted(word.sample_id for word in words)
        assert samples.counts(tx)["labelled"] == many
        assert {one.id: one.label for one in samples.some(tx, [id_of(n) for n in range(many)]).values()} == {
            word.sample_id: word.label for word in words
        }


SOURCES = st.sampled_from(["folder", "filename", "csv", "option"])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(words=st.lists(st.tuples(st.sampled_from(["cat", "dog"]), SOURCES), max_size=4), data=st.data())
def test_files_settle_the_same_in_any_order(
    database: Database, words: list[tuple[str, str]], data: st.DataObject
) -> None:
    other = data.draw(st.permutations(words))
    cut = data.draw(st.integers(0, len(words)))
    with database.write() as tx:
        samples.erase(tx, [id_of("a"), id_of("b")])
        samples.add(tx, [row(name, quality=1.0, status="validated") for name in "ab"])
        labels.say(tx, [Said(id_of("a"), label, by) for label, by in words])  # type: ignore[arg-type]
        for part in (other[:cut], other[cut:], other[:1]):
            labels.say(tx, [Said(id_of("b"), label, by) for label, by in part])  # type: ignore[arg-type]
        a, b = samples.get(tx, id_of("a")), samples.get(tx, id_of("b"))
    settled = ("label", "label_by", "queued", "queue_reason", "urgency", "suspect", "status")
    assert [getattr(a, name) for name in settled] == [getattr(b, name) for name in settled]
    assert a.status == ("queued" if len({label for label, _ in words}) > 1 else "labelled" if words else "validated")


def test_a_person_holds_wherever_in_between_it_spoke(database: Database) -> None:
    words = [Said(ID, "cat", "folder"), Said(ID, "dog", "csv"), Said(ID, "cow", "person"), Said(ID, "bee", "auto")]
    for order in itertools.permutations(words):
        with database.write() as tx:
            samples.erase(tx, [ID])
            samples.add(tx, [row(1, quality=1.0)])
            for word in order:
                labels.say(tx, [word])
            found = samples.get(tx, ID)
        assert (found.label, found.label_by, found.status, found.queue_reason) == ("cow", "person", "labelled", None)


def test_numbers_are_written_one_way() -> None:
    config = Config(task="regress", learn=Learn(target=Target(low=-1, high=2, step=0.1)))
    assert [labels.cleaned(text, config) for text in ("0.30000001", " 1e0", "-1", "2")] == ["0.3", "1", "-1", "2"]
    small = Config(task="regress", learn=Learn(target=Target(low=-0.3, high=1e6, step=0.1)))
    assert [labels.cleaned(text, small) for text in ("0", "-0.0", "1e6", "0.1")] == ["0", "0", "1000000", "0.1"]
    for text in ("cat", "nan", "inf", "2.01", "-1.2", ""):
        with pytest.raises(BadInput):
            labels.cleaned(text, config)
    assert labels.cleaned(" 한 ", Config()) == "한"


@given(value=st.floats(-1, 2))
def test_a_number_written_again_stays_itself(value: float) -> None:
    config = Config(task="regress", learn=Learn(target=Target(low=-1, high=2, step=0.1)))
    once = labels.cleaned(repr(value), config)
    assert labels.cleaned(once, config) == once
    assert abs(float(once) - value) <= 0.05 + 1e-9

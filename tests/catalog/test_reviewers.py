"""Tokens: shown once, kept as a digest, closed at once."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from everlearn.catalog import Database, reviewers
from everlearn.catalog.tables import token
from everlearn.errors import BadInput, Missing


def test_a_token_opens_the_door_until_it_is_revoked(database: Database) -> None:
    with database.write() as tx:
        assert not reviewers.anybody(tx)
        mina, secret = reviewers.add(tx, " 미나 ")
        again, second = reviewers.add(tx, "미나", "admin")
        assert reviewers.check(tx, secret) == mina
        assert mina.name == "미나"
        assert reviewers.unseen(mina)
        reviewers.used(tx, mina.id)
        seen = reviewers.check(tx, secret)
        assert seen is not None
        assert not reviewers.unseen(seen)
        assert reviewers.revoke(tx, mina.id) == [mina.id]
        assert reviewers.check(tx, secret) is None
        assert reviewers.check(tx, second) == again
        assert reviewers.revoke(tx, "미나") == [again.id], "the rest of the person's"
        assert not reviewers.anybody(tx)
        assert [one.revoked_at is None for one in reviewers.listed(tx)] == [False, False]
        with pytest.raises(Missing, match="미나"):
            reviewers.revoke(tx, "미나")


def test_the_secret_is_kept_nowhere(database: Database) -> None:
    with database.write() as tx:
        _, secret = reviewers.add(tx, "mina")
        kept = [str(value) for row in tx.execute(sa.select(token)) for value in row]
    id, _, chance = secret.partition(".")
    assert id in kept
    assert not any(chance in value for value in kept)


def test_what_is_nearly_right_is_wrong(database: Database) -> None:
    with database.write() as tx:
        _, secret = reviewers.add(tx, "mina")
        id, _, chance = secret.partition(".")
        near = [secret.upper(), secret[:-1], secret + "x", id + chance, id + ".", "." + chance, "", "é" + secret]
        for wrong in [*near, secret + "x" * 10_000, "0" * 16 + "." + chance]:
            assert reviewers.check(tx, wrong) is None, wrong
        for name, role in [("", "reviewer"), ("a\nb", "reviewer"), ("n" * 81, "reviewer"), ("a", "root")]:
            with pytest.raises(BadInput):
                reviewers.add(tx, name, role)

"""Who may come in by the network, and as what. A secret is shown once and kept nowhere: the catalog has its SHA-256."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from everlearn.catalog.tables import now, token
from everlearn.errors import BadInput, Missing
from everlearn.naming import clean_label

Role = Literal["reviewer", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
LONGEST_NAME = 80
LONGEST_SECRET = 200
_ID = re.compile("[0-9a-f]{16}")
BYTES = 32
"""Of chance in a secret: guessing is hopeless, and a plain digest of it needs no salt and no slow function."""
SEEN_AGAIN = timedelta(minutes=5)
"""A last use is written down no more often, so that looking at a page does not write to the catalog."""


@dataclass(frozen=True, slots=True)
class Reviewer:
    """One token. name: of its person, who may have several; what they say is said under it."""

    id: str
    name: str
    role: Role
    made_at: datetime
    used_at: datetime | None = None
    revoked_at: datetime | None = None


def add(tx: Connection, name: str, role: str = "reviewer") -> tuple[Reviewer, str]:
    """A new token for this person; the second is its secret, to be shown once. Raises BadInput."""
    person = clean_label(name)
    if len(person) > LONGEST_NAME:
        raise BadInput(f"A name of {len(person)} characters; at most {LONGEST_NAME} are taken.", "Shorten it.")
    if role not in ROLES:
        raise BadInput(f"There is no role {role}.", f"Choose one of {', '.join(ROLES)}.")
    made = Reviewer(secrets.token_hex(8), person, role, now())
    secret = f"{made.id}.{secrets.token_urlsafe(BYTES)}"
    values = {"id": made.id, "name": person, "role": role, "mark": _mark(secret), "made_at": made.made_at}
    tx.execute(token.insert().values(**values))
    return made, secret


def check(tx: Connection, secret: str) -> Reviewer | None:
    """Whose secret this is; None where it is nobody's, or was revoked.

    The row is found by the id in the secret's first part, which is no secret, and its digest compared in constant time:
    how long an answer takes tells nothing of the rest.
    """
    id, dot, _ = secret.partition(".")
    if not dot or len(secret) > LONGEST_SECRET or not secret.isascii() or not _ID.fullmatch(id):
        return None  # not even looked for: PostgreSQL takes no text with a zero byte
    row = tx.execute(sa.select(token).where(token.c.id == id)).first()
    same = hmac.compare_digest(row.mark if row else _mark(""), _mark(secret))
    return _reviewer(row) if row is not None and same and row.revoked_at is None else None


def used(tx: Connection, id: str) -> None:
    """This token was used now."""
    tx.execute(token.update().where(token.c.id == id).values(used_at=now()))


def unseen(one: Reviewer) -> bool:
    """Whether its last use is worth writing down again."""
    return one.used_at is None or now() - one.used_at > SEEN_AGAIN


def listed(tx: Connection) -> list[Reviewer]:
    """All tokens, revoked ones too, in the order they were made."""
    return [_reviewer(row) for row in tx.execute(sa.select(token).order_by(token.c.made_at, token.c.id))]


def anybody(tx: Connection) -> bool:
    """Whether any token would open the door."""
    return tx.execute(sa.select(token.c.id).where(token.c.revoked_at.is_(None)).limit(1)).first() is not None


def revoke(tx: Connection, name: str) -> list[str]:
    """Close the door to a person, or to one token by its id; returns the tokens that were open. Raises Missing."""
    mine = sa.or_(token.c.name == clean_label(name), token.c.id == name)
    open_ = sa.and_(mine, token.c.revoked_at.is_(None))
    found = sorted(tx.execute(sa.select(token.c.id).where(open_)).scalars())
    if not found:
        raise Missing(f"Nobody called {name} has a token.", "See: everlearn reviewers list")
    tx.execute(token.update().where(open_).values(revoked_at=now()))
    return found


def _mark(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _reviewer(row: sa.Row[tuple[object, ...]]) -> Reviewer:
    return Reviewer(row.id, row.name, row.role, row.made_at, row.used_at, row.revoked_at)

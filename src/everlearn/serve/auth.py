"""Who may come in: a token in the header `Authorization: Bearer …`, or in the cookie that the sign-in page sets.

A token is never part of an address: addresses end up in logs and histories. The sign-in page takes it from the
address's fragment, which browsers keep to themselves, or from the keyboard, and sends it in a body. The cookie cannot
be read by scripts (HttpOnly) and does not come along from other sites (SameSite=Strict, and the origin is compared).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict, deque
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from everlearn.catalog import reviewers
from everlearn.catalog.reviewers import Reviewer
from everlearn.serve.errors import Denied, Forbidden, TooMany
from everlearn.workspace import Workspace

MOST_WRONG, WRONG_SECONDS = 10, 60.0
"""Wrong tries of one address within so many seconds; from then on only tokens that were right before are looked at.
Each process counts for itself. Guessing 256 bits is hopeless anyway: this keeps the log and the catalog quiet."""
MOST_ADDRESSES = 10_000
COOKIE_SECONDS = 30 * 24 * 3600
SAFE = ("GET", "HEAD", "OPTIONS")


class Door:
    """Lets people in. One for an application; its memory is only of wrong tries and of tokens that were right."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        # cookies know no ports, so two workspaces on one machine need two names
        self.cookie = f"everlearn-{hashlib.sha256(str(workspace.root).encode()).hexdigest()[:8]}"
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._right: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def who(self, request: Request) -> Reviewer | None:
        """Who asks; None where no token came along. Raises Denied, Forbidden, TooMany."""
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        if kind:
            if kind.lower() != "bearer":
                raise Denied("The header Authorization is not of the kind Bearer.", "Send: Authorization: Bearer TOKEN")
            return self.check(request, secret.strip())
        secret = request.cookies.get(self.cookie, "")
        if not secret:
            return None
        if request.method not in SAFE and not _from_our_page(request):
            raise Forbidden("The request comes from another site's page.", "Open the review page itself.")
        return self.check(request, secret)

    def check(self, request: Request, secret: str) -> Reviewer:
        """Whose secret this is. Raises Denied, TooMany."""
        address = request.client.host if request.client else ""
        mark = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
        with self._lock:
            if mark not in self._right and self._tries(address) >= MOST_WRONG:
                raise TooMany(f"More than {MOST_WRONG} wrong tokens from {address}.", "Wait a minute.")
        with self.workspace.catalog.read() as tx:
            found = reviewers.check(tx, secret)
        with self._lock:
            if found is None:
                self._right.pop(mark, None)
                self._wrong.setdefault(address, deque(maxlen=MOST_WRONG)).append(time.monotonic())
                _bound(self._wrong)
                raise Denied("The token is not known, or was revoked.", "Ask for one: everlearn reviewers add NAME")
            self._right[mark] = None
            _bound(self._right)
        if reviewers.unseen(found):
            with self.workspace.catalog.write() as tx:
                reviewers.used(tx, found.id)
        request.scope.setdefault("state", {})["reviewer"] = found.id
        return found

    def _tries(self, address: str) -> int:
        times = self._wrong.get(address, ())
        return sum(time.monotonic() - one < WRONG_SECONDS for one in times)


def _bound(kept: OrderedDict[str, object] | OrderedDict[str, deque[float]] | OrderedDict[str, None]) -> None:
    while len(kept) > MOST_ADDRESSES:
        kept.popitem(last=False)


def _from_our_page(request: Request) -> bool:
    """Whether the browser says that our own page sent this. One that sends the cookie says one of the two."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    try:
        origin = urlsplit(request.headers.get("origin", "")).netloc
    except ValueError:  # as http://[
        return False
    return bool(origin) and origin == request.headers.get("host")


# --- what routes ask for ------------------------------------------------------------------------------------------


def door(request: Request) -> Door:
    found: Door = request.app.state.door
    return found


def workspace(request: Request) -> Workspace:
    return door(request).workspace


def signed_in(request: Request) -> Reviewer:
    """Raises Denied."""
    found = door(request).who(request)
    if found is None:
        raise Denied("This needs a token.", "Send: Authorization: Bearer TOKEN; or sign in at /sign-in")
    return found


def admin(request: Request) -> Reviewer:
    """Raises Denied, Forbidden."""
    found = signed_in(request)
    if found.role != "admin":
        raise Forbidden(f"{found.name} is a {found.role}; this is for admins.", "Ask one of them.")
    return found


There = Annotated[Workspace, Depends(workspace)]
Person = Annotated[Reviewer, Depends(signed_in)]
Admin = Annotated[Reviewer, Depends(admin)]


# --- sessions and reviewers ---------------------------------------------------------------------------------------

router = APIRouter(prefix="/api/v1", tags=["people"])


class Session(BaseModel):
    """Who is signed in."""

    name: str
    role: str


class SignIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    token: str = Field(max_length=reviewers.LONGEST_SECRET)


class Listed(BaseModel):
    """A token, without its secret."""

    id: str
    name: str
    role: str
    made_at: str
    used_at: str | None
    revoked_at: str | None


class NewReviewer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=reviewers.LONGEST_NAME)
    role: reviewers.Role = "reviewer"


class MadeReviewer(BaseModel):
    """token: the secret, shown this once."""

    id: str
    name: str
    role: str
    token: str


class Revoked(BaseModel):
    revoked: list[str]


@router.post("/session")
def sign_in(request: Request, response: Response, given: SignIn) -> Session:
    """Sign in: sets the cookie that a browser then sends by itself."""
    if "origin" in request.headers and not _from_our_page(request):
        raise Forbidden("The request comes from another site's page.", "Open the sign-in page itself.")
    entrance = door(request)
    found = entrance.check(request, given.token.strip())
    response.set_cookie(
        entrance.cookie, given.token.strip(), max_age=COOKIE_SECONDS, httponly=True, samesite="strict",
        secure=request.url.scheme == "https",
    )  # fmt: skip
    return Session(name=found.name, role=found.role)


@router.get("/session")
def who_am_i(person: Person) -> Session:
    """Who is signed in."""
    return Session(name=person.name, role=person.role)


@router.delete("/session", status_code=204)
def sign_out(request: Request, response: Response) -> None:
    """Sign out: the browser forgets the cookie. The token itself stays good until it is revoked."""
    response.delete_cookie(door(request).cookie, httponly=True, samesite="strict")


@router.get("/reviewers")
def list_reviewers(where: There, _: Admin) -> list[Listed]:
    """All tokens, without their secrets."""
    with where.catalog.read() as tx:
        found = reviewers.listed(tx)
    return [Listed(**as_json(one)) for one in found]


@router.post("/reviewers", status_code=201)
def add_reviewer(where: There, _: Admin, given: NewReviewer) -> MadeReviewer:
    """A new token. Its secret is in this answer, and nowhere else."""
    with where.catalog.write() as tx:
        made, secret = reviewers.add(tx, given.name, given.role)
    return MadeReviewer(id=made.id, name=made.name, role=made.role, token=secret)


@router.delete("/reviewers/{name}")
def revoke_reviewer(where: There, _: Admin, name: str) -> Revoked:
    """Close the door to a person, or to one token by its id."""
    with where.catalog.write() as tx:
        return Revoked(revoked=reviewers.revoke(tx, name))


def as_json(one: Reviewer) -> dict[str, str | None]:
    """A token for people and programs; times in UTC."""
    times = {name: getattr(one, name) for name in ("made_at", "used_at", "revoked_at")}
    said = {name: f"{when.isoformat(timespec='seconds')}Z" if when else None for name, when in times.items()}
    return {"id": one.id, "name": one.name, "role": one.role, **said}

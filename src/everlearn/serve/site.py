"""The pages: signing in, and the review. Plain HTML, one style sheet, modules of plain JavaScript; nothing is fetched
from elsewhere, nothing is built, and no page holds a script of its own, so that none can be smuggled in."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from everlearn.serve.auth import Door, There, door
from everlearn.serve.errors import Denied
from everlearn.serve.words import WORDS, Lang

if TYPE_CHECKING:
    from jinja2 import Environment

router = APIRouter(include_in_schema=False)
PAGES = Path(__file__).parent / "pages"
LANGUAGE = "everlearn-language"
"""The cookie of whom chose a language; it holds nothing else."""


@router.get("/")
def home() -> Response:
    return RedirectResponse("/review", 303)


@router.get("/sign-in")
def sign_in(request: Request) -> HTMLResponse:
    """Also for who is signed in already: a new link may be for another person."""
    return _page(request, "sign-in.html")


@router.get("/review")
def review(request: Request, where: There) -> Response:
    """The page itself holds no data; who has no token is sent to the sign-in page."""
    entrance: Door = door(request)
    try:
        person = entrance.who(request)
    except Denied:
        person = None
    if person is None:
        return RedirectResponse("/sign-in", 303)
    return _page(request, "review.html", task=where.config.task, person=person, workspace=where.root.name)


def static() -> StaticFiles:
    """Style and scripts, which anybody may read."""
    return StaticFiles(directory=PAGES / "static")


def language(request: Request) -> Lang:
    """What was chosen, else the first of the browser's languages that there are words in, else English."""
    asked = request.headers.get("accept-language", "").split(",")
    wanted = [request.cookies.get(LANGUAGE, ""), *(one.partition(";")[0].strip()[:2].lower() for one in asked)]
    fallback: Lang = "en"
    return next((name for one in wanted for name in WORDS if name == one), fallback)


def _page(request: Request, name: str, **values: object) -> HTMLResponse:
    lang = language(request)
    text = _templates().get_template(name).render(lang=lang, languages=list(WORDS), w=WORDS[lang], **values)
    return HTMLResponse(text, headers={"Content-Language": lang, "Vary": "Accept-Language, Cookie"})


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )

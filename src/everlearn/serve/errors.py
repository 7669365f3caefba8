"""Errors as the command line tells them with --json: {"error": {"code", "message", "remedy"}}, and their status."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from everlearn.errors import EverlearnError

STATUS = {"bad_input": 400, "too_few": 400, "missing": 404, "not_installed": 501, "store": 503, "busy": 503}
"""Of our kinds of error; 500 for the others, which no request can mend."""
WORDS = {
    404: ("missing", "There is nothing at this address.", "See: /api/v1/openapi.json"),
    405: ("bad_input", "This address is not used in this way.", "See: /api/v1/openapi.json"),
}


class Denied(EverlearnError):
    """Nobody known, or not somebody who may."""

    code = "denied"
    status = 401


class Forbidden(Denied):
    """Known, and still not allowed."""

    code = "forbidden"
    status = 403


class TooMany(Denied):
    """Wrong tries without end."""

    code = "too_many"
    status = 429


class Conflict(EverlearnError):
    """Somebody else was quicker."""

    code = "conflict"
    status = 409


def told(code: str, message: str, remedy: str = "") -> dict[str, Any]:
    """The body of an error."""
    return {"error": {"code": code, "message": message, "remedy": remedy}}


def handle(app: FastAPI) -> None:
    """Every error that a route may raise becomes such a body. What is none of ours is caught by the guard."""
    app.exception_handler(EverlearnError)(_ours)
    app.exception_handler(RequestValidationError)(_malformed)
    app.exception_handler(HTTPException)(_plain)


def _ours(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, EverlearnError)
    status = getattr(error, "status", None) or STATUS.get(error.code, 500)
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "60"}, 503: {"Retry-After": "5"}}.get(status)
    return JSONResponse(told(error.code, error.message, error.remedy), status, headers)


def _malformed(_: Request, error: Exception) -> JSONResponse:
    """Where a field is wrong, its name and what is wrong with it; never what was sent."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return JSONResponse(told("bad_input", f"{where}: {first['msg']}.", "See: /api/v1/openapi.json"), 422)


def _plain(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code, message, remedy = WORDS.get(error.status_code, ("bad_input", str(error.detail), ""))
    return JSONResponse(told(code, message, remedy), error.status_code, error.headers)

"""Problem documents (RFC 9457) for everything that is refused or fails."""

from __future__ import annotations

import errno
import logging
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from t9k.aistore.errors import Refusal
from t9k.protocol import PROBLEM_TYPE, problem_type

log = logging.getLogger("aistore.api")

_KIND_OF_STATUS = {401: "auth", 403: "auth", 404: "not_found", 409: "conflict", 412: "conflict", 507: "store"}
_TITLES = {
    "invalid_input": "The request cannot be done",
    "auth": "Not logged in, or not allowed",
    "not_found": "Nothing there",
    "conflict": "Something else is there, or has changed",
    "integrity": "Bytes do not match their digest",
    "transfer": "The server cannot take this now",
    "store": "The server has no room",
    "error": "The server failed",
}


class Problem(BaseModel):
    """Why a request was refused or failed."""

    model_config = ConfigDict(extra="forbid")

    type: str
    title: str
    status: int
    detail: str
    kind: str
    hint: str | None = None
    request_id: str | None = None
    missing: list[str] | None = None
    missing_manifest: bool | None = None


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: these problems, and those that every route may answer."""
    described = {"model": Problem, "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    everywhere = (400, 401, 403, 404, 413, 429, 503, 507)
    return {status: {**described, "description": "Problem"} for status in sorted({*everywhere, *statuses})}


def problem(
    request: Request, status: int, kind: str, detail: str, hint: str | None = None, **members: object
) -> Response:
    """A response that says what went wrong."""
    document = {
        "type": problem_type(kind),
        "title": _TITLES[kind],
        "status": status,
        "detail": detail,
        "kind": kind,
        "hint": hint,
        "request_id": request.scope.get("request_id"),
        **members,
    }
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if status in (429, 503):
        headers["Retry-After"] = "1"
    return JSONResponse(document, status, headers, media_type=PROBLEM_TYPE)


def install(app: FastAPI) -> None:
    """Makes the app answer every exception with a problem document."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        return problem(request, error.status, error.kind, error.message, error.hint, **error.members)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        kind = _KIND_OF_STATUS.get(error.status_code, "invalid_input" if error.status_code < 500 else "error")
        response = problem(request, error.status_code, kind, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:8])
        return problem(request, 400, "invalid_input", f"{where}: {first['msg']}"[:500])

    @app.exception_handler(OSError)
    async def system(request: Request, error: OSError) -> Response:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return problem(request, 507, "store", "the server's disk is full", "free some space, then try again")
        return await failed(request, error)

    @app.exception_handler(sa.exc.OperationalError)
    async def database(request: Request, error: sa.exc.OperationalError) -> Response:
        if "full" in str(error.orig) or getattr(error.orig, "sqlstate", None) == "53100":
            return problem(request, 507, "store", "the server's disk is full", "free some space, then try again")
        log.error("the database failed", exc_info=error)
        return problem(request, 503, "transfer", "the server's database cannot be used now", "try again")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        log.error("unhandled", exc_info=error)
        return problem(request, 500, "error", "the server failed; its log says why, under the request id")

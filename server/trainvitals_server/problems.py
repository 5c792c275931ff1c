"""All error responses as application/problem+json (RFC 9457).

`type` is "/problems/<reason>" and stable; `detail` says what happened and what to do. A problem
never contains values of the request: a NaN could not be encoded, a secret would be logged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

CONTENT_TYPE: Final = "application/problem+json"

TITLES: Final[dict[str, tuple[int, str]]] = {
    "malformed": (400, "The batch is malformed"),
    "wire_version": (400, "The wire version is not supported"),
    "unknown_layout": (400, "A frame refers to an unknown layout"),
    "shape_mismatch": (400, "A frame does not match its layout"),
    "cursor": (400, "The cursor is not valid"),
    "bad_request": (400, "The request is not valid HTTP"),
    "host": (400, "The Host header is not allowed"),
    "unauthorised": (401, "A valid token is required"),
    "forbidden": (403, "The token does not allow this"),
    "not_found": (404, "There is no resource at this address"),
    "unknown_run": (404, "There is no such run"),
    "unknown_rule": (404, "There is no such rule"),
    "unknown_series": (404, "The run has no such series"),
    "unknown_token": (404, "There is no such valid token"),
    "unknown_silence": (404, "There is no such silence"),
    "unknown_channel": (404, "There is no such channel"),
    "method_not_allowed": (405, "The method is not allowed"),
    "timeout": (408, "The request did not arrive in time"),
    "conflict": (409, "The batch conflicts with a stored one"),
    "run_deleted": (409, "The run was deleted"),
    "run_exists": (409, "A run with this id exists"),
    "too_many_silences": (409, "Too many silences are active"),
    "run_in_other_project": (409, "The run is in another project"),
    "too_large": (413, "The request is too large"),
    "unsupported_media_type": (415, "The content type is not supported"),
    "too_many_series": (413, "The run has too many series"),
    "invalid": (422, "A parameter is not valid"),
    "too_soon": (429, "The request is repeated too soon"),
    "headers_too_large": (431, "The headers of the request are too large"),
    "internal": (500, "The collector failed"),
    "busy": (503, "The collector is busy"),
    "damaged": (503, "The database is damaged"),
    "database_away": (503, "The database does not respond"),
    "collector_full": (503, "The collector has too many series"),
    "queue_full": (503, "The write queue is full"),
    "rescue": (503, "The collector only reads"),
    "not_ready": (503, "The collector is not ready"),
    "disk_full": (507, "The disk is full"),
}
"""Reason → (status, title): the whole list."""


class ProblemBody(BaseModel):
    """The body of an error response."""

    type: str = Field(examples=["/problems/unknown_run"])
    title: str
    status: int
    detail: str
    reason: str


class Problem(Exception):  # noqa: N818
    """Raised in a route to respond with a problem."""

    def __init__(
        self, reason: str, detail: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """Return the response."""
        return problem_response(self.reason, self.detail, self.headers)


def problem_response(
    reason: str, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the answer for one of TITLES."""
    status, title = TITLES[reason]
    body = {
        "type": f"/problems/{reason}",
        "title": title,
        "status": status,
        "detail": detail,
        "reason": reason,
    }
    return Response(
        msgspec.json.encode(body), status, headers=dict(headers or {}), media_type=CONTENT_TYPE
    )


def problem_responses(*reasons: str) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route for OpenAPI: the problems it may answer with.

    The description of the app adds the shape of ProblemBody.
    """
    by_status: dict[int | str, dict[str, Any]] = {}
    for reason in reasons:
        status, title = TITLES[reason]
        known = by_status.get(status)
        description = (
            f"{known['description']}; {title} ({reason})" if known else f"{title} ({reason})"
        )
        by_status[status] = {
            "description": description,
            "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemBody"}}},
        }
    return by_status


_BY_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}


def install(app: FastAPI, count: Callable[[Request, str], None]) -> None:
    """Make every error of `app` a problem; call `count` with the reason of each."""

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        count(request, error.reason)
        return error.response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        reason = _BY_STATUS.get(
            error.status_code, "malformed" if error.status_code < 500 else "internal"
        )
        count(request, reason)
        return problem_response(reason, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        # Without `input` and `ctx`: they contain values of the request, possibly NaN.
        found = "; ".join(
            f"{'.'.join(map(str, e['loc'][1:])) or e['loc'][0]}: {e['msg']}"
            for e in error.errors()[:8]
        )
        count(request, "invalid")
        return problem_response("invalid", found)

    @app.exception_handler(Exception)
    async def failed(request: Request, _: Exception) -> Response:
        count(request, "internal")
        # Starlette raises it again after this answer, and the server logs it.
        return problem_response("internal", "The collector's log contains the cause.")

"""Create, list and revoke tokens over HTTP: /api/v1/tokens.

`trainvitals token` uses these routes when a collector runs on its SQLite database: a second process
must not write to that file.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Request
from pydantic import BaseModel, ConfigDict, Field

from trainvitals_server.auth.router import Principal, ScopedRouter, allow
from trainvitals_server.auth.tokens import Scope, Tokens
from trainvitals_server.problems import Problem, problem_responses

routes = ScopedRouter(prefix="/api/v1", tags=["tokens"])

Admin = Annotated[Principal, allow(Scope.ADMIN)]
_CLOSED = problem_responses("unauthorised", "forbidden")
_TEXT = r"^[^\x00-\x1f\x7f]*$"
_DAY_S = 86_400


class NewToken(BaseModel):
    """What a new token allows."""

    model_config = ConfigDict(extra="forbid")

    scope: Scope
    project: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        pattern=_TEXT,
        description="The only project it gives access to; null: all.",
    )
    label: str = Field(default="", max_length=200, pattern=_TEXT, description="Its purpose.")
    days: float | None = Field(
        default=None,
        gt=0,
        le=36_500,
        allow_inf_nan=False,
        description="Lifetime in days; null: no limit.",
    )


class CreatedToken(BaseModel):
    """A new token."""

    token: str = Field(description="It cannot be shown again.")


class ListedToken(BaseModel):
    """A token without its secret; times are seconds since the epoch."""

    id: str
    scope: str
    project: str | None
    label: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None


class TokenList(BaseModel):
    """All tokens, oldest first."""

    tokens: list[ListedToken]


def _tokens(request: Request, principal: Principal) -> Tokens:
    if principal.project is not None:
        # Otherwise it could create a token of all projects for itself.
        raise Problem("forbidden", "Tokens concern all projects; this token allows only one.")
    tokens: Tokens = request.app.state.tokens
    return tokens


@routes.post(
    "/tokens",
    status_code=201,
    responses=problem_responses("malformed", "unauthorised", "forbidden", "invalid", "disk_full"),
)
def create_token(request: Request, principal: Admin, wanted: NewToken) -> CreatedToken:
    """Create a token and return it."""
    lifetime_s = None if wanted.days is None else wanted.days * _DAY_S
    return CreatedToken(
        token=_tokens(request, principal).create(
            wanted.scope, project=wanted.project, label=wanted.label, lifetime_s=lifetime_s
        )
    )


@routes.get("/tokens", responses=_CLOSED)
def list_tokens(request: Request, principal: Admin) -> TokenList:
    """Return all tokens, without their secrets."""
    known = _tokens(request, principal).all()
    return TokenList(tokens=[ListedToken(**token._asdict()) for token in known])


@routes.delete(
    "/tokens/{token_id}",
    status_code=204,
    responses=problem_responses(
        "unauthorised", "forbidden", "unknown_token", "invalid", "disk_full"
    ),
)
def revoke_token(
    request: Request,
    principal: Admin,
    token_id: Annotated[str, Path(pattern="^[0-9a-zA-Z]{1,64}$")],
) -> None:
    """Revoke a token. It is refused from the next request on."""
    if not _tokens(request, principal).revoke(token_id):
        raise Problem("unknown_token", "No valid token has this id; the list has all tokens.")

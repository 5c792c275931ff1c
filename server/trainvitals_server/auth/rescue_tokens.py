"""Tokens of a database that is open for rescue: those that can be read, and one for this start.

The table of tokens may be damaged, so a token with the scope read is made in memory. It is in a
separate file, for the operator and the dashboard, and is valid until the process ends.
"""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path

from sqlalchemy.exc import DatabaseError

from trainvitals_server.auth.token_file import read_token, write_token
from trainvitals_server.auth.tokens import Granted, Scope, Tokens
from trainvitals_server.problems import Problem
from trainvitals_server.store.database import Database


class RescueTokens(Tokens):
    """`Tokens`, and `rescue_token` with the scope read."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.rescue_token = f"tv_read_rescue_{secrets.token_urlsafe(32)}"

    def check(self, token: str) -> Granted | None:
        """Return what `token` grants.

        Raises:
            Problem: the table of tokens is damaged.
        """
        given = token.encode(errors="surrogatepass")
        if hmac.compare_digest(given, self.rescue_token.encode()):
            return Granted("rescue", Scope.READ, None)
        try:
            return super().check(token)
        except DatabaseError as error:
            raise Problem("damaged", "The table of tokens cannot be read.") from error


def rescue_token_file(tokens: RescueTokens, shared: Path, own: Path) -> Path:
    """Return `shared` when its token is accepted; else write the token of this start to `own`."""
    try:
        if tokens.check(read_token(shared) or "") is not None:
            return shared
    except Problem:
        pass  # the table is damaged: no stored token can be checked
    write_token(own, tokens.rescue_token)
    return own

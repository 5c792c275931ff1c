"""Tokens and their scopes: a route that declares no scope cannot be registered.

Start at `router.ScopedRouter`; `tokens` creates and checks tokens, `token_file` writes the first.
"""

from trainvitals_server.auth.router import Principal, ScopedRouter, allow
from trainvitals_server.auth.tokens import Scope, Tokens

__all__ = ["Principal", "Scope", "ScopedRouter", "Tokens", "allow"]

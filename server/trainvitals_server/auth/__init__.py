"""Tokens and who may do what: every route declares its scope, or does not register.

Start at `router.ScopedRouter`; `tokens` makes and checks tokens.
"""

from trainvitals_server.auth.router import Principal, ScopedRouter, allow
from trainvitals_server.auth.tokens import Scope, Tokens

__all__ = ["Principal", "Scope", "ScopedRouter", "Tokens", "allow"]

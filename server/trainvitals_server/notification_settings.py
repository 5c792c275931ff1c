"""Settings of notifications: channels, routes and silences. Only the operator sets them.

They are the table [notifications] of trainvitals.toml, or JSON in TRAINVITALS_NOTIFICATIONS or in
the file that TRAINVITALS_NOTIFICATIONS_FILE names. Addresses and keys are secrets: they never
appear in logs, error messages or responses.
"""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Channel(_Model):
    """One receiver of messages: exactly one of `apprise` and `webhook`."""

    apprise: SecretStr | None = None
    """An address of Apprise, such as slack://… or mailto://…; needs the extra `notify`."""
    apprise_file: Path | None = None
    """A file with that address."""
    webhook: SecretStr | None = None
    """An http(s) address that receives JSON by POST."""
    webhook_file: Path | None = None
    key: SecretStr | None = None
    """Signs the bodies of the webhook with HMAC-SHA256; at least 16 characters."""
    key_file: Path | None = None
    resolved: bool = True
    """Whether a message is sent when a finding is resolved."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = (self.apprise, self.apprise_file, self.webhook, self.webhook_file)
        if sum(value is not None for value in kinds) != 1:
            raise ValueError("give exactly one of apprise, apprise_file, webhook, webhook_file")
        try:
            address = self.address
            key = self.signing_key
        except OSError as error:
            raise ValueError(f"a file of the channel cannot be read: {error.strerror}") from None
        if not address:
            raise ValueError("the address is empty")
        if not self.is_webhook:
            return self
        if not re.match(r"https?://", address):
            raise ValueError("a webhook is an address that starts with http:// or https://")
        if len(key) < 16:
            raise ValueError("a webhook needs a key of at least 16 characters: key or key_file")
        return self

    @property
    def is_webhook(self) -> bool:
        """Whether the channel is a webhook."""
        return self.webhook is not None or self.webhook_file is not None

    @property
    def address(self) -> str:
        """The secret address."""
        return _secret(self.apprise or self.webhook, self.apprise_file or self.webhook_file)

    @property
    def signing_key(self) -> str:
        """The secret key of a webhook; "" without one."""
        return _secret(self.key, self.key_file)


def _secret(value: SecretStr | None, path: Path | None) -> str:
    if value is not None:
        return value.get_secret_value()
    return path.expanduser().read_text().strip() if path is not None else ""


class Route(_Model):
    """What is sent to which channels. Patterns are shell patterns: shop, shop-*, *."""

    channels: tuple[str, ...]
    severity: Literal["info", "warning", "error"] = "error"
    """The lowest severity. A lost run and a failed run have the severity error."""
    projects: tuple[str, ...] = ("*",)
    rules: tuple[str, ...] = ("*",)
    """Names of rules; run_lost: no heartbeat; run_failed: an exception ended the training."""


class Silence(_Model):
    """Findings that raise no message until a time."""

    projects: tuple[str, ...] = ("*",)
    runs: tuple[str, ...] = ("*",)
    rules: tuple[str, ...] = ("*",)
    until: datetime.datetime | None = None
    """With a time zone; None: for ever."""

    @field_validator("until")
    @classmethod
    def _has_zone(cls, value: datetime.datetime | None) -> datetime.datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("until needs a time zone: 2030-01-31T08:00:00Z")
        return value


class NotificationSettings(_Model):
    """The table [notifications]."""

    channels: dict[str, Channel] = {}
    routes: tuple[Route, ...] = ()
    silences: tuple[Silence, ...] = ()
    cooldown_s: float = Field(default=3600.0, ge=0)
    """Shortest time between two messages about one rule of one run, in seconds."""
    dashboard_url: str = ""
    """Address of the dashboard, for links in messages; "" for none."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name in self.channels:
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name):
                raise ValueError("names of channels have 1 to 32 letters, digits, - and _")
        named = {name for route in self.routes for name in route.channels}
        if unknown := sorted(named - self.channels.keys()):
            raise ValueError(f"a route names channels that do not exist: {', '.join(unknown)}")
        return self

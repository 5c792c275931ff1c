"""The structs of the collector itself and of its settings. Users import them from `schema`."""

from __future__ import annotations

import msgspec


class Viewer(msgspec.Struct, frozen=True):
    """The token of the request, without its secret."""

    id: str
    scope: str
    """read | admin"""
    project: str | None
    """The only project it gives access to; null: all."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of the collector."""

    name: str
    environment: str
    """The environment variable that sets it."""
    description: str
    value: str | None
    """null: not sent, because it is a secret, or an address or path of the collector's machine."""
    default: str | None
    """null as `value`."""
    is_set: bool
    """Whether it was given, in the environment, a file or an argument."""


class CollectorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a collector, and the rights of the token that asks."""

    viewer: Viewer
    settings: tuple[Setting, ...]
    thresholds: dict[str, dict[str, float]] = {}
    """Rule → threshold → value, where the collector changes the default. A run's own values, which
    are facts of the run, take precedence."""


class Deleted(msgspec.Struct, frozen=True):
    """A run that was deleted."""

    id: str
    removed_at: float | None = None
    """Until this time it can be restored (undelete); null if it was deleted permanently."""


class Version(msgspec.Struct, frozen=True):
    """The name and the version of the collector."""

    version: str
    database: str
    """Engine and its version."""
    rescue: bool = False
    """The database is damaged and only read; no batch is stored."""

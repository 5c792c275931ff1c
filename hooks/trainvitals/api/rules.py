"""The structs of the pages of the rules. Users import them from `schema`."""

from __future__ import annotations

import msgspec


class RuleName(msgspec.Struct, frozen=True):
    """A rule in the list."""

    code: str
    rule: str
    summary: str


class Rules(msgspec.Struct, frozen=True):
    """All rules."""

    rules: list[RuleName]


class Threshold(msgspec.Struct, frozen=True):
    """One threshold of a rule."""

    default: float
    meaning: str


class RulePage(msgspec.Struct, frozen=True, kw_only=True):
    """A rule's page. Texts are Markdown."""

    code: str
    rule: str
    summary: str
    what_it_detects: str
    why_it_matters: str
    evidence: str
    what_to_do: str
    when_it_is_wrong: str
    references: str
    fix: str = ""
    refuted_by: str = ""
    thresholds: dict[str, Threshold] = {}

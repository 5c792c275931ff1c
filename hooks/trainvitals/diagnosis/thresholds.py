"""Thresholds that a project or a run sets: check them, apply them to rules.

Comes in: a table such as `{"dead_relu": {"dead_share_error": 0.95}}`, from the settings.
Goes out: rules with these thresholds, the same as facts of a run, and a sentence for each entry
          that is not used.
Promise:  pure; an entry that is not used changes nothing.
Start at `chosen`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import NamedTuple

from trainvitals.diagnosis.rule import Rule

FACT = "threshold"
"""Prefix of the facts of a run that are thresholds: `threshold/dead_relu/dead_share_error`."""

Table = Mapping[str, Mapping[str, object]]
"""Name or code of a rule → name of a threshold → value."""


class Chosen(NamedTuple):
    """Rules with their thresholds."""

    rules: tuple[Rule, ...]
    facts: dict[str, float]
    """The changed thresholds as facts of the run, so that the collector applies them too."""
    problems: tuple[str, ...]
    """A sentence for each entry of the table that is not used."""


def chosen(rules: Sequence[Rule], table: Table) -> Chosen:
    """Return the rules with the thresholds of `table`; the other thresholds are unchanged."""
    known = {name: rule for rule in rules for name in (rule.name(), rule.code.lower())}
    facts: dict[str, float] = {}
    problems: list[str] = []
    for name, thresholds in table.items():
        rule = known.get(str(name).lower())
        if rule is None:
            problems.append(f"there is no rule {name!r}")
            continue
        for threshold, value in thresholds.items():
            try:
                facts[f"{FACT}/{rule.name()}/{threshold}"] = _checked(rule, threshold, value)
            except ValueError as error:
                problems.append(str(error))
    return Chosen(with_facts(rules, facts), facts, tuple(problems))


def with_facts(rules: Sequence[Rule], facts: Mapping[str, object]) -> tuple[Rule, ...]:
    """Return the rules with the thresholds among the facts of a run; others are ignored.

    A fact that a rule of this version cannot use (it was written by another version) is ignored.
    """
    changed: dict[str, dict[str, float]] = {}
    for rule, name, value in _thresholds(facts):
        changed.setdefault(rule, {})[name] = value
    return tuple(_with(rule, changed.get(rule.name(), {})) for rule in rules)


def _thresholds(facts: Mapping[str, object]) -> Iterator[tuple[str, str, float]]:
    for key, value in facts.items():
        prefix, _, rest = key.partition("/")
        rule, _, name = rest.partition("/")
        if prefix == FACT and name and isinstance(value, (int, float)):
            yield rule, name, value


def _with(rule: Rule, values: Mapping[str, float]) -> Rule:
    usable: dict[str, float] = {}
    for name, value in values.items():
        try:
            usable[name] = _checked(rule, name, value)
        except ValueError:
            continue  # another version of the rule wrote it
    return replace(rule, **usable) if usable else rule


def _checked(rule: Rule, name: str, value: object) -> float:
    """Return the value of a threshold. Raises ValueError with a sentence if it cannot be used."""
    defaults = {f.name: f.default for f in fields(rule) if "meaning" in f.metadata}
    if name not in defaults:
        known = ", ".join(defaults) or "no thresholds"
        raise ValueError(f"{rule.name()} has no threshold {name!r} (it has {known})")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{rule.name()}.{name} must be a number; got {value!r}")
    if isinstance(defaults[name], int):
        if value != int(value):
            raise ValueError(f"{rule.name()}.{name} must be an integer; got {value!r}")
        return int(value)
    return float(value)

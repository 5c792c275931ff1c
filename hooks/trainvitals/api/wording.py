"""Numbers and evidence as text, the same words in the terminal, the dashboard and the summaries.

Comes in: numbers and `Evidence`. Goes out: plain text, not escaped for any medium.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from trainvitals.api.schema import Evidence, Finding, Initialiser

OLD_STEPS_MIN = 10
OLD_SHARE_MIN = 0.02
"""The numbers of a finding are old if they are more than `OLD_STEPS_MIN` steps and more than this
share of the run's steps behind: the collector diagnoses a running run with some delay."""
_LARGE = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


class Row(NamedTuple):
    """One evidence item as text; an empty string where there is nothing to say."""

    quantity: str
    seen: str
    limit: str
    """ "reported above 0.5"."""
    healthy: str
    """ "healthy: 0 to 0.4"."""


def number(value: float | None, digits: int = 3) -> str:
    """Return a number in at most ten characters: `0.00034`, `1.2e−9`, `12,000`, `NaN`, `∞`.

    `digits`: significant ones of a number between 0.0001 and 1,000, at most 4.
    """
    if value is None:
        return "–"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}".replace("-", "−")
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}".replace("-", "−")
    if 1e-4 <= abs(value) < 1000:
        return f"{value:.{digits}g}".replace("-", "−")
    mantissa, exponent = f"{value:.2e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}".replace("-", "−")


def percent(share: float | None) -> str:
    """Return a share of one as a percentage: `0.8 %`, `−12 %`; never `−0 %`."""
    if share is None or not math.isfinite(share):
        return "–"
    text = f"{100 * share:.1f}" if 0 < abs(share) < 0.1 else f"{100 * share:.0f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return f"{text} %".replace("-", "−")


def change_percent(share: float | None) -> str:
    """Return a relative change as whole per cent with its sign: `+3 %`, `−12 %`, `0 %`."""
    if share is None or not math.isfinite(share):
        return "–"
    whole = round(100 * share)
    return f"{whole:+,} %".replace("-", "−") if whole else "0 %"


def ago(then: float, now: float) -> str:
    """Return the time from `then` to `now` in its largest unit."""
    seconds = max(0.0, now - then)
    if seconds < 2:
        return "just now"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago"


def times(factor: float) -> str:
    """Return a factor of at least 1 in words: `3.2 times`, `40,000 times`, `12 million times`.

    From 10^15 on, and for infinity, the number is written as a power of ten.
    """
    if not math.isfinite(factor):
        return "infinitely many times"
    if factor >= 1e15:
        return f"10^{math.floor(math.log10(factor))} times"
    for size, word in _LARGE:
        if factor >= size:
            return f"{_rounded(factor / size)} {word} times"
    return f"{_rounded(factor)} times"


def value_text(value: float | str | None, unit: str) -> str:
    """Return a value with its unit."""
    if isinstance(value, str):
        return value
    if value is None or math.isnan(value):
        return "not measured"
    if unit == "share":
        return percent(value)
    text = number(value)
    return f"{text} {unit}" if unit else text


def age_text(finding: Finding, step: int) -> str:
    """Return "numbers of step 310" if those of an open finding are clearly older than `step`.

    `step` is the last one of the diagnosis. Otherwise "": also for a resolved finding, and before
    the engine has set the step of the numbers.
    """
    behind = step - finding.last_step
    is_old = behind > max(OLD_STEPS_MIN, OLD_SHARE_MIN * step)
    if not finding.is_open or finding.last_step < 0 or not is_old:
        return ""
    return f"numbers of step {finding.last_step:,}"


_BEYOND = {"above": "more", "below": "less", "": "beyond"}


def row(evidence: Evidence) -> Row:
    """Return one evidence item as text, with the limit that was applied to this very value."""
    limit = ""
    if evidence.limit is not None:
        limit = value_text(evidence.limit, evidence.unit)
        if evidence.seen == evidence.limit:  # the rule includes its limit
            limit = f"reported at {limit} or {_BEYOND[evidence.direction]}"
        else:
            limit = f"reported {evidence.direction} {limit}"
    if evidence.text:
        limit = f"{limit} ({evidence.text})" if limit else evidence.text
    healthy = ""
    if evidence.healthy is not None:
        healthy = f"healthy: {_range(*evidence.healthy, evidence.unit)}"
    return Row(evidence.quantity, value_text(evidence.seen, evidence.unit), limit, healthy)


def _range(low: float | None, high: float | None, unit: str) -> str:
    if low is None:
        return f"at most {value_text(high, unit)}"
    if high is None:
        return f"at least {value_text(low, unit)}"
    if low == high:
        return value_text(low, unit)
    return f"{value_text(low, unit)} to {value_text(high, unit)}"


def _rounded(value: float) -> str:
    if value >= 100:
        return f"{float(f'{value:.2g}'):,.0f}"
    return f"{value:.2g}"


def initialiser_text(initialiser: Initialiser) -> str:
    """Return an initialiser in a few characters: xavier_normal (gain 1.67)."""
    # + 0.0: a constant of -0.0 is shown as 0.
    values = ", ".join(f"{k} {v + 0.0:.3g}" for k, v in initialiser.parameters.items())
    return f"{initialiser.name} ({values})" if values else initialiser.name

"""Format words and numbers for readers, and escape untrusted text.

Users choose the names of runs, projects, layers and scalars, and findings contain these names.
Streamlit interprets Markdown in nearly all elements. All such text is therefore escaped with
`plain` (text in a sentence), `prose` (text with `code` spans) or `literal` (a name).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable

from trainvitals.api.wording import ago as ago
from trainvitals.api.wording import number

TEXT_MAX = 2000
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&@^=\"'/])")
# Streamlit converts addresses to links and :name: to an icon even if their characters are escaped.
# A word joiner, which is invisible and allows no line break, prevents this.
_JOINER = "\u2060"
_CASE = re.compile(r"(?:^|(?<=[.:;]))\s*\((\d)\) ")
_REPLACED = re.compile(r"(?<=[:@])(?=\S)|(?<=www)(?=\.)", re.IGNORECASE)

SEVERITIES = ("error", "warning", "info")
SEVERITY_ICON = {
    "error": ":material/error:",
    "warning": ":material/warning:",
    "info": ":material/info:",
    "healthy": ":material/check_circle:",
    "too_early": ":material/hourglass_top:",
    "blind": ":material/visibility_off:",
    "failed": ":material/cancel:",
    "unknown": ":material/hourglass_empty:",
    "experiment": ":material/science:",
}
"""One shape per verdict, so that the meaning does not depend on colour alone."""
VERDICT_WORDS = {"too_early": "too early", "unknown": "not diagnosed yet"}
SEVERITY_SIGN = {"error": "✖", "warning": "▲", "info": "●", "healthy": "✔"}
SEVERITY_COLOUR = {
    "error": "red",
    "warning": "orange",
    "info": "blue",
    "healthy": "green",
    "too_early": "gray",
    "blind": "violet",
    "failed": "red",
    "unknown": "gray",
    "experiment": "gray",
}
STATE_ICON = {
    "running": ":material/play_arrow:",
    "lost": ":material/link_off:",
    "finished": ":material/flag:",
    "failed": ":material/close:",
    "stopped": ":material/stop:",
}
STATE_COLOUR = {"running": "blue", "lost": "orange", "failed": "red"}
STATES = tuple(STATE_ICON)


def clean(text: str) -> str:
    """Return `text` in one line, without control, bidirectional and invisible characters."""
    kept = (
        " " if c in "\t\n\r\u2028\u2029" else c
        for c in text[:TEXT_MAX]
        if c in "\t\n\r\u2028\u2029" or not unicodedata.category(c).startswith("C")
    )
    return "".join(kept).strip()


def plain(text: str) -> str:
    """Return Markdown that shows `text` literally: no links, images, HTML, icons or formulas."""
    return _MARKDOWN.sub(r"\\\1", _REPLACED.sub(_JOINER, clean(text)))


def literal(text: str) -> str:
    """Return a code span that shows a name; Markdown, HTML and icons have no effect inside it."""
    name = clean(text)
    if not name:
        return ""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", name)), default=0))
    # A space separates the name's own backticks from the fence; Markdown removes the space.
    pad = " " if name.startswith("`") or name.endswith("`") else ""
    return f"{fence}{pad}{name}{pad}{fence}"


def prose(text: str) -> str:
    """Return Markdown in which `code` spans are kept and all other text is escaped."""
    parts = clean(text).split("`")
    if len(parts) % 2 == 0:
        return plain(text)
    return "".join(literal(part) if i % 2 else _spaced(part) for i, part in enumerate(parts))


def bulleted(text: str) -> str:
    """Return `prose` for each line; the advice of a rule is a list with one item per line.

    The cases of a rule, "(1) … (2) …" between sentences, are a numbered list.
    """
    return "\n".join(
        f"- {prose(line[2:])}" if line.startswith(("- ", "* ")) else _numbered(line)
        for line in text.splitlines()
    )


def _numbered(text: str) -> str:
    before, *parts = _CASE.split(text)
    numbers, cases = parts[::2], parts[1::2]
    if len(cases) < 2 or numbers != [str(i + 1) for i in range(len(cases))]:
        return prose(text)
    items = (f"{number}. {prose(case)}" for number, case in zip(numbers, cases, strict=True))
    return "\n".join([f"{prose(before)}\n", *items])


def _spaced(part: str) -> str:
    # `plain` strips spaces, but the spaces beside a code span must be kept.
    head, tail = part[:1].isspace(), part[-1:].isspace()
    return f"{' ' * head}{plain(part)}{' ' * (tail and bool(part.strip()))}"


def shortened(text: str, length_max: int) -> str:
    """Return the cleaned text; if it is too long, replace its middle by "…"."""
    text = clean(text)
    if len(text) <= length_max:
        return text
    head = (length_max - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length_max - 1 - head) :]}"


def duration(seconds: float) -> str:
    """Return a time span in its two largest units, from 0.4 s to days."""
    if seconds < 1:
        return f"{number(max(0.0, seconds), 1)} s"
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:2])


def in_future(then: float, now: float) -> str:
    """Return the time from `now` to `then` in its two largest units; "now" if it has passed."""
    return "now" if then <= now else f"in {duration(then - now)}"


def bytes_text(count: int) -> str:
    """Return a number of bytes in the largest unit in which it is a whole number: 64 MiB."""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    at = 0
    while count and count % 1024 == 0 and at < len(units) - 1:
        count, at = count // 1024, at + 1
    return f"{count:,} {units[at]}"


def steps(count: int) -> str:
    """Return a number of steps with the word in singular or plural."""
    return f"{count:,} step{'' if count == 1 else 's'}"


def rate(per_second: float | None) -> str:
    """Return the speed in steps per second, or in seconds per step for slow runs."""
    if not per_second or not math.isfinite(per_second):
        return "–"
    if per_second < 1:
        return f"{number(round(1 / per_second, 1))} s/step"
    return f"{number(round(per_second, 1))} steps/s"


def words(name: str) -> str:
    """Return an identifier as words: dead_share → dead share. Not escaped."""
    return clean(name).replace("_", " ")


STATISTIC_WORDS = {
    "l2": "L2 norm",
    "rms": "RMS",
    "std": "spread (std)",
    "abs_mean": "mean of |x|",
    "magnitude_p05": "5th percentile of |x|",
    "magnitude_p50": "median of |x|",
    "magnitude_p95": "95th percentile of |x|",
    "ratio": "update ratio",
    "nonfinite": "NaN and ∞",
    "sample_std": "spread across samples",
    "unit_mean_std": "spread of the units' means",
    "drift_rms": "drift (RMS)",
    "drift_mean": "drift (mean)",
}


def statistic_words(name: str) -> str:
    """Return the name of a statistic in words."""
    return STATISTIC_WORDS.get(name, words(name))


def at_place(where: str) -> str:
    """Return Markdown that names the place, or the run as a whole."""
    name = literal(where)
    return f"at {name}" if name else "in the whole run"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table; the cells must already be Markdown."""
    head = list(header)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    # A vertical bar ends the cell even inside a code span.
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(markdown: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", markdown)

"""Words and numbers as people read them, and the one escape for text that is not ours.

Names of runs, projects, layers and users' scalars are chosen by whoever wrote a training script,
and findings repeat them. Streamlit reads Markdown nearly everywhere, so all such text passes
`plain` (in a sentence), `prose` (with `code` in it) or `literal` (a name) on its way to a page.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable

from trainvitals.api.wording import number

TEXT_MAX = 2000
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&@^=\"'/])")
# Streamlit replaces these in text even where their signs are escaped: addresses become links,
# :name: an icon. A word joiner is invisible and takes no line break, and they stay what they are.
_JOINER = "\u2060"
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
}
VERDICT_WORDS = {"too_early": "too early", "unknown": "not diagnosed yet"}
"""A shape for each, so that colour is not the only carrier."""
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
    """Return `text` in one line, without control, direction-turning and invisible characters."""
    kept = (
        " " if c in "\t\n\r\u2028\u2029" else c
        for c in text[:TEXT_MAX]
        if c in "\t\n\r\u2028\u2029" or not unicodedata.category(c).startswith("C")
    )
    return "".join(kept).strip()


def plain(text: str) -> str:
    """Return Markdown that shows `text` and nothing else: no link, image, HTML, icon or formula."""
    return _MARKDOWN.sub(r"\\\1", _REPLACED.sub(_JOINER, clean(text)))


def literal(text: str) -> str:
    """Return a code span that shows a name. In a span Markdown, HTML and icons mean nothing."""
    name = clean(text)
    if not name:
        return ""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", name)), default=0))
    # A space inside keeps a name's own backticks off the fence; Markdown takes it away again.
    pad = " " if name.startswith("`") or name.endswith("`") else ""
    return f"{fence}{pad}{name}{pad}{fence}"


def prose(text: str) -> str:
    """Return Markdown of sentences in which `code` stays code and all else is plain."""
    parts = clean(text).split("`")
    if len(parts) % 2 == 0:
        return plain(text)
    return "".join(literal(part) if i % 2 else _spaced(part) for i, part in enumerate(parts))


def bulleted(text: str) -> str:
    """Return `prose` line by line: a rule's advice is a list, one item a line."""
    return "\n".join(
        f"- {prose(line[2:])}" if line.startswith(("- ", "* ")) else prose(line)
        for line in text.splitlines()
    )


def _spaced(part: str) -> str:
    # `plain` strips; the spaces beside a code span belong to the sentence.
    head, tail = part[:1].isspace(), part[-1:].isspace()
    return f"{' ' * head}{plain(part)}{' ' * (tail and bool(part.strip()))}"


def shortened(text: str, length_max: int) -> str:
    """Return the cleaned text, its middle left out when too long: names differ at their ends."""
    text = clean(text)
    if len(text) <= length_max:
        return text
    head = (length_max - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length_max - 1 - head) :]}"


def duration(seconds: float) -> str:
    """Return a time span in its two largest units, from 0 s to days."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:2])


def ago(then: float, now: float) -> str:
    """Return how long before `now` it was, in its largest unit."""
    seconds = max(0.0, now - then)
    if seconds < 2:
        return "just now"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago"


def steps(count: int) -> str:
    """Return a number of steps with its word."""
    return f"{count:,} step{'' if count == 1 else 's'}"


def rate(per_second: float | None) -> str:
    """Return a speed in steps; slow runs in seconds a step."""
    if not per_second or not math.isfinite(per_second):
        return "–"
    if per_second < 1:
        return f"{number(round(1 / per_second, 1))} s a step"
    return f"{number(round(per_second, 1))} steps/s"


def words(name: str) -> str:
    """Return an identifier as words: dead_share → dead share. Not escaped."""
    return clean(name).replace("_", " ")


STATISTIC_WORDS = {
    "l2": "L2 norm",
    "rms": "RMS",
    "std": "spread (std)",
    "abs_mean": "mean of |x|",
    "ratio": "update ratio",
    "nonfinite": "NaN and ∞",
    "sample_std": "spread across samples",
    "unit_mean_std": "spread of the units' means",
    "drift_rms": "drift (RMS)",
    "drift_mean": "drift (mean)",
}


def statistic_words(name: str) -> str:
    """Return what a statistic is called."""
    return STATISTIC_WORDS.get(name, words(name))


def at_place(where: str) -> str:
    """Return Markdown that says where; the run as a whole has words too."""
    name = literal(where)
    return f"at {name}" if name else "in the whole run"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table of cells that are Markdown already."""
    head = list(header)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    # A bar inside a code span would still end the cell.
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(markdown: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", markdown)

"""Text that is safe to show, and numbers that are short to read."""

from __future__ import annotations

import math
import unicodedata

_LENGTH_MAX = 4000


def clean(text: str, *, lines: bool = False) -> str:
    """Return `text` without what could move a cursor, colour a terminal or turn its direction.

    Line breaks and tabs become a space, unless `lines`. Names of layers and runs are chosen by
    whoever wrote the training script: an escape sequence in one must not reach a terminal.
    """
    kept = []
    for character in text[:_LENGTH_MAX]:
        if character == "\n" and lines:
            kept.append(character)
        elif character in "\t\n\r\u2028\u2029":
            kept.append(" ")
        elif not unicodedata.category(character).startswith("C"):
            # C: control, format (bidirectional overrides, zero-width), surrogate, unassigned.
            kept.append(character)
    return "".join(kept)


def shortened(text: str, length_max: int) -> str:
    """Return the cleaned `text` with its middle left out where it is too long.

    The middle, because the end of a parameter's name tells weight from bias.
    """
    text = clean(text)
    if len(text) <= length_max:
        return text
    head = (length_max - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length_max - 1 - head) :]}"


def number(value: float) -> str:
    """Return a number in at most nine characters: `0.00034`, `1.2e-09`, `12,000`, `NaN`, `∞`."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−").replace("e−0", "e−").replace("e+0", "e+")


def share(value: float) -> str:
    """Return a share of one as a percentage: `0.8 %`."""
    return f"{100 * value:.1f} %" if abs(value) < 0.1 else f"{100 * value:.0f} %"


def at_place(where: str) -> str:
    """Return `at <place>`, cleaned; "" is the run as a whole."""
    return f"at {clean(where)}" if clean(where) else "of the whole run"


def counted(count: int, noun: str) -> str:
    """Return `1 step`, `2 steps`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"

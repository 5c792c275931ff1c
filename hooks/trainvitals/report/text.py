"""Make text safe for a terminal."""

from __future__ import annotations

import unicodedata

from trainvitals.api.schema import Prevented

_LENGTH_MAX = 4000


def clean(text: str, *, lines: bool = False) -> str:
    """Return `text` without control and formatting characters.

    Line breaks and tabs become a space, unless `lines`. Names of layers and runs come from the
    training script: an escape sequence in a name must not reach a terminal.
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


def failure(error: str) -> str:
    """Return an exception's class and message in one line, without a period at its end.

    A message with a traceback, such as that of an exception in a worker of a DataLoader, is
    reduced to its first line and the exception below the traceback.
    """
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    if any(line.endswith("Traceback (most recent call last):") for line in lines[1:]):
        lines = [f"{lines[0].rstrip('.')}: {lines[-1]}"]
    return clean(" ".join(lines)).rstrip(". ")


def shortened(text: str, length_max: int) -> str:
    """Return the cleaned `text`, with its middle replaced by `…` if it is too long.

    The end of a parameter's name is kept, because it distinguishes weight and bias.
    """
    text = clean(text)
    if len(text) <= length_max:
        return text
    head = (length_max - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length_max - 1 - head) :]}"


def at_place(where: str) -> str:
    """Return ` at <place>`, cleaned; "" for a finding about the whole run."""
    return f" at {clean(where)}" if clean(where) else ""


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return `1 step`, `2 steps`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {plural or noun + 's'}"


def prevented_text(prevented: Prevented) -> str:
    """Return how many updates the guard prevented, and in which steps."""
    first, last = prevented.first_step, prevented.last_step
    several = f"first in step {first:,}, last in step {last:,}"
    steps = several if last > first else f"in step {first:,}"
    return f"{counted(prevented.updates, 'update')} with non-finite gradients prevented, {steps}"

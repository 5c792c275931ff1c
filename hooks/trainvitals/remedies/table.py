"""Rows as an aligned text table."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with one line per row; columns that are empty in every row are left out."""
    used = [i for i in range(len(header)) if any(row[i] for row in rows)] or list(
        range(len(header))
    )
    lines = [[row[i] for i in used] for row in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(used))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def number(value: float | None) -> str:
    """Return a number with three digits; "" for None."""
    return "" if value is None else f"{value + 0.0:.3g}"  # + 0.0: not "-0"

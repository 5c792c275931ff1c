"""Rule docstrings as pages: one source for `why`, `advice`, the docs and the dashboard.

Comes in: a docstring. Goes out: its summary and its sections, by field name.
"""

from __future__ import annotations

import inspect
import re

SECTIONS = {
    "What it detects": "what_it_detects",
    "Why it matters": "why_it_matters",
    "Evidence": "evidence",
    "What to do": "what_to_do",
    "When it is wrong": "when_it_is_wrong",
    "References": "references",
}
"""Title of a section → the field of `trainvitals.api.schema.RulePage` that holds its text."""


def sections_of(name: str, docstring: str | None) -> dict[str, str]:
    """Return summary and sections of a rule's docstring, as Markdown, by field name.

    Raises:
        ValueError: the docstring of `name` lacks a section, has an empty one, or has them in
            another order.
    """
    text = inspect.cleandoc(docstring or "")
    summary, *parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    titles = [title.strip() for title in parts[::2]]
    bodies = [_unwrapped(body) for body in parts[1::2]]
    if titles != list(SECTIONS) or not all(bodies) or not summary.strip():
        raise ValueError(
            f"The page of {name} must have a summary and the sections {', '.join(SECTIONS)}, none "
            f"empty, in this order; it has {', '.join(titles)}."
        )
    return {
        "summary": _unwrapped(summary),
        **dict(zip(SECTIONS.values(), bodies, strict=True)),
    }


def _unwrapped(text: str) -> str:
    """Return the text with its hard line breaks joined, paragraphs and list items kept."""
    return re.sub(r"(?<!\n)\n(?!\n|[-*] |\d+\. ) *", " ", text.strip())

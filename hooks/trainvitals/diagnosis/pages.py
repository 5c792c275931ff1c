"""Rule docstrings as pages: one source for `why`, `advice`, the docs and the dashboard."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainvitals.diagnosis.rule import Rule

SECTIONS = (
    "What it detects",
    "Why it matters",
    "Evidence",
    "What to do",
    "When it is wrong",
    "References",
)


@dataclass(frozen=True)
class Page:
    """A rule's docstring, taken apart. All texts are Markdown, one paragraph or list each."""

    code: str
    rule: str
    summary: str
    what_it_detects: str
    why_it_matters: str
    evidence: str
    what_to_do: str
    when_it_is_wrong: str
    references: str


@cache
def page_of(rule: type[Rule]) -> Page:
    """Return the page of `rule`.

    Raises:
        ValueError: the docstring lacks a section, has an empty one, or has them in another order.
    """
    text = inspect.cleandoc(rule.__doc__ or "")
    summary, *parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    titles = tuple(title.strip() for title in parts[::2])
    bodies = [_unwrapped(body) for body in parts[1::2]]
    if titles != SECTIONS or not all(bodies) or not summary.strip():
        raise ValueError(
            f"The page of {rule.__name__} must have a summary and the sections "
            f"{', '.join(SECTIONS)}, none empty, in this order; it has {', '.join(titles)}."
        )
    return Page(rule.code, rule.name(), _unwrapped(summary), *bodies)


def _unwrapped(text: str) -> str:
    """Return the text with its hard line breaks joined, paragraphs and list items kept."""
    return re.sub(r"(?<!\n)\n(?!\n|[-*] |\d+\. )", " ", text.strip())

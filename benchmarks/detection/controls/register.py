"""`control`: a healthy variant of a program, registered once for each base."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detection.case import Case
from detection.fourth_part import mapping as fourth_part
from detection.program import Change
from detection.second_part import mapping as second_part
from detection.third_part import mapping as third_part
from detection.unseen import BASES

CONTROLS: dict[str, Case] = {}


def added(title: str) -> list[str]:
    """Return the bases that the mappings add to the control `title`."""
    parts = (second_part, third_part, fourth_part)
    return [base for part in parts for base in part.CONTROLS.get(title, "").split()]


def control(on: str, *, name: str = "", **arguments: Any) -> Callable[[Any], Any]:
    """Register a variant of the bases `on`; its name is the function's.

    mapping.py of second_part/, third_part/ and fourth_part/ adds more bases by this name.
    """

    def register(change: Any) -> Any:
        title = name or change.__name__
        for base in [*on.split(), *added(title)]:
            case_name = f"{title}@{base}"
            assert case_name not in CONTROLS, case_name
            applied: Change = lambda p: change(p, **arguments)  # noqa: E731
            CONTROLS[case_name] = Case(case_name, BASES[base], None, applied)
        return change

    return register

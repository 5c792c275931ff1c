"""`control`: a healthy variant of a program, registered once for each base."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detection.case import Case
from detection.held_out import BASES
from detection.held_out.mapping import CONTROLS as HELD_OUT
from detection.program import Change

CONTROLS: dict[str, Case] = {}


def control(on: str, *, name: str = "", **arguments: Any) -> Callable[[Any], Any]:
    """Register a variant of the bases `on`; its name is the function's.

    held_out/mapping.py adds held-out bases by this name.
    """

    def register(change: Any) -> Any:
        title = name or change.__name__
        for base in [*on.split(), *HELD_OUT.get(title, "").split()]:
            case_name = f"{title}@{base}"
            assert case_name not in CONTROLS, case_name
            applied: Change = lambda p: change(p, **arguments)  # noqa: E731
            CONTROLS[case_name] = Case(case_name, BASES[base], None, applied)
        return change

    return register

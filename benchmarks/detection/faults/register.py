"""`fault`: a change of a program, registered once for each base that it is put into."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from detection.case import ANYWHERE, Case, Class, Fault, Places
from detection.fourth_part import mapping as fourth_part
from detection.program import Change, Program
from detection.second_part import mapping as second_part
from detection.third_part import mapping as third_part
from detection.unseen import BASES

CASES: dict[str, Case] = {}

Apply = Callable[..., Places | None]


def added(title: str) -> list[str]:
    """Return the bases that the mappings add to the fault `title`."""
    parts = (second_part, third_part, fourth_part)
    return [base for part in parts for base in part.FAULTS.get(title, "").split()]


def fault(
    kind: Class,
    causes: str,
    on: str,
    *,
    given: Change | None = None,
    onset: int = 0,
    name: str = "",
    **arguments: Any,
) -> Callable[[Apply], Apply]:
    """Register a fault; its name is the function's.

    `causes` are names of rules and `on` names of bases, separated by spaces; mapping.py of
    second_part/, third_part/ and fourth_part/ adds more bases by the fault's name. The function
    changes the program and returns globs of the acceptable places, None when there is no single
    place.
    """

    def register(apply: Apply) -> Apply:
        title = name or apply.__name__

        def placed(program: Program) -> Places:
            return partial(apply, **arguments)(program) or ANYWHERE

        made = Fault(title, kind, frozenset(causes.split()), placed, given, onset)
        for base in [*on.split(), *added(title)]:
            case = Case(f"{title}@{base}", BASES[base], made)
            assert case.name not in CASES, case.name
            CASES[case.name] = case
        return apply

    return register

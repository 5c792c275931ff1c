"""`published` and `healthy`: register a program after a published collection of faults.

Comes in: functions that build the faulty program or its repaired one.
Goes out: `PUBLISHED` and `HEALTHY`, cases that the bench runs like those of faults/: of six
          lists. Numbers F and H are the first list, Q and KQ the third, R and KR the fourth, T and
          KT the fifth, U and KU the sixth, all others the second. Rules may be tuned on all lists
          but the sixth, which is held out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import torch

from detection.case import ANYWHERE, Base, Case, Class, Fault, Places, Split
from detection.program import Program

Make = Callable[[int, bool], Program]
"""Builds a program from a seed; the second argument is true for the repaired program."""

RULES: Final = {
    "constant_input": "constant_or_duplicate_input",
    "input_scale_too_small": "unnormalised_input",
    "loss_unbounded_below": "loss_task_mismatch",
    "gradient_ascent": "loss_task_mismatch",
    "label_misaligned": "label_noise",
}
"""Diagnosis of the list → the rule that reports it. Other names are names of rules.

A name without a rule stays in the acceptable causes and is never matched.
"""


@dataclass(frozen=True)
class Published(Case):
    """A program that is built faulty or repaired as a whole."""

    make: Make = field(kw_only=True)
    source: str = field(kw_only=True)
    """The collection and the case in it."""

    def build(self, seed: int, *, repaired: bool = False) -> tuple[Program, Places]:
        """Return the program and the acceptable places: the list names no places."""
        own_seed = self.own_seed(seed)
        torch.manual_seed(own_seed)
        return self.make(own_seed, repaired), () if repaired else ANYWHERE


PUBLISHED: dict[str, Published] = {}
HEALTHY: dict[str, Published] = {}
FIRST: Final = "FH"
"""First letters of the numbers of the first list."""
THIRD: Final = ("Q", "KQ")
"""Beginnings of the numbers of the third list."""
FOURTH: Final = ("R", "KR")
"""Beginnings of the numbers of the fourth list."""
FIFTH: Final = ("T", "KT")
"""Beginnings of the numbers of the fifth list."""
SIXTH: Final = ("U", "KU")
"""Beginnings of the numbers of the sixth list, which is held out."""


def published(
    kind: Class, number: str, source: str, causes: str, *, onset: int = 0
) -> Callable[[Make], Make]:
    """Register the fault `number` of the list; `causes` are diagnoses, separated by spaces."""
    accepted = frozenset(RULES.get(cause, cause) for cause in causes.split())

    def register(make: Make) -> Make:
        name = f"{number}_{make.__name__}"
        fault = Fault(name, kind, accepted, lambda _: ANYWHERE, onset=onset)
        _add(PUBLISHED, number, name, fault, make, source)
        return make

    return register


def healthy(number: str) -> Callable[[Callable[[int], Program]], Callable[[int], Program]]:
    """Register the healthy program `number` of the list."""

    def register(make: Callable[[int], Program]) -> Callable[[int], Program]:
        name = f"{number}_{make.__name__}"
        _add(HEALTHY, number, name, None, lambda seed, _: make(seed), "trap of a healthy program")
        return make

    return register


def _add(
    to: dict[str, Published], number: str, name: str, fault: Fault | None, make: Make, source: str
) -> None:
    assert number not in to, number
    split = Split.HELD_OUT if number.startswith(SIXTH) else Split.TUNING
    base = Base(name, "published", name, split, partial(_repaired, make))
    to[number] = Published(name, base, fault, make=make, source=source)


def _repaired(make: Make, seed: int) -> Program:
    return make(seed, True)

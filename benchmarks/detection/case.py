"""The cases of the benchmark: faults with their repaired twins, and healthy controls.

Start at `Case`. faults/ and controls/ fill the lists; nothing here depends on a rule's code.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch

from detection.program import Change, Program

Places = tuple[str, ...]
ANYWHERE: Places = ("*",)
"""The fault has no single place; such cases are left out of "place right"."""
NO_RULES: frozenset[str] = frozenset()


class Class(StrEnum):
    """Class of a fault."""

    WIRING = "wiring"
    INITIALISATION = "initialisation"
    OPTIMIZER = "optimizer"
    LOSS = "loss"
    DATA = "data"
    FLOW = "flow"
    BIAS = "bias"
    NUMERIC = "numeric"
    FIT = "fit"
    SILENT = "silent success"


class Split(StrEnum):
    """Which rules may be tuned on a case."""

    TUNING = "tuning"
    HELD_OUT = "held-out"


@dataclass(frozen=True)
class Base:
    """A healthy program: an architecture on a data set."""

    name: str
    family: str
    data: str
    split: Split
    build: Callable[[int], Program]


@dataclass(frozen=True)
class Fault:
    """A change that breaks a program; `apply` returns the acceptable places as globs."""

    name: str
    kind: Class
    causes: frozenset[str]
    apply: Callable[[Program], Places]
    given: Change | None = None
    """A change of both the faulty program and its twin, so that they differ by the fault only."""
    onset: int = 0
    """The step from which the fault acts."""


@dataclass(frozen=True)
class Case:
    """A fault in a base, or a healthy control when `fault` is None."""

    name: str
    base: Base
    fault: Fault | None
    change: Change | None = None
    """The difference between a control and its base."""

    @property
    def kind(self) -> str:
        return self.fault.kind if self.fault else "healthy"

    @property
    def causes(self) -> frozenset[str]:
        return self.fault.causes if self.fault else NO_RULES

    def own_seed(self, seed: int) -> int:
        """Return the seed of this case, which differs from that of other cases."""
        return (zlib.crc32(self.name.encode()) + seed) % 2**31

    def build(self, seed: int, *, repaired: bool = False) -> tuple[Program, Places]:
        """Return the program and the acceptable places; `repaired` leaves the fault out."""
        own_seed = self.own_seed(seed)
        torch.manual_seed(own_seed)
        program = self.base.build(own_seed)
        if self.change:
            self.change(program)
        if self.fault is None:
            return program, ()
        if self.fault.given:
            self.fault.given(program)
        return program, () if repaired else self.fault.apply(program)

"""What an initialisation does to each parameter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from trainvitals.remedies.table import number, text_table

_HEADER = (
    "parameter",
    "module",
    "fan in",
    "fan out",
    "followed by",
    "strategy",
    "std before",
    "std after",
    "reason",
)


@dataclass(frozen=True)
class Row:
    """One parameter. `std_before` and `std_after` are over its entries; None if it has no data."""

    parameter: str
    module: str
    """Class of the module that owns it."""
    fan_in: float | None
    fan_out: float | None
    nonlinearity: str
    """The nonlinearity that follows; "" if none is known."""
    strategy: str
    """"left" for a parameter that is not changed."""
    std_before: float | None
    std_after: float | None
    reason: str

    @property
    def is_changed(self) -> bool:
        """Whether the parameter gets new values."""
        return self.strategy != "left"


@dataclass(frozen=True)
class Plan(Sequence[Row]):
    """The rows of all parameters, in the order of the model; prints as a table."""

    rows: tuple[Row, ...]
    applied: bool
    """False after a dry run."""

    def of(self, parameter: str) -> Row:
        """Return the row of a parameter. Raises KeyError if there is none of this name."""
        for row in self.rows:
            if row.parameter == parameter:
                return row
        raise KeyError(parameter)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __str__(self) -> str:
        return text_table(
            _HEADER,
            [
                (
                    row.parameter,
                    row.module,
                    number(row.fan_in),
                    number(row.fan_out),
                    row.nonlinearity,
                    row.strategy,
                    number(row.std_before),
                    number(row.std_after),
                    row.reason,
                )
                for row in self.rows
            ],
        )

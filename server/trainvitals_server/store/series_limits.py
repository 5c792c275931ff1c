"""Limit the number of series of a run, and of all running runs.

A series is one statistic of one place of one stream. Processes of a run measure the same series, so
the series of a run are those of its process with the most; of several layouts of a stream, the
largest counts.
Start at `SeriesLimits.check`; it runs in the transaction that stores a batch with a layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from trainvitals_server.store.models import Run, Source, Track
from trainvitals_server.store.statements import Statement, Values
from trainvitals_server.store.types import RequestRefused


@dataclass(frozen=True)
class SeriesLimits:
    """Maximum numbers of series."""

    run_max: int = 20_000
    running_max: int = 150_000
    """Of all runs in state `running`."""

    def check(self, connection: sa.Connection, source: bytes) -> None:
        """Check the limits after the layouts of `source` (its key) were stored.

        Raises:
            RequestRefused: too_many_series when the run has too many; collector_full when all
                running runs have too many, which passes when a run ends.
        """
        mine = _number(connection, SERIES_OF_RUN, {"key": source})
        if mine > self.run_max:
            raise RequestRefused(
                f"The run has {mine} series (statistics × places); the limit is {self.run_max}. "
                "Watch fewer modules, or raise run_series_max on the collector.",
                reason="too_many_series",
            )
        every = _number(connection, SERIES_OF_RUNNING, {})
        if every > self.running_max:
            raise RequestRefused(
                f"The running runs have {every} series; the limit is {self.running_max}. Raise "
                "series_max on the collector, or use another collector.",
                reason="collector_full",
            )


def _series(which: sa.ColumnElement[bool]) -> sa.Select[int]:
    """Return the query for the sum over runs of the series of the process with the most."""
    width = Track.places * Track.statistics
    streams = (
        sa.select(Source.run_pk, Track.source_pk, sa.func.max(width).label("series"))
        .join(Source, Source.pk == Track.source_pk)
        .where(which)
        .group_by(Source.run_pk, Track.source_pk, Track.stream)
        .subquery()
    )
    sources = (
        sa.select(streams.c.run_pk, sa.func.sum(streams.c.series).label("series"))
        .group_by(streams.c.run_pk, streams.c.source_pk)
        .subquery()
    )
    runs = (
        sa.select(sa.func.max(sources.c.series).label("series"))
        .group_by(sources.c.run_pk)
        .subquery()
    )
    return sa.select(sa.func.sum(runs.c.series).label("series"))


_MINE = sa.select(Source.run_pk).where(Source.key == sa.bindparam("key")).scalar_subquery()
_RUNNING = sa.select(Run.pk).where(Run.state == "running")
SERIES_OF_RUN: Final = Statement(_series(Source.run_pk == _MINE))
SERIES_OF_RUNNING: Final = Statement(_series(Source.run_pk.in_(_RUNNING)))


def _number(connection: sa.Connection, statement: Statement, values: Values) -> int:
    row = statement.one(connection, values)
    return int(row.series or 0)

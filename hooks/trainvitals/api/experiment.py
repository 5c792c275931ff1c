"""The structs of the result of an experiment, as a collector keeps it. Users import from `schema`.

An experiment is a run with the tag `experiment`; its configuration has an `Experiment` under the
key `experiment`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from trainvitals.api.schema import Run

TAG = "experiment"
"""The tag of the runs, and the key in their configurations."""


def is_result(run: Run) -> bool:
    """Return whether a run is the result of an experiment and not a training with that tag.

    A result has ended and has no step of its own; its end is recorded at step 0.
    """
    return TAG in run.tags and run.state == "finished" and run.step <= 0 and run.loss is None


class ExperimentRow(msgspec.Struct, frozen=True, kw_only=True):
    """One choice over all seeds."""

    choice: str
    cells: tuple[str, ...]
    """The table of the result as text, in the order of the header."""
    learned: bool


class ExperimentCurve(msgspec.Struct, frozen=True, kw_only=True):
    """The metric of one choice on the held-out data during the training; null: not finite."""

    choice: str
    steps: tuple[int, ...]
    low: tuple[float | None, ...]
    """The smallest value of all seeds."""
    mean: tuple[float | None, ...]
    high: tuple[float | None, ...]
    """The largest value of all seeds."""
    seeds: tuple[int, ...]
    """Number of trainings with a finite value."""


class ExperimentSignal(msgspec.Struct, frozen=True, kw_only=True):
    """The signal of one choice through the depth, before the training."""

    choice: str
    layers: tuple[str, ...]
    S: tuple[float | None, ...]
    """Standard deviation of the output across samples, geometric mean over the seeds."""


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an experiment."""

    metric: str
    higher_is_better: bool
    steps: int
    seeds: int
    best: str | None
    """The choice that is proven to be better than every other one; null without a winner."""
    tied: tuple[str, ...]
    reason: str
    notes: tuple[str, ...] = ()
    header: tuple[str, ...]
    rows: tuple[ExperimentRow, ...]
    curves: tuple[ExperimentCurve, ...]
    signals: tuple[ExperimentSignal, ...]

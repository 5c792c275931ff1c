"""The result of an experiment: one row per choice, the best of them, and the reason.

Comes in: the outcomes of all trainings. Goes out: a `Result`, which prints as a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainvitals.api.wording import change_percent
from trainvitals.experiments.trial import Outcome
from trainvitals.remedies.table import number, text_table


@dataclass(frozen=True)
class Row:
    """One choice over all seeds. None: not finite in every training, or not defined."""

    choice: str
    final_loss: float | None
    """Mean of the choice's own loss over the last 10 % of the steps. Different losses have
    different units: compare `metric`."""
    metric: float | None
    """Mean on the held-out data."""
    low: float | None
    high: float | None
    """The 95 % interval of `metric` over the seeds."""
    steps_to_threshold: float | None
    """Median number of steps until the metric has gone 90 % of the way from a constant prediction
    to the best final metric of all choices; None unless most of the trainings get there."""
    robustness: float | None
    """Relative change of the metric when 10 % of the training targets are wrong: 0 for none,
    negative for worse; None unless every training learned."""
    calibration_error: float | None
    """Expected calibration error, 15 bins, 0 to 1; None for a regression."""
    signal_ratio: float | None
    """S of the last hidden layer over S of the first, before the training (geometric mean)."""
    learned: bool
    """More than half of the trainings are clearly better than a constant prediction: a tenth of the
    way to a perfect one, and two standard errors; with a metric of the user: their loss fell by a
    tenth."""
    diagnosis: str
    """The most frequent headline of the trainings; "" without one."""


HEADER = (
    "choice",
    "metric",
    "95 % interval",
    "final loss",
    "steps",
    "robustness",
    "ECE",
    "signal",
    "learned",
    "diagnosis",
)


@dataclass(frozen=True)
class Result:
    """The rows of all choices, in the given order."""

    rows: tuple[Row, ...]
    best: str | None
    """The choice that is proven to be better than every other one; None without a winner."""
    tied: tuple[str, ...]
    """Without a winner: the choice with the best metric, and those that it does not beat."""
    reason: str
    """Why, in one sentence."""
    metric: str
    higher_is_better: bool
    threshold: float | None
    """The metric that `steps_to_threshold` refers to."""
    steps: int
    seeds: tuple[int, ...]
    outcomes: tuple[Outcome, ...]
    """Every training."""
    notes: tuple[str, ...] = ()

    def row(self, choice: str) -> Row:
        """Return the row of a choice. Raises KeyError if there is none of this name."""
        for row in self.rows:
            if row.choice == choice:
                return row
        raise KeyError(choice)

    def to_html(self, path: str | Path) -> Path:
        """Write the result as one HTML file without external parts, and return its path."""
        from trainvitals.experiments.page import page

        target = Path(path)
        target.write_text(page(self), encoding="utf-8")
        return target

    def send(self, name: str, *, collector: str | None = None, project: str | None = None) -> str:
        """Send the result to a collector, as one run with the tag `experiment`; return its id.

        The dashboard's page Experiments shows it. `collector` and `project`: None for those of the
        settings. Batches that the collector does not accept within five seconds are kept on disk
        and sent by a later run, as for every run.

        Raises ValueError without a collector, or for a name or URL that is not valid.
        """
        from trainvitals.experiments.publish import send

        return send(self, name, collector=collector, project=project)

    def __str__(self) -> str:
        """Return a table, and the reason below it."""
        title = f"{self.metric}, {self.steps} steps, {len(self.seeds)} seeds"
        table = text_table(HEADER, [cells(row) for row in self.rows])
        return "\n".join([title, table, self.reason, *self.notes])


def cells(row: Row) -> Sequence[str]:
    """Return the cells of a row, in the order of the header."""
    known = row.low is not None
    return (
        row.choice,
        number(row.metric) if row.metric is not None else "diverged",
        f"{number(row.low)} to {number(row.high)}" if known else "",
        number(row.final_loss),
        number(row.steps_to_threshold),
        "" if row.robustness is None else change_percent(row.robustness),
        number(row.calibration_error),
        number(row.signal_ratio),
        "yes" if row.learned else "no",
        row.diagnosis,
    )

"""TV952: some steps of the run are not recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.wire import Dropped, Stream


@dataclass(frozen=True)
class DroppedRecords(Rule):
    """Records of the run did not reach the collector: some steps are missing in it.

    ## What it detects
    The training process reports that it dropped records, with the reason: its queue was full
    (`queue_full`), the spool on its disk was full (`spool_full`), the collector refused them
    (`rejected`), or another one. The training process never waits for the collector, so records
    are dropped when the collector is too slow or cannot be reached for too long.
    ## Why it matters
    The curves have gaps, and a fault in these steps is not seen by the collector. The diagnosis in
    the training process has these steps.
    ## Evidence
    The number of dropped records, and the number for each reason.
    ## What to do
    - `queue_full`: the process produces more than it can send; raise `every` or lower `overhead`.
    - `spool_full`: the collector could not be reached until 256 MiB waited on disk; restart it.
    - `rejected`: the log of the training process has the collector's reason.
    ## When it is wrong
    It is never wrong; a few records of many do not matter. There is no code for the model that
    corrects it: the cause is the transport.
    ## References
    docs/how-it-works.md: what is dropped, and how it is counted.
    """

    code: ClassVar[str] = "TV952"
    stage: ClassVar[Stage] = Stage.MONITOR
    damages_loss: ClassVar[bool] = False
    permanent: ClassVar[bool] = True
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = "The steps are in the collector: `trainvitals export` has them."

    records_max: int = threshold(0, "Number of dropped records; a note above this number.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        reasons: Counter[str] = Counter()
        for dropped in history.dropped:
            reasons[dropped.reason] += dropped.records
        total = reasons.total()
        if total <= self.records_max:
            return
        first = min(d.first_step for d in history.dropped)
        last = max(d.last_step for d in history.dropped)
        shown = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        yield self.finding(
            severity=Severity.INFO,
            since_step=max(0, first),
            summary=f"Dropped records: {total} records of steps {first} to {last} did not reach "
            f"the collector ({shown}).",
            evidence=(
                Evidence(
                    quantity="dropped records",
                    seen=float(total),
                    limit=float(self.records_max),
                    direction="above",
                    healthy=(0.0, 0.0),
                ),
                *(
                    Evidence(quantity=f"dropped records: {reason}", seen=float(count))
                    for reason, count in reasons.most_common()
                ),
            ),
        )

    @staticmethod
    def sick() -> History:
        """Return a run whose queue was full."""
        history = Example(40).scalars(loss=[1.0] * 40).history
        history.add(Dropped(10, 19, Stream.GRADIENT, "queue_full", 10))
        return history

    @staticmethod
    def healthy() -> History:
        """Return a run without dropped records."""
        return Example(40).scalars(loss=[1.0] * 40).history

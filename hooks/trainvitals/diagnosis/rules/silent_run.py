"""TV951: the process of a run sends nothing any more, and did not say that it ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rule import Rule


@dataclass(frozen=True)
class SilentRun(Rule):
    """Contact with the run was lost: no heartbeat arrives, and its end was not reported.

    ## What it detects
    The collector has received nothing from any process of the run for longer than its setting
    `lost_after_s` (60 s by default), and no record says that the run finished, failed or stopped.
    A process sends a heartbeat where it has nothing else to send, so a slow step does not count as
    silence. The rule has no threshold of its own, and is not applied in the training process.
    ## Why it matters
    A process that is killed, for example for its memory, reports nothing, and neither does one
    that hangs in a collective operation with the whole machine. The curves end as those of a run
    that is still training.
    ## Evidence
    The last step that was received. The verdict of such a run is `failed`.
    ## What to do
    - Look for the process on its machine, and in the kernel's log for an out-of-memory kill.
    - If it still trains, run `trainvitals doctor` there: the network or the token may be the cause;
      its records are in the spool, and `trainvitals sync` sends them.
    ## When it is wrong
    A machine that sleeps or is cut off for a while: the note is over when it reports again. There
    is no code that corrects it, because the cause is outside of the training program.
    ## References
    docs/how-it-works.md: heartbeats and the end of a run; Jeon et al., "Analysis of Large-Scale
    Multi-Tenant GPU Clusters for DNN Training Workloads", 2019, arXiv:1901.05758, section 4.
    """

    code: ClassVar[str] = "TV951"
    stage: ClassVar[Stage] = Stage.MONITOR
    damages_loss: ClassVar[bool] = False
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = "The process runs, and its next record arrives."

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        if not history.is_lost:
            return
        last = history.last_step
        yield self.finding(
            severity=Severity.INFO,  # the verdict of a lost run is `failed` in any case
            since_step=max(0, last),
            summary=f"Silent run: nothing was received after step {last}, and no end was reported.",
            evidence=(Evidence(quantity="last step received", seen=float(last)),),
        )

    @staticmethod
    def sick() -> History:
        """Return a run that the collector has marked as lost."""
        history = Example(3).scalars(loss=[1.0, 0.9, 0.8]).history
        history.is_lost = True
        return history

    @staticmethod
    def healthy() -> History:
        """Return a run that is still reporting."""
        return Example(3).scalars(loss=[1.0, 0.9, 0.8]).history

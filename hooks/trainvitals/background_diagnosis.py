"""Diagnose the run in a background thread of the training process.

Comes in: records, through `put`, which only appends.
Goes out: each finding once, when it opens; the status after each examination; a diagnosis from
          `diagnosis`.
Promise:  at most about 0.5 % of a core; the training thread never waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from textwrap import indent

from msgspec.structs import replace

from trainvitals.api.schema import Diagnosis, Finding, Severity
from trainvitals.diagnosis.examine import Engine, diagnose
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.initial_state import initial_state
from trainvitals.diagnosis.rule import Rule
from trainvitals.report.line import finding_line
from trainvitals.report.status import Status, status_of
from trainvitals.wire import Frame, Record

log = logging.getLogger("trainvitals")

INTERVAL_S = 0.5
CORE_SHARE_MAX = 0.005
FRAMES_WAITING_MAX = 50_000
JOIN_S = 1.0


class BackgroundDiagnosis:
    """One run's history and engine. `cpu_s` is the CPU time of its thread, in seconds.

    `logged` contains the findings that were logged, as `finding_line` formats them.
    """

    def __init__(
        self,
        opened: Callable[[Finding], None],
        engine: Engine | None = None,
        *,
        show: Callable[[Status], None] | None = None,
        clear: Callable[[], None] | None = None,
        observe: Callable[[History, Diagnosis], bool] | None = None,
        tick: Callable[[], None] | None = None,
        rank: int = 0,
    ) -> None:
        """`opened` is called once for each finding, in the background thread or in `diagnosis`.

        `show` is called with the status in the background thread, at most every 0.5 s; `clear`
        before a finding is logged. `observe` is called in the background thread with the history
        and the newest diagnosis after new records; again if it returns False. `tick` is called in
        the background thread every 0.5 s; it must not raise. The findings that a `rank` above 0
        logs begin with it.
        """
        self.history = History()
        self.cpu_s = 0.0
        self.logged: set[str] = set()
        self._rank = rank
        self.frames_left_out = 0
        self._engine = engine or Engine()
        self._opened = opened
        self._show, self._clear, self._observe, self._tick = show, clear, observe, tick
        self._status_before: tuple[float, int] | None = None
        self._verdict = Diagnosis()
        self._is_examined = self._is_observed = True
        self._next_at = 0.0
        self._findings: tuple[Finding, ...] = ()
        self._reported: set[tuple[str, str, int]] = set()
        self._inbox: deque[Record] = deque()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trainvitals-diagnosis", daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        """Append a record; called in the training thread."""
        if len(self._inbox) >= FRAMES_WAITING_MAX and isinstance(record, Frame):
            self.frames_left_out += 1
            return
        self._inbox.append(record)

    def diagnosis(
        self,
        *,
        run: str,
        watched: tuple[str, ...],
        not_watched: Mapping[str, str],
        overhead: float | None,
        state: str = "running",
        error: str = "",
    ) -> Diagnosis:
        """Return the diagnosis of all records up to now."""
        with self._lock:
            self._examine()
            findings = self._findings
            found = diagnose(
                self.history,
                findings,
                rules=self._rules(),
                run=run,
                watched=watched,
                not_watched=not_watched,
                overhead=overhead,
                state=state,
                error=error,
            )
            return replace(found, checkup=initial_state(self.history))

    def stop(self) -> None:
        """Stop the thread, and wait for its end for at most one second."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join(JOIN_S)

    def forget(self) -> None:
        """Switch off in a forked child: no thread exists there, and the lock may be held."""
        self._inbox = deque(maxlen=0)
        self._lock = threading.Lock()
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            started = time.thread_time()
            try:
                with self._lock:
                    is_due = time.monotonic() >= self._next_at
                    status = self._status(is_due=is_due) if self._inbox else None
                    if self._observe is not None and not self._is_observed:
                        self._is_observed = self._observe(self.history, self._verdict)
                if self._tick is not None:
                    self._tick()
                # Outside the lock: a terminal may be stopped, and `diagnosis` must not wait for it.
                if status is not None and self._show is not None:
                    self._show(status)
            except Exception:
                log.exception("The diagnosis failed and is switched off; the training goes on.")
                return
            cost_s = time.thread_time() - started
            self.cpu_s += cost_s
            if is_due:
                self._next_at = time.monotonic() + cost_s / CORE_SHARE_MAX

    def _status(self, *, is_due: bool) -> Status:
        """Add the pending records and return the status; apply the rules only if they are due."""
        if is_due:
            self._examine()
            self._verdict = diagnose(self.history, self._findings, rules=self._rules())
        else:
            self._take_in()
        now, before, step = time.monotonic(), self._status_before, self.history.last_step
        self._status_before = (now, step)
        rate = None if before is None else max(0, step - before[1]) / max(1e-3, now - before[0])
        return status_of(self.history, self._verdict, rate)

    def _rules(self) -> tuple[Rule, ...]:
        return self._engine.rules_for(self.history)

    def _take_in(self) -> None:
        while self._inbox:
            self.history.add(self._inbox.popleft())
            self._is_examined = self._is_observed = False

    def _examine(self) -> None:
        self._take_in()
        if self._is_examined:
            return
        self._findings = self._engine.examine(self.history, self._findings)
        self._is_examined = True
        for finding in self._findings:
            key = (finding.code, finding.where, finding.since_step)
            if finding.is_open and key not in self._reported:
                self._reported.add(key)
                self._report(finding)

    def _report(self, finding: Finding) -> None:
        level = logging.INFO if finding.severity is Severity.INFO else logging.WARNING
        if not finding.explained_by:
            if self._clear is not None:
                self._clear()
            if log.isEnabledFor(level):
                self.logged.add(finding_line(finding))
            log.log(
                level,
                "%s%s %s%s since step %d: %s%s",
                f"rank {self._rank}: " if self._rank else "",
                finding.code,
                finding.rule,
                f" at {finding.where}" if finding.where else "",
                finding.since_step,
                finding.summary,
                f"\nFix:\n{indent(finding.fix, '    ')}" if finding.fix else "",
            )
        self._opened(finding)

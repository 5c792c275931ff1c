"""Rounds: every second, diagnose the runs that have new data.

Comes in: keys of runs with data newer than their last round, from the store.
Goes out: findings and health, into the store; vitals and counts, to /metrics.
Promise:  never inside an ingest request; an error of one run or of the database stops neither the
          other runs nor the next round; diagnosing a run takes at most a tenth of one core.
Start at `Rounds.run_once`.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import monotonic, perf_counter
from time import time as wall_clock
from typing import Final, Protocol

from trainvitals.api.schema import Diagnosis, Finding
from trainvitals.diagnosis.examine import Engine, diagnose
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rule import Rule
from trainvitals.diagnosis.thresholds import Table, chosen
from trainvitals.diagnosis.user_rules import installed_rules
from trainvitals.metrics.vitals import Measured, vitals_of
from trainvitals_server.publish.counters import (
    DURATION_BUCKETS_S,
    RoundStats,
    distribution,
    histogram,
)

log = logging.getLogger(__name__)

DUE_MAX: Final = 1000
"""Runs diagnosed in one round; the others come first in the next."""
SHARE_MAX: Final = 0.1
"""Share of one core for one run: after a diagnosis of 0.1 s the next one waits 0.9 s."""
RETRY_S_MAX: Final = 60.0
"""Longest wait before a failed diagnosis of a run is repeated."""
FORGET_AFTER_S: Final = 900.0
"""Vitals of a run without a round for this long are deleted; /metrics omits them earlier."""


class RoundsStore(Protocol):
    """The methods of the store that a round uses."""

    def runs_due(self, limit: int) -> list[int]: ...
    def claim_round(self, run_pk: int) -> AbstractContextManager[bool]: ...
    def history(self, run_pk: int) -> History: ...
    def findings(self, run_pk: int) -> list[Finding]: ...
    def save_diagnosis(self, run_pk: int, diagnosis: Diagnosis) -> None: ...
    def mark_lost(self, now: float, after_s: float) -> object: ...


class Examiner(Protocol):
    """`trainvitals.diagnosis.examine.Engine`, or its substitute in a test."""

    def rules_for(self, history: History) -> Sequence[Rule]: ...
    def examine(
        self, history: History, previous: Sequence[Finding] = ()
    ) -> tuple[Finding, ...]: ...


def engine_of(table: Table) -> Engine:
    """Return an engine with our rules, those of installed packages, and these thresholds.

    A run's own thresholds, which its records contain, take precedence.
    """
    rules = chosen(installed_rules(), table)
    if rules.problems:
        log.warning("Settings of rules that are not used: %s.", "; ".join(rules.problems))
    return Engine(rules.rules)


@dataclass
class _Pace:
    """The earliest time of a run's next diagnosis, on the monotonic clock."""

    next_at: float = 0.0
    failures: int = 0


class Rounds:
    """A thread that diagnoses the runs that are due."""

    def __init__(
        self,
        store: RoundsStore,
        engine: Examiner,
        interval_s: float = 1.0,
        lost_after_s: float = 60.0,
        *,
        scalars: Sequence[str] = (),
        now: Callable[[], float] = wall_clock,
    ) -> None:
        self._store = store
        self._engine = engine
        self._interval_s = interval_s
        self._lost_after_s = lost_after_s
        self._scalars = scalars
        self._now = now
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # guards what stats() and measured() return
        self._pace: dict[int, _Pace] = {}
        self._measured: dict[int, Measured] = {}
        self._rounds = self._runs = self._errors = 0
        self._seconds = 0.0
        self._evaluation = histogram(DURATION_BUCKETS_S)
        self._opened: Counter[tuple[str, str]] = Counter()

    def start(self) -> None:
        """Start the thread; a second call does nothing."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._loop, name="rounds", daemon=True)
            self._thread.start()

    def stop(self, deadline_s: float = 10.0) -> None:
        """Stop after the diagnosis in progress, or at the deadline."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(deadline_s)
            if self._thread.is_alive():
                log.warning(
                    "A diagnosis did not end within %.0f s; stopping without it.",
                    deadline_s,
                )
            self._thread = None

    def stats(self) -> RoundStats:
        """Return the counts since the start."""
        with self._lock:
            return RoundStats(
                self._rounds,
                self._runs,
                self._errors,
                self._seconds,
                distribution(self._evaluation),
                dict(self._opened),
            )

    def measured(self) -> dict[int, Measured]:
        """Return the vitals of every run diagnosed recently, by the run's key."""
        with self._lock:
            return dict(self._measured)

    def run_once(self) -> int:
        """Run one round now; return how many runs were diagnosed."""
        began = perf_counter()
        done = 0
        try:
            self._store.mark_lost(self._now(), self._lost_after_s)
            due = self._store.runs_due(DUE_MAX)
        except Exception:
            # The rounds must continue after a restart of the database.
            log.exception(
                "A round failed before its first run; the next starts in %.1f s.", self._interval_s
            )
            with self._lock:
                self._errors += 1
            due = []
        for run_pk in due:
            if self._stopping.is_set() and self._thread is not None:
                break
            if monotonic() >= self._pace.setdefault(run_pk, _Pace()).next_at:
                done += self._guarded(run_pk)
        self._forget(set(due))
        with self._lock:
            self._rounds += 1
            self._seconds += perf_counter() - began
        return done

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self.run_once()
            self._stopping.wait(self._interval_s)

    def _guarded(self, run_pk: int) -> int:
        """Diagnose one run and schedule its next diagnosis; return 1 when it succeeded."""
        pace = self._pace[run_pk]
        began = perf_counter()
        try:
            done = self._diagnose(run_pk)
        except Exception:
            pace.failures += 1
            wait_s = min(RETRY_S_MAX, 2.0**pace.failures)
            pace.next_at = monotonic() + wait_s
            log.exception("Run %d could not be diagnosed; next attempt in %.0f s.", run_pk, wait_s)
            with self._lock:
                self._errors += 1
            return 0
        pace.failures = 0
        pace.next_at = monotonic() + (perf_counter() - began) * (1 / SHARE_MAX - 1)
        return int(done)

    def _diagnose(self, run_pk: int) -> bool:
        with self._store.claim_round(run_pk) as ours:
            if not ours:
                return False
            history = self._store.history(run_pk)
            previous = self._store.findings(run_pk)
            began = perf_counter()
            findings = self._engine.examine(history, previous)
            self._evaluation.observe(perf_counter() - began)
            rules = self._engine.rules_for(history)
            self._store.save_diagnosis(run_pk, diagnose(history, findings, rules=rules))
        self._note(run_pk, history, previous, findings)
        return True

    def _note(
        self,
        run_pk: int,
        history: History,
        previous: Sequence[Finding],
        findings: Sequence[Finding],
    ) -> None:
        now = self._now()
        before = self._measured.get(run_pk)
        vitals = vitals_of(history, before.vitals if before else None, self._scalars)
        same_step = before is not None and before.vitals.step == vitals.step
        at = before.at if before is not None and same_step else now
        known = {(f.code, f.where) for f in previous if f.is_open}
        opened = [
            (f.rule, str(f.severity))
            for f in findings
            if f.is_open and (f.code, f.where) not in known
        ]
        with self._lock:
            self._measured[run_pk] = Measured(vitals, at, now)
            self._runs += 1
            self._opened.update(opened)

    def _forget(self, due: set[int]) -> None:
        now, clock = self._now(), monotonic()
        with self._lock:
            old = [pk for pk, m in self._measured.items() if now - m.examined_at > FORGET_AFTER_S]
            for pk in old:
                del self._measured[pk]
        for pk in [p for p, pace in self._pace.items() if p not in due and clock > pace.next_at]:
            del self._pace[pk]

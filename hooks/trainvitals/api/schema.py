"""The structs of the HTTP API: runs, findings, curves, rule pages.

The server encodes them, the command line and the dashboard decode them, and OpenAPI is generated
from them. In JSON a number that is NaN or infinite is null. Times are seconds since the epoch
(UTC); steps count from 0.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

import msgspec

from trainvitals.api.alerts import Alert as Alert
from trainvitals.api.alerts import Alerts as Alerts
from trainvitals.api.alerts import Channel as Channel
from trainvitals.api.alerts import ChannelTest as ChannelTest
from trainvitals.api.alerts import Notice as Notice
from trainvitals.api.alerts import Notifications as Notifications
from trainvitals.api.alerts import Route as Route
from trainvitals.api.alerts import Silence as Silence
from trainvitals.api.collector import CollectorSettings as CollectorSettings
from trainvitals.api.collector import Deleted as Deleted
from trainvitals.api.collector import Setting as Setting
from trainvitals.api.collector import Version as Version
from trainvitals.api.collector import Viewer as Viewer
from trainvitals.api.curves import Curve as Curve
from trainvitals.api.curves import Heatmap as Heatmap
from trainvitals.api.curves import Latest as Latest
from trainvitals.api.curves import LatestValues as LatestValues
from trainvitals.api.curves import Layout as Layout
from trainvitals.api.curves import Layouts as Layouts
from trainvitals.api.curves import Series as Series
from trainvitals.api.experiment import Experiment as Experiment
from trainvitals.api.experiment import ExperimentCurve as ExperimentCurve
from trainvitals.api.initial import Checkup as Checkup
from trainvitals.api.initial import Initialiser as Initialiser
from trainvitals.api.initial import InitialLoss as InitialLoss
from trainvitals.api.initial import PropagatedLayer as PropagatedLayer
from trainvitals.api.rules import RuleName as RuleName
from trainvitals.api.rules import RulePage as RulePage
from trainvitals.api.rules import Rules as Rules
from trainvitals.api.rules import Threshold as Threshold
from trainvitals.wire.records import Place as Place
from trainvitals.wire.vocabulary import EventKind


class Severity(StrEnum):
    """How bad a finding is. Only warnings and errors are alarms."""

    INFO = "info"
    """Worth knowing; never an alarm."""
    WARNING = "warning"
    """The run is likely worse than it should be."""
    ERROR = "error"
    """The run is broken."""

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for error: for sorting and for `--fail-on`."""
        return tuple(Severity).index(self)


class State(StrEnum):
    """Whether a finding still holds."""

    OPEN = "open"
    RESOLVED = "resolved"


class Stage(StrEnum):
    """Position in the chain of causes: earlier stages explain later ones."""

    DATA = "data"
    INITIALISATION = "initialisation"
    WIRING = "wiring"
    """What is connected to what, and which loss is paired with which output."""
    OPTIMIZER = "optimizer"
    PROPAGATION = "propagation"
    """Vanishing, exploding, dead, saturated."""
    LOSS = "loss"
    """A symptom in the loss curve."""
    MONITOR = "monitor"
    """About trainvitals itself."""

    @property
    def rank(self) -> int:
        """0 for data to 6 for monitor."""
        return tuple(Stage).index(self)


class Verdict(StrEnum):
    """What is known of a run as a whole."""

    ERROR = "error"
    """At least one open error."""
    WARNING = "warning"
    """At least one open warning."""
    HEALTHY = "healthy"
    """Enough steps were seen, every rule that applies could run, and none reports anything."""
    TOO_EARLY = "too_early"
    """Fewer steps than the rules need."""
    BLIND = "blind"
    """Rules could not run because what they read was never seen: `blind` names them."""
    FAILED = "failed"
    """The run ended with an exception, or its process stopped reporting."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One number (or text) that supports a finding, with the limit it was compared with."""

    quantity: str
    """What was measured, in words: "share of dead units"."""
    seen: float | str | None = None
    """The value; None when it was not measured or is not finite."""
    limit: float | None = None
    """The limit that was applied to `seen`; None for a number that decides nothing."""
    direction: Literal["above", "below", ""] = ""
    """On which side of `limit` the rule fires; a value equal to the limit may fire too."""
    healthy: tuple[float | None, float | None] | None = None
    """Smallest and largest healthy value; None is an open end."""
    unit: str = ""
    """"share" (0 to 1, shown in per cent), "steps", "times", …; "" for a plain number."""
    text: str = ""
    """A remark: how the limit was derived, or what the number means."""
    statistic: str = ""
    """The statistic or scalar whose curve shows this number; its limit can be drawn there."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One fault at one place, from one step on, with its numbers and its fix."""

    rule: str
    """The rule's name: dead_relu."""
    code: str
    """TV201."""
    severity: Severity
    where: str = ""
    """The layer's or parameter's name; "" for the run as a whole."""
    since_step: int
    """The first step at which it held."""
    state: State = State.OPEN
    summary: str
    """One sentence with the numbers."""
    evidence: tuple[Evidence, ...] = ()
    why: str = ""
    """Why it matters."""
    advice: str = ""
    """What to do, in words."""
    fix: str = ""
    """What to do, as PyTorch code; "" when no single fix follows from the evidence.

    The code consists of parts. Each begins with a comment line that names its place in a training
    script: see `trainvitals.diagnosis.fixes.Moment`. It runs there with these names: `torch`, `nn`,
    `F` (torch.nn.functional), `math`, `trainvitals` and `remedies` (trainvitals.remedies); `model`,
    `optimizer`, `scheduler` (None), `loss_function` (of prediction and targets), `x_train` and
    `y_train` (the training set), `batch_size` and `steps` (planned); in the loop also `x`, `y`,
    `prediction` and `loss`. What it assigns to these names takes effect.
    """
    confidence: float = 1.0
    """0 to 1."""
    explained_by: str = ""
    """Code of the finding that causes this one; "" for a root cause."""
    refuted_by: str = ""
    """The observation that would refute this finding."""
    stage: Stage = Stage.MONITOR
    """Position in the chain of causes."""
    last_step: int = -1
    """The newest step at which its rule reported it, which is the step of its numbers; −1 until the
    engine sets it. An open finding whose `last_step` is earlier than the diagnosis' is no longer
    reported, but its damage is not undone."""
    stream: str = ""
    """With `statistic`: which curve to draw as evidence, e.g. gradient / l2 at `where`."""
    statistic: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it still holds."""
        return self.state is State.OPEN

    @property
    def is_alarm(self) -> bool:
        """Whether it still holds and is a warning or an error."""
        return self.is_open and self.severity is not Severity.INFO


class Prevented(msgspec.Struct, frozen=True, kw_only=True):
    """Updates that were prevented because their gradients were not finite; at least one."""

    updates: int
    """Number of updates; with several optimizers, a step can have several."""
    first_step: int
    last_step: int
    """The steps of the first and of the last one."""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """All findings of a run, ranked, and one verdict."""

    run: str = ""
    step: int = -1
    """The last finished step this diagnosis covers; −1 before the first."""
    verdict: Verdict = Verdict.TOO_EARLY
    headline: Finding | None = None
    """The root cause to look at first; None for a run without open warnings and errors."""
    findings: tuple[Finding, ...] = ()
    """Open ones first, ranked by cause; resolved ones last."""
    health: float = 1.0
    """0 (broken, also every run that failed or was lost) to 1 (nothing found)."""
    blind: dict[str, str] = {}
    """Rule → why it could not run."""
    error: str = ""
    """Why the run failed: the exception's class and message, or that contact was lost."""
    watched: tuple[str, ...] = ()
    """Names of the parameters and modules that are measured."""
    not_watched: dict[str, str] = {}
    """Name → why it is not measured."""
    overhead: float | None = None
    """Own CPU time over the whole run as a share of its training time; None: not measured yet."""
    overhead_note: str = ""
    """Why `overhead` exceeds the share that `watch(overhead=)` allows, as long as the fixed part of
    the budget explains it. A collector knows it when the process has ended."""
    prevented: Prevented | None = None
    """The updates that `watch(guard=)` prevented; None if there is none. A collector knows it when
    the process has ended."""
    missing: str = ""
    """Which records of the run the collector does not have; "" if it has all or the run goes on."""
    checkup: Checkup | None = None
    """The state before the training: of `trainvitals.checkup`, or as the first steps of a run show
    it; None if it was not read."""

    @property
    def is_checkup(self) -> bool:
        """Whether this is the result of a checkup, not of a run."""
        return self.checkup is not None and self.step < 0 and not self.run

    @property
    def initialisers(self) -> dict[str, Initialiser]:
        """Parameter → the initialiser that was identified."""
        return {} if self.checkup is None else self.checkup.initialisers

    @property
    def propagation(self) -> tuple[PropagatedLayer, ...]:
        """The layers before the training, in the order of the forward pass."""
        return () if self.checkup is None else self.checkup.propagation

    @property
    def open(self) -> tuple[Finding, ...]:
        """The findings that still hold."""
        return tuple(f for f in self.findings if f.is_open)

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """The open warnings and errors."""
        return tuple(f for f in self.findings if f.is_alarm)


class Counts(msgspec.Struct, frozen=True):
    """Open findings by severity."""

    error: int = 0
    warning: int = 0
    info: int = 0


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run as the run list shows it."""

    id: str
    project: str
    name: str
    state: str
    """running | lost | finished | failed | stopped"""
    verdict: Verdict = Verdict.TOO_EARLY
    error: str = ""
    """Why it failed; "" for a run that did not."""
    started_at: float
    last_report_at: float
    ended_at: float | None = None
    step: int
    """The last step seen; −1 before the first."""
    total_steps: int | None = None
    loss: float | None = None
    health: float | None = None
    """0 to 1; null before the first diagnosis."""
    headline: Finding | None = None
    findings: Counts = Counts()
    sparkline: tuple[float | None, ...] = ()
    """The loss curve in at most 60 numbers; null where it was not finite."""
    step_rate: float | None = None
    """Steps per second."""
    tags: tuple[str, ...] = ()
    attempt: int = 1
    """From 1."""
    host: str = ""
    overhead: float | None = None
    """Own CPU time of the whole run as a share of its training time."""
    archived: bool = False
    """Whether a user archived it."""
    deleted_at: float | None = None
    """When it was moved to the bin; null for a run that is not in the bin."""

    @property
    def version(self) -> tuple[object, ...]:
        """Changes when there may be new curves."""
        return (self.attempt, self.step, self.last_report_at, self.state)


class RunPage(msgspec.Struct, frozen=True):
    """Some runs, newest started first."""

    runs: list[Run]
    next_cursor: str | None = None
    """The cursor of the next page; null on the last page."""


class Metadata(msgspec.Struct, frozen=True):
    """What the training process reported about itself."""

    git_commit: str = ""
    argv: tuple[str, ...] = ()
    versions: dict[str, str] = {}
    pid: int = 0
    facts: dict[str, str | float | None] = {}


class Event(msgspec.Struct, frozen=True):
    """Something that happened at a step."""

    step: int
    time: float
    kind: str
    text: str = ""
    attributes: dict[str, str | float | None] = {}


class Dropped(msgspec.Struct, frozen=True):
    """An interval of records that the trainer could not keep."""

    first_step: int
    last_step: int
    stream: str
    reason: str
    records: int


class Completeness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether all records of a run are stored: produced = stored + waiting + dropped.

    `missing` counts records that wait on the trainer's side or are lost without a report.
    """

    complete: bool | None = None
    """null while the run has not ended, or when the collector cannot know it."""
    stored: int | None = None
    """Records stored; null when a process of an older version did not send its counts."""
    dropped: int = 0
    """Records that the run's processes reported as dropped."""
    missing: int | None = None
    """produced − stored − dropped; null while a process has not reported its end."""
    thinned: int = 0
    """Rows of all streams that are stored as minimum, mean, maximum and last of 16 (retention)."""
    reason: str = ""
    """Why `complete` is not true; "" when it is."""


class RunDetail(Run, frozen=True, kw_only=True):
    """The details of a run, without its curves."""

    blind: dict[str, str] = {}
    """Rule → why it could not run."""
    config: dict[str, Any] = {}
    metadata: Metadata = Metadata()
    dropped: list[Dropped] = []
    completeness: Completeness = Completeness()
    not_watched: dict[str, str] = {}
    events: list[Event] = []
    notes: str = ""
    """Written by users of the collector."""

    @property
    def finished_step(self) -> int:
        """The newest finished step, −1 before the first; `step` counts an unfinished one too."""
        return self.step - any(
            event.kind == EventKind.STEP_UNFINISHED and event.step == self.step
            for event in self.events
        )


class Findings(msgspec.Struct, frozen=True):
    """All findings of a run, ranked, open ones first."""

    findings: tuple[Finding, ...]

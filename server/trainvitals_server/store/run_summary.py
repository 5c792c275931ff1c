"""The changes of a run's row by a batch: state, step, loss, sparkline, newest scalars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from trainvitals.wire import (
    Frame,
    Heartbeat,
    Layout,
    NotWatched,
    RunEnd,
    RunStart,
    Scalar,
    Stream,
)
from trainvitals_server.store.text import storable

SPARKLINE_MAX = 60
_SCALARS_MAX = 2000


@dataclass
class Sparkline:
    """A thinned loss curve: every `stride`-th point; the stride doubles when it is full."""

    stride: int
    points: list[tuple[int, float]]
    """(step, loss), step ascending."""

    @classmethod
    def of(cls, blob: bytes) -> Sparkline:
        stride, points = msgspec.msgpack.decode(blob, type=tuple[int, list[tuple[int, float]]])
        return cls(stride, points)

    def add(self, steps: npt.NDArray[np.int64], losses: npt.NDArray[np.float32]) -> None:
        """Add losses. After a resume, points at or after the first new step are removed."""
        first = int(steps[0])
        while self.points and self.points[-1][0] >= first:
            self.points.pop()
        for step, loss in zip(steps.tolist(), losses.tolist(), strict=True):
            if self.points and step < self.points[-1][0] + self.stride:
                continue
            self.points.append((step, loss))
            if len(self.points) > 2 * SPARKLINE_MAX:
                self.points = self.points[::2]
                self.stride *= 2

    def blob(self) -> bytes:
        return msgspec.msgpack.encode((self.stride, self.points))

    def shown(self) -> tuple[float | None, ...]:
        """Return at most SPARKLINE_MAX losses, evenly; None where one was not finite."""
        values = [value if np.isfinite(value) else None for _, value in self.points]
        if len(values) <= SPARKLINE_MAX:
            return tuple(values)
        at = np.linspace(0, len(values) - 1, SPARKLINE_MAX).round().astype(int)
        return tuple(values[i] for i in at)


@dataclass
class RunUpdate:
    """Collects the changes of a run's row by one batch."""

    before: Any
    """The run's row."""
    is_primary: bool
    """Whether the batch comes from the primary source: the newest attempt's lowest rank."""
    now: float
    is_newest: bool
    """Whether the batch comes from the newest attempt: the end of an older one changes nothing."""
    changed: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Any, is_primary: bool, now: float, is_newest: bool) -> RunUpdate:
        return cls(run, is_primary, now, is_newest)

    def _get(self, column: str) -> Any:
        return self.changed.get(column, getattr(self.before, column))

    def frame(self, frame: Frame, layout: Layout) -> None:
        """Apply a frame."""
        if not self.is_primary:
            return
        step, at = int(frame.steps[-1]), float(frame.times[-1])
        if frame.stream is Stream.SCALAR:
            self._scalars(frame, layout)
            self._rate(frame)
        # A resume steps back; frames of the slower streams of one batch do not.
        if step > self._get("step") or frame.stream is Stream.SCALAR:
            self.changed["step"] = step
            self.changed["step_at"] = at

    def _rate(self, frame: Frame) -> None:
        first_step, first_at = int(frame.steps[0]), float(frame.times[0])
        before_step, before_at = self._get("step"), self._get("step_at")
        if before_at is not None and before_step < first_step and before_at < first_at:
            first_step, first_at = before_step, before_at
        steps, seconds = int(frame.steps[-1]) - first_step, float(frame.times[-1]) - first_at
        if steps > 0 and seconds > 0:
            self.changed["step_rate"] = steps / seconds

    def _scalars(self, frame: Frame, layout: Layout) -> None:
        known = msgspec.msgpack.decode(self._get("scalars"))
        values = frame.values[:, :, 0]
        measured = ~np.isnan(values)
        columns = {}
        for i, place in enumerate(layout.places):
            rows = np.flatnonzero(measured[:, i])
            if len(rows) and (place.name in known or len(known) < _SCALARS_MAX):
                known[place.name] = (int(frame.steps[rows[-1]]), float(values[rows[-1], i]))
            columns[place.name] = values[:, i]
        self.changed["scalars"] = msgspec.msgpack.encode(known)
        if (losses := columns.get(Scalar.LOSS)) is not None:
            self._loss(frame, losses)
        self._overhead(columns)

    def _loss(self, frame: Frame, losses: npt.NDArray[np.float32]) -> None:
        line = Sparkline.of(self._get("sparkline"))
        line.add(frame.steps, losses)
        self.changed["sparkline"] = line.blob()
        last = float(losses[-1])
        self.changed["loss"] = last if np.isfinite(last) else None

    def _overhead(self, columns: dict[str, npt.NDArray[np.float32]]) -> None:
        """Use the overhead that the trainer reports: it covers the whole run."""
        values = columns.get(Scalar.OVERHEAD)
        if values is not None and np.isfinite(values).any():
            self.changed["overhead"] = float(values[np.isfinite(values)][-1])

    def record(self, record: object) -> None:
        """Apply a record that is not a frame."""
        match record:
            case RunStart() if self.is_primary:
                self._start(record)
            case RunEnd() if self.is_primary or (record.state == "failed" and self.is_newest):
                self.changed["state"] = record.state
                self.changed["error"] = record.error.encode(errors="replace")
                self.changed["ended_at"] = record.time
                if record.step:  # 0 is also the step of a run that finished none
                    self.changed["step"] = max(record.step, self._get("step"))
            case NotWatched():
                known = msgspec.msgpack.decode(self._get("not_watched"))
                self.changed["not_watched"] = msgspec.msgpack.encode({**known, **record.reasons})
            case Heartbeat() if self.is_primary and record.step > self._get("step"):
                self.changed["step"] = record.step
            case _:
                pass  # events and drops have tables of their own

    def _start(self, start: RunStart) -> None:
        run = self.before
        if self._get("revision") == 0 or start.started_at < run.started_at:
            self.changed["started_at"] = start.started_at
        edited = run.edited.split()
        name, tags = storable(start.name) or run.name, start.tags
        if "name" in edited:
            name = run.name
        if "tags" in edited:
            tags = msgspec.msgpack.decode(run.tags, type=tuple[str, ...])
        self.changed |= {
            "state": "running",
            "ended_at": None,
            "error": b"",
            "name": name,
            "host": storable(start.host),
            "total_steps": start.total_steps,
            "tags": msgspec.msgpack.encode(tags),
            "search": searched(run.id, run.project, name, start.host, tags),
            "about": msgspec.msgpack.encode(start),
        }

    def columns(self) -> dict[str, Any]:
        """Return the changed columns of the run's row."""
        if self._get("state") == "lost":
            self.changed["state"] = "running"
        return {
            **self.changed,
            "last_report_at": self.now,
            "revision": self.before.revision + 1,
            "changes": self.before.changes + 1,
        }


def searched(run: str, project: str, name: str, host: str, tags: Sequence[str]) -> str:
    """Return the text that the run list searches."""
    words = (run, project, name, host, *tags)
    return " ".join(words).replace("\x00", " ").lower()[:4096]

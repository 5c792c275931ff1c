"""Emit a measured step: its scalars, and on a full step the frames of the other streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from trainvitals.capture.optimizers import Optimizers
from trainvitals.capture.outputs import Outputs
from trainvitals.capture.plan import CapturePlan
from trainvitals.capture.step import PARAMETER_STREAMS, Step
from trainvitals.capture.streams import Emit, Streams
from trainvitals.capture.transfer import Transfer
from trainvitals.wire import Place, Stream

Places = Mapping[Stream, tuple[Place, ...]]


class Emission:
    """The streams of a run, and the steps whose values are still on a device.

    `nonfinite` is called with a step that had a non-finite gradient, when its values are known.
    """

    def __init__(self, emit: Emit, nonfinite: Callable[[int], None]) -> None:
        self._streams = Streams(emit)
        self._transfer = Transfer()
        self._nonfinite = nonfinite
        self._described: tuple[object, ...] = ()
        self._places: Places = {}

    def places(
        self, plan: CapturePlan, outputs: Outputs, optimizers: Optimizers | None, *, updates: bool
    ) -> Places:
        """Return the rows of the streams of a full step.

        `optimizers` is None if it is unknown which tensors are updated; `updates` is whether
        gradients and updates are measured.
        """
        outputs.facts_of(None)
        described = (plan, plan.grouping, outputs.version, optimizers is None, updates)
        if described != self._described:
            self._described = described
            plan.describe(outputs.facts_of, None if optimizers is None else optimizers.ids)
            streams = PARAMETER_STREAMS if updates else PARAMETER_STREAMS[:1]
            places = dict.fromkeys(streams if len(plan) else (), plan.places)
            self._places = {**places, Stream.ACTIVATION: tuple(outputs.places())}
        return self._places

    def submit(self, number: int, time: float, step: Step, places: Places) -> None:
        """Emit a step, now or when its values arrived; `places` is empty for a light step."""
        if not step.remote and not self._transfer.waiting:
            self._emit(number, time, step, places)
            return
        self._transfer.submit(step, lambda step: self._emit(number, time, step, places))

    def finish(self) -> None:
        """Emit all steps; wait a limited time for the values on devices."""
        self._transfer.finish()
        self._streams.flush()

    def flush(self) -> None:
        """Emit the scalars of the finished steps whose values have arrived."""
        self._streams.flush()

    @property
    def given_up(self) -> int:
        """Number of steps whose values did not arrive from a device; they were not emitted."""
        return self._transfer.given_up

    def device_s(self) -> float:
        """Return the seconds that devices spent on measuring, up to now."""
        return self._transfer.device_s()

    def _emit(self, number: int, time: float, step: Step, places: Places) -> None:
        nonfinite = step.is_nonfinite
        if step.is_finished or step.all_scalars():
            self._streams.scalars(number, time, step.all_scalars, urgent=nonfinite or bool(places))
        if nonfinite and step.has_nonfinite_gradient:
            self._nonfinite(number)
        if not places:
            return
        moment = np.array([number], np.int64), np.array([time])  # all frames of a step share them
        for stream, rows in places.items():
            if stream in PARAMETER_STREAMS:
                self._streams.frame(stream, *moment, rows, step.matrix(stream))
            # A step that became a full one late has no outputs: absent is not the same as finite.
            elif stream in step.matrices:
                self._streams.frame(stream, *moment, rows, step.matrices[stream])

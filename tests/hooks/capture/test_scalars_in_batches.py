"""The scalars of short steps are emitted together; nothing important waits for it."""

import math

import pytest
import torch
from torch import nn

from trainvitals.capture.capture import Capture
from trainvitals.capture.streams import ROWS_MAX, WAIT_S, Streams
from trainvitals.wire import Frame, Layout, Record, Scalar, Stream

STEP_S = WAIT_S / (4 * ROWS_MAX)


class Emitted:
    """Streams, and the records that they emitted."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.streams = Streams(self.records.append)
        self.add(0)  # the first step is emitted at once

    def add(self, step: int, at: float | None = None, *, urgent: bool = False, **more) -> None:
        at = 1000 + step * STEP_S if at is None else at
        scalars = {Scalar.LOSS: float(step), **more}
        self.streams.scalars(step, at, lambda: scalars, urgent=urgent)

    @property
    def steps(self) -> list[list[int]]:
        """The steps of each frame."""
        return [r.steps.tolist() for r in self.records if isinstance(r, Frame)]


def test_many_short_steps_are_one_frame():
    emitted = Emitted()
    for step in range(1, ROWS_MAX + 1):
        assert emitted.steps == [[0]]
        emitted.add(step)
    assert emitted.steps == [[0], list(range(1, ROWS_MAX + 1))]
    frame = emitted.records[-1]
    assert isinstance(frame, Frame)
    assert frame.values[:, 0, 0].tolist() == list(range(1, ROWS_MAX + 1))
    assert frame.times.tolist() == [1000 + step * STEP_S for step in range(1, ROWS_MAX + 1)]


def test_a_step_that_takes_longer_than_the_wait_is_emitted_at_its_end():
    emitted = Emitted()
    for step in range(1, 4):
        emitted.add(step, at=1000 + step * WAIT_S)
    assert emitted.steps == [[0], [1], [2], [3]]


def test_an_urgent_step_is_emitted_with_those_before_it():
    emitted = Emitted()
    emitted.add(1)
    emitted.add(2, urgent=True)
    assert emitted.steps == [[0], [1, 2]]


def test_a_new_name_extends_the_layout_and_is_missing_in_the_steps_before_it():
    emitted = Emitted()
    emitted.add(1)
    emitted.add(2, accuracy=0.5)
    emitted.streams.flush()
    kinds = [
        (type(r).__name__, r.version if isinstance(r, Layout) else r.layout)
        for r in emitted.records
    ]
    assert kinds == [("Layout", 0), ("Frame", 0), ("Layout", 1), ("Frame", 1)]
    emitted.add(3)
    emitted.streams.flush()
    *_, before, after = emitted.records
    assert isinstance(before, Frame)
    assert isinstance(after, Frame)
    accuracies = [*before.values[:, 1, 0], *after.values[:, 1, 0]]
    assert [math.isnan(x) for x in accuracies] == [True, False, True]


def test_steps_that_go_back_begin_a_new_frame():
    emitted = Emitted()
    emitted.add(1)
    emitted.add(2)
    emitted.add(1)
    emitted.streams.flush()
    assert emitted.steps == [[0], [1, 2], [1]]


@pytest.fixture
def light():
    """A capture that measures the first step in full and later ones lightly; a step; scalars."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    records: list[Record] = []
    capture = Capture(model, optimizer, emit=records.append, every=10**6)

    def step(factor: float = 1.0) -> None:
        optimizer.zero_grad()
        loss = factor * model(torch.ones(4, 3)).square().mean()
        capture.loss(loss)
        loss.backward()
        optimizer.step()

    def steps() -> list[int]:
        frames = [r for r in records if isinstance(r, Frame) and r.stream is Stream.SCALAR]
        return [n for frame in frames for n in frame.steps.tolist()]

    yield capture, step, steps
    capture.detach()


def test_a_non_finite_loss_is_emitted_in_its_own_step(light):
    _, step, steps = light
    step()
    step()
    assert steps() == [0]
    step(math.nan)
    assert steps() == [0, 1, 2]


@pytest.mark.parametrize("end", [Capture.settle, Capture.detach])
def test_a_diagnosis_and_the_end_get_every_finished_step(light, end):
    capture, step, steps = light
    for _ in range(5):
        step()
    end(capture)
    assert steps() == [0, 1, 2, 3, 4]

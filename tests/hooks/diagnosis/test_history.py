"""A history keeps the first steps, the newest steps and a thinned middle, in bounded memory."""

import numpy as np
import pytest

from trainvitals.diagnosis.history import FIRST_STEPS, ROWS_MAX, STREAM_BYTES_MAX, History, once
from trainvitals.wire import Frame, Layout, Place, RunStart, Stat, Stream

LOSS = Layout(Stream.SCALAR, 0, (Stat.VALUE,), (Place("loss"),))


def history_of(losses: list[float], start: int = 0) -> History:
    history = History()
    history.add(LOSS)
    for step, loss in enumerate(losses, start):
        history.add(frame(step, [[loss]]))
    return history


def frame(step: int, values: object, stream: Stream = Stream.SCALAR, layout: int = 0) -> Frame:
    matrix = np.array([values], np.float32)
    return Frame(stream, layout, np.array([step]), np.array([0.0]), matrix)


def test_it_gives_a_scalar_back_by_name():
    series = history_of([3.0, 2.0, 1.0]).scalar("loss")
    assert series.steps.tolist() == [0, 1, 2]
    assert series.values.tolist() == [3.0, 2.0, 1.0]


def test_a_step_at_which_a_scalar_was_not_measured_is_no_point_of_its_curve():
    series = history_of([3.0, float("nan"), float("inf")]).scalar("loss")
    assert series.steps.tolist() == [0, 2]
    assert np.isinf(series.values[-1])


def test_what_was_never_announced_is_empty_and_not_an_error():
    history = History()
    assert len(history.scalar("loss")) == 0
    assert history.values(Stream.WEIGHT, Stat.MEAN).shape == (0, 0)
    assert not history.has(Stream.WEIGHT)


def test_a_frame_of_an_unknown_layout_is_left_out():
    history = history_of([1.0])
    history.add(frame(1, [[9.0]], layout=7))
    assert history.scalar("loss").values.tolist() == [1.0]


def test_a_long_run_keeps_its_first_and_newest_steps_and_some_of_the_middle():
    n = 5 * ROWS_MAX
    steps = np.arange(n)
    history = History()
    history.add(LOSS)
    history.add(
        Frame(Stream.SCALAR, 0, steps, steps * 1.0, steps.reshape(n, 1, 1).astype(np.float32))
    )
    kept = history.steps(Stream.SCALAR)
    assert len(kept) <= ROWS_MAX
    assert kept[:FIRST_STEPS].tolist() == list(range(FIRST_STEPS))
    assert kept[-ROWS_MAX // 4 :].tolist() == list(range(n - ROWS_MAX // 4, n))
    assert len(kept[(kept > n // 10) & (kept < n // 2)]) > 50
    assert (np.diff(kept) > 0).all()


def test_many_tensors_keep_fewer_frames_so_that_memory_stays_bounded():
    places = tuple(Place(f"p{i}") for i in range(1000))
    layout = Layout(Stream.GRADIENT, 0, (Stat.MEAN, Stat.L2, Stat.STD), places)
    history = History()
    history.add(layout)
    values = np.zeros((400, 1000, 3), np.float32)
    for at in range(0, 4000, 400):
        steps = np.arange(at, at + 400)
        history.add(Frame(Stream.GRADIENT, 0, steps, steps * 1.0, values))
    kept = len(history.steps(Stream.GRADIENT))
    assert kept * 1000 * 3 * 4 <= STREAM_BYTES_MAX
    assert kept >= 2 * FIRST_STEPS


def test_the_widest_streams_still_keep_their_first_and_newest_frames():
    layout = Layout(Stream.GRADIENT, 0, (Stat.L2,), tuple(Place(str(i)) for i in range(20_000)))
    history = History()
    history.add(layout)
    for step in range(1000):
        history.add(frame(step, np.zeros((20_000, 1)), Stream.GRADIENT))
    kept = history.steps(Stream.GRADIENT)
    assert len(kept) <= 4 * FIRST_STEPS
    assert kept[:FIRST_STEPS].tolist() == list(range(FIRST_STEPS))
    assert kept[-FIRST_STEPS:].tolist() == list(range(1000 - FIRST_STEPS, 1000))


def test_a_layer_added_later_does_not_erase_what_is_known_of_the_others():
    history = History()
    history.add(Layout(Stream.WEIGHT, 0, (Stat.MEAN, Stat.STD), (Place("a"), Place("b"))))
    history.add(frame(0, [[1, 2], [3, 4]], Stream.WEIGHT))
    history.add(Layout(Stream.WEIGHT, 1, (Stat.STD, Stat.MEAN), (Place("new"), Place("b"))))
    history.add(frame(1, [[10, 20], [30, 40]], Stream.WEIGHT, layout=1))
    assert history.series(Stream.WEIGHT, Stat.MEAN, "b").values.tolist() == [3, 40]
    new = history.series(Stream.WEIGHT, Stat.MEAN, "new").values
    assert np.isnan(new[0])
    assert new[1] == 20


def test_a_resume_from_an_earlier_step_takes_the_later_steps_back():
    history = history_of([5.0, 4.0, 3.0, 2.0])
    history.add(frame(2, [[9.0]]))
    assert history.scalar("loss").steps.tolist() == [0, 1, 2]
    assert history.scalar("loss").values.tolist() == [5.0, 4.0, 9.0]


def test_a_statistic_that_a_layout_does_not_carry_is_all_nan():
    values = history_of([1.0, 2.0]).values(Stream.SCALAR, Stat.L2)
    assert values.shape == (2, 1)
    assert np.isnan(values).all()


def test_facts_and_plans_of_the_run_are_known():
    history = History()
    history.add(RunStart(0.0, total_steps=100, facts={"optimizer": "AdamW"}))
    assert (history.total_steps, history.facts["optimizer"]) == (100, "AdamW")


@pytest.mark.parametrize("n", [0, 1, 5])
def test_the_newest_points_of_a_series_are_at_most_as_many_as_asked_for(n):
    series = history_of([1.0, 2.0, 3.0]).scalar("loss")
    assert len(series.last(n)) == min(n, 3)


def test_a_result_is_kept_only_while_the_history_is_unchanged():
    history, calls = history_of([3.0, 2.0]), iter(range(10))

    def ask() -> int:
        return history.once("question", lambda: next(calls))

    assert [ask(), ask()] == [0, 1]
    with history.unchanged():
        assert [ask(), ask()] == [2, 2]
    assert ask() == 3


def test_a_function_is_computed_once_for_each_of_its_arguments():
    calls = []

    @once
    def newest(history: History, name: str, *, factor: float = 1.0) -> float:
        calls.append((name, factor))
        return factor * float(history.scalar(name).values[-1])

    history = history_of([3.0, 2.0])
    with history.unchanged():
        assert [newest(history, "loss", factor=f) for f in (1.0, 2.0, 1.0)] == [2.0, 4.0, 2.0]
    assert calls == [("loss", 1.0), ("loss", 2.0)]

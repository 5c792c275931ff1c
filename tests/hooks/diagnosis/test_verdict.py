"""The verdict: healthy is a claim, and each reason not to make it has a word of its own."""

import numpy as np
import pytest

from trainvitals.api.schema import Finding, Severity, State, Verdict
from trainvitals.diagnosis.examine import Engine, diagnose
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.wire import STATISTICS, Place, Stream

WEIGHT = Place("0.weight", kind="weight", shape=(8, 8), depth=0, module="0")
LAYER = Place("0", kind="Linear", depth=0)
STREAMS = {
    Stream.WEIGHT: WEIGHT,
    Stream.GRADIENT: WEIGHT,
    Stream.UPDATE: WEIGHT,
    Stream.ACTIVATION: LAYER,
}


def run(steps: int, *, loss: object = None, without: tuple[Stream, ...] = ()) -> History:
    """A run that learns; `loss=False`: none was reported."""
    course = 2 * np.exp(-np.arange(steps) / 50) + 0.1
    scalars = {} if loss is False else {"loss": course if loss is None else loss}
    example = Example(steps).scalars(gradient_norm=np.ones(steps), **scalars)
    for stream, place in STREAMS.items():
        values = {s: 0.0 if s.endswith("share") else 0.01 for s in STATISTICS[stream]}
        values = {s: 0.0 if s == "nonfinite" else v for s, v in values.items()}
        values["distinct_rows"] = 1.0
        if stream not in without:
            columns = {s: values[s] for s in STATISTICS[stream]}
            example.stream(stream, [place], {place.name: columns})
    return example.history


def verdict(history: History, **about: object) -> Verdict:
    return diagnose(history, Engine().examine(history), **about).verdict


def test_a_run_of_which_enough_was_seen_and_nothing_found_is_healthy():
    assert verdict(run(150)) is Verdict.HEALTHY


@pytest.mark.parametrize("steps", [1, 10, 60])
def test_a_run_shorter_than_the_rules_need_is_too_early(steps):
    assert verdict(run(steps)) is Verdict.TOO_EARLY


def test_a_run_without_a_step_is_too_early():
    assert verdict(History()) is Verdict.TOO_EARLY


def test_a_run_whose_loss_was_never_reported_is_blind_and_says_why():
    history = run(150, loss=False)
    diagnosis = diagnose(history, Engine().examine(history))
    assert diagnosis.verdict is Verdict.BLIND
    assert "monitor.loss" in diagnosis.blind["no_learning"]
    assert "vanishing_gradient" not in diagnosis.blind


@pytest.mark.parametrize(
    ("stream", "rule", "word"),
    [
        (Stream.GRADIENT, "exploding_gradient", "optimizer"),
        (Stream.ACTIVATION, "dead_relu", "compiled"),
    ],
)
def test_a_run_whose_tensors_were_never_seen_is_blind(stream, rule, word):
    history = run(150, without=(stream,))
    diagnosis = diagnose(history, Engine().examine(history))
    assert diagnosis.verdict is Verdict.BLIND
    assert word in diagnosis.blind[rule]


def test_the_reason_that_capture_gave_is_the_one_shown():
    history = run(150, loss=False)
    diagnosis = diagnose(history, (), not_watched={"loss": "all losses were integers"})
    assert diagnosis.blind["no_learning"] == "all losses were integers"


def test_what_the_user_switched_off_is_listed_and_no_reason_to_call_the_run_blind():
    history = run(150, without=(Stream.ACTIVATION,))
    history.facts["activation_off"] = "activations=False"
    diagnosis = diagnose(history, Engine().examine(history))
    assert diagnosis.verdict is Verdict.HEALTHY
    assert diagnosis.blind["dead_relu"] == "switched off by activations=False"


def test_a_loss_that_need_not_fall_keeps_the_rules_of_the_loss_silent_and_listed():
    history = run(150, loss=np.full(150, 2.3))
    history.facts["loss_falls"] = 0.0
    diagnosis = diagnose(history, Engine().examine(history))
    assert diagnosis.verdict is Verdict.HEALTHY
    assert "loss_falls=False" in diagnosis.blind["no_learning"]


def test_a_run_that_diverged_to_nan_is_not_blind_but_an_error():
    history = Example(150).scalars(loss=np.nan, nonfinite_loss=np.ones(150)).history
    assert verdict(history) is Verdict.ERROR


@pytest.mark.parametrize("state", ["failed", "lost"])
def test_a_run_that_failed_or_is_lost_is_failed_whatever_else_is_known(state):
    assert verdict(run(150), state=state, error="RuntimeError: boom") is Verdict.FAILED


@pytest.mark.parametrize(("state", "health"), [("failed", 0.0), ("lost", 0.0), ("finished", 1.0)])
def test_the_health_of_a_run_that_failed_is_0_although_nothing_was_found(state, health):
    assert diagnose(run(150), [], state=state).health == health


@pytest.mark.parametrize("state", ["finished", "stopped", "running"])
def test_how_else_a_run_ends_does_not_make_it_sick(state):
    assert verdict(run(150), state=state) is Verdict.HEALTHY


class TestHealthyAgain:
    """An alarm that no rule reports any more is over only when the damage is undone."""

    def look(self, loss: np.ndarray, since: int, code: str = "TV601") -> Finding:
        before = Finding(
            rule="r", code=code, severity=Severity.ERROR, since_step=since, summary="s", last_step=1
        )
        return next(
            f
            for f in Engine().examine(run(len(loss), loss=loss), (before,))
            if f == before or f.code == code
        )

    def test_a_loss_that_is_back_on_its_course_ends_the_alarm(self):
        loss = 2 * np.exp(-np.arange(300) / 100)
        loss[100:110] *= 5
        assert self.look(loss, since=100).state is State.RESOLVED

    def test_a_loss_that_stays_above_what_it_had_reached_does_not(self):
        loss = np.r_[np.linspace(2, 0.5, 100), np.full(10, 8.0), np.linspace(3, 0.9, 190)]
        assert self.look(loss, since=100).state is State.OPEN

    def test_a_finding_that_stays_open_keeps_the_step_of_its_numbers(self):
        finding = self.look(np.linspace(2.30, 2.28, 300), since=0, code="TV303")
        assert (finding.state, finding.last_step) == (State.OPEN, 1)

    def test_a_fault_from_the_start_needs_a_clear_fall(self):
        assert self.look(np.linspace(2.30, 2.28, 300), since=0, code="TV303").state is State.OPEN
        assert self.look(np.linspace(2.3, 1.0, 300), since=0, code="TV303").state is State.RESOLVED

    def test_a_fault_of_wiring_ends_when_the_wiring_is_right(self):
        assert self.look(np.full(300, 2.3), since=0, code="TV603").state is State.RESOLVED

    def test_a_non_finite_value_is_never_over(self):
        assert self.look(np.linspace(2, 0.1, 300), since=3, code="TV901").state is State.OPEN


@pytest.mark.parametrize("height", [5.0, 50.0])
def test_one_spike_that_recovered_is_a_note_that_stays_listed_and_no_fault(height):
    loss = 2 * np.exp(-np.arange(3000) / 50) + 0.1
    loss[200] = height
    engine = Engine()
    fresh = engine.examine(run(300, loss=loss[:300]))
    later = engine.examine(run(3000, loss=loss), fresh)
    for findings in (fresh, later):
        [spike] = [f for f in findings if f.rule == "loss_spike"]
        assert (spike.severity, spike.since_step) == (Severity.INFO, 200)
        assert "recovered" in spike.summary
    assert [f.state for f in later if f.rule == "loss_spike"] == [State.RESOLVED]
    found = diagnose(run(3000, loss=loss), later)
    assert (found.verdict, found.health) == (Verdict.HEALTHY, 1.0)


def test_a_spike_that_did_not_recover_is_a_warning():
    loss = 2 * np.exp(-np.arange(300) / 50) + 0.1
    loss[200:] += 5
    found = Engine().examine(run(300, loss=loss))
    assert "loss_spike" in {f.rule for f in found if f.severity is Severity.WARNING}

"""The rounds diagnose what is due, and nothing that breaks in one run stops the others."""

import contextlib
import logging
import threading
import time

import pytest

from trainvitals.api.schema import Finding, Severity, State
from trainvitals.diagnosis.examine import Engine
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.registry import all_rules
from trainvitals.diagnosis.rules.dead_relu import DeadRelu
from trainvitals.diagnosis.user_rules import UnusableRule
from trainvitals_server.rounds import Rounds, engine_of


class MemoryStore:
    """Runs in memory: `due` are looked at, `broken` raise, `taken` belong to another collector."""

    def __init__(self, *due, broken=(), taken=()):
        self.due, self.broken, self.taken = list(due), set(broken), set(taken)
        self.saved, self.lost, self.held = {}, [], 0
        self.histories = {}

    def runs_due(self, limit):
        return list(self.due[:limit])

    @contextlib.contextmanager
    def claim_round(self, run_pk):
        self.held += 1
        try:
            yield run_pk not in self.taken
            if run_pk not in self.taken:
                self.due = [pk for pk in self.due if pk != run_pk]
        finally:
            self.held -= 1

    def history(self, run_pk):
        if run_pk in self.broken:
            raise ValueError(f"chunk of run {run_pk} is damaged")
        return self.histories.get(run_pk) or Example(5).scalars(loss=[2.0] * 5).history

    def findings(self, run_pk):
        return list(self.saved[run_pk][0]) if run_pk in self.saved else []

    def save_diagnosis(self, run_pk, diagnosis):
        self.saved[run_pk] = (diagnosis.findings, diagnosis.health, diagnosis.step)

    def mark_lost(self, now, after_s):
        self.lost.append((now, after_s))


class Says:
    """An engine that returns given findings and records its arguments."""

    def __init__(self, *findings):
        self.findings, self.given = findings, []

    def rules_for(self, history):
        return all_rules()

    def examine(self, history, previous=()):
        self.given.append((history, tuple(previous)))
        return self.findings


def finding(rule="dead_relu", severity=Severity.ERROR, state=State.OPEN):
    return Finding(
        rule=rule, code="TV201", severity=severity, since_step=3, summary="dead", state=state
    )


def test_a_round_saves_what_the_engine_finds_with_health_and_the_step_it_saw():
    store = MemoryStore(7)
    assert Rounds(store, Says(finding())).run_once() == 1
    findings, health, step = store.saved[7]
    assert findings == (finding(),)
    assert 0 <= health < 1
    assert step == 4


def test_a_run_without_news_is_left_alone():
    store, engine = MemoryStore(7), Says()
    rounds = Rounds(store, engine)
    assert [rounds.run_once(), rounds.run_once()] == [1, 0]
    assert len(engine.given) == 1


def test_the_engine_is_told_what_was_found_before():
    store, engine = MemoryStore(7), Says(finding())
    Rounds(store, engine).run_once()
    store.due = [7]
    Rounds(store, engine).run_once()
    assert [previous for _, previous in engine.given] == [(), (finding(),)]


def test_a_broken_run_is_logged_counted_and_does_not_stop_the_others(caplog):
    store = MemoryStore(1, 2, 3, broken={2})
    rounds = Rounds(store, Says())
    with caplog.at_level(logging.ERROR):
        assert rounds.run_once() == 2
    assert sorted(store.saved) == [1, 3]
    assert rounds.stats().errors == 1
    assert "Run 2 could not be diagnosed" in caplog.text
    assert "damaged" in caplog.text


def test_a_run_that_stays_broken_is_not_tried_again_every_second(caplog):
    store = MemoryStore(2, broken={2})
    rounds = Rounds(store, Says())
    with caplog.at_level(logging.CRITICAL):
        for _ in range(5):
            rounds.run_once()
    assert rounds.stats().errors == 1


def test_a_run_that_is_whole_again_is_diagnosed_again(caplog, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("trainvitals_server.rounds.monotonic", lambda: clock[0])
    store = MemoryStore(2, broken={2})
    rounds = Rounds(store, Says())
    with caplog.at_level(logging.CRITICAL):
        rounds.run_once()
    store.broken.clear()
    clock[0] += 60
    assert rounds.run_once() == 1


def test_a_database_that_does_not_answer_ends_a_round_and_not_the_rounds(caplog):
    store = MemoryStore(1)
    answers, store.runs_due = store.runs_due, lambda limit: 1 / 0
    rounds = Rounds(store, Says())
    with caplog.at_level(logging.CRITICAL):
        assert rounds.run_once() == 0
    store.runs_due = answers
    assert rounds.run_once() == 1
    assert (rounds.stats().rounds, rounds.stats().errors) == (2, 1)


def test_a_run_that_another_collector_holds_is_left_to_it():
    store, engine = MemoryStore(1, 2, taken={1}), Says()
    assert Rounds(store, engine).run_once() == 1
    assert (sorted(store.saved), len(engine.given)) == ([2], 1)


def test_a_claim_is_given_back_even_when_the_run_is_broken(caplog):
    store = MemoryStore(1, broken={1})
    with caplog.at_level(logging.CRITICAL):
        Rounds(store, Says()).run_once()
    assert store.held == 0


def test_a_diagnosis_takes_at_most_a_tenth_of_a_core(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("trainvitals_server.rounds.monotonic", lambda: clock[0])
    monkeypatch.setattr("trainvitals_server.rounds.perf_counter", lambda: clock[0])

    class Slow(Says):
        def rules_for(self, history):
            return all_rules()

        def examine(self, history, previous=()):
            clock[0] += 2.0
            return super().examine(history, previous)

    store, engine = MemoryStore(1), Slow()
    rounds = Rounds(store, engine)
    began = clock[0]
    for _ in range(200):
        store.due = [1]
        rounds.run_once()
        clock[0] += 1.0
    assert 2.0 * len(engine.given) <= 0.1 * (clock[0] - began) + 2.0


def test_silent_runs_are_marked_lost_in_every_round():
    store = MemoryStore()
    Rounds(store, Says(), lost_after_s=30, now=lambda: 500.0).run_once()
    assert store.lost == [(500.0, 30)]


def test_an_opened_finding_counts_once_and_again_when_it_comes_back():
    store = MemoryStore()
    rounds = Rounds(store, Says(), now=lambda: 0.0)

    def round_that_finds(*findings):
        store.due = [1]
        rounds._engine = Says(*findings)
        rounds._pace.clear()
        rounds.run_once()

    opened = finding()
    round_that_finds(opened)
    round_that_finds(opened)
    round_that_finds(finding(state=State.RESOLVED))
    round_that_finds(finding(state=State.RESOLVED), opened)
    assert rounds.stats().findings == {("dead_relu", "error"): 2}


def test_a_step_keeps_the_time_it_was_first_seen_at_through_heartbeats():
    clock = [100.0]
    store = MemoryStore(1)
    rounds = Rounds(store, Says(), now=lambda: clock[0])
    rounds.run_once()
    clock[0] = 400.0
    store.due, rounds._pace = [1], {}
    rounds.run_once()
    measured = rounds.measured()[1]
    assert (measured.vitals.step, measured.at, measured.examined_at) == (4, 100.0, 400.0)


def test_vitals_of_a_run_long_gone_take_no_memory():
    clock = [100.0]
    rounds = Rounds(MemoryStore(1), Says(), now=lambda: clock[0])
    rounds.run_once()
    clock[0] = 2000.0
    rounds.run_once()
    assert rounds.measured() == {}


def test_the_thread_starts_once_works_and_stops():
    store = MemoryStore(1)
    rounds = Rounds(store, Says(), interval_s=0.01)
    rounds.start()
    rounds.start()
    assert sum(thread.name == "rounds" for thread in threading.enumerate()) == 1
    deadline = time.monotonic() + 5
    while 1 not in store.saved and time.monotonic() < deadline:
        time.sleep(0.01)
    rounds.stop()
    assert 1 in store.saved
    assert all(thread.name != "rounds" for thread in threading.enumerate())


def test_stopping_waits_for_the_run_in_hand_and_starts_no_other():
    inside, go_on = threading.Event(), threading.Event()

    class Waits(Says):
        def rules_for(self, history):
            return all_rules()

        def examine(self, history, previous=()):
            inside.set()
            assert go_on.wait(10)
            return super().examine(history, previous)

    store = MemoryStore(1, 2)
    rounds = Rounds(store, Waits(), interval_s=0.01)
    rounds.start()
    assert inside.wait(10)
    stopper = threading.Thread(target=rounds.stop)
    stopper.start()
    go_on.set()
    stopper.join(10)
    assert sorted(store.saved) == [1]


def test_stats_say_how_long_a_diagnosis_takes():
    rounds = Rounds(MemoryStore(1, 2), Says())
    rounds.run_once()
    stats = rounds.stats()
    assert (stats.rounds, stats.runs, stats.evaluation.count) == (1, 2, 2)
    assert 0 < stats.seconds < 60


def test_the_real_engine_finds_a_loss_that_is_not_a_number():
    store = MemoryStore(1)
    steps = 100
    losses = [2.0] * 50 + [float("nan")] * 50
    store.histories[1] = (
        Example(steps).scalars(loss=losses, nonfinite_loss=[0] * 50 + [1] * 50).history
    )
    Rounds(store, Engine()).run_once()
    findings, health, step = store.saved[1]
    assert [f for f in findings if f.severity is Severity.ERROR]
    assert health < 1
    assert step == steps - 1


@pytest.mark.parametrize("due", [[], [1]])
def test_a_round_with_nothing_stored_yet_is_no_error(due):
    rounds = Rounds(MemoryStore(*due), Engine())
    rounds.run_once()
    assert rounds.stats().errors == 0


def test_the_thresholds_of_the_collector_apply_and_those_of_the_run_take_precedence(caplog):
    store = MemoryStore(1, 2)
    sick = DeadRelu.sick
    store.histories = {1: sick(), 2: sick()}
    store.histories[2].facts["threshold/dead_relu/dead_share_error"] = 0.9
    never = {"dead_share_error": 2.0, "dead_share_warning": 2.0}
    engine = engine_of({"dead_relu": never, "no_such_rule": {"x": 1}})
    Rounds(store, engine).run_once()
    found = {pk: {f.code for f in findings} for pk, (findings, _, _) in store.saved.items()}
    assert "TV201" not in found[1]
    assert "TV201" in found[2]
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "there is no rule 'no_such_rule'" in warning


def test_a_broken_rule_of_another_package_is_a_note_on_the_run(monkeypatch):
    broken = UnusableRule("theirs", "ImportError: no module named x")
    monkeypatch.setattr("trainvitals_server.rounds.installed_rules", lambda: (broken,))
    store = MemoryStore(1)
    Rounds(store, engine_of({})).run_once()
    [found] = store.saved[1][0]
    assert (found.code, found.where) == ("TV954", "theirs")
    assert "no module named x" in found.summary
